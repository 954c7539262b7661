import math

import numpy as np
import pandas as pd
import pytest
import torch
from cases import CASES, TinyViT
from reference import debiased_sqnorm, one_row, per_sample_gradients
from reference import group_gsnr as reference_gsnr
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gsnr_toolkit import ProbeError, ProbeWarning, estimate_cor, estimate_gsnr, iter_probe, probe
from gsnr_toolkit.errors import NonDeterministicError, NonFiniteError
from gsnr_toolkit.losses import inferred_loss

GSNR_COLUMNS = [
    "group",
    "depth",
    "num_params",
    "num_samples",
    "gsnr",
    "gsnr_low",
    "gsnr_high",
    "gsnr_plugin",
    "noise_floor",
    "noise_scale",
    "trace_covariance",
    "mean_grad_sqnorm",
]
COR_COLUMNS = [
    "cor",
    "cor_low",
    "cor_high",
    "alignment_radius",
    "signal_fraction",
    "misspecification",
    "grad_norm",
    "status",
    "in_collapse_zone",
]


def _data(n=96, features=6, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, features, generator=generator, dtype=dtype)
    labels = (inputs[:, 0] + 0.3 * torch.randn(n, generator=generator, dtype=dtype) > 0).long()
    return inputs, labels


def _loader(n=96, batch_size=12, **extra):
    return DataLoader(TensorDataset(*_data(n, **extra)), batch_size=batch_size)


def _mlp(dtype=torch.float64):
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)


def _flat(grads, names):
    return torch.cat([grads[name].flatten(1) for name in names], 1).numpy()


def _literal(model, n=96):
    return per_sample_gradients(model, _data(n), inferred_loss, one_row)


@pytest.mark.parametrize("engine", ["loop", "vmap", "auto"])
def test_gsnr_equals_the_literal_reference(engine):
    model = _mlp()
    frame = estimate_gsnr(model, _loader(), engine=engine, progress=False).to_frame()
    grads = _literal(model)
    for group, names in (("module 0", ["0.weight", "0.bias"]), ("module 2", ["2.weight", "2.bias"])):
        row = frame.set_index("group").loc[group]
        expected = reference_gsnr(_flat(grads, names), shard_size=6)
        np.testing.assert_allclose(row["gsnr"], expected["gsnr"], rtol=1e-9)
        np.testing.assert_allclose(row["gsnr_plugin"], expected["plugin"], rtol=1e-9)
        np.testing.assert_allclose(row["trace_covariance"], expected["trace"], rtol=1e-9)
        np.testing.assert_allclose(row["mean_grad_sqnorm"], expected["mean_sqnorm"], rtol=1e-9)
        assert row["noise_floor"] == 1 / 96
        np.testing.assert_allclose(row["noise_scale"], 1 / row["gsnr"])


def test_cor_equals_a_literal_sam_loop():
    """Every gradient by .backward() on a copy of the model whose parameters are moved by hand."""
    import copy

    model, rho, batches = _mlp(), 0.7, list(_loader())
    plain, after = [], []
    for batch in batches:
        twin = copy.deepcopy(model)
        inferred_loss(twin, batch).mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in twin.parameters()])
        with torch.no_grad():
            for p in twin.parameters():
                p.add_(rho * p.grad / gradient.norm())
        twin.zero_grad()
        inferred_loss(twin, batch).mean().backward()
        plain.append(gradient.numpy())
        after.append(torch.cat([p.grad.flatten() for p in twin.parameters()]).numpy())
    drift = math.sqrt(debiased_sqnorm(np.array(after) - np.array(plain)))
    report = estimate_cor(model, _loader(), radii=[0.1, rho, 3.0], refine=0, progress=False)
    row = report.drift.query("group == 'total' and rho == @rho").iloc[0]
    np.testing.assert_allclose(row["drift"], drift, rtol=1e-9)
    np.testing.assert_allclose(row["grad_norm"] ** 2, report.total["mean_grad_sqnorm"], rtol=1e-9)
    others = [np.mean([plain[j] @ after[k] for j in range(8) if j != k]) for k in range(8)]
    batch_signal = debiased_sqnorm(np.array(plain))
    np.testing.assert_allclose(row["alignment"], np.mean(others) / batch_signal, rtol=1e-9)


