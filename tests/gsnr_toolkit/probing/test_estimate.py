"""Reports against literal references, the contract of their columns, and runs along a training."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from gsnr_toolkit import ProbeWarning, estimate_cor, estimate_gsnr, probe
from gsnr_toolkit.gradients.kernels import native
from gsnr_toolkit.inputs.losses import inferred_loss
from tests.support.cases import CASES, TinyViT
from tests.support.front_door import make_loader, mlp, seeded_mlp, two_classes
from tests.support.reference import debiased_sqnorm, one_row, per_sample_gradients
from tests.support.reference import group_gsnr as reference_gsnr

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


def _flat(grads, names):
    return torch.cat([grads[name].flatten(1) for name in names], 1).numpy()


def _literal(model, n=96):
    return per_sample_gradients(model, two_classes(n), inferred_loss, one_row)


@pytest.mark.parametrize("engine", ["loop", "vmap", "auto"])
def test_gsnr_equals_the_literal_reference(engine):
    model = mlp()
    frame = estimate_gsnr(model, make_loader(), engine=engine, progress=False).to_frame()
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
    model, rho, batches = mlp(), 0.7, list(make_loader())
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
    report = estimate_cor(model, make_loader(), radii=[0.1, rho, 3.0], refine=0, progress=False)
    row = report.drift.query("group == 'total' and rho == @rho").iloc[0]
    np.testing.assert_allclose(row["drift"], drift, rtol=1e-9)
    np.testing.assert_allclose(row["grad_norm"] ** 2, report.total["mean_grad_sqnorm"], rtol=1e-9)
    others = [np.mean([plain[j] @ after[k] for j in range(8) if j != k]) for k in range(8)]
    batch_signal = debiased_sqnorm(np.array(plain))
    np.testing.assert_allclose(row["alignment"], np.mean(others) / batch_signal, rtol=1e-9)


def test_refinement_puts_a_radius_at_the_crossing():
    coarse = estimate_cor(mlp(), make_loader(), refine=0, progress=False)
    torch.manual_seed(0)
    fine = estimate_cor(mlp(), make_loader(), refine=3, progress=False)
    tried = fine.drift.query("group == 'total'")["rho"]
    assert np.abs(np.log(tried / fine.cor)).min() < 0.02
    assert len(tried) > len(coarse.drift.query("group == 'total'"))
    crossing = fine.drift.query("group == 'total'").iloc[np.abs(np.log(tried / fine.cor)).argmin()]
    np.testing.assert_allclose(crossing["drift"], crossing["grad_norm"], rtol=0.05)


def test_the_contract_of_columns():
    gsnr, cor = (f(mlp(), make_loader(), progress=False) for f in (estimate_gsnr, estimate_cor))
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
    frame = estimate_cor(mlp(), make_loader(), radii=[0.01, 0.1, 1, 10], progress=False).to_frame()
    assert (frame["status"] == "ok").all()
    product = frame["signal_fraction"] / (frame["misspecification"] * frame["grad_norm"])
    np.testing.assert_allclose(product, frame["cor"], rtol=1e-6)
    np.testing.assert_allclose(frame["signal_fraction"], frame["gsnr"] / (1 + frame["gsnr"]), rtol=1e-6)
    np.testing.assert_allclose(frame["grad_norm"] ** 2, frame["mean_grad_sqnorm"], rtol=1e-9)


def test_groups_split_the_total():
    report = estimate_cor(mlp(), make_loader(), groups="parameter", progress=False)
    frame = report.to_frame()
    assert frame["num_params"].sum() == report.total["num_params"] == 41
    np.testing.assert_allclose(frame["trace_covariance"].sum(), report.total["trace_covariance"])
    np.testing.assert_allclose(frame["mean_grad_sqnorm"].sum(), report.total["mean_grad_sqnorm"])
    assert sorted(name for names in report.groups.values() for name in names) == sorted(frame["group"])
    assert "exactly one of 4 groups" in report.coverage["sentence"]


def test_perturbing_one_group_alone():
    """With one group the two modes agree; with several, a group's own drift ignores the others."""
    one = {
        mode: estimate_cor(seeded_mlp(), make_loader(), groups=lambda _: "all", perturb=mode, progress=False)
        for mode in ("all", "group")
    }
    np.testing.assert_allclose(one["all"].to_frame()["cor"], one["group"].to_frame()["cor"], rtol=1e-9)
    several = {
        mode: estimate_cor(seeded_mlp(), make_loader(), perturb=mode, refine=0, progress=False)
        for mode in ("all", "group")
    }
    np.testing.assert_allclose(several["all"].cor, several["group"].cor, rtol=1e-6)
    assert not np.allclose(several["all"].to_frame()["cor"], several["group"].to_frame()["cor"], rtol=1e-2)


