"""Base optimizers that save themselves, torch.distributed's checkpoints, and buffers that move once a step."""

import copy
import io
import pickle

import pytest
import torch
from pytorch_optimizer import Lookahead, ScheduleFreeAdamW
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.utils import parametrizations, spectral_norm

from gsnr_toolkit import SAM, ProbeError
from gsnr_toolkit.optim import sam_step
from tests.support.sam_reference import bits, losses, make_batch, make_model, run


class SlowWeights(torch.optim.AdamW):
    """Every step the weights go part of the way back to slow ones, which are no part of ``state``."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        self.slow = getattr(self, "slow", None) or [p.clone() for p in self.param_groups[0]["params"]]
        for p, s in zip(self.param_groups[0]["params"], self.slow, strict=True):
            p.lerp_(s.lerp_(p, 0.1), 0.5)

    def state_dict(self):
        return {**super().state_dict(), "slow": [s.clone() for s in getattr(self, "slow", [])]}

    def load_state_dict(self, state):
        self.slow = [s.clone() for s in state["slow"]]
        super().load_state_dict({key: value for key, value in state.items() if key != "slow"})


class Bytes(torch.optim.SGD):
    """Keeps its state in 8 bits, which torch's own loading would cast to the parameter's dtype."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            old = state.get("code", torch.full_like(p, 128, dtype=torch.uint8))
            assert old.dtype == torch.uint8
            mean = 0.9 * (old.to(p.dtype) - 128) / 100 + p.grad
            state["code"] = (mean * 100 + 128).clamp(0, 255).to(torch.uint8)
            p.sub_(0.1 * mean)

    def load_state_dict(self, state):
        super().load_state_dict(state)
        for p, key in zip(self.param_groups[0]["params"], state["state"], strict=True):
            self.state[p]["code"] = state["state"][key]["code"].clone()


def lookahead(groups, **options):
    return Lookahead(torch.optim.AdamW(groups, **options), k=3)


BASES = [SlowWeights, Bytes, lookahead, ScheduleFreeAdamW, torch.optim.AdamW]


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("at", [1, 4, 5])
def test_resumed_is_straight_through(base, at):
    ends = []
    for resumed in (False, True):
        model = make_model()
        optimizer = SAM(model, base, lr=0.05, rho=0.1)
        for step in range(8):
            if resumed and step == at:
                saved = through_file(optimizer.state_dict())
                optimizer = SAM(model, base, lr=0.05, rho=0.1)
                optimizer.load_state_dict(saved)
                assert optimizer.state is optimizer.base_optimizer.state
                assert optimizer.param_groups is optimizer.base_optimizer.param_groups
                assert not any(key.startswith("sam_") for group in optimizer.param_groups for key in group)
            run(optimizer, model, steps=1)
        ends.append((bits(model), optimizer.steps))
    torch.testing.assert_close(ends[1][0], ends[0][0], rtol=0, atol=0)
    assert ends[1][1] == ends[0][1] == 8


def test_the_state_of_a_plain_base_is_loaded():
    model, twin = make_model(), make_model()
    plain, other = (SlowWeights(m.parameters(), lr=0.05) for m in (model, twin))
    for m, o in ((model, plain), (twin, other)):
        losses(m, make_batch()).mean().backward()
        o.step()
    optimizer = SAM(model, SlowWeights, lr=0.05, rho=0.0)
    optimizer.load_state_dict(plain.state_dict())
    optimizer.zero_grad()
    run(optimizer, model, steps=2)
    for step in range(2):
        other.zero_grad()
        losses(twin, make_batch(step)).mean().backward()
        other.step()
    torch.testing.assert_close(bits(model), bits(twin), rtol=0, atol=0)


def test_what_only_the_base_has_is_reached():
    model = make_model()
    optimizer = SAM(model, ScheduleFreeAdamW, lr=0.05, rho=0.1)
    run(optimizer, model, steps=2)
    train = bits(model)
    optimizer.eval()
    assert any(not torch.equal(a, b) for a, b in zip(bits(model), train, strict=True))
    optimizer.train()
    torch.testing.assert_close(bits(model), train)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = optimizer.nothing_like_it
    twin = pickle.loads(pickle.dumps(copy.deepcopy(optimizer)))
    assert twin.steps == optimizer.steps


