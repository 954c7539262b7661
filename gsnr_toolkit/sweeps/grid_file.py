"""A grid in a TOML file: a table ``[base]`` of what is fixed, a table ``[axes]`` of what varies."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.lookup import did_you_mean
from gsnr_toolkit.training.config import TrainConfig

__all__ = ["read_grid_file"]

_TABLES = ("base", "axes")


def read_grid_file(path: str | Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    r"""Read a grid from a file.

    Args:
        path: A TOML file.

    Returns:
        What is fixed, and what varies with its values.

    Raises:
        ProbeError: If it cannot be read, or a table or key is not known; names the file and the key.

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
        raise ProbeError(f"expected a grid file, but {file} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProbeError(f"expected {file} to be TOML: {error}") from None
    known = [item.name for item in fields(TrainConfig)]
    for name, table in content.items():
        if name not in _TABLES or not isinstance(table, dict):
            hint = f"; write {name!r} below [base]" if name in known else did_you_mean(name, _TABLES)
            raise ProbeError(f"{file}: expected the tables [base] and [axes], got {name!r}{hint}")
        for key in table:
            if key not in known:
                raise ProbeError(
                    f"{file}: no setting is called {key!r}, in [{name}].{did_you_mean(key, known)} "
                    f"Known are {', '.join(known)}"
                )
    base, axes = content.get("base", {}), content.get("axes", {})
    _check_values(file, base, axes)
    return base, axes


def _check_values(file: Path, base: dict[str, Any], axes: dict[str, Any]) -> None:
    for key, value in axes.items():
        if not isinstance(value, list):
            raise ProbeError(f"{file}: expected a list for {key} in [axes], got {value!r}; move it to [base]")
        if key in base:
            raise ProbeError(f"{file}: {key} is in [base] and in [axes]; leave one of them out")
    for key, value in base.items():
        if isinstance(value, list) and key != "eval_data":
            raise ProbeError(f"{file}: expected one value for {key} in [base], got {value!r}; move it to [axes]")
