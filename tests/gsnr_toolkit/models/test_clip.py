import hashlib
import json
import time
import warnings

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gsnr_toolkit.models import clip
from gsnr_toolkit.models.clip import Detector
from gsnr_toolkit.models.registry import MODELS, ModelInfo, build_model
from gsnr_toolkit.models.weights_files import WeightsError, read_state_dict
from gsnr_toolkit.support.lookup import Registry, UnknownNameError

CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 24, "head_width": 12, "patch_size": 8},
    "text_cfg": {"context_length": 6, "vocab_size": 20, "width": 8, "heads": 1, "layers": 1},
}


def small_clip(seed=0, **changes):
    torch.manual_seed(seed)
    config = json.loads(json.dumps(CONFIG))
    config["vision_cfg"] |= changes
    return open_clip.CLIP(**config)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Files of the embedded model's format, of a tiny model, in the place of the shipped ones."""
    model = small_clip()
    halves = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_file(halves, tmp_path / "clip-demo.safetensors")
    (tmp_path / "clip-demo.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(clip, "WEIGHTS_DIR", tmp_path)
    return model, tmp_path


def save(content, path):
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return str(path)


def test_the_embedded_model_is_the_visual_tower_of_the_shipped_file(shipped):
    model, folder = shipped
    detector = build_model("clip-demo")
    images = torch.randn(3, 3, 16, 16)
    assert {name for name, _ in detector.named_children()} == {"encoder", "head"}
    assert all(parameter.dtype == torch.float32 for parameter in detector.parameters())
    expected = model.half().float().encode_image(images)
    torch.testing.assert_close(detector.encoder(images), expected)
    digest = hashlib.sha256((folder / "clip-demo.safetensors").read_bytes()).hexdigest()
    assert detector.provenance["sha256"] == digest
    assert detector.provenance["weights"] == "shipped"
    assert detector.provenance["path"] == "clip-demo.safetensors"
    assert detector.provenance["open_clip"] == open_clip.__version__
    assert (detector.name, detector.image_size) == ("clip-demo", 16)


def test_the_really_shipped_model_loads():
    if not (clip.WEIGHTS_DIR / "clip-demo.safetensors").is_file():
        pytest.skip("the weights are not in this tree")
    detector = build_model("clip-demo")
    logits = detector(torch.randn(2, 3, detector.image_size, detector.image_size))
    assert logits.shape == (2,)
    assert logits.isfinite().all()


def test_preprocessing_may_stand_in_the_configuration(shipped):
    _, folder = shipped
    content = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}}
    (folder / "clip-demo.json").write_text(json.dumps(content))
    detector = build_model("clip-demo")
    assert (detector.mean, detector.std) == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@pytest.mark.parametrize("missing", ["clip-demo.safetensors", "clip-demo.json"])
def test_a_package_without_its_files_says_so(shipped, missing):
    (shipped[1] / missing).unlink()
    with pytest.raises(WeightsError, match=f"package's file .*{missing}, but it is missing; install the package again"):
        build_model("clip-demo")


