"""Everything that names a probing run, and the folder of its report; light enough for ``--help``."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.options import ProbeOptions
from gsnr_toolkit.support.run_folder import differences
from gsnr_toolkit.support.settings import read_settings, setting, settle_settings

API_ONLY = ("max_samples", "self_check", "refine", "readout_head")
"""Options of a measurement that are not options of the command line."""

_DEFAULTS = ProbeOptions(batch_size=24)


@dataclass(frozen=True)
class ProbeRequest:
    """Everything that names a probing run; saved with its report.

    The fields and those of ``options`` are the options of ``gsnr-probe``; None leaves the choice to the tool.

    Raises:
        ProbeError: If a value is out of range.
    """

    model: str = setting("clip-demo", "Model name, or module:function for your own.")
    weights: str | None = setting(None, "open_clip tag, a local file, or 'random'. Default: the model's own.")
    data: str = setting("demo-nt", "Data name, image-folder:PATH, or module:function.")
    data_root: str | None = setting(None, "Folder of the real data sets. Default: $GSNR_DATA.")
    split: str | None = setting(None, "train, val or test. Default: the data set's own.")
    strength: float | None = setting(
        None,
        "Strength of an embedded forgery (1 = default).",
        low=0,
        kind=float,
        wanted="at least 0, where 1 is the default",
    )
    compression: str | None = setting(None, "FaceForensics++ compression: raw, c23 or c40.")
    tuning: str = setting("full", "What is trained: head, norms, last-K (blocks) or full.")
    steps: int = setting(30, "Plain training steps; 0 measures the model before any training.", low=0, kind=int)
    measurements: int = setting(3, "How often to measure along the run.", low=1, kind=int)
    lr: float | None = setting(
        None,
        "Learning rate (AdamW). Default: 1e-4, and 1e-3 for clip-demo.",
        above=0,
        kind=float,
        wanted="a positive learning rate, such as 1e-4",
    )
    samples: int = setting(192, "Samples to measure on.", kind=int)
    device: str | None = setting(None, "cpu, cuda, cuda:1, ... Default: a GPU if there is one.")
    dtype: str = setting("float32", "float32 or float64.", choices=("float32", "float64"))
    options: ProbeOptions = _DEFAULTS

    def __post_init__(self) -> None:
        settle_settings(self)
        _check_batches(self.samples, self.options.batch_size)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Build a request from the options of the command line.

        Args:
            **values: Values of the request's own fields and of its options, in one; radii may be text.

        Returns:
            The request, checked.
        """
        own = {item.name for item in fields(cls)}
        measuring = {name: value for name, value in values.items() if name not in own}
        options = ProbeOptions(**{"batch_size": cls.options.batch_size, **read_settings(ProbeOptions, measuring)})
        return cls(**{name: value for name, value in values.items() if name in own}, options=options)

    def to_dict(self) -> dict[str, Any]:
        """Return name to value for a file; values that only Python can set are left out at their defaults."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "options"}
        measuring = {item.name: (getattr(self.options, item.name), item.default) for item in fields(self.options)}
        return own | {
            name: value for name, (value, default) in measuring.items() if name not in API_ONLY or value != default
        }

    @property
    def key(self) -> str:
        """Eight characters that differ whenever a setting differs."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:8]

    @property
    def default_folder(self) -> Path:
        """Where the report goes if the user names no folder."""
        names = f"{self.model}_{self.data}".replace("/", "-").replace(":", "-")
        return Path("gsnr-reports") / f"{names}_{self.key}"


def _check_batches(samples: int, batch_size: int | None) -> None:
    """Require enough mini-batches for COR's interval, and name both numbers that decide."""
    from gsnr_toolkit.setup.mini_batches import MIN_BATCHES

    if batch_size is None or batch_size < 2:
        raise ProbeError(
            f"expected a batch size of at least 2, one image of each class, got {batch_size}; raise the batch size"
        )
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


def check_folder(folder: Path, request: ProbeRequest, *, overwrite: bool = False) -> None:
    """Refuse, before any work, a folder that is not writable or holds a report made with other settings.

    Args:
        folder: Folder of the report; the check leaves nothing there.
        request: The run to come.
        overwrite: Whether a report made with other settings may be replaced.

    Raises:
        ProbeError: If the folder is not writable, or holds a report with other settings; the message lists the first
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
    theirs = _saved_request(path)
    ours = json.loads(json.dumps(request.to_dict()))  # as a file holds them: tuples are lists
    if theirs is None:
        raise ProbeError(
            f"expected a report of gsnr-probe or none, but {path} was not written by gsnr-probe; choose another --out, "
            "or pass --overwrite"
        )
    if theirs != ours:
        raise ProbeError(
            f"expected an empty folder or a report made with the same settings, but {folder} has other settings "
            f"({differences(theirs, ours)}); choose another --out, or pass --overwrite to replace the report"
        )


def _saved_request(path: Path) -> Mapping[str, Any] | None:
    """Return the settings that a report was made with; None if the file is no such report."""
    try:
        found = json.loads(path.read_text(encoding="utf8"))["settings"]["request"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _try_writing(folder: Path) -> None:
    """Create the folder and a file in it, then remove both."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    finally:
        for path in missing:
            if path.is_dir():
                path.rmdir()
