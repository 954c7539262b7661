"""How well probabilities separate fake from real, by frame and by video, with intervals over videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gsnr_toolkit.errors import ProbeError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["METRICS", "Interval", "by_video", "evaluate_scores", "measures", "video_keys"]

#: Every metric, and its meaning.
METRICS = {
    "auc": "area under the ROC curve; 0.5 is chance, whatever the threshold",
    "ap": "average precision of the fakes: the precision at each recall, averaged; chance is their share",
    "eer": "equal error rate: share of real images called fake, where it is nearest to that of missed fakes",
    "accuracy": "share classified correctly at a probability of 0.5",
    "ece": "expected calibration error over 15 equal bins: mean distance between probability and share of fakes",
    "brier": "mean squared distance between probability and label",
}

BINS = 15
THRESHOLD = 0.5

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A metric with its interval over videos; both ends are NaN if a class has only one video."""

    value: float
    low: float
    high: float


def measures(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> dict[str, float]:
    """Compute every metric of :data:`METRICS`.

    The ROC curve is scikit-learn's. The equal error rate is the false positive rate at the threshold where it differs
    least from the false negative rate (the highest such threshold), as in DeepfakeBench.

    Args:
        labels: 0 real, 1 fake, ``(N,)``.
        probabilities: Of being fake, ``(N,)``.
        weights: How often each image counts, ``(N,)``; once when None.

    Returns:
        Value by name.

    Raises:
        ProbeError: If a probability is not from 0 to 1, or a class is missing.

    >>> found = measures([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
    >>> found["auc"], found["accuracy"], found["eer"]
    (0.75, 0.5, 0.5)
    """
    from sklearn.metrics import auc, roc_curve  # slow to import, and `corit predict` needs only the names in METRICS

    known, scores = checked(labels, probabilities)
    counts = np.ones(len(known)) if weights is None else np.asarray(weights, dtype=np.float64)
    false_rate, true_rate, _ = roc_curve(known, scores, sample_weight=counts, drop_intermediate=False)
    total = counts.sum()
    fake = counts[known == 1].sum()
    # precision from the same curve: average_precision_score would sort the scores again, in each of 1,000 draws
    hits, alarms = true_rate * fake, false_rate * (total - fake)
    precision = np.divide(hits, hits + alarms, out=np.ones_like(hits), where=hits + alarms > 0)
    right = (scores >= THRESHOLD) == (known == 1)
    return {
        "auc": float(auc(false_rate, true_rate)),
        "ap": float(np.sum(np.diff(true_rate) * precision[1:])),
        "eer": float(false_rate[np.argmin(np.abs(1 - true_rate - false_rate))]),
        "accuracy": float(counts @ right / total),
        "ece": _calibration_error(known, scores, counts),
        "brier": float(counts @ np.square(scores - known) / total),
    }


def _calibration_error(labels: Labels, probabilities: Floats, counts: Floats) -> float:
    # bin b holds probabilities from b / 15 to just below (b + 1) / 15, the last one 1 as well
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=counts * (probabilities - labels), minlength=BINS)
    return float(np.abs(gaps).sum() / counts.sum())


def video_keys(records: pd.DataFrame) -> NDArray[Any]:
    """Return a number for each row, ``(N,)``, equal for frames of one video: same domain, label, method and video.

    Label and method are part of the key, because the folder of a real video and of its forgery may have the same name.
    Without a column ``video``, ``source`` takes its place.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"label": 1, "method": ["df", "df", "nt"], "source": "000", "domain": "ff"})
    >>> video_keys(table).tolist()
    [0, 0, 1]
    """
    video = "video" if "video" in records.columns else "source"
    columns = [name for name in ("domain", "label", "method", video) if name in records.columns]
    return records.groupby(columns, sort=False, dropna=False).ngroup().to_numpy()