@pytest.mark.usefixtures("shipped")
def test_the_head_is_small_seeded_and_not_zero():
    first, again, other = (build_model("clip-demo", seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first.head.weight, again.head.weight, rtol=0, atol=0)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert first.head.bias.tolist() == [0.0]
    wide = Detector(nn.Identity(), 4000, name="wide", image_size=1).head.weight
    assert wide.std().item() == pytest.approx(0.02, rel=0.06)  # 4000 draws: standard error 1.1 %


@pytest.mark.usefixtures("shipped")
def test_the_encoder_has_a_gradient_at_the_first_step():
    detector = build_model("clip-demo")
    detector(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.encoder.parameters())


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(("num_outputs", "shape"), [(1, (4,)), (3, (4, 3))])
def test_the_shape_of_the_logits(num_outputs, shape):
    assert build_model("clip-demo", num_outputs=num_outputs)(torch.randn(4, 3, 16, 16)).shape == shape


@pytest.mark.usefixtures("shipped")
def test_random_weights_are_seeded_and_leave_the_global_random_state_alone():
    torch.manual_seed(9)
    before = torch.get_rng_state()
    first, again, other = (build_model("clip-demo", weights="random", seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.testing.assert_close(first.state_dict(), again.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.encoder.proj, other.encoder.proj)
    assert first.provenance["weights"] == "random"
    assert "sha256" not in first.provenance


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("part", ["clip", "visual", "wrapped", "checkpoint"])
def test_a_file_may_hold_a_whole_clip_or_its_visual_tower(tmp_path, suffix, part):
    model = small_clip(seed=5)
    states = {
        "clip": model.state_dict(),
        "visual": model.visual.state_dict(),
        "wrapped": {f"module.{name}": value for name, value in model.state_dict().items()},
        "checkpoint": model.state_dict(),
    }
    content = states[part]
    if part == "checkpoint":
        if suffix == ".safetensors":
            pytest.skip("safetensors holds tensors only")
        content = {"epoch": 3, "state_dict": content}
    detector = build_model("clip-demo", weights=save(content, tmp_path / f"mine{suffix}"))
    torch.testing.assert_close(detector.encoder.state_dict(), model.visual.state_dict())
    assert detector.provenance["weights"] == "file"
    assert detector.provenance["path"].endswith(f"mine{suffix}")


@pytest.mark.usefixtures("shipped")
def test_a_torchscript_archive_as_openai_publishes_is_read(tmp_path):
    model = small_clip(seed=5).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model.visual, torch.zeros(1, 3, 16, 16), check_trace=False)
    traced.save(str(tmp_path / "openai.pt"))
    detector = build_model("clip-demo", weights=str(tmp_path / "openai.pt"))
    torch.testing.assert_close(detector.encoder.proj, model.visual.proj)


@pytest.mark.usefixtures("shipped")
def test_a_trained_detector_is_restored_with_its_head(tmp_path):
    trained = build_model("clip-demo", weights="random", seed=7)
    nn.init.constant_(trained.head.bias, 0.5)
    restored = build_model("clip-demo", weights=save(trained.state_dict(), tmp_path / "run.pt"))
    torch.testing.assert_close(restored.state_dict(), trained.state_dict())
    assert restored.provenance["head"] == "file"


@pytest.mark.usefixtures("shipped")
def test_a_head_of_another_size_is_refused(tmp_path):
    trained = build_model("clip-demo", weights="random", num_outputs=4)
    path = save(trained.state_dict(), tmp_path / "run.pt")
    with pytest.raises(WeightsError, match=r"head of shape \(1, 12\) .* got \(4, 12\); pass num_outputs=4"):
        build_model("clip-demo", weights=path)


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "visual.proj"), r"1 are missing \(proj\) and 0 are unexpected"),
        (lambda s: s | {"visual.extra": torch.zeros(1)}, r"0 are missing \(none\) and 1 are unexpected \(extra\)"),
        (
            lambda s: s | {"visual.positional_embedding": torch.zeros(10, 24)},
            r"positional_embedding to have shape \(5, 24\), but it has \(10, 24\).*image size",
        ),
        (lambda _: {"text.weight": torch.zeros(1)}, r"visual tower of open_clip in .*but it has text\.weight"),
        (
            lambda _: {"vision_model.post_layernorm.weight": torch.zeros(1)},
            "names of Hugging Face transformers, so use open_clip's file",
        ),
        (lambda _: {"epoch": 3}, "expected a state dict in .* got dict without tensors"),
        (lambda _: [1, 2], "expected a state dict in .* got list without tensors"),
    ],
)
def test_a_file_that_does_not_fit_says_where(tmp_path, change, message):
    path = save(change(small_clip().state_dict()), tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=message):
        build_model("clip-demo", weights=path)


@pytest.mark.usefixtures("shipped")
def test_a_deeper_model_does_not_fit(tmp_path):
    path = save(small_clip(layers=3).state_dict(), tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=r"0 are missing \(none\) and 12 are unexpected \(transformer\.resblocks\.2"):
        build_model("clip-demo", weights=path)


