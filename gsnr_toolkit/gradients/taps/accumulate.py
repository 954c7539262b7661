"""Merge per-sample gradients into moments, using the form of each term where that is cheaper than forming all samples.

Matrix products are summed tile by tile without being kept. Tables are updated only on the rows that were looked up.
Squared norms come from inner products of the factors where that costs less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gsnr_toolkit.gradients.kernels import fused_products
from gsnr_toolkit.gradients.kernels.merge_products import merge_products
from gsnr_toolkit.gradients.kernels.merging import merge_samples, square_sum
from gsnr_toolkit.gradients.kernels.sqnorms import FUSED_COST, PASS_COST, ghost_is_cheaper, ghost_sums
from gsnr_toolkit.gradients.kernels.tiles import Workspace
from gsnr_toolkit.gradients.taps.terms import Gathered, Part, Products, Term, Windows
from gsnr_toolkit.gradients.taps.views import View, follow
from gsnr_toolkit.gradients.task import AnyMoments
from gsnr_toolkit.moments.by_parameter import add_zeros

_BLOCK_BYTES = 2**26
"""Bytes of formed gradients that are in memory at a time."""

_CANCELLED = 1e5
"""Units of rounding of the sum of squared norms. A spread from ghost norms below that has lost its digits to the square
of the mean, and is computed again from formed products."""


def add_parts(
    moments: AnyMoments, name: str, param: Tensor, seen: int, parts: Sequence[Part], workspace: Workspace
) -> None:
    """Add one parameter's gradients of some samples; the caller raises the count after the last parameter.

    Args:
        moments: Moments to update.
        name: The parameter.
        param: Its tensor.
        seen: Number of samples of this parameter so far.
        parts: Terms on disjoint views of the parameter; the gradient is zero elsewhere.
        workspace: Scratch memory.
    """
    moments.add_parts(name, param, seen, [_Addend(term, views, workspace) for term, views in parts])


@dataclass(frozen=True)
class _Addend:
    """A term that can merge itself into moments (:class:`gsnr_toolkit.moments.parts.Part`)."""

    term: Term
    views: tuple[View, ...]
    workspace: Workspace

    @property
    def count(self) -> int:
        return self.term.count

    @property
    def whole(self) -> bool:
        return not self.views

    @property
    def dense(self) -> bool:
        return not isinstance(self.term, Gathered)

    def view(self, tensor: Tensor) -> Tensor:
        return follow(self.views, tensor)

    def merge(self, mean: Tensor, m2: Tensor | None, seen: int) -> float:
        return _merge_term(mean, m2, seen, self.term, self.workspace)

    def prefers_norms(self, mean: Tensor) -> bool:
        return _ghost_norms_are_cheaper(self.term, mean)

    def spread_into(self, mean: Tensor) -> float:
        if isinstance(self.term, Gathered):
            return _rows_spread(mean, self.term)
        term = _write_out_windows(self.term, mean)
        if isinstance(term, Products | Windows) and _ghost_norms_are_cheaper(term, mean):
            term = term.products() if isinstance(term, Windows) else term
            spread = _ghost_spread(mean, term)
            if spread is not None:
                return spread
        return _merge_term(mean, None, 0, term, self.workspace)


def _merge_term(mean: Tensor, m2: Tensor | None, seen: int, term: Term, workspace: Workspace) -> float:
    """Merge a term's samples; without m2, return the growth of its total."""
    term = _write_out_windows(term, mean)
    if isinstance(term, Windows):
        means, squares = mean.flatten(1), None if m2 is None else m2.flatten(1)
        return fused_products.merge(term.left, term.windows, means, squares, seen, workspace, places=term.places)
    if isinstance(term, Products):
        return _merge_matrix(mean, m2, seen, term, workspace)
    if isinstance(term, Gathered) and m2 is not None and mean.is_contiguous():
        _add_rows(mean, m2, seen, term)
        return 0.0
    return _merge_formed(mean, m2, seen, term)


def _write_out_windows(term: Term, mean: Tensor) -> Term:
    """Turn windows into products unless the compiled kernel can read them in place."""
    if not isinstance(term, Windows) or (mean.is_contiguous() and fused_products.fits(term.left, term.windows, mean)):
        return term
    return term.products()


