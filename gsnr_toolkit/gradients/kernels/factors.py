"""Checks of the two factors of per-sample products ``G_i = left_i^T right_i``."""

from __future__ import annotations

import torch
from torch import Tensor

from gsnr_toolkit.errors import ProbeError

INPUT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_factors(left: Tensor, right: Tensor, shift: Tensor | None) -> None:
    """Raise a :class:`ProbeError` if shapes, dtypes or devices of the factors and the shift do not fit together."""
    if left.ndim != 3 or right.ndim != 3 or left.shape[:2] != right.shape[:2]:
        raise ProbeError(
            f"expected output gradients (b, T, O) and inputs (b, T, I), got {tuple(left.shape)} and "
            f"{tuple(right.shape)}; samples come first: transpose (T, b, .) tensors with .transpose(0, 1)"
        )
    if left.dtype != right.dtype or left.dtype not in INPUT_DTYPES:
        raise ProbeError(
            f"expected both factors in one of float32, bfloat16, float16, float64, got {left.dtype} and "
            f"{right.dtype}; convert one with .to(...)"
        )
    if shift is not None and shift.shape != (left.shape[2], right.shape[2]):
        raise ProbeError(
            f"expected a shift of the weight's shape {(left.shape[2], right.shape[2])}, got {tuple(shift.shape)}; "
            "weights stored as (I, O) need .mT"
        )
    devices = {str(tensor.device) for tensor in (left, right, shift) if tensor is not None}
    if len(devices) > 1:
        raise ProbeError(f"expected one device, got {', '.join(sorted(devices))}; move them with .to(...)")
