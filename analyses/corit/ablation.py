"""What is each part of CoRIT worth, and what does it cost at inference?

Claim (the paper's abstract): anchors from contrast, the region mask, injection and the intermediate layer each add to
the detector. Every variant changes one option of CoRIT with shared regions; heads are trained on one family with given
forgeries, chosen on validation images of that family, and tested on all. What a part does to the variance and magnitude
of the CGP is in ``corit_proxy``.

Command: ``python -m analyses.corit.ablation`` (``--smoke`` for a minute, ``--replot`` from the stored tables). It goes
on where it was stopped. Hardware: one core of a shared CPU
(about 40 seconds of work a variant and training family).
Tables: ``figures/data/corit_ablation.csv`` (a row for each training family, variant, radius, seed and test set),
``corit_ablation_parts.csv`` (a row for each training family and variant), ``corit_ablation.json``. Figure:
``figures/corit_ablation.png`` and ``.pdf``.

Obtained: trained on nt, without SAM, mean over 3 seeds; changes with their 95 % interval over seeds (paired); more, and
training on df, in ``figures/data/table_ablation.md``.

| variant | validation AUC | own family | seven other families | cost |
|---|---|---|---|---|
| CoRIT, shared regions | .940 | .931 | .543 | 1.3 |
| regions of each image | .593 | -.334 +- .052 | -.013 +- .065 | 1.8 |
| random anchors | .522 | -.421 +- .091 | -.040 +- .021 | 1.8 |
| without RRM | .875 | -.069 +- .007 | +.016 +- .007 | 1.3 |
| without RSI | .917 | -.024 +- .008 | -.009 +- .002 | 1.0 |
| without HRI | .871 | -.058 +- .008 | -.016 +- .001 | 1.3 |
| class tokens alone | .577 | -.367 +- .020 | -.028 +- .007 | 1.0 |
| linear probe | .521 | -.410 +- .014 | -.048 +- .007 | 1.0 |
| K = 1 | .575 | -.346 +- .015 | -.038 +- .014 | 1.2 |
| K = 8 | .923 | -.016 +- .020 | -.003 +- .006 | 1.3 |
| no outliers | .916 | -.030 +- .010 | +.039 +- .010 | 1.3 |

Each part adds on the family trained on; RRM costs 1.6 points on the others, its outlier threshold 3.9. Trained on df,
RRM adds 4.9 points and RSI and HRI nothing.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analyses.corit.ablation_plot import draw_ablation
from analyses.corit.heads import (
    FAMILIES,
    SMOKE,
    Bench,
    Extractor,
    fit_head,
    keep,
    kept,
    read_kept,
    read_study,
    score,
    study_parser,
)
from corit.model.detector import CoRIT
from corit.model.features import head_logits
from gsnr_toolkit.report.plots.style import save
from gsnr_toolkit.support.atomic import write_json, write_text
from gsnr_toolkit.support.provenance import environment

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


def variant_rows(
    bench: Bench, trained_on: str, variant: str, seeds: int, runs: Path, device: str | None
) -> list[dict[str, Any]]:
    """Train and test one variant.

    Args:
        bench: The study.
        trained_on: Family.
        variant: A key of :data:`VARIANTS`.
        seeds: Number of seeds.
        runs: Where fits are kept.
        device: Where features are made.

    Returns:
        A row for each radius, seed and test set.
    """
    options = {**BASE, **VARIANTS[variant]}
    place = kept(runs, {"study": "ablation", "bench": bench, "trained_on": trained_on, "options": options, "n": seeds})
    found = read_kept(place)
    if found is None:
        made = Extractor(bench, trained_on, options, seeds=seeds, cache=runs / "features", device=device)
        found = keep(place, [row for seed in range(seeds) for row in _fit_and_test(made, seed)])
    return [{"trained_on": trained_on, "variant": variant, **row} for row in found]


def _fit_and_test(extractor: Extractor, seed: int) -> list[dict[str, Any]]:
    bench, training, val = extractor.bench, extractor.training(seed), extractor.validation()
    lr = extractor.rate(seed)
    tests = {family: extractor.test(family) for family in FAMILIES}
    rows = []
    for rho in RADII:
        fitted, _ = fit_head(training, val, seed=seed, steps=bench.steps, lr=lr, rho=rho)
        about: dict[str, Any] = {"rho": rho, "seed": seed, "lr": lr, "status": fitted.status}
        about |= {
            "val_auc": fitted.val_auc,
            "train_loss": fitted.train_loss,
            "num_train": len(training.labels),
            "dim": training.features.shape[1],
        }
        for family, test in tests.items():
            found = score(head_logits(fitted.head, test.features), test.labels)
            rows.append({**about, "test": family, "num_test": len(test.labels), **found})
    return rows


def costs(bench: Bench, repeats: int = 5) -> dict[str, float]:
    """CPU time of every variant over that of the plain encoder, its counterparts being made included.

    Args:
        bench: For the encoder.
        repeats: Timings of each; the median counts.

    Returns:
        Ratio by variant.
    """
    images = torch.randn(32, 3, 64, 64).clamp(-1.4, 1.4)  # grey levels of an image
    found = {}
    for variant, changes in VARIANTS.items():
        options = {**BASE, **changes}
        if options.pop("method", "corit") == "probe":
            found[variant] = 1.0
            continue
        detector = CoRIT.from_encoder(bench.encoder, **options)
        if detector.shared is not None:
            patches = detector.far.shape[0]
            from corit.model.shared import set_regions

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
    """One row for each training family and variant.

    Args:
        table: All rows.
        ratios: What :func:`costs` gave.

    Returns:
        Validation AUC (what is chosen by), AUC on the family trained on and mean over all others at both radii, and the
        change against the full detector with its interval over seeds (paired: same images, same seeds).
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
                row[f"{name}_margin{suffix}"] = _margin(change)
        rows.append({**row, "cost": ratios[variant]})
    return pd.DataFrame(rows)


