"""Proxy and true GSNR of an encoder by name: over its layers, several data sets, and steps of fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from corit.model.counterparts import SelfBlendedCounterparts
from corit.model.tower import tower_of
from corit.proxy.check import ProxyCheck, check_proxy, join_checks
from gsnr_toolkit.data.base import ForgeryDataset
from gsnr_toolkit.data.loaders import endless, probe_loader, train_loader
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.preserve import preserved_rng
from gsnr_toolkit.inputs.tuning import set_tuning
from gsnr_toolkit.models.registry import build_model
from gsnr_toolkit.models.spec import input_spec
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.support.atomic import make_folder, write_json, write_text
from gsnr_toolkit.support.progress import stage
from gsnr_toolkit.support.provenance import environment
from gsnr_toolkit.training.loop import train

__all__ = ["TRUTHS", "fine_tuned", "read_steps", "run_proxy_check", "save_check"]

#: The true GSNRs that the proxy can be compared with.
TRUTHS = {
    "parameters": "per-sample gradients of each layer's own parameters",
    "readout": "per-sample gradients of a logistic head on each layer's class token",
}

_PLAIN_POOLS = ("class", "mean", "tokens")
_BATCH, _LR, _TRAIN_IMAGES = 32, 1e-4, 1000


def read_steps(text: str) -> tuple[int, ...]:
    """Return the training steps in a text of non-negative integers, separated by commas, ascending.

    Raises:
        ProbeError: If a part is not a non-negative integer.

    >>> read_steps("0,100,20")
    (0, 20, 100)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ProbeError(f"expected steps as whole numbers, got {text!r}; separate them by commas, such as 0,50,100")
    return tuple(sorted({int(part) for part in parts}))


def run_proxy_check(
    encoder: str,
    names: Sequence[str],
    *,
    weights: str | None = None,
    root: str | Path | None = None,
    steps: Sequence[int] = (0,),
    samples: int = 256,
    pool: str = "class",
    layerwise: str = "parameters",
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> ProxyCheck:
    """Measure both GSNRs of an encoder on data sets, before and during full fine-tuning on each.

    The true GSNR is that of the training loss on real and forged images. The proxy uses only real images and their
    self-blended copies.

    Args:
        encoder: Name of the encoder.
        names: Data sets; fine-tuning starts anew on each.
        weights: As in :func:`gsnr_toolkit.models.build_model`.
        root: Folder of data sets on disk.
        steps: Steps of plain training (AdamW, batches of 32, learning rate 1e-4) at which to measure.
        samples: Images of the validation split to measure on, half of them real.
        pool: ``"class"``, ``"mean"`` or ``"tokens"``, see :data:`corit.proxy.gsnr.POOLS`.
        layerwise: A key of :data:`TRUTHS`.
        seed: Seed of the head and the order.
        device: Device to use.
        progress: Show progress bars (on a terminal).

    Returns:
        Both GSNRs by layer, data set and step, and their rank correlations.

    Raises:
        ProbeError: If an option is out of its range.
    """
    _one_of("pool", pool, _PLAIN_POOLS)
    _one_of("layerwise", layerwise, tuple(TRUTHS))
    if samples < 8:
        raise ProbeError(f"expected at least 8 samples, four of them real, got {samples}; pass more")
    found = []
    for name in names:
        model: Any = build_model(encoder, weights=weights, seed=seed).to(device)
        tower_of(model)  # refuses other kinds of encoders before training
        set_tuning(model, "full")
        spec = input_spec(model)
        options: dict[str, Any] = {"image_size": spec.image_size, "mean": spec.mean, "std": spec.std}
        if not name.startswith("demo-"):
            options["root"] = root
        held = probe_loader(open_dataset(name, split="val", **options), samples)
        maker = SelfBlendedCounterparts(mean=spec.mean, std=spec.std)
        settings: dict[str, Any] = {"counterpart": maker, "pool": pool, "layerwise": layerwise}
        settings |= {"max_samples": samples, "progress": progress}
        opened = partial(open_dataset, name, split="train", size=_TRAIN_IMAGES, **options)
        reached = fine_tuned(model, opened, steps, seed, progress)
        found += [check_proxy(model.eval(), {name: held}, step=step, **settings) for step in reached]
    return join_checks(found)


def save_check(check: ProxyCheck, folder: str | Path, about: dict[str, Any]) -> None:
    """Write ``proxy_gsnr.csv``, ``rank_correlations.csv`` and ``provenance.json`` with ``about`` into a folder."""
    place = Path(folder)
    make_folder(place)
    write_text(place / "proxy_gsnr.csv", check.table.to_csv(index=False))
    write_text(place / "rank_correlations.csv", check.correlations.to_csv(index=False))
    write_json(place / "provenance.json", {**environment(), **about})


def fine_tuned(
    model: Any,
    open_training: Callable[[], ForgeryDataset],
    steps: Sequence[int],
    seed: int,
    progress: bool,
    lr: float = _LR,
) -> Iterator[int]:
    """Train a model in place, with AdamW on batches of 32, and yield each of the steps when it is reached.

    ``open_training`` is called only if there is a step to train. ``seed`` is that of the order.
    """
    done = 0
    batches: Iterator[Any] | None = None
    optimizer = SAM((p for p in model.parameters() if p.requires_grad), torch.optim.AdamW, rho=0.0, lr=lr)
    for step in sorted(steps):
        if step > done:
            batches = batches or endless(train_loader(open_training(), _BATCH, seed))
            device = next(model.parameters()).device
            with preserved_rng(seed=seed), stage("training", step - done, show=progress) as advance:
                model.train()
                train(model, optimizer, batches, steps=step, start=done, device=device)
                advance(step - done)
            done = step
            _insist_finite(model, step)
        yield step


def _insist_finite(model: Any, step: int) -> None:
    if not all(math.isfinite(float(p.detach().abs().sum())) for p in model.parameters()):
        raise ProbeError(f"expected finite parameters after {step} steps, got some that are not; measure earlier steps")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ProbeError(f"expected {name} to be one of {', '.join(allowed)}, got {value!r}; choose one of them")
