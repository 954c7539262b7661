"""The options that decide what CoRIT computes before its head, with the range of each value."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.settings import Settings, setting, settle_settings

__all__ = ["ANCHORS", "EACH", "NORMALISATIONS", "CoRITConfig"]

ANCHORS = ("cgp", "shared", "random", "fixed")
NORMALISATIONS = ("layer", "ln_post", "none")

#: The value of ``cgp_layer`` for separate regions in every block, from the CGP of the tokens that enter the block.
EACH = "each"


@dataclass(frozen=True)
class CoRITConfig(Settings):
    """The options that decide what CoRIT computes before its head; saved with every head.

    A layer is the output of a block, numbered from 1; layer 0 is the input of the first block.

    Attributes:
        encoder: Name of the encoder in :data:`gsnr_toolkit.models.MODELS`.
        num_regions: Maximum number of regions of an image, K; with 0, the head reads class tokens only.
        threshold: Minimum cosine, -1 to 1, between a token's CGP and its anchor's; tokens below it are outliers.
        nms_radius: Anchors are further apart than this, in patches along the longer of the two axes.
        mid_layer: The intermediate layer, 1 to L - 1, that HRI reads besides the last; L // 2 when None.
        cgp_layer: The layer, 0 to L, whose CGP gives the regions of all blocks; ``mid_layer`` when None, ``"each"``
            for separate regions in every block.
        anchors: ``"cgp"`` uses each image's own CGP. ``"shared"`` finds anchors and regions from the CGPs of many
            images, the same for all (see ``corit/model/shared.py``). Two controls: ``"random"`` draws places for each
            image from its own pixels, ``"fixed"`` uses the same places for all images.
        rrm: Region refinement mask: tokens join the anchor with the most similar CGP, outliers are left out. Without
            it, every token joins the nearest anchor on the grid.
        rsi: Regional signal injection: region tokens pass through the blocks. Without it, a layer's region token is
            the average of the region's tokens.
        hri: Hierarchical integration: the head reads ``mid_layer`` and the last layer. Without it, the last layer only.
        normalisation: Of each vector before the head: ``"layer"`` (zero mean, unit variance), ``"ln_post"`` (the
            encoder's own last norm) or ``"none"``.
        anchor_seed: Seed of random and fixed anchors.

    Raises:
        ProbeError: If a value is out of its range; names the field, the range and the value.

    >>> CoRITConfig(encoder="clip-demo", num_regions=2).resolved(num_layers=8, num_patches=64).cgp_layer
    4
    >>> CoRITConfig(threshold=2)
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected threshold to be a number from -1 ..., got 2...
    """

    encoder: str = setting("clip-vit-l14", "Name of the encoder.")
    num_regions: int = setting(4, "Maximum number of regions.", low=0, high=64, kind=int)
    threshold: float = setting(0.5, "Minimum cosine to the anchor.", low=-1, high=1, kind=float)
    nms_radius: int = setting(2, "Patches between anchors.", low=0, high=64, kind=int)
    mid_layer: int | None = setting(None, "Layer read besides the last.", low=1, high=1024, kind=int)
    cgp_layer: int | str | None = setting(
        None, "Layer that gives the regions, or 'each'.", low=0, high=1024, words=(EACH,), kind=int
    )
    anchors: str = setting("cgp", "How anchors are placed.", choices=ANCHORS)
    rrm: bool = setting(True, "Regions by similarity, without outliers.", kind=bool)
    rsi: bool = setting(True, "Region tokens pass through the blocks.", kind=bool)
    hri: bool = setting(True, "Read mid_layer and the last layer.", kind=bool)
    normalisation: str = setting("layer", "Of each vector before the head.", choices=NORMALISATIONS)
    anchor_seed: int = setting(0, "Seed of random and fixed anchors.", low=0, high=2**63 - 1, kind=int)

    def __post_init__(self) -> None:
        settle_settings(self)

    @property
    def needs_counterparts(self) -> bool:
        """Whether the regions depend on an image's own CGP."""
        return self.num_regions > 0 and self.anchors != "shared" and (self.anchors == "cgp" or self.rrm)

    def resolved(self, num_layers: int, num_patches: int) -> CoRITConfig:
        """Fill in the layers for an encoder of this many blocks and patch tokens, and check that it has them."""
        mid = max(1, num_layers // 2) if self.mid_layer is None else self.mid_layer
        cgp = mid if self.cgp_layer is None else self.cgp_layer
        if mid > num_layers - self.hri:
            raise ProbeError(
                f"expected mid_layer below the last layer of an encoder of {num_layers} blocks, got {mid}; "
                "give a smaller mid_layer, or hri=False"
            )
        if cgp != EACH and int(cgp) > num_layers:
            raise ProbeError(
                f"expected cgp_layer to be at most {num_layers}, the encoder's blocks, got {cgp}; give a smaller layer"
            )
        if cgp == EACH and self.anchors == "shared":
            raise ProbeError("expected one cgp_layer with anchors='shared', got cgp_layer='each'; give its number")
        if self.num_regions > num_patches:
            raise ProbeError(
                f"expected at most one region per patch, {num_patches} of them, got num_regions={self.num_regions}; "
                "give a smaller num_regions"
            )
        return replace(self, mid_layer=mid, cgp_layer=cgp)
