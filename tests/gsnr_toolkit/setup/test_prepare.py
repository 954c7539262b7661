import math

import pytest
import torch
from torch import nn

from gsnr_toolkit import ProbeError, estimate_cor, estimate_gsnr, probe
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.task import GradientTask, trainable_params
from gsnr_toolkit.inputs.device import find_device
from gsnr_toolkit.inputs.losses import inferred_loss, resolve_loss
from gsnr_toolkit.inputs.options import ProbeOptions
from gsnr_toolkit.setup.batch_guards import count_outputs
from gsnr_toolkit.setup.prepare import prepare
from tests.support.cases import TinyViT


def _data(n=32, features=4, seed=0):
    inputs = torch.randn(n, features, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs[:, 0] > 0).long()


def _loader(n=32, size=4):
    inputs, labels = _data(n)
    return list(zip(inputs.split(size), labels.split(size), strict=True))


# ---- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "change", "message"),
    [
        (1, lambda labels: 2 * labels - 1, r"\(labels \+ 1\) // 2"),
        (2, lambda labels: labels.float(), r"labels\.long\(\)"),
        (2, lambda labels: labels + 1, "give the model 3 outputs"),
        (2, lambda labels: torch.ones(len(labels), 2), "add up to 1"),
    ],
)
@pytest.mark.parametrize("call", [estimate_gsnr, estimate_cor])
def test_labels_that_the_inferred_loss_has_no_meaning_for(call, outputs, change, message):
    inputs, labels = _data()
    with pytest.raises(ProbeError, match=message):
        call(nn.Linear(4, outputs), [(inputs, change(labels))], progress=False)


def test_labels_are_looked_at_in_every_batch():
    batches = _loader()
    batches[5] = (batches[5][0], torch.full((4,), -1))
    with pytest.raises(ProbeError, match=r"labels 0 and 1 .*values \[-1\]"):
        estimate_gsnr(nn.Linear(4, 1), batches, progress=False)


def test_ones_own_loss_has_its_own_labels():
    def hinge(model, batch):
        return (1 - batch[1] * model(batch[0]).squeeze(1)).relu()

    inputs, labels = _data()
    report = estimate_gsnr(nn.Linear(4, 1), [(inputs, 2 * labels - 1)], loss_fn=hinge, progress=False)
    assert report.total["num_samples"] == 32


@pytest.mark.parametrize(("outputs", "squeeze"), [(1, False), (1, True), (3, False), (3, True)])
@pytest.mark.parametrize("rows", [1, 5])
def test_logits_are_counted_with_and_without_their_row(outputs, squeeze, rows):
    model = nn.Linear(4, outputs) if not squeeze else nn.Sequential(nn.Linear(4, outputs), _Squeeze())
    task = GradientTask(model, trainable_params(model), resolve_loss(None))
    assert count_outputs(task, _data(rows), seed=0) == outputs


class _Squeeze(nn.Module):
    def forward(self, x):
        return x.squeeze()


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_model_that_squeezes_measures_like_one_that_does_not(engine, outputs):
    model = nn.Linear(4, outputs)
    plain, squeezed = (
        estimate_gsnr(module, _loader(), engine=engine, progress=False)
        for module in (model, nn.Sequential(model, _Squeeze()))
    )
    assert squeezed.total["gsnr"] == pytest.approx(plain.total["gsnr"], rel=1e-6)


# ---- engines -----------------------------------------------------------------------------------------------------


class _Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell, self.head = kind(1, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.cell(x.unsqueeze(-1))[0][:, -1])


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_models_are_measured(kind):
    model = _Recurrent(kind)
    found, expected = (estimate_gsnr(model, _loader(), engine=e, progress=False) for e in ("auto", "loop"))
    assert found.total["gsnr"] == pytest.approx(expected.total["gsnr"], rel=1e-5)


def test_a_model_that_neither_taps_nor_vmap_can_do_is_done_by_the_loop_with_a_note(monkeypatch):
    model = _Recurrent(nn.GRU)

    def hidden(self, task, rows):
        raise RuntimeError("hidden from taps")

    monkeypatch.setattr(TapsEngine, "prepare", hidden)
    options = ProbeOptions(self_check=False)
    settled = prepare(model, _loader(), None, options, None, with_cor=False)
    assert list(settled.engine.shares(settled.task)) == ["loop"]
    assert settled.notes[0] == "engine: not by taps, since hidden from taps"
    assert "one backward per sample, since the vmap engine cannot vectorise this model" in settled.notes[1]
    with pytest.raises(ProbeError, match=r"cannot vectorise this model.*pass engine='loop'"):
        estimate_gsnr(model, _loader(), engine="vmap", progress=False)


