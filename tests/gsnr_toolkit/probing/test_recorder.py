import pandas as pd
import pytest
import torch
from torch import nn

from gsnr_toolkit import Recorder, estimate_cor, probe
from gsnr_toolkit.errors import ProbeError

OPTIONS = {"batch_size": 8, "radii": (0.01, 0.1, 1.0)}
EXACT = ["gsnr", "cor", "cor_low", "cor_high", "grad_norm", "trace_covariance"]


def _batches():
    inputs = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    labels = (inputs[:, 0] + inputs[:, 1].abs() > 1).long()
    return [(inputs[i : i + 8], labels[i : i + 8]) for i in range(0, 64, 8)]


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1))


def _run(model, steps, recorder=None, start=0):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    batches = _batches()
    for step in range(start, steps):
        if recorder is not None:
            recorder(step)
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y.float()).backward()
        optimizer.step()
    return model


def test_training_is_not_changed_by_being_recorded():
    torch.manual_seed(1)
    plain = _run(_model(), 5)
    model = _model()
    recorder = Recorder(model, _batches(), every=1, **OPTIONS)
    torch.manual_seed(1)
    _model()
    recorded = _run(model, 5, recorder)
    for one, other in zip(plain.parameters(), recorded.parameters(), strict=True):
        assert torch.equal(one, other)
    state = torch.get_rng_state()
    recorder.measure(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_gsnr_alone_is_the_same_gsnr_without_a_radius():
    both, alone = (Recorder(_model(), _batches(), cor=cor, **OPTIONS) for cor in (True, False))
    for recorder in (both, alone):
        recorder.measure(0)
    assert alone.report.totals["gsnr"].tolist() == both.report.totals["gsnr"].tolist()
    assert alone.report.layers["gsnr"].tolist() == both.report.layers["gsnr"].tolist()
    assert "cor" not in alone.report.totals
    assert alone.report.drift.empty
    assert alone.report.escape.status == "undefined"
    fresh = Recorder(_model(), _batches(), cor=False, **OPTIONS)
    fresh.load_state_dict(alone.state_dict())
    assert fresh.report.totals["gsnr"].tolist() == alone.report.totals["gsnr"].tolist()


def test_each_step_is_what_estimate_cor_says_of_the_model_then():
    model = _model()
    recorder = Recorder(model, _batches(), every=[0, 3], **OPTIONS)
    found = []
    for step in range(4):
        if step in (0, 3):
            found.append(estimate_cor(model.eval(), _batches(), progress=False, **OPTIONS))
            model.train()
        assert (recorder(step) is None) == (step not in (0, 3))
        _run(model, step + 1, start=step)
    totals = recorder.report.totals
    assert totals["step"].tolist() == [0, 3]
    expected = pd.concat([report.totals for report in found], ignore_index=True)
    pd.testing.assert_frame_equal(totals[EXACT], expected[EXACT], rtol=1e-6)
    assert model.training


def test_it_and_probe_agree_on_the_escape_radius():
    model = _model().eval()
    report = probe(model, _batches(), steps=4, measurements=2, lr=0.05, progress=False, **OPTIONS)
    recorder = Recorder(model, _batches(), every=4, **OPTIONS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    for step in range(5):
        recorder(step)
        x, y = _batches()[step]
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y.float()).backward()
        optimizer.step()
    assert recorder.report.escape.value == pytest.approx(report.escape.value, rel=1e-6)


def test_a_saved_recorder_goes_on_as_if_nothing_had_happened(tmp_path):
    model = _model()
    recorder = Recorder(model, _batches(), every=2, **OPTIONS)
    recorder(0)
    torch.save(recorder.state_dict(), tmp_path / "state.pt")
    later = Recorder(model, _batches(), every=2, **OPTIONS)
    later.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    _run(model, 2)
    for one in (recorder, later):
        one(1)
        one(2)
    assert later.steps == recorder.steps == [0, 2]
    pd.testing.assert_frame_equal(later.report.layers, recorder.report.layers)
    pd.testing.assert_frame_equal(later.report.drift, recorder.report.drift)
    assert repr(later.report.escape) == repr(recorder.report.escape)  # NaN differs from itself


def test_when_to_measure():
    model = _model()
    recorder = Recorder(model, _batches(), every=lambda step: step == 1, **OPTIONS)
    assert recorder(0) is None
    with pytest.raises(ProbeError, match="expected a measurement before a report"):
        _ = recorder.report
    assert recorder(1) is not None
    assert recorder(1) is None  # the same step again, after a resumed run's first call
    with pytest.raises(ProbeError, match="expected a step after 1, the last one measured, got 0"):
        recorder.measure(0)
    with pytest.raises(ProbeError, match=r"expected every to be 1 step or more, got 0"):
        Recorder(model, _batches(), every=0)


@pytest.mark.parametrize("every", ["10", 2.0, None])
def test_what_is_no_schedule_is_refused(every):
    with pytest.raises(ProbeError, match=r"expected every to be a number of steps, .* pass every=50"):
        Recorder(nn.Linear(2, 1), [], every=every)


@pytest.mark.parametrize("model", [None, lambda x: x])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(ProbeError, match=r"expected a torch\.nn\.Module, got "):
        Recorder(model, [])


def test_a_model_that_is_refused_draws_no_samples():
    inputs = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    labels = (inputs[:, 0] > 0).long()

    class Batches:
        read = 0

        def __iter__(self):
            self.read += 1
            yield from ((inputs[i : i + 8] * 1, labels[i : i + 8]) for i in range(0, 64, 8))

    batches = Batches()
    recorder = Recorder(nn.Linear(5, 1), batches)
    with torch.inference_mode(), pytest.raises(ProbeError, match=r"outside torch\.inference_mode"):
        recorder(0)
    assert batches.read == 0
    assert recorder(0).total["num_samples"] == 64  # they are not held in inference mode
