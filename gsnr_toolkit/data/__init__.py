"""Data sets of real and forged images by name, from disk or from memory, and loaders of balanced batches.

Every data set becomes a :class:`gsnr_toolkit.data.base.ForgeryDataset`. ``layouts`` holds one reader per on-disk
layout, ``demo`` the procedural faces. What is not data does not belong here: no model, no loss, no statistic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gsnr_toolkit.support.lazy import lazy_exports

if TYPE_CHECKING:  # the same names for type checkers and editors
    from gsnr_toolkit.data.base import DataError as DataError
    from gsnr_toolkit.data.base import ForgeryDataset as ForgeryDataset
    from gsnr_toolkit.data.base import probe_indices as probe_indices
    from gsnr_toolkit.data.loaders import endless as endless
    from gsnr_toolkit.data.loaders import probe_loader as probe_loader
    from gsnr_toolkit.data.loaders import train_loader as train_loader
    from gsnr_toolkit.data.own import in_memory as in_memory
    from gsnr_toolkit.data.own import wrap as wrap
    from gsnr_toolkit.data.registry import DATASETS as DATASETS
    from gsnr_toolkit.data.registry import open_dataset as open_dataset

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "DATASETS": "gsnr_toolkit.data.registry",
        "DataError": "gsnr_toolkit.data.base",
        "ForgeryDataset": "gsnr_toolkit.data.base",
        "endless": "gsnr_toolkit.data.loaders",
        "in_memory": "gsnr_toolkit.data.own",
        "open_dataset": "gsnr_toolkit.data.registry",
        "probe_indices": "gsnr_toolkit.data.base",
        "probe_loader": "gsnr_toolkit.data.loaders",
        "train_loader": "gsnr_toolkit.data.loaders",
        "wrap": "gsnr_toolkit.data.own",
    },
)
