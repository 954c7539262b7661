"""Methods that train the encoder, for ``corit_baselines``: trained as ``corit train`` does, tested like the heads."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analyses.collapse.laboratory import BASE, RATES
from analyses.corit.features import FAMILIES, SMOKE, Bench, open_images
from analyses.corit.heads import score
from corit.model.features import image_logits
from corit.model.trained import load_trained
from corit.training.config import DetectorTraining
from corit.training.data import open_split
from corit.training.tasks import build_untrained
from corit.training.train import train_detector
from gsnr_toolkit.data.loaders import probe_loader
from gsnr_toolkit.models.spec import input_spec
from gsnr_toolkit.probing.estimate import estimate_cor
from gsnr_toolkit.support.atomic import read_json, write_json

LAB = Bench(encoder="clip-lab", strength=2.0)
SMOKE_LAB = replace(SMOKE, encoder="clip-lab", strength=2.0)

TUNED: dict[str, dict[str, Any]] = {
    "LN-tuning": {"method": "norms", "lr": BASE.lr * RATES["norms"]},
    "last 3 blocks": {"method": "last-3", "lr": BASE.lr},
    "full fine-tuning": {"method": "full", "lr": BASE.lr},
    "plain SBI classifier": {"method": "sbi", "lr": BASE.lr, "fakes": "sbi"},
}
"""Learning rates at which plain runs of the laboratory train."""

STEPS, BATCH = 300, 32


def tuned_rows(
    bench: Bench, method: str, rho: float, seeds: int, runs: Path, device: str | None
) -> list[dict[str, Any]]:
    """Return a row for each seed and test set of one method, trained at one radius; on the CPU when ``device`` is None.

    Each seed trains on as many images as all seeds of a head together.
    """
    base = DetectorTraining(
        encoder=bench.encoder,
        data="demo-nt",
        strength=bench.strength,
        train_samples=bench.train_images * seeds,
        val_samples=bench.val_images,
        eval_samples=bench.test_images,
        batch_size=BATCH,
        steps=min(STEPS, bench.steps),
        eval_every=100,
        rho=rho,
        **{"fakes": "given", **TUNED[method]},
    )
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        config = DetectorTraining.from_dict({**base.to_dict(), "seed": seed})
        rows += [{"encoder": bench.encoder, "method": method, **row} for row in _one(bench, config, runs, device)]
    return rows


def _one(bench: Bench, config: DetectorTraining, runs: Path, device: str | None) -> list[dict[str, Any]]:
    place = runs / "tuned" / config.key
    done = place / "tests.json"
    if done.exists():
        return read_json(done)
    began = _start(bench, config) if config.rho == 0 else {"cor": math.nan, "gsnr": math.nan}
    result = train_detector(config, place, device=device or "cpu", draws=0)
    trained = load_trained(place / "selected.safetensors", device=device or "cpu")
    losses = pd.read_csv(place / "log.csv")["loss"]
    stretch = max(1, len(losses) // 40)
    about = {
        "trained_on": "sbi" if config.fakes == "sbi" else "nt",
        "rho": config.rho,
        "seed": config.seed,
        "lr": config.lr,
        "val_auc": result["val_auc_selected"],
        "train_loss": result["train_loss"],
        "status": result["status"],
        "num_train": config.train_samples,
        "loss_curve": " ".join(f"{value:.4f}" for value in losses.groupby(losses.index // stretch).mean()),
        **began,
        "gsnr_start": began["gsnr"],
    }
    rows = []
    for family in FAMILIES:
        data = open_images(bench, family, "test", bench.test_images, trained.spec)
        found = score(image_logits(trained.model, data, device or "cpu"), torch.tensor(data.labels))
        rows.append({**about, "test": family, "num_test": len(data), **found})
    write_json(done, rows)
    return rows


def _start(bench: Bench, config: DetectorTraining) -> dict[str, float]:
    """COR and GSNR of the trained parameters before the first step."""
    model = build_untrained(config)
    data = open_split(config, "val", input_spec(model))
    loader = probe_loader(data, min(256, bench.val_images // 2), batch_size=config.batch_size)
    report = estimate_cor(model, loader, batch_size=min(BATCH, bench.val_images // 16), progress=False)
    return {"cor": float(report.total["cor"]), "gsnr": float(report.total["gsnr"])}
