"""Heads on frozen features, for the CoRIT studies: images opened once, features cached, a head trained in a second.

Training images of the seeds are different people, so that the spread over seeds holds that of the training set; the
images to validate and to test on are the same for all. A finished fit is a JSON file named by the hash of all that
decides it: a script that is run again goes on where it was.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analyses.collapse.laboratory import common_options
from corit.model.content_hash import digest
from corit.model.features import FeatureMaker, find_shared_regions, head_logits
from corit.training.config import DetectorTraining
from corit.training.tasks import build_untrained
from gsnr_toolkit.data.base import ForgeryDataset
from gsnr_toolkit.data.loaders import BalancedBatches
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.estimators.auc import auc
from gsnr_toolkit.models.clip import HEAD_STD
from gsnr_toolkit.models.spec import input_spec
from gsnr_toolkit.optim.learning_rate import cosine_decay
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.probing.recorder import Recorder
from gsnr_toolkit.support.atomic import read_json, write_json
from gsnr_toolkit.training.loop import Callback, StepLog, train

RUNS = Path(__file__).parents[2] / "runs" / "corit"
"""Where fits and features are kept unless told otherwise."""

FAMILIES = ("nt", "df", "f2f", "fs", "cdf", "dfdc", "gan", "diff")
"""The embedded forgeries; the last four are there to test on."""

LEARNING_RATES = (1e-3, 1e-2)
"""Of a plain head, the one with the better validation AUC; SAM then has the same."""


@dataclass(frozen=True)
class Bench:
    """What a study has in common.

    Attributes:
        encoder: The frozen encoder.
        strength: Of every forgery.
        train_images: Training images of each seed, half of them real.
        val_images: Images to validate on.
        test_images: Images of each test set.
        steps: Steps of a head.
    """

    encoder: str = "clip-demo"
    strength: float = 1.0
    train_images: int = 1000
    val_images: int = 600
    test_images: int = 400
    steps: int = 400


SMOKE = Bench(train_images=48, val_images=32, test_images=32, steps=12)


@dataclass(frozen=True)
class Split:
    """Features ``(N, D)`` and labels ``(N,)`` of images."""

    features: Tensor
    labels: Tensor

    def part(self, seed: int, size: int) -> Split:
        """The images of one seed.

        Args:
            seed: Its number.
            size: Images of each seed.

        Returns:
            ``size`` images that no other seed has.
        """
        rows = slice(seed * size, (seed + 1) * size)
        return Split(self.features[rows], self.labels[rows])


@dataclass
class Fitted:
    """A trained head.

    Attributes:
        head: At the step with the best validation AUC.
        val_auc: There.
        train_loss: Mean of the last tenth of the steps, nats.
        losses: By step.
        status: ``"ok"`` or ``"diverged"``.
    """

    head: nn.Linear
    val_auc: float = math.nan
    losses: list[float] = field(default_factory=list)

    @property
    def train_loss(self) -> float:
        """Mean of the last tenth of the steps."""
        return float(np.mean(self.losses[-max(1, len(self.losses) // 10) :]))

    @property
    def status(self) -> str:
        """Whether all went well."""
        return "ok" if all(math.isfinite(loss) for loss in self.losses) else "diverged"


@lru_cache(maxsize=64)
def open_images(bench: Bench, family: str, split: str, images: int, spec: Any) -> ForgeryDataset:
    """Open images, once in a process.

    Args:
        bench: For the strength.
        family: Such as ``"nt"``; ``"sbi"`` for self-blended pairs of real images.
        split: ``"train"``, ``"val"`` or ``"test"``.
        images: How many.
        spec: What images the encoder wants.

    Returns:
        The data set.
    """
    name = "demo-df" if family == "sbi" else f"demo-{family}"
    wanted = {"image_size": spec.image_size, "mean": spec.mean, "std": spec.std, "strength": bench.strength}
    found = open_dataset(name, split=split, size=images, **wanted)
    if family != "sbi":
        return found
    from corit.sbi import SelfBlended

    return SelfBlended(found)


class Extractor:
    """Features of one kind of detector, with regions found from the training images where all images share them.

    Args:
        bench: The study.
        trained_on: Family, or ``"sbi"``.
        options: Fields of :class:`corit.training.config.DetectorTraining`: method and options of CoRIT.
        seeds: Number of seeds, for the number of training images.
        cache: Folder of features.
        device: Where to work.
    """

    def __init__(
        self,
        bench: Bench,
        trained_on: str,
        options: dict[str, Any],
        *,
        seeds: int,
        cache: Path | None,
        device: str | None = None,
    ) -> None:
        self.config = replace(DetectorTraining(encoder=bench.encoder), **options)
        self.bench, self.trained_on, self._images = bench, trained_on, bench.train_images * seeds
        self.model = build_untrained(self.config).to(device or "cpu")
        self.spec = input_spec(self.model)
        whole: Any = self.model
        if getattr(whole, "shared", None) is not None:
            find_shared_regions(whole, self._open(trained_on, "train", self._images), cache)
        self._maker = FeatureMaker(self.model, cache, device=device or "cpu")

    def _open(self, family: str, split: str, images: int) -> ForgeryDataset:
        return open_images(self.bench, family, split, images, self.spec)

    def training(self, seed: int) -> Split:
        """Training images of a seed.

        Returns:
            Their features.
        """
        return self._split(self.trained_on, "train", self._images).part(seed, self.bench.train_images)

    def validation(self) -> Split:
        """Validation images, of the kind that is trained on.

        Returns:
            Their features.
        """
        return self._split(self.trained_on, "val", self.bench.val_images)

    def test(self, family: str) -> Split:
        """Test images of a family.

        Returns:
            Their features.
        """
        return self._split(family, "test", self.bench.test_images)

    @lru_cache(maxsize=16)  # noqa: B019
    def rate(self, seed: int) -> float:
        """Learning rate of a seed, chosen on validation data.

        Returns:
            One of :data:`LEARNING_RATES`.
        """
        return choose_rate(self.training(seed), self.validation(), seed=seed, steps=self.bench.steps)

    @lru_cache(maxsize=16)  # noqa: B019 - an extractor lives as long as its features are wanted
    def _split(self, family: str, split: str, images: int) -> Split:
        data = self._open(family, split, images)
        return Split(self._maker(data), torch.tensor(data.labels))


def batches(split: Split, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, half real and half fake.

    Args:
        split: The images.
        batch_size: Of a batch.
        seed: Of the order.

    Yields:
        Features and labels.
    """
    epochs = BalancedBatches(split.labels.numpy(), batch_size, seed)
    for epoch in count():
        epochs.epoch = epoch
        for rows in epochs:
            yield split.features[rows], split.labels[rows]


