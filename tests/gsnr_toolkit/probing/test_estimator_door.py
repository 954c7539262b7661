"""A further estimator is a function in a file of its own and a row of ``COLUMNS``: what CONTRIBUTING.md shows."""

import numpy as np
import pytest
import torch
from torch import nn

from gsnr_toolkit import Report, estimate_cor, estimate_gsnr
from gsnr_toolkit.estimators.estimates import COLUMNS


def gradient_snr_db(evidence, gsnr):
    """GSNR in decibels, NaN where the corrected GSNR is not positive."""
    assert len(gsnr.gsnr) == len(evidence.members) + 1  # every group, then the whole model
    return 10 * np.log10(np.where(gsnr.gsnr > 0, gsnr.gsnr, np.nan))


@pytest.fixture
def batches():
    inputs = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    return [(inputs, (inputs[:, 0] > 0).long())]


@pytest.mark.parametrize("call", [estimate_gsnr, estimate_cor])
def test_a_new_estimator_is_a_column_of_every_report(call, batches, monkeypatch, tmp_path):
    monkeypatch.setitem(COLUMNS, "gradient_snr_db", gradient_snr_db)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    report = call(model, batches, groups="module", progress=False)
    for table in (report.layers, report.totals):
        np.testing.assert_allclose(10 ** (table["gradient_snr_db"] / 10), table["gsnr"].where(table["gsnr"] > 0))
    report.save(tmp_path)
    assert "gradient_snr_db" in Report.load(tmp_path).layers.columns


def test_an_estimator_that_was_not_measured_is_no_column(batches, monkeypatch):
    monkeypatch.setitem(COLUMNS, "not_measured", lambda evidence, gsnr: None)
    assert "not_measured" not in estimate_gsnr(nn.Linear(5, 1), batches, progress=False).layers.columns
    assert "lipschitz_radius" not in estimate_cor(nn.Linear(5, 1), batches, progress=False).layers.columns
