"""Ablations: the value of each part of a detector, from one training per variant and seed on shared features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from corit.training.config import DetectorTraining
from corit.training.train import train_detector
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.atomic import write_text
from gsnr_toolkit.support.locks import locked
from gsnr_toolkit.support.progress import stage
from gsnr_toolkit.support.settings import read_settings

__all__ = ["PARTS", "ablate", "grid_variants", "summarise"]

#: Changes of a config by name: CoRIT, CoRIT without each of its parts, and a linear probe for comparison.
PARTS: dict[str, dict[str, Any]] = {
    "CoRIT": {},
    "class tokens alone": {"num_regions": 0},
    "regions of each image": {"anchors": "cgp"},
    "random anchors": {"anchors": "random"},
    "fixed anchors": {"anchors": "fixed"},
    "without RRM": {"rrm": False},
    "without RSI": {"rsi": False},
    "without HRI": {"hri": False},
    "regions of each image and block": {"anchors": "cgp", "cgp_layer": "each"},
    "linear probe": {"method": "probe"},
}


def grid_variants(axes: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Return changes of a config by name: all combinations of the values of several settings; numbers may be text.

    Raises:
        ProbeError: If a setting is unknown, or has no value.

    >>> list(grid_variants({"rho": ["0", "0.05"], "num_regions": ["2"]}))
    ['rho=0, num_regions=2', 'rho=0.05, num_regions=2']
    """
    for name, values in axes.items():
        if not values:
            raise ProbeError(f"expected at least one value of {name}, got none; give its values, or leave it out")
    if "seed" in axes:
        raise ProbeError("expected the number of seeds, got seed as a setting to vary; pass --seeds 3, say")
    found = {}
    for values in product(*axes.values()):
        changes = dict(zip(axes, values, strict=True))
        found[", ".join(f"{name}={value}" for name, value in changes.items())] = read_settings(
            DetectorTraining, changes
        )
    return found


def ablate(
    config: DetectorTraining,
    variants: Mapping[str, Mapping[str, Any]],
    folder: str | Path,
    *,
    seeds: int = 1,
    cache: str | Path | None = None,
    device: str | None = None,
    draws: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Train every variant with every seed; skip finished trainings and resume interrupted ones.

    The trainings run one after the other in this process and share cached features.

    Args:
        config: The config that the variants change.
        variants: Changes by name; :data:`PARTS`, or a result of :func:`grid_variants`.
        folder: Where all files go: a folder in ``runs/`` per training, and ``ablation.csv``.
        seeds: Trainings per variant, with the seeds 0, 1, ...
        cache: Folder for cached features; ``features/`` in ``folder`` when None.
        device: Where to train; the first GPU, or else the CPU, when None.
        draws: Bootstrap draws for each training's intervals; 0 for none.
        progress: Show progress bars (on a terminal).

    Returns:
        ``ablation.csv``: a row per variant, seed, selection, data set and level, with the AUC.

    Raises:
        ProbeError: If ``seeds`` is below 1, or a variant changes an unknown field.
    """
    if seeds < 1:
        raise ProbeError(f"expected seeds to be 1 or more, got {seeds}; pass the number of trainings per variant")
    place = Path(folder)
    planned = [
        (name, replace(config, **changes, seed=seed)) for name, changes in variants.items() for seed in range(seeds)
    ]
    rows: list[dict[str, Any]] = []
    table = pd.DataFrame()
    with locked(place), stage("trainings", len(planned), show=progress) as advance:
        for name, each in planned:
            result = train_detector(
                each, place / "runs" / each.key, device=device, cache=cache or place / "features", draws=draws
            )
            about = {"variant": name, "seed": each.seed, "key": each.key, "status": result["status"]}
            about |= {"selected_step": result["selected_step"], "train_loss": result["train_loss"]}
            rows += [{**about, "val_auc": result[f"val_auc_{row['selection']}"], **row} for row in result["test"]]
            table = pd.DataFrame(rows)
            write_text(place / "ablation.csv", table.to_csv(index=False))
            advance(1, name)
    return table


def summarise(table: pd.DataFrame, level: str = "video") -> pd.DataFrame:
    """Return averages over the seeds of :func:`ablate`'s table at a level, ``"frame"`` or ``"video"``.

    There is a row per variant, selection and data set: mean, smallest and largest AUC, mean validation AUC, and the
    number of seeds.
    """
    chosen = table[table["level"] == level]
    grouped = chosen.groupby(["variant", "selection", "data"], sort=False)
    return grouped.agg(
        auc=("value", "mean"),
        auc_min=("value", "min"),
        auc_max=("value", "max"),
        val_auc=("val_auc", "mean"),
        seeds=("seed", "nunique"),
    ).reset_index()
