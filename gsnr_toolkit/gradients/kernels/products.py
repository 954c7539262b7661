"""Sums and sums of squares of a matmul layer's per-sample weight gradients, none of which is kept.

A layer that multiplies inputs ``right`` (b, T, I) by a weight (O, I) and receives the output gradients ``left``
(b, T, O) has the per-sample gradients ``G_i = left_i^T right_i``. A variance needs only two sums over i, so one
sample's tile of G is formed, used twice while it lies in the cache, and overwritten by the next.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from gsnr_toolkit.gradients.kernels.factors import check_factors

TILE_BYTES = 2**20
"""Bytes of one sample's tile of G on a CPU: small enough for the cache of a core, large enough for one matrix product
to be worth its call. Engines come here with one row a sample alone; more rows go through :mod:`.tiles`."""


def product_sums(
    left: Float[Tensor, "b t o"],
    right: Float[Tensor, "b t i"],
    shift: Float[Tensor, "o i"] | None = None,
    *,
    allow_tf32: bool = False,
) -> tuple[Float[Tensor, "o i"], Float[Tensor, "o i"]]:
    r"""Sum and sum of squares of per-sample weight gradients about a shift, on the fastest path there is.

    .. math:: D_i = L_i^\top R_i - C, \qquad \sum_i D_i, \qquad \sum_i D_i \circ D_i

    A Triton kernel where Triton can be used on a CUDA device, :func:`plain_product_sums` elsewhere and for float64.
    Both give the same numbers up to rounding.

    Args:
        left: Output gradients, shape ``(b, T, O)``, any strides; T or b may be 0.
        right: Inputs, shape ``(b, T, I)``, same dtype and device.
        shift: What is taken from each sample's gradient, shape ``(O, I)``; 0 when None. Near the mean gradient it
            keeps the variance from drowning in the square of the mean.
        allow_tf32: Let the kernel round float32 inputs to TF32 (10 bits of mantissa) for speed.

    Returns:
        ``(sum, sum of squares)``, each ``(O, I)``, in float32, or float64 for float64 inputs.

    Raises:
        ProbeError: If shapes, dtypes or devices do not fit together.

    >>> left, right = torch.tensor([[[1.0]], [[2.0]]]), torch.ones(2, 1, 2)
    >>> product_sums(left, right)
    (tensor([[3., 3.]]), tensor([[5., 5.]]))
    >>> product_sums(left, right, torch.full((1, 2), 1.5))
    (tensor([[0., 0.]]), tensor([[0.5000, 0.5000]]))
    """
    if by_kernel(left):
        from gsnr_toolkit.gradients.kernels import triton_products

        return triton_products.product_sums(left, right, shift, allow_tf32=allow_tf32)
    return plain_product_sums(left, right, shift)


def by_kernel(left: Tensor) -> bool:
    """Whether the Triton kernel will do the work."""
    if left.device.type != "cuda" or left.dtype == torch.float64:
        return False
    from gsnr_toolkit.gradients.kernels import triton_products

    return triton_products.available(left.device)


def plain_product_sums(
    left: Float[Tensor, "b t o"],
    right: Float[Tensor, "b t i"],
    shift: Float[Tensor, "o i"] | None = None,
    *,
    tile_bytes: int | None = None,
) -> tuple[Float[Tensor, "o i"], Float[Tensor, "o i"]]:
    r"""The same by torch's matrix products, tile by tile; bfloat16 and float16 are computed in float32.

    With one row per sample (T = 1) both sums are one matrix product each, for the square of an outer product is the
    outer product of the squares:

    .. math:: \sum_i D_i \circ D_i = \sum_i (L_i \circ L_i)^\top (R_i \circ R_i) - 2 C \circ \sum_i G_i + b\, C \circ C

    That difference cancels where the mean is large beside the deviations, so it is taken in float64: rounding
    :math:`G^2` there moves D by :math:`\sqrt{2^{-53}} \approx 10^{-8}` of G, less than float32 rounds G itself
    (:math:`6 \cdot 10^{-8}`). Float64 inputs, which would lose half of their digits, take the loop over samples.

    Args:
        left: Output gradients, shape ``(b, T, O)``, any strides; T or b may be 0.
        right: Inputs, shape ``(b, T, I)``, same dtype and device.
        shift: What is taken from each sample's gradient, shape ``(O, I)``; 0 when None.
        tile_bytes: Bytes of one sample's tile; :data:`TILE_BYTES` on a CPU and the whole matrix elsewhere when None.

    Returns:
        ``(sum, sum of squares)``, each ``(O, I)``, in float32, or float64 for float64 inputs.

    Raises:
        ProbeError: If shapes, dtypes or devices do not fit together.

    >>> total, squares = plain_product_sums(torch.ones(3, 2, 1), torch.ones(3, 2, 1))
    >>> total.item(), squares.item()
    (6.0, 12.0)
    """
    check_factors(left, right, shift)
    dtype = torch.promote_types(left.dtype, torch.float32)
    left, right = left.detach().to(dtype), right.detach().to(dtype)
    shift = None if shift is None else shift.detach().to(dtype)
    total = left.new_zeros(left.shape[2], right.shape[2])
    squares = torch.zeros_like(total)
    if left.shape[1] == 1 and dtype == torch.float32 and left.device.type in ("cpu", "cuda"):  # float64 exists there
        add_tile = _single_row_tile
    else:
        add_tile = _sample_loop_tile
    for rows in _row_tiles(total, tile_bytes):
        add_tile(left[:, :, rows], right, None if shift is None else shift[rows], total[rows], squares[rows])
    return total, squares


def _row_tiles(matrix: Tensor, tile_bytes: int | None) -> Iterator[slice]:
    """Slices of rows whose entries take at most the given bytes, one row at least."""
    count, width = matrix.shape
    if tile_bytes is None:
        tile_bytes = TILE_BYTES if matrix.device.type == "cpu" else matrix.numel() * matrix.element_size()
    step = max(1, tile_bytes // max(1, width * matrix.element_size()))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _sample_loop_tile(left: Tensor, right: Tensor, shift: Tensor | None, total: Tensor, squares: Tensor) -> None:
    """Add one tile's sums, forming one sample's tile of D after the other in the same memory."""
    deviation = torch.empty_like(total)
    for left_i, right_i in zip(left.unbind(), right.unbind(), strict=True):
        if shift is None:
            torch.mm(left_i.mT, right_i, out=deviation)
        else:
            torch.addmm(shift, left_i.mT, right_i, beta=-1, out=deviation)
        total.add_(deviation)
        squares.addcmul_(deviation, deviation)


def _single_row_tile(left: Tensor, right: Tensor, shift: Tensor | None, total: Tensor, squares: Tensor) -> None:
    """Add one tile's sums for T = 1 in closed form; rounding must not make a square negative."""
    rows, columns = left[:, 0].double(), right[:, 0].double()
    sums, square_sums = rows.mT @ columns, rows.square().mT @ columns.square()
    if shift is not None:
        centre, count = shift.double(), left.shape[0]
        square_sums += centre * (count * centre - 2 * sums)
        sums -= count * centre
    total.copy_(sums)
    squares.copy_(square_sums.clamp_(min=0))
