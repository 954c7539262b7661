"""Measuring leaves metrics, counters, flags and modes of a model and of its loss as they were."""

from functools import partial

import pytest
import torch
from torch import nn
from torchmetrics import Accuracy, MeanMetric
from torchmetrics.aggregation import CatMetric

from gsnr_toolkit import AutoRho, ProbeError, Recorder, estimate_cor, estimate_gsnr

INPUTS = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
BATCHES = [(INPUTS[i : i + 8], (INPUTS[i : i + 8, 0] > 0).long()) for i in range(0, 32, 8)]
GLOBAL = MeanMetric()


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def noted(metric, model, batch):
    losses = cross_entropy(model, batch)
    metric.update(losses.detach().mean())
    return losses


class Task:
    def __init__(self):
        self.metric = MeanMetric()

    def loss(self, model, batch):
        return noted(self.metric, model, batch)

    def __call__(self, model, batch):
        return noted(self.metric, model, batch)


def by_closure(metric):
    return metric, lambda model, batch: noted(metric, model, batch)


def by_global():
    return GLOBAL, lambda model, batch: noted(GLOBAL, model, batch)


def by_task(call):
    task = Task()
    return task.metric, (task if call else task.loss)


HOLDERS = {
    "closure": lambda: by_closure(MeanMetric()),
    "list state": lambda: by_closure(CatMetric()),
    "partial": lambda: (metric := MeanMetric(), partial(noted, metric)),
    "bound method": lambda: by_task(call=False),
    "callable": lambda: by_task(call=True),
    "global": by_global,
}
MEASURES = {
    "gsnr": lambda model, loss: estimate_gsnr(model, BATCHES, loss_fn=loss, progress=False),
    "cor": lambda model, loss: estimate_cor(model, BATCHES, loss_fn=loss, progress=False, batch_size=4),
    "recorder": lambda model, loss: Recorder(model, BATCHES, loss, batch_size=4)(0),
    "auto": lambda model, loss: AutoRho(model, BATCHES, loss, batch_size=4).radius(0),
}


def state(metric):
    return metric._update_count, metric._computed, {name: repr(getattr(metric, name)) for name in metric._defaults}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("holder", HOLDERS)
def test_metrics_inside_a_loss_are_restored(holder, measure):
    metric, loss = HOLDERS[holder]()
    metric.update(torch.tensor(7.0))
    before = state(metric)
    MEASURES[measure](nn.Linear(4, 2), loss)
    assert state(metric) == before


class Counting(nn.Module):
    """Counts in a number, a tensor that is no buffer, a list and a metric."""

    def __init__(self):
        super().__init__()
        self.layer, self.accuracy = nn.Linear(4, 2), Accuracy("multiclass", num_classes=2)
        self.calls, self.total, self.seen = 0, torch.zeros(()), []

    def forward(self, inputs):
        logits = self.layer(inputs)
        self.calls += 1
        self.total += 1
        self.seen.append(len(inputs))
        return logits


@pytest.mark.parametrize("measure", MEASURES)
def test_plain_states_of_a_model_are_restored(measure):
    model = Counting()
    total, seen = model.total, model.seen
    model(INPUTS)

    def loss(model, batch):
        model.accuracy.update(torch.zeros(2), torch.tensor([0, 1]))
        return cross_entropy(model, batch)

    MEASURES[measure](model, loss)
    assert (model.calls, float(model.total), model.seen) == (1, 1.0, [32])
    assert model.total is total
    assert model.seen is seen
    assert model.accuracy._update_count == 0


@pytest.mark.parametrize("measure", MEASURES)
def test_flags_and_modes_that_a_loss_switches_are_restored(measure):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[1].eval()
    model[0].bias.requires_grad_(False)

    def loss(model, batch):
        losses = cross_entropy(model, batch)
        model[0].bias.requires_grad_(True)
        model[2].eval()
        return losses

    MEASURES[measure](model, loss)
    assert [param.requires_grad for param in model.parameters()] == [True, False, True, True, True, True]
    assert [module.training for module in model.modules()] == [True, True, False, True]


class WritesInEval(nn.Linear):
    """Writes to the weight of another module when modes switch, which no snapshot of its own covers."""

    def train(self, mode=True):
        if mode != self.training and hasattr(self, "other"):
            with torch.no_grad():
                self.other[0].weight.mul_(1.1)
        return super().train(mode)


@pytest.mark.parametrize("measure", ["recorder", "auto"])
def test_a_weight_that_a_mode_switch_moves_is_named(measure):
    writer, plain = WritesInEval(4, 4), nn.Linear(4, 2)
    writer.other = (plain,)
    with pytest.raises(ProbeError, match=r"1 parameters changed, first '1.weight'"):
        MEASURES[measure](nn.Sequential(writer, plain), cross_entropy)


def test_a_parameter_that_is_replaced_is_named():
    model = nn.Linear(4, 2)

    def replacing():
        yield from BATCHES
        model.bias = nn.Parameter(model.bias.detach().clone())

    with pytest.raises(ProbeError, match="1 parameters changed, first 'bias'"):
        estimate_gsnr(model, replacing(), progress=False)
