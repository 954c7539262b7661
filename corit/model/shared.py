r"""Regions that all images share, found once from the CGP of many.

One counterpart tells little of its image: where it differs most is where that one blend happened to fall, and regions
found so are in another place in each image. The CGPs of M images laid end to end are one long vector for each token,
:math:`c_t = (c_{1t}, \ldots, c_{Mt})`; RRM on these vectors is RRM with the variance over blends averaged out. It needs
inner products alone,

.. math:: G_{ts} = \frac1M \sum_i \langle c_{it}, c_{is} \rangle,

and no label. Afterwards no counterpart is needed any more. This is a reading of our own of "region anchors derived from
the CGP".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from corit.model.pairs import real_rows, split_pairs
from corit.model.regions import Regions, assign_by_distance, join_by_similarity, pick_anchors
from corit.model.tower import iter_layers, tower_shape
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.types import Loader

__all__ = ["SharedRegions", "calibrate", "contrast_products", "share_regions"]

_UNKNOWN = -2


class SharedRegions(nn.Module):
    """One set of regions for every image.

    Args:
        num_regions: K.
        num_patches: T.

    Attributes:
        anchors: Token of each anchor, ``(K,)``, int64; -1 where there is none.
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
        """Whether the regions have been found."""
        return not bool((self.assignment == _UNKNOWN).any())

    def set(self, regions: Regions) -> None:
        """Take over regions.

        Args:
            regions: Of one image.
        """
        self.anchors.copy_(regions.anchors[0].masked_fill(~regions.valid[0], -1))
        self.assignment.copy_(regions.assignment[0])

    def forward(self, count: int) -> Regions:
        """Regions of images.

        Args:
            count: Number of images, N.

        Returns:
            The same for each.

        Raises:
            ProbeError: If they have not been found yet.
        """
        if not self.known:
            raise ProbeError(
                "expected regions found from training images, got none yet; call corit.calibrate(detector, loader) "
                "with batches of real images, or use anchors='cgp'"
            )
        numbers = torch.arange(len(self.anchors), device=self.anchors.device)
        members = self.assignment[:, None] == numbers
        parts = (self.anchors.clamp(min=0), self.anchors >= 0, members)
        return Regions(*(part.expand(count, *part.shape) for part in parts))


def share_regions(products: Tensor, far: Tensor, squared: Tensor, count: int, threshold: float | None) -> Regions:
    """Find anchors and regions from inner products.

    Args:
        products: G, ``(T, T)``.
        far: Which tokens may be anchors together, ``(T, T)``, bool.
        squared: Squared distances between patches, ``(T, T)``.
        count: Most regions, K.
        threshold: Least cosine to the anchor; None for the nearest anchor on the grid, without outliers.

    Returns:
        Regions of one image.
    """
    norms = products.diagonal().clamp(min=0).sqrt()
    anchors, valid = pick_anchors(norms[None], far, count)
    if threshold is None:
        return assign_by_distance(squared, anchors, valid)
    units = torch.where(norms > 0, norms, 1)
    cosines = products / units / units[:, None]
    return join_by_similarity(cosines[:, anchors[0]][None], (norms > 0)[None], anchors, valid, threshold)


@torch.no_grad()
def contrast_products(detector: Any, loader: Loader, layer: int, *, max_images: int = 256) -> Tensor:
    """Inner products of the CGPs of tokens, averaged over real images.

    Args:
        detector: A CoRIT.
        loader: Batches as :func:`corit.model.pairs.split_pairs` reads them; of labelled ones the real images enter.
        layer: Whose CGP.
        max_images: Most images.

    Returns:
        G, ``(T, T)``, float64.

    Raises:
        ProbeError: If there are no real images.
    """
    patches = tower_shape(detector.encoder).num_patches
    total, seen = torch.zeros(patches, patches, dtype=torch.float64), 0
    for batch in loader:
        pairs = real_rows(split_pairs(batch))
        kept = slice(max_images - seen)
        images, counterparts = pairs.images[kept], None if pairs.counterparts is None else pairs.counterparts[kept]
        if len(images):
            device = detector.head.weight.device
            both = type(pairs)(images.to(device), counterparts, None).complete(detector.counterpart)
            own, other = ([*iter_layers(detector.encoder, each, layer)][-1] for each in both)
            cgp = (own - other)[:, 1:].double().cpu()
            total += torch.einsum("ntd,nsd->ts", cgp, cgp)
            seen += len(images)
        if seen >= max_images:
            break
    if not seen:
        raise ProbeError("expected real images (label 0) to find regions from, got none; give a loader that has some")
    return total / seen


def calibrate(detector: Any, loader: Loader, *, max_images: int = 256) -> None:
    """Find the regions that all images share, from real images and their counterparts.

    Args:
        detector: A CoRIT with ``anchors="shared"``; changed in place.
        loader: Batches as :func:`corit.model.pairs.split_pairs` reads them.
        max_images: Most images.

    Raises:
        ProbeError: If the detector has other anchors, or there are no real images.
    """
    if detector.shared is None:
        raise ProbeError(f"expected a CoRIT with anchors='shared', got anchors={detector.config.anchors!r}")
    products = contrast_products(detector, loader, int(detector.config.cgp_layer), max_images=max_images)
    set_regions(detector, products)


def set_regions(detector: Any, products: Tensor) -> None:
    """Find the regions that all images share, from inner products.

    Args:
        detector: A CoRIT with ``anchors="shared"``; changed in place.
        products: What :func:`contrast_products` returned.
    """
    config = detector.config
    threshold = config.threshold if config.rrm else None
    far, squared = detector.far.cpu(), detector.squared.cpu()
    detector.shared.set(share_regions(products, far, squared, config.num_regions, threshold))