def test_refinement_puts_a_radius_at_the_crossing():
    coarse = estimate_cor(_mlp(), _loader(), refine=0, progress=False)
    torch.manual_seed(0)
    fine = estimate_cor(_mlp(), _loader(), refine=3, progress=False)
    tried = fine.drift.query("group == 'total'")["rho"]
    assert np.abs(np.log(tried / fine.cor)).min() < 0.02
    assert len(tried) > len(coarse.drift.query("group == 'total'"))
    crossing = fine.drift.query("group == 'total'").iloc[np.abs(np.log(tried / fine.cor)).argmin()]
    np.testing.assert_allclose(crossing["drift"], crossing["grad_norm"], rtol=0.05)


def test_the_contract_of_columns():
    gsnr, cor = (f(_mlp(), _loader(), progress=False) for f in (estimate_gsnr, estimate_cor))
    assert set(GSNR_COLUMNS) <= set(gsnr.to_frame().columns)
    assert set(GSNR_COLUMNS + COR_COLUMNS) <= set(cor.to_frame().columns)
    assert len(cor.to_frame()) == 2
    assert cor.total["group"] == "total"
    assert cor.cor == cor.total["cor"]
    assert cor.bottleneck.group in set(cor.to_frame()["group"])
    assert cor.verdict.startswith("rho = 0.05")
    assert math.isnan(gsnr.cor)
    assert "samples make signal and noise equal" in gsnr.verdict


def test_decomposition_adds_up_in_the_report():
    frame = estimate_cor(_mlp(), _loader(), radii=[0.01, 0.1, 1, 10], progress=False).to_frame()
    assert (frame["status"] == "ok").all()
    product = frame["signal_fraction"] / (frame["misspecification"] * frame["grad_norm"])
    np.testing.assert_allclose(product, frame["cor"], rtol=1e-6)
    np.testing.assert_allclose(frame["signal_fraction"], frame["gsnr"] / (1 + frame["gsnr"]), rtol=1e-6)
    np.testing.assert_allclose(frame["grad_norm"] ** 2, frame["mean_grad_sqnorm"], rtol=1e-9)


def test_groups_split_the_total():
    report = estimate_cor(_mlp(), _loader(), groups="parameter", progress=False)
    frame = report.to_frame()
    assert frame["num_params"].sum() == report.total["num_params"] == 41
    np.testing.assert_allclose(frame["trace_covariance"].sum(), report.total["trace_covariance"])
    np.testing.assert_allclose(frame["mean_grad_sqnorm"].sum(), report.total["mean_grad_sqnorm"])
    assert sorted(name for names in report.groups.values() for name in names) == sorted(frame["group"])
    assert "exactly one of 4 groups" in report.coverage["sentence"]


def test_perturbing_one_group_alone():
    """With one group the two modes agree; with several, a group's own drift ignores the others."""
    one = {
        mode: estimate_cor(_mlp_seeded(), _loader(), groups=lambda _: "all", perturb=mode, progress=False)
        for mode in ("all", "group")
    }
    np.testing.assert_allclose(one["all"].to_frame()["cor"], one["group"].to_frame()["cor"], rtol=1e-9)
    several = {
        mode: estimate_cor(_mlp_seeded(), _loader(), perturb=mode, refine=0, progress=False)
        for mode in ("all", "group")
    }
    np.testing.assert_allclose(several["all"].cor, several["group"].cor, rtol=1e-6)
    assert not np.allclose(several["all"].to_frame()["cor"], several["group"].to_frame()["cor"], rtol=1e-2)


def _mlp_seeded():
    torch.manual_seed(0)
    return _mlp()


