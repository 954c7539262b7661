"""Autocast and half precision, checkpointed, compiled and scripted models, through the front door."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gsnr_toolkit import estimate_cor, probe
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.task import GradientTask, trainable_params
from gsnr_toolkit.inputs.losses import inferred_loss
from gsnr_toolkit.setup.batch_guards import check_independent
from tests.support.front_door import assert_like_loop, gsnr, three_class_mlp, three_classes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_in_the_loss(dtype):
    def loss_fn(model, batch):
        with torch.autocast("cpu", dtype=dtype):
            return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    model, batch = three_class_mlp(nn.LayerNorm(8)), three_classes()
    exact = gsnr(model, batch)
    found = assert_like_loop(model, batch, loss_fn=loss_fn, rel=0.02)
    assert list(found.coverage["engine"]) == ["taps"]
    assert found.total["gsnr"] == pytest.approx(exact.total["gsnr"], rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype):
    model, (inputs, labels) = three_class_mlp(nn.LayerNorm(8)), three_classes()
    exact = gsnr(model, (inputs, labels))
    found = assert_like_loop(model.to(dtype), (inputs.to(dtype), labels), rel=0.02)
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

    model, batch = Rounding(), three_classes()
    params = trainable_params(model)
    check_independent(GradientTask(model, params, inferred_loss), batch, seed=0)
    plain = GradientTask(model, params, lambda m, b: F.cross_entropy(m(b[0], cast=False), b[1], reduction="none"))
    with pytest.raises(ProbeError, match="does not depend on the rest of the batch"):
        check_independent(plain, batch, seed=0)


def test_autocast_around_the_probe_is_refused():
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ProbeError, match=r"autocast inside.*into loss_fn"):
        gsnr(three_class_mlp())


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
    model, plain, batch = _Checkpointed(False), _Checkpointed(None), three_classes()
    plain.load_state_dict(model.state_dict())
    found, expected = gsnr(model, batch), gsnr(plain, batch)
    assert found.total["gsnr"] == pytest.approx(expected.total["gsnr"], rel=1e-5)
    assert list(found.coverage["engine"]) == ["loop"]
    assert any("not by taps, since" in note and "activation checkpointing" in note for note in found.notes)
    for engine in ("taps", "vmap"):
        with pytest.raises(ProbeError, match=r"engine.*pass engine="):
            gsnr(model, batch, engine=engine)
    with pytest.raises(ProbeError, match=r"taps engine.*gradient_checkpointing_disable\(\)"):
        gsnr(model, batch, engine="taps")


def test_cor_of_a_checkpointed_model_is_that_of_the_model():
    model, plain, batch = _Checkpointed(False), _Checkpointed(None), three_classes()
    plain.load_state_dict(model.state_dict())
    found, expected = (estimate_cor(m, [batch], batch_size=24, engine="loop", progress=False) for m in (model, plain))
    assert found.drift["drift"].tolist() == pytest.approx(expected.drift["drift"].tolist(), rel=1e-4)


def test_reentrant_checkpointing_is_refused():
    with pytest.raises(ProbeError, match=r"reentrant activation checkpointing.*use_reentrant=False"):
        gsnr(_Checkpointed(True))


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
    expected = gsnr(model, batch)
    assert list(expected.coverage["engine"]) == ["taps"]
    model.set_grad_checkpointing()
    found = gsnr(model, batch)
    assert list(found.coverage["engine"]) == ["loop"]
    assert any("checkpointing" in note for note in found.notes)
    assert found.total["gsnr"] == pytest.approx(expected.total["gsnr"], rel=1e-4)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models_are_measured_uncompiled(backend):
    model, batch = three_class_mlp(), three_classes()
    expected = gsnr(model, batch)
    found = gsnr(torch.compile(model, backend=backend), batch)
    assert found.layers["gsnr"].tolist() == expected.layers["gsnr"].tolist()
    assert found.notes == ("compiled model: its uncompiled module was measured", *expected.notes)
    assert found.groups == expected.groups
    report = probe(torch.compile(model, backend=backend), [batch], steps=2, measurements=2, progress=False)
    assert "compiled model: its uncompiled module was measured" in report.notes


def test_compiled_parts_and_models_compiled_in_place():
    model, batch = three_class_mlp(), three_classes()
    expected = gsnr(model, batch)
    parts = copy.deepcopy(model)
    parts[0] = torch.compile(parts[0], backend="aot_eager")
    parts[0](batch[0])  # compiled before
    whole = copy.deepcopy(model)
    whole.compile(backend="aot_eager")
    for other in (parts, whole):
        found = gsnr(other, batch)
        assert found.total["gsnr"] == pytest.approx(expected.total["gsnr"], rel=1e-6)
        assert list(found.coverage["engine"]) == ["taps"]
        assert any("were run uncompiled" in note for note in found.notes)


def test_scripted_modules_are_refused_wherever_they_are():
    scripted = torch.jit.script(nn.Linear(6, 6))
    for model in (scripted, nn.Sequential(nn.Linear(6, 6), scripted)):
        with pytest.raises(ProbeError, match=r"scripted or traced.*as it was before torch\.jit"):
            gsnr(model)
