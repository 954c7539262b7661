"""Rules of normalisation layers."""

from __future__ import annotations

import torch

from gsnr_toolkit.gradients.taps.rules.use import Use, added, reduce_to, rule, same_for_all_samples, summed_per_channel
from gsnr_toolkit.gradients.taps.terms import Stored, Term


@rule("NativeLayerNormBackward")
def _layer_norm(use: Use) -> Term | None:
    if use.slot == 2:
        return added(use, 1)
    if use.slot != 1 or not same_for_all_samples(use):
        return None
    node = use.node
    # in place: these products are as large as the activations, and there is only one copy of them
    products = (node._saved_input - node._saved_result1).mul_(node._saved_result2).mul_(use.gradient)
    return Stored(reduce_to(use.split(products), use.shape))


@rule("FusedRmsNormBackward")
def _rms_norm(use: Use) -> Term | None:
    if use.slot != 1 or not same_for_all_samples(use):
        return None
    normalised = use.node._saved_input * use.node._saved_result1
    return Stored(reduce_to(use.grad * use.split(normalised), use.shape))


@rule("NativeGroupNormBackward")
def _group_norm(use: Use) -> Term | None:
    if use.owner.dim != 0 or use.slot == 0:
        return None
    if use.slot == 2:
        return summed_per_channel(use, use.gradient)
    node, shape = use.node, use.output_shape
    groups = node._saved_result1.shape[-1]
    by_group = node._saved_input.reshape(shape[0], groups, -1)
    mean, rstd = (stat.reshape(shape[0], groups, 1) for stat in (node._saved_result1, node._saved_result2))
    return summed_per_channel(use, use.gradient * ((by_group - mean) * rstd).view(shape))


@rule("NativeBatchNormBackward")
def _batch_norm(use: Use) -> Term | None:
    """Batch normalisation with running statistics, which has one gain and one bias per channel."""
    node = use.node
    if use.owner.dim != 0 or use.slot == 0 or node._saved_training or node._saved_running_mean is None:
        return None
    if use.slot == 2:
        return summed_per_channel(use, use.gradient)
    channels = (1, -1, *(1,) * (len(use.output_shape) - 2))
    mean, variance = node._saved_running_mean.view(channels), node._saved_running_var.view(channels)
    return summed_per_channel(use, use.gradient * (node._saved_input - mean) * torch.rsqrt(variance + node._saved_eps))
