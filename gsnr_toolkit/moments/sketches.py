"""Keeping many gradients at once: exactly where they fit, as unbiased sketches where they do not.

Intervals and debiased norms need inner products between gradients of different batches. A
:class:`RowPlan` turns a gradient into one row per group. While ``num_rows`` rows of P numbers fit the
budget the row *is* the gradient. Beyond it, coordinates get random signs and are folded modulo D: the
inner product of two such rows is an unbiased estimate of the true one, with variance at most
``(|a|^2 |b|^2 + <a, b>^2) / D`` over the signs when folding is uniform (AMS / count sketch). Where the
gradient noise has more effective dimensions than D, intervals come out wider, not narrower.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gsnr_toolkit.inputs.groups import Group
from gsnr_toolkit.types import Params

DEFAULT_BUDGET = 2**30
"""Bytes that rows may take before they are sketched."""

_SMALLEST_SKETCH = 1024


@dataclass(frozen=True)
class RowPlan:
    """How gradients become rows.

    Attributes:
        group_names: Groups in depth order.
        members: Group name to its parameters' names.
        dims: Group name to row length: the group's size where exact.
        exact: Whether every row is the gradient itself.
        dtypes: Group name to the row's dtype.
        seed: Seed of the sketch's signs.
    """

    group_names: tuple[str, ...]
    members: Mapping[str, tuple[str, ...]]
    dims: Mapping[str, int]
    exact: bool
    dtypes: Mapping[str, torch.dtype]
    seed: int = 0

    def project(self, vector: Params) -> list[Tensor]:
        """Turn one gradient into a row per group.

        Args:
            vector: Parameter name to a tensor of its shape; groups none of whose members are present
                give an empty row.

        Returns:
            For each group, in order, a tensor of shape ``(dims[group],)``, detached, on the CPU.
        """
        return [self._row(group, vector).cpu() for group in self.group_names]

    def empty_rows(self) -> list[Tensor]:
        """Zeros of the shapes and dtypes that :meth:`project` gives for whole gradients."""
        return [torch.zeros(self.dims[group], dtype=self.dtypes[group]) for group in self.group_names]

    def _row(self, group: str, vector: Params) -> Tensor:
        parts = [(name, vector[name].detach().reshape(-1)) for name in self.members[group] if name in vector]
        if not parts:
            return torch.zeros(0)
        if sum(part.numel() for _, part in parts) <= self.dims[group]:
            flat = torch.cat([part for _, part in parts])
            return flat.float() if flat.element_size() < 4 else flat
        row = torch.zeros(self.dims[group], dtype=torch.float32, device=parts[0][1].device)
        for name, part in parts:
            _fold(part.float(), row, seed=self.seed ^ zlib.crc32(name.encode()))
        return row


def plan_rows(
    params: Params, groups: Mapping[str, Group], *, num_rows: int, budget: int = DEFAULT_BUDGET, seed: int = 0
) -> RowPlan:
    """Decide between exact rows and sketches.

    Args:
        params: Parameters by name.
        groups: Parameter name to group.
        num_rows: Rows that must be alive together.
        budget: Bytes they may take.
        seed: Seed of the sketch's signs.

    Returns:
        A plan that is exact when ``num_rows`` gradients fit, and otherwise shares the budget between groups
        so that small groups stay exact.
    """
    order = sorted({group.name: group.depth for group in groups.values()}.items(), key=lambda item: item[1])
    names = tuple(name for name, _ in order)
    members = {group: tuple(name for name in params if groups[name].name == group) for group in names}
    sizes = {group: sum(params[name].numel() for name in members[group]) for group in names}
    width = max(param.element_size() for param in params.values())
    numbers = budget // (max(num_rows, 1) * max(width, 4))
    dims, left = {}, numbers
    for position, group in enumerate(sorted(names, key=lambda group: sizes[group])):
        share = max(left // (len(names) - position), _SMALLEST_SKETCH)
        dims[group] = sizes[group] if sizes[group] <= share else share - 1 + share % 2
        left -= dims[group]
    exact = {group: dims[group] == sizes[group] for group in names}
    dtypes = {group: _row_dtype(params, members[group], exact[group]) for group in names}
    return RowPlan(names, members, dims, exact=all(exact.values()), dtypes=dtypes, seed=seed)


def _row_dtype(params: Params, names: tuple[str, ...], exact: bool) -> torch.dtype:
    """Sketches are float32; a gradient keeps its precision, float32 at least."""
    if not exact:
        return torch.float32
    return functools.reduce(torch.promote_types, (params[name].dtype for name in names), torch.float32)


def _fold(flat: Tensor, row: Tensor, *, seed: int) -> None:
    """Add a signed, folded vector to a row, a block of some million numbers at a time."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    length = row.numel()
    step = length * max(1, 2**22 // length)
    for start in range(0, flat.numel(), step):
        piece = flat[start : start + step]
        signs = torch.empty(piece.numel(), dtype=torch.int8).random_(0, 2, generator=generator).mul_(2).sub_(1)
        signed = torch.nn.functional.pad(piece * signs.to(piece.device), (0, -piece.numel() % length))
        row += signed.view(-1, length).sum(0)


def gram(rows: Float[Tensor, "K D"]) -> Float[Tensor, "K K"]:
    """Inner products of all pairs of rows, accumulated in float64.

    Args:
        rows: Shape ``(K, D)``.

    Returns:
        Shape ``(K, K)``, float64.
    """
    return cross_gram(rows, rows)


def cross_gram(first: Float[Tensor, "J D"], second: Float[Tensor, "K D"]) -> Float[Tensor, "J K"]:
    """Inner products of rows of two sets, accumulated in float64, over blocks of coordinates.

    Args:
        first: Shape ``(J, D)``.
        second: Shape ``(K, D)``.

    Returns:
        Shape ``(J, K)``, float64.
    """
    result = torch.zeros(first.shape[0], second.shape[0], dtype=torch.float64)
    for start in range(0, first.shape[1], 2**18):
        left, right = first[:, start : start + 2**18].double(), second[:, start : start + 2**18].double()
        result += left @ right.T
    return result
