"""Mean gradient per entry and one spread per parameter: enough for groups, at half the memory.

A group's GSNR needs the trace of the covariance, not its diagonal. Each parameter therefore keeps its mean gradient and
one number: the centred squares summed over entries and samples. The methods are those of
:class:`~gsnr_toolkit.moments.by_parameter.Moments`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gsnr_toolkit.moments.by_parameter import check_same_parameters
from gsnr_toolkit.moments.parts import Part
from gsnr_toolkit.types import Params


@dataclass
class GroupMoments:
    r"""Count, mean per entry, and :math:`\sum_i |g_i - \bar g|^2` per parameter.

    >>> moments = GroupMoments()
    >>> moments.update({"w": torch.tensor([[1.0, 0.0], [3.0, 0.0]])})
    >>> moments.count, moments.mean["w"].tolist(), moments.spread(["w"])
    (2, [2.0, 0.0], 2.0)
    """

    count: int = 0
    mean: Params = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)

    def place(self, name: str, like: Tensor, *, blank: bool = False) -> Tensor:
        """Return the mean of one parameter, creating it on first use; the caller raises the count.

        Args:
            name: The parameter.
            like: A tensor of its shape and device; the mean is float32 or better.
            blank: Leave a new mean uninitialised, because the first samples overwrite it.

        Returns:
            The mean, to be changed by :meth:`merge_in`, or in place together with :attr:`squares`.
        """
        if name not in self.mean:
            dtype = torch.promote_types(like.dtype, torch.float32)
            self.mean[name] = (torch.empty if blank else torch.zeros)(like.shape, dtype=dtype, device=like.device)
            self.squares[name] = 0.0
        return self.mean[name]

    def add_parts(self, name: str, like: Tensor, seen: int, parts: Sequence[Part]) -> None:
        """Add some samples' gradients of one parameter; the caller raises the count after the last parameter.

        Args:
            name: The parameter.
            like: A tensor of its shape and device.
            seen: Number of samples of this parameter so far.
            parts: The gradients, on disjoint views of the parameter; they are zero elsewhere.
        """
        first = parts[0]
        overwrites = len(parts) == 1 and first.whole and first.dense
        held = self.place(name, like, blank=overwrites)
        if overwrites and not first.prefers_norms(held):
            self.squares[name] += first.merge(held, None, seen)
            return
        mean = torch.zeros_like(held) if seen else held
        spread = sum(part.spread_into(part.view(mean)) for part in parts)
        self.merge_in(name, seen, first.count, mean, spread)

    def merge_in(self, name: str, seen: int, added: int, mean: Tensor, spread: float) -> None:
        r"""Merge the moments of new samples of one parameter, in place (Chan et al.).

        Args:
            name: The parameter.
            seen: Number of its samples so far; the caller raises :attr:`count`.
            added: Number of new samples.
            mean: Mean of the new samples; overwritten. Before the first sample it may be the tensor from :meth:`place`.
            spread: Their :math:`\sum_i |g_i - \bar g|^2`.
        """
        growth = spread + merge_mean(self.place(name, mean), seen, added, mean)
        self.squares[name] += growth

    def sort(self, names: Collection[str]) -> None:
        """Reorder the parameters; ``names`` must hold every one of them."""
        self.mean = {name: self.mean[name] for name in names}
        self.squares = {name: self.squares[name] for name in names}

    def update(self, grads: Mapping[str, Tensor]) -> None:
        """Add samples, each of shape ``(c, *shape)``, in place."""
        added = len(next(iter(grads.values())))
        for name, grad in grads.items():
            full = grad.float() if grad.element_size() < 4 else grad
            mean = full.mean(0)
            self.merge_in(name, self.count, added, mean, _sqnorm(full - mean) if added > 1 else 0.0)
        self.count += added

    def absorb(self, other: GroupMoments) -> None:
        """Merge another shard into this one, in place; the other is left unchanged.

        Raises:
            ValueError: If the two hold different parameters.
        """
        if other.count == 0:
            return
        if self.count:
            check_same_parameters(self.mean, other.mean)
        for name, mean in other.mean.items():
            self.merge_in(name, self.count, other.count, mean.clone(), other.squares[name])
        self.count += other.count

    def spread(self, names: Iterable[str]) -> float:
        """Sum the centred squares over all entries of some parameters, in squared units of the gradient."""
        return sum(self.squares[name] for name in names)

    def is_zero(self, name: str) -> bool:
        """Whether a parameter's gradient was exactly zero for every sample."""
        return self.squares[name] == 0 and not bool(self.mean[name].any())


def merge_mean(mean: Tensor, seen: int, added: int, other: Tensor) -> float:
    """Merge the mean of new samples into a running mean, in place (Chan et al.).

    Args:
        mean: Mean of the samples so far; overwritten when ``seen`` is 0.
        seen: Number of samples so far.
        added: Number of new samples.
        other: Mean of the new samples; overwritten. When ``seen`` is 0 it may be ``mean`` itself.

    Returns:
        Increase of the total sum of centred squares, on top of the new samples' own sum.

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
    """Return the squared norm; products in float32 are summed in float64, block by block."""
    flat = tensor.reshape(-1)
    parts = [torch.dot(block, block) for block in flat.split(2**16)] if flat.numel() else [flat.new_zeros(())]
    return float(torch.stack(parts).double().sum())
