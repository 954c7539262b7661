"""``sweep.csv``: one row per finished or failed run, with its whole config and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.arguments import PATH, check_arguments
from gsnr_toolkit.support.atomic import write_text
from gsnr_toolkit.sweeps.folder import SweepFolder
from gsnr_toolkit.training.config import TrainConfig

__all__ = ["FAILED", "read_row", "read_table", "write_table"]

#: Status of a run that ended with an error.
FAILED = "failed"

_FIRST = ("key", "status", "message")


def read_row(folder: SweepFolder, config: TrainConfig) -> dict[str, Any] | None:
    """Read the row of one run.

    Args:
        folder: The sweep's folder.
        config: The run's config.

    Returns:
        ``key, status, message``, every setting, then the results; None if the run has neither finished nor failed.
    """
    result = folder.result(config)
    failure = None if result is not None else folder.failure(config)
    if result is None and failure is None:
        return None
    head = {"key": config.key, "status": FAILED, "message": failure or ""}
    settings = {name: ",".join(v) if isinstance(v, list) else v for name, v in config.to_dict().items()}
    found = result or {}
    rest = {name: value for name, value in found.items() if name not in _FIRST}
    return {**head, **{name: found[name] for name in _FIRST if name in found}, **settings, **rest}


def write_table(folder: SweepFolder, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``sweep.csv`` atomically.

    Args:
        folder: The sweep's folder.
        rows: Results of :func:`read_row`, in the order of the runs.
    """
    # Columns in the order of the longest row: a failed run has no results, and must not decide where theirs stand.
    longest_first = sorted(rows, key=len, reverse=True)
    columns = list(dict.fromkeys(name for row in longest_first for name in row)) or list(_FIRST)
    write_text(folder.table_file, pd.DataFrame(list(rows), columns=columns).to_csv(index=False))


def read_table(out: str | Path) -> pd.DataFrame:
    """Read the table of a sweep, finished or not.

    Args:
        out: The sweep's folder.

    Returns:
        One row per finished or failed run.

    Raises:
        ProbeError: If there is no table.
    """
    check_arguments(folder=(out, PATH))
    path = Path(out) / "sweep.csv"
    try:
        # Only empty cells are missing values: a data set may be called "null".
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise ProbeError(
            f"expected a table at {path}, but it cannot be read ({error}); give the folder that was passed as --out"
        ) from error
