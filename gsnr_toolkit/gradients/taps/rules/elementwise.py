"""Rules of elementwise operations."""

from __future__ import annotations

from gsnr_toolkit.gradients.taps.rules.use import Use, added, reduce_to, rule, same_for_all_samples
from gsnr_toolkit.gradients.taps.terms import Stored, Term


@rule("AddBackward")
def _add(use: Use) -> Term | None:
    return added(use, use.node._saved_alpha if use.slot == 1 else 1)


@rule("SubBackward")
def _subtract(use: Use) -> Term | None:
    return added(use, -use.node._saved_alpha if use.slot == 1 else 1)


@rule("RsubBackward")
def _subtract_reversed(use: Use) -> Term | None:
    return added(use, -use.node._saved_alpha if use.slot == 0 else 1)


@rule("MulBackward")
def _multiply(use: Use) -> Term | None:
    other = use.node._saved_other if use.slot == 0 else use.node._saved_self
    if not same_for_all_samples(use) or other is None:
        return None
    return Stored(reduce_to(use.grad * use.split(other.broadcast_to(use.output_shape)), use.shape))


@rule("DivBackward")
def _divide(use: Use) -> Term | None:
    if not same_for_all_samples(use):
        return None
    other = use.node._saved_other
    if use.slot == 0:
        return Stored(reduce_to(use.grad / use.split(other.broadcast_to(use.output_shape)), use.shape))
    ratio = use.node._saved_self / other**2
    return Stored(reduce_to(-use.grad * use.split(ratio.broadcast_to(use.output_shape)), use.shape))


@rule("AddcmulBackward")
def _add_product(use: Use) -> Term | None:
    """``self + value * tensor1 * tensor2``."""
    if use.slot == 0:
        return added(use, 1)
    other = use.node._saved_tensor2 if use.slot == 1 else use.node._saved_tensor1
    if not same_for_all_samples(use) or other is None:
        return None
    factor = use.split(other.broadcast_to(use.output_shape))
    return Stored(reduce_to(use.grad * factor * use.node._saved_value, use.shape))


@rule("ExpandBackward")
def _expand(use: Use) -> Term | None:
    return added(use, 1)


@rule("RepeatBackward")
def _repeat(use: Use) -> Term | None:
    if use.owner.minor or use.owner.dim != 0:
        return None
    sizes = (1,) * (len(use.output_shape) - len(use.shape)) + use.shape
    if use.output_shape[0] // use.count % sizes[0]:
        return None
    grad = use.grad
    for dim in range(len(sizes) - 1, -1, -1):
        grad = grad.unflatten(1 + dim, (-1, sizes[dim])).sum(1 + dim)
    return Stored(grad.reshape(use.count, *use.shape))


@rule("PreluKernelBackward")
def _prelu(use: Use) -> Term | None:
    if use.slot != 1 or not same_for_all_samples(use):
        return None
    return Stored(reduce_to(use.grad * use.split(use.node._saved_self.clamp(max=0)), use.shape))
