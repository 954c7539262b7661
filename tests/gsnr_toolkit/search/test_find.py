"""The range test against brute force, and everything it promises about the model, the folder and the budget."""

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit import SAM, RhoSearch, find_rho
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.preserve import random_state
from gsnr_toolkit.search import find, trial
from gsnr_toolkit.training.diagnosis import PlateauWatch


def _model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))


@pytest.fixture(scope="module")
def batches():
    inputs = torch.randn(256, 6, generator=torch.Generator().manual_seed(1))
    return [(part, (part[:, 0] * part[:, 1] > 0).long()) for part in inputs.split(32)]


@pytest.fixture(scope="module")
def found(batches):
    return find_rho(_model(), batches, lr=5e-3, progress=False)


def _leaves_by_hand(batches, rho, horizon):
    """SAM from its formula, with AdamW, and the plateau left for good within the horizon."""
    model, watch = _model(), PlateauWatch(F.cross_entropy(torch.zeros(2, 2), torch.tensor([0, 1])).item())
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params, lr=5e-3, weight_decay=0.0)
    for step in range(horizon + 150):
        inputs, labels = batches[step % len(batches)]
        loss = F.cross_entropy(model(inputs), labels)
        gradients = torch.autograd.grad(loss, params)
        norm = torch.stack([part.norm() for part in gradients]).norm()
        watch.add(loss.item(), norm.item())
        moves = [rho * part / norm for part in gradients]
        with torch.no_grad():
            for param, move in zip(params, moves, strict=True):
                param += move
        gradients = torch.autograd.grad(F.cross_entropy(model(inputs), labels), params)
        with torch.no_grad():
            for param, move, gradient in zip(params, moves, gradients, strict=True):
                param -= move
                param.grad = gradient
        optimizer.step()
    return watch.left_at is not None and watch.left_at <= horizon


def test_the_bracket_is_that_of_brute_force(batches, found):
    assert found.status == "found"
    assert 0 < found.rho <= found.low < found.high <= 1.5 * found.low * 1.001
    horizon = max(100, 5 * found.plain_steps)
    assert _leaves_by_hand(batches, found.low, horizon)
    assert not _leaves_by_hand(batches, found.high, horizon)
    assert f"rho <= {found.low:.2g} leaves the plateau" in found.message
    assert found.passes == found.trials["passes"].sum()
    assert found.trials["rho"].iloc[0] == 0


