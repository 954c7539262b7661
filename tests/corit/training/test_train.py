import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from corit.model.features import find_shared_regions
from corit.model.trained import load_trained
from corit.training import train as training
from corit.training.config import DetectorTraining
from corit.training.data import EndlessPlaces, open_split
from corit.training.tasks import FeatureTask, build_untrained, make_task
from corit.training.train import train_detector
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.preserve import random_state
from gsnr_toolkit.models.spec import input_spec
from gsnr_toolkit.models.weights_files import WeightsError
from gsnr_toolkit.optim.sam import SAM
from gsnr_toolkit.training.loop import train
from tests.support.corit_config import CONFIG

CPU = torch.device("cpu")


def steady(result):
    """As text, so that NaN equals NaN."""
    return json.dumps({key: value for key, value in result.items() if key != "seconds"})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    return folder, train_detector(CONFIG, folder, device="cpu", draws=20, cache=folder.parent / "cache")


def test_a_training_writes_everything(finished):
    folder, result = finished
    files = {"config.json", "log.csv", "evals.csv", "results.csv", "result.json", "provenance.json"}
    assert {path.name for path in folder.iterdir()} == files | {"selected.safetensors", "last.safetensors"}
    evals, table = pd.read_csv(folder / "evals.csv"), pd.read_csv(folder / "results.csv")
    assert evals["step"].tolist() == [4, 8, 9]
    assert result["val_auc_selected"] == evals["auc"].max()
    assert result["selected_step"] == evals["step"][evals["auc"].argmax()]
    assert result["val_auc_last"] == evals["auc"].iloc[-1]
    assert set(table["selection"]) == {"selected", "last"}
    assert set(table["data"]) == {"demo-df"}
    assert table["protocol"].str.contains("forgeries never seen").all()
    assert len(pd.read_csv(folder / "log.csv")) == 9


def test_selected_weights_are_those_of_the_best_step(finished):
    folder, result = finished
    for selection in ("selected", "last"):
        trained = load_trained(folder / f"{selection}.safetensors")
        task = make_task(CONFIG, CPU)
        task.module.load_state_dict(trained.model.head.state_dict())
        labels, logits = task.val.labels, task.val_logits()
        wins = np.mean([(f > r) + 0.5 * (f == r) for f in logits[labels == 1] for r in logits[labels == 0]])
        assert wins == pytest.approx(result[f"val_auc_{selection}"])
        assert trained.training["selection"] == selection


@pytest.mark.parametrize("anchors", ["cgp", "shared"])
def test_training_on_cached_features_is_training_on_images(tmp_path, anchors):
    """The same steps with every feature computed anew from the images of the batch."""
    config = replace(CONFIG, rho=0.05, anchors=anchors)
    task = make_task(config, CPU, cache=tmp_path)
    assert isinstance(task, FeatureTask)
    fresh = build_untrained(config)
    dataset = open_split(config, "train", input_spec(fresh))
    if fresh.shared is not None:
        find_shared_regions(fresh, dataset)
    places = iter(EndlessPlaces(dataset, config.batch_size, seed=config.seed, views=config.views))

    def image_batches():
        for batch in places:
            items = dataset.__getitems__(batch)
            yield torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])

    for model, batches in ((task.module, task.batches(0)), (fresh, image_batches())):
        trainable = [param for param in model.parameters() if param.requires_grad]
        train(model, SAM(trainable, torch.optim.AdamW, rho=config.rho, lr=1e-2), batches, steps=7)
    before = build_untrained(config).head.weight
    torch.testing.assert_close(task.module.weight, fresh.head.weight)
    assert not torch.allclose(before, fresh.head.weight)


