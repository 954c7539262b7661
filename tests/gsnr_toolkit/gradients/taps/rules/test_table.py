"""Every rule against one backward per sample; each test also checks that the plan used the rule."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.gradients.taps.ownership import Owner
from gsnr_toolkit.gradients.taps.rules.table import RULES
from gsnr_toolkit.gradients.taps.rules.use import Use
from tests.support.tapped import Model, assert_same, make_task, only_plan, tapped, truth, used_rules


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def rows(*shape):
    """Return seven samples: a number other than three and five, on which plans are made."""
    return (rand(7, *shape),)


def ids(*shape, high=9):
    return (torch.randint(0, high, (7, *shape)),)


def net(*modules):
    return nn.Sequential(*modules).double().eval()


def shaken(model):
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.3 * torch.randn_like(param))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(0.5 + torch.rand_like(buffer))
    return model


def conv_case(module, *size):
    return lambda: (shaken(net(module, nn.Tanh())), rows(*size))


MODELS = {
    ("AddBackward", 0): lambda: (Model(lambda p, x: torch.add(p["w"], x, alpha=3.0), w=rand(4)), rows(2, 4)),
    ("AddBackward", 1): lambda: (Model(lambda p, x: torch.add(x, p["w"], alpha=-2.0), w=rand(2, 1)), rows(2, 4)),
    ("SubBackward", 0): lambda: (Model(lambda p, x: torch.sub(p["w"], x, alpha=3.0), w=rand(4)), rows(2, 4)),
    ("SubBackward", 1): lambda: (Model(lambda p, x: torch.sub(x, p["w"], alpha=2.0), w=rand(4)), rows(2, 4)),
    ("RsubBackward", 0): lambda: (Model(lambda p, x: torch.rsub(p["w"], x, alpha=2.0), w=rand(4)), rows(2, 4)),
    ("RsubBackward", 1): lambda: (Model(lambda p, x: torch.rsub(x, p["w"], alpha=2.0), w=rand(4)), rows(2, 4)),
    ("MulBackward", 0): lambda: (Model(lambda p, x: p["w"] * x, w=rand(2, 1)), rows(2, 4)),
    ("MulBackward", 1): lambda: (Model(lambda p, x: x * p["w"], w=rand(())), rows(2, 4)),
    ("DivBackward", 0): lambda: (Model(lambda p, x: p["w"] / (2 + x.square()), w=rand(4)), rows(2, 4)),
    ("DivBackward", 1): lambda: (Model(lambda p, x: x / p["w"], w=2 + rand(4).square()), rows(2, 4)),
    ("AddcmulBackward", 0): lambda: (
        Model(lambda p, x: torch.addcmul(p["w"], x, x.cos(), value=0.7), w=rand(4)),
        rows(2, 4),
    ),
    ("AddcmulBackward", 1): lambda: (
        Model(lambda p, x: torch.addcmul(x, p["w"], x.cos(), value=0.7), w=rand(4)),
        rows(2, 4),
    ),
    ("AddcmulBackward", 2): lambda: (
        Model(lambda p, x: torch.addcmul(x, x.cos(), p["w"], value=-0.7), w=rand(2, 1)),
        rows(2, 4),
    ),
    ("ExpandBackward", 0): lambda: (
        Model(lambda p, x: torch.cat([p["w"].expand(len(x), 2, -1), x], 1).tanh(), w=rand(1, 1, 4)),
        rows(2, 4),
    ),
    ("RepeatBackward", 0): lambda: (
        Model(lambda p, x: p["w"].repeat(len(x), 2, 3) * F.pad(x, (0, 10)), w=rand(1, 1, 4)),
        rows(2, 2),
    ),
    ("MmBackward", 0): lambda: (Model(lambda p, x: (p["w"] @ x.t()).t(), w=rand(3, 4)), rows(4)),
    ("MmBackward", 1): lambda: (Model(lambda p, x: x @ p["w"], w=rand(4, 3)), rows(4)),
    ("AddmmBackward", 0): lambda: (
        Model(lambda p, x: torch.addmm(p["w"], x, x.new_ones(4, 3), beta=0.6, alpha=1.7), w=rand(3)),
        rows(4),
    ),
    ("AddmmBackward", 1): lambda: (
        Model(lambda p, x: torch.addmm(x.new_ones(1), p["w"], x.t(), beta=0.6, alpha=1.7).t(), w=rand(3, 4)),
        rows(4),
    ),
    ("AddmmBackward", 2): lambda: (
        Model(lambda p, x: torch.addmm(x.new_ones(3), x, p["w"], beta=0.6, alpha=1.7), w=rand(4, 3)),
        rows(4),
    ),
    ("BmmBackward", 0): lambda: (
        Model(lambda p, x: torch.bmm(p["w"], x.permute(1, 2, 0)).permute(2, 0, 1), w=rand(2, 3, 4)),
        rows(2, 4),
    ),
    ("BmmBackward", 1): lambda: (
        Model(lambda p, x: torch.bmm(x.transpose(0, 1), p["w"]).transpose(0, 1), w=rand(2, 4, 3)),
        rows(2, 4),
    ),
    ("MvBackward", 1): lambda: (
        Model(lambda p, x: (x.flatten(0, 1) @ p["w"]).view(-1, 2).tanh(), w=rand(4)),
        rows(2, 4),
    ),
    ("NativeLayerNormBackward", 1): lambda: (shaken(net(nn.LayerNorm((2, 4)))), rows(3, 2, 4)),
    ("NativeLayerNormBackward", 2): lambda: (shaken(net(nn.LayerNorm(4))), rows(2, 4)),
    ("NativeGroupNormBackward", 1): lambda: (shaken(net(nn.GroupNorm(2, 6))), rows(6, 3, 2)),
    ("NativeGroupNormBackward", 2): lambda: (shaken(net(nn.GroupNorm(3, 6))), rows(6)),
    ("NativeBatchNormBackward", 1): lambda: (shaken(net(nn.BatchNorm2d(4))), rows(4, 3, 2)),
    ("NativeBatchNormBackward", 2): lambda: (shaken(net(nn.BatchNorm1d(4))), rows(4)),
    ("PreluKernelBackward", 1): lambda: (shaken(net(nn.PReLU(4))), rows(4, 3, 2)),
    ("EmbeddingBackward", 0): lambda: (net(nn.Embedding(9, 4, padding_idx=2)), ids(5)),
    ("IndexBackward", 0): lambda: (Model(lambda p, x: p["w"][x - 9], w=rand(9, 2, 3)), ids(5)),
    ("IndexSelectBackward", 0): lambda: (
        Model(lambda p, x: torch.index_select(p["w"], 0, x.flatten()).view(len(x), -1), w=rand(9, 2, 3)),
        ids(5),
    ),
    ("ConvolutionBackward", 1): conv_case(nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), 4, 9, 8),
    ("ConvolutionBackward", 2): conv_case(nn.Conv2d(3, 4, 3), 3, 6, 6),
}
"""A tiny model for each operation and slot."""


def _check(model, batch):
    task, engine = make_task(model), TapsEngine()
    grads = tapped(task, batch, engine)
    assert only_plan(engine).other == {}
    assert engine.notes() == []
    assert_same(grads, truth(task, batch))
    return used_rules(engine, task, batch)


@pytest.mark.parametrize(("kind", "slot"), MODELS)
def test_rule_equals_one_backward_per_sample(kind, slot):
    assert (kind, slot) in _check(*MODELS[kind, slot]())


def test_every_rule_has_a_case():
    """``linear`` and fused RMSNorm are separate operations on accelerators only; the tests below call their rules."""
    assert {kind for kind, _ in MODELS} == set(RULES) - {"LinearBackward", "FusedRmsNormBackward"}


CONVOLUTIONS = {
    "1d, stride, dilation": conv_case(nn.Conv1d(3, 4, 3, stride=2, dilation=2), 3, 14),
    "1d, depthwise": conv_case(nn.Conv1d(4, 4, 3, groups=4, padding=1), 4, 8),
    "2d, 1 x 1": conv_case(nn.Conv2d(3, 4, 1), 3, 4, 5),
    "2d, 1 x 1 with stride": conv_case(nn.Conv2d(3, 4, 1, stride=2), 3, 4, 5),
    "2d, patches": conv_case(nn.Conv2d(3, 4, (2, 3), (2, 3)), 3, 4, 6),
    "2d, patches with pixels to spare": conv_case(nn.Conv2d(3, 4, (2, 3), (2, 3)), 3, 5, 8),
    "2d, patches with padding": conv_case(nn.Conv2d(3, 4, 2, 2, padding=1), 3, 4, 6),
    "2d, patches in groups": conv_case(nn.Conv2d(4, 4, 2, 2, groups=2), 4, 4, 6),
    "2d, transposed": conv_case(nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), 4, 3, 4),
    "2d, transposed patches": conv_case(nn.ConvTranspose2d(3, 4, 2, 2), 3, 3, 4),
    "3d": conv_case(nn.Conv3d(2, 3, (2, 3, 3), padding=(0, 1, 1)), 2, 3, 4, 4),
    "3d, transposed": conv_case(nn.ConvTranspose3d(2, 3, 2), 2, 2, 3, 3),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    used = _check(*CONVOLUTIONS[name]())
    assert {("ConvolutionBackward", 1), ("ConvolutionBackward", 2)} <= used


SHAPES = {
    "repeat of a vector": (
        "RepeatBackward",
        lambda: (Model(lambda p, x: p["w"].repeat(2 * len(x)).view(len(x), -1) * x, w=rand(4)), rows(8)),
    ),
    "embedding with padding counted from the end": (
        "EmbeddingBackward",
        lambda: (net(nn.Embedding(9, 4, padding_idx=-1)), ids(5)),
    ),
    "embedding without padding": ("EmbeddingBackward", lambda: (net(nn.Embedding(9, 4)), ids(2, 3))),
    "index of scalars": ("IndexBackward", lambda: (Model(lambda p, x: p["w"][x], w=rand(9)), ids(4))),
    "one slope for all channels": ("PreluKernelBackward", lambda: (shaken(net(nn.PReLU())), rows(4, 3))),
    "RMSNorm over two dimensions": ("MulBackward", lambda: (shaken(net(nn.RMSNorm((2, 4)))), rows(3, 2, 4))),
    "matrix product of tokens": ("MmBackward", lambda: (net(nn.Linear(4, 3, bias=False)), rows(5, 4))),
    "tokens first": (
        "AddmmBackward",
        lambda: (Model(lambda p, x: F.linear(x.transpose(0, 1).reshape(-1, 4), p["w"], p["b"]).view(5, -1, 3)
                       .transpose(0, 1), w=rand(3, 4), b=rand(3)), rows(5, 4)),
    ),
    "norm with tokens first": (
        "NativeLayerNormBackward",
        lambda: (Model(lambda p, x: F.layer_norm(x.transpose(0, 1), (4,), p["w"], p["b"]).transpose(0, 1),
                       w=rand(4), b=rand(4)), rows(6, 4)),
    ),
    "gain that all channels share": ("MulBackward", lambda: (Model(lambda p, x: p["w"] * x, w=rand(1)), rows(2, 4))),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_unusual_shapes(name):
    kind, make = SHAPES[name]
    assert kind in {found for found, _ in _check(*make())}


UNUSUAL = {
    "embedding scaled by frequency": lambda: (net(nn.Embedding(9, 4, scale_grad_by_freq=True)), ids(5)),
    "index by two tensors": lambda: (Model(lambda p, x: p["w"][x, x], w=rand(9, 9, 2)), ids(5)),
    "index of columns": lambda: (Model(lambda p, x: p["w"][:, x].movedim(0, -1), w=rand(3, 9)), ids(5)),
    "index_select of columns": lambda: (
        Model(lambda p, x: torch.index_select(p["w"], 1, x).t(), w=rand(3, 9)),
        ids(),
    ),
    "a vector that every sample multiplies": lambda: (
        Model(lambda p, x: torch.stack([torch.mv(p["w"], row) for row in x]), w=rand(3, 4)),
        rows(4),
    ),
    "a convolution of a parameter": lambda: (
        Model(lambda p, x: F.conv2d(p["w"], x.unsqueeze(1)).transpose(0, 1), w=rand(2, 1, 4, 4)),
        rows(2, 2),
    ),
    "a parameter normalised by each sample's gain": lambda: (
        Model(lambda p, x: torch.stack([F.layer_norm(p["w"], (4,), row) for row in x]), w=rand(4)),
        rows(4),
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_uses_outside_a_formula_go_to_another_engine(name):
    model, batch = UNUSUAL[name]()
    task, engine = make_task(model), TapsEngine()
    assert_same(tapped(task, batch, engine), truth(task, batch))
    assert len(engine.other()) == 1
    assert list(engine.shares(task)) in (["vmap"], ["loop"])
    assert engine.notes()[0].startswith("1 parameters, first ")


def _use(slot, shape, output, owner, **saved):
    node = SimpleNamespace(**{f"_saved_{name}": value for name, value in saved.items()})
    return Use(node, slot, shape, tuple(output.shape), owner, 6, output)


def test_linear_as_a_separate_operation():
    inputs, grad = rand(6, 5, 4), rand(6, 5, 3)
    rule = RULES["LinearBackward"]
    weight = rule(_use(1, (3, 4), grad, Owner(0), input=inputs))
    torch.testing.assert_close(weight.samples(0, 6), torch.einsum("nto,nti->noi", grad, inputs))
    minor = rule(_use(1, (3, 4), grad.transpose(0, 1), Owner(1), input=inputs.transpose(0, 1)))
    torch.testing.assert_close(minor.samples(2, 4), torch.einsum("nto,nti->noi", grad, inputs)[2:4])
    bias = rule(_use(2, (3,), grad, Owner(0), input=inputs))
    torch.testing.assert_close(bias.samples(0, 6), grad.sum(1))
    assert rule(_use(0, (6, 5, 4), grad, Owner(0), input=inputs)) is None
    assert rule(_use(1, (3, 4), rand(5, 6), Owner(1), input=rand(5, 4))) is None


def test_half_precision_is_multiplied_in_float32():
    grad, left, right = (rand(*shape).bfloat16() for shape in ((2, 30, 5), (2, 30, 4), (2, 5, 30)))
    exact = torch.einsum("bto,bti->tbio", grad.double(), left.double()).view(6, 5, 2, 4, 5).sum(1)
    second = RULES["BmmBackward"](_use(1, (2, 4, 5), grad, Owner(1), self=left))
    torch.testing.assert_close(second.samples(0, 6).double(), exact, rtol=1e-5, atol=1e-5)
    columns = rand(2, 4, 30).bfloat16()
    exact = torch.einsum("bot,bit->tboi", right.double(), columns.double()).view(6, 5, 2, 5, 4).sum(1)
    first = RULES["BmmBackward"](_use(0, (2, 5, 4), right, Owner(2), mat2=columns))
    torch.testing.assert_close(first.samples(0, 6).double(), exact, rtol=1e-5, atol=1e-5)
    grad, rows_of = rand(30).bfloat16(), rand(30, 4).bfloat16()
    exact = (grad.double()[:, None] * rows_of.double()).view(6, 5, 4).sum(1)
    vector = RULES["MvBackward"](_use(1, (4,), grad, Owner(0), self=rows_of))
    torch.testing.assert_close(vector.samples(0, 6).double(), exact, rtol=1e-5, atol=1e-5)


def test_fused_rms_norm_as_a_separate_operation():
    inputs, grad = rand(6, 5, 2, 4), rand(6, 5, 2, 4)
    rstd = torch.rsqrt(inputs.square().mean((2, 3), keepdim=True) + 1e-6)
    term = RULES["FusedRmsNormBackward"](_use(1, (2, 4), grad, Owner(0), input=inputs, result1=rstd))
    gain = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    for i in range(6):
        outputs = F.rms_norm(inputs[i], (2, 4), gain, 1e-6)
        (expected,) = torch.autograd.grad(outputs, gain, grad[i])
        torch.testing.assert_close(term.samples(i, i + 1)[0], expected)


DECLINED = {
    "value differs between samples": ("AddBackward", _use(0, (6, 3), rand(6, 3), Owner(0), alpha=1)),
    "product, value differs": ("MulBackward", _use(0, (6, 3), rand(6, 3), Owner(0), other=rand(6, 3))),
    "product, factor not saved": ("MulBackward", _use(0, (3,), rand(6, 3), Owner(0), other=None)),
    "quotient, value differs": ("DivBackward", _use(0, (6, 3), rand(6, 3), Owner(0), other=rand(6, 3))),
    "addcmul, factor not saved": ("AddcmulBackward", _use(1, (3,), rand(6, 3), Owner(0), tensor2=None, value=1)),
    "repeat, samples in turns": ("RepeatBackward", _use(0, (3,), rand(18), Owner(0, minor=True))),
    "repeat, share is no multiple": ("RepeatBackward", _use(0, (4,), rand(18), Owner(0))),
    "mm, samples along the weight": ("MmBackward", _use(1, (4, 6), rand(3, 6), Owner(1), self=rand(3, 4))),
    "bmm, samples along the batch": ("BmmBackward", _use(1, (6, 4, 3), rand(6, 2, 3), Owner(0), self=rand(6, 2, 4))),
    "mv, the matrix": ("MvBackward", _use(0, (6, 4), rand(6), Owner(0), vec=rand(4))),
    "layer norm, its input": ("NativeLayerNormBackward", _use(0, (3,), rand(6, 3), Owner(0))),
    "rms norm, its input": ("FusedRmsNormBackward", _use(0, (3,), rand(6, 3), Owner(0))),
    "group norm, its input": ("NativeGroupNormBackward", _use(0, (6, 4), rand(6, 4), Owner(0))),
    "batch norm, train mode": ("NativeBatchNormBackward", _use(1, (4,), rand(6, 4), Owner(0), training=True)),
    "batch norm, no statistics": (
        "NativeBatchNormBackward",
        _use(1, (4,), rand(6, 4), Owner(0), training=False, running_mean=None),
    ),
    "prelu, its input": ("PreluKernelBackward", _use(0, (6, 4), rand(6, 4), Owner(0))),
    "embedding, samples along the width": (
        "EmbeddingBackward",
        _use(0, (9, 6), rand(2, 6), Owner(1), indices=torch.zeros(2), scale_grad_by_freq=False),
    ),
    "index, a mask": ("IndexBackward", _use(0, (9, 2), rand(6, 2), Owner(0), indices=[torch.ones(9).bool()])),
    "index, samples along the width": ("IndexBackward", _use(0, (9, 6), rand(2, 6), Owner(1), indices=[torch.ones(2)])),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLINED)
def test_rules_decline_rather_than_guess(name):
    kind, use = DECLINED[name]
    assert RULES[kind](use) is None
