"""Mean and centred second moment of per-sample gradients, entry by entry, in one pass.

Source: Chan, Golub & LeVeque (1979). Do not compute ``E[g^2] - E[g]^2``: in float32 that difference is wrong by
17 % where |mean| is a thousand standard deviations, and negative for almost half the entries at ten thousand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gsnr_toolkit.moments.parts import Part
from gsnr_toolkit.support.arguments import check_arguments, instance
from gsnr_toolkit.types import Params


@dataclass
class Moments:
    r"""Count, mean and sum of centred squares per entry.

    With samples :math:`g_1..g_n`: ``mean`` is :math:`\bar g`, ``m2`` is :math:`\sum_i (g_i - \bar g)^2`,
    both of the parameter's shape, and the unbiased variance is ``m2 / (count - 1)``.

    >>> moments = Moments()
    >>> moments.update({"w": torch.tensor([[1.0], [3.0]])})
    >>> moments.count, moments.mean["w"].item(), moments.m2["w"].item()
    (2, 2.0, 2.0)
    """

    count: int = 0
    mean: Params = field(default_factory=dict)
    m2: Params = field(default_factory=dict)

    @classmethod
    def from_samples(cls, grads: Mapping[str, Tensor]) -> Moments:
        """Compute the moments of one chunk of samples.

        Args:
            grads: Name to samples, shape ``(c, *shape)``, with the same c for every name.

        Returns:
            Their moments, in float32 or better; for c = 1 the mean may be a view of the sample.
        """
        grads = {name: grad.float() if grad.element_size() < 4 else grad for name, grad in grads.items()}
        count = next(iter(grads.values())).shape[0]
        if count == 1:
            mean = {name: grad[0] for name, grad in grads.items()}
            return cls(1, mean, {name: torch.zeros_like(value) for name, value in mean.items()})
        mean = {name: grad.mean(0) for name, grad in grads.items()}
        m2 = {name: (grad - mean[name]).square_().sum(0) for name, grad in grads.items()}
        return cls(count, mean, m2)

    def place(self, name: str, like: Tensor, *, blank: bool = False) -> tuple[Tensor, Tensor]:
        """Return the two accumulators of one parameter, creating them on first use; the caller raises the count.

        Args:
            name: The parameter.
            like: A tensor of its shape and device; the accumulators are float32 or better.
            blank: Leave new accumulators uninitialised, because the first samples overwrite them.

        Returns:
            Mean and sum of centred squares, to be changed in place, for example by :func:`merge_in`.
        """
        if name not in self.mean:
            dtype = torch.promote_types(like.dtype, torch.float32)
            make = torch.empty if blank else torch.zeros
            self.mean[name] = make(like.shape, dtype=dtype, device=like.device)
            self.m2[name] = make(like.shape, dtype=dtype, device=like.device)
        return self.mean[name], self.m2[name]

    def add_parts(self, name: str, like: Tensor, seen: int, parts: Sequence[Part]) -> None:
        """Add some samples' gradients of one parameter; the caller raises the count after the last parameter.

        Args:
            name: The parameter.
            like: A tensor of its shape and device.
            seen: Number of samples of this parameter so far.
            parts: The gradients, on disjoint views of the parameter; they are zero elsewhere.
        """
        whole = len(parts) == 1 and parts[0].whole
        mean, m2 = self.place(name, like, blank=whole and parts[0].dense)
        if seen and not whole:
            _add_zeros_around(mean, m2, seen, parts)
        for part in parts:
            part.merge(part.view(mean), part.view(m2), seen)

    def sort(self, names: Collection[str]) -> None:
        """Reorder the parameters; ``names`` must hold every one of them."""
        self.mean, self.m2 = ({name: held[name] for name in names} for held in (self.mean, self.m2))

    def update(self, grads: Mapping[str, Tensor]) -> None:
        """Add samples, each of shape ``(c, *shape)``, in place."""
        self.absorb(Moments.from_samples(grads))

    def absorb(self, other: Moments) -> None:
        r"""Merge another shard into this one, in place; the other is left unchanged.

        With :math:`\delta = \bar g_b - \bar g_a`:
        :math:`\bar g = \bar g_a + \delta n_b / n`, :math:`M = M_a + M_b + \delta^2 n_a n_b / n`.

        Raises:
            ValueError: If the two hold different parameters, or the other is no ``Moments``.
        """
        check_arguments(other=(other, instance(Moments, "moments", "pass a Moments, such as Moments.from_samples()")))
        if other.count == 0:
            return
        if self.count == 0:
            self.count = other.count
            self.mean = {name: value.clone() for name, value in other.mean.items()}
            self.m2 = {name: value.clone() for name, value in other.m2.items()}
            return
        check_same_parameters(self.mean, other.mean)
        for name, mean in self.mean.items():
            merge_in(mean, self.m2[name], self.count, other.count, other.mean[name].clone(), other.m2[name])
        self.count += other.count

    def merge(self, other: Moments) -> Moments:
        """Merge two shards into new moments; both are left unchanged."""
        merged = Moments()
        merged.absorb(self)
        merged.absorb(other)
        return merged

    def spread(self, names: Iterable[str]) -> float:
        """Sum the centred squares over all entries of some parameters, in float64: ``sum_j m2_j``."""
        return sum(float(self.m2[name].double().sum()) for name in names)

    def is_zero(self, name: str) -> bool:
        """Whether a parameter's gradient was exactly zero for every sample."""
        return not (bool(self.m2[name].any()) or bool(self.mean[name].any()))


