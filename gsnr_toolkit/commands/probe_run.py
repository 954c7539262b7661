"""From names to a saved report: what ``gsnr-probe`` does once its options are read."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.run_folder import differences

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gsnr_toolkit.data.base import ForgeryDataset
    from gsnr_toolkit.report.report import Report
    from gsnr_toolkit.types import Batch, Loader

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class ProbeRequest:
    """Everything that names a probing run; saved with its report.

    Attributes are the options of ``gsnr-probe``; ``None`` leaves the choice to the tool.

    Raises:
        ProbeError: If a value is out of its range.
    """

    model: str = "clip-demo"
    weights: str | None = None
    data: str = "demo-nt"
    data_root: str | None = None
    split: str | None = None
    strength: float | None = None
    compression: str | None = None
    tuning: str = "full"
    layerwise: str = "parameters"
    include_frozen: bool = False
    groups: str = "block"
    rho: float = 0.05
    radii: tuple[float, ...] | None = None
    perturb: str = "all"
    steps: int = 30
    measurements: int = 3
    lr: float | None = None
    samples: int = 192
    batch_size: int = 24
    confidence: float = 0.95
    engine: str = "auto"
    memory: int | None = None
    detail: str = "parameter"
    lipschitz: bool = False
    device: str | None = None
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ProbeError(f"expected dtype to be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.strength is not None and not 0 <= self.strength < math.inf:
            raise ProbeError(f"expected a strength of at least 0, where 1 is the default, got {self.strength}")
        if self.batch_size < 2:
            raise ProbeError(f"expected a batch size of at least 2, one image of each class, got {self.batch_size}")
        _check_samples(self.samples, self.batch_size)
        _check_options(self)

    @property
    def key(self) -> str:
        """Eight characters that differ whenever a setting differs."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]

    @property
    def default_folder(self) -> Path:
        """Where the report goes when no folder is named."""
        names = f"{self.model}_{self.data}".replace("/", "-").replace(":", "-")
        return Path("gsnr-reports") / f"{names}_{self.key}"


def _check_samples(samples: int, batch_size: int) -> None:
    """Insist on enough samples for COR's interval over mini-batches, naming both numbers that decide."""
    from gsnr_toolkit.setup.mini_batches import MIN_BATCHES

    if samples >= MIN_BATCHES * batch_size:
        return
    remedy = f"raise samples to at least {MIN_BATCHES * batch_size}"
    if samples >= 2 * MIN_BATCHES:
        remedy += f", or lower the batch size to at most {samples // MIN_BATCHES}"
    elif batch_size > 2:
        remedy += f" (or to at least {2 * MIN_BATCHES}, with a batch size of 2)"
    raise ProbeError(
        f"expected at least {MIN_BATCHES} mini-batches for COR's interval, got {samples} samples with a batch size of "
        f"{batch_size}; {remedy}"
    )


def _check_options(request: ProbeRequest) -> None:
    """Refuse values out of range before a model is built for them."""
    from gsnr_toolkit.inputs.options import make_options

    make_options(**_options(request))


