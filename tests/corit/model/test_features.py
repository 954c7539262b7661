import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from corit.model import features
from corit.model.content_hash import item_digests
from corit.model.counterparts import SelfBlendedCounterparts
from corit.model.detector import CoRIT
from corit.model.features import FeatureMaker
from corit.sbi import Recipe, SelfBlended
from gsnr_toolkit.data.own import in_memory
from gsnr_toolkit.errors import ProbeError, ProbeWarning
from tests.support.tiny_clip import tiny_clip
from tests.support.towers import SIZE, blurred, make_detector


def images(count=10, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def data(count=10, seed=0, **changes):
    return in_memory(images(count, seed), labels=[0, 1] * (count // 2), image_size=SIZE, **changes)


def pairs(**changes):
    return SelfBlended(data(), masks="generic", **{"seeding": "epoch", **changes})


def detector(**options):
    made = make_detector(**{"num_regions": 2, **options})
    made.counterpart = SelfBlendedCounterparts("generic")
    return made


def direct(model, dataset):
    batch = torch.stack([dataset[i][0] for i in range(len(dataset))])
    with torch.no_grad():
        return model.features(batch) if isinstance(model, CoRIT) else model.encoder(batch)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(features, "SHARD", 4)


@pytest.mark.parametrize("kind", ["corit", "probe"])
def test_cached_features_are_direct_features(tmp_path, kind):
    model = detector() if kind == "corit" else tiny_clip().requires_grad_(False)
    first, again = FeatureMaker(model, tmp_path), FeatureMaker(model, tmp_path)
    for dataset in (data(), pairs()):
        made = first(dataset)
        torch.testing.assert_close(made, direct(model, dataset))
        assert torch.equal(again(dataset), made)
        torch.testing.assert_close(FeatureMaker(model)(dataset), made, rtol=0, atol=0)
    assert (first.made, first.found, again.made, again.found) == (20, 0, 0, 20)
    assert len(list(tmp_path.iterdir())) == 6  # two sets of ten images, four a file


def test_views_are_the_blends_of_epochs(tmp_path):
    model, dataset = detector(), pairs()
    maker = FeatureMaker(model, tmp_path)
    zero, one = maker(dataset, 0), maker(dataset, 1)
    dataset.epoch = 1
    torch.testing.assert_close(one, direct(model, dataset))
    assert not torch.equal(zero, one)


def test_what_decides_features_is_in_the_key():
    rows = [0, 1, 2]
    base = item_digests(pairs(), rows)
    assert base == item_digests(pairs(), rows)
    assert len(set(base)) == 3
    changed = {
        "recipe": item_digests(pairs(recipe=Recipe(jpeg_chance=0)), rows),
        "seed": item_digests(pairs(seed=1), rows),
        "view": item_digests(pairs(), rows, view=1),
        "seeding": item_digests(pairs(seeding="content"), rows),
        "faces": item_digests(SelfBlended(data(), masks="aligned", seeding="epoch"), rows),
        "images": item_digests(SelfBlended(data(seed=1), masks="generic", seeding="epoch"), rows),
        "mean": item_digests(SelfBlended(data(mean=(0, 0, 0)), masks="generic", seeding="epoch"), rows),
        "plain": item_digests(data(), rows),
    }
    for name, other in changed.items():
        assert not set(base) & set(other), name
    # of content alone, the view does not matter
    assert item_digests(pairs(seeding="content"), rows, view=1) == changed["seeding"]


def test_another_encoder_or_option_makes_features_anew(tmp_path):
    FeatureMaker(detector(), tmp_path)(data())
    others = {
        "encoder": detector(seed=1),
        "threshold": detector(threshold=0.1),
        "layer": detector(mid_layer=2),
        "counterpart": detector(),
    }
    others["counterpart"].counterpart = SelfBlendedCounterparts("aligned")
    for name, model in others.items():
        maker = FeatureMaker(model, tmp_path)
        torch.testing.assert_close(maker(data()), direct(model, data()), msg=name)
        assert maker.found == 0, name
    assert FeatureMaker(detector(), tmp_path)(data()) is not None


def test_broken_and_foreign_files_are_remade_and_said(tmp_path):
    model, dataset = detector(), data(4)
    made = FeatureMaker(model, tmp_path)(dataset)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()

    def spoil(content):
        file.write_bytes(content)

    changed = whole[:-1] + bytes([whole[-1] ^ 1])  # one bit of the last number
    cases = {
        "cannot be read": lambda: spoil(whole[: len(whole) // 2]),
        "its content is not what was written": lambda: spoil(changed),
        "of another key": lambda: save_file({"features": made}, file),
        r"cannot be read \(": lambda: spoil(b""),
    }
    for message, act in cases.items():
        act()
        maker = FeatureMaker(model, tmp_path)
        with pytest.warns(ProbeWarning, match=message):
            assert torch.equal(maker(dataset), made)
        assert maker.made == 4
        whole = file.read_bytes()
        assert torch.equal(features.read_features(file, file.stem, 4), made)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]  # nothing half written is left


def test_the_encoder_must_be_frozen_and_counterparts_named(tmp_path):
    model = detector()
    model.encoder.ln_pre.requires_grad_(True)
    with pytest.raises(ProbeError, match="expected a frozen encoder"):
        FeatureMaker(model)
    other = make_detector(counterpart=blurred)
    with pytest.raises(ProbeError, match=r"a method describe\(\).*got <function blurred"):
        FeatureMaker(other, tmp_path)
    torch.testing.assert_close(FeatureMaker(other)(data()), direct(other, data()))
