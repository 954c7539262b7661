"""Autograd's own complaints about a model, as sentences that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gsnr_toolkit.errors import ProbeError

_TURN_OFF = "model.gradient_checkpointing_disable() or model.set_grad_checkpointing(False)"

_SENTENCES = {
    "already unpacked once": (
        "expected saved activations that can be read twice, got activation checkpointing, which gives them out once; "
        f"turn it off to measure by taps ({_TURN_OFF})"
    ),
    "use_reentrant=True": (
        "expected a graph that can be differentiated towards chosen tensors, got reentrant activation checkpointing; "
        f"turn it off while measuring ({_TURN_OFF}), or use use_reentrant=False"
    ),
    "modified by an inplace operation": (
        "expected activations to stay as they were until the backward, got one that the model overwrites in place "
        "although a gradient needs it, so that no engine can measure it; use the out-of-place operation (x = x * 2 "
        "for x.mul_(2), inplace=False)"
    ),
}
"""What PyTorch's message holds, and what is said instead."""


@contextmanager
def in_plain_words() -> Iterator[None]:
    """Turn autograd errors whose cause is known into a sentence; others pass.

    Yields:
        Nothing.

    Raises:
        ProbeError: If the error inside is a known one.
        RuntimeError: Any other, as it was.

    >>> import torch
    >>> with in_plain_words():
    ...     x = torch.ones(1, requires_grad=True) * 1
    ...     y = x * x
    ...     _ = x.mul_(2)
    ...     y.backward()
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected activations to stay as they were until the backward, got one that ...
    """
    try:
        yield
    except RuntimeError as error:
        for words, sentence in _SENTENCES.items():
            if words in str(error):
                first = (str(error).splitlines() or [""])[0][:160]
                raise ProbeError(f"{sentence} (PyTorch: {first})") from error
        raise
