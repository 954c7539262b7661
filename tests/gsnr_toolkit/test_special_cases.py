"""Special circumstances through the front door: measured, measured by another engine with a note, or refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gsnr_toolkit import estimate_cor, estimate_gsnr, probe
from gsnr_toolkit.checks import check_independent
from gsnr_toolkit.distributed import Ranks
from gsnr_toolkit.errors import NonDeterministicError, ProbeError
from gsnr_toolkit.estimators.rows import plan_rows
from gsnr_toolkit.estimators.shards import ShardCollector
from gsnr_toolkit.gradients.functional import GradientTask, trainable_params
from gsnr_toolkit.gradients.select import make_engine
from gsnr_toolkit.groups import assign_groups
from gsnr_toolkit.losses import inferred_loss
from gsnr_toolkit.moment_pass import MomentPass
from gsnr_toolkit.moments import Moments

N = 192
"""Enough for shards of several samples: single ones are always done by a backward of their own."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _data(dtype=torch.float32):
    inputs = torch.randn(N, 6, dtype=dtype)
    return inputs, (inputs[:, 0] + inputs[:, 1] > 0).long() + (inputs[:, 2] > 0.5).long()


def _mlp(*between):
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), *between, nn.Linear(8, 3))


def _gsnr(model, batch=None, **options):
    return estimate_gsnr(model, [batch or _data()], progress=False, **options)


def _assert_like_loop(model, batch=None, rel=1e-5, **options):
    batch = batch or _data()
    expected = _gsnr(model, batch, engine="loop", **options)
    found = _gsnr(model, batch, **options)
    assert found.layers["gsnr"].tolist() == pytest.approx(expected.layers["gsnr"].tolist(), rel=rel, nan_ok=True)
    return found


# ---- half precision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_in_the_loss(dtype):
    def loss_fn(model, batch):
        with torch.autocast("cpu", dtype=dtype):
            return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    model, batch = _mlp(nn.LayerNorm(8)), _data()
    exact = _gsnr(model, batch)
    found = _assert_like_loop(model, batch, loss_fn=loss_fn, rel=0.02)
    assert list(found.coverage["engine"]) == ["taps"]
    assert found.total["gsnr"] == pytest.approx(exact.total["gsnr"], rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype):
    model, (inputs, labels) = _mlp(nn.LayerNorm(8)), _data()
    exact = _gsnr(model, (inputs, labels))
    found = _assert_like_loop(model.to(dtype), (inputs.to(dtype), labels), rel=0.02)
    assert list(found.coverage["engine"]) == ["taps"]
    assert found.total["gsnr"] == pytest.approx(exact.total["gsnr"], rel=0.1)
    with pytest.raises(ProbeError, match=r"float32 or float64 to measure COR"):
        estimate_cor(model, [(inputs.to(dtype), labels)], progress=False)


def test_rounding_under_autocast_is_not_taken_for_mixing():
    class Rounding(nn.Module):
        """As another kernel might: alone a sample is rounded, in a batch it is not."""

        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 3)

        def forward(self, x, cast=True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
                return self.inner(x) * (1 if len(x) > 1 else 1.005)

    model, batch = Rounding(), _data()
    params = trainable_params(model)
    check_independent(GradientTask(model, params, inferred_loss), batch, seed=0)
    plain = GradientTask(model, params, lambda m, b: F.cross_entropy(m(b[0], cast=False), b[1], reduction="none"))
    with pytest.raises(ProbeError, match="does not depend on the rest of the batch"):
        check_independent(plain, batch, seed=0)


def test_autocast_around_the_probe_is_refused():
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ProbeError, match=r"autocast inside.*into loss_fn"):
        _gsnr(_mlp())


# ---- checkpointing -------------------------------------------------------------------------------------------------


class _Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.a, self.b, self.c, self.reentrant = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3), reentrant

    def forward(self, x):
        def middle(h):
            return torch.tanh(self.b(h))

        h = torch.tanh(self.a(x))
        return self.c(middle(h) if self.reentrant is None else checkpoint(middle, h, use_reentrant=self.reentrant))


