"""Everything that decides what CoRIT computes before its head, with the range of each value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.lookup import did_you_mean

__all__ = ["ANCHORS", "EACH", "NORMALISATIONS", "CoRITConfig"]

ANCHORS = ("cgp", "shared", "random", "fixed")
NORMALISATIONS = ("layer", "ln_post", "none")

#: The value of ``cgp_layer`` that means: every block uses the CGP of the tokens that enter it.
EACH = "each"


@dataclass(frozen=True)
class CoRITConfig:
    """What CoRIT computes before its head; saved with every head.

    A block is a layer, numbered from 1; layer 0 is what enters the first block.

    Attributes:
        encoder: Name of the encoder in :data:`gsnr_toolkit.models.MODELS`.
        num_regions: Most regions of an image, K; 0 leaves class tokens alone.
        threshold: Least cosine, -1 to 1, between a token's CGP and its anchor's; tokens below are outliers.
        nms_radius: Anchors are further than this from each other, in patches along the longer of the two axes.
        mid_layer: The intermediate layer, 1 to L - 1, that HRI reads beside the last; L // 2 when None.
        cgp_layer: The layer, 0 to L, whose CGP makes the regions of all blocks; ``mid_layer`` when None, ``"each"``
            for regions of its own in every block.
        anchors: ``"cgp"``: of each image's own CGP; ``"shared"``: anchors and regions of the CGPs of many images, the
            same for all (see ``corit/model/shared.py``). Or one of two controls: ``"random"`` places, drawn for each
            image from its own pixels, or ``"fixed"`` ones, the same for all images.
        rrm: Region refinement mask: tokens join the anchor of the most similar CGP, outliers are left out. Without
            it every token joins the nearest anchor on the grid.
        rsi: Regional signal injection: region tokens go through the blocks. Without it a layer's region token is the
            average of its own tokens.
        hri: Hierarchical integration: the head reads ``mid_layer`` and the last layer. Without it the last alone.
        normalisation: Of each vector before the head: ``"layer"`` (zero mean, unit variance), ``"ln_post"`` (the
            encoder's own last norm) or ``"none"``.
        anchor_seed: Of random and fixed anchors.

    Raises:
        ProbeError: If a value is out of its range; names the field, the range and the value.

    >>> CoRITConfig(encoder="clip-demo", num_regions=2).resolved(num_layers=8, num_patches=64).cgp_layer
    4
    >>> CoRITConfig(threshold=2)
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected threshold to be a cosine from -1 to 1, got 2
    """

    encoder: str = "clip-vit-l14"
    num_regions: int = 4
    threshold: float = 0.5
    nms_radius: int = 2
    mid_layer: int | None = None
    cgp_layer: int | str | None = None
    anchors: str = "cgp"
    rrm: bool = True
    rsi: bool = True
    hri: bool = True
    normalisation: str = "layer"
    anchor_seed: int = 0

    def __post_init__(self) -> None:
        self._whole("num_regions", self.num_regions, 0, 64)
        self._whole("nms_radius", self.nms_radius, 0, 64)
        self._whole("anchor_seed", self.anchor_seed, 0, 2**63 - 1)
        good = _is_number(self.threshold) and -1 <= self.threshold <= 1
        _insist("threshold", good, "a cosine from -1 to 1", self.threshold)
        if self.mid_layer is not None:
            self._whole("mid_layer", self.mid_layer, 1, 1024)
        if self.cgp_layer is not None and self.cgp_layer != EACH:
            layer = self.cgp_layer
            good = _is_whole(layer) and 0 <= int(layer) <= 1024
            _insist("cgp_layer", good, "a whole number from 0 to 1024, 'each' or None", layer)
        for name in ("rrm", "rsi", "hri"):
            _insist(name, isinstance(getattr(self, name), bool), "True or False", getattr(self, name))
        _one_of("anchors", self.anchors, ANCHORS)
        _one_of("normalisation", self.normalisation, NORMALISATIONS)

    @property
    def needs_counterparts(self) -> bool:
        """Whether any part of the configuration looks at an image's own CGP."""
        return self.num_regions > 0 and self.anchors != "shared" and (self.anchors == "cgp" or self.rrm)

    def resolved(self, num_layers: int, num_patches: int) -> CoRITConfig:
        """Fill in the layers for an encoder, and check that it has them.

        Args:
            num_layers: Blocks of the encoder, L.
            num_patches: Patch tokens of an image.

        Returns:
            A configuration without None.

        Raises:
            ProbeError: If the encoder is too shallow or its grid too small.
        """
        mid = max(1, num_layers // 2) if self.mid_layer is None else self.mid_layer
        cgp = mid if self.cgp_layer is None else self.cgp_layer
        if mid > num_layers - self.hri:
            raise ProbeError(
                f"expected mid_layer below the last layer of an encoder of {num_layers} blocks, got {mid}; "
                "give a smaller mid_layer, or hri=False"
            )
        if cgp != EACH and int(cgp) > num_layers:
            raise ProbeError(f"expected cgp_layer to be at most {num_layers}, the encoder's blocks, got {cgp}")
        if cgp == EACH and self.anchors == "shared":
            raise ProbeError("expected one cgp_layer with anchors='shared', got cgp_layer='each'; give its number")
        if self.num_regions > num_patches:
            raise ProbeError(
                f"expected at most one region per patch, {num_patches} of them, got num_regions={self.num_regions}"
            )
        return replace(self, mid_layer=mid, cgp_layer=cgp)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file.

        Returns:
            Field name to value.
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CoRITConfig:
        """Build a configuration from plain values.

        Args:
            values: Field name to value.

        Returns:
            The configuration.

        Raises:
            ProbeError: If a name is unknown or a value out of its range.

        >>> CoRITConfig.from_dict({"num_region": 3})
        Traceback (most recent call last):
        gsnr_toolkit.errors.ProbeError: CoRIT has no option 'num_region'. Did you mean 'num_regions'? ...
        """
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                raise ProbeError(
                    f"CoRIT has no option {name!r}.{did_you_mean(name, known)} Options are {', '.join(known)}"
                )
        return cls(**values)

    @staticmethod
    def _whole(name: str, value: object, low: int, high: int) -> None:
        good = _is_whole(value) and low <= value <= high  # type: ignore[operator]
        _insist(name, good, f"a whole number from {low} to {high}", value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    _insist(name, value in allowed, f"one of {', '.join(map(repr, allowed))}", value)


def _insist(name: str, good: bool, wanted: str, value: object) -> None:
    if not good:
        raise ProbeError(f"expected {name} to be {wanted}, got {value!r}")
