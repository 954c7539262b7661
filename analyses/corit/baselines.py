"""Does CoRIT withstand radii at which its baselines collapse, and does it detect forgeries it was not trained on?

Claim (the paper's abstract): CoRIT mitigates optimization collapse and generalises across forgeries. Frozen methods
(linear probe, class tokens, CoRIT with regions of each image, CoRIT with shared regions) are compared at every radius
on ``clip-demo``. Methods that train the encoder (LN-tuning, last blocks, everything, plain SBI) are compared on
``clip-lab`` with forgeries of twice the strength, since at 32 pixels and strength 1 no such run trains. Radii are
comparable within one set of trained parameters only: heads with heads, and there only where features have about the
same norm (``feature_norm``).

Command: ``python -m analyses.corit.baselines`` (``--smoke``, ``--replot``, ``--parts frozen`` or ``tuned``,
``--trained-on``).
Hardware: one core of a shared CPU, about 8 minutes of work for heads on two families and on ``clip-lab``, 30 for
methods that train the encoder; resumes.
Obtained: at rho = 0.05 on nt the linear probe has AUC .52, CoRIT .93; all results are in ``analyses/README.md``.

Tables in ``figures/data``: ``corit_baselines.csv`` (a row for each method, training data, radius, seed and test set)
and ``corit_baselines_radii.csv`` (collapse radius, COR and GSNR by method).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.corit.features import SMOKE, Bench, Extractor, fit_once
from analyses.corit.heads import Fitted, fit_head, rows_by_test_set
from analyses.corit.plots import draw_domains, draw_losses, draw_radii
from analyses.corit.tuned import LAB, SMOKE_LAB, TUNED, tuned_rows
from analyses.support.options import names
from analyses.support.runner import run_study
from analyses.support.tables import margin, read_table, store
from gsnr_toolkit.probing.recorder import Recorder
from gsnr_toolkit.report.plots.style import save
from gsnr_toolkit.sweeps.collapse import collapse_radii

METHODS: dict[str, dict[str, Any]] = {
    "linear probe": {"method": "probe"},
    "class tokens": {"num_regions": 0},
    "CoRIT, regions of each image": {"anchors": "cgp"},
    "CoRIT, shared regions": {"anchors": "shared"},
}
OPTIONS: dict[str, dict[str, Any]] = {"clip-demo": {"mid_layer": 2}, "clip-lab": {"mid_layer": 2, "nms_radius": 1}}
"""Options common to all methods, by encoder; ``clip-lab`` has a grid of only 4 by 4 patches."""

TRAINED_ON = ("nt", "df", "sbi")
RADII = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
TUNED_RADII = (0.0, 0.05, 0.1, 0.2)


def frozen_rows(
    bench: Bench, trained_on: str, method: str, radii: Sequence[float], seeds: int, runs: Path, device: str | None
) -> list[dict[str, Any]]:
    """Train one method's heads at every radius, and test them: a row for each radius, seed and test set."""
    options = {**OPTIONS[bench.encoder], **METHODS[method]}
    decides = {"study": "baselines", "bench": bench, "trained_on": trained_on, "options": options, "seeds": seeds}

    @cache
    def extractor() -> Extractor:  # built only if a fit is missing
        return Extractor(bench, trained_on, options, seeds=seeds, cache=runs / "features", device=device)

    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for rho in radii:
            about = {**decides, "seed": seed, "rho": rho}
            found = fit_once(runs, about, partial(_fit_and_test, extractor, seed, rho))
            rows += [{"encoder": bench.encoder, "method": method, "trained_on": trained_on, **row} for row in found]
    return rows


def _fit_and_test(make_extractor: Callable[[], Extractor], seed: int, rho: float) -> list[dict[str, Any]]:
    extractor = make_extractor()
    training, val, lr = extractor.training(seed), extractor.validation(), extractor.rate(seed)
    steps = extractor.bench.steps
    fitted, recorder = fit_head(training, val, seed=seed, steps=steps, lr=lr, rho=rho, record=rho == 0)
    about = {
        "rho": rho,
        "seed": seed,
        "lr": lr,
        **fitted.row,
        "feature_norm": float(training.features.norm(dim=1).mean()),
        "num_train": len(training.labels),
        "loss_curve": _thinned(fitted),
        **_recorded(recorder),
    }
    return rows_by_test_set(fitted.head, extractor.tests(), about)


def _thinned(fitted: Fitted, points: int = 40) -> str:
    """Training loss along the run, averaged over equal stretches, as text."""
    return " ".join(f"{part.mean():.4f}" for part in np.array_split(np.array(fitted.losses), points) if len(part))


