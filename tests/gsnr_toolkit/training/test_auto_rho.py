"""The radius controller: a share of COR, kept where there is no signal, at a bounded and recorded cost."""

import math

import pytest
import torch
from torch import nn

from gsnr_toolkit import SAM, AutoRho, ProbeError, estimate_cor
from gsnr_toolkit.errors import NonFiniteError
from tests.support.sam_reference import assert_same_bits, bits, losses, make_model

NAN, INF = math.nan, math.inf


def signal_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def signal_batches(rows=64):
    inputs = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0))
    return [(inputs, (inputs[:, 0] + inputs[:, 1] > 0).long())]


def closure_of(model, batch):
    return lambda: losses(model, batch).mean().backward()


@pytest.mark.parametrize(
    ("answers", "radii"),
    [
        ([0.02], [0.01]),
        ([1.0], [0.05]),
        ([INF], [0.05]),
        ([NAN], [0.0]),
        ([0.02, NAN, 0.06], [0.01, 0.01, 0.03]),
        ([0.04, 0.0, 0.08], [0.02, 0.0, 0.04]),
    ],
)
def test_a_share_of_what_the_probe_says(answers, radii):
    coming = iter(answers)
    controller = AutoRho(nn.Linear(2, 1), [], every=10, safety=0.5, rho_max=0.05, probe=lambda: next(coming))
    got = [controller.radius(step) for step in range(10 * len(answers))]
    assert got == [rho for rho in radii for _ in range(10)]
    assert [record.step for record in controller.history] == [10 * i for i in range(len(answers))]
    assert [record.rho for record in controller.history] == radii


def test_the_start_is_kept_until_there_is_a_signal():
    controller = AutoRho(nn.Linear(2, 1), [], start=0.01, probe=lambda: NAN)
    assert controller.radius(0) == 0.01
    assert controller.history[0].status == "no_signal"

    def broken():
        raise NonFiniteError("expected finite losses")

    controller = AutoRho(nn.Linear(2, 1), [], start=0.01, probe=broken)
    assert controller.radius(0) == 0.01
    assert controller.history[0].status == "not_finite"


@pytest.mark.parametrize("rho_max", [0.3, 0.01])
def test_the_radius_is_that_of_estimate_cor(rho_max):
    model, batches = signal_model(), signal_batches()
    controller = AutoRho(model, batches, safety=0.5, rho_max=rho_max)
    rho = controller.radius(0)
    largest = rho_max / 0.5
    radii = [rho_max / 16, rho_max / 4, rho_max, largest]
    report = estimate_cor(model.eval(), batches, rho=rho_max, radii=radii, max_samples=64, progress=False)
    expected = min(rho_max, 0.5 * min(report.cor, largest))
    assert rho == pytest.approx(expected, rel=1e-12)
    record = controller.history[0]
    assert (record.status, record.cor) == (report.total["status"], report.cor)
    tried = report.drift["rho"].nunique()
    assert record.gradient_evaluations == 64 + 64 * (1 + tried)
    assert tried <= len(radii) + 3


def test_probing_does_not_touch_training():
    """The same run with the radii given as numbers has the same bits, dropout masks and all."""

    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1))

    batch = (signal_batches()[0][0], signal_batches()[0][1])
    model = build()
    controller = AutoRho(model, [batch], every=2, rho_max=10.0, safety=1.0)
    optimizer = SAM(model, lr=0.1, rho=controller)
    torch.manual_seed(5)
    radii = []
    for _ in range(6):
        optimizer.step(closure_of(model, batch))
        radii.append(optimizer.radii[0])
    assert len(set(radii)) > 1
    assert model.training

    twin = build()
    plain = SAM(twin, lr=0.1, rho=0.0)
    torch.manual_seed(5)
    for rho in radii:
        plain.param_groups[0]["rho"] = rho
        plain.step(closure_of(twin, batch))
    assert_same_bits(bits(twin), bits(model))


def test_the_cost_is_recorded():
    model, batches = signal_model(), signal_batches()
    controller = AutoRho(model, batches, every=5, max_samples=32)
    assert math.isnan(controller.cost["share"])
    optimizer = SAM(model, lr=0.1, rho=controller)
    for _ in range(11):
        optimizer.step(closure_of(model, batches[0]))
    cost = controller.cost
    assert cost["estimates"] == 3 == len(controller.history)
    assert cost["seconds"] == sum(record.seconds for record in controller.history) > 0
    assert 3 * 32 * 5 <= cost["gradient_evaluations"] <= 3 * 32 * (2 + 4 + 3)
    assert 0 < cost["share"] < 1


def test_no_estimate_is_paid_for_while_the_schedule_is_plain():
    from gsnr_toolkit.optim import WarmStart

    model, asked = make_model(), []
    controller = AutoRho(model, [], every=1, probe=lambda: asked.append(1) or 0.02)
    optimizer = SAM(model, lr=0.1, rho=controller, rho_schedule=WarmStart(3))
    batch = (torch.randn(8, 4).double(), torch.tensor([0, 1] * 4))
    for _ in range(5):
        optimizer.step(closure_of(model, batch))
    assert len(asked) == 2


def test_what_is_perturbed_must_be_what_is_measured():
    model = signal_model()
    with pytest.raises(ProbeError, match="got ASAM's; pass probe=function"):
        SAM(model, rho=AutoRho(model, []), adaptive=True)
    with pytest.raises(ProbeError, match=r"all 4 trainable parameters of the model .*got 2 of them"):
        SAM(model[0], rho=AutoRho(model, []))
    with pytest.raises(ProbeError, match="got 2 of them and 0 others"):
        SAM(model, rho=AutoRho(model, []), perturb=lambda name, _: "weight" in name)
    SAM(model, rho=AutoRho(model, [], probe=lambda: 0.1), adaptive=True)
    model[0].requires_grad_(False)
    SAM(model, rho=AutoRho(model, []))
    with pytest.raises(ProbeError, match="expected groups without rho under a radius controller"):
        SAM([{"params": model.parameters(), "rho": 0.1}], rho=AutoRho(model, []))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "expected every to be 1 step or more, got 0"),
        ({"safety": 0.0}, "expected safety to be above 0 and at most 1, got 0.0"),
        ({"safety": 1.5}, "expected safety to be above 0 and at most 1, got 1.5"),
        ({"rho_max": 0.0}, "expected rho_max above 0, got 0"),
        ({"start": -1.0}, "expected start to be a finite number"),
    ],
)
def test_ranges(options, message):
    with pytest.raises(ProbeError, match=message):
        AutoRho(nn.Linear(2, 1), [], **options)


def test_a_loader_that_does_not_fit_is_an_error_at_once():
    model = signal_model()
    optimizer = SAM(model, rho=AutoRho(model, signal_batches(rows=3)))
    before = bits(model)
    with pytest.raises(ProbeError, match=r"expected at least 4 (samples|mini-batches)"):
        optimizer.step(closure_of(model, signal_batches()[0]))
    assert_same_bits(bits(model), before)
