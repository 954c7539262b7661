"""What is trained: 39 settings of six kinds, five of them held out before anything was run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from sklearn.metrics import r2_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from analyses.radius import data, models
from analyses.radius.data import Arrays
from analyses.support.families import FAMILIES
from gsnr_toolkit import build_model
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.inputs.tuning import parse_tuning, set_tuning
from gsnr_toolkit.models.spec import input_spec
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.types import Batch, PerSampleLoss

_ADAMW = partial(torch.optim.AdamW, weight_decay=0.0)


@dataclass(frozen=True)
class Setting:
    """One training problem.

    Attributes:
        name: Data, model and what is unusual.
        kind: ``"digits"``, ``"parity"``, ``"tables"``, ``"regression"``, ``"drawn"`` or ``"faces"``.
        model: Builds the model; the global random state is seeded.
        arrays: The data.
        lr: Learning rate.
        batch_size: Size of a mini-batch.
        sgd: SGD with momentum 0.9 instead of AdamW.
        random_labels: Share of the training labels that are random.
        scale: Factor of the inputs.
        perturb: What SAM perturbs.
        dear: A step takes tens of milliseconds: fewer seeds and steps.
    """

    name: str
    kind: str
    model: Callable[[], nn.Module]
    arrays: Callable[[], Arrays]
    lr: float = 1e-3
    batch_size: int = 64
    sgd: bool = False
    random_labels: float = 0.0
    scale: float = 1.0
    perturb: str = "all"
    dear: bool = False

    @property
    def real(self) -> bool:
        """Whether the data were measured rather than drawn."""
        return self.kind in ("digits", "parity", "tables") or self.name.startswith("diabetes")

    @property
    def steps(self) -> int:
        """Steps of a plain run, in which half of the gain is read."""
        return 300 if self.dear else 600

    def build(self, seed: int) -> Problem:
        """Build the model and open the data of one seed."""
        arrays = self.arrays()
        if self.random_labels:
            arrays = data.with_random_labels(arrays, self.random_labels, seed)
        if self.scale != 1:
            arrays = data.scaled(arrays, self.scale)
        torch.manual_seed(seed)
        model = self.model()
        loss = _squared if arrays.regression else _binary if arrays.outputs == 1 else _entropy
        return Problem(self, model, arrays, loss, seed)


@dataclass(frozen=True)
class Problem:
    """A setting with a seed, ready to train."""

    setting: Setting
    model: nn.Module
    arrays: Arrays
    loss: PerSampleLoss
    seed: int

    def loader(self) -> DataLoader[Any]:
        """Training batches, in an order that the global random state decides."""
        dataset: Dataset[Any] = TensorDataset(*self.arrays.train)
        return DataLoader(dataset, self.setting.batch_size, shuffle=True, drop_last=True)

    def sam(self, rho: Any, **options: Any) -> SAM:
        """SAM of a radius, or another value of ``rho``, with a fresh state."""
        base: Any = torch.optim.SGD if self.setting.sgd else _ADAMW
        own: dict[str, Any] = {"momentum": 0.9} if self.setting.sgd else {}
        return SAM(self.model, base, rho=rho, lr=self.setting.lr, perturb=self.setting.perturb, **own, **options)

    @torch.no_grad()
    def score(self) -> float:
        """R2, AUC of two classes, or accuracy on the test data."""
        inputs, targets = self.arrays.test
        outputs = torch.cat([self.model(part).reshape(len(part), -1) for part in inputs.split(256)])
        if not torch.isfinite(outputs).all():
            return 0.0
        if self.arrays.regression:
            return float(r2_score(targets.numpy(), outputs.numpy()))
        if self.arrays.outputs <= 2:
            ranks = outputs[:, 0] if outputs.shape[1] == 1 else outputs[:, 1] - outputs[:, 0]
            return float(roc_auc_score(targets.numpy(), ranks.numpy()))
        return float((outputs.argmax(1) == targets).float().mean())


def _entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def _binary(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]).reshape(-1), batch[1].float(), reduction="none")


def _squared(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1], reduction="none").mean(1)


@cache
def _faces(family: str) -> Arrays:
    spec = input_spec(build_model("clip-lab"))
    parts = []
    for split, count in (("train", 1600), ("test", 400)):
        found = open_dataset(
            f"demo-{family}", split=split, size=count, image_size=spec.image_size, mean=spec.mean, std=spec.std
        )
        images, labels = zip(*(found[i] for i in range(len(found))), strict=True)
        parts.append((torch.stack(images), torch.tensor(labels)))
    return Arrays(parts[0], parts[1], 1)


def _detector(tuning: str) -> nn.Module:
    model = build_model("clip-lab", seed=int(torch.initial_seed() % 1000))
    set_tuning(model, parse_tuning(tuning))
    return model.eval()


def _setting(name: str, kind: str, build: Any, arrays: Any, size: int, outputs: int, **options: Any) -> Setting:
    return Setting(name, kind, partial(build, size, outputs), cache(arrays), **options)


_PARITY = partial(data.digits, parity=True)
_NETS: dict[str, tuple[Any, int]] = {
    "mlp": (models.mlp, 64), "deep": (models.deep, 64), "vit": (models.TinyViT, 8), "resnet": (models.TinyResNet, 8)
}  # fmt: skip


def _all() -> list[Setting]:
    digits = [_setting(f"digits-{net}", "digits", build, data.digits, size, 10) for net, (build, size) in _NETS.items()]
    variants: list[tuple[str, str, dict[str, Any]]] = [
        ("mlp", "noise", {"random_labels": 0.5}), ("deep", "noise", {"random_labels": 0.5}),
        ("vit", "noise", {"random_labels": 0.5}), ("resnet", "noise", {"random_labels": 0.5}),
        ("mlp", "sgd", {"sgd": True, "lr": 0.05}), ("mlp", "b16", {"batch_size": 16}),
        ("deep", "b16", {"batch_size": 16}),
        ("mlp", "slow", {"lr": 2e-4}), ("deep", "slow", {"lr": 2e-4}), ("vit", "norms", {"perturb": "norms"}),
        ("resnet", "norms", {"perturb": "norms"}), ("mlp", "raw", {"scale": 16.0}), ("deep", "raw", {"scale": 16.0}),
        ("vit", "raw", {"scale": 16.0}), ("mlp", "faint", {"scale": 0.1}),
    ]  # fmt: skip
    digits += [
        _setting(f"digits-{net}-{suffix}", "digits", _NETS[net][0], data.digits, _NETS[net][1], 10, **options)
        for net, suffix, options in variants
    ]
    parity = [_setting(f"parity-{net}", "parity", build, _PARITY, size, 2) for net, (build, size) in _NETS.items()]
    tables = [
        _setting("cancer-mlp", "tables", models.mlp, data.cancer, 30, 2),
        _setting("cancer-deep", "tables", models.deep, data.cancer, 30, 2),
        _setting("wine-mlp", "tables", models.mlp, data.wine, 13, 3, batch_size=32),
    ]
    numbers = [
        _setting("diabetes-mlp", "regression", models.mlp, data.diabetes, 10, 1),
        _setting("diabetes-deep", "regression", models.deep, data.diabetes, 10, 1),
        _setting("operator-mlp", "regression", models.mlp, data.operator, 32, 32),
        _setting("operator-deep", "regression", models.deep, data.operator, 32, 32),
    ]
    drawn = [_setting("bits-mlp", "drawn", models.mlp, data.sparse_parity, 16, 2)]
    faces = [
        Setting(
            f"{family}-{tuning}", "faces", partial(_detector, tuning), partial(_faces, family), lr=3e-4, batch_size=32,
            dear=True,
        )
        for family in FAMILIES for tuning in ("full", "norms")
    ]  # fmt: skip
    return [*digits, *parity, *tables, *numbers, *drawn, *faces]


SETTINGS = {setting.name: setting for setting in _all()}
"""Name to setting."""

HELD_OUT = frozenset({"digits-deep-noise", "digits-deep-slow", "digits-resnet", "digits-vit-noise", "nt-full"})
"""Settings that nothing was fitted or tuned on: five of the first 35, drawn (``default_rng(0)``) before any was run."""
