import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from gsnr_toolkit import SAM
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.training.diagnosis import OUTCOMES, STATES, PlateauWatch, diagnose, outcome

LN2 = math.log(2)


def noise(seed, steps, sd=0.01, phi=0.0):
    """Gaussian AR(1) noise of a given stationary sd."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=steps) * sd
    for step in range(1, steps):
        values[step] = phi * values[step - 1] + math.sqrt(1 - phi * phi) * values[step]
    return values


def states(losses, norms=None, plateau_loss=LN2):
    watch, seen = PlateauWatch(plateau_loss), []
    for loss, norm in zip(losses, [math.nan] * len(losses) if norms is None else norms, strict=True):
        watch.add(float(loss), float(norm))
        seen.append(watch.state)
    return watch, seen


def runs(seen):
    """List the distinct states in order."""
    return [state for place, state in enumerate(seen) if place == 0 or seen[place - 1] != state]


@pytest.mark.parametrize("plateau_loss", [LN2, math.log(10), 1.0, 3e4])
def test_an_exponential_leave(plateau_loss):
    steps = np.arange(600)
    clean = plateau_loss * np.minimum(1, 0.2 + 0.8 * np.exp(-(steps - 200) / 60))
    watch, seen = states(clean + plateau_loss * noise(0, 600), plateau_loss=plateau_loss)
    assert runs(seen) == ["too_early", "on_plateau", "leaving", "left"]
    assert 200 < watch.left_at < 225
    assert (watch.times_left, watch.steps_on_plateau, watch.steps) == (1, watch.left_at, 600)
    assert outcome(watch, horizon_steps=250) == "left"
    assert outcome(watch, horizon_steps=200) == "delayed"


def test_leaving_and_falling_back_again_and_again():
    """The course of a run at too large a radius: .6866 and back, three times within 1500 steps."""
    steps, losses = np.arange(1500), np.full(1500, 0.6931)
    for start in (500, 1050, 1250):
        losses -= 0.0065 * np.clip(np.minimum((steps - start) / 60, (start + 140 - steps) / 40), 0, 1)
    watch, seen = states(losses + noise(1, 1500, 0.002))
    assert runs(seen) == ["too_early", "on_plateau", *["leaving", "fell_back"] * 3]
    assert (watch.times_left, watch.left_at) == (3, None)
    assert outcome(watch, horizon_steps=1500) == "fell_back"


def test_a_deep_stay_ends_too():
    losses = np.concatenate([np.full(100, LN2), np.linspace(LN2, 0.2, 200), np.linspace(0.2, LN2, 30)])
    watch, seen = states(np.concatenate([losses, np.full(60, LN2)]) + noise(2, 390, 0.02))
    assert runs(seen) == ["too_early", "on_plateau", "leaving", "left", "fell_back"]
    assert watch.left_at is None


def test_sinking_needs_norms_that_fall_by_decades():
    steps = np.arange(1500)
    norms = 0.3 * 10 ** (-steps / 500 + noise(3, 1500, 0.2))
    losses = LN2 + noise(4, 1500, 1e-3)
    watch, seen = states(losses, norms)
    assert runs(seen) == ["too_early", "on_plateau", "sinking"]
    assert 450 < seen.index("sinking") < 650
    assert outcome(watch, horizon_steps=1500) == "sank"
    assert "fold; lower rho" in watch.message
    assert states(losses)[0].state == "on_plateau"
    level, _ = states(losses, 0.3 * 10 ** noise(3, 1500, 0.2))
    assert level.state == "on_plateau"


def test_what_was_left_from_once_is_no_proof_of_sinking():
    """Norms fall by 1.2 decades, the run leaves, comes back with larger ones, and they fall to the same level."""
    fall = np.linspace(-0.5, -2.0, 400)
    stay = np.full(120, -0.2)
    logs = np.concatenate([fall, stay, np.linspace(-0.2, -2.1, 400)])
    losses = np.concatenate([np.full(400, LN2), np.full(120, 0.66), np.full(400, LN2)])
    _, seen = states(losses + noise(5, 920, 0.002), 10.0 ** (logs + noise(6, 920, 0.1)))
    assert "sinking" in seen[:400]
    assert "sinking" not in seen[520:]
    assert seen[-1] == "fell_back"


def test_a_head_that_begins_far_off_is_on_the_plateau():
    steps = np.arange(400)
    losses = LN2 + 3 * np.exp(-steps / 15)
    norms = 0.3 * (1 + 30 * np.exp(-steps / 15))
    _, seen = states(losses + noise(7, 400, 0.02), norms * 10 ** noise(8, 400, 0.1))
    assert set(seen[20:]) == {"on_plateau"}


@pytest.mark.parametrize(
    ("losses", "nan"),
    [
        ([LN2] * 40 + [math.nan], True),
        ([LN2, math.inf], True),
        ([*np.linspace(0.7, 0.3, 100), *np.linspace(0.3, 9, 40)], False),
        ([0.7, 0.8, 2.0, 9.0, 80.0] + [900.0] * 60, False),
    ],
)
def test_divergence(losses, nan):
    watch, _ = states(losses)
    assert watch.state == "diverged"
    assert math.isnan(watch.loss) == nan
    assert (watch.left_at, outcome(watch, horizon_steps=1000)) == (None, "diverged")


def test_a_loss_that_was_not_finite_long_ago_is_forgotten():
    assert states([math.inf] + [0.1] * 80)[0].state == "left"


@pytest.mark.parametrize("share", [1.005, 0.995])
def test_a_plateau_loss_off_by_half_a_per_cent_flips_nothing(share):
    flat, left = LN2 + noise(9, 800, 0.002), LN2 * np.minimum(1, np.exp((200 - np.arange(800)) / 80))
    assert set(states(flat, plateau_loss=share * LN2)[1][20:]) == {"on_plateau"}
    watch, seen = states(left + noise(10, 800), plateau_loss=share * LN2)
    assert runs(seen) == ["too_early", "on_plateau", "leaving", "left"]
    assert 195 < watch.left_at < 225


def test_too_early():
    watch, _ = states([LN2] * 19)
    assert (watch.state, watch.left_at, watch.steps_on_plateau) == ("too_early", None, 19)
    assert math.isnan(watch.loss)
    assert diagnose([]).state == "too_early"


def test_the_watch_goes_on_where_it_stood():
    losses = LN2 * np.minimum(1, np.exp((100 - np.arange(300)) / 80)) + noise(11, 300)
    norms = 10.0 ** noise(12, 300)
    whole, _ = states(losses, norms)
    for cut in (0, 1, 7, 19, 20, 90, 133, 299):
        first, _ = states(losses[:cut], norms[:cut])
        second = PlateauWatch(LN2)
        second.load_state_dict(first.state_dict())
        for loss, norm in zip(losses[cut:], norms[cut:], strict=True):
            second.add(loss, norm)
        np.testing.assert_equal(second.state_dict(), whole.state_dict())
        assert second.diagnosis() == whole.diagnosis()
    with pytest.raises(ProbeError, match=r"expected a state saved by PlateauWatch.state_dict\(\), got one without"):
        PlateauWatch(LN2).load_state_dict({"losses": [0.7], "dead_steps": 1})


def test_a_run_is_given_up_only_after_its_patience_on_end():
    watch = PlateauWatch(LN2, patience=30)
    for step in range(48):
        watch.add(LN2)
        assert not watch.hopeless, step
    for _ in range(60):
        watch.add(0.3)
    assert not watch.hopeless
    for _ in range(100):
        watch.add(LN2)
    assert (watch.state, watch.hopeless) == ("fell_back", True)
    assert not states([LN2] * 300)[0].hopeless


def test_words():
    assert set(STATES) >= {diagnose([LN2] * 30).state}
    assert {outcome(diagnose(losses), horizon_steps=50) for losses in ([LN2] * 50, [0.3] * 90)} == {"delayed", "left"}
    assert set(OUTCOMES) == {"left", "delayed", "fell_back", "sank", "diverged"}


def test_wrong_arguments():
    with pytest.raises(ProbeError, match="expected plateau_loss to be a positive number, got 0"):
        PlateauWatch(0)
    with pytest.raises(ProbeError, match="expected patience to be a whole number from 0, got -1"):
        PlateauWatch(LN2, patience=-1)
    with pytest.raises(ProbeError, match="got 1 norms and 2 losses; pass both of the same steps"):
        diagnose([0.7, 0.7], [0.1])


NULLS = {
    "white": lambda seed: LN2 + noise(seed, 2000, 0.1),
    "correlated": lambda seed: LN2 + noise(seed, 2000, 0.1, phi=0.5),
    "squared errors of 16": lambda seed: LN2 * np.random.default_rng(seed).chisquare(16, 2000) / 16,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", NULLS)
def test_noise_alone_hardly_ever_leaves(kind):
    """2000 steps on the plateau, 200 seeds: at most a few per cent are ever called leaving."""
    left = [bool({"leaving", "left"} & set(states(NULLS[kind](seed))[1])) for seed in range(200)]
    assert sum(left) <= 4


def train_digits(rho, steps, *, batch_size=32):
    """Train a small network to tell odd from even digits, in balanced batches."""
    torch.manual_seed(0)
    inputs, digits = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(inputs / 16, dtype=torch.float32), torch.tensor(digits % 2)
    rows = [torch.nonzero(labels == label).flatten() for label in (0, 1)]
    hidden = [nn.Linear(64, 64), nn.LayerNorm(64), nn.Tanh(), nn.Linear(64, 64), nn.LayerNorm(64), nn.Tanh()]
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), *hidden, nn.Linear(64, 2))
    optimizer, watch = SAM(model, torch.optim.AdamW, lr=1e-3, rho=rho), PlateauWatch(LN2)
    for _ in range(steps):
        batch = torch.cat([row[torch.randint(len(row), (batch_size // 2,))] for row in rows])

        def closure(batch=batch):
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            loss.backward()
            return loss.detach()

        watch.add(float(optimizer.step(closure)), optimizer.grad_norm)
    return watch


def test_on_real_digits_a_plain_run_leaves_and_sam_far_above_falls_back_or_sinks():
    plain = train_digits(0.0, 200)
    assert (plain.state, outcome(plain, horizon_steps=100)) == ("left", "left")
    far = train_digits(1.0, 500)
    assert outcome(far, horizon_steps=5 * plain.steps_on_plateau) in ("sank", "fell_back")
