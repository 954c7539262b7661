"""Which engine served what, as a report tells it."""

import numpy as np
import pytest
import torch
from torch import nn

from gsnr_toolkit import ProbeError, estimate_gsnr
from gsnr_toolkit.errors import MixedSamplesError
from tests.support.cases import TinyViT

SUMMARIES = ["gsnr_param_median", "gsnr_param_p95", "gsnr_param_above_floor", "zero_variance"]


def _images(count=24, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 8, 8, generator=generator, dtype=dtype)
    labels = (images.mean((1, 2, 3)) > 0).long()
    return list(zip(images.split(7), labels.split(7), strict=True))


def _vectors(count=24):
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = (inputs[:, 0] > 0).long()
    return list(zip(inputs.split(8), labels.split(8), strict=True))


@pytest.mark.parametrize("engine", ["taps", "vmap", "loop"])
def test_group_level_moments_give_the_same_report(engine):
    model = TinyViT().double()
    fine, coarse = (
        estimate_gsnr(model, _images(), engine=engine, detail=detail, progress=False)
        for detail in ("parameter", "group")
    )
    for table in ("layers", "totals"):
        ours, theirs = getattr(coarse, table), getattr(fine, table)
        assert theirs[SUMMARIES].notna().all(axis=None)
        assert ours[SUMMARIES].isna().all(axis=None)
        assert list(ours.columns) == list(theirs.columns)
        for column in ("gsnr", "gsnr_low", "gsnr_high", "gsnr_plugin", "trace_covariance"):
            np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-6, err_msg=column)
    assert coarse.coverage == fine.coverage


def test_full_coverage_is_a_sentence():
    model = TinyViT().double()
    report = estimate_gsnr(model, _images(), progress=False)
    total = sum(param.numel() for param in model.parameters())
    tensors = len(list(model.parameters()))
    assert report.coverage["engine"] == {"taps": total}
    assert report.coverage["share"] == 1.0
    assert report.coverage["sentence"] == (
        f"{total:,} parameters in {tensors} tensors, each in exactly one of {len(report.layers)} groups; "
        "100 % by the taps engine"
    )
    assert not report.notes


class Floor(nn.Module):
    """A parameter that meets samples in an operation without a rule."""

    def __init__(self, wide=6):
        super().__init__()
        self.inner, self.floor = nn.Linear(6, wide).double(), nn.Parameter(-torch.ones(wide, dtype=torch.float64))
        self.head = nn.Linear(wide, 1).double()

    def forward(self, x):
        return self.head(torch.maximum(self.inner(x), self.floor))


def test_partial_coverage_names_both_engines():
    report = estimate_gsnr(Floor(), _vectors(), progress=False)
    assert report.coverage["engine"] == {"taps": 49, "vmap": 6}
    assert report.coverage["sentence"].endswith("groups; 89.1 % by the taps engine, 10.9 % by the vmap engine")
    (note,) = report.notes
    assert note == "1 parameters, first 'floor', were measured by another engine than taps: no rule for Maximum"
    loop = estimate_gsnr(Floor(), _vectors(), engine="loop", progress=False)
    assert loop.coverage["sentence"].endswith("100 % by the loop engine")


class Odd(nn.Linear):
    """Refuses what a plan is made on."""

    def forward(self, x):
        if len(x) == 3:
            raise RuntimeError("three is a crowd\nand more lines")
        return super().forward(x)


def test_what_taps_cannot_follow_is_a_sentence_or_a_note():
    model = Odd(6, 1).double()
    with pytest.raises(
        ProbeError, match=r"taps engine cannot follow this model \(three is a crowd\); pass engine='auto' or 'loop'"
    ):
        estimate_gsnr(model, _vectors(), engine="taps", progress=False)
    report = estimate_gsnr(model, _vectors(), progress=False)
    assert report.notes == ("engine: not by taps, since three is a crowd",)
    assert report.coverage["engine"] == {"vmap": 7}


class MostlyFloor(nn.Module):
    """More than half of the parameters have no rule."""

    def __init__(self):
        super().__init__()
        self.floor = nn.Parameter(-torch.ones(6, dtype=torch.float64))
        self.head = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x):
        return torch.maximum(x, self.floor).sum(1) * self.head


def test_too_little_for_taps_goes_to_another_engine_as_a_whole():
    report = estimate_gsnr(MostlyFloor(), _vectors(), progress=False)
    assert report.notes == ("engine: not by taps, since its rules cover 14% of the parameters only",)
    assert report.coverage["engine"] == {"vmap": 7}
    asked = estimate_gsnr(MostlyFloor(), _vectors(), engine="taps", progress=False)
    assert asked.coverage["engine"] == {"taps": 1, "vmap": 6}
    np.testing.assert_allclose(asked.total["gsnr"], report.total["gsnr"], rtol=1e-10)


class Branching(nn.Linear):
    """Looks at values, which vmap cannot, and refuses three samples."""

    def forward(self, x):
        if len(x) == 3:
            raise RuntimeError("three is a crowd")
        return super().forward(x) * (1.0 if float(x[0, 0]) > -100 else 2.0)


def test_what_neither_can_follow_is_looped():
    model = Branching(6, 1).double()
    report = estimate_gsnr(model, _vectors(), progress=False)
    first, second = report.notes
    assert first == "engine: not by taps, since three is a crowd"
    assert second.startswith("engine: one backward per sample, since the vmap engine cannot vectorise this model")
    assert report.coverage["engine"] == {"loop": 7}
    with pytest.raises(ProbeError, match=r"vmap engine cannot vectorise this model .*; pass engine='loop'"):
        estimate_gsnr(model, _vectors(), engine="vmap", progress=False)


def test_trouble_of_the_model_itself_is_raised_as_it_is():
    class Broken(nn.Linear):
        def forward(self, x):
            if x.requires_grad or torch.is_grad_enabled():
                raise RuntimeError("my own trouble")
            return super().forward(x)

    for engine in ("auto", "taps", "vmap"):
        with pytest.raises(RuntimeError, match="my own trouble"):
            estimate_gsnr(Broken(6, 1).double(), _vectors(), engine=engine, progress=False)


class CentredNoise(nn.Module):
    """Mixes samples where random numbers hide it from a comparison of losses."""

    def __init__(self):
        super().__init__()
        self.inner, self.noise, self.head = nn.Linear(6, 5).double(), nn.Dropout(0.5), nn.Linear(5, 1).double()

    def forward(self, x):
        hidden = self.inner(x)
        return self.head(self.noise(hidden - hidden.mean(0)))


@pytest.mark.parametrize("engine", ["auto", "taps"])
def test_mixed_samples_are_no_reason_for_another_engine(engine):
    with pytest.raises(MixedSamplesError, match="does not depend on the rest of the batch"):
        estimate_gsnr(CentredNoise().train(), _vectors(), engine=engine, progress=False)


class Restless(nn.Linear):
    """Another graph at every run, and always the same numbers."""

    runs = 0

    def forward(self, x):
        self.runs += 1
        outputs = super().forward(x)
        for _ in range(2 * self.runs):
            outputs = outputs.neg()
        return outputs


def test_a_graph_that_never_stays_the_same_is_left_to_another_engine():
    report = estimate_gsnr(Restless(6, 1).double(), _vectors(), progress=False)
    assert "changed from one run to the next" in report.notes[0]
    assert "taps" not in report.coverage["engine"]
