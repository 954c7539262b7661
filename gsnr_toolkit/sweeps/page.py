"""A sweep's folder as one HTML page."""

from __future__ import annotations

from pathlib import Path

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.pages.files import check_page, write_page
from gsnr_toolkit.sweeps.folder import SweepFolder
from gsnr_toolkit.sweeps.grid import label
from gsnr_toolkit.sweeps.table import read_table

__all__ = ["save_page"]


def save_page(
    folder: str | Path, to: str | Path | None = None, *, rho: float | None = 0.05, overwrite: bool = False
) -> Path:
    """Write a sweep, finished or not, as one HTML page.

    Args:
        folder: The sweep's.
        to: Where the page goes; ``report.html`` in the folder when None.
        rho: A radius to mark in the figure; None marks none.
        overwrite: Whether a file that is no page of ours may be replaced.

    Returns:
        The page's path.

    Raises:
        ProbeError: If there is no sweep or no run that has ended, or the file cannot be written.
    """
    place = SweepFolder(folder)
    grid = place.load_grid()
    configs = grid.configs
    path = check_page(Path(folder) / "report.html" if to is None else to, overwrite=overwrite)
    table = read_table(folder) if place.table_file.exists() else None
    if table is None or table.empty:
        raise ProbeError(
            f"expected a run that has ended in {folder}, got none of {len(configs)}; go on with the sweep first"
        )
    from gsnr_toolkit.pages.sweep import sweep_page

    ended = set(table["key"])
    page = sweep_page(
        table,
        place.path.name,
        names={config.key: label(config, grid.shown) for config in configs},
        shown=grid.shown,
        unfinished=[label(config, grid.shown) for config in configs if config.key not in ended],
        grid={name: values for part in ("axes", "base") for name, values in grid.to_dict()[part].items()},
        rho=rho,
    )
    return write_page(path, page, overwrite=overwrite)
