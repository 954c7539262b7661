"""Everything that decides the training of a detector, with meaning and range on each field."""

from __future__ import annotations

from dataclasses import dataclass

from corit.model.config import ANCHORS, EACH, NORMALISATIONS, CoRITConfig
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.tuning import parse_tuning
from gsnr_toolkit.support.settings import Settings, describe_settings, setting, settle_settings

__all__ = ["METHODS", "DetectorTraining", "describe_training"]

#: What can be trained on one loop.
METHODS = {
    "corit": "CoRIT: a linear head on regions and class tokens of the frozen encoder",
    "probe": "linear probe: a linear head on the frozen encoder's own feature",
    "norms": "LN-tuning: scale and shift of every norm of the encoder, and the head",
    "last-K": "the last K blocks of the encoder, and the head",
    "full": "full fine-tuning",
    "sbi": "plain SBI classifier: full fine-tuning on self-blended pairs",
}

_CORIT = ("num_regions", "threshold", "nms_radius", "mid_layer", "cgp_layer", "anchors", "rrm", "rsi", "hri")

_HEAD_LR, _TUNED_LR = 1e-3, 1e-4


@dataclass(frozen=True)
class DetectorTraining(Settings):
    """Everything that decides the training of a detector; two runs of one config on one machine's CPU are equal.

    Where and how it is computed (device, threads, cache, folder) is no part of it. The seed decides the head's first
    weights and the order of batches; the images, and so the cached features, do not depend on it.

    Raises:
        ProbeError: If a value is out of its range; names the field, the range and the value.

    >>> DetectorTraining(data="demo-nt", rho=0.05).learning_rate, DetectorTraining(method="full").learning_rate
    (0.001, 0.0001)
    >>> DetectorTraining.from_dict({"rho": "0.05", "rsi": "false", "cgp_layer": "each"}).rsi
    False
    >>> DetectorTraining(method="last-0")
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: the number of last blocks must be at least 1, ...
    """

    encoder: str = setting("clip-demo", "Name of the encoder.")
    weights: str | None = setting(None, "Its weights: open_clip tag, a local file, or 'random'; its own when None.")
    method: str = setting("corit", f"What is trained: {', '.join(METHODS)}.")
    data: str = setting("demo-df", "Data set whose train split is trained on, and whose val split chooses the step.")
    data_root: str | None = setting(None, "Folder of the real data sets; $GSNR_DATA when None.")
    compression: str | None = setting(None, "FaceForensics++ compression: raw, c23 or c40.")
    strength: float | None = setting(None, "Strength of an embedded forgery; 1 when None.", low=0, kind=float)
    frames_per_video: int | None = setting(
        None, "Frames of each video to train on (data on disk); one when None.", low=1, kind=int
    )
    fakes: str = setting(
        "sbi", "Self-blended real images (no forgery is seen), or the forgeries given.", choices=("sbi", "given")
    )
    faces: str = setting(
        "auto", "Where training blends: see docs/sbi.md.", choices=("auto", "landmarks", "aligned", "generic")
    )
    counterpart_faces: str = setting(
        "aligned",
        "Where counterparts are blended: the middle of the image, or anywhere.",
        choices=("aligned", "generic"),
    )
    train_samples: int | None = setting(None, "Images to train on, half of them real; all when None.", low=4, kind=int)
    val_samples: int | None = setting(1000, "Images to validate on, half of them real; all when None.", low=4, kind=int)
    eval_data: tuple[str, ...] = setting((), "Data sets to test on besides the test split of data.", kind=tuple)
    eval_samples: int | None = setting(None, "Images of each set to test on; all when None.", low=4, kind=int)
    views: int = setting(2, "Different blends of each real image to train on, in turn.", low=1, high=1000, kind=int)
    lr: float | None = setting(
        None, "Learning rate; 1e-3 on frozen features, else 1e-4, when None.", above=0, kind=float
    )
    weight_decay: float = setting(0.01, "Weight decay of AdamW.", low=0, kind=float)
    lr_schedule: str = setting("cosine", "Learning rate over the run.", choices=("constant", "cosine"))
    batch_size: int = setting(64, "Images of a batch, half of them real.", low=2, kind=int)
    steps: int = setting(600, "Training steps.", low=1, kind=int)
    rho: float = setting(0.0, "SAM's radius; 0 for AdamW alone.", low=0, kind=float)
    eval_every: int = setting(50, "Steps between evaluations on the validation split.", low=1, kind=int)
    seed: int = setting(0, "Seed of the head's first weights and of the order.", low=0, high=2**31, kind=int)
    num_regions: int = setting(4, "CoRIT: most regions of an image.", low=0, high=64, kind=int)
    threshold: float = setting(0.5, "CoRIT: least cosine to the anchor.", low=-1, high=1, kind=float)
    nms_radius: int = setting(2, "CoRIT: patches between anchors.", low=0, high=64, kind=int)
    mid_layer: int | None = setting(None, "CoRIT: layer read beside the last; L // 2 when None.", low=1, kind=int)
    cgp_layer: int | str | None = setting(
        None, "CoRIT: layer that makes the regions, or 'each'; mid_layer when None.", low=0, words=(EACH,), kind=int
    )
    anchors: str = setting(
        "shared",
        "CoRIT: anchors by each image's contrast, by that of the training images, at random places, or fixed ones.",
        choices=ANCHORS,
    )
    rrm: bool = setting(True, "CoRIT: regions by similarity, without outliers.", kind=bool)
    rsi: bool = setting(True, "CoRIT: region tokens go through the blocks.", kind=bool)
    hri: bool = setting(True, "CoRIT: read mid_layer and the last layer.", kind=bool)
    normalisation: str = setting("layer", "CoRIT: of each vector before the head.", choices=NORMALISATIONS)

    def __post_init__(self) -> None:
        settle_settings(self)
        if self.method not in ("corit", "probe", "sbi"):
            parse_tuning(self.method)
        if self.method == "head":
            raise ProbeError("expected method 'probe' for a head on the frozen encoder's feature, got 'head'")
        if self.method == "sbi" and self.fakes != "sbi":
            raise ProbeError("expected self-blended fakes with method 'sbi', got fakes='given'; use method 'full'")
        if self.batch_size % 2:
            raise ProbeError(f"expected an even batch_size, half real and half fake, got {self.batch_size}")

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as it is, so that its features can be cached."""
        return self.method in ("corit", "probe")

    @property
    def learning_rate(self) -> float:
        """The learning rate, with the default of the method."""
        if self.lr is not None:
            return self.lr
        return _HEAD_LR if self.frozen else _TUNED_LR

    @property
    def tuning(self) -> str:
        """What of the model is trained, as :func:`gsnr_toolkit.inputs.tuning.set_tuning` reads it."""
        return {"corit": "head", "probe": "head", "sbi": "full"}.get(self.method, self.method)

    @property
    def corit(self) -> CoRITConfig:
        """What CoRIT computes before its head."""
        values = {name: getattr(self, name) for name in (*_CORIT, "normalisation")}
        return CoRITConfig(encoder=self.encoder, **values)


def describe_training() -> dict[str, str]:
    """Meaning and default of every setting.

    Returns:
        Field name to a line of help.

    >>> describe_training()["steps"]
    'Training steps. Default: 600'
    """
    return describe_settings(DetectorTraining)
