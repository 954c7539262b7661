"""Losses, batches and outputs of another form: the error names the loss to write."""

import re
from collections import UserDict
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gsnr_toolkit import SAM, estimate_gsnr, probe
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.losses import resolve_loss
from gsnr_toolkit.optim.step import sam_step

PAIRS = [(torch.randn(8, 6), torch.arange(8) % 2) for _ in range(4)]


def _estimate(model=None, batches=PAIRS, **options):
    return estimate_gsnr(model or nn.Linear(6, 2), batches, progress=False, **options)


class _OwnLoss(nn.Module):
    def forward(self, model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


CRITERIA = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(reduction="none"),
    F.cross_entropy,
    partial(F.cross_entropy, reduction="none"),
    nn.MSELoss(),
    F.mse_loss,
    nn.BCEWithLogitsLoss(),
    nn.GaussianNLLLoss(),
]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_losses_of_outputs_and_targets(criterion):
    with pytest.raises(ProbeError, match=r"a loss of outputs and targets; pass loss_fn=lambda model, batch: .*none"):
        _estimate(loss_fn=criterion)


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), F.cross_entropy, F.mse_loss, nn.MSELoss()])
def test_the_loss_that_is_named_runs(criterion):
    with pytest.raises(ProbeError) as caught:
        resolve_loss(criterion)
    loss = eval(re.search(r"loss_fn=(lambda.*)$", str(caught.value))[1], {"F": F, "torch": torch})
    model = nn.Linear(6, 2 if "entropy" in str(caught.value) else 1)
    batches = PAIRS if "entropy" in str(caught.value) else [(x, x.sum(1)) for x, _ in PAIRS]
    assert _estimate(model, batches, loss_fn=loss).total["num_samples"] == 32


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (5, "got 5; pass a function"),
        ("mse", "got 'mse'; pass a function"),
        (nn.CrossEntropyLoss, r"got <class .*; pass a function"),
        (lambda batch: batch, "does not take two arguments"),
        (lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"), "fails on a model and a batch"),
        (lambda outputs, targets: (outputs - targets) ** 2, "if it takes outputs and targets, pass"),
        (lambda outputs, targets: outputs.log_softmax(1), "Linear.*has no attribute.*pass loss_fn=lambda model, batch"),
    ],
)
def test_what_is_no_loss(loss_fn, message):
    with pytest.raises(ProbeError, match=message):
        _estimate(loss_fn=loss_fn)


def test_losses_of_model_and_batch_in_any_form():
    class Method:
        def loss(self, model, batch):
            return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    assert resolve_loss(None) is not None
    for loss in (_OwnLoss(), Method().loss, partial(lambda scale, model, batch: model(batch[0])[:, 0] * scale, 2.0)):
        assert _estimate(loss_fn=loss).total["num_samples"] == 32


def test_training_checks_the_loss_too():
    model = nn.Linear(6, 2)
    with pytest.raises(ProbeError, match="a loss of outputs and targets"):
        sam_step(model, PAIRS[0], nn.CrossEntropyLoss(), SAM(model, lr=0.1))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (5, "iterable of batches, got 5; pass a DataLoader"),
        (None, "iterable of batches, got None; pass a DataLoader"),
        ({"x": PAIRS[0][0]}, r"got dict; put this batch into a list"),
        (PAIRS[0][0], "got Tensor; put this batch"),
        ([(torch.randn(6), 1)] * 8, "one sample of a data set. wrap it in a DataLoader"),
    ],
)
def test_what_is_no_loader(loader, message):
    for verb in (estimate_gsnr, probe):
        with pytest.raises(ProbeError, match=message):
            verb(nn.Linear(6, 2), loader, progress=False)


class _Encoding(UserDict):
    def __getattr__(self, name):
        return self.data[name]


@dataclass
class _Record:
    images: Tensor
    labels: Tensor


class _Detector(nn.Module):
    """Takes the whole batch, as detectors of forgeries do."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 2)

    def forward(self, data_dict, inference=False):
        logits = self.head(data_dict["image"])
        return {"cls": logits, "prob": logits.softmax(1)[:, 1]}


def test_batches_by_attribute_and_records():
    model = nn.Linear(6, 2)
    expected = _estimate(model).total["gsnr"]

    def by_attribute(model, batch):
        return F.cross_entropy(model(batch.images), batch.labels, reduction="none")

    for kind in (_Encoding, _Record):
        batches = [_Record(x, y) if kind is _Record else _Encoding(images=x, labels=y) for x, y in PAIRS]
        for engine in ("taps", "vmap", "loop"):
            found = _estimate(model, batches, loss_fn=by_attribute, engine=engine).total["gsnr"]
            assert found == pytest.approx(expected, rel=1e-4)


def test_a_detector_of_the_whole_batch():
    batches = [{"image": x, "label": y, "mask": None, "landmark": None} for x, y in PAIRS]
    with pytest.raises(ProbeError, match=r"fields image, mask, landmark as keyword arguments.*model\(batch\)"):
        _estimate(_Detector(), batches)
    found = _estimate(
        _Detector(), batches, loss_fn=lambda model, b: F.cross_entropy(model(b)["cls"], b["label"], reduction="none")
    )
    assert found.total["num_samples"] == 32


class _Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 2)

    def forward(self, one, other):
        return self.head(one + other)


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (None, [{"input": x, "labels": None} for x, _ in PAIRS], r"of which labels hold no tensor.*pass loss_fn"),
        (None, [{"input": x} for x, _ in PAIRS], r"got keys \['input'\]; for any other form pass loss_fn"),
        (None, [_Record(x, y) for x, y in PAIRS], "got _Record with the fields images, labels; .*pass loss_fn"),
        (None, [(x, y.tolist()) for x, y in PAIRS], r"labels that are a tensor, got tuple of Tensor, list"),
        (None, [{"image": x, "labels": y} for x, y in PAIRS], r"the fields image as keyword arguments.*pass loss_fn"),
        (_Two(), [((x, x), y) for x, y in PAIRS], r"all inputs as one argument.*model\(\*batch\[0\]\)"),
        (None, [((x, x), y) for x, y in PAIRS], r"all inputs as one argument.*must be Tensor, not tuple"),
    ],
)
def test_batches_of_another_form(model, batches, message):
    with pytest.raises(ProbeError, match=message):
        _estimate(model, batches)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: {"cls": x}, "got dict with the keys cls; pass loss_fn"),
        (lambda x: _Record(x, x), "got _Record with the fields images, labels; pass loss_fn"),
        (lambda x: (x, x), "got tuple of Tensor, Tensor; pass loss_fn"),
    ],
)
def test_outputs_of_another_form(output, message):
    class Model(nn.Linear):
        def forward(self, x):
            return output(super().forward(x))

    with pytest.raises(ProbeError, match=message):
        _estimate(Model(6, 2))


def test_an_error_inside_the_model_stays_its_own():
    class Broken(nn.Linear):
        def forward(self, input):
            return len(5)

    with pytest.raises(TypeError, match="has no len"):
        _estimate(Broken(6, 2), [{"input": x, "labels": y} for x, y in PAIRS])