def test_frozen_parameters_only_on_request():
    model = _mlp()
    model[0].requires_grad_(False)
    assert estimate_gsnr(model, _loader(), progress=False).to_frame()["group"].tolist() == ["module 2"]
    both = estimate_gsnr(model, _loader(), include_frozen=True, progress=False)
    assert both.to_frame()["group"].tolist() == ["module 0", "module 2"]
    assert not model[0].weight.requires_grad


def test_max_samples_and_seeds():
    report = estimate_gsnr(_mlp(), _loader(), max_samples=30, progress=False)
    assert report.total["num_samples"] == 30
    again = estimate_gsnr(_mlp_seeded(), _loader(), max_samples=30, progress=False)
    torch.manual_seed(0)
    pd.testing.assert_frame_equal(
        again.to_frame(), estimate_gsnr(_mlp(), _loader(), max_samples=30, progress=False).to_frame()
    )


@pytest.mark.parametrize("name", ["open_clip ViT", "ViT on scaled_dot_product_attention", "tied embedding, dict batch"])
def test_real_architectures_end_to_end(name):
    case = CASES[name]
    report = estimate_cor(case.model(), [case.batch() for _ in range(8)], loss_fn=case.loss_fn, progress=False)
    assert set(report.to_frame()["status"]) <= {"ok", "no_signal", "above_max_radius", "undefined"}
    assert report.total["num_samples"] == 40


def test_a_list_an_iterator_and_a_loader_give_the_same():
    model = _mlp()
    frames = [
        estimate_cor(model, loader, progress=False).to_frame()
        for loader in (_loader(), list(_loader()), iter(_loader()))
    ]
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frames[0], frame)


def test_a_named_device_leaves_the_model_where_it_is():
    model = _mlp()
    report = estimate_cor(model, _loader(), device="cpu", progress=False)
    assert report.provenance["device"] == "cpu"


# ---- nothing is left changed -------------------------------------------------------------------------------------


class _Noisy(nn.Module):
    """Dropout, a buffer that counts calls, and a parameter with a gradient."""

    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(6, 1), nn.Dropout(0.1)
        self.register_buffer("calls", torch.zeros(()))
        self.layer.weight.grad = torch.full((1, 6), 3.0)

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.calls.add_(1)
        return self.layer(self.drop(x))


def _state(model, loader):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    rng = (torch.get_rng_state(), np.random.get_state()[1].copy(), loader.generator.get_state())  # noqa: NPY002
    return state, grads, modes, flags, rng


def _assert_same(before, after):
    for name, value in before[0].items():
        assert torch.equal(value, after[0][name]), name
    for name, grad in before[1].items():
        assert grad is None if after[1][name] is None else torch.equal(grad, after[1][name])
    assert before[2:4] == after[2:4]
    assert torch.equal(before[4][0], after[4][0])
    assert np.array_equal(before[4][1], after[4][1])
    assert torch.equal(before[4][2], after[4][2])


def _shuffled():
    data = TensorDataset(*_data(dtype=torch.float32))
    return DataLoader(data, batch_size=12, shuffle=True, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("call", [estimate_gsnr, estimate_cor, lambda *a, **k: probe(*a, steps=3, measurements=2, **k)])
def test_everything_is_left_as_found(call):
    model, loader = _Noisy(), _shuffled()
    before = _state(model, loader)
    call(model, loader, progress=False)
    _assert_same(before, _state(model, loader))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [estimate_cor, lambda *a, **k: probe(*a, steps=3, measurements=2, **k)])
@pytest.mark.parametrize("when", [3, 14, 30])
def test_everything_is_left_as_found_when_it_raises(call, error, when):
    model, loader, calls = _Noisy(), _shuffled(), []

    def failing(model, batch):
        calls.append(None)
        if len(calls) == when:
            raise error("stop")
        return inferred_loss(model, batch)

    before = _state(model, loader)
    with pytest.raises(error, match="stop"):
        call(model, loader, loss_fn=failing, engine="loop", progress=False)
    _assert_same(before, _state(model, loader))


