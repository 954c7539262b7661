"""Make every figure and table with one command.

Command: ``python -m analyses.all --replot`` draws everything from the stored tables, in about a minute; without
``--replot`` everything is computed, about four hours on 2 cores on the embedded data (the sum of its parts; it has
never been run in one sitting). An interrupted run resumes, and figures share trained runs. ``--data-root PATH --model
clip-vit-l14`` does the same on real data sets, ``--smoke`` makes a few short runs, ``--only figure1,figure3`` selects
scripts. If a script fails the others still run; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from analyses.support.options import common_options, read_options
from analyses.support.processes import spread


class Script(NamedTuple):
    """The module of a script in ``analyses``, and what it makes, in a few words."""

    module: str
    makes: str


SCRIPTS = {
    "foretell_collapse": Script("collapse.foretell_collapse", "COR and others foretold against found"),
    "cor_signs": Script("collapse.cor_signs", "which way COR moves with GSNR"),
    "collapse_controls": Script("collapse.collapse_controls", 'rho="auto" and others against fixed radii'),
    "radius_study": Script("radius.study", "where SAM fails with a true horizon, and what foretells it"),
    "radius_controllers": Script("radius.controllers", "rules for the radius against the best fixed one"),
    "radius_traces": Script("radius.traces", 'a run that falls back, and one with rho="auto"'),
    "corit_ladder": Script("corit.ladder", "what each part of CoRIT is worth, step by step"),
    "corit_baselines": Script("corit.baselines", "CoRIT beside its baselines"),
    "corit_ablation": Script("corit.ablation", "CoRIT without each part"),
    "corit_proxy": Script("corit.proxy", "the proxy's GSNR against the true one"),
    "corit_evaluation": Script("corit.evaluation", "CoRIT by every measure, on all test sets and on worse images"),
    "figure1": Script("figures.figure1", "AUC at 0.05, COR by layer, samples"),
    "figure2": Script("figures.figure2", "AUC against the radius"),
    "figure3": Script("figures.figure3", "GSNR and COR over steps"),
    "figure4": Script("figures.figure4", "CoRIT's pipeline"),
    "figure5": Script("figures.figure5", "loss within and across data sets"),
    "attribution": Script("figures.attribution", "why layers differ in COR"),
    "gsnr_bias": Script("figures.gsnr_bias", "plug-in GSNR against n"),
    "engine_cost": Script("figures.engine_cost", "cost of the engines"),
    "result_tables": Script("tables.result_tables", "tables of results, and published numbers"),
}
"""Scripts by name, ordered such that tables are written before the figures that use them.

The names are those of ``--only`` and the beginnings of the names of the files that a script writes. The modules of the
CoRIT studies, in ``analyses.corit``, do not repeat the prefix ``corit_``.
"""

EMBEDDED_ONLY = "corit_"
"""Prefix of the scripts that use embedded models and data only. They are independent, and each uses one core, so that
several are computed in parallel."""


class Outcome(NamedTuple):
    """Result of a script: what went wrong, in a line (None if nothing did), its duration, the names of its files."""

    problem: str | None
    seconds: float
    made: list[str]


def run_script(name: str, arguments: Sequence[str]) -> str | None:
    """Run a script by its key; return what went wrong, in a line, or None."""
    try:
        main: Callable[[list[str]], None] = import_module(f"analyses.{SCRIPTS[name].module}").main
        main(list(arguments))
    except SystemExit as stop:  # from argparse, for example on unknown options
        return f"exit status {stop.code}" if stop.code not in (None, 0) else None
    except Exception as error:
        sys.stderr.write(traceback.format_exc())
        lines = str(error).splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}"
    return None


def stamps(folders: Sequence[Path]) -> dict[Path, int]:
    """Return when each file directly in the folders was last written, in nanoseconds."""
    found = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in found}


def run_group(
    names: Sequence[str], arguments: Sequence[str], places: Sequence[Path], workers: int
) -> dict[str, Outcome]:
    """Return the outcomes of scripts: one, or several that run in parallel and whose files begin with their names."""
    before, work = stamps(places), partial(_timed, arguments=arguments)
    found = [work(names[0])] if len(names) == 1 else spread(work, names, workers=workers)
    written = [path for path, stamp in stamps(places).items() if before.get(path) != stamp and path.suffix != ".pdf"]
    own = {name: [path.name for path in written if len(names) == 1 or path.name.startswith(name)] for name in names}
    return {
        name: Outcome(problem, seconds, sorted(own[name]))
        for name, (problem, seconds) in zip(names, found, strict=True)
    }


def _timed(name: str, arguments: Sequence[str]) -> tuple[str | None, float]:
    start = time.monotonic()
    return run_script(name, arguments), time.monotonic() - start


def groups(names: Sequence[str], *, parallel: bool) -> list[list[str]]:
    """Return the scripts in groups that run together: with ``parallel``, neighbours that are independent of each other.

    >>> groups(["figure1", "corit_ladder", "corit_proxy", "figure5"], parallel=True)
    [['figure1'], ['corit_ladder', 'corit_proxy'], ['figure5']]
    """
    # A script that must run alone gets its own key.
    keys = [EMBEDDED_ONLY if parallel and name.startswith(EMBEDDED_ONLY) else str(i) for i, name in enumerate(names)]
    return [[name for _, name in part] for _, part in groupby(zip(keys, names, strict=True), key=lambda pair: pair[0])]


def forwarded(chosen: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    """Return the common options that were given, as arguments; scripts have different defaults for the others."""
    found = [f"--{name}" for name in ("smoke", "replot") if getattr(chosen, name)]
    for name in ("seeds", "workers", "device", "model", "data_root", "runs", "out"):
        value = getattr(chosen, name)
        if value != parser.get_default(name):
            found += [f"--{name.replace('_', '-')}", str(value)]
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run all scripts, and print what was made; the exit status is 1 if one failed."""
    parser = common_options(__doc__)
    parser.add_argument("--only", help="names of scripts, with commas")
    chosen = read_options(parser, arguments)
    names = chosen.only.split(",") if chosen.only else list(SCRIPTS)
    unknown = sorted(set(names) - set(SCRIPTS))
    if unknown:
        parser.error(f"--only: no script is called {', '.join(unknown)}; choose from {', '.join(SCRIPTS)}")
    table = Table("script", "what", "made", "seconds", "result", title="figures and tables")
    left_out = [name for name in names if name.startswith(EMBEDDED_ONLY) and (chosen.model or chosen.data_root)]
    for name in left_out:
        table.add_row(name, SCRIPTS[name].makes, "nothing", "0", "left out: uses embedded data only")
    rest = [name for name in names if name not in left_out]
    arguments, places = forwarded(chosen, parser), [chosen.out, chosen.out.parent]
    failed = []
    for group in groups(rest, parallel=chosen.workers > 1 and not chosen.replot):
        # In parallel each script gets one thread, as is its default.
        own = [*arguments, "--workers", "1"] if len(group) > 1 else arguments
        for name, (problem, seconds, made) in run_group(group, own, places, chosen.workers).items():
            failed += [name] if problem else []
            table.add_row(name, SCRIPTS[name].makes, "\n".join(made) or "nothing", f"{seconds:.0f}", problem or "ok")
    console = Console()
    console.print(table)
    if failed:
        console.print(f"failed: {', '.join(failed)}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
