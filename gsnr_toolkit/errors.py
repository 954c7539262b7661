"""The errors of a probe. Every message says what was expected, what came instead, and what to do."""

from __future__ import annotations


class ProbeError(ValueError):
    """The model, loader or loss cannot be probed as given; the message says what to change."""


class NonFiniteError(ProbeError):
    """A loss or a gradient is NaN or infinite; the message names the first batch and parameter."""


class NonDeterministicError(ProbeError):
    """The same batch, evaluated twice from the same random state, gave different losses."""


class MixedSamplesError(ProbeError):
    """A sample's loss depends on other samples of its batch, so that the sample has no gradient of its own."""


class EngineError(ProbeError):
    """An engine cannot run the model, or no longer can; one backward per sample can."""


class ProbeWarning(UserWarning):
    """A number in the report is undefined or needs an explanation."""


def first_line(error: Exception) -> str:
    """Shorten an error's message, to quote it as a reason inside another sentence.

    Args:
        error: The error.

    Returns:
        The first line of its message, without PyTorch's own words and without a recommended engine. Of our own
        "expected X, but Y", only Y, which is a sentence of its own.

    >>> first_line(ProbeError("expected one graph, but the graph changed; pass engine='loop'"))
    'the graph changed'
    >>> first_line(RuntimeError("expected m1 and m2 to have the same dtype, but got: float != double"))
    'expected m1 and m2 to have the same dtype, but got: float != double'
    """
    line = (str(error).splitlines() or [type(error).__name__])[0]
    line = line.partition(" (PyTorch:")[0].partition("; pass engine")[0]
    expected, _, instead = line.partition(", but ")
    # other libraries use the words "expected ..., but got: ..." too, where the second half alone says nothing
    ours = isinstance(error, ProbeError) and expected.startswith("expected ")
    return (instead if ours and instead else line)[:250]
