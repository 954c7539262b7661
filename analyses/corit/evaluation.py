"""CoRIT and the linear probe through ``corit train`` and ``corit eval``: other forgeries, whole images, worse images.

Claims (the paper's tables): CoRIT detects forgeries it was not trained on and images generated whole, and survives
compression. Both methods are trained on one family with given forgeries, as a user would train them, and tested by
every measure.

Command: ``python -m analyses.corit.evaluation`` (``--smoke``; ``--replot`` does nothing: ``result_tables`` formats the
stored table).
Hardware: one core of a CPU, ten minutes; resumes.
Obtained: AUC .94 [.92, .96] on demo-nt, .75 on f2f, .62 on gan; all measures are in ``analyses/README.md``.
Table: ``figures/data/corit_evaluation.csv``, a row for each method, seed, test set, perturbation, level and measure.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.corit.features import SMOKE, Bench
from analyses.support.runner import run_study
from analyses.support.tables import DIGITS, store
from corit.model.trained import load_trained
from corit.scoring.evaluate_many import evaluate_many, expand_names, read_perturbations
from corit.training.config import DetectorTraining
from corit.training.train import train_detector
from gsnr_toolkit.support.atomic import write_text

METHODS: dict[str, dict[str, Any]] = {
    "linear probe": {"method": "probe"},
    "class tokens of two layers": {"num_regions": 0, "mid_layer": 2},
    "CoRIT": {"mid_layer": 2},
}
TRAINED_ON = "demo-nt"
RATE = 1e-2
"""Learning rate chosen on validation data in ``corit_baselines``, for all three methods."""


def training(method: str, bench: Bench, seed: int) -> DetectorTraining:
    """Return the training config of one method; the images are the same for all seeds."""
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
    """Train one method with one seed; return the table of ``corit eval``, a short one for ``smoke``."""
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


def compute(chosen: argparse.Namespace) -> None:
    """Train and test what is missing, and write the table after each training."""
    bench = SMOKE if chosen.smoke else Bench()
    frames = []
    for method in METHODS:
        for seed in range(chosen.seeds):
            frames.append(measured_rows(method, bench, seed, chosen.runs, chosen.device, smoke=chosen.smoke))
            table = pd.concat(frames, ignore_index=True).drop(columns="detector")
            store(chosen.out, "corit_evaluation", {"": table}, digits=None, bench=vars(bench), methods=METHODS)
            own = table[(table["method"] == method) & (table["seed"] == seed) & (table["perturbation"] == "none")]
            auc = own[(own["measure"] == "auc") & (own["level"] == "video")].set_index("data")["value"]
            print(f"{method}, seed {seed}: " + "  ".join(f"{k} {v:.3f}" for k, v in auc.items()), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""
    run_study(compute, None, __doc__, arguments, embedded_only=True)


if __name__ == "__main__":
    main()
