"""CoRIT and the linear probe through ``corit train`` and ``corit eval``: other forgeries, whole images, worse images.

Claims (the paper's tables): CoRIT detects forgeries it was not trained on, images generated whole, and survives
compression. Both are trained on one family with given forgeries, as a user would train them, and tested by every
measure. Command: ``python -m analyses.corit.evaluation`` (``--smoke`` for a minute, ``--replot`` does nothing:
``result_tables`` writes the tables). It goes on where it was stopped. Hardware: one core of a CPU, ten minutes.
Table: ``figures/data/corit_evaluation.csv`` (a row for each method, seed, test set, perturbation, level and measure).
Obtained (AUC, 3 seeds, n = 400): on demo-nt .94 [.92, .96] (probe .52, class tokens .56), f2f .75, gan .62, others at
chance; on demo-nt after JPEG 50 .89, noise of 10 grey levels .91, resizing to a half .74, blur of one pixel .62.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.corit.heads import SMOKE, Bench, read_study, study_parser
from analyses.support.figure import DIGITS
from corit.model.trained import load_trained
from corit.scoring.evaluate_many import evaluate_many, expand_names, read_perturbations
from corit.training.config import DetectorTraining
from corit.training.train import train_detector
from gsnr_toolkit.support.atomic import write_json, write_text
from gsnr_toolkit.support.provenance import environment

METHODS: dict[str, dict[str, Any]] = {
    "linear probe": {"method": "probe"},
    "class tokens of two layers": {"num_regions": 0, "mid_layer": 2},
    "CoRIT": {"mid_layer": 2},
}
TRAINED_ON = "demo-nt"
RATE = 1e-2
"""Chosen on validation data in ``corit_baselines``, for all three methods."""


def training(method: str, bench: Bench, seed: int) -> DetectorTraining:
    """The training of one method.

    Args:
        method: A key of :data:`METHODS`.
        bench: Encoder and sizes.
        seed: Of the head and the order; the images are the same for all seeds.

    Returns:
        The config.
    """
    options: dict[str, Any] = {
        "encoder": bench.encoder,
        "data": TRAINED_ON,
        "fakes": "given",
        "train_samples": 3 * bench.train_images,
        "val_samples": bench.val_images,
        "eval_samples": 32,
        "lr": RATE,
        "steps": bench.steps,
    }
    return DetectorTraining(seed=seed, **options, **METHODS[method])


def measured_rows(method: str, bench: Bench, seed: int, runs: Path, device: str | None, *, smoke: bool) -> pd.DataFrame:
    """Train one method with one seed, and test it.

    Args:
        method: A key of :data:`METHODS`.
        bench: Encoder and sizes.
        seed: Of the head and the order.
        runs: Where trainings, features and results are kept.
        device: Where to work.
        smoke: Two test sets and one perturbation.

    Returns:
        The table of ``corit eval``, with the method and the seed.
    """
    config = training(method, bench, seed)
    folder, cache = runs / "evaluated" / config.key, runs / "features"
    done = folder / "evaluated.csv"
    if not done.exists():
        train_detector(config, folder, device=device or "cpu", cache=cache, draws=0)
        trained = load_trained(folder / "selected.safetensors", device=device or "cpu")
        options = {"split": "test", "size": bench.test_images}
        names = [TRAINED_ON, "demo-gan"] if smoke else expand_names("demo")
        worse = read_perturbations("jpeg=50" if smoke else "all")
        clean = evaluate_many(trained, names, options, cache=cache)
        perturbed = evaluate_many(trained, [TRAINED_ON], options, perturbations=worse, cache=cache)
        both = pd.concat([clean, perturbed[perturbed["perturbation"] != "none"]], ignore_index=True)
        write_text(done, both.to_csv(index=False, float_format=DIGITS))
    return pd.read_csv(done).assign(method=method, seed=seed)


def compute(seeds: int, runs: Path, out: Path, *, smoke: bool = False, device: str | None = None) -> None:
    """Train and test what is missing, and write the table after each training.

    Args:
        seeds: Number of seeds.
        runs: Where trainings are kept.
        out: Folder of the table.
        smoke: Little of everything.
        device: Where to work.
    """
    out.mkdir(parents=True, exist_ok=True)
    bench = SMOKE if smoke else Bench()
    frames = []
    for method in METHODS:
        for seed in range(seeds):
            frames.append(measured_rows(method, bench, seed, runs, device, smoke=smoke))
            table = pd.concat(frames, ignore_index=True).drop(columns="detector")
            write_text(out / "corit_evaluation.csv", table.to_csv(index=False))
            own = table[(table["method"] == method) & (table["seed"] == seed) & (table["perturbation"] == "none")]
            auc = own[(own["measure"] == "auc") & (own["level"] == "video")].set_index("data")["value"]
            sys.stdout.write(f"{method}, seed {seed}: " + "  ".join(f"{k} {v:.3f}" for k, v in auc.items()) + "\n")
            sys.stdout.flush()
    write_json(out / "corit_evaluation.json", {**environment(), "bench": vars(bench), "methods": METHODS})


def main(arguments: list[str] | None = None) -> None:
    """Run the study.

    Args:
        arguments: Of the command line; those of the process when None.
    """
    chosen = read_study(study_parser(__doc__), arguments)
    if not chosen.replot:
        compute(chosen.seeds, chosen.runs, chosen.out, smoke=chosen.smoke, device=chosen.device)


if __name__ == "__main__":
    main()
