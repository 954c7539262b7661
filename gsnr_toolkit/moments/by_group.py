"""Mean gradients, and spreads summed over each parameter: what group-level quantities need, at half the memory.

A group's GSNR needs the trace of the covariance, not its diagonal. Here each parameter keeps its mean gradient and one
number, the sum over entries and samples of centred squares. The verbs are those of
:class:`~gsnr_toolkit.moments.by_parameter.Moments`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gsnr_toolkit.types import Params


@dataclass
class GroupMoments:
    r"""Count, mean per entry, and per parameter :math:`\sum_i |g_i - \bar g|^2`.

    >>> moments = GroupMoments()
    >>> moments.update({"w": torch.tensor([[1.0, 0.0], [3.0, 0.0]])})
    >>> moments.count, moments.mean["w"].tolist(), moments.spread(["w"])
    (2, [2.0, 0.0], 2.0)
    """

    count: int = 0
    mean: Params = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)

    def place(self, name: str, like: Tensor, *, blank: bool = False) -> Tensor:
        """Give out the mean of one parameter, zero at first; the count is the caller's to raise.

        Args:
            name: The parameter.
            like: A tensor of its shape and device; the mean has at least float32.
            blank: Leave a new one uninitialised, for the first samples to overwrite.

        Returns:
            The mean, to be changed by :meth:`merge_in`, or in place together with :meth:`grow`.
        """
        if name not in self.mean:
            dtype = torch.promote_types(like.dtype, torch.float32)
            self.mean[name] = (torch.empty if blank else torch.zeros)(like.shape, dtype=dtype, device=like.device)
            self.squares[name] = 0.0
        return self.mean[name]

    def merge_in(self, name: str, seen: int, added: int, mean: Tensor, spread: float) -> None:
        r"""Merge one parameter's moments of some more samples in (Chan et al.); in place.

        Args:
            name: The parameter.
            seen: Samples of this parameter so far; :attr:`count` is the caller's to raise.
            added: New samples.
            mean: Their mean; used up. Before the first sample it may lie in what :meth:`place` gave out.
            spread: Their :math:`\sum_i |g_i - \bar g|^2`.
        """
        self.grow(name, spread + merge_mean(self.place(name, mean), seen, added, mean))

    def grow(self, name: str, by: float) -> None:
        """Add to one parameter's sum of centred squares what new samples, merged into its mean, make it grow by."""
        self.squares[name] += by

    def sort(self, names: Collection[str]) -> None:
        """Put the parameters into the order of the names, which are all of theirs."""
        self.mean = {name: self.mean[name] for name in names}
        self.squares = {name: self.squares[name] for name in names}

    def update(self, grads: Mapping[str, Tensor]) -> None:
        """Take in more samples, shape ``(c, *shape)`` each, in place."""
        added = len(next(iter(grads.values())))
        for name, grad in grads.items():
            full = grad.float() if grad.element_size() < 4 else grad
            mean = full.mean(0)
            self.merge_in(name, self.count, added, mean, _sqnorm(full - mean) if added > 1 else 0.0)
        self.count += added

    def absorb(self, other: GroupMoments) -> None:
        """Merge another shard into this one, in place; the other stays as it was.

        Raises:
            ValueError: If the two hold different parameters.
        """
        if other.count == 0:
            return
        if self.count and self.mean.keys() != other.mean.keys():
            odd = sorted(self.mean.keys() ^ other.mean.keys())
            raise ValueError(f"expected moments of the same parameters, got {odd[:4]} on one side only")
        for name, mean in other.mean.items():
            self.merge_in(name, self.count, other.count, mean.clone(), other.squares[name])
        self.count += other.count

    def spread(self, names: Iterable[str]) -> float:
        """Sum of centred squares over all entries of some parameters.

        Returns:
            In squared units of the gradient.
        """
        return sum(self.squares[name] for name in names)

    def is_zero(self, name: str) -> bool:
        """Whether a parameter's gradient was exactly zero for every sample."""
        return self.squares[name] == 0 and not bool(self.mean[name].any())


def merge_mean(mean: Tensor, seen: int, added: int, other: Tensor) -> float:
    """Merge the mean of more samples in (Chan et al.); in place.

    Args:
        mean: Mean of the samples so far; overwritten where there were none.
        seen: How many they are.
        added: New samples.
        other: Their mean; used up. Before the first sample it may be ``mean`` itself.

    Returns:
        What the sum of all centred squares grows by beside the new samples' own.

    >>> mean = torch.tensor([2.0])  # of 1 and 3
    >>> merge_mean(mean, 2, 1, torch.tensor([8.0])), mean.item()
    (24.0, 4.0)
    """
    if not seen:
        if other is not mean:
            mean.copy_(other)
        return 0.0
    gap, both = other.sub_(mean), seen + added
    mean.add_(gap, alpha=added / both)
    return _sqnorm(gap) * seen * added / both


def _sqnorm(tensor: Tensor) -> float:
    """Squared norm; float32 products are added up in float64 block by block."""
    flat = tensor.reshape(-1)
    parts = [torch.dot(block, block) for block in flat.split(2**16)] if flat.numel() else [flat.new_zeros(())]
    return float(torch.stack(parts).double().sum())