def merge_in(mean: Tensor, m2: Tensor, seen: int, added: int, other_mean: Tensor, other_m2: Tensor) -> None:
    r"""Merge the moments of new samples into running moments, in place (Chan et al.).

    Args:
        mean: Mean of the samples so far.
        m2: Their sum of centred squares.
        seen: Number of samples so far.
        added: Number of new samples.
        other_mean: Mean of the new samples; overwritten.
        other_m2: Their sum of centred squares.

    >>> mean, m2 = torch.tensor([2.0]), torch.tensor([2.0])  # of 1 and 3
    >>> merge_in(mean, m2, 2, 1, torch.tensor([8.0]), torch.tensor([0.0]))  # and 8
    >>> mean.item(), m2.item()
    (4.0, 26.0)
    """
    gap, total = other_mean.sub_(mean), seen + added
    m2.add_(other_m2).addcmul_(gap, gap, value=seen * added / total)
    mean.add_(gap, alpha=added / total)


def add_zeros(mean: Tensor, m2: Tensor, seen: int, added: int) -> None:
    """Merge samples whose gradient is zero, in place."""
    m2.addcmul_(mean, mean, value=seen * added / (seen + added))
    mean.mul_(seen / (seen + added))


def check_same_parameters(mine: Collection[str], others: Collection[str]) -> None:
    """Check that two shards hold the same parameters.

    Raises:
        ValueError: If one holds a parameter that the other lacks.
    """
    odd = sorted(set(mine) ^ set(others))
    if odd:
        raise ValueError(
            f"expected moments of the same parameters, got {odd[:4]} on one side only; merge shards of one task"
        )


def _add_zeros_around(mean: Tensor, m2: Tensor, seen: int, parts: Sequence[Part]) -> None:
    """Add gradients of zero outside all parts; the entries inside them are left for the parts to update."""
    held = [(part.view(mean).clone(), part.view(m2).clone()) for part in parts]
    if sum(kept.numel() for kept, _ in held) == mean.numel():
        return
    # The complement of several views has no view of its own: update everything, then restore the parts.
    add_zeros(mean, m2, seen, parts[0].count)
    for part, (kept_mean, kept_m2) in zip(parts, held, strict=True):
        part.view(mean).copy_(kept_mean)
        part.view(m2).copy_(kept_m2)
