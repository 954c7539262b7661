"""Choose the engine that can differentiate a model, by trying it on a few samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from gsnr_toolkit.errors import EngineError, MixedSamplesError, ProbeError, first_line
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.select import choose_chunk, make_engine, without_taps
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.task import Engine, GradientTask
from gsnr_toolkit.gradients.vmap import vmap_gradients
from gsnr_toolkit.inputs.batches import take_rows
from gsnr_toolkit.inputs.groups import Group
from gsnr_toolkit.inputs.options import ProbeOptions
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.types import Batch

_CANNOT = "the vmap engine cannot vectorise this model"


@dataclass(frozen=True)
class EngineChoice:
    """An engine that can differentiate the model.

    Attributes:
        engine: The engine.
        chunk_size: Samples that it may run at once within the memory allowed.
        notes: Why it is not the first choice, where it is not.
    """

    engine: Engine
    chunk_size: int
    notes: tuple[str, ...] = ()


def choose_engine(task: GradientTask, options: ProbeOptions, batch: Batch) -> EngineChoice:
    """Find an engine that can differentiate the model, by trying it on a few samples.

    ``"auto"`` takes ``taps``, unless taps cannot follow the model or covers less than half of its parameters. It then
    takes ``vmap``, or ``loop`` (one backward per sample), with a note that says why. A model whose operations change
    from run to run goes to ``loop``: ``vmap`` would run them once for many samples too.

    Args:
        task: Model, parameters and loss.
        options: For the engine asked for, its memory and its self-check.
        batch: Any batch.

    Returns:
        The choice. The readout reading takes no per-sample gradients of the model and gets an engine without a trial.

    Raises:
        ProbeError: If the caller asked for an engine that cannot do the model, and another one can.
    """
    asked = options.engine
    if options.layerwise != "parameters":
        return EngineChoice(make_engine("loop" if asked == "auto" else asked), 1)
    rows, notes = take_rows(batch, 0, 2), list[str]()
    name, engine = asked, None
    if asked in ("auto", "taps"):
        taps = TapsEngine(check=options.self_check)
        failure = _cannot_tap(taps, task, options, batch)
        if failure is None:
            name, engine = "taps", taps
        else:
            name, note = _instead_of_taps(task, rows, failure, asked)
            notes.append(note)
    if name == "vmap":
        reason = _cannot_vectorise(task, rows)
        if reason and asked == "vmap":
            raise ProbeError(f"expected a model that vmap can vectorise, but {reason}; pass engine='loop'")
        if reason:
            name = "loop"
            notes.append(f"engine: one backward per sample, since {reason}")
    chunk_size = choose_chunk(name, task, rows, options.memory)
    return EngineChoice(engine or make_engine(name), chunk_size, tuple(notes))


class _Failure(NamedTuple):
    """Why taps cannot do a model, and whether the reason is that its operations change from run to run."""

    reason: str
    changes: bool = False


def _cannot_tap(engine: TapsEngine, task: GradientTask, options: ProbeOptions, batch: Batch) -> _Failure | None:
    """Why taps cannot do the model; None if it can."""
    try:
        share = engine.prepare(task, batch)
    except MixedSamplesError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        return _Failure(first_line(error), isinstance(error, EngineError))
    if share < 0.5 and options.engine == "auto":
        return _Failure(f"its rules cover {share:.0%} of the parameters only")
    return None


def _instead_of_taps(task: GradientTask, rows: Batch, failure: _Failure, asked: str) -> tuple[str, str]:
    """Engine to take where taps failed, and the note that says why."""
    if not _loop_works(task, rows):
        _run_loop(task, rows)  # raises what the model itself raises
    reason = failure.reason
    if asked == "taps":
        raise ProbeError(
            "expected a model that taps can follow, but the taps engine cannot follow this model "
            f"({reason}); pass engine='auto' or 'loop'"
        )
    if failure.changes:
        return "loop", f"engine: one backward per sample, since {reason}"
    return without_taps(task), f"engine: not by taps, since {reason}"


def _cannot_vectorise(task: GradientTask, rows: Batch) -> str:
    """Why vmap cannot do the model; empty if it can. Errors of the model itself are raised unchanged."""
    try:
        with preserved_rng():
            next(vmap_gradients(task, rows, chunk_size=2))
    except (RuntimeError, ValueError) as error:  # ProbeError is a ValueError
        if not _loop_works(task, rows):
            raise
        reason = first_line(error)
        return reason if reason.startswith(_CANNOT) else f"{_CANNOT} ({reason})"
    return ""


def _run_loop(task: GradientTask, rows: Batch) -> None:
    with preserved_rng():
        list(loop_gradients(task, rows))


def _loop_works(task: GradientTask, rows: Batch) -> bool:
    try:
        _run_loop(task, rows)
    except (RuntimeError, ValueError):
        return False
    return True


def describe_coverage(task: GradientTask, groups: dict[str, Group], shares: dict[str, list[str]]) -> dict[str, Any]:
    """State which engine served how many parameters.

    Args:
        task: Model, parameters and loss.
        groups: Parameter name to group.
        shares: Engine to names of parameters, every parameter once.

    Returns:
        The coverage statement of a report.
    """
    sizes = {name: param.numel() for name, param in task.params.items()}
    total = sum(sizes.values())
    served = {engine: sum(sizes[name] for name in names) for engine, names in shares.items()}
    num_groups = len({group.name for group in groups.values()})
    by_engine = ", ".join(f"{_percent(count, total)} by the {engine} engine" for engine, count in served.items())
    return {
        "parameters": total,
        "tensors": len(sizes),
        "groups": num_groups,
        "engine": served,
        "share": sum(served.values()) / total,
        "sentence": (
            f"{total:,} parameters in {len(sizes)} tensors, each in exactly one of {num_groups} groups; {by_engine}"
        ),
    }


def _percent(part: int, whole: int) -> str:
    """Share in percent; only the whole is shown as 100 %."""
    if part == whole:
        return "100 %"
    return f"{min(100 * part / whole, 99.9):.1f} %"
