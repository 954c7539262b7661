"""CoRIT: a frozen CLIP encoder, regions found by contrast with a counterpart, and one linear head.

Source: only the caption of the paper's Figure 4; every formula is our reconstruction (``docs/corit.md``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corit.model.config import EACH, CoRITConfig
from corit.model.counterparts import SelfBlendedCounterparts
from corit.model.explanation import Explanation, upsample
from corit.model.frozen_state import drop_frozen, keep_frozen
from corit.model.injection import inject
from corit.model.pairs import Counterpart, make_counterparts
from corit.model.regions import (
    Regions,
    assign_by_distance,
    assign_by_similarity,
    grid_offsets,
    pick_anchors,
    pool_regions,
    random_scores,
)
from corit.model.shared import SharedRegions
from corit.model.tower import blocks_of, iter_layers, tower_of, tower_shape
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.models.clip import HEAD_STD, Detector
from gsnr_toolkit.support.arguments import NAME, SEED, Kind, check_arguments, instance, optional

__all__ = ["CoRIT"]

#: The default maker of counterparts: self-blended images, which need OpenCV at the first use.
SELF_BLENDED = "self-blended"

#: Number of pixel values that an image's random anchors are drawn from.
_PIXELS = 16


@dataclass(frozen=True)
class _Look:
    """Everything computed for a batch before the head; regions and region tokens are listed by block."""

    tokens: list[Tensor]
    cgp: dict[int, Tensor]
    regions: list[Regions]
    region_tokens: list[Tensor]


_ENCODER = Kind(
    "the name of an encoder, or a detector with one",
    lambda value: isinstance(value, str) or all(hasattr(value, name) for name in ("encoder", "mean", "std")),
    "pass a name such as 'clip-demo', or the result of gsnr_toolkit.build_model",
)


class CoRIT(nn.Module):
    """Contrastive Regional Injection Transformer, on a frozen encoder.

    Only the head is trained, and ``state_dict`` holds only the head (and encoder parameters that the user made
    trainable). Features depend on the frozen encoder only, so caching :meth:`features` and training ``head`` on them is
    equivalent to training on images.

    Cost, in forward passes of the encoder: 1 for the image, ``cgp_layer / L`` for the counterpart, and, with
    ``nn.MultiheadAttention``, about a fifth for the region tokens (keys and values of all tokens, everything else for K
    tokens only). The frozen tokens of all layers of a batch are in memory together: 25 MB an image for ViT-L/14.

    Attributes:
        encoder: The visual transformer, frozen, always in eval mode.
        head: ``nn.Linear(feature_dim, 1)``.
        shared: The regions of all images, with ``anchors="shared"``; set by :func:`corit.model.shared.calibrate`.
        config: The configuration, with all layers resolved.
        counterpart: Makes counterparts of images if none are given; may be set at any time.
        name: The encoder's name.
        image_size: Side of the images in pixels.
        mean: Mean by channel to normalise images with, for RGB values in [0, 1].
        std: Standard deviation by channel.
        provenance: Where the encoder's weights come from.

    >>> detector = CoRIT.from_encoder("clip-demo", weights="random", num_regions=2)
    >>> images = torch.zeros(2, 3, 64, 64)
    >>> detector(images, images + 1).shape, sorted(detector.state_dict())
    (torch.Size([2]), ['head.bias', 'head.weight'])
    """

    takes_pairs = True
    """Forward takes counterparts beside the images."""

    far: Tensor
    squared: Tensor
    factors: Tensor
    pixels: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        config: CoRITConfig,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int = 0,
        counterpart: Counterpart | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_arguments(
            config=(config, instance(CoRITConfig, "a CoRITConfig", "pass corit.CoRITConfig(...)")), seed=(seed, SEED)
        )
        self.encoder = tower_of(encoder).eval().requires_grad_(False)
        self._shape = tower_shape(self.encoder)
        self.config = config.resolved(self._shape.num_layers, self._shape.num_patches)
        self._check_normalisation()
        offsets = grid_offsets(self._shape.grid)
        self.register_buffer("far", offsets.amax(2) > config.nms_radius, persistent=False)
        self.register_buffer("squared", offsets.square().sum(2), persistent=False)
        # distinct large integers: they rank the tokens (fixed anchors) or scatter an image's pixels (random anchors)
        generator = torch.Generator().manual_seed(config.anchor_seed)
        factors = torch.randperm(10 * self._shape.num_patches, generator=generator)[: self._shape.num_patches]
        self.register_buffer("factors", 10_007 + factors, persistent=False)
        height, width = self._shape.image_size
        pixels = torch.randint(3 * height * width, (_PIXELS,), generator=generator)
        self.register_buffer("pixels", pixels, persistent=False)
        shares = config.anchors == "shared" and config.num_regions > 0
        self.shared = SharedRegions(config.num_regions, self._shape.num_patches) if shares else None
        # skip_init draws no random numbers: the weights depend on the seed alone, and the global state is kept
        self.head = nn.utils.skip_init(nn.Linear, self.feature_dim, 1)
        nn.init.normal_(self.head.weight, std=HEAD_STD, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.head.bias)
        self.counterpart = counterpart
        self.name, self.image_size = config.encoder, self._shape.image_size[0]
        self.mean, self.std = tuple(mean), tuple(std)
        self.provenance = dict(provenance or {})
        # without the frozen encoder, a state_dict holds kilobytes instead of a gigabyte
        self.register_state_dict_post_hook(drop_frozen)
        self.register_load_state_dict_pre_hook(keep_frozen)

    @classmethod
    def from_encoder(
        cls,
        encoder: str | Detector = "clip-vit-l14",
        *,
        weights: str | None = None,
        seed: int = 0,
        counterpart: Counterpart | str | None = SELF_BLENDED,
        **options: Any,
    ) -> CoRIT:
        """Build CoRIT on an encoder.

        Args:
            encoder: A name in :data:`gsnr_toolkit.models.MODELS`, or a :class:`gsnr_toolkit.models.Detector`, whose
                encoder is then shared and frozen.
            weights: As in :func:`gsnr_toolkit.models.build_model`, for a name.
            seed: Seed of the head's initial weights, and of the encoder's if they are random.
            counterpart: Makes counterparts from images; by default self-blends of aligned faces. None sets no maker.
            **options: Fields of :class:`corit.model.config.CoRITConfig`.

        Returns:
            The detector, on the encoder's device.

        Raises:
            ProbeError: If an option is unknown or out of its range, or the encoder is not a visual transformer.
        """
        check_arguments(encoder=(encoder, _ENCODER), seed=(seed, SEED), weights=(weights, optional(NAME)))
        config = CoRITConfig.from_dict(options)  # check the options before loading anything large
        if isinstance(encoder, str):
            from gsnr_toolkit.models.registry import build_model

            built: Any = build_model(encoder, weights=weights, seed=seed)
        elif weights is None:
            built = encoder
        else:
            raise ProbeError(
                f"expected weights with the name of an encoder, got weights={weights!r} with a built one; drop them"
            )
        config = CoRITConfig.from_dict({**config.to_dict(), "encoder": str(getattr(built, "name", encoder))})
        if isinstance(counterpart, str):
            if counterpart != SELF_BLENDED:
                raise ProbeError(
                    f"expected a function, None or {SELF_BLENDED!r} as counterpart, got {counterpart!r}; pass one"
                )
            counterpart = SelfBlendedCounterparts(mean=built.mean, std=built.std)
        detector = cls(
            built.encoder,
            config,
            mean=built.mean,
            std=built.std,
            seed=seed,
            counterpart=counterpart,
            provenance=built.provenance,
        )
        return detector.to(next(detector.encoder.parameters()).device)

    @property
    def read_layers(self) -> tuple[int, ...]:
        """The layers that the head reads."""
        last = self._shape.num_layers
        return (self.config.mid_layer or 0, last) if self.config.hri else (last,)

    @property
    def feature_dim(self) -> int:
        """Length of the head's input: (1 + K) d for each layer read."""
        return len(self.read_layers) * (1 + self.config.num_regions) * self._shape.width

    def train(self, mode: bool = True) -> CoRIT:
        """Set the mode of everything but the encoder, which stays in eval mode; return the detector."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, images: Any, counterparts: Tensor | None = None) -> Tensor:
        """Score images.

        Args:
            images: Normalised images ``(N, 3, S, S)``, or a pair ``(images, counterparts)``.
            counterparts: Their counterparts; made by :attr:`counterpart` when None.

        Returns:
            Logits ``(N,)``, positive for fake.
        """
        if isinstance(images, (tuple, list)):
            images, counterparts = images
        return self.head(self.features(images, counterparts)).squeeze(-1)

    def features(self, images: Tensor, counterparts: Tensor | None = None) -> Tensor:
        """Compute the head's input.

        For each layer read: the class token and K region tokens, strongest anchor first. Each vector is normalised; a
        region that does not exist is zero. The whole is divided by the square root of the number of vectors, so that
        the norm is nearly independent of K.

        Args:
            images: ``(N, 3, S, S)``.
            counterparts: The same shape; made when None.

        Returns:
            ``(N, feature_dim)``.
        """
        return self._integrated(self._look(images, counterparts))

    def _integrated(self, look: _Look) -> Tensor:
        parts = []
        for layer in self.read_layers:
            parts.append(self._normalised(look.tokens[layer][:, :1]))
            if self.config.num_regions:
                exists = look.regions[layer - 1].valid[..., None]
                parts.append(torch.where(exists, self._normalised(look.region_tokens[layer - 1]), 0))
        vectors = torch.cat(parts, 1)
        return vectors.flatten(1) * vectors.shape[1] ** -0.5

    @torch.no_grad()
    def predict(self, images: Tensor, counterparts: Tensor | None = None, *, batch_size: int = 32) -> Tensor:
        """Compute the probability that each image is fake.

        Args:
            images: Normalised images ``(N, 3, S, S)``.
            counterparts: Their counterparts; made when None.
            batch_size: Images per forward pass.

        Returns:
            ``(N,)``, from 0 to 1.
        """
        starts = range(0, len(images), batch_size)
        others = [None if counterparts is None else counterparts[i : i + batch_size] for i in starts]
        parts = [self(images[i : i + batch_size], other) for i, other in zip(starts, others, strict=True)]
        return torch.sigmoid(torch.cat(parts)) if parts else images.new_zeros(0)

    @torch.no_grad()
    def explain(self, images: Tensor, counterparts: Tensor | None = None) -> Explanation:
        """Return the regions of images, as maps and tokens.

        Args:
            images: ``(N, 3, S, S)``.
            counterparts: The same shape; made when None.

        Returns:
            Maps, anchors and region tokens; if every block has its own regions, those of ``mid_layer``.

        Raises:
            ProbeError: If the detector has no regions.
        """
        if not self.config.num_regions:
            raise ProbeError("expected a detector with regions, got num_regions=0; build one with num_regions=4")
        layer = self.config.mid_layer if self.config.cgp_layer == EACH else self.config.cgp_layer
        assert isinstance(layer, int)
        look = self._look(images, counterparts, show=layer)
        # with regions of their own in every block, show the block that reads this layer
        regions = look.regions[min(layer, self._shape.num_layers - 1)]
        rows, columns = self._shape.grid
        norms = torch.linalg.vector_norm(look.cgp[layer], dim=-1)
        cgp, assignment = (values.unflatten(1, (rows, columns)) for values in (norms, regions.assignment))
        places = torch.stack([regions.anchors // columns, regions.anchors % columns], -1)
        exist = torch.stack([each.valid for each in look.regions], 1)[..., None]
        return Explanation(
            layer=layer,
            cgp=cgp,
            anchors=places.masked_fill(~regions.valid[..., None], -1),
            assignment=assignment,
            outliers=assignment < 0,
            region_tokens=torch.where(exist, torch.stack(look.region_tokens, 1), 0),
            cgp_map=upsample(cgp, self._shape.image_size),
            assignment_map=upsample(assignment, self._shape.image_size),
            logits=self.head(self._integrated(look)).squeeze(-1),
        )

    def extra_repr(self) -> str:
        """Return encoder, regions, layers and switches, for ``print(detector)``."""
        config = self.config
        off = [name for name in ("rrm", "rsi", "hri") if not getattr(config, name)]
        return (
            f"encoder={config.encoder!r}, num_regions={config.num_regions}, anchors={config.anchors!r}, "
            f"layers={self.read_layers}, off={off}"
        )

    def regions_of(self, cgp: Tensor, images: Tensor) -> Regions:
        """Return the K regions of each image from the CGP ``(N, T, d)`` of one layer.

        An image that equals its counterpart has no regions. Shared regions ignore the values of the CGP, and so do
        random and fixed anchors without RRM. Random anchors are drawn from the pixels of the images.
        """
        if self.shared is not None:
            return self.shared(len(images))
        # at least float32: half precision is too coarse to rank anchors
        cgp = cgp.detach().to(torch.promote_types(cgp.dtype, torch.float32))
        if self.config.anchors == "random":
            scores = random_scores(images, self.pixels, self.factors)
        elif self.config.anchors == "fixed":
            scores = self.factors.float().expand(cgp.shape[:2])
        else:
            scores = torch.linalg.vector_norm(cgp, dim=-1)
        anchors, valid = pick_anchors(scores, self.far, self.config.num_regions)
        if self.config.rrm:
            return assign_by_similarity(cgp, anchors, valid, self.config.threshold)
        return assign_by_distance(self.squared, anchors, valid)

    def block_regions(self, cgp: Mapping[int, Tensor], images: Tensor) -> list[Regions]:
        """Return the regions of each of the L blocks, from the CGP ``(N, T, d)`` of the layers they depend on."""
        config, last = self.config, self._shape.num_layers
        if not config.needs_counterparts:
            return [self.regions_of(next(iter(cgp.values())), images)] * last
        if config.cgp_layer == EACH:
            return [self.regions_of(cgp[layer], images) for layer in range(last)]
        return [self.regions_of(cgp[int(config.cgp_layer or 0)], images)] * last

    def _look(self, images: Tensor, counterparts: Tensor | None, show: int | None = None) -> _Look:
        """Run both images; ``show`` is an additional layer to return the CGP of."""
        config, last = self.config, self._shape.num_layers
        wanted = set() if show is None else {show}
        if config.needs_counterparts:
            wanted |= set(range(last)) if config.cgp_layer == EACH else {int(config.cgp_layer or 0)}
        others: dict[int, Tensor] = {}
        if wanted:
            made = make_counterparts(images, counterparts, self.counterpart)
            layers = enumerate(iter_layers(self.encoder, made, max(wanted)))
            others = {layer: tokens for layer, tokens in layers if layer in wanted}
        # the image runs last, so that forward hooks on the blocks end with the image, not its counterpart
        tokens = list(iter_layers(self.encoder, images))
        cgp = {layer: (tokens[layer] - other)[:, 1:] for layer, other in others.items()}
        if not config.num_regions:
            return _Look(tokens, cgp, [], [])
        regions = self.block_regions(cgp or {0: tokens[0][:, 1:]}, images)
        if config.rsi:
            return _Look(tokens, cgp, regions, inject(blocks_of(self.encoder), tokens, regions))
        pooled = [pool_regions(z[:, 1:], region) for z, region in zip(tokens[1:], regions, strict=True)]
        return _Look(tokens, cgp, regions, pooled)

    def _normalised(self, vectors: Tensor) -> Tensor:
        post: Any = self.encoder.ln_post
        if self.config.normalisation == "layer":
            return F.layer_norm(vectors, vectors.shape[-1:], eps=post.eps)
        return post(vectors) if self.config.normalisation == "ln_post" else vectors

    def _check_normalisation(self) -> None:
        post: Any = self.encoder.ln_post
        if self.config.normalisation == "ln_post" and tuple(post.normalized_shape) != (self._shape.width,):
            raise ProbeError(
                f"expected an ln_post of width {self._shape.width}, as tokens have, got {tuple(post.normalized_shape)} "
                "(this encoder pools before it); use normalisation='layer'"
            )