def test_checkpointed_models_are_done_by_the_loop_with_a_note():
    model, plain, batch = _Checkpointed(False), _Checkpointed(None), _data()
    plain.load_state_dict(model.state_dict())
    found, expected = _gsnr(model, batch), _gsnr(plain, batch)
    assert found.total["gsnr"] == pytest.approx(expected.total["gsnr"], rel=1e-5)
    assert list(found.coverage["engine"]) == ["loop"]
    assert any("not by taps, since" in note and "activation checkpointing" in note for note in found.notes)
    for engine in ("taps", "vmap"):
        with pytest.raises(ProbeError, match=r"engine.*pass engine="):
            _gsnr(model, batch, engine=engine)
    with pytest.raises(ProbeError, match=r"taps engine.*gradient_checkpointing_disable\(\)"):
        _gsnr(model, batch, engine="taps")


def test_cor_of_a_checkpointed_model_is_that_of_the_model():
    model, plain, batch = _Checkpointed(False), _Checkpointed(None), _data()
    plain.load_state_dict(model.state_dict())
    found, expected = (estimate_cor(m, [batch], batch_size=24, engine="loop", progress=False) for m in (model, plain))
    assert found.drift["drift"].tolist() == pytest.approx(expected.drift["drift"].tolist(), rel=1e-4)


def test_reentrant_checkpointing_is_refused():
    with pytest.raises(ProbeError, match=r"reentrant activation checkpointing.*use_reentrant=False"):
        _gsnr(_Checkpointed(True))


def _timm():
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, embed_dim=12, num_heads=2, num_classes=1
    )


def _open_clip():
    from open_clip.transformer import VisionTransformer

    tower = VisionTransformer(image_size=16, patch_size=8, width=8, layers=2, heads=2, mlp_ratio=2.0, output_dim=6)
    model = nn.Sequential(tower, nn.Linear(6, 1))
    model.set_grad_checkpointing = tower.set_grad_checkpointing
    return model