def _merge_matrix(mean: Tensor, m2: Tensor | None, seen: int, term: Products, workspace: Workspace) -> float:
    size = (term.left.shape[2], term.right.shape[2])
    if mean.shape != size and not mean.is_contiguous():
        return _merge_formed(mean, m2, seen, term)
    if mean.shape != size:
        mean, m2 = mean.view(size), None if m2 is None else m2.view(size)
    return merge_products(term.left, term.right, mean, m2, seen, workspace)


def _merge_formed(mean: Tensor, m2: Tensor | None, seen: int, term: Term) -> float:
    growth = 0.0
    for block in sample_blocks(term):
        growth += merge_samples(block.to(mean.dtype, copy=True), mean, m2, seen)
        seen += len(block)
    return growth


def _add_rows(mean: Tensor, m2: Tensor, seen: int, term: Gathered) -> None:
    """Merge a table's samples: the full update on the rows looked up, the update by zeros on all others."""
    table_mean, table_m2 = mean.view(mean.shape[0], -1), m2.view(m2.shape[0], -1)
    done: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows, samples in row_blocks(term):
        part_mean, part_m2 = table_mean[rows], table_m2[rows]
        merge_samples(samples.to(mean.dtype), part_mean, part_m2, seen)
        done.append((rows, part_mean, part_m2))
    if seen:
        add_zeros(mean, m2, seen, term.count)
    for rows, part_mean, part_m2 in done:
        table_mean[rows], table_m2[rows] = part_mean, part_m2


def row_blocks(term: Gathered) -> Iterator[tuple[Tensor, Tensor]]:
    """Form the gradients on the rows that were looked up, a few rows at a time.

    Yields:
        Rows (U,), and gradients on them ``(N, U, d)``.
    """
    used, places = torch.unique(term.rows, return_inverse=True)
    width = term.grads.shape[-1]
    step = max(1, _BLOCK_BYTES // max(1, 4 * width * term.count))
    for start in range(0, len(used), step):
        stop = min(start + step, len(used))
        inside = ((places >= start) & (places < stop)).unsqueeze(-1)
        # Look-ups of other rows are clamped into the block, where their gradient of zero changes nothing.
        grads = torch.where(inside, term.grads, 0)
        block = Gathered((places - start).clamp(0, stop - start - 1), grads, (stop - start, width))
        yield used[start:stop], block.samples(0, term.count)


def sample_blocks(term: Term) -> Iterator[Tensor]:
    """Form all samples of a term, a few at a time.

    Yields:
        Tensors ``(c, *shape)``.
    """
    size = max(1, 4 * torch.Size(term.shape).numel())
    step = max(1, _BLOCK_BYTES // size)
    for start in range(0, term.count, step):
        yield term.samples(start, min(start + step, term.count))


def _ghost_norms_are_cheaper(term: Term, mean: Tensor) -> bool:
    if not isinstance(term, Products | Windows):
        return False
    (rows, outputs), right = term.left.shape[1:], term.right if isinstance(term, Products) else term.windows
    cost = FUSED_COST if fused_products.fits(term.left, right, mean) else PASS_COST
    return ghost_is_cheaper(rows, outputs, right[0].numel() // max(1, rows), cost)


def _ghost_spread(mean: Tensor, term: Products) -> float | None:
    """Write the mean into its place and return the spread, or None if the spread's digits are lost."""
    total, sqnorms = ghost_sums(term.left, term.right)
    own = total.div_(term.count)
    mean.copy_(own.view(mean.shape))
    spread = sqnorms - term.count * square_sum(own)
    return spread if spread >= _CANCELLED * torch.finfo(mean.dtype).eps * sqnorms else None


def _rows_spread(mean: Tensor, term: Gathered) -> float:
    spread = 0.0
    for rows, samples in row_blocks(term):
        full = samples.to(mean.dtype)
        own = full.mean(0)
        mean.index_copy_(0, rows, own.view(len(rows), *mean.shape[1:]))
        spread += float((full - own).square_().sum(dtype=torch.float64))
    return spread
