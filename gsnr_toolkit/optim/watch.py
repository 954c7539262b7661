"""What SAM finds out about the gradients that it is given: left over, standing, reused or still scaled."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from gsnr_toolkit.optim.perturbation import as_real
from gsnr_toolkit.types import Params

STANDING = (
    "expected no gradients when step(closure) begins, got gradients of an earlier backward, which the step drops: only "
    "what the closure computes counts; run all micro-batches of a step inside the closure (a trainer that accumulates "
    "gradients runs only the last one there), or call zero_grad() first if another loss left them, as in a GAN"
)
REUSED = (
    "expected a second backward at the perturbed weights, got the first gradient again, bit for bit: if it went "
    "through the graph of the first forward pass, SAM does nothing; run the model again between the two backwards "
    "(inside the closure). Only a loss that is linear in the weights may ignore this"
)
SCALED = (
    "expected both gradients of a step in one scale, got a second one {ratio:.3g} times as long as the first; with a "
    "GradScaler, pass scaler=scaler to step(), or to first_step() and to second_step(); without one, ignore this if "
    "the first gradient was close to zero"
)
_JUMP = 1000.0
"""A second gradient this many times as long as the first is taken for a scaled one; scales start at 2^16."""
_EVERY = 64
"""Ascents from one comparison to the next while nothing is wrong; it reads both gradients once more."""


class GradientWatch:
    """Remembers as little as is needed to tell whose gradients those are that a step meets.

    The two gradients of a step are compared until a step has shown that they differ as they should. From then on one
    step in :data:`_EVERY` is compared: a loop may begin to go wrong at any time, as with losses cached after an epoch.
    """

    def __init__(self) -> None:
        self._left: dict[int, tuple[TensorWeakRef, int]] | None = None
        self._ascent: list[tuple[Tensor, Tensor]] = []
        self._pause = 0

    def __reduce__(self) -> tuple[type[GradientWatch], tuple[()]]:
        return GradientWatch, ()  # weak references cannot be copied

    def leave(self, params: Iterable[Tensor]) -> None:
        """Note the gradients that a finished step leaves behind."""
        self._left = {id(p): (TensorWeakRef(p.grad), p.grad._version) for p in params if p.grad is not None}
        self._ascent = []

    def forget(self) -> None:
        """Know nothing of the gradients that stand, as before the first step."""
        self._left = None

    def standing(self, params: Iterable[Tensor]) -> bool:
        """Whether a backward since the last step has left a gradient that is not zero.

        Returns:
            False before the first step: another optimizer may have left what stands there.
        """
        left = self._left
        return left is not None and any(
            param.grad is not None and not _is_left(left.get(id(param)), param.grad) for param in params
        )

    def ascended(self, params: Params) -> None:
        """Note the gradient along which the weights were moved, before anyone clears it."""
        if self._pause:
            self._pause -= 1
        else:
            self._ascent = [(param, _size(param.grad)) for param in params.values() if param.grad is not None]

    def fault(self) -> str | None:
        """Compare the second gradient of a step with the first; to be asked before the descent.

        Parameters that have only one of the two gradients, such as those of a layer dropped at random, do not count.

        Returns:
            What is wrong, as a sentence; None if nothing is.
        """
        pairs = [(size, _size(param.grad)) for param, size in self._ascent if param.grad is not None]
        self._ascent = []
        if not pairs:
            return None
        before, after = (_length(sizes) for sizes in zip(*pairs, strict=True))
        if before and all(torch.equal(one, two) for one, two in pairs):
            return REUSED
        if before and after / before > _JUMP:
            return SCALED.format(ratio=after / before)
        self._pause = _EVERY - 1
        return None


def _is_left(known: tuple[TensorWeakRef, int] | None, grad: Tensor) -> bool:
    """Whether a gradient is the very one that the last step left, or zero."""
    if known is not None and known[0]() is grad and known[1] == grad._version:
        return True
    return not bool(torch.count_nonzero(_dense(grad)))


def _size(grad: Tensor) -> Tensor:
    """Norm and sum of a gradient: they tell gradients apart and cost no copy of them."""
    values = as_real(_dense(grad))
    return torch.stack([torch.linalg.vector_norm(values), values.sum()])


def _length(sizes: Iterable[Tensor]) -> float:
    return math.hypot(*(float(size[0].abs()) for size in sizes))


def _dense(grad: Tensor) -> Tensor:
    """Values of a gradient: of its non-zero rows if it is sparse, of this process's shard if it is sharded."""
    grad = grad.to_local() if hasattr(grad, "to_local") else grad
    return grad.coalesce().values() if grad.is_sparse else grad
