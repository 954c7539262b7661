"""Checkpointed and compiled modules: measured by taps, left to another engine, or refused with a message."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.task import trainable_params
from tests.support.tapped import Net, assert_same, gradients, make_task, six_rows, truth


def _checkpointed(reentrant, on=True):
    def forward(net, x):
        def middle(t):
            return net.b(torch.tanh(net.a(t)))

        h = torch.tanh(net.z(x))
        return net.c(checkpoint(middle, h, use_reentrant=reentrant) if on else middle(h))

    return Net(forward, **{name: nn.Linear(6, 6) for name in "zab"}, c=nn.Linear(6, 3)).double()


def test_checkpointing_is_refused_by_taps_and_run_by_the_loop():
    model, batch = _checkpointed(reentrant=False), six_rows()
    with pytest.raises(ProbeError, match=r"got activation checkpointing.*gradient_checkpointing_disable\(\)"):
        gradients(make_task(model, None), batch)
    grads = gradients(make_task(model, None), batch, loop_gradients)
    assert_same(grads, truth(make_task(model, None), batch), rtol=1e-12)


def test_reentrant_checkpointing_is_refused():
    model, batch = _checkpointed(reentrant=True), six_rows()
    for engine in (TapsEngine(), loop_gradients):
        with pytest.raises(ProbeError, match=r"got reentrant activation checkpointing.*use_reentrant=False"):
            gradients(make_task(model, None), batch, engine)


def test_a_checkpointed_model_is_recomputed_at_the_given_parameters():
    model, batch = _checkpointed(reentrant=False), six_rows()
    plain = _checkpointed(reentrant=False, on=False)
    plain.load_state_dict(model.state_dict())
    elsewhere = {name: value + 0.3 for name, value in trainable_params(model).items()}
    found, _ = make_task(model, None).mean_gradient(batch, elsewhere)
    expected, _ = make_task(plain, None).mean_gradient(batch, elsewhere)
    assert_same(found, expected, rtol=1e-12)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_parts_run_eagerly(backend):
    inner = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    model = nn.Sequential(inner, nn.Linear(6, 3)).double()
    batch = six_rows()
    expected = truth(make_task(model, None), batch)
    model[0] = torch.compile(inner, backend=backend)
    engine = TapsEngine()
    grads = gradients(make_task(model, None), batch, engine)
    assert_same({name.replace("_orig_mod.", ""): g for name, g in grads.items()}, expected, rtol=1e-12)
    assert engine.other() == {}
