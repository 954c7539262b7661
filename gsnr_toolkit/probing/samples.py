"""Probe samples for a whole training run: drawn once, then kept."""

from __future__ import annotations

from gsnr_toolkit.inputs.loader_state import check_shareable
from gsnr_toolkit.inputs.loaders import check_loader, draw_batches, keep_batches
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.types import Batch, Loader


class KeptSamples:
    """Samples that every measurement of a run shares; the loader is read at the first one only.

    Args:
        loader: Yields batches.
        max_samples: Most samples to draw; None draws the whole loader.
        seed: Seed of the random numbers while drawing.

    Raises:
        ProbeError: If reading the loader would take batches from a loop over it.
    """

    def __init__(self, loader: Loader, max_samples: int | None, seed: int) -> None:
        check_loader(loader)
        check_shareable(loader, repeatedly=True)
        self._loader: Loader | None = loader
        self._max_samples, self._seed = max_samples, seed
        self._held: list[Batch] = []

    def __call__(self) -> list[Batch]:
        """Return the samples as batches."""
        if self._loader is not None:
            with preserved_rng(self._loader, seed=self._seed):
                drawn = draw_batches(self._loader, self._max_samples)
                self._held = keep_batches(drawn, self._loader, self._max_samples)
            self._loader = None
        return self._held
