"""Per-sample gradients in the form in which a rule finds them; they are formed only when needed.

A term stands for N tensors of one shape. A matrix product keeps its two factors, small gradients are stored, and the
rest is computed on demand. Every term can form any range of its samples; that is all that correctness needs. Where the
form of a term allows more, :mod:`gsnr_toolkit.gradients.taps.accumulate` uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gsnr_toolkit.gradients.taps.views import View, follow


class Term(Protocol):
    """N per-sample gradients of one shape."""

    @property
    def count(self) -> int:
        """Number N of samples."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's gradient."""
        ...

    def samples(self, start: int, stop: int) -> Tensor:
        """Form the gradients of samples ``start:stop``, shape ``(stop - start, *shape)``."""
        ...


class Part(NamedTuple):
    """Per-sample gradients of a parameter on one view of it."""

    term: Term
    views: tuple[View, ...]


@dataclass(frozen=True)
class Products:
    """Gradients ``left_i^T right_i`` of a matrix that multiplies rows.

    Attributes:
        left: Shape ``(N, T, O)``.
        right: Shape ``(N, T, I)``.
        shape: The matrix's shape, ``(O, I)`` or anything that flattens to it.
    """

    left: Tensor
    right: Tensor
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number N of samples."""
        return self.left.shape[0]

    def samples(self, start: int, stop: int) -> Tensor:
        """Form the gradients of samples ``start:stop``.

        Returns:
            Shape ``(stop - start, *shape)``.

        >>> term = Products(torch.ones(2, 3, 4), torch.ones(2, 3, 5), (4, 5))
        >>> term.samples(0, 2).shape
        torch.Size([2, 4, 5])
        """
        left, right = full_precision(self.left[start:stop]), full_precision(self.right[start:stop])
        return torch.bmm(left.mT, right).view(len(left), *self.shape)


@dataclass(frozen=True)
class Windows:
    """Products whose right factor is the windows of a convolution; the windows overlap and are not written to memory.

    Attributes:
        left: Output gradients, shape ``(N, T, O)``.
        windows: A view of the padded input, shape ``(N, *places, C, h, w)``, with T places in total.
        shape: The kernel's shape, ``(O, C, h, w)``.
    """

    left: Tensor
    windows: Tensor
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number N of samples."""
        return self.left.shape[0]

    @property
    def places(self) -> int:
        """Number of dimensions that the places span."""
        return self.windows.ndim - 4

    def products(self) -> Products:
        """Write the windows to memory."""
        # entries first: a copy along the places is contiguous for longer than one along a window's few entries
        entries_first = self.windows.movedim((-3, -2, -1), (1, 2, 3)).flatten(4).flatten(1, 3)
        return Products(self.left, entries_first.mT, self.shape)

    def samples(self, start: int, stop: int) -> Tensor:
        """Form the gradients of samples ``start:stop``."""
        return Windows(self.left[start:stop], self.windows[start:stop], self.shape).products().samples(0, stop - start)


@dataclass(frozen=True)
class Stored:
    """Gradients small enough to be materialised.

    Attributes:
        values: Shape ``(N, *shape)``.
    """

    values: Tensor

    @property
    def count(self) -> int:
        """Number N of samples."""
        return self.values.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's gradient."""
        return tuple(self.values.shape[1:])

    def samples(self, start: int, stop: int) -> Tensor:
        """Take the gradients of samples ``start:stop``."""
        return self.values[start:stop]


@dataclass(frozen=True)
class Computed:
    """Gradients that a function computes on demand.

    Attributes:
        function: ``(start, stop) -> (stop - start, *shape)``.
        count: Number N of samples.
        shape: Shape of one sample's gradient.
    """

    function: Callable[[int, int], Tensor]
    count: int
    shape: tuple[int, ...]

    def samples(self, start: int, stop: int) -> Tensor:
        """Form the gradients of samples ``start:stop``."""
        return self.function(start, stop)


@dataclass(frozen=True)
class Gathered:
    """Gradients of a table: nonzero only on the rows that a sample looked up.

    Attributes:
        rows: Rows that each sample looked up, shape ``(N, T)``.
        grads: Gradient of each look-up, shape ``(N, T, d)``.
        shape: The table's shape, ``(V, *anything that flattens to d)``.
    """

    rows: Tensor
    grads: Tensor
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number N of samples."""
        return self.rows.shape[0]

    def samples(self, start: int, stop: int) -> Tensor:
        """Form the gradients of samples ``start:stop`` as full tables."""
        grads = full_precision(self.grads[start:stop])
        tables = grads.new_zeros(stop - start, self.shape[0], grads.shape[-1])
        tables.scatter_add_(1, self.rows[start:stop].unsqueeze(-1).expand_as(grads), grads)
        return tables.view(len(tables), *self.shape)


@dataclass(frozen=True)
class Placed:
    """Gradients of a view of a parameter, in the shape of the whole parameter.

    Attributes:
        term: Gradients of the view.
        views: The view operations.
        shape: The parameter's shape.
    """

    term: Term
    views: tuple[View, ...]
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number N of samples."""
        return self.term.count

    def samples(self, start: int, stop: int) -> Tensor:
        """Form the gradients of samples ``start:stop``, zero outside the view."""
        inner = self.term.samples(start, stop)
        whole = inner.new_zeros(stop - start, *self.shape)
        for one, values in zip(whole, inner, strict=True):
            follow(self.views, one).copy_(values)
        return whole


@dataclass(frozen=True)
class Summed:
    """Sum of the gradients of several uses of one tensor, sample by sample.

    Attributes:
        terms: One term per use, all of one shape.
    """

    terms: Sequence[Term]

    @property
    def count(self) -> int:
        """Number N of samples."""
        return self.terms[0].count

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's gradient."""
        return self.terms[0].shape

    def samples(self, start: int, stop: int) -> Tensor:
        """Form the gradients of samples ``start:stop``."""
        first, *rest = (term.samples(start, stop) for term in self.terms)
        for other in rest:
            first = first + other
        return first


def add_terms(terms: Sequence[Term]) -> Term:
    """Add the gradients of several uses of one tensor, sample by sample.

    Matrix products become one product: their rows are concatenated.

    Args:
        terms: Terms of one shape.

    Returns:
        One term.
    """
    if len(terms) == 1:
        return terms[0]
    terms = [term.products() if isinstance(term, Windows) else term for term in terms]
    matrices = [term for term in terms if isinstance(term, Products)]
    if len(matrices) == len(terms):
        left, right = (torch.cat([getattr(term, side) for term in matrices], 1) for side in ("left", "right"))
        return Products(left, right, terms[0].shape)
    return Summed(terms)


def full_precision(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; return any other tensor unchanged."""
    return tensor.float() if tensor.element_size() < 4 else tensor
