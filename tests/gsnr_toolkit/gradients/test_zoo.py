"""Every engine against one backward per sample, on public architectures."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks.coverage import Row
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.select import make_engine
from gsnr_toolkit.gradients.taps.rules.table import RULES
from gsnr_toolkit.gradients.taps.terms import Computed
from gsnr_toolkit.gradients.task import GradientTask, trainable_params
from gsnr_toolkit.inputs.losses import resolve_loss
from tests.support.reference import one_row, per_sample_gradients
from tests.support.zoo import (
    FLOAT32_INSIDE,
    FLOAT32_SUMS,
    ZOO,
    assert_gradients_close,
    cast,
    float32_tolerance,
    to_dtype,
    vanishing,
)

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

EXACT_ENGINES = ["loop", "taps"]
"""Engines that must run every model of the zoo."""

NO_RULE = "a fused recurrence, which has no batching rule"
BRANCHES = "looks at the values of the attention mask"
VMAP_CANNOT = {
    "LSTM, two directions": NO_RULE,
    "LSTM with projection, time first": NO_RULE,
    "GRU, time first": NO_RULE,
    "transformers BERT": BRANCHES,
    "transformers Mixtral": "sends each token to the experts that its values choose",
}
"""Models that ``torch.func`` cannot vectorise, and why."""

WITHOUT_EFFECT = r"(k_proj|k_norm|ln_k|key|rel_pos\.mlp\.fc2|mlp_tokens\.fc2|gate)\.bias"
"""Biases with gradient 0: a softmax does not change if one number is added to all its logits, nor a LayerNorm if one is
added to all channels of a token."""


def _task(name, dtype):
    model, batch = to_dtype(ZOO[name], dtype)
    return GradientTask(model, trainable_params(model), resolve_loss(ZOO[name].loss_fn)), batch


PAGE = Path(__file__).parents[3] / "docs" / "engine-coverage.md"


def _stated(name):
    """Return the page's cells for an architecture: parameters, share on rules, share elsewhere, and why."""
    (line,) = [line for line in PAGE.read_text(encoding="utf8").splitlines() if line.startswith(f"| {name} |")]
    _, parameters, rules, other, _, why = (cell.strip() for cell in line[1:-1].split(" |"))
    return [parameters, rules, other, why]


def _engine(name, task, batch, chunk_size, engine=None):
    chunks = list((engine or make_engine(name))(task, batch, chunk_size=chunk_size))
    grads = {key: torch.cat([chunk.grads[key] for chunk in chunks]) for key in task.params}
    return grads, torch.cat([chunk.losses for chunk in chunks])


def _truth(task, batch):
    return per_sample_gradients(task.model, batch, task.loss_fn, one_row)


@pytest.mark.parametrize("name", ZOO)
def test_exact_engines_equal_backward_per_sample(name):
    task, batch = _task(name, torch.float64)
    expected = _truth(task, batch)
    losses = torch.cat([task.loss_fn(task.model, one_row(batch, row)).detach() for row in range(5)])
    engines = {engine: make_engine(engine) for engine in EXACT_ENGINES}
    for label, engine in engines.items():
        grads, found = _engine(label, task, batch, 3, engine)
        assert_gradients_close(grads, expected, rtol=_rtol(name, FLOAT32_INSIDE), context=label)
        torch.testing.assert_close(found, losses, rtol=1e-10, atol=0)
    other = engines["taps"].other()
    served = task.num_params - sum(task.params[key].numel() for key in other)
    row = Row(name, task.num_params, served, 0.0, "; ".join(dict.fromkeys(other.values())))
    cells = [cell.strip() for cell in row.line()[1:-1].split(" |")]
    assert [*cells[1:4], cells[5]] == _stated(name)


@pytest.mark.parametrize("name", ZOO)
def test_float32_agrees_with_float64_to_its_precision(name):
    found, expected, rtol = _float32(name)
    for engine, grads in found.items():
        assert_gradients_close(grads, expected, rtol, context=engine)


