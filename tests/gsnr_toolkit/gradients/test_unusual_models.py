"""Unusual parameters, operations and inputs: each is measured exactly, left to another engine, or refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.vmap import vmap_gradients
from gsnr_toolkit.moments.by_parameter import Moments
from tests.support.reference import one_row
from tests.support.tapped import ROWS, Net, assert_right, assert_same, gradients, make_task, six_rows, truth


def _overwriting(net, x):
    h = net.a(x)
    out = net.b(h)
    h.mul_(2)
    return out


def test_an_activation_overwritten_in_place_is_refused():
    model = Net(_overwriting, a=nn.Linear(6, 6), b=nn.Linear(6, 3)).double()
    for engine in (TapsEngine(), TapsEngine(check=False), loop_gradients):
        with pytest.raises(ProbeError, match=r"overwrites in place.*x = x \* 2"):
            gradients(make_task(model, None), six_rows(), engine)


def test_in_place_edits_that_no_gradient_needs_are_right():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)).double()
    assert_right(model, six_rows())


def _param(*shape):
    return nn.Parameter(torch.randn(shape))


COMPLEX = {
    "filter": (
        lambda net, x: net.c(torch.fft.irfft(torch.fft.rfft(net.a(x)) * torch.complex(net.u, net.v), n=6)),
        {"u": lambda: _param(4), "v": lambda: _param(4)},
    ),
    "real gain": (lambda net, x: net.c((torch.fft.fft(net.a(x)) * net.u + net.v).abs()), {}),
    "quotient": (lambda net, x: net.c((net.v / (3 + torch.fft.fft(net.a(x)) * net.u)).abs()), {}),
    "matrix": (
        lambda net, x: net.c((torch.fft.fft(net.a(x)) @ torch.complex(net.u, net.v)).abs()),
        {"u": lambda: _param(6, 6), "v": lambda: _param(6, 6)},
    ),
    "pairs": (
        lambda net, x: net.c(
            torch.view_as_real(torch.fft.rfft(net.a(x))[:, :3] * torch.view_as_complex(net.u) + net.v[:3]).flatten(1)
        ),
        {"u": lambda: _param(3, 2)},
    ),
}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_activations_go_to_another_engine(name, check):
    forward, parts = COMPLEX[name]
    own = {"u": lambda: _param(6), "v": lambda: _param(6), **parts}
    model = Net(forward, a=nn.Linear(6, 6), c=nn.Linear(6, 3), **{key: make() for key, make in own.items()}).double()
    batch, engine = six_rows(), TapsEngine(check=check)
    assert_same(gradients(make_task(model, None), batch, engine), truth(make_task(model, None), batch), rtol=1e-10)
    assert set(engine.other()) == {"u", "v"}
    assert all("of complex numbers" in reason for reason in engine.other().values())


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.t() @ x


def test_a_custom_autograd_function_goes_to_another_engine():
    model = Net(lambda net, x: net.b(torch.tanh(_Product.apply(x, net.w))), w=_param(6, 6), b=nn.Linear(6, 3)).double()
    assert_right(model, six_rows(), other={"w"})


def _tied_modules():
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


def _strided():
    turned, cut = nn.Parameter(torch.randn(6, 6).double().t()), nn.Parameter(torch.randn(12).double()[::2])
    return Net(
        lambda net, x: net.b(torch.tanh(F.linear(x, net.w)) * net.v), w=turned, v=cut, b=nn.Linear(6, 3).double()
    )


def _with_hook(register):
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    register(model)
    return model


def _tensor_hook(net, x):
    h = net.a(x)
    h.register_hook(lambda grad: 2 * grad)
    return net.b(torch.tanh(h))


class _Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.b(torch.tanh(self.a(x)))


def _parametrised(wrap):
    return nn.Sequential(wrap(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 3))


PLAIN = {
    "no entries": lambda: Net(
        lambda net, x: net.b(torch.cat([x, x @ net.e], 1)), e=nn.Parameter(torch.zeros(6, 0)), b=nn.Linear(6, 3)
    ),
    "no entries, unused": lambda: Net(lambda net, x: net.b(x), e=nn.Parameter(torch.zeros(0)), b=nn.Linear(6, 3)),
    "no dimension": lambda: Net(
        lambda net, x: net.b(torch.tanh(net.a(x)) * net.t + net.u),
        t=_param(),
        u=_param(),
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 3),
    ),
    "not contiguous": _strided,
    "weight norm": lambda: _parametrised(parametrizations.weight_norm),
    "spectral norm, eval": lambda: _parametrised(parametrizations.spectral_norm).eval(),
    "orthogonal": lambda: _parametrised(parametrizations.orthogonal),
    "one weight in two modules": _tied_modules,
    "forward hook": lambda: _with_hook(lambda m: m[0].register_forward_hook(lambda *args: 2 * args[2])),
    "backward hook": lambda: _with_hook(lambda m: m[0].register_full_backward_hook(lambda *args: None)),
    "backward hook that scales": lambda: _with_hook(
        lambda m: m[1].register_full_backward_hook(lambda _, grads, __: (2 * grads[0],))
    ),
    "backward pre-hook that scales": lambda: _with_hook(
        lambda m: m[1].register_full_backward_pre_hook(lambda _, grads: (3 * grads[0],))
    ),
    "hook on a tensor": lambda: Net(_tensor_hook, a=nn.Linear(6, 6), b=nn.Linear(6, 3)),
    "buffer written in forward": _Counting,
    "detached branch": lambda: Net(
        lambda net, x: net.b(net.a(x).detach() + net.c(x)), a=nn.Linear(6, 6), b=nn.Linear(6, 3), c=nn.Linear(6, 6)
    ),
    "squeezes": lambda: Net(lambda net, x: net.b(torch.tanh(net.a(x.squeeze()))), a=nn.Linear(6, 6), b=nn.Linear(6, 3)),
}


@pytest.mark.parametrize("rows", [ROWS, 5, 1])
@pytest.mark.parametrize("name", PLAIN)
def test_unusual_parameters_and_hooks_are_right(name, rows):
    inputs, labels = six_rows()
    assert_right(PLAIN[name]().double(), (inputs[:rows], labels[:rows]))


def test_channels_last_is_right():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3, 3), nn.Flatten(), nn.Linear(16, 3))
    model = model.double().to(memory_format=torch.channels_last)
    images = torch.randn(ROWS, 3, 8, 8).double().to(memory_format=torch.channels_last)
    assert_right(model, (images, six_rows()[1]))
    moments = Moments()
    TapsEngine().accumulate(make_task(model, None), (images, six_rows()[1]), moments, chunk_size=4)
    expected = truth(make_task(model, None), (images, six_rows()[1]))
    for name, grad in expected.items():
        torch.testing.assert_close(moments.mean[name], grad.mean(0), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(moments.m2[name] / (ROWS - 1), grad.var(0), rtol=1e-8, atol=1e-12)


def test_inputs_that_require_gradients():
    model, (inputs, labels) = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double(), six_rows()
    wanted = truth(make_task(model, None), (inputs, labels))
    leaf = inputs.clone().requires_grad_()
    for batch in ((leaf, labels), (leaf * 1, labels)):
        assert_same(gradients(make_task(model, None), batch), wanted, rtol=1e-12)
    assert leaf.grad is None


def test_a_gradient_penalty_is_differentiated_through():
    def loss_fn(model, batch):
        inputs = batch[0].detach().requires_grad_()
        logits = model(inputs)
        (slope,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
        return F.cross_entropy(logits, batch[1], reduction="none") + slope.square().sum(1)

    assert_right(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double(), six_rows(), loss_fn)


def test_long_rows_and_single_rows():
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 2000, 3)).double()
    batch = (torch.randn(3, 2000, 6).double(), torch.tensor([0, 1, 2]))
    assert_right(model, batch, rtol=1e-9)
    engine, moments = TapsEngine(), Moments()
    for row in range(3):
        engine.accumulate(make_task(model, None), one_row(batch, row), moments, chunk_size=4)
    for name, grad in truth(make_task(model, None), batch).items():
        torch.testing.assert_close(moments.mean[name], grad.mean(0), rtol=1e-10, atol=1e-12)


def test_sparse_gradients_of_tables_are_right_in_taps_and_loop():
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(16, 3)).double()
    batch = (torch.randint(0, 9, (ROWS, 4)), six_rows()[1])
    assert_right(model, batch)
    assert_same(
        gradients(make_task(model, None), batch, loop_gradients), truth(make_task(model, None), batch), rtol=1e-12
    )
    with pytest.raises(ProbeError, match=r"cannot vectorise this model.*pass engine='loop'"):
        gradients(make_task(model, None), batch, vmap_gradients)


def _lengths():
    return torch.randn(ROWS, 5, 6).double(), six_rows()[1], torch.tensor([5, 3, 2, 5, 4, 1])


def _loss_with_lengths(model, batch):
    return F.cross_entropy(model((batch[0], batch[2])), batch[1], reduction="none")


def _packed(net, x):
    packed = nn.utils.rnn.pack_padded_sequence(*x, batch_first=True, enforce_sorted=False)
    return net.b(net.a(packed)[1][0][-1])


def test_packed_sequences_go_to_another_engine():
    model = Net(_packed, a=nn.LSTM(6, 6, batch_first=True), b=nn.Linear(6, 3)).double()
    recurrent = {name for name, _ in model.named_parameters() if name.startswith("a.")}
    assert_right(model, _lengths(), _loss_with_lengths, other=recurrent)


def _jagged(net, x):
    rows = torch.nested.as_nested_tensor([row[:length] for row, length in zip(*x, strict=True)], layout=torch.jagged)
    return net.b(torch.stack([one.mean(0) for one in torch.tanh(net.a(rows)).unbind()]))


def test_nested_tensors_are_refused_by_taps_and_run_by_the_loop():
    model, batch = Net(_jagged, a=nn.Linear(6, 6), b=nn.Linear(6, 3)).double(), _lengths()
    with pytest.raises(ProbeError, match=r"nested \(jagged\) one from .*engine='loop'"):
        gradients(make_task(model, _loss_with_lengths), batch)
    grads = gradients(make_task(model, _loss_with_lengths), batch, loop_gradients)
    assert_same(grads, truth(make_task(model, _loss_with_lengths), batch), rtol=1e-12)
