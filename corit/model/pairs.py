"""Batches of pairs: images, their counterparts and labels; and a loss per sample on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.losses import classification_loss, split_inputs
from gsnr_toolkit.support.arguments import FUNCTION, check_arguments

__all__ = ["Counterpart", "Pairs", "call_model", "make_counterparts", "pair_loss", "split_pairs"]

Counterpart: TypeAlias = Callable[[Tensor], Tensor]
"""Makes the counterparts of normalised images ``(N, 3, H, W)``, each from its own image alone and reproducibly."""


@dataclass(frozen=True)
class Pairs:
    """Images ``(N, 3, H, W)``, counterparts (None: to be made), and labels ``(N,)`` (None: all are real)."""

    images: Tensor
    counterparts: Tensor | None
    labels: Tensor | None

    def complete(self, maker: Counterpart | None) -> tuple[Tensor, Tensor]:
        """Return images and counterparts, which ``maker`` makes if missing."""
        return self.images, make_counterparts(self.images, self.counterparts, maker)


def split_pairs(batch: Any) -> Pairs:
    """Read a batch in any of the forms that CoRIT is trained and probed with.

    Args:
        batch: ``(images, counterparts, labels)``, ``((images, counterparts), labels)``, ``(images, labels)``, a mapping
            with ``images``, optionally ``counterparts``, and labels as in
            :func:`gsnr_toolkit.inputs.losses.split_inputs`, or images alone.

    Returns:
        Its parts.

    Raises:
        ProbeError: If the batch has another form.

    >>> images, labels = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    >>> split_pairs((images, images, labels)).labels.tolist(), split_pairs(images).labels
    ([0, 1], None)
    """
    if isinstance(batch, Tensor):
        return Pairs(batch, None, None)
    if isinstance(batch, (tuple, list)) and len(batch) == 3 and all(isinstance(part, Tensor) for part in batch):
        return Pairs(*batch)
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and all(_is_images(part) for part in batch):
        return Pairs(batch[0], batch[1], None)
    inputs, labels = split_inputs(batch)
    if isinstance(inputs, Mapping):
        inputs = (inputs.get("images"), inputs.get("counterparts"))
    images, counterparts = inputs if isinstance(inputs, (tuple, list)) and len(inputs) == 2 else (inputs, None)
    if not isinstance(images, Tensor):
        raise ProbeError(
            "expected a batch (images, counterparts, labels), ((images, counterparts), labels), (images, labels) or a "
            f"mapping with 'images', got {type(images).__name__} in place of images; change the loader"
        )
    return Pairs(images, counterparts, labels)


def _is_images(part: object) -> bool:
    return isinstance(part, Tensor) and part.ndim == 4


def make_counterparts(images: Tensor, counterparts: Tensor | None, maker: Counterpart | None) -> Tensor:
    """Return the given counterparts, or what ``maker`` makes, on the images' device and in their dtype."""
    if counterparts is None:
        if maker is None:
            raise ProbeError(
                "expected counterparts, got none and no way to make them; pass (images, counterparts), or set "
                "detector.counterpart to a function that makes counterparts from images, such as self-blended images"
            )
        counterparts = maker(images)
    if not isinstance(counterparts, Tensor) or counterparts.shape != images.shape:
        came = tuple(counterparts.shape) if isinstance(counterparts, Tensor) else type(counterparts).__name__
        raise ProbeError(
            f"expected one counterpart per image, of shape {tuple(images.shape)}, got {came}; return the images' shape"
        )
    return counterparts.to(images)


def call_model(model: nn.Module, pairs: Pairs) -> Tensor:
    """Run a model on a batch: on images and counterparts if it ``takes_pairs``, else on the images alone."""
    return model(pairs.images, pairs.counterparts) if getattr(model, "takes_pairs", False) else model(pairs.images)


def pair_loss(model: nn.Module, batch: Any) -> Tensor:
    """Compute the cross-entropy per sample on a batch that :func:`split_pairs` reads; a ``loss_fn`` of the toolkit.

    Args:
        model: CoRIT, or any classifier of images.
        batch: A batch with labels.

    Returns:
        Losses in nats, ``(N,)``.

    Raises:
        ProbeError: If the batch has no labels.
    """
    check_arguments(model=(model, FUNCTION))
    pairs = split_pairs(batch)
    if pairs.labels is None:
        raise ProbeError(
            "expected a batch with labels, such as (images, counterparts, labels), got one without; add labels"
        )
    return classification_loss(call_model(model, pairs), pairs.labels)


def real_rows(pairs: Pairs) -> Pairs:
    """Keep the real images of a batch: those with label 0, or all if there are no labels."""
    if pairs.labels is None:
        return pairs
    keep = torch.nonzero(pairs.labels.reshape(-1) == 0).flatten()
    counterparts = None if pairs.counterparts is None else pairs.counterparts[keep]
    return Pairs(pairs.images[keep], counterparts, pairs.labels[keep])
