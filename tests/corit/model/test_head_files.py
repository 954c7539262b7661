import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from corit.model.detector import CoRIT
from corit.model.head_files import encoder_hash, load_detector, load_head, save_detector
from gsnr_toolkit.models.clip import Detector
from gsnr_toolkit.models.weights_files import WeightsError
from tests.support.towers import SIZE, blurred, make_detector, make_images, make_tower


def test_a_head_comes_back(tmp_path):
    detector, images = make_detector(num_regions=2, rsi=False, anchors="fixed", anchor_seed=3), make_images()
    nn.init.normal_(detector.head.weight)
    path = save_detector(detector, tmp_path / "head.safetensors")
    encoder = Detector(make_tower(), 8, name="tiny", image_size=SIZE)
    again = load_detector(path, encoder=encoder, counterpart=blurred)
    assert again.config == detector.config
    assert torch.equal(again(images), detector(images, blurred(images)))
    assert [each.name for each in tmp_path.iterdir()] == ["head.safetensors"]
    (tmp_path / "plain").touch(mode=0o644)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    fresh = load_head(make_detector(num_regions=2, rsi=False, anchors="fixed", anchor_seed=3), path)
    assert torch.equal(fresh.head.weight, detector.head.weight)


def test_by_name(tmp_path):
    detector = CoRIT.from_encoder("clip-demo", num_regions=1)
    path = save_detector(detector, tmp_path / "head.safetensors")
    again = load_detector(path)
    assert torch.equal(again.head.weight, detector.head.weight)
    with pytest.raises(WeightsError, match=r"'clip-demo' with weights 'shipped' .* 'clip-demo' with weights 'random'"):
        load_detector(path, weights="random")


def test_the_file_says_what_it_is(tmp_path):
    detector = make_detector()
    with safe_open(save_detector(detector, tmp_path / "head.safetensors"), framework="pt") as file:
        metadata = file.metadata()
        assert sorted(file.keys()) == ["bias", "weight"]
    assert json.loads(metadata["config"])["num_regions"] == 3
    assert metadata["encoder_sha256"] == encoder_hash(detector.encoder)


def test_another_encoder_is_refused(tmp_path):
    path = save_detector(make_detector(), tmp_path / "head.safetensors")
    expected = encoder_hash(make_detector().encoder)[:12]
    other = make_detector("own attention, plain")
    before = other.head.weight.clone()
    message = (
        rf"expected the encoder that the head in .*'tiny' .*sha256 {expected}\), got 'tiny' .*train a head for this"
    )
    with pytest.raises(WeightsError, match=message):
        load_head(other, path)
    assert torch.equal(other.head.weight, before)
    changed = make_detector()
    with torch.no_grad():
        changed.encoder.proj[0, 0] += 1e-3
    with pytest.raises(WeightsError, match="build it with those weights"):
        load_head(changed, path)


def test_another_configuration_is_refused(tmp_path):
    path = save_detector(make_detector(), tmp_path / "head.safetensors")
    with pytest.raises(
        WeightsError, match=r"another: threshold 0\.5 \(here 0\.7\), rsi True \(here False\); use load_d"
    ):
        load_head(make_detector(threshold=0.7, rsi=False), path)


def test_a_trained_encoder_is_not_saved_as_a_head(tmp_path):
    detector = make_detector()
    detector.encoder.ln_pre.requires_grad_(True)
    with pytest.raises(WeightsError, match="got one with 2 trainable tensors"):
        save_detector(detector, tmp_path / "head.safetensors")


def test_files_of_other_kinds(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        load_detector(tmp_path / "none.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(WeightsError, match=r"format 'corit-1' in .*plain.safetensors, got 'none'"):
        load_detector(tmp_path / "plain.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(WeightsError, match=r"expected .*text.safetensors to be .*cannot be read as safetensors"):
        load_detector(tmp_path / "text.safetensors")


def test_the_hash_depends_on_values_names_and_shapes_alone():
    linear, same = nn.Linear(2, 3), nn.Linear(2, 3)
    same.load_state_dict(linear.state_dict())
    assert encoder_hash(linear) == encoder_hash(same) == encoder_hash(same.to(torch.float64))
    assert encoder_hash(nn.Sequential(linear)) != encoder_hash(linear)
    with torch.no_grad():
        same.weight[0, 0] += 1e-3
    assert encoder_hash(linear) != encoder_hash(same)


def test_a_changed_bit_is_found(tmp_path):
    detector = make_detector(num_regions=2, rsi=False, anchors="fixed")
    nn.init.normal_(detector.head.weight)
    path = save_detector(detector, tmp_path / "head.safetensors")
    content = bytearray(path.read_bytes())
    for place in (1, 50):
        content[-place] ^= 4  # the tensors come last
        path.write_bytes(bytes(content))
        with pytest.raises(WeightsError, match=r"their checksum differs, so the file is damaged; copy it again"):
            load_head(detector, path)
        content[-place] ^= 4
    path.write_bytes(bytes(content))
    assert torch.equal(load_head(detector, path).head.weight, detector.head.weight)
