"""Which rows of an operation's output belong to which sample: found out from gradients, not assumed.

The gradient of one sample's loss is zero at every entry that belongs to another sample. So the gradients of
three samples' losses, one after the other, show where in an output each sample lives: along which dimension, and
there in blocks (sample-major) or in turns (sample-minor, as where tokens come first). Values that all samples share,
such as a transposed weight, show as entries that several samples reach.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gsnr_toolkit.errors import NonFiniteError


@dataclass(frozen=True, order=True)
class Owner:
    """How the entries of a tensor are dealt out to N samples.

    Attributes:
        dim: The dimension that counts samples.
        minor: Whether samples take turns along it (index modulo N) rather than stand in blocks.
    """

    dim: int
    minor: bool = False

    def split(self, tensor: Tensor, count: int) -> Tensor:
        """Put samples first.

        Args:
            tensor: A tensor dealt out like this, its dimension ``dim`` a multiple of N.
            count: Number N of samples.

        Returns:
            Shape ``(N, *before, T, *after)``, where T is the sample's share of dimension ``dim``.

        >>> rows = torch.tensor([0, 1, 0, 1, 0, 1])
        >>> Owner(0, minor=True).split(rows, 2)
        tensor([[0, 0, 0],
                [1, 1, 1]])
        """
        share = tensor.shape[self.dim] // count
        sizes = (share, count) if self.minor else (count, share)
        split = tensor.unflatten(self.dim, sizes)
        return split.movedim(self.dim + int(self.minor), 0)


@dataclass
class Evidence:
    """What the gradients of single samples say about one value.

    Attributes:
        candidates: Ways to deal out the entries that no gradient has spoken against.
        reached: Samples that had any gradient there.
        overlap: Whether two samples reached one entry: the value is shared, or samples are mixed.
    """

    candidates: set[Owner]
    reached: set[int] = field(default_factory=set)
    overlap: bool = False
    _touched: Tensor | None = None

    @classmethod
    def of_shape(cls, shape: tuple[int, ...], count: int) -> Evidence:
        """Everything that the shape alone allows.

        Returns:
            Evidence without any gradient seen.
        """
        found = set()
        for dim, size in enumerate(shape):
            if size and size % count == 0:
                found.add(Owner(dim))
                if size > count:
                    found.add(Owner(dim, minor=True))
        return cls(found)

    def see(self, gradient: Tensor, sample: int, count: int) -> None:
        """Take in the gradient of one sample's loss.

        Args:
            gradient: Gradient of the value, of its shape.
            sample: Which of the N samples.
            count: Number N of samples.

        Raises:
            NonFiniteError: If an entry is NaN or infinite: that reaches the rows of all samples.
        """
        if not torch.isfinite(gradient).all():
            raise NonFiniteError(
                "expected finite gradients to see which rows belong to which sample, got NaN or infinity; look for "
                "sqrt(0), log(0) or a norm of zero in the model, or for inputs that are not finite"
            )
        hit = gradient != 0
        if not bool(hit.any()):
            return
        self.reached.add(sample)
        if self._touched is not None and not self.overlap:
            self.overlap = bool((self._touched & hit).any())
        self._touched = hit if self._touched is None else self._touched | hit
        lines = {dim: _project(hit, dim) for dim in {owner.dim for owner in self.candidates}}
        self.candidates = {owner for owner in self.candidates if _only(lines[owner.dim], owner, sample, count)}

    def forget(self) -> None:
        """Drop the record of entries; the verdicts stay."""
        self._touched = None


def _project(hit: Tensor, dim: int) -> Tensor:
    """Which places along a dimension hold any entry."""
    return hit.movedim(dim, 0).reshape(hit.shape[dim], -1).any(1)


def _only(line: Tensor, owner: Owner, sample: int, count: int) -> bool:
    reached = Owner(0, owner.minor).split(line, count).any(1)
    return bool(reached[sample]) and int(reached.sum()) == 1


def common_owner(evidences: list[tuple[tuple[int, ...], Evidence]], counts: list[int]) -> Owner | None:
    """The one way to deal out a value's entries that all evidence allows.

    Args:
        evidences: Shape and evidence of the same value for several numbers of samples.
        counts: Those numbers.

    Returns:
        The owner; None where several remain, or none. Where a dimension counts samples and nothing else, blocks and
        turns are the same thing.

    >>> shapes = [(3, 7), (5, 7)]
    >>> common_owner([(shape, Evidence.of_shape(shape, n)) for shape, n in zip(shapes, (3, 5))], [3, 5])
    Owner(dim=0, minor=False)
    """
    left = set.intersection(*(evidence.candidates for _, evidence in evidences))
    shares = {
        owner: {shape[owner.dim] / count for (shape, _), count in zip(evidences, counts, strict=True)} for owner in left
    }
    left = {owner for owner in left if len(shares[owner]) == 1}
    return next(iter(left)) if len(left) == 1 else None


def one_hot(sample: int, losses: Tensor) -> Tensor:
    """Gradient that picks the loss of one sample.

    Returns:
        Shape ``(N,)``.
    """
    weights = torch.zeros_like(losses)
    weights[sample] = 1
    return weights
