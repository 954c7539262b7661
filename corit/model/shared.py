r"""Regions shared by all images, computed once from the CGP of many images.

One counterpart says little about its image: the CGP is largest where that one blend happened to fall, so regions found
from it differ from image to image. Concatenating the CGPs of M images gives one long vector for each token,
:math:`c_t = (c_{1t}, \ldots, c_{Mt})`. RRM on these vectors averages out the variance over blends. It needs inner
products only,

.. math:: G_{ts} = \frac1M \sum_i \langle c_{it}, c_{is} \rangle,

and no labels. Afterwards, no counterparts are needed. This is our own reading of "region anchors derived from the CGP".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from corit.model.pairs import Pairs, real_rows, split_pairs
from corit.model.regions import Regions, assign_by_distance, join_by_similarity, pick_anchors
from corit.model.tower import iter_layers, tower_shape
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.arguments import COUNT, LOADER, Kind, check_arguments
from gsnr_toolkit.types import Loader

__all__ = ["SharedRegions", "calibrate", "contrast_products", "set_regions"]

_UNKNOWN = -2  # not found yet; -1 is a missing anchor or an outlier


class SharedRegions(nn.Module):
    """One set of K regions of T patches for every image.

    Attributes:
        anchors: Token of each anchor, ``(K,)``, int64; -1 for a missing anchor.
        assignment: Region of each token, ``(T,)``, int64; -1 for outliers.

    >>> shared = SharedRegions(1, 3)
    >>> shared.set(Regions(torch.tensor([[2]]), torch.tensor([[True]]), torch.tensor([[[False], [True], [True]]])))
    >>> shared(5).assignment[4].tolist()
    [-1, 0, 0]
    """

    anchors: Tensor
    assignment: Tensor

    def __init__(self, num_regions: int, num_patches: int) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.full((num_regions,), _UNKNOWN))
        self.register_buffer("assignment", torch.full((num_patches,), _UNKNOWN))

    @property
    def known(self) -> bool:
        """Whether the regions have been set."""
        return not bool((self.assignment == _UNKNOWN).any())

    def set(self, regions: Regions) -> None:
        """Store the regions of a batch of one."""
        self.anchors.copy_(regions.anchors[0].masked_fill(~regions.valid[0], -1))
        self.assignment.copy_(regions.assignment[0])

    def forward(self, count: int) -> Regions:
        """Return the regions, repeated for ``count`` images; an error if they have not been set yet."""
        if not self.known:
            raise ProbeError(
                "expected regions found from training images, got none yet; call corit.calibrate(detector, loader) "
                "with batches of real images, or use anchors='cgp'"
            )
        numbers = torch.arange(len(self.anchors), device=self.anchors.device)
        members = self.assignment[:, None] == numbers
        parts = (self.anchors.clamp(min=0), self.anchors >= 0, members)
        return Regions(*(part.expand(count, *part.shape) for part in parts))


@torch.no_grad()
def contrast_products(detector: Any, loader: Loader, layer: int, *, max_images: int = 256) -> Tensor:
    """Return G ``(T, T)``, float64: inner products of the tokens' CGPs at a layer, averaged over the real images."""
    patches = tower_shape(detector.encoder).num_patches
    total, seen = torch.zeros(patches, patches, dtype=torch.float64), 0
    for batch in loader:
        pairs = real_rows(split_pairs(batch))
        kept = slice(max_images - seen)
        images, counterparts = pairs.images[kept], None if pairs.counterparts is None else pairs.counterparts[kept]
        if len(images):
            device = detector.head.weight.device
            both = Pairs(images.to(device), counterparts, None).complete(detector.counterpart)
            own, other = ([*iter_layers(detector.encoder, each, layer)][-1] for each in both)
            cgp = (own - other)[:, 1:].double().cpu()
            total += torch.einsum("ntd,nsd->ts", cgp, cgp)
            seen += len(images)
        if seen >= max_images:
            break
    if not seen:
        raise ProbeError("expected real images (label 0) to find regions from, got none; pass a loader with some")
    return total / seen


def calibrate(detector: Any, loader: Loader, *, max_images: int = 256) -> None:
    """Find the shared regions from real images and their counterparts.

    Args:
        detector: A CoRIT with ``anchors="shared"``; changed in place.
        loader: Batches as :func:`corit.model.pairs.split_pairs` reads them.
        max_images: Maximum number of images.

    Raises:
        ProbeError: If the detector has other anchors, or there are no real images.
    """
    check_arguments(
        detector=(detector, Kind("a CoRIT", lambda value: hasattr(value, "shared"), "pass the detector itself")),
        loader=(loader, LOADER),
        max_images=(max_images, COUNT),
    )
    if detector.shared is None:
        raise ProbeError(
            f"expected a CoRIT with anchors='shared', got anchors={detector.config.anchors!r}; build one with "
            "anchors='shared', or skip the calibration"
        )
    products = contrast_products(detector, loader, int(detector.config.cgp_layer), max_images=max_images)
    set_regions(detector, products)


def set_regions(detector: Any, products: Tensor) -> None:
    """Set a detector's shared regions, in place, from the inner products of :func:`contrast_products`."""
    config, far = detector.config, detector.far.cpu()
    norms = products.diagonal().clamp(min=0).sqrt()
    anchors, valid = pick_anchors(norms[None], far, config.num_regions)
    if config.rrm:
        units = torch.where(norms > 0, norms, 1)
        cosines = (products / units / units[:, None])[:, anchors[0]]
        found = join_by_similarity(cosines[None], (norms > 0)[None], anchors, valid, config.threshold)
    else:
        found = assign_by_distance(detector.squared.cpu(), anchors, valid)
    detector.shared.set(found)
