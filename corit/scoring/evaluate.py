"""A detector on one data set: a score for each image, and a table of metrics that names training data and protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit

from corit.model.features import FeatureMaker, head_logits, image_logits
from corit.model.trained import Trained
from corit.scoring.metrics import METRICS, evaluate_scores, video_keys
from gsnr_toolkit.data.base import ForgeryDataset
from gsnr_toolkit.support.progress import stage

__all__ = ["COLUMNS", "Evaluated", "evaluate_detector", "markdown_table", "protocol_of", "wide_table"]

#: Columns of a table of metrics, one metric a row.
COLUMNS = (
    "detector", "trained_on", "selection", "data", "protocol", "perturbation",
    "level", "measure", "value", "low", "high", "real", "fake",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluated:
    """A detector's result on a data set.

    Attributes:
        scores: A row for each image: the data set's records with ``logit``, ``probability`` and ``video_number``.
        table: A row for each domain, level and metric, columns :data:`COLUMNS`; intervals over videos.
    """

    scores: pd.DataFrame
    table: pd.DataFrame


def evaluate_detector(
    trained: Trained,
    dataset: ForgeryDataset,
    *,
    maker: FeatureMaker | None = None,
    draws: int = 1000,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    perturbation: str = "none",
    progress: bool = False,
) -> Evaluated:
    """Score a data set and compute the metrics by frame and by video, for each of its domains.

    Args:
        trained: The detector.
        dataset: Images with labels.
        maker: Computes or reads features of the frozen encoder; with None, images run through the whole model.
        draws: Bootstrap draws of the intervals; 0 for none.
        device: Device of the model.
        num_workers: Processes that read images.
        perturbation: What was done to the images, for the table.
        progress: Show a bar (on a terminal).

    Returns:
        Scores and table.
    """
    whole: Any = trained.model
    label = f"scoring {dataset.name}"
    if maker is not None:
        logits = head_logits(whole.head, maker(dataset, label=label, progress=progress), device)
    else:
        with stage(label, len(dataset), show=progress) as advance:
            logits = image_logits(trained.model, dataset, device, num_workers=num_workers, advance=advance)
    numbers = video_keys(dataset.records)
    scores = dataset.records.assign(logit=logits, probability=expit(logits), video_number=numbers)
    about = {
        "detector": trained.name,
        "trained_on": trained.trained_on,
        "selection": trained.training.get("selection", "unknown"),
        "perturbation": perturbation,
    }
    rows: list[dict[str, Any]] = []
    for domain, part in scores.groupby("domain", sort=False):
        protocol = protocol_of(trained, dataset, part)
        rows += _rows(part, {**about, "data": str(domain), "protocol": protocol}, draws)
    return Evaluated(scores, pd.DataFrame(rows, columns=list(COLUMNS)))


def _rows(part: pd.DataFrame, about: Mapping[str, Any], draws: int) -> list[dict[str, Any]]:
    labels = part["label"].to_numpy()
    found = evaluate_scores(labels, part["probability"].to_numpy(), part["video_number"].to_numpy(), draws=draws)
    videos = part.drop_duplicates("video_number")["label"]
    counted = {"frame": part["label"], "video": videos}
    rows = []
    for level, measured in found.items():
        counts = {"real": int((counted[level] == 0).sum()), "fake": int((counted[level] == 1).sum())}
        for name, interval in measured.items():
            values = {"value": interval.value, "low": interval.low, "high": interval.high}
            rows.append({**about, "level": level, "measure": name, **values, **counts})
    return rows


def protocol_of(trained: Trained, dataset: ForgeryDataset, scores: pd.DataFrame) -> str:
    """Describe relation to the training data, split, and frames per video of a domain's scores, in one line."""
    known, name = trained.training, dataset.name
    if not known:
        relation = "training data unknown"
    elif known["data"] != name:
        relation = "other data than trained on"
    elif known["fakes"] == "sbi":
        relation = "the data trained on, forgeries never seen"
    else:
        relation = "the data and forgeries trained on"
    split = ", ".join(sorted(scores["split"].astype(str).unique()))
    frames = scores.groupby("video_number").size()
    each = f"{frames.min()}" if frames.min() == frames.max() else f"{frames.min()} to {frames.max()}"
    return f"{relation}; split {split}; {each} frame{'' if each == '1' else 's'} a video"


def wide_table(table: pd.DataFrame, level: str = "video") -> pd.DataFrame:
    """Return the metrics of a level side by side, as text with their intervals.

    There is a row for each detector, data set and perturbation.
    """
    chosen = table[table["level"] == level].copy()
    chosen["text"] = [
        _text(value, low, high) for value, low, high in chosen[["value", "low", "high"]].itertuples(index=False)
    ]
    keys = ["detector", "selection", "data", "perturbation", "protocol", "real", "fake"]
    # sort=False keeps the order of the first rows
    wide = chosen.groupby([*keys, "measure"], sort=False)["text"].first().unstack("measure", sort=False)
    return wide[[name for name in METRICS if name in wide.columns]].reset_index()


def markdown_table(table: pd.DataFrame, columns: Mapping[str, str]) -> str:
    """Return columns of a table as Markdown, under the given headings.

    >>> print(markdown_table(pd.DataFrame({"a": [1]}), {"a": "A"}))
    | A |
    | --- |
    | 1 |
    """
    lines = [columns.values(), ["---"] * len(columns)]
    lines += [[str(value) for value in row] for row in table[list(columns)].itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: float, low: float, high: float) -> str:
    return f"{value:.3f}" if np.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"
