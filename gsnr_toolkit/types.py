"""The few types that all folders share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Floats: TypeAlias = NDArray[np.float64]
"""A numpy array of float64."""

Params: TypeAlias = dict[str, Tensor]
"""Parameter name, as in ``model.named_parameters()``, to a tensor of that parameter's shape."""

Batch: TypeAlias = Any
"""What a loader yields: a tensor, or tuples, lists and mappings of tensors, with samples in the first dimension."""

Loader: TypeAlias = Iterable[Batch]


class PerSampleLoss(Protocol):
    """``loss_fn(model, batch) -> (N,)``: one number per row of the batch, no reduction."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return one loss per sample, shape ``(N,)``."""
        ...
