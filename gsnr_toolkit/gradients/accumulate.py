"""From per-sample gradients to sums over them: where a term's form makes a sum cheaper than its samples.

This is where engines meet moments. Matrix products are summed tile by tile without being kept, tables only on the
rows that were looked up, and squared norms alone come from inner products of the factors where that costs less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from gsnr_toolkit.gradients.functional import AnyMoments
from gsnr_toolkit.gradients.products import take_in_products
from gsnr_toolkit.gradients.sqnorms import product_norms
from gsnr_toolkit.gradients.terms import Gathered, Products, Term
from gsnr_toolkit.gradients.views import View, follow
from gsnr_toolkit.moments import Moments, take_in

Part: TypeAlias = tuple[Term, tuple[View, ...]]

_BLOCK_BYTES = 2**26
"""Bytes of formed gradients that are alive at a time."""


def add_parts(moments: AnyMoments, name: str, param: Tensor, seen: int, parts: Sequence[Part]) -> None:
    """Add one parameter's gradients of some samples; the caller raises the count once all parameters are in.

    Args:
        moments: Where to add.
        name: The parameter.
        param: Its tensor.
        seen: Samples of this parameter that are in already.
        parts: Terms, and the disjoint views of the parameter that they belong to; zero elsewhere.
    """
    if isinstance(moments, Moments):
        mean, m2 = moments.place(name, param)
        if len(parts) > 1 or parts[0][1]:
            _fade(mean, m2, seen, parts)
        for term, views in parts:
            _add_moments(follow(views, mean), follow(views, m2), seen, term)
        return
    total = torch.zeros_like(moments.place(name, param))
    sqnorms = sum(_add_total(follow(views, total), term) for term, views in parts)
    moments.take_in(name, seen, parts[0][0].count, total, sqnorms)


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


def _add_moments(mean: Tensor, m2: Tensor, seen: int, term: Term) -> None:
    if isinstance(term, Products):
        _add_products(mean, m2, seen, term)
    elif isinstance(term, Gathered) and mean.is_contiguous():
        _add_rows(mean, m2, seen, term)
    else:
        _add_samples(mean, m2, seen, term)


def _add_products(mean: Tensor, m2: Tensor, seen: int, term: Products) -> None:
    left, right = term.left, term.right
    size = (left.shape[2], right.shape[2])
    flat_mean, flat_m2 = (tensor.view(size) if tensor.is_contiguous() else tensor for tensor in (mean, m2))
    if flat_mean.shape != size:
        _add_samples(mean, m2, seen, term)
        return
    if not flat_mean.is_contiguous() and flat_mean.t().is_contiguous():
        left, right, flat_mean, flat_m2 = right, left, flat_mean.t(), flat_m2.t()
    take_in_products(flat_mean, flat_m2, seen, left, right)


def _add_rows(mean: Tensor, m2: Tensor, seen: int, term: Gathered) -> None:
    """Tables: full updates on the rows looked up, the update by zeros on the others."""
    table_mean, table_m2 = mean.view(mean.shape[0], -1), m2.view(m2.shape[0], -1)
    done: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows, samples in row_blocks(term):
        part_mean, part_m2 = table_mean[rows], table_m2[rows]
        _take_in_samples(part_mean, part_m2, seen, [samples], term.count)
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


def _add_samples(mean: Tensor, m2: Tensor, seen: int, term: Term) -> None:
    _take_in_samples(mean, m2, seen, sample_blocks(term), term.count)


def sample_blocks(term: Term) -> Iterator[Tensor]:
    """All samples of a term, formed some at a time.

    Yields:
        Tensors ``(c, *shape)``.
    """
    size = max(1, 4 * torch.Size(term.shape).numel())
    step = max(1, _BLOCK_BYTES // size)
    for start in range(0, term.count, step):
        yield term.samples(start, min(start + step, term.count))


def _take_in_samples(mean: Tensor, m2: Tensor, seen: int, blocks: Iterator[Tensor] | list[Tensor], count: int) -> None:
    deviations, squares = torch.zeros_like(mean), torch.zeros_like(m2)
    for i, block in enumerate(blocks):
        samples = block.to(mean.dtype)
        if not (seen or i):
            mean.copy_(samples[0])
        gaps = samples - mean
        deviations += gaps.sum(0)
        squares += gaps.square_().sum(0)
    take_in(mean, m2, seen, count, deviations, squares)


def _add_total(total: Tensor, term: Term) -> float:
    """Add the sum over samples in place; the sum of squared norms is returned."""
    if isinstance(term, Products):
        summed, sqnorms = product_norms(term.left, term.right)
        total += summed.view(total.shape)
        return sqnorms
    if isinstance(term, Gathered):
        found = 0.0
        for rows, samples in row_blocks(term):
            full = samples.to(total.dtype).view(term.count, len(rows), *total.shape[1:])
            total.index_add_(0, rows, full.sum(0))
            found += float(full.double().square().sum())
        return found
    found = 0.0
    for block in sample_blocks(term):
        full = block.to(total.dtype)
        total += full.sum(0)
        found += float(full.double().square().sum())
    return found
