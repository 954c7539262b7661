"""The check on the first batch finds wrong rules and tolerates rounding."""

import pytest
import torch
from torch import nn

from gsnr_toolkit.errors import EngineError
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.taps.rules.table import RULES
from gsnr_toolkit.gradients.taps.selfcheck import failures
from gsnr_toolkit.gradients.taps.terms import Stored
from tests.support.tapped import assert_same, make_task, tapped, truth


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


WRONG = {
    "one weight": (1.01, lambda use: use.slot == 2 and use.shape == (6, 3), ["2.weight"]),
    "biases": (2.0, lambda use: use.slot == 0, ["2.bias", "0.bias"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_self_check_catches_a_wrong_rule(case, monkeypatch):
    factor, concerns, lost = WRONG[case]
    right = RULES["AddmmBackward"]

    def wrong(use):
        term = right(use)
        return Stored(factor * term.samples(0, term.count)) if concerns(use) else term

    monkeypatch.setitem(RULES, "AddmmBackward", wrong)
    task, batch, engine = make_task(mlp()), (rand(7, 4),), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    reason = f"off by {factor - 1:.1g} from one backward per sample"
    assert engine.other() == dict.fromkeys(lost, reason)
    assert engine.shares(task)["taps"] == [name for name in task.params if name not in lost]
    assert f"first {lost[0]!r}, were measured by another engine than taps: {reason}" in engine.notes()[0]
    unchecked = TapsEngine(check=False)
    grads = tapped(task, batch, unchecked)
    for name, grad in truth(task, batch).items():
        torch.testing.assert_close(grads[name], (factor if name in lost else 1.0) * grad)
    assert unchecked.other() == {}


def test_samples_that_are_swapped_are_caught(monkeypatch):
    right = RULES["AddmmBackward"]
    monkeypatch.setitem(RULES, "AddmmBackward", lambda use: Stored(right(use).samples(0, use.count).roll(1, 0)))
    task, batch, engine = make_task(mlp()), (rand(7, 4),), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    assert engine.other().keys() == task.params.keys()


def test_rules_that_decline_later_are_an_error(monkeypatch):
    task, engine = make_task(mlp()), TapsEngine()
    engine.prepare(task, (rand(5, 4),))
    monkeypatch.setitem(RULES, "AddmmBackward", lambda use: None)
    with pytest.raises(EngineError, match=r"used as in the first batch, got \('2.bias', 'Addmm is used in an unusual"):
        tapped(task, (rand(5, 4),), engine)


def test_the_check_in_half_precision_finds_errors_and_only_errors():
    good = [torch.randn(50).bfloat16() for _ in range(2)]
    rounded = torch.stack([one.float() * (1 + 2**-8) for one in good])
    assert failures("w", rounded, good, 1.0, torch.bfloat16) == {}
    for wrong in (rounded.roll(1, 0), rounded * 1.3, -rounded):
        assert "off by" in failures("w", wrong, good, 1.0, torch.bfloat16)["w"]
    # a large right entry does not hide small wrong ones
    good = [torch.cat([torch.tensor([9.0]), torch.ones(400)]).bfloat16()]
    wrong = torch.cat([torch.tensor([9.0]), torch.full((400,), 0.2)]).unsqueeze(0)
    assert "off by" in failures("w", wrong, good, 0.0, torch.bfloat16)["w"]
