"""The config of a training run; each field carries its help and its range."""

from __future__ import annotations

from dataclasses import dataclass

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.settings import Settings, describe_settings, setting, settle_settings

__all__ = ["AUTO", "COR", "TrainConfig", "describe_fields"]

#: Values of ``rho``: a radius that spends a share of what is gained and left, and one that follows the measured COR.
AUTO, COR = "auto", "cor"


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Everything that determines a training run: two runs of one config on one machine's CPU are equal bit for bit.

    Device, threads and folder are not part of it. The metadata of each field holds its meaning and its range;
    :func:`describe_fields` lists them.

    Raises:
        ProbeError: If a value is out of range; the message names the field, the range and the value.

    >>> config = TrainConfig(data="demo-df", rho=0.01)
    >>> config.key == TrainConfig(data="demo-df", rho=0.01).key, len(config.key)
    (True, 12)
    >>> TrainConfig.from_dict({"rho": "0.05", "steps": 10}).rho
    0.05
    >>> TrainConfig(lr=0.0)
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected lr to be a number above 0, got 0.0; change it, ...
    """

    model: str = setting("clip-demo", "Model name, or module:function for your own.")
    weights: str | None = setting(None, "open_clip tag, a local file, or 'random'; the model's own when None.")
    data: str = setting("demo-nt", "Data set to train on, and to test on its test split.")
    data_root: str | None = setting(None, "Folder of the real data sets; $GSNR_DATA when None.")
    compression: str | None = setting(None, "FaceForensics++ compression: raw, c23 or c40.")
    strength: float | None = setting(None, "Strength of an embedded forgery; 1 when None.", low=0, kind=float)
    eval_data: tuple[str, ...] = setting((), "Further data sets to test on.", kind=tuple)
    train_samples: int | None = setting(None, "Images to train on, balanced; all when None.", low=2, kind=int)
    eval_samples: int = setting(1000, "Images to evaluate on per split, balanced, one per source.", low=8, kind=int)
    label_noise: float = setting(0.0, "Share of training labels that are flipped.", low=0, high=1, kind=float)
    tuning: str = setting("full", "What is trained: head, norms, last-K (blocks) or full.")
    optimizer: str = setting("adamw", "Base optimizer.", choices=("adamw", "adam", "sgd"))
    lr: float = setting(3e-4, "Learning rate.", above=0, kind=float)
    weight_decay: float = setting(0.0, "Weight decay.", low=0, kind=float)
    momentum: float = setting(0.9, "Momentum of sgd.", low=0, high=1, kind=float)
    lr_schedule: str = setting("constant", "Learning rate over the run.", choices=("constant", "cosine"))
    lr_warmup: int = setting(0, "Steps in which the learning rate rises from 0.", low=0, kind=int)
    batch_size: int = setting(32, "Images per batch, half of them real.", low=2, kind=int)
    steps: int = setting(300, "Training steps.", low=1, kind=int)
    rho: float | str = setting(
        0.0,
        "SAM's radius; 0 for the base optimizer, 'auto' for one that needs no number, 'cor' to follow COR.",
        low=0,
        words=(AUTO, COR),
        kind=float,
    )
    rho_max: float | None = setting(
        None, "Largest radius of rho='auto' (none when None) and of rho='cor' (0.05 when None).", above=0, kind=float
    )
    method: str = setting("sam", "How the perturbation is scaled.", choices=("sam", "asam"))
    perturb: str = setting("all", "Which trained parameters are perturbed.", choices=("all", "norms"))
    rho_schedule: str = setting(
        "constant", "The radius over the run: constant, or rising from 0.", choices=("constant", "linear", "cosine")
    )
    plain_steps: int = setting(0, "Steps of the base optimizer before SAM starts.", low=0, kind=int)
    rho_share: float = setting(
        0.25, "rho='auto': share of what is gained that a step may spend.", above=0, high=1, kind=float
    )
    cor_every: int = setting(50, "rho='cor': steps between two estimates of COR.", low=1, kind=int)
    cor_safety: float = setting(0.5, "rho='cor': fraction of COR to use.", above=0, high=1, kind=float)
    eval_every: int = setting(
        0, "Steps between evaluations on the validation split; 0: only at the end.", low=0, kind=int
    )
    record_every: int = setting(0, "Steps between records of GSNR and COR; 0: none.", low=0, kind=int)
    record_samples: int = setting(256, "Images that GSNR and COR are measured on.", low=8, kind=int)
    stop_dead: int = setting(
        0, "Stop after this many consecutive steps on the plateau of ln 2; 0: never.", low=0, kind=int
    )
    seed: int = setting(0, "Seed of everything random.", low=0, high=2**31, kind=int)

    def __post_init__(self) -> None:
        settle_settings(self)
        if self.rho == COR and (self.method, self.perturb) != ("sam", "all"):
            raise ProbeError(
                f"expected method 'sam' and perturb 'all' with rho 'cor', because COR is measured for them, got "
                f"{self.method!r} and {self.perturb!r}; pass 'auto' or a number as rho"
            )
        if (self.record_every or self.rho == COR) and self.record_samples < 4 * self.batch_size:
            raise ProbeError(
                f"expected record_samples of at least 4 mini-batches, got {self.record_samples} with a batch_size of "
                f"{self.batch_size}; raise record_samples to {8 * self.batch_size}"
            )
        if self.plain_steps >= self.steps and self.rho:
            raise ProbeError(
                f"expected fewer plain_steps than steps, got {self.plain_steps} of {self.steps}, so that SAM would "
                "never start; lower plain_steps, or set rho to 0"
            )


def describe_fields() -> dict[str, str]:
    """Describe every field.

    Returns:
        Field name to a line with its meaning and default.

    >>> describe_fields()["steps"]
    'Training steps. Default: 300'
    """
    return describe_settings(TrainConfig)
