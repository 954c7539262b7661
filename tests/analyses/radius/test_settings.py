"""The settings, and the data sets and models that they are made of."""

import numpy as np
import pytest
import torch

from analyses.radius import data
from analyses.radius.settings import HELD_OUT, SETTINGS


def test_there_are_enough_of_every_kind():
    kinds = {setting.kind for setting in SETTINGS.values()}
    assert kinds == {"digits", "parity", "tables", "regression", "drawn", "faces"}
    assert len(SETTINGS) >= 24
    assert len(HELD_OUT) == 5
    assert set(SETTINGS) >= HELD_OUT


@pytest.mark.parametrize(
    "name", [name for name, setting in SETTINGS.items() if not setting.dear and "-" not in name.split("-", 1)[1]]
)
def test_a_setting_trains_a_step_and_scores(name):
    problem = SETTINGS[name].build(0)
    optimizer = problem.sam(0.01)
    batch = next(iter(problem.loader()))

    def closure():
        losses = problem.loss(problem.model, batch)
        assert losses.shape == (len(batch[0]),)
        losses.mean().backward()
        return losses.detach().mean()

    losses = [float(optimizer.step(closure)) for _ in range(3)]
    assert losses[2] < losses[0]
    assert np.isfinite(problem.score())


def test_the_same_seed_builds_the_same_model():
    one, same, other = (SETTINGS["digits-mlp"].build(seed).model[0].weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_random_labels_change_a_share_of_the_training_labels_alone():
    plain, noisy = data.digits(), data.with_random_labels(data.digits(), 0.5, 0)
    changed = (plain.train[1] != noisy.train[1]).float().mean()
    assert 0.4 < changed < 0.5  # a tenth of the drawn labels are the old ones
    assert torch.equal(plain.test[1], noisy.test[1])


def test_sparse_parity_is_the_sign_of_a_product():
    arrays = data.sparse_parity(count=100)
    inputs, labels = arrays.train
    assert torch.equal(labels, (inputs[:, :3].prod(1) > 0).long())


def test_targets_of_regressions_are_standard():
    for arrays in (data.diabetes(), data.operator()):
        targets = torch.cat([arrays.train[1], arrays.test[1]])
        assert targets.std(0, correction=0).mean() == pytest.approx(1, abs=1e-3)
