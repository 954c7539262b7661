"""Helpers for tests of the taps engine: a task in float64, the engine's gradients, and the reference gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.taps.forward import run_forward
from gsnr_toolkit.gradients.taps.plan import Plan
from gsnr_toolkit.gradients.task import GradientTask, trainable_params
from gsnr_toolkit.inputs.losses import resolve_loss
from tests.support.reference import one_row, per_sample_gradients

ROWS = 6
"""Rows of :func:`six_rows`."""


class Model(nn.Module):
    """Parameters by name and a function ``(params, inputs) -> outputs`` that uses them."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor], **params: Tensor) -> None:
        super().__init__()
        self.p = nn.ParameterDict({name: nn.Parameter(value) for name, value in params.items()})
        self.use = use

    def forward(self, inputs: Tensor) -> Tensor:
        return self.use(self.p, inputs)


class Net(nn.Module):
    """A forward given as a function of the module and its input, and the parts it uses."""

    def __init__(self, function: Callable[[Any, Any], Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Any) -> Tensor:
        return self.function(self, inputs)


def six_rows(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return six inputs of width six, of three classes."""
    return torch.randn(ROWS, 6, dtype=dtype), torch.tensor([0, 1, 2, 0, 1, 2])


def square_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Weigh every output entry of a sample differently; the loss does not depend on the number of rows."""
    outputs = model(batch[0]).flatten(1)
    weights = torch.linspace(0.5, 1.5, outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    return (weights * (outputs + 0.3).square()).sum(1)


def make_task(model: nn.Module, loss_fn: Any = square_loss) -> GradientTask:
    """Make the task of differentiating all trainable parameters; a loss of None is inferred from the logits."""
    return GradientTask(model, trainable_params(model), resolve_loss(loss_fn))


def truth(task: GradientTask, batch: Any) -> dict[str, Tensor]:
    """Compute the reference: one ``.backward()`` per sample."""
    return per_sample_gradients(task.model, batch, task.loss_fn, one_row)


def tapped(task: GradientTask, batch: Any, engine: TapsEngine | None = None) -> dict[str, Tensor]:
    """Return the taps engine's per-sample gradients, all at once."""
    (chunk,) = (engine or TapsEngine())(task, batch, chunk_size=1000)
    return chunk.grads


def gradients(task: GradientTask, batch: Any, engine: Any = None, chunk_size: int = 4) -> dict[str, Tensor]:
    """Return per-sample gradients of an engine (taps when None), a few samples at a time."""
    chunks = list((engine or TapsEngine())(task, batch, chunk_size=chunk_size))
    return {name: torch.cat([chunk.grads[name] for chunk in chunks]) for name in task.params}


def assert_right(
    model: nn.Module, batch: Any, loss_fn: Any = None, rtol: float = 1e-10, other: Collection[str] = ()
) -> None:
    """Compare the taps engine with ``.backward()``; ``other`` are the parameters that it must leave to another one."""
    task, engine = make_task(model, loss_fn), TapsEngine()
    assert_same(gradients(task, batch, engine), truth(task, batch), rtol)
    assert set(engine.other()) == set(other)


def only_plan(engine: TapsEngine) -> Plan:
    """Return the plan of an engine that saw one kind of graph."""
    (plan,) = engine._plans.values()
    return plan


def used_rules(engine: TapsEngine, task: GradientTask, batch: Any) -> set[tuple[str, int]]:
    """Return operation and slot of every use in the plan of a batch's graph."""
    graph = run_forward(task, batch).graph
    return {(graph.names[use.position], use.slot) for use in engine._plans[graph.signature].uses}


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float = 1e-10) -> None:
    """Compare tensors by name, each relative to its own largest entry."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(float(value.abs().max()), 1e-30) if value.numel() else 1.0
        torch.testing.assert_close(actual[name].to(value.dtype), value, rtol=rtol, atol=rtol * scale, msg=name_of(name))


def name_of(name: str) -> Callable[[str], str]:
    """Put the parameter's name in front of the message of a failed comparison."""
    return lambda message: f"{name}: {message}"