@pytest.mark.parametrize(("method", "rho"), [("corit", 0.02), ("norms", 0.02), ("corit", "auto")])
def test_a_broken_off_training_ends_the_same_bit_for_bit(tmp_path, monkeypatch, method, rho):
    config = replace(CONFIG, method=method, rho=rho)
    whole = train_detector(config, tmp_path / "whole", device="cpu", draws=0)
    save = training._Run.save

    class Stop(Exception):
        pass

    def save_and_break(self):
        save(self)
        if self.done == 5:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "save", save_and_break)
        with pytest.raises(Stop):
            train_detector(config, tmp_path / "broken", device="cpu", draws=0, checkpoint_seconds=0)
    assert not (tmp_path / "broken" / "result.json").exists()
    again = train_detector(config, tmp_path / "broken", device="cpu", draws=0)
    assert steady(again) == steady(whole)
    for name in ("log.csv", "evals.csv"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()
    for name in ("selected.safetensors", "last.safetensors"):
        one, other = (load_file(tmp_path / folder / name) for folder in ("whole", "broken"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_callers_random_state_is_left_alone(tmp_path):
    state = random_state()
    train_detector(replace(CONFIG, steps=2), tmp_path, device="cpu", draws=0)
    assert random_state() == state


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        ("probe", {"head.weight", "head.bias"}),
        ("norms", {"encoder.ln_pre.weight", "encoder.ln_post.bias", "head.weight"}),
        ("last-1", {"encoder.transformer.resblocks.2.mlp.c_fc.weight", "head.weight"}),
        ("sbi", {"encoder.conv1.weight", "encoder.transformer.resblocks.0.ln_1.weight", "head.weight"}),
    ],
)
def test_baselines_on_the_same_loop_are_saved_and_loaded(tmp_path, method, trained):
    config = replace(CONFIG, method=method, steps=3, lr=1e-3)
    result = train_detector(config, tmp_path / "a", device="cpu", draws=0)
    assert result["method"] == method
    state = load_file(tmp_path / "a" / "last.safetensors")
    assert trained <= state.keys()
    if method == "last-1":
        assert "encoder.conv1.weight" not in state
    again = load_trained(tmp_path / "a" / "last.safetensors")
    images = torch.randn(3, 3, 16, 16)
    fresh = build_untrained(config).eval()
    with torch.no_grad():
        assert not torch.equal(again.model(images), fresh(images))
    row = next(row for row in result["test"] if row["selection"] == "last" and row["level"] == "frame")
    from corit.scoring.evaluate import evaluate_detector
    from corit.training.data import open_evaluation

    table = evaluate_detector(again, open_evaluation(config, "demo-df", again.spec), draws=0).table
    found = table[(table["level"] == "frame") & (table["measure"] == "auc")]["value"].item()
    assert found == pytest.approx(row["value"])
    with pytest.raises(WeightsError, match=r"expected the encoder that .*last.safetensors was trained from"):
        load_trained(tmp_path / "a" / "last.safetensors", weights="other")


def test_given_fakes(tmp_path):
    result = train_detector(replace(CONFIG, fakes="given", steps=2), tmp_path, device="cpu", draws=0)
    assert result["status"] == "ok"
    assert pd.read_csv(tmp_path / "results.csv")["protocol"].str.contains("data and forgeries trained on").all()


def test_a_finished_training_is_read_and_another_refused(finished, monkeypatch):
    folder, result = finished
    monkeypatch.setattr(training, "make_task", None)
    assert train_detector(CONFIG, folder) == result
    with pytest.raises(ProbeError, match=r"holds a training with other settings \(rho 0.0 there, 0.1 here\)"):
        train_detector(replace(CONFIG, rho=0.1), folder)


def test_foreign_folders_are_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ProbeError, match=r"its config.json cannot be read; choose another folder"):
        train_detector(CONFIG, tmp_path)


def test_a_diverged_training_says_so_and_keeps_no_weights_of_it(tmp_path):
    with pytest.warns(UserWarning, match="not finite"):
        result = train_detector(replace(CONFIG, method="full", lr=1e30), tmp_path, device="cpu", draws=0)
    assert result["status"] == "diverged"
    assert not (tmp_path / "last.safetensors").exists()


def test_the_file_names_its_training_and_its_encoder(finished):
    from corit.model.head_files import read_tensors

    metadata = read_tensors(finished[0] / "selected.safetensors")[1]
    written = json.loads(metadata["provenance"])["training"]
    assert {name: written[name] for name in CONFIG.to_dict()} == CONFIG.to_dict()
    assert len(metadata["encoder_sha256"]) == 64


def test_batches_are_the_same_wherever_one_starts():
    dataset = open_split(CONFIG, "train", input_spec(build_untrained(CONFIG)))
    whole = [batch for batch, _ in zip(EndlessPlaces(dataset, 8, views=2), range(8), strict=False)]
    late = [batch for batch, _ in zip(EndlessPlaces(dataset, 8, views=2, start=4), range(4), strict=False)]
    assert late == whole[4:]
    assert {view for batch in whole[:3] for _, view in batch} == {0}
    assert {view for batch in whole[3:6] for _, view in batch} == {1}
    assert all(sorted(row % 2 for row, _ in batch) == [0] * 4 + [1] * 4 for batch in whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rho": -1.0}, r"expected rho to be a number from 0, got -1.0"),
        ({"method": "head"}, r"use method 'probe'"),
        ({"method": "lora"}, r"expected a tuning .* got 'lora'"),
        ({"batch_size": 7}, r"expected an even batch_size"),
        ({"fakes": "given", "method": "sbi"}, r"self-blended fakes with method 'sbi'"),
        ({"rsi": "yes"}, r"expected rsi to be true or false, got 'yes'"),
        ({"cgp_layer": "all"}, r"expected cgp_layer to be a whole number from 0, got 'all'"),
        ({"views": 0}, r"expected views to be a whole number from 1 up to 1000, got 0"),
    ],
)
def test_what_is_out_of_range_is_refused(changes, message):
    with pytest.raises(ProbeError, match=message):
        replace(CONFIG, **changes)
    with pytest.raises(ProbeError, match=r"the name of a setting, got 'rhoo'; use .* Did you mean 'rho'"):
        DetectorTraining.from_dict({"rhoo": 1})


def test_only_encoders_of_the_toolkit():
    with pytest.raises(ProbeError, match=r"got TinyDetector from 'tests.support.tiny_detector:tiny_model'"):
        build_untrained(replace(CONFIG, method="full", encoder="tests.support.tiny_detector:tiny_model"))
