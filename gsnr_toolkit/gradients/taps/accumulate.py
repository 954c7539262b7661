"""From per-sample gradients to sums over them: where a term's form makes a sum cheaper than its samples.

This is where engines meet moments. Matrix products are summed tile by tile without being kept, tables only on the
rows that were looked up, and squared norms alone come from inner products of the factors where that costs less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from gsnr_toolkit.gradients.kernels import fused_products
from gsnr_toolkit.gradients.kernels.merge_products import merge_products
from gsnr_toolkit.gradients.kernels.merging import merge_samples, square_sum
from gsnr_toolkit.gradients.kernels.sqnorms import FUSED_COST, PASS_COST, ghost_is_cheaper, ghost_sums
from gsnr_toolkit.gradients.kernels.tiles import Workspace
from gsnr_toolkit.gradients.taps.terms import Gathered, Products, Term, Windows
from gsnr_toolkit.gradients.taps.views import View, follow
from gsnr_toolkit.gradients.task import AnyMoments
from gsnr_toolkit.moments.by_parameter import Moments

Part: TypeAlias = tuple[Term, tuple[View, ...]]

_BLOCK_BYTES = 2**26
"""Bytes of formed gradients that are alive at a time."""

_CANCELLED = 1e5
"""Units of rounding of the sum of squared norms. A ghost norm's spread below that has lost its digits to the mean's
square, and is taken again from formed products."""


def add_parts(
    moments: AnyMoments, name: str, param: Tensor, seen: int, parts: Sequence[Part], workspace: Workspace
) -> None:
    """Add one parameter's gradients of some samples; the caller raises the count once all parameters are in.

    Args:
        moments: Where to add.
        name: The parameter.
        param: Its tensor.
        seen: Samples of this parameter that are in already.
        parts: Terms, and the disjoint views of the parameter that they belong to; zero elsewhere.
        workspace: Memory for tiles.
    """
    first, view = parts[0]
    blank = len(parts) == 1 and not view and not isinstance(first, Gathered)  # every entry is going to be written
    if isinstance(moments, Moments):
        mean, m2 = moments.place(name, param, blank=blank)
        if len(parts) > 1 or view:
            _fade(mean, m2, seen, parts)
        for term, views in parts:
            _merge_term(follow(views, mean), follow(views, m2), seen, term, workspace)
        return
    held = moments.place(name, param, blank=blank)
    if blank:
        ready = _ready(first, held)
        ghost = _for_ghost_norms(ready, held)
        if ghost is None:
            moments.grow(name, _merge_term(held, None, seen, ready, workspace))
            return
        parts = [(ghost, view)]
    mean = torch.zeros_like(held) if seen else held
    spread = sum(_batch_spread(follow(views, mean), term, workspace) for term, views in parts)
    moments.merge_in(name, seen, first.count, mean, spread)


def _fade(mean: Tensor, m2: Tensor, seen: int, parts: Sequence[Part]) -> None:
    """Where no part belongs, the new gradients are zero; entries that a part covers are put back by its own update."""
    if not seen:
        return
    held = [(follow(views, mean).clone(), follow(views, m2).clone()) for _, views in parts]
    if sum(kept.numel() for kept, _ in held) == mean.numel():
        return
    add_zeros(mean, m2, seen, parts[0][0].count)
    for (_, views), (kept_mean, kept_m2) in zip(parts, held, strict=True):
        follow(views, mean).copy_(kept_mean)
        follow(views, m2).copy_(kept_m2)


def add_zeros(mean: Tensor, m2: Tensor, seen: int, added: int) -> None:
    """Take in samples whose gradient is zero; in place."""
    m2.addcmul_(mean, mean, value=seen * added / (seen + added))
    mean.mul_(seen / (seen + added))


def _merge_term(mean: Tensor, m2: Tensor | None, seen: int, term: Term, workspace: Workspace) -> float:
    """Merge samples in; without m2, return what the sum of all centred squares grows by."""
    term = _ready(term, mean)
    if isinstance(term, Windows):
        means, squares = mean.flatten(1), None if m2 is None else m2.flatten(1)
        return fused_products.merge(term.left, term.windows, means, squares, seen, workspace, places=term.places)
    if isinstance(term, Products):
        return _merge_matrix(mean, m2, seen, term, workspace)
    if isinstance(term, Gathered) and m2 is not None and mean.is_contiguous():
        _add_rows(mean, m2, seen, term)
        return 0.0
    return _merge_formed(mean, m2, seen, term)


def _ready(term: Term, mean: Tensor) -> Term:
    """Windows are written out where no kernel reads them in their place."""
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
    grown = 0.0
    for block in sample_blocks(term):
        grown += merge_samples(block.to(mean.dtype, copy=True), mean, m2, seen)
        seen += len(block)
    return grown


def _add_rows(mean: Tensor, m2: Tensor, seen: int, term: Gathered) -> None:
    """Tables: full updates on the rows looked up, the update by zeros on the others."""
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
    """Gradients on the rows that were looked up, some rows at a time.

    Yields:
        Rows (U,), and gradients on them ``(N, U, d)``.
    """
    used, places = torch.unique(term.rows, return_inverse=True)
    width = term.grads.shape[-1]
    step = max(1, _BLOCK_BYTES // max(1, 4 * width * term.count))
    for start in range(0, len(used), step):
        stop = min(start + step, len(used))
        inside = ((places >= start) & (places < stop)).unsqueeze(-1)
        grads = torch.where(inside, term.grads, 0)
        block = Gathered((places - start).clamp(0, stop - start - 1), grads, (stop - start, width))
        yield used[start:stop], block.samples(0, term.count)


def sample_blocks(term: Term) -> Iterator[Tensor]:
    """All samples of a term, formed some at a time.

    Yields:
        Tensors ``(c, *shape)``.
    """
    size = max(1, 4 * torch.Size(term.shape).numel())
    step = max(1, _BLOCK_BYTES // size)
    for start in range(0, term.count, step):
        yield term.samples(start, min(start + step, term.count))


def _batch_spread(mean: Tensor, term: Term, workspace: Workspace) -> float:
    """Put the batch's mean into zeros, and return its sum of centred squares."""
    if isinstance(term, Gathered):
        return _rows_spread(mean, term)
    term = _ready(term, mean)
    ghost = _for_ghost_norms(term, mean)
    spread = None if ghost is None else _ghost_spread(mean, ghost)
    return _merge_term(mean, None, 0, ghost or term, workspace) if spread is None else spread


def _for_ghost_norms(term: Term, mean: Tensor) -> Products | None:
    """The two factors, where norms from inner products of their rows cost less than forming the products."""
    if not isinstance(term, Products | Windows):
        return None
    (rows, outputs), right = term.left.shape[1:], term.right if isinstance(term, Products) else term.windows
    cost = FUSED_COST if fused_products.fits(term.left, right, mean) else PASS_COST
    if not ghost_is_cheaper(rows, outputs, right[0].numel() // max(1, rows), cost):
        return None
    return term if isinstance(term, Products) else term.products()


def _ghost_spread(mean: Tensor, term: Products) -> float | None:
    """Put the mean into its place, and return the spread about it; None where its digits are lost to the mean's."""
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