def test_frozen_parameters_only_on_request():
    model = mlp()
    model[0].requires_grad_(False)
    assert estimate_gsnr(model, make_loader(), progress=False).to_frame()["group"].tolist() == ["module 2"]
    both = estimate_gsnr(model, make_loader(), include_frozen=True, progress=False)
    assert both.to_frame()["group"].tolist() == ["module 0", "module 2"]
    assert not model[0].weight.requires_grad


def test_max_samples_and_seeds():
    report = estimate_gsnr(mlp(), make_loader(), max_samples=30, progress=False)
    assert report.total["num_samples"] == 30
    again = estimate_gsnr(seeded_mlp(), make_loader(), max_samples=30, progress=False)
    torch.manual_seed(0)
    pd.testing.assert_frame_equal(
        again.to_frame(), estimate_gsnr(mlp(), make_loader(), max_samples=30, progress=False).to_frame()
    )


@pytest.mark.parametrize("name", ["open_clip ViT", "ViT on scaled_dot_product_attention", "tied embedding, dict batch"])
def test_real_architectures_end_to_end(name):
    case = CASES[name]
    report = estimate_cor(case.model(), [case.batch() for _ in range(8)], loss_fn=case.loss_fn, progress=False)
    assert set(report.to_frame()["status"]) <= {"ok", "no_signal", "above_max_radius", "undefined"}
    assert report.total["num_samples"] == 40


def test_a_list_an_iterator_and_a_loader_give_the_same():
    model = mlp()
    frames = [
        estimate_cor(model, loader, progress=False).to_frame()
        for loader in (make_loader(), list(make_loader()), iter(make_loader()))
    ]
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frames[0], frame)


def test_a_named_device_leaves_the_model_where_it_is():
    model = mlp()
    report = estimate_cor(model, make_loader(), device="cpu", progress=False)
    assert report.provenance["device"] == "cpu"
    assert report.provenance["sums_by"] == native.description()


def test_zero_gradients_are_undefined_with_a_warning():
    model = mlp()
    nn.init.zeros_(model[2].weight)
    with pytest.warns(ProbeWarning, match="undefined .* for module 0"):
        report = estimate_cor(model, make_loader(), progress=False)
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
    assert "64 samples the mean gradient is indistinguishable from noise" in report.total["message"]
    assert report.verdict.startswith("Undecided for rho = 0.05")


def test_above_the_largest_radius():
    report = estimate_cor(mlp(), make_loader(), rho=1e-3, radii=[1e-4, 1e-3], progress=False)
    assert report.total["status"] == "above_max_radius"
    assert report.cor == math.inf
    assert not report.total["in_collapse_zone"]
    assert "certified at rho = 0.001" in report.total["message"]


def test_probe_measures_along_a_plain_run():
    report = probe(seeded_mlp(), make_loader(), steps=40, measurements=3, lr=0.05, progress=False)
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
        seeded_mlp(),
        make_loader(),
        train_loader=make_loader(48, seed=5),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.5),
        steps=10,
        measurements=2,
        progress=False,
    )
    assert report.trajectory["loss"].iloc[1] < report.trajectory["loss"].iloc[0]


def test_readout_reading_of_a_vit():
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = (images.mean((1, 2, 3)) > 0).long()
    model = TinyViT()
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    report = estimate_cor(model, [(images, labels)], layerwise="readout", progress=False)
    assert report.to_frame()["group"].tolist() == ["block 1", "block 2"]
    assert report.to_frame()["num_params"].tolist() == [9, 9]
