"""What the two classes of moments ask of new samples, so that an engine never has to form all of them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable  # tests check argument types at run time
class Part(Protocol):
    """Gradients of new samples with respect to one parameter, or to a view of it; zero outside that view."""

    @property
    def count(self) -> int:
        """Number of samples."""
        ...

    @property
    def whole(self) -> bool:
        """Whether the view is the whole parameter."""
        ...

    @property
    def dense(self) -> bool:
        """Whether merging writes every entry of the view, so that it may hold anything before the first sample."""
        ...

    def view(self, tensor: Tensor) -> Tensor:
        """Take the view of a tensor that has the parameter's shape; it shares memory."""
        ...

    def merge(self, mean: Tensor, m2: Tensor | None, seen: int) -> float:
        """Merge the samples into views of both moments; without ``m2``, return the growth of the sum of its entries."""
        ...

    def prefers_norms(self, mean: Tensor) -> bool:
        """Whether mean and spread of the samples alone cost less than merging them into the mean."""
        ...

    def spread_into(self, mean: Tensor) -> float:
        """Write the samples' mean into zeros, and return their sum of squared deviations from it."""
        ...
