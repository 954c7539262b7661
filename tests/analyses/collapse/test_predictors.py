import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from analyses.collapse.predictors import RADII, _first_below, _slope, cosines, escape_lower, read_predictors
from gsnr_toolkit import estimate_cor, probe


def _curve(**columns):
    return pd.DataFrame(columns)


def test_the_cosine_is_that_of_the_two_vectors():
    rng = np.random.default_rng(0)
    mu, drift = rng.normal(size=7), rng.normal(size=(3, 7))
    ascended = mu + drift
    relative = ascended @ mu / (mu @ mu)
    curve = _curve(
        grad_norm=[np.linalg.norm(mu)] * 3, drift=np.linalg.norm(drift, axis=1), alignment=relative, rho=[1, 2, 3]
    )
    expected = ascended @ mu / np.linalg.norm(mu) / np.linalg.norm(ascended, axis=1)
    np.testing.assert_allclose(cosines(curve), expected)


def test_the_crossing_lies_between_the_radii_tried():
    # unit vectors: the cosine is the alignment, and |drift|^2 = 2 - 2 cos
    cosine = np.array([0.9, 0.7, 0.3, -0.2])
    curve = _curve(grad_norm=[1.0] * 4, drift=np.sqrt(2 - 2 * cosine), alignment=cosine, rho=[0.01, 0.04, 0.16, 0.64])
    assert _first_below(curve, 0.5) == pytest.approx(0.08)
    assert _first_below(curve, -0.5) == math.inf
    assert _first_below(curve, 0.95) == 0.01


def test_candidates_of_a_probe_are_the_reports_own():
    inputs = torch.randn(128, 5, generator=torch.Generator().manual_seed(0))
    batches = [(inputs, (inputs[:, 0] + inputs[:, 1].abs() > 1).long())]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    report = probe(model, batches, steps=8, measurements=3, lr=0.05, batch_size=8, progress=False)
    found = read_predictors(report, learning_rate=0.05)
    assert set(RADII) <= found.keys()
    assert found["cor"] == report.cor
    at = report.totals.loc[report.totals["cor"].idxmin()]
    assert found["cor_step"] == at["step"]
    assert found["cor_layer"] == report.layers["cor"].min()
    assert found["cor"] <= found["alignment_radius"]
    assert found["gsnr"] == at["gsnr"]
    assert math.isnan(found["lipschitz_radius"])  # no second record
    assert found["escape_lower"] == pytest.approx(report.escape.bound, rel=0.02) or math.isnan(report.escape.bound)
    lower = escape_lower(report.trajectory, below_plateau=True)
    assert lower == pytest.approx(report.escape.bound, rel=0.02, nan_ok=True)


def test_the_lanczos_radius_is_that_of_the_second_record():
    inputs = torch.randn(128, 5, generator=torch.Generator().manual_seed(0))
    batches = [(inputs, (inputs[:, 0] > 0).long())]
    torch.manual_seed(0)
    model = nn.Linear(5, 1)
    report = estimate_cor(model, batches, batch_size=8, lipschitz=True, progress=False)
    found = read_predictors(report, learning_rate=0.05, second=report)
    assert found["lipschitz_radius"] == report.total["lipschitz_radius"]
    # a logistic model's Hessian in closed form
    weighted = torch.cat([inputs, torch.ones(128, 1)], 1)
    chance = torch.sigmoid(model(inputs)).detach()
    hessian = (weighted * chance * (1 - chance)).T @ weighted / 128
    expected = report.total["grad_norm"] / float(torch.linalg.eigvalsh(hessian)[-1])
    assert found["lipschitz_radius"] == pytest.approx(expected, rel=0.02)


def test_the_edge_of_stability_solves_its_equation():
    from analyses.collapse.predictors import _sam_edge

    norm, curvature, rate = 2.0, 3.0, 0.1
    rho = _sam_edge(norm, curvature, rate)
    # Long & Bartlett (2024): curvature at the edge of SAM with full-batch gradient descent
    edge = norm / (2 * rho) * (math.sqrt(1 + 8 * rho / (rate * norm)) - 1)
    assert edge == pytest.approx(curvature)
    assert _sam_edge(norm, 30.0, rate) == 0  # gradient descent itself is past its edge


def test_the_slope_is_taken_where_there_is_a_drift_above_its_noise():
    assert _slope(_curve(rho=[0.1, 0.2, 0.4], drift=[0.0, 0.6, 2.0])) == pytest.approx(3.0)
    assert math.isnan(_slope(_curve(rho=[0.1, 0.2], drift=[0.0, 0.0])))


def test_the_bound_of_a_run_on_the_plateau_is_small_or_undefined():
    run = _curve(loss=[0.7, 0.692], batch_grad_norm=[1.0, 2.0])
    assert escape_lower(run, below_plateau=False) == pytest.approx((math.log(2) - 0.692) / 2)
    assert math.isnan(escape_lower(run, below_plateau=True))
