"""Rows of gradients: exact where they fit into memory, unbiased sketches where they do not.

Intervals and debiased norms need inner products between gradients of different batches. A :class:`RowPlan` turns a
gradient into one row per group. While ``num_rows`` rows of P numbers fit the budget, the row *is* the gradient. Beyond
it, coordinates get random signs and are folded modulo D: the inner product of two such rows is an unbiased estimate of
the true one, with variance at most ``(|a|^2 |b|^2 + <a, b>^2) / D`` over the signs when folding is uniform (AMS / count
sketch). Where the gradient noise has more effective dimensions than D, intervals become wider, not narrower.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence
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
class GroupRow:
    """How the gradient of one group becomes a row.

    Attributes:
        name: The group.
        members: Names of its parameters.
        size: Number of its scalar parameters.
        length: Length of the row; ``size`` where the row is the gradient itself.
        dtype: Type of the row.
    """

    name: str
    members: tuple[str, ...]
    size: int
    length: int
    dtype: torch.dtype

    @property
    def exact(self) -> bool:
        """Whether the row is the gradient itself."""
        return self.length == self.size


@dataclass(frozen=True)
class RowPlan:
    """How gradients become rows.

    Attributes:
        rows: One record per group, in depth order.
        seed: Seed of the sketch's signs.
    """

    rows: tuple[GroupRow, ...]
    seed: int = 0

    @functools.cached_property
    def group_names(self) -> tuple[str, ...]:
        """Groups in depth order."""
        return tuple(row.name for row in self.rows)

    @functools.cached_property
    def members(self) -> dict[str, tuple[str, ...]]:
        """Group name to the names of its parameters."""
        return {row.name: row.members for row in self.rows}

    @property
    def exact(self) -> bool:
        """Whether every row is the gradient itself."""
        return all(row.exact for row in self.rows)

    def project(self, vector: Params) -> list[Tensor]:
        """Turn one gradient into one row per group.

        Args:
            vector: Parameter name to a tensor of its shape. A group without any of its parameters in it gives an empty
                row.

        Returns:
            One detached tensor on the CPU per group, in order, each of shape ``(length,)``.
        """
        return [self._project(row, vector).cpu() for row in self.rows]

    def empty_rows(self) -> list[Tensor]:
        """Return zeros of the shapes and types that :meth:`project` gives for whole gradients."""
        return [torch.zeros(row.length, dtype=row.dtype) for row in self.rows]

    def _project(self, row: GroupRow, vector: Params) -> Tensor:
        parts = [(name, vector[name].detach().reshape(-1)) for name in row.members if name in vector]
        if not parts:
            return torch.zeros(0)
        if sum(part.numel() for _, part in parts) <= row.length:
            flat = torch.cat([part for _, part in parts])
            return flat.float() if flat.element_size() < 4 else flat
        sketch = torch.zeros(row.length, dtype=torch.float32, device=parts[0][1].device)
        for name, part in parts:
            # The signs depend on the parameter's name alone, so that ranks and batches agree on them.
            _fold(part.float(), sketch, seed=self.seed ^ zlib.crc32(name.encode()))
        return sketch


def plan_rows(
    params: Params, groups: Mapping[str, Group], *, num_rows: int, budget: int = DEFAULT_BUDGET, seed: int = 0
) -> RowPlan:
    """Decide for each group between exact rows and sketches.

    Args:
        params: Parameters by name.
        groups: Parameter name to group.
        num_rows: Number of rows that are in memory together.
        budget: Bytes they may take.
        seed: Seed of the sketch's signs.

    Returns:
        A plan that is exact when ``num_rows`` gradients fit. Otherwise it splits the budget between groups so that
        small groups stay exact.
    """
    order = sorted({group.name: group.depth for group in groups.values()}.items(), key=lambda item: item[1])
    members = {group: tuple(name for name in params if groups[name].name == group) for group, _ in order}
    sizes = {group: sum(params[name].numel() for name in names) for group, names in members.items()}
    width = max(param.element_size() for param in params.values())
    lengths = _split_budget(sizes, budget // (max(num_rows, 1) * max(width, 4)))
    rows = []
    for group, names in members.items():
        size, length = sizes[group], lengths[group]
        dtype = _exact_dtype([params[name] for name in names]) if length == size else torch.float32
        rows.append(GroupRow(group, names, size, length, dtype))
    return RowPlan(tuple(rows), seed)


def _split_budget(sizes: Mapping[str, int], numbers: int) -> dict[str, int]:
    """Give each group a row length, smallest group first; what it leaves of its share goes to the larger ones."""
    lengths, left = {}, numbers
    for position, group in enumerate(sorted(sizes, key=lambda group: sizes[group])):
        share = max(left // (len(sizes) - position), _SMALLEST_SKETCH)
        # An odd length has no factor of two in common with the widths of layers, so that folding mixes their rows.
        lengths[group] = sizes[group] if sizes[group] <= share else share - 1 + share % 2
        left -= lengths[group]
    return lengths


def _exact_dtype(params: Sequence[Tensor]) -> torch.dtype:
    """Return the common type of some gradients, float32 or better."""
    return functools.reduce(torch.promote_types, (param.dtype for param in params), torch.float32)


def _fold(flat: Tensor, row: Tensor, *, seed: int) -> None:
    """Add a vector to a row, signed and folded, in blocks of some million numbers."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    length = row.numel()
    step = length * max(1, 2**22 // length)
    for start in range(0, flat.numel(), step):
        piece = flat[start : start + step]
        signs = torch.empty(piece.numel(), dtype=torch.int8).random_(0, 2, generator=generator).mul_(2).sub_(1)
        signed = torch.nn.functional.pad(piece * signs.to(piece.device), (0, -piece.numel() % length))
        row += signed.view(-1, length).sum(0)


def gram(rows: Float[Tensor, "K D"]) -> Float[Tensor, "K K"]:
    """Compute the inner products of all pairs of rows, accumulated in float64.

    Args:
        rows: Shape ``(K, D)``.

    Returns:
        Shape ``(K, K)``, float64.
    """
    return cross_gram(rows, rows)


def cross_gram(first: Float[Tensor, "J D"], second: Float[Tensor, "K D"]) -> Float[Tensor, "J K"]:
    """Compute the inner products between two sets of rows, accumulated in float64 over blocks of coordinates.

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
