"""Rules of convolutions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gsnr_toolkit.gradients.taps.graph import Node
from gsnr_toolkit.gradients.taps.rules.use import Use, rule, summed_per_channel
from gsnr_toolkit.gradients.taps.terms import Computed, Products, Term, Windows, full_precision


@rule("ConvolutionBackward")
def _convolution(use: Use) -> Term | None:
    node = use.node
    if use.owner.dim != 0 or use.slot == 0:
        return None
    if use.slot == 2:
        return summed_per_channel(use, use.gradient)
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
    """Whether windows tile the input without overlap or padding, as 1 x 1 ones do: a matrix product of patches."""
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
"""Most memory for the windows of a convolution when written out; beyond it, samples are convolved one by one."""


def _unfolds(use: Use) -> bool:
    """Whether it is a plain convolution with windows that fit into memory: then it is a matrix product of windows."""
    node = use.node
    if len(use.shape) != 4 or node._saved_transposed or node._saved_groups != 1:
        return False
    places = use.output_shape[0] * use.output_shape[2] * use.output_shape[3]
    return 4 * places * use.shape[1] * use.shape[2] * use.shape[3] <= _UNFOLDED_BYTES


def _windows(use: Use) -> Windows:
    """Return the windows as a strided view of the padded input, without a copy."""
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
