"""Rules for SAM's radius, each a function of what a training loop knows before the ascent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from analyses.radius.settings import Problem
from gsnr_toolkit.optim.margin import MarginRadius
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.training.auto_rho import AutoRho

Rule = Callable[[int, float], float]
"""Step and gradient norm to radius."""

FIXED = (0.05, 0.1, 0.25, 0.5, 1.0)
"""Radii of the sweep, in units of the failing radius."""

_DECAY = 0.9


@dataclass(frozen=True)
class Known:
    """What the rules of one problem may use.

    Attributes:
        plateau: Loss of the best constant prediction.
        failing: Failing radius of the setting; only the rules that are told a radius use it.
        left_at: Steps of the plain run on the plateau.
        steps: Steps of the whole run.
        perturb: What SAM perturbs; COR is measured for all parameters only.
    """

    plateau: float
    failing: float
    left_at: int
    steps: int
    perturb: str = "all"


@dataclass(frozen=True)
class Control:
    """One way to train.

    Attributes:
        name: Its name.
        rho_max: Largest radius it may take; NaN for none.
        build: Builds the optimizer.
        rule: Sets the radius of each step; None to leave it to the optimizer.
    """

    name: str
    rho_max: float
    build: Callable[[Problem], SAM]
    rule: Rule | None = None


def controls(known: Known) -> Iterator[Control]:
    """Yield everything that is compared on one problem."""
    yield Control("plain", math.nan, lambda problem: problem.sam(0.0))
    yield from (_fixed(f"fixed {share:g}", share * known.failing) for share in (*FIXED, 4.0))
    yield from _automatic(known)
    yield from _rules(known)
    yield Control("asam", math.nan, lambda problem: problem.sam(1.0, adaptive=True))


def _fixed(name: str, rho: float) -> Control:
    return Control(name, rho, lambda problem: problem.sam(rho))


def _automatic(known: Known) -> Iterator[Control]:
    def auto(name: str, most: float | None, share: float) -> Control:
        rule = partial(MarginRadius, known.plateau, share=share, rho_max=most)
        return Control(name, most or math.nan, lambda problem: problem.sam(rule()))

    yield auto("auto", None, 0.25)
    yield from (auto(f"auto {share:g}", None, share) for share in (0.5, 1.0))
    yield auto("auto, rho_max 4", 4 * known.failing, 0.25)
    if known.perturb == "all":
        yield Control("cor", known.failing, lambda problem: _following_cor(problem, known.failing))


def _following_cor(problem: Problem, most: float) -> SAM:
    inputs, targets = problem.arrays.train
    size = min(problem.setting.batch_size, len(inputs) // 8)
    held = list(zip(inputs[: 8 * size].split(size), targets[: 8 * size].split(size), strict=True))
    rho = AutoRho(problem.model, held, problem.loss, every=50, rho_max=most, max_samples=8 * size, batch_size=size)
    return problem.sam(rho)


def _rules(known: Known) -> Iterator[Control]:
    def named(name: str, most: float, rule: Rule) -> Control:
        return Control(name, most, lambda problem: problem.sam(most), rule)

    half = 0.5 * known.failing
    warm, late = 2 * known.left_at, 0.75 * known.steps
    yield named("warm start 0.5", half, lambda step, _: half if step >= warm else 0.0)
    yield named("linear rise 0.5", half, lambda step, _: half * step / known.steps)
    yield named("last quarter 0.5", half, lambda step, _: half if step >= late else 0.0)
    yield named("le-sam 4", 4 * known.failing, _le_sam(known))
    yield named("ae-sam 0.5", half, _ae_sam(half, known.steps))


def _le_sam(known: Known) -> Rule:
    """LE-SAM (arXiv 2605.10183): ``min(sigma_t / |g_t|, rho_max)``, sigma falling from a tenth of ``L_0``."""

    def rule(step: int, norm: float) -> float:
        sigma = 0.1 * known.plateau * (1 - step / known.steps)
        return min(sigma / norm, 4 * known.failing) if norm > 0 else 0.0

    return rule


def _ae_sam(rho: float, steps: int) -> Rule:
    """AE-SAM (Jiang et al. 2023): SAM's step only where the squared gradient norm is large for the steps before."""
    mean = square = 0.0

    def rule(step: int, norm: float) -> float:
        nonlocal mean, square
        mean = _DECAY * mean + (1 - _DECAY) * norm**2 if step else norm**2
        square = _DECAY * square + (1 - _DECAY) * (norm**2 - mean) ** 2
        threshold = mean + (1 - 2 * step / steps) * math.sqrt(square)
        return rho if norm**2 >= threshold else 0.0

    return rule


def set_radius(optimizer: Any, rho: float) -> None:
    """Set the radius of all groups for the step that begins."""
    for group in optimizer.param_groups:
        group["rho"] = rho
