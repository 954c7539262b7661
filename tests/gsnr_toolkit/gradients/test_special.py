"""Special circumstances: each measured right, left to another engine, or refused with a sentence."""

import copy

import pytest
import torch
from cases import TiedLanguageModel, TinyViT, next_token_loss
from reference import one_row
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from zoo import assert_gradients_close

from gsnr_toolkit.errors import MixedSamplesError, ProbeError
from gsnr_toolkit.gradients.functional import GradientTask, trainable_params
from gsnr_toolkit.gradients.graph import Graph
from gsnr_toolkit.gradients.loop import loop_gradients
from gsnr_toolkit.gradients.selfcheck import failures
from gsnr_toolkit.gradients.taps import TapsEngine, run_forward
from gsnr_toolkit.gradients.vmap import vmap_gradients
from gsnr_toolkit.losses import resolve_loss
from gsnr_toolkit.moments import Moments

N = 6


class Net(nn.Module):
    """A forward given as a function of the module and its input."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def _task(model, loss_fn=None):
    return GradientTask(model, trainable_params(model), resolve_loss(loss_fn))


def _rows(dtype=torch.float64):
    return torch.randn(N, 6, dtype=dtype), torch.tensor([0, 1, 2, 0, 1, 2])


def _gradients(task, batch, engine=None, chunk_size=4):
    chunks = list((engine or TapsEngine())(task, batch, chunk_size=chunk_size))
    return {name: torch.cat([chunk.grads[name] for chunk in chunks]) for name in task.params}


def _truth(model, batch, loss_fn=None, rows=one_row):
    """``.backward()`` on a copy; sparse gradients made dense."""
    found = {}
    for i in range(len(batch[1]) if isinstance(batch, tuple) else N):
        twin = copy.deepcopy(model)
        resolve_loss(loss_fn)(twin, rows(batch, i)).sum().backward()
        for name, param in twin.named_parameters():
            grad = torch.zeros_like(param) if param.grad is None else param.grad.to_dense()
            found.setdefault(name, []).append(grad.detach())
    return {name: torch.stack(grads) for name, grads in found.items()}


def _assert_right(model, batch, loss_fn=None, rtol=1e-10, other=()):
    engine = TapsEngine()
    grads = _gradients(_task(model, loss_fn), batch, engine)
    for name, grad in _truth(model, batch, loss_fn).items():
        scale = float(grad.abs().max()) if grad.numel() else 0.0
        torch.testing.assert_close(
            grads[name], grad, rtol=0, atol=rtol * scale, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert set(engine.other()) == set(other)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ---- half precision ------------------------------------------------------------------------------------------------


class Cast(nn.Module):
    """A module under autocast."""

    def __init__(self, inner, dtype):
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, *args):
        with torch.autocast("cpu", dtype=self.dtype):
            return self.inner(*args)


def _conv():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=3), nn.Flatten(), nn.Linear(16, 1)
    )


def _applied_twice():
    first, shared = nn.Linear(6, 6), nn.Linear(6, 6)
    return nn.Sequential(first, nn.GELU(), shared, nn.LayerNorm(6), nn.GELU(), shared, nn.Linear(6, 3))


def _encoder():
    layer = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(30, 3))


BINARY = torch.tensor([0, 1, 1, 0, 1, 0])
HALF = {
    "weight cast once, used twice": (_applied_twice, lambda: _rows(torch.float32), None),
    "patches, attention, layer norm": (TinyViT, lambda: (torch.randn(N, 3, 8, 8), BINARY), None),
    "convolution, group norm": (_conv, lambda: (torch.randn(N, 3, 8, 8), BINARY), None),
    "embedding, tied": (TiedLanguageModel, lambda: {"tokens": torch.randint(0, 11, (N, 7))}, next_token_loss),
    "multi-head attention": (_encoder, lambda: (torch.randn(N, 5, 6), _rows()[1]), None),
}
UNIT = {torch.bfloat16: 2**-8, torch.float16: 2**-11}


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("case", HALF)
def test_autocast_is_measured_to_its_precision(case, dtype):
    make, batch, loss_fn = HALF[case]
    plain, batch = make(), batch()
    model, engine = Cast(plain, dtype), TapsEngine()
    task = _task(model, loss_fn)
    grads = {name.removeprefix("inner."): grad for name, grad in _gradients(task, batch, engine).items()}
    assert engine.other() == {}
    same_cast = {name.removeprefix("inner."): grad for name, grad in _truth(model, batch, loss_fn).items()}
    exact = _truth(plain, batch, loss_fn)
    moments = Moments()
    TapsEngine().accumulate(task, batch, moments, chunk_size=4)
    for name, expected in exact.items():
        size = float(expected.norm())
        assert grads[name].dtype == moments.mean[f"inner.{name}"].dtype == torch.float32
        assert float((grads[name] - same_cast[name]).norm()) <= 4 * UNIT[dtype] * size, name
        assert float((grads[name] - expected).norm()) <= 16 * UNIT[dtype] * size, name
        torch.testing.assert_close(moments.mean[f"inner.{name}"], grads[name].mean(0), rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("case", HALF)
def test_half_precision_parameters_have_float32_moments(case, dtype):
    make, batch, loss_fn = HALF[case]
    model, batch = make().to(dtype), batch()
    if isinstance(batch, tuple):
        batch = (batch[0].to(dtype), batch[1])
    engine, moments = TapsEngine(), Moments()
    task = _task(model, loss_fn)
    engine.accumulate(task, batch, moments, chunk_size=4)
    assert engine.other() == {}
    for name, grad in _truth(model, batch, loss_fn).items():
        assert moments.mean[name].dtype == torch.float32
        size = float(grad.float().flatten(1).norm(dim=1).mean())
        assert float((moments.mean[name] - grad.float().mean(0)).norm()) <= 16 * UNIT[dtype] * size, name


def test_the_check_in_half_precision_sees_what_is_wrong_and_only_that():
    good = [torch.randn(50).bfloat16() for _ in range(2)]
    rounded = torch.stack([one.float() * (1 + 2**-8) for one in good])
    assert failures("w", rounded, good, 1.0, torch.bfloat16) == {}
    for wrong in (rounded.roll(1, 0), rounded * 1.3, -rounded):
        assert "off by" in failures("w", wrong, good, 1.0, torch.bfloat16)["w"]
    # one large entry that is right hides no others that are wrong
    good = [torch.cat([torch.tensor([9.0]), torch.ones(400)]).bfloat16()]
    wrong = torch.cat([torch.tensor([9.0]), torch.full((400,), 0.2)]).unsqueeze(0)
    assert "off by" in failures("w", wrong, good, 0.0, torch.bfloat16)["w"]


def test_the_graph_tells_its_coarsest_type():
    task = _task(Cast(nn.Linear(6, 3), torch.bfloat16))
    assert run_forward(task, _rows(torch.float32)).graph.coarsest() == torch.bfloat16
    weight = torch.ones(3, requires_grad=True)
    assert Graph(weight * 2, {"w": weight}).coarsest() == torch.float32


# ---- activation checkpointing ---------------------------------------------------------------------------------------


def _checkpointed(reentrant, on=True):
    def forward(net, x):
        def middle(t):
            return net.b(torch.tanh(net.a(t)))

        h = torch.tanh(net.z(x))
        return net.c(checkpoint(middle, h, use_reentrant=reentrant) if on else middle(h))

    return Net(forward, **{name: nn.Linear(6, 6) for name in "zab"}, c=nn.Linear(6, 3)).double()


def test_checkpointing_is_named_by_taps_and_done_by_the_loop():
    model, batch = _checkpointed(reentrant=False), _rows()
    with pytest.raises(ProbeError, match=r"got activation checkpointing.*gradient_checkpointing_disable\(\)"):
        _gradients(_task(model), batch)
    grads = _gradients(_task(model), batch, loop_gradients)
    assert_gradients_close(grads, _truth(model, batch), rtol=1e-12)


def test_reentrant_checkpointing_is_refused():
    model, batch = _checkpointed(reentrant=True), _rows()
    for engine in (TapsEngine(), loop_gradients):
        with pytest.raises(ProbeError, match=r"got reentrant activation checkpointing.*use_reentrant=False"):
            _gradients(_task(model), batch, engine)


def test_a_checkpointed_model_is_recomputed_with_the_parameters_asked_for():
    model, batch = _checkpointed(reentrant=False), _rows()
    plain = _checkpointed(reentrant=False, on=False)
    plain.load_state_dict(model.state_dict())
    elsewhere = {name: value + 0.3 for name, value in trainable_params(model).items()}
    found, _ = _task(model).mean_gradient(batch, elsewhere)
    expected, _ = _task(plain).mean_gradient(batch, elsewhere)
    assert_gradients_close(found, expected, rtol=1e-12)


# ---- compiled modules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_parts_are_followed(backend):
    inner = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    model = nn.Sequential(inner, nn.Linear(6, 3)).double()
    batch = _rows()
    expected = _truth(model, batch)
    model[0] = torch.compile(inner, backend=backend)
    engine = TapsEngine()
    grads = _gradients(_task(model), batch, engine)
    assert_gradients_close({name.replace("_orig_mod.", ""): g for name, g in grads.items()}, expected, rtol=1e-12)
    assert engine.other() == {}


# ---- random numbers ------------------------------------------------------------------------------------------------


def _dropping(p=0.3):
    def forward(net, x):
        h = net.drop(torch.tanh(net.a(x)))
        keep = (torch.rand(len(h), 1, dtype=h.dtype) < 0.7).to(h) / 0.7 if net.training else 1  # drops whole branches
        return net.c(h + keep * net.drop(torch.relu(net.b(h))))

    return Net(forward, a=nn.Linear(6, 5), b=nn.Linear(5, 5), c=nn.Linear(5, 3), drop=nn.Dropout(p)).double()


def test_dropout_gradients_belong_to_the_masks_of_the_forward():
    model, batch = _dropping(), _rows()
    task = _task(model)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        engine = TapsEngine()
        engine.prepare(task, batch)  # uses up no random numbers
        grads = _gradients(task, batch, engine, chunk_size=N)
    torch.manual_seed(5)
    forward = run_forward(task, batch)
    for i, loss in enumerate(forward.losses):
        expected = torch.autograd.grad(loss, list(forward.leaves.values()), retain_graph=True)
        for name, grad in zip(forward.leaves, expected, strict=True):
            torch.testing.assert_close(grads[name][i], grad, rtol=1e-10, atol=1e-12)
    assert engine.other() == {}


def test_dropout_gradients_have_the_same_expectation_in_taps_and_loop():
    repeats, (inputs, labels) = 300, _rows()
    batch = (inputs[:2].repeat(repeats, 1), labels[:2].repeat(repeats))
    model = _dropping()
    taps = _gradients(_task(model), batch, chunk_size=100)
    loop = _gradients(_task(model), batch, loop_gradients)
    scores = []
    for name in taps:
        found, expected = (g[name].unflatten(0, (repeats, 2)) for g in (taps, loop))
        error = ((found.var(0) + expected.var(0)) / repeats).sqrt()
        assert bool((found.var(0) > 0).any())
        gap = found.mean(0) - expected.mean(0)
        scores.append((gap[error > 0] / error[error > 0]).flatten())
    scores = torch.cat(scores)
    assert float(scores.abs().max()) < 4.5  # 186 entries of standard normal size
    assert 0.7 < float(scores.square().mean()) < 1.3


def test_eval_mode_drops_nothing():
    _assert_right(_dropping().eval(), _rows())


def test_drop_path_of_a_small_branch_is_compared_under_the_same_masks():
    import timm

    model = timm.create_model(
        "convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=1, drop_path_rate=0.5
    ).train()
    engine = TapsEngine()
    engine.prepare(_task(model), (torch.randn(N, 3, 32, 32), BINARY))
    assert engine.other() == {}


# ---- mixed samples -------------------------------------------------------------------------------------------------


def _contrastive(model, batch):
    z = F.normalize(model(batch[0]), dim=1)
    return F.cross_entropy(5 * z @ z.t(), torch.arange(len(z)), reduction="none")


def _batch_norm(net, x):
    return net.c(net.drop(F.batch_norm(net.a(x), None, None, training=True)))


MIXING = {
    "contrastive": (lambda net, x: net.c(net.drop(torch.tanh(net.a(x)))), _contrastive),
    "batch mean of the outputs": (lambda net, x: (lambda o: o - o.mean(0))(net.c(net.drop(net.a(x)))), None),
    "batch mean inside": (lambda net, x: net.c(net.drop(net.a(x) - net.a(x).mean(0))), None),
    "batch statistics": (_batch_norm, None),
}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", MIXING)
def test_mixed_samples_are_found_with_dropout_on(name, check):
    forward, loss_fn = MIXING[name]
    model = Net(forward, a=nn.Linear(6, 6), c=nn.Linear(6, 3), drop=nn.Dropout(0.2)).double()
    with pytest.raises(MixedSamplesError, match="row i needs sample i only"):
        _gradients(_task(model, loss_fn), _rows(), TapsEngine(check=check))


def test_a_branch_on_the_batch_is_found():
    model = Net(lambda net, x: net.a(x) if x.sum() > 0 else 2 * net.a(x), a=nn.Linear(6, 3)).double()
    inputs, labels = _rows()
    batch = (inputs.abs() * torch.tensor([1.0, -0.1, 1, 1, 1, 1]).unsqueeze(1), labels)
    with pytest.raises(MixedSamplesError, match=r"for sample 1 in a batch of 3 and .* alone.*branches"):
        _gradients(_task(model), batch)


# ---- in-place edits, complex numbers, functions of one's own ---------------------------------------------------------


def _overwriting(net, x):
    h = net.a(x)
    out = net.b(h)
    h.mul_(2)
    return out


def test_an_activation_overwritten_in_place_is_a_sentence():
    model = Net(_overwriting, a=nn.Linear(6, 6), b=nn.Linear(6, 3)).double()
    for engine in (TapsEngine(), TapsEngine(check=False), loop_gradients):
        with pytest.raises(ProbeError, match=r"overwrites in place.*x = x \* 2"):
            _gradients(_task(model), _rows(), engine)


def test_in_place_edits_that_no_gradient_needs_are_right():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)).double()
    _assert_right(model, _rows())


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
    batch, engine = _rows(), TapsEngine(check=check)
    assert_gradients_close(_gradients(_task(model), batch, engine), _truth(model, batch), rtol=1e-10)
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


def test_a_function_of_ones_own_goes_to_another_engine():
    model = Net(lambda net, x: net.b(torch.tanh(_Product.apply(x, net.w))), w=_param(6, 6), b=nn.Linear(6, 3)).double()
    _assert_right(model, _rows(), other={"w"})


# ---- parameters and inputs of unusual form ---------------------------------------------------------------------------


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


@pytest.mark.parametrize("rows", [N, 5, 1])
@pytest.mark.parametrize("name", PLAIN)
def test_unusual_parameters_and_hooks_are_right(name, rows):
    inputs, labels = _rows()
    _assert_right(PLAIN[name]().double(), (inputs[:rows], labels[:rows]))


def test_channels_last_is_right():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3, 3), nn.Flatten(), nn.Linear(16, 3))
    model = model.double().to(memory_format=torch.channels_last)
    images = torch.randn(N, 3, 8, 8).double().to(memory_format=torch.channels_last)
    _assert_right(model, (images, _rows()[1]))
    moments = Moments()
    TapsEngine().accumulate(_task(model), (images, _rows()[1]), moments, chunk_size=4)
    expected = _truth(model, (images, _rows()[1]))
    for name, grad in expected.items():
        torch.testing.assert_close(moments.mean[name], grad.mean(0), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(moments.variance()[name], grad.var(0), rtol=1e-8, atol=1e-12)


def test_inputs_that_require_gradients():
    model, (inputs, labels) = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double(), _rows()
    wanted = _truth(model, (inputs, labels))
    leaf = inputs.clone().requires_grad_()
    for batch in ((leaf, labels), (leaf * 1, labels)):
        assert_gradients_close(_gradients(_task(model), batch), wanted, rtol=1e-12)
    assert leaf.grad is None


def test_a_gradient_penalty_is_differentiated_through():
    def loss_fn(model, batch):
        inputs = batch[0].detach().requires_grad_()
        logits = model(inputs)
        (slope,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
        return F.cross_entropy(logits, batch[1], reduction="none") + slope.square().sum(1)

    _assert_right(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double(), _rows(), loss_fn)


def test_long_rows_and_single_rows():
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 2000, 3)).double()
    batch = (torch.randn(3, 2000, 6).double(), torch.tensor([0, 1, 2]))
    _assert_right(model, batch, rtol=1e-9)
    engine, moments = TapsEngine(), Moments()
    for row in range(3):
        engine.accumulate(_task(model), one_row(batch, row), moments, chunk_size=4)
    for name, grad in _truth(model, batch).items():
        torch.testing.assert_close(moments.mean[name], grad.mean(0), rtol=1e-10, atol=1e-12)


# ---- tables, sequences ---------------------------------------------------------------------------------------------


def test_sparse_gradients_of_tables_are_right_in_taps_and_loop():
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(16, 3)).double()
    batch = (torch.randint(0, 9, (N, 4)), _rows()[1])
    _assert_right(model, batch)
    assert_gradients_close(_gradients(_task(model), batch, loop_gradients), _truth(model, batch), rtol=1e-12)
    with pytest.raises(ProbeError, match=r"cannot vectorise this model.*pass engine='loop'"):
        _gradients(_task(model), batch, vmap_gradients)


def _lengths():
    return torch.randn(N, 5, 6).double(), _rows()[1], torch.tensor([5, 3, 2, 5, 4, 1])


def _loss_with_lengths(model, batch):
    return F.cross_entropy(model((batch[0], batch[2])), batch[1], reduction="none")


def _packed(net, x):
    packed = nn.utils.rnn.pack_padded_sequence(*x, batch_first=True, enforce_sorted=False)
    return net.b(net.a(packed)[1][0][-1])


def test_packed_sequences_go_to_another_engine():
    model = Net(_packed, a=nn.LSTM(6, 6, batch_first=True), b=nn.Linear(6, 3)).double()
    recurrent = {name for name, _ in model.named_parameters() if name.startswith("a.")}
    _assert_right(model, _lengths(), _loss_with_lengths, other=recurrent)


def _jagged(net, x):
    rows = torch.nested.as_nested_tensor([row[:length] for row, length in zip(*x, strict=True)], layout=torch.jagged)
    return net.b(torch.stack([one.mean(0) for one in torch.tanh(net.a(rows)).unbind()]))


def test_nested_tensors_are_refused_by_taps_and_done_by_the_loop():
    model, batch = Net(_jagged, a=nn.Linear(6, 6), b=nn.Linear(6, 3)).double(), _lengths()
    with pytest.raises(ProbeError, match=r"nested \(jagged\) one from .*engine='loop'"):
        _gradients(_task(model, _loss_with_lengths), batch)
    grads = _gradients(_task(model, _loss_with_lengths), batch, loop_gradients)
    assert_gradients_close(grads, _truth(model, batch, _loss_with_lengths), rtol=1e-12)
