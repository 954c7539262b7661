"""A detector on several data sets by name, and on perturbed copies of them, as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from corit.model.detector import CoRIT
from corit.model.features import FeatureMaker
from corit.model.trained import Trained
from corit.scoring.evaluate import evaluate_detector
from corit.scoring.robustness import LEVELS, PERTURBATIONS, Perturbed
from gsnr_toolkit.data.registry import DATASETS, open_dataset
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.atomic import make_folder, write_text
from gsnr_toolkit.support.lookup import did_you_mean

__all__ = ["evaluate_many", "expand_names", "read_perturbations"]


def expand_names(text: str) -> list[str]:
    """Return the names of data sets in a text, separated by commas; ``demo`` stands for all embedded data sets.

    Raises:
        ProbeError: If a name is empty.

    >>> expand_names("demo,ff")[-2:]
    ['demo-diff', 'ff']
    """
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise ProbeError(f"expected names of data sets, got {text!r}; separate them by commas")
    demo = [name for name in DATASETS if name.startswith("demo-")]
    return list(dict.fromkeys(each for name in names for each in (demo if name == "demo" else [name])))


def read_perturbations(text: str | None) -> list[tuple[str, float]]:
    """Read perturbations from text.

    Args:
        text: ``"all"``, or names (all their levels) or ``NAME=LEVEL``, separated by commas; None for none.

    Returns:
        Names and levels.

    Raises:
        ProbeError: If a name is unknown or a level is not a number.

    >>> read_perturbations("jpeg=50,blur")
    [('jpeg', 50.0), ('blur', 0.5), ('blur', 1), ('blur', 2)]
    """
    if text is None:
        return []
    if text == "all":
        return [(name, level) for name, levels in LEVELS.items() for level in levels]
    found: list[tuple[str, float]] = []
    for part in text.split(","):
        name, equals, level = (piece.strip() for piece in part.partition("="))
        if name not in PERTURBATIONS:
            meant = did_you_mean(name, PERTURBATIONS)
            raise ProbeError(
                f"expected a perturbation out of all, {', '.join(PERTURBATIONS)}, got {name!r}; choose one.{meant}"
            )
        try:
            found += [(name, float(level))] if equals else [(name, each) for each in LEVELS[name]]
        except ValueError:
            raise ProbeError(f"expected {name}=NUMBER, got {part!r}; give a number ({PERTURBATIONS[name]})") from None
    return found


def evaluate_many(
    trained: Trained,
    names: Sequence[str],
    options: Mapping[str, Any],
    *,
    perturbations: Sequence[tuple[str, float]] = (),
    cache: Path | None = None,
    draws: int = 1000,
    out: Path | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Evaluate a detector on data sets by name, unchanged and perturbed.

    Args:
        trained: The detector, on its device.
        names: Data sets.
        options: ``split``, ``size``, ``root``, ``frames_per_video`` and other options of :func:`open_dataset`.
        perturbations: Names and levels.
        cache: Folder of cached features of a frozen encoder; None keeps none.
        draws: Bootstrap draws.
        out: Folder for ``results.csv`` and ``scores.csv``, written after each data set.
        progress: Show bars (on a terminal).

    Returns:
        The table, columns :data:`corit.scoring.evaluate.COLUMNS`.
    """
    device = next(trained.model.parameters()).device
    maker = FeatureMaker(trained.model, cache, device=device) if _frozen(trained) else None
    tables: list[pd.DataFrame] = []
    scores: list[pd.DataFrame] = []
    spec = trained.spec
    transform: dict[str, Any] = {"image_size": spec.image_size, "mean": spec.mean, "std": spec.std}
    for name in names:
        own = {key: value for key, value in options.items() if not (key == "root" and name.startswith("demo-"))}
        data = open_dataset(name, **transform, **own)
        whole = [
            ("none", data),
            *((f"{kind} {level:g}", Perturbed(data, kind, level)) for kind, level in perturbations),
        ]
        for text, dataset in whole:
            found = evaluate_detector(
                trained, dataset, maker=maker, draws=draws, device=device, perturbation=text, progress=progress
            )
            tables.append(found.table)
            scores.append(found.scores.assign(perturbation=text))
        if out is not None:
            make_folder(out)
            write_text(out / "results.csv", pd.concat(tables, ignore_index=True).to_csv(index=False))
            write_text(out / "scores.csv", pd.concat(scores, ignore_index=True).to_csv(index=False))
    return pd.concat(tables, ignore_index=True)


def _frozen(trained: Trained) -> bool:
    # features of a tuned encoder serve this one test, so caching them only fills the disk
    return isinstance(trained.model, CoRIT) or trained.training.get("method") == "probe"