def _float32(name):
    """Return the float32 gradients of each engine, the exact gradients, and the tolerance between them."""
    task, batch = _task(name, torch.float32)
    found = {engine: _engine(engine, task, batch, chunk_size=3)[0] for engine in EXACT_ENGINES}
    single = _truth(task, batch)
    expected = per_sample_gradients(task.model.double(), cast(batch, torch.float64), task.loss_fn, one_row)
    return found, expected, float32_tolerance(single, expected)


@pytest.mark.parametrize("name", ["timm EfficientNet, EvoNorm", "open_clip ModifiedResNet"])
def test_the_tolerance_of_float32_does_not_hide_a_wrong_rule(name, monkeypatch):
    """An error of two thousandths passes the engine's own check. Both models lose most in float32 and have the widest
    tolerance.
    """
    for kind in ("MulBackward", "ConvolutionBackward"):
        rule = RULES[kind]

        def wrong(use, rule=rule):
            term = rule(use)
            return term and Computed(lambda a, b: 1.002 * term.samples(a, b), term.count, term.shape)

        monkeypatch.setitem(RULES, kind, wrong)
    found, expected, rtol = _float32(name)
    assert_gradients_close(found["loop"], expected, rtol)
    with pytest.raises(AssertionError, match="off by"):
        assert_gradients_close(found["taps"], expected, rtol)


@pytest.mark.parametrize("name", [name for name in ZOO if name not in VMAP_CANNOT])
def test_vmap_equals_backward_per_sample(name):
    task, batch = _task(name, torch.float64)
    grads, _ = _engine("vmap", task, batch, chunk_size=3)
    assert_gradients_close(grads, _truth(task, batch), rtol=1e-10, context="vmap")


@pytest.mark.parametrize("name", VMAP_CANNOT)
def test_vmap_refuses_what_it_cannot_vectorise(name):
    task, batch = _task(name, torch.float64)
    with pytest.raises(ProbeError, match=r"the vmap engine cannot vectorise this model \(.*\); pass engine='loop'"):
        _engine("vmap", task, batch, chunk_size=3)


@pytest.mark.parametrize("name", ZOO)
def test_samples_are_independent_and_every_parameter_has_a_gradient(name):
    task, batch = _task(name, torch.float64)
    expected = _truth(task, batch)
    total, mean = _gradient_of_sum(task, batch), task.mean_gradient(batch)[0]
    assert_gradients_close(total, {key: g.sum(0) for key, g in expected.items()}, rtol=_rtol(name, FLOAT32_SUMS))
    assert_gradients_close(mean, {key: g.mean(0) for key, g in expected.items()}, rtol=_rtol(name, FLOAT32_INSIDE))
    assert [key for key in vanishing(expected) if not re.search(WITHOUT_EFFECT, key)] == []
    losses = task.loss_fn(task.model, batch)
    assert losses.shape == (5,)
    assert losses.unique().numel() == 5


def _rtol(name, imprecise):
    return 1e-6 if name in imprecise else 1e-10


def _gradient_of_sum(task, batch):
    loss = task.loss_fn(task.model, batch).sum()
    named = dict(task.model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def test_the_comparison_can_fail():
    task, batch = _task("timm ViT", torch.float64)
    expected = _truth(task, batch)
    assert_gradients_close(expected, expected, rtol=0.0)
    for wrong in (expected["cls_token"].roll(1, 0), expected["cls_token"] * (1 + 1e-9)):
        with pytest.raises(AssertionError, match="loop cls_token: off by"):
            assert_gradients_close({**expected, "cls_token": wrong}, expected, rtol=1e-10, context="loop")
    noisy = {key: grad + 1e-9 * torch.rand_like(grad) for key, grad in expected.items()}
    with pytest.raises(AssertionError, match="off by"):
        assert_gradients_close(noisy, expected, rtol=1e-10)
