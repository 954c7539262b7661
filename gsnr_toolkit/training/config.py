"""Everything that decides a training run, with help and range on each field."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.registry import did_you_mean

__all__ = ["AUTO", "TrainConfig", "describe_fields"]

#: The value of ``rho`` that means: follow the measured COR.
AUTO = "auto"


def _setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    kind: type = str,
) -> Any:
    limits = {"low": low, "high": high, "above": above, "choices": choices, "kind": kind}
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run; two runs of one config on one machine's CPU are equal bit for bit.

    Where and how it is computed (device, threads, folder) is no part of it. Each field has its meaning and its range
    in its metadata; :func:`describe_fields` lists them.

    Raises:
        ProbeError: If a value is out of its range; names the field, the range and the value.

    >>> config = TrainConfig(data="demo-df", rho=0.01)
    >>> config.key == TrainConfig(data="demo-df", rho=0.01).key, len(config.key)
    (True, 12)
    >>> TrainConfig(lr=0.0)
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected lr to be a number above 0, got 0.0
    """

    model: str = _setting("clip-demo", "Model name, or module:function for your own.")
    weights: str | None = _setting(None, "open_clip tag, a local file, or 'random'; the model's own when None.")
    data: str = _setting("demo-nt", "Data set to train on, and to test on its test split.")
    data_root: str | None = _setting(None, "Folder of the real data sets; $GSNR_DATA when None.")
    compression: str | None = _setting(None, "FaceForensics++ compression: raw, c23 or c40.")
    strength: float | None = _setting(None, "Strength of an embedded forgery; 1 when None.", low=0, kind=float)
    eval_data: tuple[str, ...] = _setting((), "Further data sets to test on.", kind=tuple)
    train_samples: int | None = _setting(None, "Images to train on, balanced; all when None.", low=2, kind=int)
    eval_samples: int = _setting(
        1000, "Images of each split to evaluate on, balanced, one per source.", low=8, kind=int
    )
    label_noise: float = _setting(0.0, "Share of training labels that are flipped.", low=0, high=1, kind=float)
    tuning: str = _setting("full", "What is trained: head, norms, last-K (blocks) or full.")
    optimizer: str = _setting("adamw", "Base optimizer.", choices=("adamw", "adam", "sgd"))
    lr: float = _setting(3e-4, "Learning rate.", above=0, kind=float)
    weight_decay: float = _setting(0.0, "Weight decay.", low=0, kind=float)
    momentum: float = _setting(0.9, "Momentum of sgd.", low=0, high=1, kind=float)
    lr_schedule: str = _setting("constant", "Learning rate over the run.", choices=("constant", "cosine"))
    lr_warmup: int = _setting(0, "Steps in which the learning rate rises from 0.", low=0, kind=int)
    batch_size: int = _setting(32, "Images of a batch, half of them real.", low=2, kind=int)
    steps: int = _setting(300, "Training steps.", low=1, kind=int)
    rho: float | str = _setting(0.0, "SAM's radius, 0 for the base optimizer, 'auto' to follow COR.", low=0, kind=float)
    method: str = _setting("sam", "How the perturbation is scaled.", choices=("sam", "asam"))
    perturb: str = _setting("all", "Which trained parameters are perturbed.", choices=("all", "norms"))
    rho_schedule: str = _setting(
        "constant", "The radius over the run: constant, or rising from 0.", choices=("constant", "linear", "cosine")
    )
    plain_steps: int = _setting(0, "Steps of the base optimizer before SAM begins.", low=0, kind=int)
    auto_every: int = _setting(50, "rho='auto': steps between two estimates of COR.", low=1, kind=int)
    auto_safety: float = _setting(0.5, "rho='auto': share of COR to use.", above=0, high=1, kind=float)
    auto_max: float = _setting(0.05, "rho='auto': largest radius.", above=0, kind=float)
    eval_every: int = _setting(
        0, "Steps between evaluations on the validation split; 0: at the end only.", low=0, kind=int
    )
    record_every: int = _setting(0, "Steps between records of GSNR and COR; 0: none.", low=0, kind=int)
    record_samples: int = _setting(256, "Images that GSNR and COR are measured on.", low=8, kind=int)
    stop_dead: int = _setting(0, "Stop after this many steps on the plateau of ln 2; 0: never.", low=0, kind=int)
    seed: int = _setting(0, "Seed of everything random.", low=0, high=2**31, kind=int)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = _one_form(item, getattr(self, item.name))
            _check(item, value)
            object.__setattr__(self, item.name, value)
        if self.rho == AUTO and (self.method, self.perturb) != ("sam", "all"):
            raise ProbeError(
                f"expected method 'sam' and perturb 'all' with rho 'auto', for which COR is measured, got "
                f"{self.method!r} and {self.perturb!r}; give a number as rho"
            )
        if (self.record_every or self.rho == AUTO) and self.record_samples < 4 * self.batch_size:
            raise ProbeError(
                f"expected record_samples of at least 4 mini-batches, got {self.record_samples} with a batch_size of "
                f"{self.batch_size}; raise record_samples to {8 * self.batch_size}"
            )
        if self.plain_steps >= self.steps and self.rho:
            raise ProbeError(
                f"expected fewer plain_steps than steps, got {self.plain_steps} of {self.steps}: SAM would never begin"
            )

    @property
    def key(self) -> str:
        """Twelve characters that differ whenever a field differs."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file or a table.

        Returns:
            Field name to value; tuples as lists.
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build a config from plain values, such as a file's.

        Args:
            values: Field name to value; a number may be written as text.

        Returns:
            The config.

        Raises:
            ProbeError: If a name is unknown or a value out of its range.

        >>> TrainConfig.from_dict({"rho": "0.05", "steps": 10}).rho
        0.05
        """
        known = {item.name: item for item in fields(cls)}
        for name in values:
            if name not in known:
                raise ProbeError(
                    f"no setting is called {name!r}.{did_you_mean(name, known)} Known are {', '.join(known)}"
                )
        return cls(**{name: _read(known[name], value) for name, value in values.items()})