def test_a_model_that_no_engine_can_do_keeps_its_own_error():
    class Picky(nn.Linear):
        def forward(self, x):
            if torch.is_grad_enabled():
                raise RuntimeError("my own trouble")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="my own trouble"):
        estimate_gsnr(Picky(4, 1), _loader(), progress=False)


@pytest.mark.parametrize("engine", ["auto", "taps", "vmap", "loop"])
def test_batches_may_hold_names_and_nothing(engine):
    class Model(nn.Linear):
        def forward(self, x, path, mask):
            assert isinstance(path, list)
            assert mask is None
            return super().forward(x)

    model = Model(4, 1)
    batches = [{"x": x, "labels": y, "path": ["a.png"] * len(y), "mask": None} for x, y in _loader()]
    report = estimate_cor(model, batches, engine=engine, progress=False)
    assert set(report.coverage["engine"]) == {"taps" if engine == "auto" else engine}
    plain = nn.Linear(4, 1)
    plain.load_state_dict(model.state_dict())
    expected = estimate_cor(plain, _loader(), progress=False).total["gsnr"]
    assert report.total["gsnr"] == pytest.approx(expected, rel=1e-5)


# ---- models and devices ------------------------------------------------------------------------------------------

CALLS = [estimate_gsnr, estimate_cor, lambda *a, **k: probe(*a, steps=2, measurements=2, **k)]


@pytest.mark.parametrize("call", CALLS)
def test_a_device_that_is_not_there(call):
    with pytest.raises(ProbeError, match=r"device of this machine, got 'foo'.*device='cpu'"):
        call(nn.Linear(4, 1), _loader(), device="foo", progress=False)
    if not torch.cuda.is_available():
        with pytest.raises(ProbeError, match="device of this machine, got 'cuda'"):
            find_device("cuda")


def test_a_training_run_needs_the_model_on_the_device():
    with pytest.raises(ProbeError, match=r"move the model with model\.to\('meta'\)"):
        probe(nn.Linear(4, 1), _loader(), device="meta", steps=2, progress=False)


@pytest.mark.parametrize("call", CALLS)
def test_lazy_parameters_and_inference_mode(call):
    with pytest.raises(ProbeError, match=r"lazy ones .*'weight' and 1 more.*run the model once"):
        call(nn.LazyLinear(1), _loader(), progress=False)
    with torch.inference_mode():
        inside = nn.Linear(4, 1)
        with pytest.raises(ProbeError, match=r"outside torch.inference_mode\(\), but it is on, .*; leave that block"):
            call(nn.Linear(4, 1), _loader(), progress=False)
    with pytest.raises(ProbeError, match=r"'weight' made in torch.inference_mode\(\)"):
        call(inside, _loader(), progress=False)


@pytest.mark.parametrize("call", CALLS)
def test_no_grad_around_a_probe_changes_nothing(call):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    expected = call(model, _loader(), progress=False).totals
    with torch.no_grad():
        found = call(model, _loader(), progress=False).totals
    assert found.equals(expected)


@pytest.mark.parametrize(
    "call", [estimate_gsnr, estimate_cor, lambda *a, **k: probe(*a, steps=0, **k)], ids=["gsnr", "cor", "probe"]
)
def test_a_frozen_encoder_has_a_readout(call):
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    data = [(images, (images.mean((1, 2, 3)) > 0).long())]
    torch.manual_seed(0)
    model = TinyViT()
    trainable = call(model, data, layerwise="readout", progress=False).layers["gsnr"].tolist()
    model.requires_grad_(False)
    report = call(model, data, layerwise="readout", progress=False)
    assert report.to_frame()["group"].tolist() == ["block 1", "block 2"]
    assert report.layers["gsnr"].tolist() == trainable
    assert all(math.isfinite(value) for value in trainable)
    assert not any(param.requires_grad for param in model.parameters())
    with pytest.raises(ProbeError, match="at least one trainable parameter"):
        call(model, data, loss_fn=inferred_loss, progress=False)
