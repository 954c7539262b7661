"""What is suggested after a measurement, for each kind of answer."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit import SAM, Report, estimate_cor, probe
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.estimators.margin import Margin, undefined_margin


@pytest.fixture(scope="module")
def data():
    inputs = torch.randn(128, 6, generator=torch.Generator().manual_seed(0))
    return [(part, (part[:, 0] > 0).long()) for part in inputs.split(16)]


@pytest.fixture(scope="module")
def report(data):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
    return probe(model, data, steps=30, measurements=3, lr=1e-2, rho=5.0, progress=False)


def _with(report, **margin):
    return replace(
        report, margin=Margin(**{"value": 0.4, "low": 0.3, "high": 0.5, "status": "ok", "message": "", **margin})
    )


def test_a_run_that_learns_has_a_margin_and_a_radius(report):
    margin = report.margin
    rows = report.trajectory.set_index("step")
    literal = (margin.plateau_loss - rows["loss"][margin.step]) / rows["batch_grad_norm"][margin.step]
    assert margin.status == "ok"
    assert margin.value == pytest.approx(literal, rel=1e-6)
    assert report.suggest_rho() == pytest.approx(0.1 * margin.value, rel=0.1)
    assert report.suggest_rho() <= 0.1 * margin.value
    assert 'or rho = "auto"' in report.suggestion.message


def test_a_radius_that_is_certified_is_suggested_as_it_is(report):
    certified = replace(report, settings={**report.settings, "rho": 1e-4})
    assert report.totals["cor_low"].min() > 1e-4
    assert certified.suggest_rho() == 1e-4
    assert "certifies" in certified.suggestion.message


def test_a_wide_interval_lowers_the_radius(report):
    found = _with(report, low=0.02).suggestion
    assert found.rho == 0.02
    assert "lower limit" in found.message
    assert _with(report, low=0.0).suggest_rho() == "auto"


def test_on_the_plateau_it_is_auto(report):
    found = _with(report, status="on_plateau", value=float("nan")).suggestion
    assert found.rho == "auto"
    assert "plain steps until the loss falls: after 30 steps" in found.message
    unknown = replace(report, margin=undefined_margin("x")).suggestion
    assert "not known" in unknown.message
    assert replace(report, margin=None).suggest_rho() == "auto"


def test_sam_takes_what_is_suggested(report):
    model = nn.Linear(6, 2)
    assert SAM(model, torch.optim.SGD, lr=0.1, rho=report.suggest_rho()).radii[0] == report.suggest_rho()
    assert SAM(model, torch.optim.SGD, lr=0.1, rho=replace(report, margin=None).suggest_rho()).rho_history.empty


def test_it_is_saved_and_older_reports_load(report, tmp_path):
    report.save(tmp_path / "a")
    assert Report.load(tmp_path / "a").margin == report.margin
    texts = report.to_texts()
    texts["report.json"] = texts["report.json"].replace('"margin"', '"another"', 1)
    assert Report.from_texts(texts).margin is None


def test_the_plateau_of_any_loss_is_found_or_given(data):
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    pairs = [(inputs, inputs[:, :1] * 3) for inputs, _ in data]

    def squared(model, batch):
        return F.mse_loss(model(batch[0]), batch[1], reduction="none").mean(1)

    def own(model, batch):
        return (model(batch[0]) - batch[1]).abs().pow(1.5).mean(1)

    targets = torch.cat([target for _, target in pairs])
    found = estimate_cor(model, pairs, loss_fn=squared, progress=False).margin
    assert found.plateau_loss == pytest.approx(float(targets.var(unbiased=False)), rel=1e-4)
    unknown = probe(model, pairs, loss_fn=own, steps=0, measurements=1, progress=False)
    assert unknown.margin.status == "undefined"
    assert "plateau_loss=number" in unknown.margin.message
    given = probe(model, pairs, loss_fn=own, steps=40, measurements=2, lr=0.1, plateau_loss=9.0, progress=False)
    assert given.margin.status == "ok"
    assert given.margin.plateau_loss == 9.0
    with pytest.raises(ProbeError, match="expected plateau_loss to be"):
        probe(model, pairs, loss_fn=own, plateau_loss=-1.0)