def test_an_abandoned_run_gives_the_model_back():
    model, loader = _Noisy(), _shuffled()
    before = _state(model, loader)
    reports = iter_probe(model, loader, steps=6, measurements=3, progress=False)
    first = next(reports)
    second = next(reports)
    reports.close()
    assert first.partial
    assert second.partial
    _assert_same(before, _state(model, loader))


# ---- guards ------------------------------------------------------------------------------------------------------


def _raises(error, message, model=None, loader=None, call=estimate_cor, **options):
    with pytest.raises(error, match=message):
        call(model or _mlp(), _loader() if loader is None else loader, progress=False, **options)


def test_guard_batchnorm_in_train_mode():
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    _raises(ProbeError, r"train mode \('1'.*model.eval\(\)", model)
    assert estimate_gsnr(model.eval(), _loader(), progress=False).total["num_samples"] == 96


def test_guard_empty_and_used_up_loaders():
    _raises(ProbeError, "got none; check the data set's length", loader=[])
    used = iter(_loader())
    list(used)
    _raises(ProbeError, "used up: pass the DataLoader itself", loader=used)


def test_guard_too_few_samples():
    _raises(ProbeError, r"at least 4 samples.*got 3", loader=_loader(3), call=estimate_gsnr)
    _raises(ProbeError, r"at least 4 mini-batches.*got 2 of 48", batch_size=48)


def test_four_samples_are_enough():
    inputs, _ = _data(4)
    report = estimate_cor(_mlp(), [(inputs, torch.tensor([0, 1, 0, 1]))], progress=False)
    assert report.total["num_samples"] == 4
    assert report.settings["batch_size"] == 1


def test_guard_one_class():
    inputs, _ = _data()
    one = [(inputs, torch.ones(96, dtype=torch.long))]
    _raises(ProbeError, r"at least two classes, got class 1 for all 96", loader=one)
    report = estimate_gsnr(_mlp(), one, loss_fn=inferred_loss_as_own, progress=False)
    assert report.total["num_samples"] == 96


def inferred_loss_as_own(model, batch):
    return inferred_loss(model, batch)


def test_guard_non_finite_loss_names_sample_and_batch():
    inputs, labels = _data()
    inputs[30, 0] = float("nan")
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=12)
    _raises(NonFiniteError, "nan for sample 6 of batch 2", loader=loader, call=estimate_gsnr, engine="vmap")


def test_guard_non_finite_gradient_names_the_parameter():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 1), nn.Linear(6, 1)

        def forward(self, x):
            hidden = self.second(x)
            return self.first(x) + torch.where(hidden.isnan(), hidden, (hidden * 0).sqrt())

    _raises(NonFiniteError, r"first in 'second.weight' for batch 0", Root().double(), call=estimate_gsnr)


def test_guard_non_determinism():
    class Counting(nn.Linear):
        count = 0

        def forward(self, x):
            Counting.count += 1
            return super().forward(x) + 0.1 * Counting.count

    _raises(NonDeterministicError, "same losses for the same batch", Counting(6, 1).double())


def test_guard_a_loss_that_mixes_samples():
    def contrastive(model, batch):
        return model(batch[0]).squeeze(1) - model(batch[0]).mean()

    _raises(ProbeError, "does not depend on the rest of the batch", loss_fn=contrastive)


def test_guard_a_scalar_loss():
    _raises(ProbeError, r"reduction='none'", loss_fn=lambda model, batch: inferred_loss(model, batch).mean())


def test_guard_devices():
    _raises(ProbeError, "parameters on cpu and the batch on meta", loader=[tuple(t.to("meta") for t in _data())])


def test_guard_a_loss_that_trains_the_model():
    def training(model, batch):
        model[0].bias.data.add_(1e-3)
        return inferred_loss(model, batch)

    with pytest.raises((ProbeError, NonDeterministicError)):
        estimate_gsnr(_mlp(), _loader(), loss_fn=training, progress=False)


