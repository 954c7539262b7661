"""``find_rho``: which radius still lets a model leave the plateau?"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.batches import tensors_of
from gsnr_toolkit.inputs.loaders import draw_batches
from gsnr_toolkit.inputs.losses import resolve_loss
from gsnr_toolkit.inputs.plateau import plateau_loss as plateau_of
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.search.bracket import bracket, bracket_of
from gsnr_toolkit.search.margin_of_run import margin_of_trace
from gsnr_toolkit.search.optimizers import describe, sam_recipe
from gsnr_toolkit.search.result import RhoSearch, sentence, suggested, trials_frame
from gsnr_toolkit.search.store import TrialStore
from gsnr_toolkit.search.trial import Start, StopRule, Trial
from gsnr_toolkit.setup.distributed import unwrapped
from gsnr_toolkit.setup.model_guards import check_model
from gsnr_toolkit.support.arguments import (
    COUNT,
    FUNCTION,
    LOADER,
    NUMBER,
    PATH,
    POSITIVE,
    check_arguments,
    optional,
    shown,
)
from gsnr_toolkit.types import Loader, PerSampleLoss

__all__ = ["find_rho"]

_PLAIN_LIMIT = 5000
"""Steps after which a plain run that has not left the plateau is given up."""

_FEWEST = 100
"""Smallest horizon, and the fewest steps of the plain run: a margin needs some gain."""

_READ_ON = 3.0
"""The plain run goes on to this multiple of its time on the plateau."""

_LARGEST_OVER_MARGIN, _SMALLEST_OVER_MARGIN = 16.0, 1 / 128


@dataclass
class _Search:
    """A search in progress."""

    start: Start
    store: TrialStore
    seeds: int
    horizon: float
    max_steps: float
    deadline: float
    plain_steps: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    def plain(self) -> bool:
        """Make the plain run of each seed; return whether all leave the plateau."""
        for seed in range(self.seeds):
            found = self.store.get(0.0, seed)
            if found is None:
                most = self._within_budget(_PLAIN_LIMIT)
                rule = StopRule(most, None, most, read_on=_READ_ON, least=_FEWEST)
                trial, trace = self.start.run(0.0, seed, rule)
                if trial.outcome != "left" and most < _PLAIN_LIMIT:
                    raise _BudgetEnded
                self.store.put(trial, trace)
                found = trial, trace
            trial, kept = found
            if trial.outcome != "left":
                return False
            self.plain_steps.append(trial.steps_on_plateau)
            assert kept is not None
            self.margins.append(margin_of_trace(kept, self.start.plateau_loss))
        return True

    def fails(self, rho: float) -> bool:
        """Whether a radius fails in any seed; the seeds after the first failure are not run."""
        return any(self._trial(rho, seed).outcome != "left" for seed in range(self.seeds))

    def _trial(self, rho: float, seed: int) -> Trial:
        found = self.store.get(rho, seed)
        if found is not None:
            return found[0]
        horizon = max(_FEWEST, self.horizon * self.plain_steps[seed])
        wanted = math.ceil(horizon) + 10 * _FEWEST
        most = self._within_budget(wanted)
        trial, trace = self.start.run(rho, seed, StopRule(horizon, self.plain_steps[seed], most))
        if most < wanted and trial.steps >= most:
            raise _BudgetEnded
        self.store.put(trial, trace)
        return trial

    def _within_budget(self, wanted: int) -> int:
        left = self.max_steps - sum(trial.steps for trial in self.store.trials)
        if left < 1 or time.monotonic() > self.deadline:
            raise _BudgetEnded
        return int(min(wanted, left))

    def find(self, radii: Sequence[float] | None, precision: float) -> str:
        """Make the trials; return the status."""
        if not self.plain():
            return "plain_stays"
        if radii is not None:
            for rho in sorted(set(radii)):
                self.fails(rho)
            low, high = self.bracket()
        else:
            guess = _first_guess(self.margins)
            low, high = bracket(
                self.fails,
                guess,
                precision=precision,
                smallest=_SMALLEST_OVER_MARGIN * guess,
                largest=_LARGEST_OVER_MARGIN * guess,
            )
        if low <= 0:
            return "all_failed"
        return "found" if high < math.inf else "none_failed"

    def bracket(self) -> tuple[float, float]:
        """The bracket that follows from the trials made so far."""
        fates: dict[float, list[bool]] = {}
        for trial in self.store.trials:
            if trial.rho > 0:
                fates.setdefault(trial.rho, []).append(trial.outcome != "left")
        known = {rho: any(failed) for rho, failed in fates.items() if any(failed) or len(failed) == self.seeds}
        return bracket_of(known)


class _BudgetEnded(Exception):
    """The budget of steps or minutes is spent."""


def _first_guess(margins: Sequence[float]) -> float:
    known = [margin for margin in margins if margin > 0]
    return statistics.median(known) if known else 0.05


def find_rho(
    model: nn.Module,
    loader: Loader,
    loss_fn: PerSampleLoss | None = None,
    optimizer: Any = None,
    *,
    radii: Sequence[float] | None = None,
    seeds: int = 1,
    horizon: float = 5.0,
    precision: float = 1.5,
    lr: float = 1e-3,
    plateau_loss: float | None = None,
    max_steps: int | None = None,
    max_minutes: float | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> RhoSearch:
    r"""Find the radii at which SAM still leaves the plateau, by short runs from the model as it is: a range test.

    A plain run tells how many steps :math:`T_0` it spends on the plateau of the best constant prediction, and the
    margin radius :math:`(L_0 - L)/G` at half of its gain, where the search begins. Each further run trains with SAM
    from the same weights, on the same batches, and is stopped as soon as its fate is clear: it has left for good, it
    sinks, it diverges, or ``horizon`` times :math:`T_0` steps are over (at least 100). A radius fails unless every
    seed leaves in time. The suggested radius is a tenth of the smallest one that fails, if that leaves within twice
    the plain run's steps. This is our method; a radius that leaves the plateau may still regularise too much.

    Args:
        model: Trained in place, in its present mode (train or eval), and given back bit for bit.
        loader: Yields training batches; it is read again for each run, and given back as it was.
        loss_fn: ``(model, batch) -> (N,)``; None infers a classification loss.
        optimizer: What you train with: an optimizer of the model, whose class, groups and options are copied (SAM's own
            options too), or a function from parameter groups to an optimizer. None is AdamW without weight decay. A
            learning-rate schedule is not followed.
        radii: Radii to test, all of them; None to bisect.
        seeds: Runs per radius, with seeds 0, 1, ...
        horizon: Multiple of the plain run's time on the plateau within which a run must leave.
        precision: Ratio of failing to training radius at which the bisection stops.
        lr: Learning rate of the default optimizer.
        plateau_loss: Loss of the best constant prediction; None to find it from the loader and the loss.
        max_steps: Budget of steps, over all runs.
        max_minutes: Budget of time; a run that has begun is finished.
        folder: Finished runs are kept there; the same call goes on after a kill.
        progress: Show progress bars (on a terminal).

    Returns:
        Suggested radius, bracket, every trial, and a sentence. After Ctrl-C, or at the end of the budget, it is what is
        known so far.

    Raises:
        ProbeError: If an argument is out of range, the plateau's loss is not known, or the folder holds another search.

    >>> _ = torch.manual_seed(0)
    >>> inputs = torch.randn(64, 5)
    >>> batches = [(part, (part[:, 0] > 0).long()) for part in inputs.split(16)]
    >>> model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 2))
    >>> found = find_rho(model, batches, radii=(0.05, 20.0), lr=0.01, progress=False)
    >>> found.low, found.high, found.status
    (0.05, 20.0, 'found')
    """
    _check(radii, precision, loader, loss_fn=loss_fn, seeds=seeds, horizon=horizon, lr=lr, plateau_loss=plateau_loss,
           max_steps=max_steps, max_minutes=max_minutes, folder=folder)  # fmt: skip
    model = unwrapped(model)[0]
    check_model(model)
    recipe = sam_recipe(model, optimizer, lr)
    plateau = plateau_of(loader, loss_fn, model=model) if plateau_loss is None else float(plateau_loss)
    settings = {
        "model": type(model).__name__, "weights": _digest(model.state_dict().values()),
        "data": _first_batch_digest(loader), "optimizer": describe(recipe), "seeds": seeds, "horizon": horizon,
        "precision": precision, "radii": None if radii is None else [float(rho) for rho in sorted(set(radii))],
        "plateau_loss": plateau,
    }  # fmt: skip
    store = TrialStore(folder, settings)
    start = Start(model, loader, resolve_loss(loss_fn), recipe, plateau, progress)
    deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
    search = _Search(start, store, seeds, horizon, math.inf if max_steps is None else max_steps, deadline)
    with store.locked():
        store.open()
        try:
            status = search.find(radii, precision)
        except _BudgetEnded:
            status = "budget"
        except KeyboardInterrupt:
            status = "interrupted"
        found = _result(search, status, settings)
        if folder is not None:
            found.save(folder)
    return found


def _result(search: _Search, status: str, settings: dict[str, Any]) -> RhoSearch:
    trials = search.store.trials
    low, high = search.bracket()
    plain_steps = max(search.plain_steps, default=0)
    margin = statistics.median(search.margins) if search.margins else math.nan
    rho = suggested(low, high, margin, trials, plain_steps)
    return RhoSearch(
        rho=rho,
        low=low,
        high=high,
        status=status,
        plain_steps=plain_steps,
        plateau_loss=search.start.plateau_loss,
        margin=margin,
        passes=sum(trial.passes for trial in trials),
        message=sentence(status, rho, low, high, trials, plain_steps),
        trials=trials_frame(trials),
        settings=settings,
    )


def _check(radii: Sequence[float] | None, precision: float, loader: Loader, **given: Any) -> None:
    counts = {name: (given[name], COUNT) for name in ("seeds",)}
    positive = {name: (given[name], POSITIVE) for name in ("horizon", "lr")}
    maybe = {name: (given[name], optional(POSITIVE)) for name in ("plateau_loss", "max_minutes")}
    check_arguments(
        loader=(loader, LOADER), loss_fn=(given["loss_fn"], optional(FUNCTION)), precision=(precision, NUMBER),
        max_steps=(given["max_steps"], optional(COUNT)), folder=(given["folder"], optional(PATH)), **counts,
        **positive, **maybe,
    )  # fmt: skip
    if not 1.01 <= precision < math.inf:
        raise ProbeError(f"expected precision to be a ratio of at least 1.01, got {precision!r}; pass 1.5, for example")
    if radii is not None:
        listed = list(radii) if isinstance(radii, (list, tuple, np.ndarray)) else []
        if not listed:
            raise ProbeError(
                f"expected radii to be several radii, got {shown(radii)}; pass (0.02, 0.05, 0.1), for example"
            )
        check_arguments(**{f"radii[{i}]": (rho, POSITIVE) for i, rho in enumerate(listed)})


def _digest(tensors: Any) -> str:
    """Eight characters that differ if a tensor does."""
    found = hashlib.sha256()
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor):
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:8]


def _first_batch_digest(loader: Loader) -> str:
    with preserved_rng(loader, seed=0):
        batch = next(iter(draw_batches(loader, 1)), None)
        return "" if batch is None else _digest(tensors_of(batch))
