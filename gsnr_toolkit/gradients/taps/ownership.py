"""Find out which rows of an operation's output belong to which sample, from gradients and without assumptions.

The gradient of one sample's loss is zero at every entry that belongs to another sample. The gradients of three samples'
losses, taken one after the other, therefore show where each sample's entries are: along which dimension, and whether in
blocks (sample-major) or in turns (sample-minor, as in layouts with tokens first). Values that all samples share, such
as a transposed weight, show as entries that several samples reach.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gsnr_toolkit.errors import NonFiniteError


@dataclass(frozen=True, order=True)
class Owner:
    """How a tensor is split by sample.

    Attributes:
        dim: The dimension that counts samples.
        minor: Whether samples take turns along it (index modulo N) instead of forming blocks.
    """

    dim: int
    minor: bool = False

    def split(self, tensor: Tensor, count: int) -> Tensor:
        """Move samples to the first dimension.

        Args:
            tensor: A tensor split in this way; its dimension ``dim`` is a multiple of N.
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
    """What the gradients of single samples show about one value.

    Attributes:
        candidates: Ways to split the value by sample that no gradient has ruled out.
        reached: Samples with a nonzero gradient.
        overlap: Whether two samples reached the same entry: the value is shared, or the model mixes samples.
    """

    candidates: set[Owner]
    reached: set[int] = field(default_factory=set)
    overlap: bool = False
    _touched: Tensor | None = None

    @classmethod
    def of_shape(cls, shape: tuple[int, ...], count: int) -> Evidence:
        """Start with all candidates that the shape allows."""
        found = set()
        for dim, size in enumerate(shape):
            if size and size % count == 0:
                found.add(Owner(dim))
                if size > count:
                    found.add(Owner(dim, minor=True))
        return cls(found)

    def see(self, gradient: Tensor, sample: int, count: int) -> None:
        """Rule out candidates by the gradient of one sample's loss.

        Args:
            gradient: Gradient of the value, of its shape.
            sample: Which of the N samples.
            count: Number N of samples.

        Raises:
            NonFiniteError: If an entry is NaN or infinite: such entries spread to the rows of all samples.
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
        """Free the record of entries; the conclusions stay."""
        self._touched = None


def _project(hit: Tensor, dim: int) -> Tensor:
    """Return which indices along a dimension hold a nonzero entry."""
    return hit.movedim(dim, 0).reshape(hit.shape[dim], -1).any(1)


def _only(line: Tensor, owner: Owner, sample: int, count: int) -> bool:
    """Whether a gradient reached this sample's indices and no others."""
    reached = Owner(0, owner.minor).split(line, count).any(1)
    return bool(reached[sample]) and int(reached.sum()) == 1


def common_owner(evidences: list[tuple[tuple[int, ...], Evidence]], counts: list[int]) -> Owner | None:
    """Return the only way to split a value by sample that all evidence allows.

    Args:
        evidences: Shape and evidence of the same value for several numbers of samples.
        counts: Those numbers.

    Returns:
        The owner, or None if several or none remain. Where a dimension counts samples and nothing else, blocks and
        turns are the same.

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
    """Return the output gradient that selects the loss of one sample, shape ``(N,)``."""
    weights = torch.zeros_like(losses)
    weights[sample] = 1
    return weights
