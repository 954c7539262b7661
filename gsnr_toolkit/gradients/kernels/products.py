"""Sums and sums of squares of a matmul layer's per-sample weight gradients, without keeping any of them.

A layer that multiplies inputs ``right`` (b, T, I) by a weight (O, I) and receives the output gradients ``left``
(b, T, O) has the per-sample gradients ``G_i = left_i^T right_i``. A variance needs only two sums over i. One sample's
tile of G is therefore formed, used twice while it is in the cache, and overwritten by the next sample's.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from gsnr_toolkit.gradients.kernels import triton_products
from gsnr_toolkit.gradients.kernels.factors import check_factors

TILE_BYTES = 2**20
"""Bytes of one sample's tile of G on a CPU: small enough for the cache of a core, large enough to make one matrix
product worth its call. On a CPU, engines use this module for one row per sample only; more rows go through
:mod:`.tiles`."""


def product_sums(
    left: Float[Tensor, "b t o"],
    right: Float[Tensor, "b t i"],
    shift: Float[Tensor, "o i"] | None = None,
) -> tuple[Float[Tensor, "o i"], Float[Tensor, "o i"]]:
    r"""Compute sum and sum of squares of per-sample weight gradients about a shift, on the fastest path available.

    .. math:: D_i = L_i^\top R_i - C, \qquad \sum_i D_i, \qquad \sum_i D_i \circ D_i

    Uses a Triton kernel where Triton works on a CUDA device, :func:`plain_product_sums` elsewhere and for float64. Both
    give the same numbers up to rounding.

    Args:
        left: Output gradients, shape ``(b, T, O)``, any strides; T or b may be 0.
        right: Inputs, shape ``(b, T, I)``, same dtype and device.
        shift: Matrix C that is subtracted from each sample's gradient, shape ``(O, I)``; 0 when None. A shift near the
            mean gradient keeps the variance from drowning in the square of the mean.

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
        return triton_products.product_sums(left, right, shift)
    return plain_product_sums(left, right, shift)


def by_kernel(left: Tensor) -> bool:
    """Whether :func:`product_sums` uses the Triton kernel."""
    if left.device.type != "cuda" or left.dtype == torch.float64:
        return False
    return triton_products.available(left.device)


def plain_product_sums(
    left: Float[Tensor, "b t o"],
    right: Float[Tensor, "b t i"],
    shift: Float[Tensor, "o i"] | None = None,
) -> tuple[Float[Tensor, "o i"], Float[Tensor, "o i"]]:
    r"""Compute the same sums by torch's matrix products, tile by tile; bfloat16 and float16 are computed in float32.

    With one row per sample (T = 1) each sum is one matrix product, because the square of an outer product is the
    outer product of the squares:

    .. math:: \sum_i D_i \circ D_i = \sum_i (L_i \circ L_i)^\top (R_i \circ R_i) - 2 C \circ \sum_i G_i + b\, C \circ C

    That difference cancels where the mean is large compared with the deviations, so it is computed in float64. There,
    rounding :math:`G^2` moves D by :math:`\sqrt{2^{-53}} \approx 10^{-8}` of G, less than float32 rounds G itself
    (:math:`6 \cdot 10^{-8}`). Float64 inputs would lose half of their digits; they take the loop over samples.

    Args:
        left: Output gradients, shape ``(b, T, O)``, any strides; T or b may be 0.
        right: Inputs, shape ``(b, T, I)``, same dtype and device.
        shift: Matrix that is subtracted from each sample's gradient, shape ``(O, I)``; 0 when None.

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
    # the closed form needs float64, which other devices may lack
    if left.shape[1] == 1 and dtype == torch.float32 and left.device.type in ("cpu", "cuda"):
        add_tile = _single_row_tile
    else:
        add_tile = _sample_loop_tile
    for rows in _row_tiles(total):
        add_tile(left[:, :, rows], right, None if shift is None else shift[rows], total[rows], squares[rows])
    return total, squares


def _row_tiles(matrix: Tensor) -> Iterator[slice]:
    """Cut a matrix into slices of rows: of :data:`TILE_BYTES` or one row on a CPU, one slice elsewhere."""
    count, width = matrix.shape
    on_cpu = matrix.device.type == "cpu"
    step = max(1, TILE_BYTES // max(1, width * matrix.element_size())) if on_cpu else max(1, count)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _sample_loop_tile(left: Tensor, right: Tensor, shift: Tensor | None, total: Tensor, squares: Tensor) -> None:
    """Compute one tile's sums, forming each sample's tile of D in the same memory."""
    deviation = torch.empty_like(total)
    for left_i, right_i in zip(left.unbind(), right.unbind(), strict=True):
        if shift is None:
            torch.mm(left_i.mT, right_i, out=deviation)
        else:
            torch.addmm(shift, left_i.mT, right_i, beta=-1, out=deviation)
        total.add_(deviation)
        squares.addcmul_(deviation, deviation)


def _single_row_tile(left: Tensor, right: Tensor, shift: Tensor | None, total: Tensor, squares: Tensor) -> None:
    """Compute one tile's sums for T = 1 in closed form."""
    rows, columns = left[:, 0].double(), right[:, 0].double()
    sums, square_sums = rows.mT @ columns, rows.square().mT @ columns.square()
    if shift is not None:
        centre, count = shift.double(), left.shape[0]
        square_sums += centre * (count * centre - 2 * sums)
        sums -= count * centre
    total.copy_(sums)
    squares.copy_(square_sums.clamp_(min=0))  # rounding may have made a square negative