def describe_fields() -> dict[str, str]:
    """Meaning and default of every setting.

    Returns:
        Field name to a line of help.

    >>> describe_fields()["steps"]
    'Training steps. Default: 300'
    """
    return {item.name: f"{item.metadata['help']} Default: {item.default}" for item in fields(TrainConfig)}


def _read(item: Field[Any], value: Any) -> Any:
    """Turn text into the field's kind; what cannot be turned is left for the check to refuse."""
    kind = item.metadata["kind"]
    if kind is tuple:
        return tuple(part for part in value.split(",") if part) if isinstance(value, str) else value
    if not isinstance(value, str) or kind is str or value == AUTO:
        return value
    if value.lower() == "none":
        return None
    try:
        return kind(value)
    except ValueError:
        return value


def _one_form(item: Field[Any], value: Any) -> Any:
    """One form of each value, so that rho=0 and rho=0.0 have one key."""
    if item.metadata["kind"] is tuple and not isinstance(value, str):
        return tuple(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if item.metadata["kind"] is float and whole else value


def _check(item: Field[Any], value: Any) -> None:
    meta = item.metadata
    if value is None and item.default is None:
        return
    if item.name == "rho" and value == AUTO:
        return
    if meta["choices"]:
        good, wanted = value in meta["choices"], f"one of {', '.join(map(repr, meta['choices']))}"
    elif meta["kind"] is tuple:
        good, wanted = all(isinstance(part, str) for part in value), "names of data sets"
    elif meta["kind"] is str:
        good, wanted = isinstance(value, str) and bool(value), "a name"
    else:
        good, wanted = _in_range(meta, value), _range_text(meta)
    if not good:
        raise ProbeError(f"expected {item.name} to be {wanted}, got {value!r}")


def _in_range(meta: Mapping[str, Any], value: Any) -> bool:
    kinds = (int,) if meta["kind"] is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        return False
    low, high, above = meta["low"], meta["high"], meta["above"]
    return (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)


def _range_text(meta: Mapping[str, Any]) -> str:
    noun = "a whole number" if meta["kind"] is int else "a number"
    parts = [f"above {meta['above']}"] if meta["above"] is not None else []
    parts += [f"from {meta['low']}"] if meta["low"] is not None else []
    parts += [f"up to {meta['high']}"] if meta["high"] is not None else []
    return " ".join([noun, *parts])
