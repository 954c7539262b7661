"""A new rule is one new file in the folder of rules: found, used, and right."""

import sys

import pytest
import torch

from gsnr_toolkit.gradients.taps import rules
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.taps.rules.table import RULES, load_rules
from tests.support.tapped import Model, assert_same, make_task, only_plan, tapped, truth, used_rules

NEW_FILE = '''
"""Rule of linear interpolation."""

from gsnr_toolkit.gradients.taps.rules.use import Use, added, rule
from gsnr_toolkit.gradients.taps.terms import Term


@rule("LerpBackward")
def _lerp(use: Use) -> Term | None:
    """``start + weight * (end - start)``, for a number as weight."""
    weight = use.node._saved_weight
    return added(use, weight if use.slot == 1 else 1 - weight)
'''


@pytest.fixture
def new_file(tmp_path, monkeypatch):
    """Put a file with a rule where the package looks for rules; take every trace of it away afterwards."""
    (tmp_path / "interpolation.py").write_text(NEW_FILE)
    before = dict(RULES)
    monkeypatch.setattr(rules, "__path__", [*rules.__path__, str(tmp_path)])
    load_rules()
    yield
    RULES.clear()
    RULES.update(before)
    del sys.modules[f"{rules.__name__}.interpolation"], rules.interpolation


CASES = {
    "end": lambda p, x: torch.lerp(x, p["w"], 0.3),
    "start": lambda p, x: torch.lerp(p["w"], x, 0.3),
    "broadcast": lambda p, x: torch.lerp(x, p["w"][:1], 0.3),
}


def _model_and_batch(name):
    weight = torch.randn(4, dtype=torch.float64)
    return Model(lambda p, x: CASES[name](p, x).tanh(), w=weight), (torch.randn(7, 2, 4, dtype=torch.float64),)


@pytest.mark.parametrize("name", CASES)
def test_the_parameter_is_served_by_the_new_rule(name, new_file):
    model, batch = _model_and_batch(name)
    task, engine = make_task(model), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    assert only_plan(engine).other == {}
    assert list(engine.shares(task)) == ["taps"]
    assert {kind for kind, _ in used_rules(engine, task, batch)} == {"LerpBackward"}


@pytest.mark.parametrize("name", CASES)
def test_without_the_file_it_goes_to_another_engine(name):
    model, batch = _model_and_batch(name)
    task, engine = make_task(model), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    assert engine.other() == {"p.w": "no rule for Lerp"}
    assert list(engine.shares(task)) == ["vmap"]


def test_a_wrong_rule_is_found_out(new_file):
    """The engine checks a rule on the first batch: a wrong formula costs speed, not correctness."""
    RULES["LerpBackward"] = RULES["AddBackward"].__globals__["_expand"]  # the gradient of ``start + end``
    model, batch = _model_and_batch("end")
    task, engine = make_task(model), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    assert "from one backward per sample" in engine.other()["p.w"]
