import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from gsnr_toolkit import ProbeError, Report, estimate_cor, estimate_gsnr
from gsnr_toolkit.errors import NonFiniteError


def _data(n=96):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 6, generator=generator)
    return inputs, (inputs[:, 0] > 0).long()


class _Root(nn.Linear):
    """A square root whose derivative is infinite, times zero, where the first input is exactly zero."""

    def forward(self, x):
        hidden = super().forward(x)
        return hidden + torch.where(x[:, :1] == 0, (hidden * 0).abs().sqrt(), torch.zeros_like(hidden))


def test_a_gradient_that_is_not_finite_is_found_in_whatever_shard():
    inputs, labels = _data(17)
    inputs[0, 0] = 0.0
    with pytest.raises(NonFiniteError, match="first in 'weight' for batch 0"):
        estimate_gsnr(_Root(6, 1), [(inputs, labels)], engine="loop", progress=False)


def test_a_sampler_smaller_than_the_data_set_still_gives_shards():
    data = TensorDataset(*_data(2000))
    loader = DataLoader(data, batch_size=16, sampler=SubsetRandomSampler(range(128)))
    report = estimate_gsnr(nn.Linear(6, 1), loader, progress=False)
    assert report.total["num_samples"] == 128
    assert np.isfinite(report.total["gsnr_low"])


def test_an_iterable_of_unknown_length():
    inputs, labels = _data(100)
    batches = ((a, b) for a, b in zip(inputs.split(7), labels.split(7), strict=True))
    report = estimate_gsnr(nn.Linear(6, 1), batches, progress=False)
    assert report.total["num_samples"] == 100
    assert report.total["gsnr_low"] < report.total["gsnr"] < report.total["gsnr_high"]


def test_half_precision_is_refused_for_radii_and_taken_for_gsnr():
    model = nn.Linear(6, 1).bfloat16()
    loader = [(_data()[0].bfloat16(), _data()[1])]
    with pytest.raises(ProbeError, match=r"float32 or float64 to measure COR, got torch.bfloat16.*model.float\(\)"):
        estimate_cor(model, loader, progress=False)
    assert np.isfinite(estimate_gsnr(model, loader, progress=False).total["gsnr"])


def test_few_batches_are_noted():
    inputs, labels = _data()
    few = estimate_cor(nn.Linear(6, 1), [(inputs, labels)], batch_size=24, progress=False)
    assert any("rests on 4 mini-batches" in note for note in few.notes)
    assert not estimate_cor(nn.Linear(6, 1), [(inputs, labels)], batch_size=12, progress=False).notes


def test_group_functions_of_one_name_are_told_apart(tmp_path):
    inputs, labels = _data()
    first = estimate_gsnr(nn.Linear(6, 1), [(inputs, labels)], groups=lambda name: "all", progress=False)
    second = estimate_gsnr(nn.Linear(6, 1), [(inputs, labels)], groups=lambda name: name, progress=False)
    first.save(tmp_path)
    with pytest.raises(ProbeError, match="assignment"):
        second.save(tmp_path)


def test_numeric_group_names_stay_text(tmp_path):
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    report = estimate_gsnr(model, [_data()], groups=lambda name: name[0], progress=False)
    assert Report.load(report.save(tmp_path)).to_frame()["group"].tolist() == ["0", "2"]


def test_report_json_is_strict(tmp_path):
    report = estimate_gsnr(nn.Linear(6, 1), [_data()], progress=False)
    text = (report.save(tmp_path) / "report.json").read_text()
    assert "NaN" not in text
    assert '"cor": "nan"' in text


def test_a_radius_that_breaks_the_model_is_not_certified():
    """Past rho = 0.5 the ascent step pushes t below zero, and the loss to NaN."""

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.t = nn.Parameter(torch.tensor([0.5]))

        def forward(self, x):
            return x[:, :1] * torch.sqrt(self.t)

    inputs, labels = _data()
    report = estimate_cor(Scale(), [(inputs, labels)], rho=0.6, radii=[0.01, 0.1, 0.3, 1.0], progress=False)
    assert report.cor <= 0.5
    assert report.total["in_collapse_zone"]