def by_video(labels: ArrayLike, probabilities: ArrayLike, videos: ArrayLike) -> tuple[Labels, Floats]:
    """Return label and mean probability of each video; frames with different labels count as different videos.

    >>> [found.tolist() for found in by_video([0, 1, 1], [0.5, 0.25, 0.75], ["a", "a", "a"])]
    [[0, 1], [0.5, 0.5]]
    """
    known, scores = checked(labels, probabilities)
    owners = _numbered(known, videos)
    first = np.unique(owners, return_index=True)[1]
    return known[first], np.bincount(owners, weights=scores) / np.bincount(owners)


def evaluate_scores(
    labels: ArrayLike,
    probabilities: ArrayLike,
    videos: ArrayLike,
    *,
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, Interval]]:
    """Compute every metric by frame and by video, with percentile intervals of a bootstrap over videos.

    Each draw resamples the real and the fake videos with replacement, keeps their numbers, and takes all frames of each
    video, because frames of one video are not independent.

    Args:
        labels: 0 real, 1 fake, ``(N,)``.
        probabilities: Of being fake, ``(N,)``.
        videos: Equal for frames of one video, ``(N,)``; see :func:`video_keys`.
        draws: Bootstrap draws; 0 for no intervals.
        confidence: Nominal coverage.
        seed: Seed of the draws.

    Returns:
        ``{"frame": ..., "video": ...}``, each metric by name. Intervals are NaN if a class has a single video.

    Raises:
        ProbeError: If an argument is out of its range.
    """
    if draws < 0 or not 0 < confidence < 1:
        raise ProbeError(
            f"expected draws from 0 and confidence between 0 and 1, got {draws} and {confidence}; try 1000 and 0.95"
        )
    known, scores = checked(labels, probabilities)
    owners = _numbered(known, videos)
    video_labels, video_scores = by_video(known, scores, owners)
    one_each = len(video_labels) == len(known)
    points = {"frame": measures(known, scores), "video": measures(video_labels, video_scores)}
    drawn: dict[str, list[dict[str, float]]] = {"frame": [], "video": []}
    few = min(np.sum(video_labels == 0), np.sum(video_labels == 1)) < 2
    for counts in _draws(video_labels, 0 if few else draws, seed):
        found = measures(video_labels, video_scores, counts)
        drawn["video"].append(found)
        drawn["frame"].append(found if one_each else measures(known, scores, counts[owners]))
    return {
        level: {
            name: _interval(value, [draw[name] for draw in drawn[level]], confidence) for name, value in row.items()
        }
        for level, row in points.items()
    }


def _draws(labels: Labels, draws: int, seed: int) -> list[Floats]:
    """Draw how often each video counts, for each bootstrap draw."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        counts = np.zeros(len(labels))
        for label in (0, 1):
            members = np.flatnonzero(labels == label)
            counts[members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)))
        found.append(counts)
    return found


def _interval(value: float, drawn: Sequence[float], confidence: float) -> Interval:
    if not drawn:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def _numbered(labels: Labels, videos: ArrayLike) -> NDArray[np.int64]:
    """Number the videos by label and name."""
    names = np.asarray(videos)
    if names.shape != labels.shape:
        raise ProbeError(f"expected a video for each of {len(labels)} images, got shape {names.shape}; pass one each")
    # a forgery may carry the name of its source video, so the label is part of the key
    numbers = np.unique(names, return_inverse=True)[1].reshape(-1)
    return np.unique(2 * numbers + labels, return_inverse=True)[1].reshape(-1)


def checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Labels, Floats]:
    """Return labels and probabilities as arrays, after checking shapes, classes and range."""
    known, scores = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if known.ndim != 1 or known.shape != scores.shape:
        raise ProbeError(
            f"expected a probability for each label, got shapes {known.shape} and {scores.shape}; pass one each"
        )
    if set(known.tolist()) != {0, 1}:
        raise ProbeError(
            f"expected real (0) and fake (1) images, got labels {sorted(set(known.tolist()))[:4]}; AUC needs both"
        )
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ProbeError(
            f"expected probabilities from 0 to 1, got values from {np.min(scores)} to {np.max(scores)} (NaN if a score "
            "is not finite); apply a sigmoid to logits"
        )
    return known.astype(np.int64), scores
