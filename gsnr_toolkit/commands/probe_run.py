"""Run a :class:`ProbeRequest`: build the model, open the data, measure, save."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from gsnr_toolkit.commands.probe_request import ProbeRequest
from gsnr_toolkit.data.base import ForgeryDataset
from gsnr_toolkit.data.loaders import probe_loader, train_loader
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.batches import map_tensors
from gsnr_toolkit.inputs.device import find_device
from gsnr_toolkit.inputs.tuning import parse_tuning, set_tuning
from gsnr_toolkit.models.registry import MODELS, ModelInfo, build_model
from gsnr_toolkit.models.spec import input_spec
from gsnr_toolkit.probing.estimate import iter_probe
from gsnr_toolkit.report.report import Report
from gsnr_toolkit.setup.distributed import current_ranks
from gsnr_toolkit.support.lookup import is_target
from gsnr_toolkit.types import Batch, Loader


def run_probe(request: ProbeRequest, *, progress: bool = True) -> Iterator[Report]:
    """Build the model, open the data, and measure along a short plain run.

    Args:
        request: The run.
        progress: Show progress bars.

    Yields:
        A growing report per measured step; ``partial`` until the last.
    """
    began = time.perf_counter()
    device, dtype = _device(request.device), getattr(torch, request.dtype)
    with _named(request.model):
        model = build_model(request.model, weights=request.weights, seed=request.options.seed)
    set_tuning(model, parse_tuning(request.tuning))
    model.eval().to(device=device, dtype=dtype)
    dataset = _open(request, model)
    loader, train = _loaders(request, dataset)
    settings = {
        "request": request.to_dict(),
        "model": request.model,
        "data": request.data,
        "caption": dataset.caption,
        "tuning": request.tuning,
    }
    reports = iter_probe(
        model,
        _Cast(loader, dtype),
        train_loader=_Cast(train, dtype),
        steps=request.steps,
        measurements=request.measurements,
        lr=_learning_rate(request),
        device=device,
        progress=progress,
        extra_settings=settings,
        **{item.name: getattr(request.options, item.name) for item in fields(request.options)},
    )
    for report in reports:
        provenance = {
            **report.provenance,
            **_model_provenance(model),
            "wall_seconds": round(time.perf_counter() - began, 2),
        }
        notes = (*report.notes, *_data_notes(dataset))
        yield replace(report, provenance=provenance, notes=tuple(dict.fromkeys(notes)))


def _device(name: str | None) -> torch.device:
    """Return the named device, or a GPU if there is one; each of several processes takes its own GPU."""
    device = find_device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and current_ranks().size > 1:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _learning_rate(request: ProbeRequest) -> float:
    """Return the requested learning rate, or the default of the model."""
    if request.lr is not None:
        return request.lr
    return MODELS[request.model].probe_lr if request.model in MODELS else ModelInfo.probe_lr


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn any error of a user's ``module:function`` into one message that names the function."""
    try:
        yield
    except ProbeError:
        raise
    except Exception as error:
        if not is_target(name):
            raise
        raise ProbeError(
            f"expected {name!r} to build its object, but {name!r} failed with {type(error).__name__}: {error}; correct "
            "that function, or name another"
        ) from error


def _open(request: ProbeRequest, model: nn.Module) -> ForgeryDataset:
    """Open the data set at the image size and normalisation of the model."""
    spec = input_spec(model)
    extra: dict[str, Any] = {"strength": request.strength, "compression": request.compression}
    with _named(request.data):
        return open_dataset(
            request.data,
            split=request.split,
            image_size=spec.image_size,
            mean=spec.mean,
            std=spec.std,
            root=request.data_root,
            seed=request.options.seed,
            # a data set without such an option refuses it, so only a value that was set is passed
            **{name: value for name, value in extra.items() if value is not None},
        )


def _loaders(request: ProbeRequest, dataset: ForgeryDataset) -> tuple[Any, Any]:
    """Return the samples to measure on, and batches from other sources to train on."""
    batch_size, seed = request.options.batch_size, request.options.seed
    assert batch_size is not None
    probe = probe_loader(dataset, request.samples, batch_size=batch_size, seed=seed)
    if request.steps == 0:
        return probe, probe
    # An image and its forgeries share a source: training on one would leak into the measurement of the others.
    records = dataset.records
    taken = set(records.iloc[list(probe.dataset.indices)]["source"])  # type: ignore[attr-defined]
    held_out = [row for row, source in enumerate(records["source"]) if source in taken]
    if len(records) - len(held_out) < batch_size:
        raise ProbeError(
            f"expected at least {batch_size} images of other sources to train on besides the probe's "
            f"{request.samples} samples, got {len(records) - len(held_out)} of {len(records)}; lower --samples, or "
            "pass --steps 0 to measure without training"
        )
    return probe, train_loader(dataset, batch_size=batch_size, seed=seed, exclude=held_out)


class _Cast:
    """Loader that yields floating-point tensors in the precision of the model."""

    def __init__(self, loader: Loader, dtype: torch.dtype) -> None:
        self.loader = loader
        self.dtype = dtype
        self.dataset = getattr(loader, "dataset", None)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            yield map_tensors(batch, lambda t: t.to(self.dtype) if t.is_floating_point() else t)


def _model_provenance(model: nn.Module) -> dict[str, Any]:
    found = getattr(model, "provenance", None)
    return {"model": dict(found)} if isinstance(found, dict) else {}


def _data_notes(dataset: ForgeryDataset) -> list[str]:
    notes, skipped = list(dataset.notes), dataset.skipped
    if not len(skipped):
        return notes
    first = skipped.iloc[0]
    return [*notes, f"{len(skipped)} entries of the data set were skipped, first {first['path']}: {first['reason']}"]
