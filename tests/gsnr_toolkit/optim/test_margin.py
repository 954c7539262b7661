"""``rho="auto"``: against a literal twin of its formula, in every way to step; and where it must say what it needs."""

import copy
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit import SAM, ProbeError
from gsnr_toolkit.optim import MarginRadius, WarmStart, sam_step
from gsnr_toolkit.optim.history import History
from tests.support.sam_reference import (
    EXACT,
    assert_same_bits,
    bits,
    literal_gradient,
    literal_sgd,
    losses,
    make_batch,
    make_model,
)

LN2 = math.log(2)
STEPS = 12


class Twin:
    """The rule as it is written in the documentation, and SAM's step by hand."""

    def __init__(self, model, *, lr=0.5, share=0.25, rho_max=math.inf, adaptive=False, chosen=None, plateau=LN2):
        self.model, self.lr, self.share, self.rho_max, self.plateau = model, lr, share, rho_max, plateau
        self.adaptive, self.chosen = adaptive, chosen or [True] * len(list(model.parameters()))
        self.sums, self.radii = [0.0, 0.0, 0.0], []

    def step(self, batch):
        params = list(self.model.parameters())
        loss = losses(self.model, batch).mean()
        grads = torch.autograd.grad(loss, params)
        flat = torch.cat(
            [
                (g * (w.abs() + 0.01 if self.adaptive else 1)).flatten()
                for g, w, c in zip(grads, params, self.chosen, strict=True)
                if c
            ]
        )
        self.sums = [
            0.9 * old + 0.1 * new for old, new in zip(self.sums, (loss.item(), flat.norm().item(), 1), strict=True)
        ]
        mean, norm = self.sums[0] / self.sums[2], self.sums[1] / self.sums[2]
        rho = min(self.rho_max, self.share * (self.plateau - mean) / norm * mean / self.plateau)
        rho = rho if rho >= 1e-3 else 0.0
        self.radii.append(rho)
        if rho:
            grads = literal_gradient(self.model, batch, rho, adaptive=self.adaptive, eta=0.01, chosen=self.chosen)
        literal_sgd(self.model, grads, self.lr)


def learnable(seed=0, rows=16):
    inputs, _ = make_batch(seed, rows)
    return inputs, (inputs[:, 0] + 0.3 * inputs[:, 1] > 0).long()


def back(model, batch, scale=lambda loss: loss):
    loss = losses(model, batch).mean()
    scale(loss).backward()
    return loss


def run(protocol, model, optimizer):
    counts = []
    for step in range(STEPS):
        batch, calls = learnable(step), []

        def closure(batch=batch, calls=calls):
            calls.append(1)
            return back(model, batch)

        if protocol == "closure":
            optimizer.step(closure)
        elif protocol == "sam_step":
            sam_step(model, batch, losses, optimizer, micro_batch_size=5)
        else:
            optimizer.zero_grad()
            loss = closure()
            if protocol == "two steps":
                again = optimizer.first_step(loss=loss)
                if again:
                    closure()
            else:
                with optimizer.perturbed(loss=loss) as again:
                    if again:
                        closure()
            optimizer.second_step()
        counts.append(len(calls))
    return counts


