"""Class-token features of every block, collected by forward hooks, for the readout reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.batches import batch_length, take_rows
from gsnr_toolkit.inputs.groups import find_blocks
from gsnr_toolkit.inputs.losses import binary_labels
from gsnr_toolkit.types import Batch, Floats

_CLASS_TOKENS = ("class_embedding", "cls_token", "class_token")


@dataclass(frozen=True)
class BlockFeatures:
    """Class-token features of every block for n samples.

    Attributes:
        features: Block name to ``[z, 1]``, shape ``(n, d + 1)``, float64.
        labels: 0 or 1, shape ``(n,)``.
        losses: Losses of the model itself, shape ``(n,)``.
    """

    features: dict[str, Floats]
    labels: Floats
    losses: Floats


def collect_features(
    model: nn.Module, batches: Iterable[Batch], forward: Callable[[Batch], Tensor], advance: Callable[[int], None]
) -> BlockFeatures:
    """Run the model and keep the class-token feature of each block.

    A block with output ``(N, T, d)`` contributes its first token if the model has a class token, and the mean token
    otherwise. Feature maps ``(N, C, H, W)`` are averaged over space.

    Args:
        model: Any model with a stack of blocks.
        batches: Batches with binary labels.
        forward: Runs the model on a batch and returns its losses, shape ``(N,)``.
        advance: Progress callback.

    Returns:
        Features of all samples.

    Raises:
        ProbeError: If the model has no stack of blocks.
    """
    blocks = find_blocks(model)
    if not blocks:
        raise ProbeError(
            "expected a model with a stack of blocks (such as transformer.resblocks.N) for layerwise='readout', "
            f"got none in {type(model).__name__}; use layerwise='parameters'"
        )
    has_class_token = any(name.rpartition(".")[2] in _CLASS_TOKENS for name, _ in model.named_parameters())
    kept: dict[str, list[Tensor]] = {label: [] for label in blocks.values()}
    labels: list[Tensor] = []
    losses: list[Tensor] = []
    modules, axes = dict(model.named_modules()), None
    with _captured({label: modules[path] for path, label in blocks.items()}) as outputs, torch.no_grad():
        for batch in batches:
            axes = axes or _sample_axes(batch, forward, outputs, list(kept))
            losses.append(forward(batch).double().cpu())
            count = batch_length(batch)
            for label, store in kept.items():
                pooled = pool_tokens(outputs[label], count, has_class_token, sample_axis=axes[label])
                store.append(pooled.double().cpu())
            labels.append(binary_labels(batch).cpu())
            advance(count)
    ones = torch.ones(sum(len(part) for part in labels), 1, dtype=torch.float64)
    features = {label: torch.cat([torch.cat(store), ones], 1).numpy() for label, store in kept.items()}
    return BlockFeatures(features, torch.cat(labels).double().numpy(), torch.cat(losses).numpy())


def _sample_axes(
    batch: Batch, forward: Callable[[Batch], Tensor], outputs: dict[str, Any], labels: list[str]
) -> dict[str, int]:
    """Run a single sample to tell outputs (N, T, d) from (T, N, d): the axis of samples then has length 1."""
    outputs.clear()
    forward(take_rows(batch, 0, 1))
    axes = {}
    for label in labels:
        if label not in outputs:
            raise ProbeError(
                f"expected every block to run in the forward pass, but {label} did not; use layerwise='parameters'"
            )
        output = outputs[label][0] if isinstance(outputs[label], (tuple, list)) else outputs[label]
        tokens_first = isinstance(output, Tensor) and output.ndim == 3 and output.shape[0] != 1
        axes[label] = 1 if tokens_first and output.shape[1] == 1 else 0
    return axes


@contextmanager
def _captured(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Any]]:
    outputs: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, out, label=label: outputs.__setitem__(label, out))
        for label, module in modules.items()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def pool_tokens(output: Any, count: int, has_class_token: bool, *, sample_axis: int = 0) -> Tensor:
    """Reduce the output of a block to one feature vector per sample.

    Args:
        output: A tensor, or a tuple that begins with one; ``(N, d)``, ``(N, T, d)``, ``(T, N, d)``,
            ``(N, C, H, H)`` or ``(N, H, H, C)``.
        count: Number N of samples.
        has_class_token: Take the first token instead of the mean.
        sample_axis: Axis of samples in an output with tokens: 0 for ``(N, T, d)``, 1 for ``(T, N, d)``.

    Returns:
        Shape ``(N, d)``.

    Raises:
        ProbeError: If the output has none of these shapes.

    >>> pool_tokens(torch.arange(12.0).view(1, 3, 4), 1, True)
    tensor([[0., 1., 2., 3.]])
    """
    tensor = output[0] if isinstance(output, (tuple, list)) else output
    shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
    if isinstance(tensor, Tensor) and tensor.ndim == 2 and tensor.shape[0] == count:
        return tensor
    if isinstance(tensor, Tensor) and tensor.ndim == 3 and tensor.shape[sample_axis] == count:
        tokens = tensor.transpose(0, sample_axis)
        return tokens[:, 0] if has_class_token else tokens.mean(1)
    if isinstance(tensor, Tensor) and tensor.ndim == 4 and tensor.shape[0] == count:
        if tensor.shape[2] == tensor.shape[3]:
            return tensor.mean((2, 3))
        if tensor.shape[1] == tensor.shape[2]:
            return tensor.mean((1, 2))
    raise ProbeError(
        f"expected a block's output of shape (N, d), (N, T, d) or a square feature map for {count} samples, got "
        f"{shape}; use layerwise='parameters'"
    )