def _transformers():
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"image_size": 16, "patch_size": 8, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = ViTForImageClassification(
        ViTConfig(**sizes, intermediate_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ).train()
    model.set_grad_checkpointing = lambda: model.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    return model


@pytest.mark.parametrize("make", [_timm, _open_clip, _transformers])
def test_checkpointing_switches_of_libraries(make):
    model, batch = make(), (torch.randn(24, 3, 16, 16), torch.arange(24) % 2)
    expected = _gsnr(model, batch)
    assert list(expected.coverage["engine"]) == ["taps"]
    model.set_grad_checkpointing()
    found = _gsnr(model, batch)
    assert list(found.coverage["engine"]) == ["loop"]
    assert any("checkpointing" in note for note in found.notes)
    assert found.total["gsnr"] == pytest.approx(expected.total["gsnr"], rel=1e-4)


# ---- compiled and scripted modules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models_are_measured_uncompiled(backend):
    model, batch = _mlp(), _data()
    expected = _gsnr(model, batch)
    found = _gsnr(torch.compile(model, backend=backend), batch)
    assert found.layers["gsnr"].tolist() == expected.layers["gsnr"].tolist()
    assert found.notes == ("compiled model: its uncompiled module was measured", *expected.notes)
    assert found.groups == expected.groups
    report = probe(torch.compile(model, backend=backend), [batch], steps=2, measurements=2, progress=False)
    assert "compiled model: its uncompiled module was measured" in report.notes


def test_compiled_parts_and_models_compiled_in_place():
    model, batch = _mlp(), _data()
    expected = _gsnr(model, batch)
    parts = copy.deepcopy(model)
    parts[0] = torch.compile(parts[0], backend="aot_eager")
    parts[0](batch[0])  # compiled before
    whole = copy.deepcopy(model)
    whole.compile(backend="aot_eager")
    for other in (parts, whole):
        found = _gsnr(other, batch)
        assert found.total["gsnr"] == pytest.approx(expected.total["gsnr"], rel=1e-6)
        assert list(found.coverage["engine"]) == ["taps"]
        assert any("were run uncompiled" in note for note in found.notes)


def test_scripted_modules_are_refused_wherever_they_are():
    scripted = torch.jit.script(nn.Linear(6, 6))
    for model in (scripted, nn.Sequential(nn.Linear(6, 6), scripted)):
        with pytest.raises(ProbeError, match=r"scripted or traced.*as it was before torch\.jit"):
            _gsnr(model)


# ---- dropout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["taps", "loop"])
def test_samples_of_one_batch_draw_different_masks(engine):
    """The same sample again and again: all spread is dropout's, and no shard may repeat another's masks."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(60, 3, bias=False))
    batch = (torch.ones(96, 60), torch.zeros(96, dtype=torch.long))
    task = GradientTask(model, trainable_params(model), inferred_loss)
    seen = []

    class Watched(Moments):
        def absorb(self, other):
            seen.append(tuple(other.mean["1.weight"].flatten().tolist()))
            super().absorb(other)

    def run(batches):
        plan = plan_rows(task.params, assign_groups(model, task.params, "block"), num_rows=1, seed=0)
        work = MomentPass(task, make_engine(engine), 4, 0, Watched)
        work.run(batches, ShardCollector(plan, size=4), lambda _: None, Ranks())

    run([batch])
    assert len(seen) >= 8
    assert len(set(seen)) == len(seen)


def test_dropout_and_drop_path_are_noted_and_eval_mode_is_not():
    from torchvision.ops import StochasticDepth

    batch = _data()
    found = _gsnr(_mlp(nn.Dropout(0.2)), batch)
    assert list(found.coverage["engine"]) == ["taps"]
    assert any("dropout is active ('2' and 0 more)" in note for note in found.notes)
    found = _gsnr(_mlp(StochasticDepth(0.2, "row")), batch)
    assert any("dropout is active ('2' and 0 more)" in note for note in found.notes)
    for silent in (_mlp(nn.Dropout(0.2)).eval(), _mlp(nn.Dropout(0.0)), _mlp(StochasticDepth(0.2, "row")).eval()):
        assert not any("dropout" in note for note in _gsnr(silent, batch).notes)


# ---- mixed samples, overwritten activations --------------------------------------------------------------------------


def _losses(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def _contrastive(model, batch):
    z = F.normalize(model(batch[0]), dim=1)
    return F.cross_entropy(5 * z @ z.t(), torch.arange(len(z)), reduction="none")


MIXING = {
    "contrastive": _contrastive,
    "divided by the batch's size": lambda model, batch: _losses(model, batch) / len(batch[1]),
    "divided by the batch's mean": lambda model, batch: (lambda v: v / v.detach().mean())(_losses(model, batch)),
    "batch statistics": lambda model, batch: _losses(model, ((batch[0] - batch[0].mean(0)), batch[1])),
}


@pytest.mark.parametrize("engine", ["auto", "taps", "loop"])
@pytest.mark.parametrize("name", MIXING)
def test_losses_that_mix_samples_are_refused_with_dropout_on(name, engine):
    with pytest.raises(ProbeError, match="row i needs sample i only"):
        _gsnr(_mlp(nn.Dropout(0.2)), loss_fn=MIXING[name], engine=engine)


def test_the_check_for_mixing_leaves_the_modes_as_they_were():
    model = _mlp(nn.Dropout(0.2))
    model[0].eval()
    _gsnr(model)
    assert [module.training for module in model] == [False, True, True, True]


def test_overwritten_activations_are_a_sentence():
    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            h = self.a(x)
            out = self.b(h)
            h.mul_(2)
            return out

    with pytest.raises(ProbeError, match=r"overwrites in place"):
        _gsnr(Overwriting())


# ---- everything else -----------------------------------------------------------------------------------------------


def test_silent_parameters_are_named():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.b(x + self.a(x).detach())

    with pytest.warns(match="undefined"):
        report = _gsnr(Detached())
    assert any("2 of 4 parameters" in note and "first 'a.weight'" in note for note in report.notes)


def test_complex_activations_are_measured_and_complex_parameters_refused():
    class Filter(nn.Module):
        def __init__(self, complex_weight):
            super().__init__()
            weight = torch.randn(4, 2)
            self.weight = nn.Parameter(torch.view_as_complex(weight) if complex_weight else weight)
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            weight = self.weight if self.weight.is_complex() else torch.view_as_complex(self.weight)
            return self.b(torch.fft.irfft(torch.fft.rfft(self.a(x)) * weight, n=6))

    found = _assert_like_loop(Filter(complex_weight=False))
    assert any("first 'weight'" in note and "complex numbers" in note for note in found.notes)
    with pytest.raises(ProbeError, match="complex64 for 'weight'"):
        _gsnr(Filter(complex_weight=True))


def test_nested_and_packed_batches_are_sentences():
    rows = torch.nested.nested_tensor([torch.randn(2 + i % 2, 6) for i in range(8)], layout=torch.jagged)
    with pytest.raises(ProbeError, match=r"got a nested \(jagged\) one; pad it"):
        _gsnr(nn.Linear(6, 3), (rows, torch.arange(8) % 3))
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 6), torch.randn(2, 6)])
    with pytest.raises(ProbeError, match="got a PackedSequence; pass padded"):
        _gsnr(nn.LSTM(6, 3), (packed, torch.tensor([0, 1])))


def test_losses_that_differentiate_and_hooks_on_tensors():
    def penalised(model, batch):
        inputs = batch[0].detach().requires_grad_()
        logits = model(inputs)
        (slope,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
        return F.cross_entropy(logits, batch[1], reduction="none") + slope.square().sum(1)

    class Hooked(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            y.register_hook(lambda grad: 2 * grad)
            return y

    assert list(_assert_like_loop(_mlp(), loss_fn=penalised).coverage["engine"]) == ["taps"]
    assert list(_assert_like_loop(nn.Sequential(Hooked(6, 6), nn.Tanh(), nn.Linear(6, 3))).coverage["engine"]) == [
        "taps"
    ]


def test_a_power_iteration_that_moves_is_refused():
    model = nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Linear(6, 40), n_power_iterations=1))
    with torch.no_grad():
        model[0].parametrizations.weight[0]._u.copy_(F.normalize(torch.randn(40), dim=0))
        model[0].parametrizations.weight[0]._v.copy_(F.normalize(torch.randn(6), dim=0))
    with pytest.raises(NonDeterministicError, match=r"state that survives a forward pass.*model\.eval\(\)"):
        _gsnr(model)
    assert _gsnr(model.eval()).total["num_samples"] == N


@pytest.mark.parametrize("detail", ["parameter", "group"])
def test_parameters_without_entries(detail):
    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.none, self.head = nn.Parameter(torch.zeros(6, 0)), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.cat([x, x @ self.none], 1))

    assert list(_assert_like_loop(Empty(), detail=detail).coverage["engine"]) == ["taps"]


def test_a_last_batch_of_one_row_and_a_model_that_squeezes():
    class Squeezing(nn.Linear):
        def forward(self, x):
            return super().forward(x.squeeze()).squeeze()

    model, (inputs, labels) = Squeezing(6, 1).eval(), _data()
    batches = [(inputs[start : start + 50], labels[start : start + 50].clamp(max=1)) for start in (0, 50, 100)]
    batches.append((inputs[150:151], labels[150:151].clamp(max=1)))
    found, expected = (estimate_gsnr(model, batches, engine=engine, progress=False) for engine in ("taps", "loop"))
    assert found.total["gsnr"] == pytest.approx(expected.total["gsnr"], rel=1e-5)
    assert found.total["num_samples"] == expected.total["num_samples"] == 151
