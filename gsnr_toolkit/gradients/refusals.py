"""Replace autograd's errors about a model by messages that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gsnr_toolkit.errors import ProbeError


@contextmanager
def in_plain_words() -> Iterator[None]:
    """Replace known autograd errors inside the block by a :class:`ProbeError` that says what to do.

    Yields:
        Nothing.

    Raises:
        ProbeError: In place of a known error.
        RuntimeError: Any other error, unchanged.

    >>> import torch
    >>> with in_plain_words():
    ...     x = torch.ones(1, requires_grad=True) * 1
    ...     y = x * x
    ...     _ = x.mul_(2)
    ...     y.backward()
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected activations to keep their values until the backward, got one that ...
    """
    try:
        yield
    except RuntimeError as error:
        message = _plain_message(str(error))
        if message is None:
            raise
        raise ProbeError(message) from error


def _plain_message(torch_message: str) -> str | None:
    """Return the message for a known error of autograd, or None."""
    turn_off = "model.gradient_checkpointing_disable() or model.set_grad_checkpointing(False)"
    if "already unpacked once" in torch_message:
        message = (
            "expected saved activations that can be read twice, got activation checkpointing, which allows one read; "
            f"turn it off to measure by taps ({turn_off})"
        )
    elif "use_reentrant=True" in torch_message:
        message = (
            "expected a graph that can be differentiated towards chosen tensors, got reentrant activation "
            f"checkpointing; turn it off while measuring ({turn_off}), or use use_reentrant=False"
        )
    elif "modified by an inplace operation" in torch_message:
        message = (
            "expected activations to keep their values until the backward, got one that the model overwrites in place "
            "although a gradient needs it; use the out-of-place operation (x = x * 2 for x.mul_(2), inplace=False)"
        )
    else:
        return None
    return f"{message} (PyTorch: {torch_message.splitlines()[0][:160]})"
