"""Data: real and forged images by name, from disk, or of one's own; balanced draws to probe and train on."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gsnr_toolkit.data.base import DataError, ForgeryDataset, probe_indices
    from gsnr_toolkit.data.loaders import endless, probe_loader, train_loader
    from gsnr_toolkit.data.own import in_memory, wrap
    from gsnr_toolkit.data.registry import DATASETS, open_dataset

__all__ = [
    "DATASETS",
    "DataError",
    "ForgeryDataset",
    "endless",
    "in_memory",
    "open_dataset",
    "probe_indices",
    "probe_loader",
    "train_loader",
    "wrap",
]

# Imported when first used, so that listing the data sets imports neither torch nor pandas.
_HOMES = {
    "DATASETS": "registry",
    "DataError": "base",
    "ForgeryDataset": "base",
    "endless": "loaders",
    "in_memory": "own",
    "open_dataset": "registry",
    "probe_indices": "base",
    "probe_loader": "loaders",
    "train_loader": "loaders",
    "wrap": "own",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
