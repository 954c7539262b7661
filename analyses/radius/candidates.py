"""What might foretell the failing radius: numbers read from a plain run, from a SAM run, and from a probe."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from analyses.radius.plain import PHI_RADII, PlainTrace
from analyses.radius.settings import Problem
from gsnr_toolkit import probe
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.search.margin_of_run import WINDOW, margin_of_trace
from gsnr_toolkit.search.trial import Trace

Floats = NDArray[np.float64]

_SHARES = {"margin_q10": 0.1, "margin_q30": 0.3, "margin_q50": 0.5, "margin_q70": 0.7}
_SAMPLES = 512


def from_plain(run: PlainTrace, plateau: float) -> dict[str, float]:
    """Margins along a plain run, first-order and true, and its gradient norm."""
    found = {name: margin_of_trace(run.trace, plateau, share=share) for name, share in _SHARES.items()}
    after = _margins(run.trace, plateau)[(run.left_at or 0) :]
    after = after[after > 0]
    if len(after):
        found |= {"margin_median": float(np.median(after)), "margin_min": float(after.min())}
        found |= {"margin_max": float(after.max()), "margin_end": float(after[-1])}
    # what is known once a tenth of the plateau's loss is gained, without the rest of the run
    found["margin_early"] = _at_gain(run.trace, plateau, 0.1)
    found |= {f"phi_q{100 * share:.0f}": _true_margin(run, plateau, share) for share in (0.1, 0.5)}
    found["grad_norm"] = float(np.mean(run.norms[: max(run.left_at or 0, WINDOW)]))
    return found


def from_sam(trace: Trace, plateau: float) -> dict[str, float]:
    """The margin along a SAM run at a small radius."""
    return {"margin_sam_q50": margin_of_trace(trace, plateau)}


def from_probe(problem: Problem, steps: int) -> dict[str, float]:
    """COR, GSNR and the margin of ``probe`` along a plain run of so many steps: on the plateau, later, and smallest."""
    names = ("cor", "cor_start", "cor_end", "gsnr", "alignment", "margin_probe")
    loader = problem.loader()
    inputs, targets = problem.arrays.train
    size = problem.setting.batch_size
    count = min(len(inputs) // size * size, _SAMPLES)
    held = list(zip(inputs[:count].split(size), targets[:count].split(size), strict=True))
    try:
        report = probe(
            problem.model, held, train_loader=loader, steps=steps, measurements=4, lr=problem.setting.lr,
            loss_fn=problem.loss, batch_size=size, max_samples=count, seed=problem.seed, progress=False,
            radii=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0), rho=0.1,
        )  # fmt: skip
    except ProbeError as error:
        print(f"{problem.setting.name}: no probe ({error})", flush=True)
        return dict.fromkeys(names, math.nan)
    totals, margin = report.totals, report.margin
    values = (
        report.cor, totals["cor"].iloc[0], totals["cor"].iloc[-1], totals["gsnr"].clip(lower=0).median(),
        totals["alignment_radius"].min(), math.nan if margin is None else margin.value,
    )  # fmt: skip
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _windows(values: list[float]) -> Floats:
    return np.convolve(values, np.ones(WINDOW) / WINDOW, "valid")


def _margins(trace: Trace, plateau: float) -> Floats:
    """Margin of each window of ten steps."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((plateau - _windows(trace.losses)) / _windows(trace.norms))


def _at_gain(trace: Trace, plateau: float, share: float) -> float:
    """Margin at the first window whose loss is a share of the plateau's below it."""
    gains = plateau - _windows(trace.losses)
    reached = np.flatnonzero(gains >= share * plateau)
    return float(_margins(trace, plateau)[reached[0]]) if len(reached) else math.nan


def _true_margin(run: PlainTrace, plateau: float, share: float) -> float:
    """Largest radius at which SAM's own objective is below the plateau, where a share of the gain is made."""
    gains = plateau - _windows(run.losses)
    if gains.max() <= 0:
        return math.nan
    step = int(np.argmax(gains >= share * gains.max())) + WINDOW // 2
    nearest = np.argsort(np.abs(np.array(run.phi_steps) - step))[:3]
    phi = np.array(run.phi)[nearest].mean(0)
    below = np.flatnonzero(phi < plateau)
    if not len(below):
        return math.nan
    last = int(below[-1])
    if last + 1 == len(PHI_RADII):
        return PHI_RADII[-1]
    # linear in the logarithm of the radius between the two grid points around the crossing
    share_of_step = (plateau - phi[last]) / (phi[last + 1] - phi[last])
    return float(PHI_RADII[last] * (PHI_RADII[last + 1] / PHI_RADII[last]) ** share_of_step)