def test_guard_options():
    _raises(ProbeError, "rho to be a positive radius.*got -1", rho=-1)
    _raises(ProbeError, "radii to be two or more positive, increasing.*1.0, 0.5", radii=[1.0, 0.5])
    _raises(ProbeError, "layerwise to be one of 'parameters', 'readout', got 'blocks'", layerwise="blocks")
    _raises(ProbeError, "perturb to be one of", perturb="some")
    _raises(ProbeError, "confidence to be between 0 and 1", confidence=95)
    _raises(ProbeError, "engine to be one of 'auto'", engine="gpu")
    _raises(ProbeError, "refine to be 0 to 5", refine=9)
    _raises(ProbeError, "max_samples to be 1 or more", max_samples=0)


def test_zero_gradients_are_undefined_with_a_warning():
    model = _mlp()
    nn.init.zeros_(model[2].weight)
    with pytest.warns(ProbeWarning, match="undefined .* for module 0"):
        report = estimate_cor(model, _loader(), progress=False)
    row = report.to_frame().set_index("group").loc["module 0"]
    assert row["status"] == "undefined"
    assert math.isnan(row["gsnr"])
    assert math.isnan(row["cor"])
    assert "zero variance" in row["message"]
    assert any("exactly zero" in note for note in report.notes)


def test_pure_noise_is_no_signal_with_the_samples_needed():
    generator = torch.Generator().manual_seed(3)
    noise = [(torch.randn(64, 6, generator=generator).double(), torch.randint(0, 2, (64,), generator=generator))]
    model = nn.Linear(6, 1).double()
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    report = estimate_cor(model, noise, progress=False)
    assert report.total["status"] == "no_signal"
    assert math.isnan(report.cor)
    assert "64 samples the mean gradient cannot be told from noise" in report.total["message"]
    assert report.verdict.startswith("Undecided for rho = 0.05")


def test_above_the_largest_radius():
    report = estimate_cor(_mlp(), _loader(), rho=1e-3, radii=[1e-4, 1e-3], progress=False)
    assert report.total["status"] == "above_max_radius"
    assert report.cor == math.inf
    assert not report.total["in_collapse_zone"]
    assert "certified at rho = 0.001" in report.total["message"]


def test_dropout_is_noted_and_its_masks_are_common():
    model, loader = _Noisy(), _shuffled()
    report = estimate_cor(model, loader, progress=False)
    assert any("dropout is active ('drop'" in note for note in report.notes)
    smallest = report.drift.query("group == 'total'").iloc[0]
    assert smallest["drift"] < 0.05 * smallest["grad_norm"]  # different masks would drift at any radius


# ---- along a run ------------------------------------------------------------------------------------------------


def test_probe_measures_along_a_plain_run():
    report = probe(_mlp_seeded(), _loader(), steps=40, measurements=3, lr=0.05, progress=False)
    assert report.totals["step"].tolist() == [0, 10, 40]
    assert len(report.layers) == 6
    loss = report.trajectory["loss"].tolist()
    assert loss[0] > loss[1] > loss[2]
    assert not report.partial
    assert report.escape.status in ("ok", "unbounded")
    assert report.cor == report.totals["cor"].min()
    assert "at step" in report.verdict


def test_probe_with_ones_own_optimizer_and_training_data():
    report = probe(
        _mlp_seeded(),
        _loader(),
        train_loader=_loader(48, seed=5),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.5),
        steps=10,
        measurements=2,
        progress=False,
    )
    assert report.trajectory["loss"].iloc[1] < report.trajectory["loss"].iloc[0]


def test_a_diverging_run_says_so():
    with pytest.raises(NonFiniteError, match="lower the learning rate"):
        probe(
            nn.Linear(6, 1).double(),
            _loader(),
            optimizer=lambda params: torch.optim.SGD(params, lr=1e308),
            steps=10,
            measurements=1,
            progress=False,
        )


def test_readout_reading_of_a_vit():
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = (images.mean((1, 2, 3)) > 0).long()
    model = TinyViT()
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    report = estimate_cor(model, [(images, labels)], layerwise="readout", progress=False)
    assert report.to_frame()["group"].tolist() == ["block 1", "block 2"]
    assert report.to_frame()["num_params"].tolist() == [9, 9]
