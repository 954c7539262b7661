"""Self-blended counterparts as a describable object, so that cached features and files can record how they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.arguments import shown

__all__ = ["SelfBlendedCounterparts"]


@dataclass(frozen=True)
class SelfBlendedCounterparts:
    """Make the self-blended counterpart of each image, from the image's content alone.

    Attributes:
        faces: ``"aligned"`` assumes a face that fills the middle of the image, as in aligned crops; ``"generic"`` draws
            an outline anywhere.
        mean: Mean by channel that the images are normalised with.
        std: Standard deviation by channel.

    Raises:
        ProbeError: If ``faces`` has another value.

    >>> import torch
    >>> images = torch.zeros(1, 3, 32, 32)
    >>> SelfBlendedCounterparts()(images).shape
    torch.Size([1, 3, 32, 32])
    """

    faces: str = "aligned"
    mean: Sequence[float] = CLIP_MEAN
    std: Sequence[float] = CLIP_STD

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, Sequence) or len(values) != 3:
                raise ProbeError(f"expected {name} to be three numbers, got {shown(values)}; leave it out for CLIP's")
        if self.faces not in ("aligned", "generic"):
            raise ProbeError(f"expected faces to be 'aligned' or 'generic', got {self.faces!r}; choose one of them")

    def __call__(self, images: Tensor) -> Tensor:
        """Return the counterparts of normalised images ``(N, 3, H, W)``, in the same shape."""
        # imported here: corit.sbi needs OpenCV, which detectors without counterparts do without
        from corit.sbi import Face, counterpart

        known = [Face.aligned(*images.shape[-2:])] * len(images) if self.faces == "aligned" else None
        return counterpart(images, faces=known, mean=self.mean, std=self.std)

    def describe(self) -> dict[str, Any]:
        """Return the values that decide how counterparts are made, for files and cache keys."""
        return {"kind": "self-blended", **asdict(self), "mean": list(self.mean), "std": list(self.std)}