def check_folder(folder: Path, request: ProbeRequest, *, overwrite: bool = False) -> None:
    """Refuse, before any work, a folder that cannot be written, or whose report was made with other settings.

    Args:
        folder: Where the report is to go; nothing is left there.
        request: What is about to be run.
        overwrite: Whether a report made with other settings may be replaced.

    Raises:
        ProbeError: If the folder cannot be written; or if a report of other settings is there, with the first
            differences.
    """
    try:
        _try_writing(folder)
    except OSError as error:
        raise ProbeError(
            f"expected a folder that can be written for the report, got {str(folder)!r} ({error.strerror or error}); "
            "choose another --out"
        ) from error
    path = folder / "report.json"
    if overwrite or not path.exists():
        return
    try:
        theirs = json.loads(path.read_text(encoding="utf8"))["settings"]["request"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        theirs = None
    ours = json.loads(json.dumps(asdict(request)))
    if theirs == ours:
        return
    if not isinstance(theirs, dict):
        raise ProbeError(f"{path} was not written by gsnr-probe; choose another --out, or pass --overwrite")
    raise ProbeError(
        f"{folder} holds a report made with other settings ({differences(theirs, ours)}); choose another --out, or "
        "pass --overwrite to replace it"
    )


def _try_writing(folder: Path) -> None:
    """Make the folder, write a file, and take both away again."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    finally:
        for path in missing:
            if path.is_dir():
                path.rmdir()


def run_probe(request: ProbeRequest, *, progress: bool = True) -> Iterator[Report]:
    """Build the model, open the data, and measure along a short plain run.

    Args:
        request: What to run.
        progress: Show progress bars.

    Yields:
        A growing report per measured step; ``partial`` until the last.
    """
    import torch

    from gsnr_toolkit.inputs.batches import find_device
    from gsnr_toolkit.inputs.tuning import parse_tuning, set_tuning
    from gsnr_toolkit.models.registry import build_model
    from gsnr_toolkit.probing.estimate import iter_probe
    from gsnr_toolkit.setup.distributed import current_ranks

    began = time.perf_counter()
    device = find_device(request.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and current_ranks().size > 1:
        device = torch.device("cuda", torch.cuda.current_device())
    with _named(request.model):
        model = build_model(request.model, weights=request.weights, seed=request.seed)
    set_tuning(model, parse_tuning(request.tuning))
    model.eval().to(device=device, dtype=getattr(torch, request.dtype))
    dataset = _open(request, model)
    loader, train = _loaders(request, dataset)
    settings = {
        "request": asdict(request),
        "model": request.model,
        "data": request.data,
        "caption": dataset.caption,
        "tuning": request.tuning,
    }
    reports = iter_probe(
        model,
        _Cast(loader, getattr(torch, request.dtype)),
        train_loader=_Cast(train, getattr(torch, request.dtype)),
        steps=request.steps,
        measurements=request.measurements,
        lr=_learning_rate(request),
        device=device,
        progress=progress,
        extra_settings=settings,
        **_options(request),
    )
    for report in reports:
        provenance = {
            **report.provenance,
            **_model_provenance(model),
            "wall_seconds": round(time.perf_counter() - began, 2),
        }
        notes = (*report.notes, *_data_notes(dataset))
        yield replace(report, provenance=provenance, notes=tuple(dict.fromkeys(notes)))


def _learning_rate(request: ProbeRequest) -> float:
    """The one asked for, or the model's own default."""
    from gsnr_toolkit.models.registry import MODELS, ModelInfo

    if request.lr is not None:
        return request.lr
    return MODELS[request.model].probe_lr if request.model in MODELS else ModelInfo.probe_lr


def _options(request: ProbeRequest) -> dict[str, Any]:
    names = (
        "layerwise",
        "include_frozen",
        "groups",
        "rho",
        "radii",
        "perturb",
        "batch_size",
        "confidence",
        "engine",
        "memory",
        "detail",
        "lipschitz",
        "seed",
    )
    return {name: getattr(request, name) for name in names}


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn whatever one's own ``module:function`` raises into one message that names it."""
    from gsnr_toolkit.support.lookup import is_target

    try:
        yield
    except ProbeError:
        raise
    except Exception as error:
        if not is_target(name):
            raise
        raise ProbeError(
            f"{name!r} failed with {type(error).__name__}: {error}; correct that function, or name another"
        ) from error


def _open(request: ProbeRequest, model: nn.Module) -> ForgeryDataset:
    from gsnr_toolkit.data.registry import open_dataset
    from gsnr_toolkit.models.spec import input_spec

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
            seed=request.seed,
            **{name: value for name, value in extra.items() if value is not None},
        )


def _loaders(request: ProbeRequest, dataset: ForgeryDataset) -> tuple[Any, Any]:
    """Samples to measure on, and batches to train on from other sources."""
    from gsnr_toolkit.data.loaders import probe_loader, train_loader

    probe = probe_loader(dataset, request.samples, batch_size=request.batch_size, seed=request.seed)
    if request.steps == 0:
        return probe, probe
    records = dataset.records
    taken = set(records.iloc[list(probe.dataset.indices)]["source"])  # type: ignore[attr-defined]
    held_out = [row for row, source in enumerate(records["source"]) if source in taken]
    if len(records) - len(held_out) < request.batch_size:
        raise ProbeError(
            f"expected at least {request.batch_size} images of other sources to train on besides the probe's "
            f"{request.samples} samples, got {len(records) - len(held_out)} of {len(records)}; lower --samples, or "
            "pass --steps 0 to measure without training"
        )
    return probe, train_loader(dataset, batch_size=request.batch_size, seed=request.seed, exclude=held_out)


class _Cast:
    """A loader whose floating-point tensors come in the model's precision."""

    def __init__(self, loader: Loader, dtype: torch.dtype) -> None:
        self.loader = loader
        self.dtype = dtype
        self.dataset = getattr(loader, "dataset", None)

    def __iter__(self) -> Iterator[Batch]:
        from gsnr_toolkit.inputs.batches import map_tensors

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


def save_run(
    report: Report, folder: Path, *, overwrite: bool, formats: Sequence[str] = ("tables", "figures")
) -> list[Path]:
    """Write a report and its figures.

    Args:
        report: What to write.
        folder: Where to.
        overwrite: Replace a report made with other settings.
        formats: Names of output formats; see ``report/formats.py``.

    Returns:
        The files, figures included.
    """
    from gsnr_toolkit.report.formats import write_formats

    report.save(folder, overwrite=overwrite)
    return write_formats(report, folder, formats)
