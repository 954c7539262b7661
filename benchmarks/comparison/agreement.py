"""Difference of a method from one backward per sample in float64, and the share of the model that it covers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.comparison.methods import Method, deliver
from benchmarks.comparison.peers import WHOLE
from benchmarks.comparison.settings import Setting
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments

if TYPE_CHECKING:
    from gsnr_toolkit.types import Batch, Params


def agreement(method: Method, worker: Callable[[Batch], Any], setting: Setting, exact: Setting) -> dict[str, float]:
    """Compare a method's result for a small batch with the loop.

    Compares per-sample gradients if the method returns them, and otherwise its moments, norms or mean. The difference
    of a parameter tensor is the largest entry of ``|given - right|`` over the largest of ``|right|``; the largest over
    all tensors is returned.

    Args:
        method: The method.
        worker: The result of its ``prepare`` for the model of ``setting``.
        setting: Model and small batch of the method.
        exact: The same in float64.

    Returns:
        ``covers``, the share of the model's scalar parameters with a result; ``missed``, the number of the ``tensors``
        parameter tensors without one; and ``difference``, NaN if there is no result at all.
    """
    samples = _loop(exact)
    given = _given(method, worker, setting.batch)
    right = _expected(method, samples)
    params = exact.task.params
    names = {name for part in given for name in part}
    names = set(params) if WHOLE in names else names
    differences = [
        difference(value, expected[name])
        for part, expected in zip(given, right, strict=True)
        for name, value in part.items()
    ]
    worst = torch.tensor(differences).max().item() if differences else float("nan")  # torch's max passes a NaN on
    return {
        "covers": sum(params[name].numel() for name in names) / exact.num_params(),
        "missed": len(params.keys() - names),
        "tensors": len(params),
        "difference": worst,
    }


def difference(given: Tensor, right: Tensor) -> float:
    """Return the largest deviation of a tensor, relative to the largest entry of the right one.

    Returns:
        0 for equal tensors, infinity if all of ``right`` is zero and ``given`` is not.

    Raises:
        ValueError: If the shapes differ.

    >>> difference(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0]))
    0.25
    """
    if given.shape != right.shape:
        raise ValueError(
            f"expected a result of shape {tuple(right.shape)}, got {tuple(given.shape)}; return the parameter's shape"
        )
    gap, size = (given.to(right) - right).abs().max().item(), right.abs().max().item()
    if gap == 0:
        return 0.0
    return gap / size if size else float("inf")


def _loop(exact: Setting) -> Params:
    pieces = [piece.grads for piece in loop_gradients(exact.task, exact.batch)]
    return {name: torch.cat([grads[name] for grads in pieces]) for name in pieces[0]}


def _given(method: Method, worker: Callable[[Batch], Any], batch: Batch) -> list[Mapping[str, Tensor]]:
    if method.gives == "gradients":
        pieces = [{name: grad.clone() for name, grad in grads.items()} for grads in worker(batch)]
        return [{name: torch.cat([grads[name] for grads in pieces]) for name in pieces[0]}]
    found = deliver(method, worker, batch)
    if isinstance(found, GroupMoments):
        return [found.mean, {name: torch.tensor(value) for name, value in found.squares.items()}]
    return [found.mean, found.m2] if isinstance(found, Moments) else [found]


def _expected(method: Method, samples: Params) -> list[Mapping[str, Tensor]]:
    if method.gives == "gradients":
        return [samples]
    if method.gives == "norms":
        norms = {name: value.flatten(1).square().sum(1) for name, value in samples.items()}
        return [{**norms, WHOLE: torch.stack(list(norms.values())).sum(0)}]
    mean = {name: value.mean(0) for name, value in samples.items()}
    if method.gives == "mean":
        return [mean]
    squares = {name: (value - mean[name]).square().sum(0) for name, value in samples.items()}
    return [mean, {name: value.sum() for name, value in squares.items()} if method.gives == "spreads" else squares]
