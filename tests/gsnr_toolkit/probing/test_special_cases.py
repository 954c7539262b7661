"""Special circumstances through the front door: measured, measured by another engine with a note, or refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit import estimate_gsnr
from gsnr_toolkit.errors import NonDeterministicError, ProbeError
from gsnr_toolkit.gradients.select import make_engine
from gsnr_toolkit.gradients.task import GradientTask, trainable_params
from gsnr_toolkit.inputs.groups import assign_groups
from gsnr_toolkit.inputs.losses import inferred_loss
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.moments.shards import ShardCollector
from gsnr_toolkit.moments.sketches import plan_rows
from gsnr_toolkit.readings.moment_pass import MomentPass
from gsnr_toolkit.setup.distributed import Ranks
from tests.support.front_door import N, assert_like_loop, gsnr, three_class_mlp, three_classes


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

    batch = three_classes()
    found = gsnr(three_class_mlp(nn.Dropout(0.2)), batch)
    assert list(found.coverage["engine"]) == ["taps"]
    assert any("dropout is active ('2' and 0 more)" in note for note in found.notes)
    found = gsnr(three_class_mlp(StochasticDepth(0.2, "row")), batch)
    assert any("dropout is active ('2' and 0 more)" in note for note in found.notes)
    silent = [three_class_mlp(part).eval() for part in (nn.Dropout(0.2), StochasticDepth(0.2, "row"))]
    for model in (*silent, three_class_mlp(nn.Dropout(0.0))):
        assert not any("dropout" in note for note in gsnr(model, batch).notes)


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
        gsnr(three_class_mlp(nn.Dropout(0.2)), loss_fn=MIXING[name], engine=engine)


def test_the_check_for_mixing_leaves_the_modes_as_they_were():
    model = three_class_mlp(nn.Dropout(0.2))
    model[0].eval()
    gsnr(model)
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
        gsnr(Overwriting())


def test_silent_parameters_are_named():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.b(x + self.a(x).detach())

    with pytest.warns(match="undefined"):
        report = gsnr(Detached())
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

    found = assert_like_loop(Filter(complex_weight=False))
    assert any("first 'weight'" in note and "complex numbers" in note for note in found.notes)
    with pytest.raises(ProbeError, match="complex64 for 'weight'"):
        gsnr(Filter(complex_weight=True))


def test_nested_and_packed_batches_are_sentences():
    rows = torch.nested.nested_tensor([torch.randn(2 + i % 2, 6) for i in range(8)], layout=torch.jagged)
    with pytest.raises(ProbeError, match=r"got a nested \(jagged\) one; pad it"):
        gsnr(nn.Linear(6, 3), (rows, torch.arange(8) % 3))
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 6), torch.randn(2, 6)])
    with pytest.raises(ProbeError, match="got a PackedSequence; pass padded"):
        gsnr(nn.LSTM(6, 3), (packed, torch.tensor([0, 1])))


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

    assert list(assert_like_loop(three_class_mlp(), loss_fn=penalised).coverage["engine"]) == ["taps"]
    assert list(assert_like_loop(nn.Sequential(Hooked(6, 6), nn.Tanh(), nn.Linear(6, 3))).coverage["engine"]) == [
        "taps"
    ]


def test_a_power_iteration_that_moves_is_refused():
    model = nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Linear(6, 40), n_power_iterations=1))
    with torch.no_grad():
        model[0].parametrizations.weight[0]._u.copy_(F.normalize(torch.randn(40), dim=0))
        model[0].parametrizations.weight[0]._v.copy_(F.normalize(torch.randn(6), dim=0))
    with pytest.raises(NonDeterministicError, match=r"state that survives a forward pass.*model\.eval\(\)"):
        gsnr(model)
    assert gsnr(model.eval()).total["num_samples"] == N


@pytest.mark.parametrize("detail", ["parameter", "group"])
def test_parameters_without_entries(detail):
    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.none, self.head = nn.Parameter(torch.zeros(6, 0)), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.cat([x, x @ self.none], 1))

    assert list(assert_like_loop(Empty(), detail=detail).coverage["engine"]) == ["taps"]


def test_a_last_batch_of_one_row_and_a_model_that_squeezes():
    class Squeezing(nn.Linear):
        def forward(self, x):
            return super().forward(x.squeeze()).squeeze()

    model, (inputs, labels) = Squeezing(6, 1).eval(), three_classes()
    batches = [(inputs[start : start + 50], labels[start : start + 50].clamp(max=1)) for start in (0, 50, 100)]
    batches.append((inputs[150:151], labels[150:151].clamp(max=1)))
    found, expected = (estimate_gsnr(model, batches, engine=engine, progress=False) for engine in ("taps", "loop"))
    assert found.total["gsnr"] == pytest.approx(expected.total["gsnr"], rel=1e-5)
    assert found.total["num_samples"] == expected.total["num_samples"] == 151
