"""Which engine can do a model: found on a few samples, with a note where it is not the first choice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gsnr_toolkit.errors import EngineError, MixedSamplesError, ProbeError, first_line
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.select import choose_chunk, make_engine, without_taps
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.task import Engine
from gsnr_toolkit.gradients.vmap import vmap_gradients
from gsnr_toolkit.inputs.batches import take_rows
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.setup.prepare import Setup
from gsnr_toolkit.types import Batch

_CANNOT = "the vmap engine cannot vectorise this model"


def settle_engine(setup: Setup, batch: Batch) -> Setup:
    """Find the engine that can do the model, trying it on a few samples, and how many samples it may run at once.

    ``"auto"`` takes ``taps``, unless it cannot follow the model or covers less than half of its parameters; then
    ``vmap`` or one backward per sample, with a note that says why. Where operations change from run to run, ``vmap``
    would run them once for many samples as well, and it is one backward per sample.

    Args:
        setup: What to measure.
        batch: Any batch.

    Returns:
        The setup with its engine.

    Raises:
        ProbeError: If the caller asked for an engine that cannot do the model, and another can.
        RuntimeError: If no engine can do the model, as it was raised.
        ValueError: The same, for a model that raises this.
    """
    if setup.options.layerwise != "parameters":
        return setup
    rows, notes = take_rows(batch, 0, 2), list(setup.notes)
    asked = setup.options.engine
    name = asked
    if asked in ("auto", "taps"):
        engine = TapsEngine(check=setup.options.self_check)
        error = _cannot_tap(engine, setup, batch)
        if error is None:
            return _with_engine(setup, "taps", engine, rows)
        if not _loop_works(setup, rows):
            _reraise(setup, rows)
        reason = first_line(error)
        if asked == "taps":
            raise ProbeError(f"the taps engine cannot follow this model ({reason}); pass engine='auto' or 'loop'")
        changing = isinstance(error, EngineError)
        name = "loop" if changing else without_taps(setup.task)
        notes.append(f"engine: {'one backward per sample' if changing else 'not by taps'}, since {reason}")
    if name == "vmap":
        reason = _cannot_vectorise(setup, rows)
        if reason and asked == "vmap":
            raise ProbeError(f"{reason}; pass engine='loop'")
        if reason:
            name = "loop"
            notes.append(f"engine: one backward per sample, since {reason}")
    return _with_engine(replace(setup, notes=tuple(notes)), name, make_engine(name), rows)


def _with_engine(setup: Setup, name: str, engine: Engine, rows: Batch) -> Setup:
    chunk = choose_chunk(name, setup.task, rows, setup.options.memory)
    return replace(setup, engine=engine, chunk_size=chunk)


def _cannot_tap(engine: TapsEngine, setup: Setup, batch: Batch) -> Exception | None:
    """Why taps cannot do the model; None if it can."""
    try:
        share = engine.prepare(setup.task, batch)
    except MixedSamplesError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        return error
    if share < 0.5 and setup.options.engine == "auto":
        return ProbeError(f"its rules cover {share:.0%} of the parameters only")
    return None


def _cannot_vectorise(setup: Setup, rows: Batch) -> str:
    """Why vmap cannot do the model; empty if it can. What no engine can do is raised as it is."""
    try:
        with preserved_rng():
            next(vmap_gradients(setup.task, rows, chunk_size=2))
    except (RuntimeError, ValueError) as error:  # ProbeError is a ValueError
        if not _loop_works(setup, rows):
            raise
        reason = first_line(error)
        return reason if reason.startswith(_CANNOT) else f"{_CANNOT} ({reason})"
    return ""


def _loop_works(setup: Setup, rows: Batch) -> bool:
    try:
        with preserved_rng():
            return bool(list(loop_gradients(setup.task, rows)))
    except (RuntimeError, ValueError):
        return False


def _reraise(setup: Setup, rows: Batch) -> None:
    """Raise what the model itself raises."""
    with preserved_rng():
        list(loop_gradients(setup.task, rows))


def describe_setup(setup: Setup, shares: dict[str, list[str]]) -> dict[str, Any]:
    """Which engine served how many parameters.

    Args:
        setup: What was measured.
        shares: Engine to names of parameters, every parameter once.

    Returns:
        The coverage statement of a report.
    """
    sizes = {name: param.numel() for name, param in setup.task.params.items()}
    total = sum(sizes.values())
    served = {engine: sum(sizes[name] for name in names) for engine, names in shares.items()}
    groups = {group.name for group in setup.groups.values()}
    by_engine = ", ".join(f"{_percent(count, total)} by the {engine} engine" for engine, count in served.items())
    return {
        "parameters": total,
        "tensors": len(sizes),
        "groups": len(groups),
        "engine": served,
        "share": sum(served.values()) / total,
        "sentence": (
            f"{total:,} parameters in {len(sizes)} tensors, each in exactly one of {len(groups)} groups; {by_engine}"
        ),
    }


def _percent(part: int, whole: int) -> str:
    """Share in percent; only all is 100 %."""
    if part == whole:
        return "100 %"
    return f"{min(100 * part / whole, 99.9):.1f} %"
