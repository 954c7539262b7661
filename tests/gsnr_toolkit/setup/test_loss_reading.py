"""Reports name the loss that was measured, and say where targets may be scores."""

import io

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit import Report, estimate_cor, estimate_gsnr, probe
from gsnr_toolkit.report.console import show
from gsnr_toolkit.report.pages.probe import probe_page

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)).double()
LABELS = (X[:, 0] > 0).long()
SCORES = torch.sigmoid(X[:, 0])


def squared_error(model, batch):
    return F.mse_loss(model(batch[0]).squeeze(-1), batch[1], reduction="none")


class _Named(nn.Module):
    def forward(self, model, batch):
        return squared_error(model, batch)


@pytest.mark.parametrize(
    ("outputs", "labels", "loss_fn", "name", "noted"),
    [
        (1, LABELS, None, "binary cross-entropy of one output, inferred", False),
        (1, LABELS.double(), None, "binary cross-entropy of one output, inferred", False),
        (1, SCORES, None, "binary cross-entropy of one output, inferred", True),
        (3, LABELS, None, "cross-entropy of 3 classes, inferred", False),
        (1, SCORES, squared_error, "squared_error", False),
        (1, SCORES, _Named(), "_Named", False),
    ],
)
def test_the_report_names_its_loss(outputs, labels, loss_fn, name, noted):
    report = estimate_gsnr(nn.Linear(6, outputs).double(), [(X, labels)], loss_fn=loss_fn, progress=False)
    assert report.settings["loss"] == name
    assert any("scores to be regressed" in note for note in report.notes) == noted


def test_where_a_reader_sees_the_loss(tmp_path):
    batches = [(X[i : i + 8], SCORES[i : i + 8]) for i in range(0, 64, 8)]
    report = estimate_cor(nn.Linear(6, 1).double(), batches, loss_fn=squared_error, progress=False)
    out = io.StringIO()
    show(report, Console(file=out, width=120))
    assert "loss: squared_error" in out.getvalue()
    assert "loss: squared_error" in probe_page(report)
    report.save(tmp_path)
    assert Report.load(tmp_path).settings["loss"] == "squared_error"


def test_reports_of_older_versions_still_show():
    batches = [(X[i : i + 8], LABELS[i : i + 8]) for i in range(0, 64, 8)]
    report = probe(nn.Linear(6, 1).double(), batches, steps=2, measurements=2, progress=False)
    assert report.settings["loss"].startswith("binary cross-entropy")
    del report.settings["loss"]
    out = io.StringIO()
    show(report, Console(file=out, width=120))
    assert "loss:" not in out.getvalue()
    probe_page(report)
