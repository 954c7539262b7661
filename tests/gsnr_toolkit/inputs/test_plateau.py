"""The loss of the best constant prediction: closed forms, and the calls of losses that it is found from."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit import ProbeError, plateau_loss
from gsnr_toolkit.inputs.criterion import Call, CriterionWatch, best_constant
from gsnr_toolkit.inputs.plateau import plateau_of_calls

GENERATOR = torch.Generator().manual_seed(0)
CLASSES = torch.multinomial(torch.tensor([0.1, 0.5, 0.2, 0.2]), 400, replacement=True, generator=GENERATOR)
SHARES = torch.bincount(CLASSES).double() / 400
TARGETS = 2 * torch.randn(300, generator=GENERATOR) + 1
SEVERAL = (torch.rand(200, 3, generator=GENERATOR) < torch.tensor([0.1, 0.5, 0.8])).float()

MEANS = SEVERAL.double().mean(0)


def entropy(shares):
    return float(torch.special.entr(shares).sum())


def smoothed(amount):
    """The shares that label smoothing makes of the true ones."""
    return (1 - amount) * SHARES + amount / 4


WEIGHT = torch.tensor([4.0, 1.0, 1.0, 2.0])
WEIGHTED = SHARES * WEIGHT.double() / (SHARES * WEIGHT.double()).sum()
RARE = (torch.rand(300, generator=GENERATOR) < 0.2).float()


@pytest.mark.parametrize(
    ("labels", "loss", "wanted"),
    [
        (CLASSES, None, entropy(SHARES)),
        (CLASSES.numpy(), None, entropy(SHARES)),
        (CLASSES.tolist(), None, entropy(SHARES)),
        (CLASSES, F.cross_entropy, entropy(SHARES)),
        (CLASSES, nn.CrossEntropyLoss(label_smoothing=0.1), entropy(smoothed(0.1))),
        (CLASSES, nn.CrossEntropyLoss(weight=WEIGHT), entropy(WEIGHTED)),
        (CLASSES, nn.NLLLoss(), entropy(SHARES)),
        (CLASSES.reshape(100, 2, 2), F.cross_entropy, entropy(SHARES)),
        (F.one_hot(CLASSES).double(), None, entropy(SHARES)),
        (CLASSES > 1, None, entropy(torch.stack([SHARES[:2].sum(), SHARES[2:].sum()]))),
        (RARE, None, entropy(torch.stack([RARE.mean(), 1 - RARE.mean()]).double())),
        (RARE, nn.BCEWithLogitsLoss(), entropy(torch.stack([RARE.mean(), 1 - RARE.mean()]).double())),
        (SEVERAL, F.binary_cross_entropy_with_logits, np.mean([entropy(torch.stack([q, 1 - q])) for q in MEANS])),
        (SEVERAL, nn.BCELoss(), np.mean([entropy(torch.stack([q, 1 - q])) for q in MEANS])),
        (TARGETS, F.mse_loss, TARGETS.double().var(unbiased=False).item()),
        (TARGETS.reshape(100, 3), F.mse_loss, TARGETS.double().reshape(100, 3).var(0, unbiased=False).mean().item()),
        (TARGETS, nn.L1Loss(), (TARGETS - TARGETS.median()).abs().double().mean().item()),
    ],
)  # fmt: skip
def test_closed_forms(labels, loss, wanted):
    assert plateau_loss(labels, loss) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("loss", [nn.SmoothL1Loss(beta=0.5), nn.HuberLoss(delta=2.0)])
def test_no_constant_is_better(loss):
    found = plateau_loss(TARGETS, loss)
    grid = torch.linspace(-3, 5, 4001, dtype=torch.float64)
    best = min(loss(constant.expand(300), TARGETS.double()).item() for constant in grid)
    assert best - 1e-5 < found <= best


@pytest.mark.parametrize("loss_fn", [None, lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none")])
def test_of_a_loader_and_its_model(loss_fn):
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    loader = [(torch.randn(100, 5), CLASSES[i : i + 100]) for i in range(0, 400, 100)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert plateau_loss(loader, loss_fn, model=model) == pytest.approx(entropy(SHARES), rel=1e-6)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    few = torch.bincount(CLASSES[:100]).double() / 100
    assert plateau_loss(loader, loss_fn, model=model, max_samples=100) == pytest.approx(entropy(few), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plateau_loss([(torch.zeros(2, 3), torch.zeros(2))]), "expected labels, or a loader with its model"),
        (
            lambda: plateau_loss(torch.zeros(5, dtype=torch.long)),
            "cannot match, got a loss of 0 .* more than one class",
        ),
        (lambda: plateau_loss(TARGETS), "expected class indices or probabilities, .* loss_fn=F.mse_loss"),
        (
            lambda: plateau_loss(torch.tensor([-1, 1])),
            "class indices or probabilities, got torch.int64 labels from -1 to 1",
        ),
        (lambda: plateau_loss(CLASSES, lambda outputs, targets: outputs.sum()), "that torch.nn.functional has"),
        (lambda: plateau_loss(torch.tensor(3.0)), "expected one label per sample"),
    ],
)
def test_what_cannot_be_told(call, message):
    with pytest.raises(ProbeError, match=message):
        call()


def test_calls_are_noted_wherever_they_are_made():
    model, inputs = nn.Linear(3, 2), torch.randn(6, 3)
    labels = torch.tensor([0, 1, 1, 0, 1, 1])
    compiled = torch.compile(lambda: F.cross_entropy(model(inputs), labels), backend="eager")
    for call in (lambda: nn.CrossEntropyLoss()(model(inputs), labels), compiled):
        with CriterionWatch() as watch:
            loss = call()
        assert len(watch.calls) == 1
        assert watch.calls[0].value == pytest.approx(loss.item())
        assert plateau_of_calls(watch.calls, loss.item()) == pytest.approx(
            entropy(torch.tensor([1 / 3, 2 / 3]).double())
        )
    with CriterionWatch() as watch, torch.no_grad():
        F.cross_entropy(model(inputs), labels)  # a metric, not a loss
    assert not watch.calls


def test_micro_batches_count_by_their_rows():
    outputs = torch.zeros(5, requires_grad=True)
    targets = torch.tensor([0.0, 2.0, 5.0, 5.0, 8.0])
    with CriterionWatch() as watch:
        parts = [F.mse_loss(outputs[:2], targets[:2]), F.mse_loss(outputs[2:], targets[2:])]
    whole = (2 * parts[0] + 3 * parts[1]).item() / 5
    assert plateau_of_calls(watch.calls, whole) == pytest.approx(targets.var(unbiased=False).item())


def test_a_call_survives_saving():
    with CriterionWatch() as watch:
        nn.CrossEntropyLoss(weight=WEIGHT)(torch.zeros(400, 4, requires_grad=True), CLASSES)
    again = Call.from_state(watch.calls[0].to_state())
    assert again.kind == watch.calls[0].kind
    assert best_constant([again]) == best_constant(watch.calls)
