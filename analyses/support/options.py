"""Command-line options of the scripts, and what ``--model`` and ``--data-root`` do to a training config."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from analyses.support.families import FAMILIES
from gsnr_toolkit import TrainConfig
from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.models.registry import MODELS

ROOT = Path(__file__).parents[2]

DATA = ROOT / "figures" / "data"
"""Default folder of the tables."""

RUNS = ROOT / "runs" / "laboratory"
"""Default folder of the laboratory's runs."""

CORIT_RUNS = ROOT / "runs" / "corit"
"""Default folder of the fits and features of the CoRIT studies."""

REAL_NAMES = {"demo-cdf": "celebdf-v2"}
"""Embedded data set to the real one it stands for, where the names differ by more than ``demo-``."""


def common_options(description: str | None) -> argparse.ArgumentParser:
    """Build a parser with the options that all scripts share; the description is the script's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few short runs, to check that everything works")
    parser.add_argument("--replot", action="store_true", help="draw from the stored tables, compute nothing")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="number of parallel processes")
    parser.add_argument("--device", help="where to train; by default a GPU if there is one")
    parser.add_argument("--model", help="another model than the script's default, such as clip-vit-l14")
    parser.add_argument("--data-root", type=Path, help="folder of the real data sets, instead of the embedded ones")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the tables; figures are written beside it")
    return parser


def names(text: str) -> list[str]:
    """Return the names in an option that lists them; none for an empty text.

    >>> names("f2f,nt")
    ['f2f', 'nt']
    """
    return text.split(",") if text else []


def read_options(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line; check that real data sets can be opened before anything is trained on them."""
    chosen = parser.parse_args(arguments)
    if chosen.data_root is not None and not chosen.replot:
        try:
            for family in FAMILIES:
                open_dataset(family, split="val", root=chosen.data_root, size=8)
        except DataError as error:
            parser.error(f"--data-root: {error}")
    return chosen


def chosen_config(config: TrainConfig, chosen: argparse.Namespace) -> TrainConfig:
    """Return a config on embedded data, moved to the model and the data given on the command line, if any.

    Real data sets replace the embedded ones of the same name (``demo-nt`` becomes ``nt``), without a forgery strength.
    The learning rate is scaled by the ratio of the two models' default learning rates for probing.
    """
    model = chosen.model or config.model
    rates = [MODELS.rows[name].probe_lr if name in MODELS.rows else None for name in (model, config.model)]
    factor = rates[0] / rates[1] if rates[0] and rates[1] else 1.0
    found = replace(config, model=model, lr=config.lr * factor)
    if chosen.data_root is None:
        return found
    others = tuple(real_name(name) for name in config.eval_data)
    root = str(chosen.data_root)
    return replace(found, data=real_name(config.data), eval_data=others, data_root=root, strength=None)


def real_name(name: str) -> str:
    """Return the real data set that an embedded one stands for.

    >>> real_name("demo-nt"), real_name("demo-cdf")
    ('nt', 'celebdf-v2')
    """
    return REAL_NAMES.get(name, name.removeprefix("demo-"))