@pytest.mark.parametrize("protocol", ["closure", "two steps", "context", "sam_step"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_rule_is_its_formula(protocol, adaptive):
    model, twin = make_model(), Twin(make_model(), adaptive=adaptive)
    optimizer = SAM(model, lr=0.5, rho="auto", plateau_loss=LN2, adaptive=adaptive)
    counts = run(protocol, model, optimizer)
    for step in range(STEPS):
        twin.step(learnable(step))
    torch.testing.assert_close(bits(model), bits(twin.model), **EXACT)
    assert optimizer.rho_history["rho"].tolist() == pytest.approx(twin.radii, rel=1e-9)
    assert 0 < sum(rho > 0 for rho in twin.radii) < STEPS, "both kinds of steps are seen"
    if protocol != "sam_step":
        assert counts == [2 if rho else 1 for rho in twin.radii], "a plain step costs one backward"


def test_a_limit_norms_alone_and_groups_with_their_own_limit():
    model, twin = (
        make_model(norm=True),
        Twin(make_model(norm=True), rho_max=0.02, chosen=[False, False, True, True, False, False]),
    )
    optimizer = SAM(model, lr=0.5, rho="auto", plateau_loss=LN2, rho_max=0.02, perturb="norms")
    run("closure", model, optimizer)
    for step in range(STEPS):
        twin.step(learnable(step))
    torch.testing.assert_close(bits(model), bits(twin.model), **EXACT)
    assert max(twin.radii) == 0.02

    model = make_model(norm=True)
    groups = [{"params": model[:2].parameters(), "rho": 0.0}, {"params": model[2:].parameters(), "rho": 0.02}]
    optimizer = SAM(groups, lr=0.5, rho="auto", plateau_loss=LN2)
    twin = Twin(make_model(norm=True), rho_max=0.02, chosen=[False] * 4 + [True] * 2)
    run("closure", model, optimizer)
    for step in range(STEPS):
        twin.step(learnable(step))
    torch.testing.assert_close(bits(model), bits(twin.model), **EXACT)


def test_gradients_may_be_clipped_before_the_second_step():
    model, twin = make_model(), Twin(make_model())
    optimizer = SAM(model, lr=0.5, rho="auto", plateau_loss=LN2)
    for step in range(STEPS):
        batch = learnable(step)
        optimizer.zero_grad()
        if optimizer.first_step(loss=back(model, batch)):
            back(model, batch)
        nn.utils.clip_grad_norm_(model.parameters(), 1e6)
        optimizer.second_step()
        twin.step(batch)
    torch.testing.assert_close(bits(model), bits(twin.model), **EXACT)


@pytest.mark.parametrize("protocol", ["closure", "two steps"])
def test_a_scaler_changes_nothing_and_plain_steps_stay_cheap(protocol):
    model, twin = make_model(), Twin(make_model())
    optimizer, scaler = SAM(model, lr=0.5, rho="auto", plateau_loss=LN2), torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(STEPS):
        batch, calls = learnable(step), []

        def closure(batch=batch, calls=calls):
            calls.append(1)
            return back(model, batch, scaler.scale)

        if protocol == "closure":
            optimizer.step(closure, scaler=scaler)
        else:
            optimizer.zero_grad()
            if optimizer.first_step(loss=closure(), scaler=scaler):
                closure()
            optimizer.second_step(scaler=scaler)
        scaler.update()
        twin.step(batch)
        assert len(calls) == (2 if twin.radii[-1] else 1)
    torch.testing.assert_close(bits(model), bits(twin.model), **EXACT)


def test_an_overflow_leaves_the_means_alone():
    model, twin = make_model(), Twin(make_model())
    optimizer, scaler = SAM(model, lr=0.5, rho="auto", plateau_loss=LN2), torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(STEPS):
        batch = learnable(step)

        def closure(batch=batch, step=step, factor=1.0):
            return back(model, batch, lambda loss: scaler.scale(loss * factor))

        if step == 3:
            optimizer.step(lambda: closure(factor=math.inf), scaler=scaler)
            scaler.update()
            assert (optimizer.skipped, scaler.get_scale()) == (1, 512.0)
        optimizer.step(closure, scaler=scaler)
        scaler.update()
        twin.step(batch)
    torch.testing.assert_close(bits(model), bits(twin.model), **EXACT)


@pytest.mark.parametrize("stop", [1, 3, 7])
@pytest.mark.parametrize("known", [True, False])
def test_a_resumed_run_is_the_same_to_the_bit(stop, known):
    def made():
        model = make_model()
        return model, SAM(model, torch.optim.AdamW, lr=0.05, rho="auto", plateau_loss=LN2 if known else None)

    whole, first = made(), made()
    for step in range(10):
        whole[1].step(lambda step=step: back(whole[0], learnable(step)))
    for step in range(stop):
        first[1].step(lambda step=step: back(first[0], learnable(step)))
    saved = copy.deepcopy((first[0].state_dict(), first[1].state_dict()))
    model, optimizer = made()
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    for step in range(stop, 10):
        optimizer.step(lambda step=step: back(model, learnable(step)))
    assert_same_bits(bits(model), bits(whole[0]))
    assert optimizer.rho_history.equals(whole[1].rho_history)
    assert optimizer.rho_history["rho"].max() > 0


def test_a_schedule_multiplies_the_radius_and_may_begin_with_plain_steps():
    model = make_model()
    optimizer = SAM(model, lr=0.5, rho="auto", plateau_loss=LN2, rho_schedule=WarmStart(4))
    counts = run("closure", model, optimizer)
    assert counts[:4] == [1] * 4
    assert 2 in counts[4:]


@given(
    plateau=st.floats(0.01, 100),
    steps=st.lists(st.tuples(st.floats(0, 200), st.floats(1e-6, 1e3)), min_size=1, max_size=30),
    share=st.floats(0.01, 1),
)
@settings(max_examples=200, deadline=None)
def test_to_first_order_the_objective_stays_below_the_plateau(plateau, steps, share):
    rule, sums = MarginRadius(plateau, share=share), [0.0, 0.0, 0.0]
    for step, (loss, norm) in enumerate(steps):
        rho = rule.observe(step, loss, norm)
        sums = [0.9 * old + 0.1 * new for old, new in zip(sums, (loss, norm, 1), strict=True)]
        mean_loss, mean_norm = sums[0] / sums[2], sums[1] / sums[2]
        assert rho >= 0
        assert rho * mean_norm <= share * max(plateau - mean_loss, 0) * (1 + 1e-9)
        assert rho * mean_norm <= share * mean_loss * (1 + 1e-9), "no more than what is left"


# ---- the plateau's loss, found from the closure -------------------------------------------------------------------


def found(criterion, model, batches):
    optimizer = SAM(model, lr=0.0, rho="auto")
    for inputs, targets in batches:

        def closure(inputs=inputs, targets=targets):
            loss = criterion(model(inputs), targets)
            loss.backward()
            return loss

        optimizer.step(closure)
    return float(optimizer.rho_history["plateau_loss"].iloc[-1])


def test_the_plateau_is_found_from_what_the_closure_calls():
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(64, 3, generator=generator) for _ in range(8)]
    classes = [torch.randint(0, 5, (64,), generator=generator).pow(2) // 4 for _ in inputs]
    shares = torch.bincount(torch.cat(classes)).double() / 512
    shares = shares[shares > 0]
    model = nn.Linear(3, 5)
    assert found(nn.CrossEntropyLoss(), model, zip(inputs, classes, strict=True)) == pytest.approx(
        -(shares * shares.log()).sum().item(), rel=1e-6
    )
    targets = [torch.randn(64, 2, generator=generator) * 3 + 1 for _ in inputs]
    variance = torch.cat(targets).double().var(0, unbiased=False).mean().item()
    assert found(F.mse_loss, nn.Linear(3, 2), zip(inputs, targets, strict=True)) == pytest.approx(variance, rel=1e-6)


def test_several_terms_add_up():
    inputs, model = torch.randn(32, 3), nn.Linear(3, 2)
    optimizer, labels, targets = SAM(model, lr=0.0, rho="auto"), torch.arange(32) % 2, torch.linspace(0, 1, 32)

    def closure():
        out = model(inputs)
        loss = F.cross_entropy(out, labels) + F.mse_loss(out[:, 0], targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    wanted = LN2 + targets.double().var(unbiased=False).item()
    assert optimizer.rho_history["plateau_loss"].iloc[0] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("closure", "message"),
    [
        (lambda m, x, y: (m(x)[:, 0] - y).square().mean(), "expected a loss of torch.nn.functional, got none"),
        (lambda m, x, y: 3 * F.cross_entropy(m(x), y), "expected a loss that is the mean of cross_entropy, .*, got"),
        (lambda m, x, y: F.cross_entropy(m(x), y, reduction="sum"), "let the closure return the mean loss, unscaled"),
    ],
)
def test_a_plateau_that_cannot_be_told_is_asked_for(closure, message):
    model, inputs, labels = nn.Linear(3, 2), torch.randn(16, 3), torch.arange(16) % 2
    optimizer = SAM(model, lr=0.1, rho="auto")
    before = bits(model)

    def step():
        loss = closure(model, inputs, labels)
        loss.backward()
        return loss

    with pytest.raises(ProbeError, match=message):
        optimizer.step(step)
    assert_same_bits(bits(model), before)


def test_a_single_class_is_told_when_enough_is_seen():
    model, inputs = nn.Linear(3, 2), torch.randn(2048, 3)
    optimizer = SAM(model, lr=0.1, rho="auto")

    def closure():
        loss = F.cross_entropy(model(inputs), torch.zeros(2048, dtype=torch.long))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optimizer.rho_history["rho"].tolist() == [0.0]
    with pytest.raises(ProbeError, match="expected targets that a constant prediction cannot match"):
        optimizer.step(closure)


def test_what_a_loop_of_ones_own_must_pass():
    model, batch = make_model(), learnable()
    optimizer = SAM(model, lr=0.1, rho="auto")
    loss = back(model, batch)
    with pytest.raises(ProbeError, match=r"expected the mean loss .* first_step\(loss=loss\)"):
        optimizer.first_step()
    optimizer.restore()
    with pytest.raises(ProbeError, match=r"expected plateau_loss .* optimizer.watching\(\)"):
        optimizer.first_step(loss=loss)
    optimizer.restore()
    with optimizer.watching():
        loss = F.binary_cross_entropy_with_logits(model(batch[0]).squeeze(-1), batch[1].double())
    loss.backward()
    optimizer.first_step(loss=loss)
    optimizer.second_step()
    assert len(optimizer.rho_history) == 1
    with pytest.raises(ProbeError, match="expected the mean loss of the batch with rho='auto', got NoneType"):
        optimizer.step(lambda: back(model, batch) and None)


# ---- what it is for ----------------------------------------------------------------------------------------------


def trained(rho, steps=150, **options):
    """A deep tanh net on digits: its plateau is long enough for a large radius never to leave it."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(
        *[part for width in [64] + [32] * 4 for part in (nn.Linear(width, 32), nn.Tanh())], nn.Linear(32, 10)
    )
    optimizer = SAM(model, torch.optim.AdamW, lr=3e-3, rho=rho, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(0, 1500, (64,), generator=generator)

        def closure(rows=rows):
            loss = F.cross_entropy(model(inputs[rows]), labels[rows])
            loss.backward()
            return loss

        optimizer.step(closure)
    return (model(inputs[1500:]).argmax(1) == labels[1500:]).float().mean().item(), optimizer


def test_it_trains_where_a_fixed_radius_of_the_same_limit_does_not():
    fixed, _ = trained(3.0)
    auto, optimizer = trained("auto", rho_max=3.0)
    assert fixed < 0.3
    assert auto > 0.5
    assert optimizer.rho_history["plateau_loss"].iloc[-1] == pytest.approx(math.log(10), abs=0.01)
    assert optimizer.rho_history["rho"].iloc[-20:].min() > 0


# ---- options and state -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "expected share to be above 0"),
        ({"share": 1.5}, "at most 1, got 1.5"),
        ({"decay": 1.0}, "expected decay"),
        ({"smallest": -1.0}, "expected smallest"),
        ({"plateau_loss": 0.3, "floor": 0.4}, "expected floor to be below plateau_loss"),
        ({"plateau_loss": "x"}, "expected plateau_loss to be a positive number or None"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ProbeError, match=message):
        MarginRadius(**options)


def test_a_floor_is_what_cannot_be_gained():
    rule = MarginRadius(2.0, floor=0.5, decay=0.0)
    assert rule.observe(0, 1.0, 4.0) == pytest.approx(0.25 * 1.0 / 4.0 * 0.5 / 1.5)
    assert rule.observe(1, 0.4, 4.0) == 0.0


def test_a_foreign_state_is_refused():
    state = MarginRadius(0.7).state_dict()
    with pytest.raises(ProbeError, match=r"expected the state of a run with plateau_loss=0\.6, got one of 0\.7"):
        MarginRadius(0.6).load_state_dict(state)
    with pytest.raises(ProbeError, match=r"MarginRadius\.state_dict"):
        MarginRadius(0.6).load_state_dict({"rho": 1})


def test_values_that_are_not_finite_are_not_learned_from():
    rule = MarginRadius(1.0, decay=0.0)
    before = rule.observe(0, 0.5, 1.0)
    assert rule.observe(1, math.nan, 1.0) == rule.observe(2, 0.5, math.inf) == before
    assert len(rule.history) == 1


def test_a_long_history_is_thinned_out_evenly():
    history = History()
    for step in range(20_000):
        history.add(step, rho=step / 2)
    steps = [row["step"] for row in history.rows]
    assert len(steps) <= 4096
    assert steps == list(range(0, 20_000, steps[1]))
    other = History()
    other.load_state_dict(history.state_dict())
    for each in (history, other):
        for step in range(20_000, 40_000):
            each.add(step, rho=0.0)
    assert other.rows == history.rows


def test_nothing_is_warned():
    model = make_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("closure", model, SAM(model, torch.optim.AdamW, lr=0.05, rho="auto"))
