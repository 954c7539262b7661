"""COR's mini-batch gradients in bounded memory: the same answer, some samples at a time."""

import numpy as np
import pytest
import torch
from torch import nn

from gsnr_toolkit import ProbeError, estimate_cor
from gsnr_toolkit.gradients import task as functional
from gsnr_toolkit.gradients.batch_gradient import BatchGradient
from gsnr_toolkit.gradients.task import GradientTask, trainable_params
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.groups import assign_groups
from gsnr_toolkit.inputs.losses import resolve_loss
from gsnr_toolkit.moments.sketches import plan_rows
from gsnr_toolkit.readings.drift import measure_drift

NUMBERS = ["cor", "cor_low", "cor_high", "alignment_radius", "grad_norm", "gsnr", "lipschitz_radius"]
OPTIONS = {"batch_size": 8, "radii": (0.01, 0.1, 1.0), "progress": False, "engine": "loop", "lipschitz": True}


def _batches():
    inputs = torch.randn(64, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [
        (inputs[i : i + 16], (inputs[i : i + 16, 0] + inputs[i : i + 16, 1].abs() > 1).long()) for i in (0, 16, 32, 48)
    ]


def _model(dropout=0.0):
    torch.manual_seed(0)
    # two dropouts: of one alone the masks would be the same, row by row, whatever runs at once
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(dropout), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)).double()


class Room:
    """A device on which a gradient of more than so many samples, at its call of a given number, is too much."""

    def __init__(self, monkeypatch, samples, after=0):
        self.samples, self.after, self.calls, self.refused = samples, after, [], 0
        inner = GradientTask.mean_gradient

        def mean_gradient(task, batch, params=None):
            self.calls.append(batch_length(batch))
            if batch_length(batch) > self.samples and len(self.calls) > self.after:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return inner(task, batch, params)

        monkeypatch.setattr(functional.GradientTask, "mean_gradient", mean_gradient)


def _numbers(report):
    return report.totals[NUMBERS].to_numpy(dtype=float)


def test_a_budget_bounds_the_samples_of_a_mini_batch_and_changes_nothing(monkeypatch):
    whole = estimate_cor(_model(), _batches(), **OPTIONS)
    seen = Room(monkeypatch, 100)
    few = estimate_cor(_model(), _batches(), memory=1500, **OPTIONS)
    assert max(seen.calls) in range(1, 8)
    np.testing.assert_allclose(_numbers(few), _numbers(whole), rtol=1e-7)


@pytest.mark.parametrize("room", [1, 3])
def test_out_of_memory_takes_fewer_samples_and_changes_nothing(monkeypatch, room):
    whole = estimate_cor(_model(), _batches(), **OPTIONS)
    small = Room(monkeypatch, room)
    found = estimate_cor(_model(), _batches(), **OPTIONS)
    assert small.refused == {1: 3, 3: 2}[room]  # 8, 4, 2 and 8, 4
    np.testing.assert_allclose(_numbers(found), _numbers(whole), rtol=1e-7)


def _drift(model, advance=lambda done: None):
    params = trainable_params(model)
    task = GradientTask(model, params, resolve_loss(None))
    plan = plan_rows(params, assign_groups(model, params, "block"), num_rows=8, seed=0)
    gradient = BatchGradient(task)
    return (
        measure_drift(gradient, _batches(), [0.01, 0.1], plan, perturb="all", seed=0, advance=advance, known={})
        .grams.drift[0, -1]
        .diagonal()
    )


def test_a_batch_has_one_chunk_for_all_its_radii(monkeypatch):
    """With dropout a gradient taken whole and a drift taken in halves would differ by their masks alone."""
    whole = _drift(_model(0.5))
    middle = Room(monkeypatch, 8, after=4)  # the second batch's gradient was taken, its drift is too much
    found = _drift(_model(0.5))
    assert middle.refused == 1
    np.testing.assert_allclose(found[0], whole[0])
    assert found[1] < 5 * whole[1]


def test_memory_for_no_sample_at_all_is_a_sentence():
    def never():
        raise torch.OutOfMemoryError("CUDA out of memory")

    task = GradientTask(_model(), trainable_params(_model()), resolve_loss(None))
    with pytest.raises(ProbeError, match="memory for one sample's forward and backward"):
        BatchGradient(task).until_it_fits(never, 8)


def test_progress_goes_back_with_the_batch_that_is_begun_again(monkeypatch):
    Room(monkeypatch, 8, after=2)
    done = []
    _drift(_model(), done.append)
    assert sum(done) == 64 * 3
    assert min(done) < 0
