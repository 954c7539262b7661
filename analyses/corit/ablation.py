"""What is each part of CoRIT worth, and what does it cost at inference?

Claim (the paper's abstract): anchors from contrast, the region mask, injection and the intermediate layer each improve
the detector. Every variant changes one option of CoRIT with shared regions. Heads are trained on one family with given
forgeries, selected on validation images of that family, and tested on all families.

Command: ``python -m analyses.corit.ablation`` (``--smoke``, ``--replot``, ``--families``).
Hardware: one core of a shared CPU, about 40 seconds of work per variant and training family; resumes.
Obtained: on nt, one region instead of several costs 35 points of AUC, and leaving out RRM 7; all variants are in
``analyses/README.md``.

Tables in ``figures/data``: ``corit_ablation.csv`` (a row for each training family, variant, radius, seed and test set)
and ``corit_ablation_parts.csv`` (a row for each training family and variant). ``corit_proxy`` shows what each part does
to the variance and magnitude of the CGP.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analyses.corit.ablation_plot import draw_ablation
from analyses.corit.features import SMOKE, Bench, Extractor, fit_once
from analyses.corit.heads import fit_head, rows_by_test_set
from analyses.support.runner import run_study
from analyses.support.tables import margin, read_table, store
from corit.model.detector import CoRIT
from corit.model.shared import set_regions
from gsnr_toolkit.report.plots.style import save

BASE: dict[str, Any] = {"anchors": "shared", "mid_layer": 2}
FULL = "CoRIT, shared regions"
VARIANTS: dict[str, dict[str, Any]] = {
    FULL: {},
    "regions of each image": {"anchors": "cgp"},
    "random anchors": {"anchors": "random"},
    "without RRM": {"rrm": False},
    "without RSI": {"rsi": False},
    "without HRI": {"hri": False},
    "class tokens alone": {"num_regions": 0},
    "linear probe": {"method": "probe"},
    "K = 1": {"num_regions": 1},
    "K = 8": {"num_regions": 8},
    "threshold -1 (no outliers)": {"threshold": -1.0},
    "threshold 0.7": {"threshold": 0.7},
    "middle layer 1": {"mid_layer": 1},
    "middle layer 4": {"mid_layer": 4},
    "fixed anchors, without RRM": {"anchors": "fixed", "rrm": False},
}
TRAINED_ON = ("nt", "df")
RADII = (0.0, 0.05)


def _fit_variant(
    bench: Bench, trained_on: str, options: dict[str, Any], seeds: int, runs: Path, device: str | None
) -> list[dict[str, Any]]:
    """Train and test one variant: a row for each radius, seed and test set."""
    extractor = Extractor(bench, trained_on, options, seeds=seeds, cache=runs / "features", device=device)
    rows = []
    for seed in range(seeds):
        training, val, lr = extractor.training(seed), extractor.validation(), extractor.rate(seed)
        for rho in RADII:
            fitted, _ = fit_head(training, val, seed=seed, steps=bench.steps, lr=lr, rho=rho)
            size = {"num_train": len(training.labels), "dim": training.features.shape[1]}
            about = {"rho": rho, "seed": seed, "lr": lr, **fitted.row, **size}
            rows += rows_by_test_set(fitted.head, extractor.tests(), about)
    return rows


def costs(bench: Bench, repeats: int = 5) -> dict[str, float]:
    """Return each variant's median CPU time relative to the plain encoder, including the making of counterparts."""
    images = torch.randn(32, 3, 64, 64).clamp(-1.4, 1.4)  # the range of a normalised image
    found = {}
    for variant, changes in VARIANTS.items():
        options = {**BASE, **changes}
        if options.pop("method", "corit") == "probe":
            found[variant] = 1.0
            continue
        detector = CoRIT.from_encoder(bench.encoder, **options)
        if detector.shared is not None:
            # Any regions will do: the time does not depend on which they are.
            patches = detector.far.shape[0]
            set_regions(detector, torch.randn(patches, 4 * patches).cov())
        ratios = [
            _seconds(lambda d=detector: d.features(images)) / _seconds(lambda d=detector: d.encoder(images))
            for _ in range(repeats)
        ]
        found[variant] = statistics.median(ratios)
    return found


@torch.no_grad()
def _seconds(work: Any) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def summarise(table: pd.DataFrame, ratios: dict[str, float]) -> pd.DataFrame:
    """Return a row for each training family and variant; ``ratios`` is the result of :func:`costs`.

    The validation AUC selects. Changes against the full detector are paired (same images, same seeds), with their
    interval over seeds; ``cross`` is the mean over all families but the one trained on.
    """
    rows = []
    for (trained_on, variant), part in table.groupby(["trained_on", "variant"], sort=False):
        row = {"trained_on": trained_on, "variant": variant, "num_seeds": part["seed"].nunique()}
        for rho, suffix in zip(RADII, ("", "_sam"), strict=True):
            mine = part[part["rho"] == rho]
            full = table[(table["trained_on"] == trained_on) & (table["variant"] == FULL) & (table["rho"] == rho)]
            row[f"val_auc{suffix}"] = mine["val_auc"].mean()
            for name, own in (("own", True), ("cross", False)):
                auc, reference = (_by_seed(rows_, trained_on, own) for rows_ in (mine, full))
                change = auc - reference
                row[f"{name}_auc{suffix}"] = auc.mean()
                row[f"{name}_change{suffix}"] = change.mean()
                row[f"{name}_margin{suffix}"] = margin(change)
        rows.append({**row, "cost": ratios[variant]})
    return pd.DataFrame(rows)


def _by_seed(rows: pd.DataFrame, trained_on: str, own: bool) -> pd.Series:
    return rows[(rows["test"] == trained_on) == own].groupby("seed")["auc"].mean()


def compute(chosen: argparse.Namespace) -> None:
    """Fit what is missing, and write the tables after each variant."""
    bench = SMOKE if chosen.smoke else Bench()
    seeds, runs = chosen.seeds, chosen.runs
    ratios, rows = costs(bench), []
    for trained_on in chosen.families:
        for variant, changes in VARIANTS.items():
            options = {**BASE, **changes}
            about = {"study": "ablation", "bench": bench, "trained_on": trained_on, "options": options, "n": seeds}
            make = partial(_fit_variant, bench, trained_on, options, seeds, runs, chosen.device)
            found = fit_once(runs, about, make)
            rows += [{"trained_on": trained_on, "variant": variant, **row} for row in found]
            table = pd.DataFrame(rows)
            parts = summarise(table, ratios)
            tables = {"": table, "_parts": parts}
            store(chosen.out, "corit_ablation", tables, digits=None, bench=vars(bench), base=BASE, seeds=seeds)
            last = parts.iloc[-1]
            print(
                f"{trained_on:<3} {variant:<28} val {last['val_auc']:.3f}  own {last['own_auc']:.3f}  "
                f"cross {last['cross_auc']:.3f}  cost {last['cost']:.2f}",
                flush=True,
            )


def plot(out: Path) -> None:
    """Draw the figure from the stored tables, beside their folder."""
    num_test = int(read_table(out, "corit_ablation")["num_test"].max())
    save(draw_ablation(read_table(out, "corit_ablation_parts"), num_test), out.parent / "corit_ablation")


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""
    run_study(compute, plot, __doc__, arguments, families=TRAINED_ON, embedded_only=True)


if __name__ == "__main__":
    main()
