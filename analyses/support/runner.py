"""The one ``main`` of all scripts: read the options, compute and store tables, draw from the stored tables."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from analyses.support.options import CORIT_RUNS, common_options, names, read_options


def run_study(
    compute: Callable[[argparse.Namespace], object] | None,
    plot: Callable[[Path], None] | None,
    description: str | None,
    arguments: list[str] | None,
    *,
    families: Sequence[str] = (),
    embedded_only: bool = False,
    add_options: Callable[[argparse.ArgumentParser], object] | None = None,
) -> None:
    """Run a script: compute its tables unless ``--replot`` is given, then draw.

    Args:
        compute: Called with the options; writes tables to the folder ``out``. None if the script computes nothing.
        plot: Called with that folder; draws from its tables alone. None if the script draws nothing.
        description: Docstring of the script.
        arguments: Command-line arguments; those of the process when None.
        families: Default of the option ``--families``; no such option if empty.
        embedded_only: The study uses embedded data and encoders only: ``--model`` and ``--data-root`` are errors. It
            trains heads, for which three seeds, one thread and a runs folder of their own are the defaults.
        add_options: Adds options to the parser.
    """
    parser = common_options(description)
    if embedded_only:
        parser.set_defaults(seeds=3, workers=1, runs=CORIT_RUNS)
    if families:
        parser.add_argument("--families", type=names, default=",".join(families), help="families, with commas")
    if add_options is not None:
        add_options(parser)
    chosen = _read_embedded(parser, arguments) if embedded_only else read_options(parser, arguments)
    if compute is not None and not chosen.replot:
        compute(chosen)
    if plot is not None:
        plot(chosen.out)


def _read_embedded(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    chosen = parser.parse_args(arguments)
    given = {"--model": chosen.model, "--data-root": chosen.data_root}
    given = {name: value for name, value in given.items() if value is not None}
    if given:
        parser.error(
            f"expected neither --model nor --data-root, got {' '.join(f'{k} {v}' for k, v in given.items())}; "
            "this study runs on embedded data only: use 'corit train', 'corit eval' and 'corit ablate' on another "
            "encoder and other data sets"
        )
    if not chosen.replot:
        # These scripts train in this process, so that --workers counts threads.
        torch.set_num_threads(chosen.workers)
    return chosen