def _recorded(recorder: Recorder | None) -> dict[str, float]:
    if recorder is None:
        return {"cor": math.nan, "gsnr": math.nan, "gsnr_start": math.nan}
    report = recorder.report
    gsnr = report.totals["gsnr"].to_numpy(dtype=float)
    return {"cor": float(report.total["cor"]), "gsnr": float(report.total["gsnr"]), "gsnr_start": float(gsnr[0])}


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Return collapse radius, COR and generalisation of each encoder, method and training data.

    ``cross_auc`` is the mean AUC over all other families without SAM, ``holds_to`` the result of :func:`holds_to`.
    """
    keys = ["encoder", "method", "trained_on"]
    own = table[table["test"] == table["trained_on"].replace("sbi", "df")]
    renamed = own.rename(columns={name: f"test_{name}" for name in ("auc", "auc_low", "auc_high")})
    found = collapse_radii(renamed, by=keys)[[*keys, "empirical_radius", "empirical_low", "empirical_high", "status"]]
    rows = []
    for place, part in table.groupby(keys, sort=False):
        plain = part[part["rho"] == 0]
        values = {name: plain.groupby("seed")[name].first() for name in ("cor", "gsnr", "gsnr_start", "train_loss")}
        rows.append(
            {
                **dict(zip(keys, place, strict=True)),
                "holds_to": holds_to(own[(own[keys] == list(place)).all(axis=1)]),
                "cor": float(np.exp(np.log(values["cor"]).mean())),
                **{name: float(values[name].mean()) for name in ("gsnr", "gsnr_start", "train_loss")},
                **_domains(plain, ""),
                **_domains(part[part["rho"] == 0.05], "_sam"),
            }
        )
    return found.merge(pd.DataFrame(rows), on=keys)


def holds_to(own: pd.DataFrame) -> float:
    """Return the largest tried radius up to which the mean AUC on the own family stays above 0.9 of its best.

    >>> holds_to(pd.DataFrame({"rho": [0.0, 0.1, 0.2, 0.4], "auc": [0.9, 1.0, 0.91, 0.6]}))
    0.2
    """
    means = own.groupby("rho")["auc"].mean().sort_index()
    failed = means.index[means < 0.9 * means.max()]
    good = means.index if failed.empty else means.index[means.index < failed[0]]
    return float(good[-1]) if len(good) else math.nan


def _domains(part: pd.DataFrame, suffix: str) -> dict[str, float]:
    """AUC on the family trained on, and mean over all others with its interval over seeds."""
    if part.empty:
        return {}
    home = part["trained_on"].iloc[0]  # no test set for self-blended pairs: every family is foreign
    other = part[part["test"] != home].groupby("seed")["auc"].mean()
    own = part[part["test"] == home]["auc"].mean()
    mean, reach = other.mean(), margin(other)
    found = {"own_auc": own, "cross_auc": mean, "cross_low": mean - reach, "cross_high": mean + reach}
    return {f"{name}{suffix}": float(value) for name, value in found.items()}


def compute(chosen: argparse.Namespace) -> None:
    """Fit what is missing, and write the tables after each method."""
    plain, lab = (SMOKE, SMOKE_LAB) if chosen.smoke else (Bench(), LAB)
    radii, tuned_radii = ((0.0, 0.05), (0.0,)) if chosen.smoke else (RADII, TUNED_RADII)
    trained_on = TRAINED_ON[:1] if chosen.smoke else chosen.trained_on
    place = chosen.seeds, chosen.runs, chosen.device
    about = {"bench": vars(plain), "lab": vars(lab), "options": OPTIONS, "seeds": chosen.seeds, "methods": METHODS}
    rows: list[dict[str, Any]] = []

    def add(found: list[dict[str, Any]]) -> None:
        rows.extend(found)
        table = pd.DataFrame(rows)
        store(chosen.out, "corit_baselines", {"": table, "_radii": summarise(table)}, digits=None, **about)
        print(_last_method(table), flush=True)

    benches = [*((plain, images) for images in trained_on), (lab, "nt")]
    for bench, images in benches if "frozen" in chosen.parts else []:
        for method in METHODS:
            add(frozen_rows(bench, images, method, radii, *place))
    for rho in tuned_radii if "tuned" in chosen.parts else []:
        for method in TUNED:
            add(tuned_rows(lab, method, rho, *place))


def _last_method(table: pd.DataFrame) -> str:
    """The mean AUC by test set of the method and radius in the last row."""
    last = table.iloc[-1]
    keys = ["encoder", "method", "trained_on", "rho"]
    own = table[(table[keys] == last[keys]).all(axis=1)]
    means = own.groupby("test")["auc"].mean()
    text = "  ".join(f"{test} {value:.3f}" for test, value in means.items())
    return f"{last['encoder']}, {last['method']}, {last['trained_on']}, rho {last['rho']:g}: {text}"


def plot(out: Path) -> None:
    """Draw the figures from the stored tables, beside their folder."""
    table = read_table(out, "corit_baselines")
    methods = list(dict.fromkeys([*METHODS, *TUNED]))
    for suffix, draw in {"radius": draw_radii, "domains": draw_domains, "loss": draw_losses}.items():
        save(draw(table, methods), out.parent / f"corit_baselines_{suffix}")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", type=names, default="frozen,tuned", help="frozen, tuned, or both with a comma")
    help_ = "images to train heads on, with commas"
    parser.add_argument("--trained-on", type=names, default=",".join(TRAINED_ON), help=help_)


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""
    run_study(compute, plot, __doc__, arguments, embedded_only=True, add_options=_add_options)


if __name__ == "__main__":
    main()
