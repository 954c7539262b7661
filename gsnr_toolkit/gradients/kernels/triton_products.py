"""The Triton path of ``products.py``: one program per tile of the weight, with both sums in registers.

A program loops over the samples of its part. Tensor cores compute each sample's tile of G over blocks of rows; the tile
is added to both sums and dropped. Nothing of the size of b weights is ever written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.kernels.factors import check_factors

TILE = {"BLOCK_O": 64, "BLOCK_I": 64}
FIXED = {**TILE, "num_warps": 8, "num_stages": 3}
"""The launch without tuning. Two sums, the product and the shift take 64 of a thread's 255 registers."""

TUNED = ((64, 64, 4, 3), (64, 64, 8, 3), (128, 64, 8, 3), (64, 128, 8, 3))
"""``(BLOCK_O, BLOCK_I, warps, stages)`` that autotuning chooses from. The same four tensors take 128 registers or fewer
per thread."""

LARGEST_OFFSET = 2**31 - 1
"""Offsets within one block of rows are 32-bit integers in the kernel."""

PROGRAMS_PER_PROCESSOR = 2
MIN_SAMPLES_PER_PART = 4
"""The samples are split into parts until the GPU is full. Each part costs a write and a read of both results, which
takes as long as the products of a few samples of 200 rows (estimated from bandwidth and arithmetic, not measured)."""


def available(device: torch.device) -> bool:
    """Whether the kernel can run: Triton with an NVIDIA GPU from Ampere on, or Triton's interpreter for CPU tensors.

    Args:
        device: Where the tensors are.

    Returns:
        Whether :func:`product_sums` may be called.
    """
    if find_spec("triton") is None:
        return False
    if device.type == "cuda":
        return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


def product_sums(
    left: Float[Tensor, "b t o"],
    right: Float[Tensor, "b t i"],
    shift: Float[Tensor, "o i"] | None = None,
    *,
    parts: int | None = None,
) -> tuple[Float[Tensor, "o i"], Float[Tensor, "o i"]]:
    r"""Compute sum and sum of squares of ``D_i = left_i^T right_i - shift`` by one kernel that writes no ``D_i``.

    Float32 inputs are multiplied in full precision, not in TF32. Sums are accumulated in float32 in a fixed order:
    equal calls give equal bits. Tile sizes are tuned once per shape and process, and may differ between processes;
    under ``torch.use_deterministic_algorithms(True)`` they do not.

    Args:
        left: Output gradients, shape ``(b, T, O)``, in float32, bfloat16 or float16, any strides.
        right: Inputs, shape ``(b, T, I)``, same dtype and device.
        shift: Matrix that is subtracted from each sample's gradient, shape ``(O, I)``; 0 when None.
        parts: Number of parts of the samples that are summed in parallel and then added; enough to fill the GPU when
            None.

    Returns:
        ``(sum, sum of squares)``, each ``(O, I)``, float32.

    Raises:
        ProbeError: If the factors do not fit together, or the kernel cannot run on them.
    """
    _check(left, right, shift)
    samples, _, rows = left.shape
    columns = right.shape[2]
    parts = _choose_parts(left, right) if parts is None else max(1, min(parts, samples))
    per_part = max(1, -(-samples // parts))
    parts = max(1, -(-samples // per_part))  # no part may be empty
    total = torch.empty(parts, rows, columns, dtype=torch.float32, device=left.device)
    squares = torch.empty_like(total)
    if not (samples and rows and columns):
        return total[0].zero_(), squares[0].zero_()
    centre = total if shift is None else shift.detach().float().contiguous()
    left, right = _narrow(left), _narrow(right)
    launch, tile = _launcher(left)
    with _on(left.device):
        launch[_grid(rows, columns, parts)](
            left, right, centre, total, squares, samples, per_part, left.shape[1], rows, columns,
            *left.stride(), *right.stride(), HAS_SHIFT=shift is not None, **_precision(left), **tile,
        )  # fmt: skip
    if parts == 1:
        return total[0], squares[0]
    return total.sum(0), squares.sum(0)


def _check(left: Tensor, right: Tensor, shift: Tensor | None) -> None:
    """Check that the kernel can run on these factors."""
    check_factors(left, right, shift)
    if left.dtype == torch.float64:
        raise ProbeError("expected float32, bfloat16 or float16 factors, got float64; use plain_product_sums")
    if not available(left.device):
        raise ProbeError(
            f"expected Triton and an NVIDIA GPU of compute capability 8.0 or more, got tensors on {left.device} "
            f"and Triton {'installed' if find_spec('triton') else 'missing'}; use plain_product_sums"
        )


def _choose_parts(left: Tensor, right: Tensor) -> int:
    """Choose the number of parts so that there are enough programs for the GPU."""
    samples, _, rows = left.shape
    tiles = -(-rows // TILE["BLOCK_O"]) * -(-right.shape[2] // TILE["BLOCK_I"])
    if left.device.type != "cuda" or tiles == 0:
        return 1
    wanted = PROGRAMS_PER_PROCESSOR * torch.cuda.get_device_properties(left.device).multi_processor_count
    return max(1, min(wanted // tiles, samples // MIN_SAMPLES_PER_PART))


def _grid(rows: int, columns: int, parts: int) -> Callable[[dict[str, Any]], tuple[int, int, int]]:
    """Return the launch grid as a function of the tile."""
    return lambda meta: (-(-rows // meta["BLOCK_O"]), -(-columns // meta["BLOCK_I"]), parts)


def _precision(left: Tensor) -> dict[str, Any]:
    """Choose how a tile is multiplied."""
    longest = 32 if left.element_size() == 2 else 16  # exact float32 products need more registers
    return {
        "BLOCK_T": longest if left.shape[1] > 16 else 16,
        "PRECISION": "ieee",
        "UPCAST": left.device.type == "cpu",
    }


def _narrow(factor: Tensor) -> Tensor:
    """Copy a factor if its strides are too wide for the kernel's 32-bit offsets."""
    factor = factor.detach()
    _, stride_token, stride_column = factor.stride()
    return factor if 32 * stride_token + factor.shape[2] * stride_column <= LARGEST_OFFSET else factor.contiguous()


def _launcher(left: Tensor) -> tuple[Any, dict[str, int]]:
    """Return the kernel and its tile: tuned on a GPU, fixed in the interpreter and for deterministic runs."""
    if left.device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        return _tuned(), {}
    # imported here: this loads Triton
    from gsnr_toolkit.gradients.kernels.triton_kernels import sums_kernel

    return sums_kernel, FIXED


@cache
def _tuned() -> Any:
    """Return the kernel behind Triton's autotuner, which chooses once per shape of the weight."""
    import triton

    from gsnr_toolkit.gradients.kernels.triton_kernels import sums_kernel

    configs = [
        triton.Config({"BLOCK_O": rows, "BLOCK_I": columns}, num_warps=warps, num_stages=stages)
        for rows, columns, warps, stages in TUNED
    ]
    key = ["rows", "columns", "BLOCK_T", "HAS_SHIFT", "PRECISION"]
    return triton.autotune(configs=configs, key=key)(sums_kernel)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Select the tensors' GPU, which need not be the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