class _Selection(Callback):
    """Keeps the losses, and the weights of the best validation AUC."""

    def __init__(self, fitted: Fitted, val: Split, every: int, recorder: Recorder | None) -> None:
        self.fitted, self._val, self._every, self._recorder = fitted, val, every, recorder
        self.best: dict[str, Tensor] = {}

    def before_step(self, step: int) -> None:
        if self._recorder is not None:
            self._recorder(step)
        if step and step % self._every == 0:
            self.validate()

    def after_step(self, log: StepLog) -> bool:
        self.fitted.losses.append(log.loss)
        return not math.isfinite(log.loss)

    def validate(self) -> None:
        scores = head_logits(self.fitted.head, self._val.features)
        found = score(scores, self._val.labels)["auc"]
        if not self.best or found > self.fitted.val_auc or math.isnan(self.fitted.val_auc):
            self.fitted.val_auc = found
            self.best = {name: value.clone() for name, value in self.fitted.head.state_dict().items()}


def fit_head(
    training: Split,
    val: Split,
    *,
    seed: int,
    steps: int,
    lr: float,
    rho: float = 0.0,
    batch_size: int = 64,
    record: bool = False,
) -> tuple[Fitted, Recorder | None]:
    """Train a linear head with AdamW, or SAM around it, as ``corit train`` does.

    Args:
        training: Features to train on.
        val: Features that choose the step.
        seed: Of the first weights and of the order.
        steps: How many.
        lr: Learning rate, falling to 0 as a cosine.
        rho: SAM's radius.
        batch_size: Images of a batch.
        record: Measure GSNR and COR along the run.

    Returns:
        The head, and what was recorded.
    """
    head = nn.utils.skip_init(nn.Linear, training.features.shape[1], 1)
    nn.init.normal_(head.weight, std=HEAD_STD, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(head.bias)
    held = [(training.features[:512], training.labels[:512])]
    sam_batch = min(batch_size, len(held[0][1]) // 8)  # COR's interval wants eight mini-batches
    recorder = Recorder(head, held, every=max(1, steps // 4), batch_size=sam_batch) if record else None
    fitted = Fitted(head)
    watch = _Selection(fitted, val, max(1, steps // 8), recorder)
    optimizer = SAM(head.parameters(), torch.optim.AdamW, rho=rho, lr=lr, weight_decay=0.01)
    train(
        head,
        optimizer,
        batches(training, batch_size, seed),
        steps=steps,
        learning_rate=lambda step: lr * cosine_decay(step, steps),
        callbacks=[watch],
    )
    watch.validate()
    head.load_state_dict(watch.best)
    return fitted, recorder


def choose_rate(training: Split, val: Split, *, seed: int, steps: int) -> float:
    """Choose the learning rate of plain training on validation data.

    Args:
        training: Features to train on.
        val: Features to choose by.
        seed: Of the head.
        steps: How many.

    Returns:
        One of :data:`LEARNING_RATES`.
    """
    found = {lr: fit_head(training, val, seed=seed, steps=steps, lr=lr)[0].val_auc for lr in LEARNING_RATES}
    return max(found, key=lambda lr: (-math.inf if math.isnan(found[lr]) else found[lr], lr))


def score(logits: NDArray[np.float64], labels: Tensor) -> dict[str, float]:
    """AUC of logits with its interval over images.

    Args:
        logits: ``(N,)``.
        labels: ``(N,)``.

    Returns:
        ``auc``, ``auc_low``, ``auc_high``; NaN where a logit is not finite.
    """
    if not np.isfinite(logits).all():
        return dict.fromkeys(("auc", "auc_low", "auc_high"), math.nan)
    known = labels.numpy()
    found = auc(logits[known == 0], logits[known == 1])
    return {"auc": found.value, "auc_low": found.low, "auc_high": found.high}


def kept(runs: Path, about: dict[str, Any]) -> Path:
    """Where the result of a fit is kept.

    Args:
        runs: Folder of all.
        about: What decides it.

    Returns:
        A file named by its hash.
    """
    plain = {name: asdict(value) if isinstance(value, Bench) else value for name, value in about.items()}
    return runs / "fits" / f"{digest(plain)}.json"


def keep(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the rows of a fit.

    Args:
        path: What :func:`kept` gave.
        rows: Plain values.

    Returns:
        The rows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, rows)
    return rows


def read_kept(path: Path) -> list[dict[str, Any]] | None:
    """Read the rows of a fit.

    Args:
        path: What :func:`kept` gave.

    Returns:
        The rows; None if the fit is yet to be made.
    """
    return read_json(path) if path.exists() else None


def study_parser(description: str | None, families: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The options of a study of heads: three seeds, one thread, fits kept beside each other.

    Args:
        description: The script's docstring.
        families: Default of ``--families``; no such option where there are none.

    Returns:
        A parser to add others to.
    """
    parser = common_options(description)
    parser.set_defaults(seeds=3, runs=RUNS, workers=1)
    if families:
        parser.add_argument("--families", default=",".join(families), help="families, with commas")
    return parser


def read_study(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line of a study, which is of the embedded data and encoders alone, and take its threads.

    Args:
        parser: Of :func:`study_parser`.
        arguments: Of the command line; those of the process when None.

    Returns:
        The options; another model or real data, which the script would not look at, are an error.
    """
    chosen = parser.parse_args(arguments)
    if chosen.model is not None or chosen.data_root is not None:
        parser.error(
            "expected neither --model nor --data-root: this study is of the embedded data; use 'corit train', 'corit "
            "eval' and 'corit ablate' on an encoder and data sets of your own"
        )
    if not chosen.replot:
        torch.set_num_threads(chosen.workers)
    return chosen