def test_everything_is_given_back(batches):
    model = _model()
    model.train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = torch.utils.data.TensorDataset(*(torch.cat(part) for part in zip(*batches, strict=True)))
    generator = torch.Generator().manual_seed(3)
    loader = torch.utils.data.DataLoader(data, 32, shuffle=True, generator=generator)
    state, drawn = random_state(), generator.get_state()
    find_rho(model, loader, radii=(0.05,), progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model.training
    assert random_state() == state
    assert torch.equal(generator.get_state(), drawn)


def test_the_same_call_finds_the_same(batches, found):
    again = find_rho(_model(), batches, lr=5e-3, progress=False)
    assert again.to_frame().equals(found.to_frame())
    assert (again.rho, again.low, again.high) == (found.rho, found.low, found.high)


def test_a_killed_search_goes_on(batches, found, tmp_path, monkeypatch):
    made = []
    real = trial.Start.run

    def killed(self, rho, seed, rule):
        if len(made) == 2:
            raise SystemExit
        made.append(rho)
        return real(self, rho, seed, rule)

    monkeypatch.setattr(trial.Start, "run", killed)
    with pytest.raises(SystemExit):
        find_rho(_model(), batches, lr=5e-3, folder=tmp_path / "a", progress=False)
    monkeypatch.setattr(trial.Start, "run", real)
    calls = []
    monkeypatch.setattr(trial.Start, "run", lambda *args: calls.append(args) or real(*args))
    resumed = find_rho(_model(), batches, lr=5e-3, folder=tmp_path / "a", progress=False)
    assert resumed.to_frame().equals(found.to_frame())
    assert len(calls) == len(found.trials) - 2
    assert not (tmp_path / "a" / ".lock").exists()
    loaded = RhoSearch.load(tmp_path / "a")
    assert loaded.to_frame().equals(found.to_frame())
    assert (loaded.message, loaded.settings) == (found.message, found.settings)


def test_a_folder_of_another_search_is_refused(batches, tmp_path):
    find_rho(_model(), batches, radii=(0.05,), folder=tmp_path / "a", progress=False)
    with pytest.raises(ProbeError, match=r"with other settings.*weights"):
        find_rho(_model(1), batches, radii=(0.05,), folder=tmp_path / "a", progress=False)
    with pytest.raises(ProbeError, match=r"AdamW.*SGD"):
        find_rho(_model(), batches, optimizer=torch.optim.SGD, radii=(0.05,), folder=tmp_path / "a", progress=False)
    file = next((tmp_path / "a").glob("trial_*.json"))
    file.write_text("{")
    with pytest.raises(ProbeError, match="delete that file"):
        find_rho(_model(), batches, radii=(0.05,), folder=tmp_path / "a", progress=False)
    (tmp_path / "a" / "rho.json").write_text("{}")
    with pytest.raises(ProbeError, match=r"to hold rho\.json"):
        RhoSearch.load(tmp_path / "a")


def test_a_budget_of_steps_returns_what_is_known(batches, found):
    spent = int(found.trials["steps"].iloc[:2].sum())
    short = find_rho(_model(), batches, lr=5e-3, max_steps=spent + 10, progress=False)
    assert short.status == "budget"
    assert short.trials["steps"].sum() == spent
    assert short.message.startswith("the budget ended before")
    none = find_rho(_model(), batches, lr=5e-3, max_steps=5, progress=False)
    assert (none.status, none.rho, none.low, none.high) == ("budget", 0.0, 0.0, math.inf)
    assert "no radius can be suggested" in none.message
    assert find_rho(_model(), batches, max_minutes=1e-9, progress=False).status == "budget"


def test_ctrl_c_returns_what_is_known(batches, found, monkeypatch):
    real, made = trial.Start.run, []

    def interrupted(self, rho, seed, rule):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(rho)
        return real(self, rho, seed, rule)

    monkeypatch.setattr(trial.Start, "run", interrupted)
    part = find_rho(_model(), batches, lr=5e-3, progress=False)
    assert part.status == "interrupted"
    assert part.to_frame().equals(found.to_frame().head(2))


def test_a_plain_run_that_stays(batches, monkeypatch):
    monkeypatch.setattr(find, "_PLAIN_LIMIT", 150)
    stays = find_rho(_model(), batches, lr=1e-9, progress=False)
    assert (stays.status, stays.rho) == ("plain_stays", 0.0)
    assert "raise the learning rate" in stays.message
    assert len(stays.trials) == 1


def test_where_no_radius_fails(batches):
    linear = [(inputs, (inputs[:, 0] > 0).long()) for inputs, _ in batches]
    all_left = find_rho(nn.Linear(6, 2), linear, lr=0.05, radii=(0.01, 0.1), progress=False)
    assert all_left.status == "none_failed"
    assert all_left.high == math.inf
    assert "no larger radius was tried" in all_left.message
    assert all_left.rho <= 0.1
    assert json.loads(all_left.to_json())["high"] == "inf"


def test_where_all_radii_fail(batches):
    none = find_rho(_model(), batches, lr=5e-3, radii=(30.0, 60.0), progress=False)
    assert (none.status, none.rho, none.low, none.high) == ("all_failed", 0.0, 0.0, 30.0)
    assert len(none.trials) == 3


def test_a_model_beyond_the_plateau(batches):
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        for inputs, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    trained = find_rho(model, batches, radii=(0.01, 20.0), lr=0.02, progress=False)
    assert trained.plain_steps < 20
    assert trained.message.startswith("the model is beyond the plateau from the start; rho <= ")
    assert "stays there" in trained.message
    assert trained.trials["steps"].min() >= 100  # watched through the horizon


def test_seeds_are_runs_of_their_own(batches):
    two = find_rho(_model(), batches, lr=5e-3, radii=(0.05,), seeds=2, progress=False)
    assert two.trials["seed"].tolist() == [0, 1, 0, 1]
    assert two.low == 0.05
    with_loss = two.to_frame()
    assert with_loss["steps_on_plateau"].iloc[0] != with_loss["steps_on_plateau"].iloc[1]


def test_the_users_optimizer_is_copied(batches):
    model = _model()
    mine = SAM(
        [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2:].parameters()}],
        torch.optim.SGD, lr=0.1, momentum=0.9, rho=0.3, adaptive=True, model=model,
    )  # fmt: skip
    inputs, labels = batches[0]

    def closure():
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    mine.step(closure)
    state = {k: v["momentum_buffer"].clone() for k, v in mine.state.items()}
    result = find_rho(model, batches, optimizer=mine, radii=(0.05,), progress=False)
    assert result.settings["optimizer"].startswith("SGD")
    assert "'lr': 0.0" in result.settings["optimizer"]
    assert "'lr': 0.1" in result.settings["optimizer"]
    assert all(torch.equal(mine.state[k]["momentum_buffer"], value) for k, value in state.items())
    recipe = find.sam_recipe(model, mine, 1.0)
    made = recipe(0.7)
    assert made.adaptive
    assert made.radii == (0.7, 0.7)
    assert not made.base_optimizer.state
    assert made.param_groups[0]["params"][0] is model[0].weight
    with pytest.raises(ProbeError, match="of the model's parameters"):
        find_rho(_model(1), batches, optimizer=mine)
    factory = find_rho(model, batches, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), radii=(0.05,), progress=False)
    assert "'lr': 0.1" in factory.settings["optimizer"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radii": 0.05}, "expected radii to be several radii, got 0.05"),
        ({"radii": (0.05, -1)}, r"expected radii\[1\] to be a positive number"),
        ({"seeds": 0}, "expected seeds to be"),
        ({"precision": 1.0}, "expected precision to be a ratio"),
        ({"optimizer": "adam"}, "expected optimizer to be an optimizer"),
        ({"max_steps": 0}, "expected max_steps"),
        ({"horizon": -1}, "expected horizon"),
        ({"loss_fn": 3}, "expected loss_fn"),
    ],
)
def test_wrong_arguments(batches, options, words):
    with pytest.raises(ProbeError, match=words):
        find_rho(_model(), batches, **options)


def test_nothing_to_train_and_nothing_to_read(batches):
    with pytest.raises(ProbeError, match="at least one trainable parameter"):
        find_rho(_model().requires_grad_(False), batches)
    with pytest.raises(ProbeError, match="at least one batch"):
        find_rho(_model(), [], plateau_loss=0.69)


def test_the_figure_shows_every_trial(found):
    figure = found.plot()
    (ax,) = figure.axes
    labels = ax.get_legend_handles_labels()[1]
    assert "leaves the plateau" in labels
    assert "plain run" in labels
    assert f"suggested {found.rho:g}" in labels
    points = np.concatenate([part.get_offsets() for part in ax.collections])
    assert len(points) == len(found.trials) - 1
    plt.close(figure)
