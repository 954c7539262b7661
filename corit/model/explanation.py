"""What CoRIT saw in an image: the tensors that heat maps are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

__all__ = ["Explanation", "upsample"]


@dataclass(frozen=True)
class Explanation:
    """Regions of N images, on the grid of patches (rows R, columns C) and at the size of the image (H, W).

    Attributes:
        layer: The layer of the CGP.
        cgp: Norm of each patch token's CGP, ``(N, R, C)``.
        anchors: Row and column of each anchor, ``(N, K, 2)``, strongest first; -1 for a missing anchor.
        assignment: Region of each patch, ``(N, R, C)``, -1 for outliers.
        outliers: Whether a patch belongs to no region, ``(N, R, C)``, bool.
        region_tokens: After each of the L blocks, ``(N, L, K, d)``; zero for regions that do not exist.
        cgp_map: ``cgp`` at the size of the image, bilinear, ``(N, H, W)``.
        assignment_map: ``assignment`` at the size of the image, nearest, ``(N, H, W)``.
        logits: The detector's output, ``(N,)``, positive for fake.
    """

    layer: int
    cgp: Tensor
    anchors: Tensor
    assignment: Tensor
    outliers: Tensor
    region_tokens: Tensor
    cgp_map: Tensor
    assignment_map: Tensor
    logits: Tensor


def upsample(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps ``(N, R, C)`` enlarged to ``(N, H, W)``: floating-point maps are interpolated, integers repeated.

    >>> import torch
    >>> upsample(torch.tensor([[[0, 1]]]), (2, 4)).tolist()
    [[[0, 0, 1, 1], [0, 0, 1, 1]]]
    """
    if grid.is_floating_point():
        return F.interpolate(grid[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return F.interpolate(grid[:, None].double(), size, mode="nearest-exact")[:, 0].to(grid.dtype)
