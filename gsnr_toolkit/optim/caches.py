"""Copies of weights that torch keeps elsewhere: they are dropped whenever SAM moves weights."""

from __future__ import annotations

import torch
from torch.nn.utils import parametrize


def drop_weight_copies() -> None:
    """Drop what torch computed from weights that have moved since.

    Inside ``torch.autocast``, the half-precision copy of a weight is kept until the outermost block ends; inside
    ``torch.nn.utils.parametrize.cached()``, so is a parametrized weight. A forward pass there would see the weights
    from before the move.
    """
    torch.clear_autocast_cache()
    parametrize._cache.clear()
