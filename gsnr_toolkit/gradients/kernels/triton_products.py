"""The Triton path of ``products.py``: one program per tile of the weight, two accumulators in registers.

A program goes through the samples of its part; each sample's tile of G is made by tensor cores over blocks of rows,
added to the two sums, and forgotten. Nothing of the size of b weights is ever written.
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
"""The launch without tuning: two sums, the product and the shift take 64 of a thread's 255 registers."""

TUNED = ((64, 64, 4, 3), (64, 64, 8, 3), (128, 64, 8, 3), (64, 128, 8, 3))
"""``(BLOCK_O, BLOCK_I, warps, stages)`` that autotuning chooses from: 128 registers or fewer per thread
for the same four."""

LARGEST_OFFSET = 2**31 - 1
"""Offsets within one block of rows are 32-bit integers in the kernel."""

PROGRAMS_PER_PROCESSOR = 2
MIN_SAMPLES_PER_PART = 4
"""Parts of the samples are added until the GPU is full, but each costs a write and a read of both results, as long
as a few samples' products take at 200 rows a sample (estimated from bandwidth and arithmetic, not measured)."""


def available(device: torch.device) -> bool:
    """Whether the kernels can run: Triton and an NVIDIA GPU from Ampere on, or Triton's interpreter for CPU tensors.

    Args:
        device: Where the tensors are.

    Returns:
        True where :func:`product_sums` may be called.
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
    allow_tf32: bool = False,
    parts: int | None = None,
) -> tuple[Float[Tensor, "o i"], Float[Tensor, "o i"]]:
    r"""Sum and sum of squares of ``D_i = left_i^T right_i - shift`` by one kernel that writes no ``D_i``.

    Accumulates in float32 in a fixed order: equal calls give equal bits. Tile sizes are tuned once per shape and
    process, and may differ between processes; under ``torch.use_deterministic_algorithms(True)`` they do not.

    Args:
        left: Output gradients, shape ``(b, T, O)``, in float32, bfloat16 or float16, any strides.
        right: Inputs, shape ``(b, T, I)``, same dtype and device.
        shift: What is taken from each sample's gradient, shape ``(O, I)``; 0 when None.
        allow_tf32: Round float32 inputs to TF32 (10 bits of mantissa); otherwise they are multiplied in full.
        parts: Parts of the samples that are summed side by side and then added; enough to fill the GPU when None.

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
    parts = max(1, -(-samples // per_part))  # none may be left without samples
    total = torch.empty(parts, rows, columns, dtype=torch.float32, device=left.device)
    squares = torch.empty_like(total)
    if not (samples and rows and columns):
        return total[0].zero_(), squares[0].zero_()
    centre = total if shift is None else shift.detach().float().contiguous()
    left, right = _narrow(left), _narrow(right)
    launch, tile = _launcher("sums_kernel", left)
    with _on(left.device):
        launch[_grid(rows, columns, parts)](
            left, right, centre, total, squares, samples, per_part, left.shape[1], rows, columns,
            *left.stride(), *right.stride(), HAS_SHIFT=shift is not None, **_precision(left, allow_tf32), **tile,
        )  # fmt: skip
    if parts == 1:
        return total[0], squares[0]
    return total.sum(0), squares.sum(0)


def product_sqnorms(
    left: Float[Tensor, "b t o"], right: Float[Tensor, "b t i"], *, allow_tf32: bool = False
) -> Float[Tensor, " b"]:
    """Squared norm of each sample's ``left_i^T right_i``, none of which is written.

    Args:
        left: Output gradients, shape ``(b, T, O)``, in float32, bfloat16 or float16, any strides.
        right: Inputs, shape ``(b, T, I)``, same dtype and device.
        allow_tf32: Round float32 inputs to TF32 (10 bits of mantissa); otherwise they are multiplied in full.

    Returns:
        Shape ``(b,)``, float32.

    Raises:
        ProbeError: If the factors do not fit together, or the kernel cannot run on them.
    """
    _check(left, right, None)
    samples, _, rows = left.shape
    columns = right.shape[2]
    tiles = -(-rows // TILE["BLOCK_O"]) * -(-columns // TILE["BLOCK_I"])
    partial = torch.zeros(tiles, samples, dtype=torch.float32, device=left.device)
    if samples and tiles:
        left, right = _narrow(left), _narrow(right)
        launch = _kernel("sqnorms_kernel")
        with _on(left.device):
            launch[_grid(rows, columns, 1)](
                left, right, partial, samples, left.shape[1], rows, columns,
                *left.stride(), *right.stride(), **_precision(left, allow_tf32), **FIXED,
            )  # fmt: skip
    return partial.sum(0)


def _check(left: Tensor, right: Tensor, shift: Tensor | None) -> None:
    """Insist on factors that the kernel takes."""
    check_factors(left, right, shift)
    if left.dtype == torch.float64:
        raise ProbeError("expected float32, bfloat16 or float16 factors, got float64; use plain_product_sums")
    if not available(left.device):
        raise ProbeError(
            f"expected Triton and an NVIDIA GPU of compute capability 8.0 or more, got tensors on {left.device} "
            f"and Triton {'installed' if find_spec('triton') else 'missing'}; use plain_product_sums"
        )


def _choose_parts(left: Tensor, right: Tensor) -> int:
    """Parts of the samples so that there are programs enough for the GPU."""
    samples, _, rows = left.shape
    tiles = -(-rows // TILE["BLOCK_O"]) * -(-right.shape[2] // TILE["BLOCK_I"])
    if left.device.type != "cuda" or tiles == 0:
        return 1
    wanted = PROGRAMS_PER_PROCESSOR * torch.cuda.get_device_properties(left.device).multi_processor_count
    return max(1, min(wanted // tiles, samples // MIN_SAMPLES_PER_PART))


def _grid(rows: int, columns: int, parts: int) -> Callable[[dict[str, Any]], tuple[int, int, int]]:
    """The launch grid for whatever tile the launcher takes."""
    return lambda meta: (-(-rows // meta["BLOCK_O"]), -(-columns // meta["BLOCK_I"]), parts)


def _precision(left: Tensor, allow_tf32: bool) -> dict[str, Any]:
    """How a tile is multiplied: rows at a time, and what happens to float32."""
    longest = 32 if left.element_size() == 2 or allow_tf32 else 16  # exact float32 products need more registers
    return {
        "BLOCK_T": longest if left.shape[1] > 16 else 16,
        "PRECISION": "tf32" if allow_tf32 else "ieee",
        "UPCAST": left.device.type == "cpu",
    }


def _narrow(factor: Tensor) -> Tensor:
    """The factor, copied if its strides are too wide for the kernel's 32-bit offsets."""
    factor = factor.detach()
    _, stride_token, stride_column = factor.stride()
    return factor if 32 * stride_token + factor.shape[2] * stride_column <= LARGEST_OFFSET else factor.contiguous()


def _launcher(name: str, left: Tensor) -> tuple[Any, dict[str, int]]:
    """A kernel and its tile: tuned on a GPU, fixed in the interpreter and where equal bits everywhere are asked for."""
    if left.device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        return _kernel(name), FIXED
    return _tuned(name), {}


def _kernel(name: str) -> Any:
    from gsnr_toolkit.gradients.kernels import triton_kernels

    return getattr(triton_kernels, name)


@cache
def _tuned(name: str) -> Any:
    """The kernel behind Triton's autotuner, one choice per shape of the weight."""
    import triton

    configs = [
        triton.Config({"BLOCK_O": rows, "BLOCK_I": columns}, num_warps=warps, num_stages=stages)
        for rows, columns, warps, stages in TUNED
    ]
    key = ["rows", "columns", "BLOCK_T", "HAS_SHIFT", "PRECISION"]
    return triton.autotune(configs=configs, key=key)(_kernel(name))


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Launch on the tensors' own GPU, which need not be the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
