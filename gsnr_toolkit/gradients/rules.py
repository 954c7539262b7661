"""Per-operation formulas: from an operation's output gradient and what it saved to per-sample gradients of one input.

A rule gets a :class:`Use`: the operation's node, which of its inputs depends on parameters alone, and how its
output is dealt out to samples. It returns a :class:`~gsnr_toolkit.gradients.terms.Term`, or None where the operation
is used in a way that the formula does not cover; such parameters are measured by another engine, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from gsnr_toolkit.gradients.graph import Node
from gsnr_toolkit.gradients.ownership import Owner
from gsnr_toolkit.gradients.terms import Computed, Gathered, Products, Stored, Term, Windows, full_precision


@dataclass(frozen=True)
class Use:
    """One operation that meets samples with a value made of parameters alone.

    Attributes:
        node: The operation.
        slot: Which of its inputs that value is.
        shape: The value's shape.
        output_shape: Shape of the operation's output.
        owner: How the output is dealt out to samples.
        count: Number N of samples.
        gradient: Gradient of the output.
    """

    node: Node
    slot: int
    shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    owner: Owner
    count: int
    gradient: Tensor

    def split(self, tensor: Tensor, owner: Owner | None = None) -> Tensor:
        """Put samples first in a tensor that is dealt out like the output, or like ``owner``."""
        return (owner or self.owner).split(tensor, self.count)

    @property
    def grad(self) -> Tensor:
        """Output gradient with samples first, shape ``(N, *output, with the sample's share of its dimension)``."""
        return self.split(self.gradient)


Rule: TypeAlias = Callable[[Use], Term | None]


def reduce_to(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo broadcasting, sample by sample.

    Args:
        values: Shape ``(N, *broadcast)``.
        shape: Shape that was broadcast.

    Returns:
        Shape ``(N, *shape)``, summed over the dimensions that broadcasting made or stretched; at least float32.

    >>> reduce_to(torch.ones(2, 3, 4), (1, 4)).shape, reduce_to(torch.ones(2, 3, 4), ()).tolist()
    (torch.Size([2, 1, 4]), [12.0, 12.0])
    """
    values = full_precision(values)
    made = values.ndim - 1 - len(shape)
    stretched = [made + i for i, size in enumerate(shape) if size == 1 and values.shape[1 + made + i] != 1]
    dims = [1 + dim for dim in (*range(made), *stretched)]
    summed = values.sum(dims, keepdim=True) if dims else values
    return summed.reshape(values.shape[0], *shape)


def _broadcasts(use: Use) -> bool:
    """Whether the value is the same for all samples along the dimension that counts them."""
    place = use.owner.dim - (len(use.output_shape) - len(use.shape))
    return place < 0 or use.shape[place] == 1


def _added(use: Use, factor: float) -> Term | None:
    if not _broadcasts(use):
        return None
    return Stored(reduce_to(use.grad if factor == 1 else use.grad * factor, use.shape))


def _add(use: Use) -> Term | None:
    return _added(use, use.node._saved_alpha if use.slot == 1 else 1)


def _subtract(use: Use) -> Term | None:
    return _added(use, -use.node._saved_alpha if use.slot == 1 else 1)


def _subtract_reversed(use: Use) -> Term | None:
    return _added(use, -use.node._saved_alpha if use.slot == 0 else 1)


def _multiply(use: Use) -> Term | None:
    other = use.node._saved_other if use.slot == 0 else use.node._saved_self
    if not _broadcasts(use) or other is None:
        return None
    return Stored(reduce_to(use.grad * use.split(other.broadcast_to(use.output_shape)), use.shape))


def _divide(use: Use) -> Term | None:
    if not _broadcasts(use):
        return None
    other = use.node._saved_other
    if use.slot == 0:
        return Stored(reduce_to(use.grad / use.split(other.broadcast_to(use.output_shape)), use.shape))
    ratio = use.node._saved_self / other**2
    return Stored(reduce_to(-use.grad * use.split(ratio.broadcast_to(use.output_shape)), use.shape))


def _add_product(use: Use) -> Term | None:
    """``self + value * tensor1 * tensor2``."""
    if use.slot == 0:
        return _added(use, 1)
    other = use.node._saved_tensor2 if use.slot == 1 else use.node._saved_tensor1
    if not _broadcasts(use) or other is None:
        return None
    factor = use.split(other.broadcast_to(use.output_shape))
    return Stored(reduce_to(use.grad * factor * use.node._saved_value, use.shape))


def _expand(use: Use) -> Term | None:
    return _added(use, 1)


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


def _product(use: Use, first: str, second: str, factor: float = 1.0) -> Term | None:
    """Matrix product ``first @ second``; the one without samples is the parameter's."""
    weight_is_second = use.slot == 1
    if use.owner.dim != (0 if weight_is_second else 1):
        return None
    grad = use.grad if factor == 1 else use.grad * factor
    if weight_is_second:
        return Products(use.split(getattr(use.node, f"_saved_{first}")), grad, use.shape)
    rows = use.split(getattr(use.node, f"_saved_{second}"))
    return Products(grad.mT, rows.mT, use.shape)


def _mm(use: Use) -> Term | None:
    return _product(use, "self", "mat2")


def _addmm(use: Use) -> Term | None:
    if use.slot == 0:
        return _added(use, use.node._saved_beta)
    return _product(replace(use, slot=use.slot - 1), "mat1", "mat2", use.node._saved_alpha)


def _bmm(use: Use) -> Term | None:
    """One matrix per entry of the first dimension; samples are rows (or columns) of the output."""
    if use.owner.dim != (2 if use.slot == 0 else 1):
        return None
    grad = use.grad
    if use.slot == 1:
        rows = use.split(use.node._saved_self)
        return Computed(lambda a, b: full_precision(rows[a:b]).mT @ full_precision(grad[a:b]), use.count, use.shape)
    columns = use.split(use.node._saved_mat2)
    return Computed(lambda a, b: full_precision(grad[a:b]) @ full_precision(columns[a:b]).mT, use.count, use.shape)


def _mv(use: Use) -> Term | None:
    if use.slot != 1:
        return None
    rows = use.split(use.node._saved_self)
    return Stored(torch.einsum("nt,ntk->nk", full_precision(use.grad), full_precision(rows)))


def _linear(use: Use) -> Term | None:
    if use.slot == 2:
        return _added(use, 1)
    if use.slot != 1 or use.owner.dim == len(use.output_shape) - 1:
        return None
    grad, rows = use.grad, use.split(use.node._saved_input)
    return Products(grad.reshape(use.count, -1, grad.shape[-1]), rows.reshape(use.count, -1, rows.shape[-1]), use.shape)


def _layer_norm(use: Use) -> Term | None:
    if use.slot == 2:
        return _added(use, 1)
    if use.slot != 1 or not _broadcasts(use):
        return None
    node = use.node
    products = (node._saved_input - node._saved_result1).mul_(node._saved_result2).mul_(use.gradient)  # one new tensor
    return Stored(reduce_to(use.split(products), use.shape))


def _rms_norm(use: Use) -> Term | None:
    if use.slot != 1 or not _broadcasts(use):
        return None
    normalised = use.node._saved_input * use.node._saved_result1
    return Stored(reduce_to(use.grad * use.split(normalised), use.shape))


def _per_channel(use: Use, values: Tensor) -> Stored:
    """Sum everything but samples and channels; values have the output's shape (N, C, ...)."""
    split = use.split(values)  # (N, share, C, ...)
    flat = split.flatten(3) if split.ndim > 3 else split.unsqueeze(-1)
    return Stored(full_precision(flat).sum((1, 3)).view(use.count, *use.shape))


def _group_norm(use: Use) -> Term | None:
    if use.owner.dim != 0 or use.slot == 0:
        return None
    if use.slot == 2:
        return _per_channel(use, use.gradient)
    node, shape = use.node, use.output_shape
    groups = node._saved_result1.shape[-1]
    by_group = node._saved_input.reshape(shape[0], groups, -1)
    mean, rstd = (stat.reshape(shape[0], groups, 1) for stat in (node._saved_result1, node._saved_result2))
    return _per_channel(use, use.gradient * ((by_group - mean) * rstd).view(shape))


def _batch_norm(use: Use) -> Term | None:
    """Batch normalisation with running statistics: a gain and a bias per channel."""
    node = use.node
    if use.owner.dim != 0 or use.slot == 0 or node._saved_training or node._saved_running_mean is None:
        return None
    if use.slot == 2:
        return _per_channel(use, use.gradient)
    channels = (1, -1, *(1,) * (len(use.output_shape) - 2))
    mean, variance = node._saved_running_mean.view(channels), node._saved_running_var.view(channels)
    return _per_channel(use, use.gradient * (node._saved_input - mean) * torch.rsqrt(variance + node._saved_eps))


def _prelu(use: Use) -> Term | None:
    if use.slot != 1 or not _broadcasts(use):
        return None
    return Stored(reduce_to(use.grad * use.split(use.node._saved_self.clamp(max=0)), use.shape))


def _embedding(use: Use) -> Term | None:
    node = use.node
    indices = node._saved_indices
    if node._saved_scale_grad_by_freq or use.owner.dim >= indices.ndim:
        return None
    padding = node._saved_padding_idx
    padding = padding - 2**64 if padding >= 2**63 else padding
    gradient = use.gradient
    if padding >= 0:
        gradient = gradient.masked_fill((indices == padding).unsqueeze(-1), 0)
    return _looked_up(use, use.split(indices), use.split(gradient))


def _index(use: Use) -> Term | None:
    """``table[indices]``, with one tensor of indices in front."""
    first, *others = use.node._saved_indices
    if first is None or first.dtype == torch.bool or any(other is not None for other in others):
        return None
    if use.owner.dim >= first.ndim:
        return None
    return _looked_up(use, use.split(first % use.shape[0]), use.grad)


def _index_select(use: Use) -> Term | None:
    if use.node._saved_dim != 0 or use.owner.dim != 0:
        return None
    return _looked_up(use, use.split(use.node._saved_index), use.grad)


def _looked_up(use: Use, rows: Tensor, grad: Tensor) -> Gathered:
    flat = rows.reshape(use.count, -1)
    return Gathered(flat, grad.reshape(use.count, flat.shape[1], -1), use.shape)


def _convolution(use: Use) -> Term | None:
    node = use.node
    if use.owner.dim != 0 or use.slot == 0:
        return None
    if use.slot == 2:
        return _per_channel(use, use.gradient)
    if _is_patchify(node, use.shape):
        return _patches(use)
    if _unfolds(use):
        return _windows(use)
    inputs, grad, weight = (
        use.split(full_precision(node._saved_input)),
        full_precision(use.grad),
        full_precision(node._saved_weight),
    )

    def form(start: int, stop: int) -> Tensor:
        return torch.stack([_conv_weight_grad(node, grad[i], inputs[i], weight) for i in range(start, stop)])

    return Computed(form, use.count, use.shape)


def _conv_weight_grad(node: Node, grad: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.aten.convolution_backward(
        grad,
        inputs,
        weight,
        [0],
        node._saved_stride,
        node._saved_padding,
        node._saved_dilation,
        node._saved_transposed,
        node._saved_output_padding,
        node._saved_groups,
        [False, True, False],
    )[1]


def _is_patchify(node: Node, shape: tuple[int, ...]) -> bool:
    """A convolution whose windows do not overlap, without padding: a matrix product of patches (also 1 x 1)."""
    return (
        len(shape) == 4
        and not node._saved_transposed
        and node._saved_groups == 1
        and tuple(node._saved_stride) == shape[2:]
        and not any(node._saved_padding)
        and set(node._saved_dilation) == {1}
    )


def _patches(use: Use) -> Products:
    channels, height, width = use.shape[1:]
    down, across = use.output_shape[2:]
    inputs = use.node._saved_input[:, :, : down * height, : across * width]
    inputs = inputs.unflatten(3, (across, width)).unflatten(2, (down, height))  # (R, C, down, h, across, w)
    rows = use.split(inputs.permute(0, 2, 4, 1, 3, 5)).reshape(use.count, -1, channels * height * width)
    grad = use.split(use.gradient.permute(0, 2, 3, 1)).reshape(use.count, -1, use.shape[0])
    return Products(grad, rows, use.shape)


_UNFOLDED_BYTES = 2**28
"""Most memory for the windows of a convolution written out; beyond it, each sample is convolved by itself."""


def _unfolds(use: Use) -> bool:
    """Whether a plain convolution's windows may be written out: then it is a matrix product of windows."""
    node = use.node
    if len(use.shape) != 4 or node._saved_transposed or node._saved_groups != 1:
        return False
    places = use.output_shape[0] * use.output_shape[2] * use.output_shape[3]
    return 4 * places * use.shape[1] * use.shape[2] * use.shape[3] <= _UNFOLDED_BYTES


def _windows(use: Use) -> Windows:
    node, (down, across) = use.node, use.output_shape[2:]
    above, left = node._saved_padding
    padded = functional.pad(full_precision(node._saved_input), (left, left, above, above))
    samples, channels, *_ = padded.shape
    *outer, row, column = padded.stride()
    step, gap = node._saved_stride, node._saved_dilation
    windows = padded.as_strided(
        (samples, down, across, channels, *use.shape[2:]),
        (outer[0], row * step[0], column * step[1], outer[1], row * gap[0], column * gap[1]),
    )
    grad = use.split(full_precision(use.gradient).permute(0, 2, 3, 1)).flatten(1, -2)
    return Windows(grad, use.split(windows), use.shape)


RULES: dict[str, Rule] = {
    "AddBackward": _add,
    "SubBackward": _subtract,
    "RsubBackward": _subtract_reversed,
    "MulBackward": _multiply,
    "DivBackward": _divide,
    "AddcmulBackward": _add_product,
    "ExpandBackward": _expand,
    "RepeatBackward": _repeat,
    "MmBackward": _mm,
    "AddmmBackward": _addmm,
    "BmmBackward": _bmm,
    "MvBackward": _mv,
    "LinearBackward": _linear,
    "NativeLayerNormBackward": _layer_norm,
    "FusedRmsNormBackward": _rms_norm,
    "NativeGroupNormBackward": _group_norm,
    "NativeBatchNormBackward": _batch_norm,
    "PreluKernelBackward": _prelu,
    "EmbeddingBackward": _embedding,
    "IndexBackward": _index,
    "IndexSelectBackward": _index_select,
    "ConvolutionBackward": _convolution,
}
"""Operation to rule. What is not here goes to another engine."""
