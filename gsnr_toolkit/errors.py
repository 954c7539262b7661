"""The errors a probe raises: each names what was expected, what came, and what to do."""

from __future__ import annotations


class ProbeError(ValueError):
    """The model, loader or loss cannot be probed as given; the message says what to change."""


class NonFiniteError(ProbeError):
    """A loss or a gradient is NaN or infinite; the message names the first batch and parameter."""


class NonDeterministicError(ProbeError):
    """The same batch, evaluated twice from the same random state, gave two different losses."""


class MixedSamplesError(ProbeError):
    """A sample's loss depends on other samples of its batch: there is no gradient of that sample alone."""


class EngineError(ProbeError):
    """An engine cannot follow the model, or not any more; one backward per sample can."""


class ProbeWarning(UserWarning):
    """A number in the report is undefined, or a reader must know something about it."""


def first_line(error: Exception) -> str:
    """What an error says, as a reason inside another sentence.

    Returns:
        Its first line, without PyTorch's own words and the engine it recommends.

    >>> first_line(ProbeError("expected one graph; pass engine='loop'"))
    'expected one graph'
    """
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.partition(" (PyTorch:")[0].partition("; pass engine")[0][:250]