@pytest.mark.usefixtures("shipped")
def test_a_missing_file_is_named():
    with pytest.raises(WeightsError, match=r"weights file at nowhere/x\.pt, but there is none"):
        build_model("clip-demo", weights="nowhere/x.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_broken_file_is_named(tmp_path, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=rf"expected a state dict in .*broken{suffix}, but "):
        read_state_dict(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(
        WeightsError,
        match=r"expected a state dict in .*model\.pt, but .*; write it with torch\.save\(model\.state_dict",
    ):
        read_state_dict(path)


@pytest.fixture
def small_row(monkeypatch):
    """A row for an architecture of open_clip, shrunk, so that tags can be tested without large towers."""
    small = {**CONFIG, "quick_gelu": False}
    real = open_clip.get_model_config
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: small if name == "ViT-B-32" else real(name))
    rows = {"clip-small": ModelInfo("small", "ViT-B-32")}
    monkeypatch.setattr("gsnr_toolkit.models.registry.MODELS", Registry("model", rows))


@pytest.mark.usefixtures("small_row")
@pytest.mark.parametrize(
    ("weights", "quick_gelu"), [("openai", True), ("laion2b_s34b_b79k", False), ("metaclip_400m", True)]
)
def test_the_activation_follows_the_tag(monkeypatch, tmp_path, weights, quick_gelu):
    file = tmp_path / "cached.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in small_clip(seed=3).state_dict().items()}, file)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(file))
    detector = build_model("clip-small", weights=weights)
    activation = type(detector.encoder.transformer.resblocks[0].mlp.gelu).__name__
    assert activation == ("QuickGELU" if quick_gelu else "GELU")
    assert detector.provenance["quick_gelu"] is quick_gelu
    assert detector.provenance["weights"] == weights


@pytest.mark.usefixtures("small_row")
def test_random_weights_have_the_activation_of_the_default_tag():
    assert build_model("clip-small", weights="random").provenance["quick_gelu"] is True


def offline_message(name):
    return rf"weights 'openai' of {name}, but the file open_clip_model\.safetensors of timm/.*--weights PATH.*random"


@pytest.mark.usefixtures("small_row")
def test_offline_and_not_cached_names_the_file_and_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(WeightsError, match=f"(?s){offline_message('clip-small')}") as caught:
        build_model("clip-small")
    assert "HF_HUB_OFFLINE is set" in str(caught.value)
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("small_row")
def test_a_network_that_fails_is_the_same_error_with_its_reason(monkeypatch, tmp_path):
    def no_route(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", no_route)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"cannot be downloaded \(ConnectionError: no route to host\)"):
        build_model("clip-small")


@pytest.mark.usefixtures("small_row")
def test_the_older_cache_of_open_clip_is_used(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache/clip").mkdir(parents=True)
    torch.save(small_clip(seed=3).state_dict(), tmp_path / ".cache/clip/ViT-B-32.pt")
    torch.testing.assert_close(build_model("clip-small").encoder.proj, small_clip(seed=3).visual.proj)


@pytest.mark.parametrize(
    ("name", "weights", "error", "message"),
    [
        ("clip-vit-l41", None, UnknownNameError, r"module:function.*Did you mean 'clip-vit-l14'"),
        (
            "clip-vit-l14",
            "openia",
            WeightsError,
            r"a tag of ViT-L-14 \(openai, laion400m.*got 'openia'; .*Did you mean 'openai'\?",
        ),
        ("clip-demo", "openai", WeightsError, "for clip-demo, got 'openai'; leave weights out"),
        ("clip-vit-l14", "shipped", WeightsError, "a tag of ViT-L-14 .* got 'shipped'"),
    ],
)
def test_wrong_names_are_answered_before_anything_is_built(name, weights, error, message):
    with pytest.raises(error, match=message):
        build_model(name, weights=weights)


@pytest.mark.parametrize("name", [name for name, info in MODELS.rows.items() if info.architecture])
def test_every_row_names_a_configuration_and_a_tag_of_open_clip(name):
    info = MODELS[name]
    assert open_clip.get_model_config(info.architecture) is not None
    assert info.weights in open_clip.list_pretrained_tags_by_model(info.architecture)


def test_a_real_architecture_has_no_text_tower():
    detector = build_model("clip-vit-b32", weights="random")
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    assert parameters == 87_849_216 + 513  # ViT-B/32's visual tower, and the head
    assert detector.image_size == 224
    with pytest.raises(ValueError, match="num_outputs to be 1"):
        Detector(detector.encoder, 512, name="x", image_size=224, num_outputs=0)
