"""A grid as a TOML file: a table ``[base]`` of fixed settings and a table ``[axes]`` of varied ones."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.lookup import did_you_mean
from gsnr_toolkit.support.settings import read_settings
from gsnr_toolkit.training.config import TrainConfig

__all__ = ["read_grid_file"]

_TABLES = ("base", "axes")


def read_grid_file(path: str | Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    r"""Read a grid from a file.

    Args:
        path: A TOML file.

    Returns:
        The fixed settings, and the varied settings with their values.

    Raises:
        ProbeError: If the file cannot be read, or has an unknown table or key; the message names both.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "grid.toml"
    ...     _ = file.write_text("[base]\nsteps = 200\n[axes]\nrho = [0, 0.05]")
    ...     read_grid_file(file)
    ({'steps': 200}, {'rho': [0, 0.05]})
    """
    file = Path(path)
    try:
        content = tomllib.loads(file.read_text(encoding="utf8"))
    except OSError as error:
        reason = error.strerror or error
        raise ProbeError(f"expected a grid file, but {file} cannot be read: {reason}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProbeError(f"expected {file} to be TOML, but it cannot be parsed: {error}; correct the file") from None
    for name, table in content.items():
        if name not in _TABLES or not isinstance(table, dict):
            known = name in (item.name for item in fields(TrainConfig))
            hint = f"write {name!r} below [base]" if known else f"rename it.{did_you_mean(name, _TABLES)}"
            raise ProbeError(f"{file}: expected the tables [base] and [axes], got {name!r}; {hint}")
        try:
            read_settings(TrainConfig, dict.fromkeys(table))  # refuses unknown names
        except ProbeError as error:
            raise ProbeError(f"{file}, [{name}]: {error}") from None
    base, axes = content.get("base", {}), content.get("axes", {})
    _check_values(file, base, axes)
    return base, axes


def _check_values(file: Path, base: dict[str, Any], axes: dict[str, Any]) -> None:
    for key, value in axes.items():
        if not isinstance(value, list):
            raise ProbeError(f"{file}: expected a list for {key} in [axes], got {value!r}; move it to [base]")
        if key in base:
            raise ProbeError(f"{file}: expected {key} in one table, got it in [base] and in [axes]; remove one of them")
    for key, value in base.items():
        if isinstance(value, list) and key != "eval_data":
            raise ProbeError(f"{file}: expected one value for {key} in [base], got {value!r}; move it to [axes]")