def _by_seed(rows: pd.DataFrame, trained_on: str, own: bool) -> pd.Series:
    return rows[(rows["test"] == trained_on) == own].groupby("seed")["auc"].mean()


def _margin(values: pd.Series) -> float:
    """Half-width of the 95 % interval of a mean over seeds."""
    from scipy.stats import t

    if len(values) < 3:
        return float("nan")
    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def compute(bench: Bench, families: list[str], seeds: int, runs: Path, out: Path, *, device: str | None = None) -> None:
    """Make what is missing, and write the tables after each variant.

    Args:
        bench: The study.
        families: Families to train on.
        seeds: Number of seeds.
        runs: Where fits are kept.
        out: Folder of the tables.
        device: Where features are made.
    """
    out.mkdir(parents=True, exist_ok=True)
    ratios, rows = costs(bench), []
    for trained_on in families:
        for variant in VARIANTS:
            rows += variant_rows(bench, trained_on, variant, seeds, runs, device)
            table = pd.DataFrame(rows)
            write_text(out / "corit_ablation.csv", table.to_csv(index=False))
            parts = summarise(table, ratios)
            write_text(out / "corit_ablation_parts.csv", parts.to_csv(index=False))
            last = parts.iloc[-1]
            sys.stdout.write(
                f"{trained_on:<3} {variant:<28} val {last['val_auc']:.3f}  own {last['own_auc']:.3f}  "
                f"cross {last['cross_auc']:.3f}  cost {last['cost']:.2f}\n"
            )
            sys.stdout.flush()
    write_json(out / "corit_ablation.json", {**environment(), "bench": vars(bench), "base": BASE, "seeds": seeds})


def plot(out: Path) -> None:
    """Draw the figure from the stored tables.

    Args:
        out: Folder of the tables.
    """
    parts, table = (pd.read_csv(out / f"corit_ablation{suffix}.csv") for suffix in ("_parts", ""))
    save(draw_ablation(parts, int(table["num_test"].max())), out.parent / "corit_ablation")


def main(arguments: list[str] | None = None) -> None:
    """Run the study.

    Args:
        arguments: Of the command line; those of the process when None.
    """
    chosen = read_study(study_parser(__doc__, TRAINED_ON), arguments)
    bench = SMOKE if chosen.smoke else Bench()
    if not chosen.replot:
        compute(bench, chosen.families.split(","), chosen.seeds, chosen.runs, chosen.out, device=chosen.device)
    plot(chosen.out)


if __name__ == "__main__":
    main()