# ---- torch.distributed.checkpoint --------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_distributed_checkpoints_are_loaded_into_a_fresh_optimizer(base):
    made = []
    for _ in range(2):
        model = make_model()
        made.append((model, SAM(model, base, lr=0.05, rho=0.1, rho_schedule=lambda step: 1 / (1 + step))))
    (model, optimizer), (fresh, other) = made
    run(optimizer, model, steps=3)
    weights, state = copy.deepcopy(get_state_dict(model, optimizer))  # as through a file
    set_state_dict(fresh, other, model_state_dict=weights, optim_state_dict=state)
    assert other.steps == 3
    assert other.radii == optimizer.radii == (0.1 / 4,)
    assert [group["lr"] for group in other.param_groups] == [0.05]
    for m, o in made:
        run(o, m, steps=2)
    torch.testing.assert_close(bits(fresh), bits(model), rtol=0, atol=0)


@pytest.mark.parametrize("given", ["a learning rate", "a gradient", "no gradient"])
def test_any_other_step_without_a_closure_is_an_error(given):
    model = make_model()
    optimizer = SAM(model, torch.optim.SGD, lr=0.1 if given == "a learning rate" else 0.0)
    if given != "no gradient":
        for param in model.parameters():
            param.grad = torch.full_like(param, float(given == "a gradient"))
    with pytest.raises(ProbeError, match="expected a closure"):
        optimizer.step()


# ---- buffers -----------------------------------------------------------------------------------------------------


class Codebook(nn.Module):
    """Means that follow their inputs: one written through .data, one assigned anew, and a counter."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(6, dtype=torch.float64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("absent", None)

    def forward(self, x):
        if self.training:
            self.mean.data.lerp_(x.detach().mean(0), 0.1)
            self.scale = 0.9 * self.scale + 0.1 * x.detach().std(0)
            self.calls += 1
        return (x - self.mean) / self.scale


def with_codebook():
    model = make_model()
    return nn.Sequential(model[0], Codebook(), *model[1:])


def with_spectral_norm():
    model = make_model()
    spectral_norm(model[0])
    return model


def with_new_spectral_norm():
    model = make_model()
    parametrizations.spectral_norm(model[0])
    return model


def with_batch_norm():
    model = make_model()
    return nn.Sequential(model[0], nn.BatchNorm1d(6).double(), *model[1:])


@pytest.mark.parametrize("make", [with_codebook, with_spectral_norm, with_new_spectral_norm, with_batch_norm])
@pytest.mark.parametrize("protocol", ["closure", "two steps", "sam_step"])
def test_buffers_move_once_a_step(make, protocol):
    model, twin, batch = make(), make(), make_batch()
    twin.load_state_dict(model.state_dict())
    optimizer = SAM(model, rho=0.1, lr=0.1)
    objects = list(map(id, model.buffers()))
    if protocol == "closure":
        optimizer.step(lambda: losses(model, batch).mean().backward())
    elif protocol == "sam_step":
        sam_step(model, batch, losses, optimizer)
    else:
        losses(model, batch).mean().backward()
        optimizer.first_step()
        losses(model, batch).mean().backward()
        optimizer.second_step()
    losses(twin, batch)  # one forward pass
    names = [name for name, _ in model.named_buffers()]
    for name, mine, other in zip(names, model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, msg=name)
    if make is with_spectral_norm:
        assert list(map(id, model.buffers())) == objects


def test_a_graph_that_holds_an_unchanged_buffer_stays_valid():
    model = with_codebook()
    model[1].register_buffer("mask", torch.rand(6, dtype=torch.float64, requires_grad=False))
    kept = (model[0].weight.sum(1) * model[1].mask).square().sum()
    optimizer = SAM(model, rho=0.1, lr=0.0)
    with optimizer.perturbed():  # no gradient: nothing moves
        pass
    optimizer.restore()
    before = model[1].mask._version
    run(optimizer, model, steps=1)
    assert model[1].mask._version == before
    assert kept.requires_grad


@pytest.mark.parametrize("protocol", ["closure", "sam_step"])
def test_an_expanded_buffer_is_no_obstacle(protocol):
    model = with_codebook()
    model[1].register_buffer("mask", torch.ones(1, 6, dtype=torch.float64).expand(3, 6))
    optimizer = SAM(model, rho=0.1, lr=0.1)
    if protocol == "closure":
        run(optimizer, model, steps=2)
    else:
        sam_step(model, make_batch(), losses, optimizer)
    assert optimizer.state_dict()


def test_modules_in_eval_mode_are_left_alone():
    model = with_batch_norm()
    model[1].eval()
    before = model[1].running_mean.clone()
    run(SAM(model, rho=0.1, lr=0.1), model, steps=2)
    torch.testing.assert_close(model[1].running_mean, before, rtol=0, atol=0)
