"""The config of a detector's training; each field carries its help and its range."""

from __future__ import annotations

from dataclasses import dataclass

from corit.model.config import ANCHORS, EACH, NORMALISATIONS, CoRITConfig
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.tuning import parse_tuning
from gsnr_toolkit.support.settings import Settings, setting, settle_settings
from gsnr_toolkit.training.config import AUTO

__all__ = ["METHODS", "DetectorTraining"]

#: Training methods that share one loop.
METHODS = {
    "corit": "CoRIT: a linear head on regions and class tokens of the frozen encoder",
    "probe": "linear probe: a linear head on the frozen encoder's output feature",
    "norms": "LN-tuning: scale and shift of every norm of the encoder, and the head",
    "last-K": "the last K blocks of the encoder, and the head",
    "full": "full fine-tuning",
    "sbi": "plain SBI classifier: full fine-tuning on self-blended pairs",
}

_CORIT = (
    "num_regions", "threshold", "nms_radius", "mid_layer", "cgp_layer", "anchors", "rrm", "rsi", "hri", "normalisation",
)  # fmt: skip

_HEAD_LR, _TUNED_LR = 1e-3, 1e-4


@dataclass(frozen=True)
class DetectorTraining(Settings):
    """Everything that determines a detector's training: two runs of one config on one machine's CPU are equal.

    Device, threads, cache and folder are not part of it. The seed determines the head's initial weights and the order
    of batches; images, and therefore cached features, do not depend on it.

    Raises:
        ProbeError: If a value is out of range; the message names the field, the range and the value.

    >>> DetectorTraining(data="demo-nt", rho=0.05).learning_rate, DetectorTraining(method="full").learning_rate
    (0.001, 0.0001)
    >>> DetectorTraining.from_dict({"rho": "0.05", "rsi": "false", "cgp_layer": "each"}).rsi
    False
    >>> DetectorTraining(method="last-0")
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: ...last...
    """

    encoder: str = setting("clip-demo", "Name of the encoder.")
    weights: str | None = setting(None, "Its weights: open_clip tag, a local file, or 'random'; its default when None.")
    method: str = setting("corit", f"What is trained: {', '.join(METHODS)}.")
    data: str = setting("demo-df", "Data set to train on (train split), and to select the step on (val split).")
    data_root: str | None = setting(None, "Folder of the real data sets; $GSNR_DATA when None.")
    compression: str | None = setting(None, "FaceForensics++ compression: raw, c23 or c40.")
    strength: float | None = setting(None, "Strength of an embedded forgery; 1 when None.", low=0, kind=float)
    frames_per_video: int | None = setting(
        None, "Frames of each video to train on (data on disk); one when None.", low=1, kind=int
    )
    fakes: str = setting(
        "sbi",
        "Fakes to train on: self-blended real images, or the data set's own forgeries (given).",
        choices=("sbi", "given"),
    )
    faces: str = setting(
        "auto",
        "How blended regions are placed in training; see docs/sbi.md.",
        choices=("auto", "landmarks", "aligned", "generic"),
    )
    counterpart_faces: str = setting(
        "aligned",
        "Where counterparts are blended: in the middle of the image (aligned), or anywhere (generic).",
        choices=("aligned", "generic"),
    )
    train_samples: int | None = setting(None, "Images to train on, half of them real; all when None.", low=4, kind=int)
    val_samples: int | None = setting(1000, "Images to validate on, half of them real; all when None.", low=4, kind=int)
    eval_data: tuple[str, ...] = setting(
        (), "Further data sets to test on, besides the test split of data.", kind=tuple
    )
    eval_samples: int | None = setting(None, "Images to test on per data set; all when None.", low=4, kind=int)
    views: int = setting(2, "Different blends per real image, used in turn.", low=1, high=1000, kind=int)
    lr: float | None = setting(
        None, "Learning rate; 1e-3 on frozen features, else 1e-4, when None.", above=0, kind=float
    )
    weight_decay: float = setting(0.01, "Weight decay of AdamW.", low=0, kind=float)
    lr_schedule: str = setting("cosine", "Learning rate over the run.", choices=("constant", "cosine"))
    batch_size: int = setting(64, "Images per batch, half of them real.", low=2, kind=int)
    steps: int = setting(600, "Training steps.", low=1, kind=int)
    rho: float | str = setting(
        0.0, "SAM's radius; 0 for AdamW alone, 'auto' for one that needs no number.", low=0, words=(AUTO,), kind=float
    )
    rho_max: float | None = setting(None, "Largest radius of rho='auto'; none when None.", above=0, kind=float)
    eval_every: int = setting(50, "Steps between evaluations on the validation split.", low=1, kind=int)
    seed: int = setting(
        0, "Seed of the head's initial weights and of the order of batches.", low=0, high=2**31, kind=int
    )
    num_regions: int = setting(4, "CoRIT: maximum number of regions per image.", low=0, high=64, kind=int)
    threshold: float = setting(0.5, "CoRIT: minimum cosine to the anchor.", low=-1, high=1, kind=float)
    nms_radius: int = setting(2, "CoRIT: anchors are more than this many patches apart.", low=0, high=64, kind=int)
    mid_layer: int | None = setting(
        None, "CoRIT: layer that the head reads besides the last; L // 2 when None.", low=1, kind=int
    )
    cgp_layer: int | str | None = setting(
        None,
        "CoRIT: layer whose CGP defines the regions, or 'each'; mid_layer when None.",
        low=0,
        words=(EACH,),
        kind=int,
    )
    anchors: str = setting(
        "shared",
        "CoRIT: anchors from each image's CGP, from the CGPs of the training images (shared), random, or fixed.",
        choices=ANCHORS,
    )
    rrm: bool = setting(True, "CoRIT: region refinement mask: regions by similarity, without outliers.", kind=bool)
    rsi: bool = setting(True, "CoRIT: regional signal injection: region tokens pass through the blocks.", kind=bool)
    hri: bool = setting(
        True, "CoRIT: hierarchical integration: the head reads mid_layer and the last layer.", kind=bool
    )
    normalisation: str = setting(
        "layer", "CoRIT: normalisation of each vector before the head.", choices=NORMALISATIONS
    )

    def __post_init__(self) -> None:
        settle_settings(self)
        if self.method not in ("corit", "probe", "sbi"):
            parse_tuning(self.method)
        if self.method == "head":
            raise ProbeError(
                "expected a known method, got 'head'; use method 'probe' for a head on the frozen encoder's feature"
            )
        if self.method == "sbi" and self.fakes != "sbi":
            raise ProbeError("expected self-blended fakes with method 'sbi', got fakes='given'; use method 'full'")
        if self.batch_size % 2:
            raise ProbeError(
                f"expected an even batch_size, half real and half fake, got {self.batch_size}; pass "
                f"{self.batch_size + 1}"
            )

    @property
    def frozen(self) -> bool:
        """Whether the encoder is not trained, so that its features can be cached."""
        return self.method in ("corit", "probe")

    @property
    def learning_rate(self) -> float:
        """The learning rate; the method's default when ``lr`` is None."""
        if self.lr is not None:
            return self.lr
        return _HEAD_LR if self.frozen else _TUNED_LR

    @property
    def tuning(self) -> str:
        """The trained part of the model, in the terms of :func:`gsnr_toolkit.inputs.tuning.set_tuning`."""
        return {"corit": "head", "probe": "head", "sbi": "full"}.get(self.method, self.method)

    @property
    def corit(self) -> CoRITConfig:
        """The config of CoRIT itself."""
        return CoRITConfig(encoder=self.encoder, **{name: getattr(self, name) for name in _CORIT})
