import pytest
import torch
from torch import nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.memory import parse_bytes
from gsnr_toolkit.gradients.select import ENGINES, make_engine
from gsnr_toolkit.gradients.task import GradientTask, trainable_params
from gsnr_toolkit.inputs.losses import resolve_loss
from tests.support.cases import CASES
from tests.support.reference import one_row, per_sample_gradients


def _task(case, dtype=torch.float64):
    model = case.model().to(dtype)
    batch = case.batch()
    if not isinstance(batch, dict) and batch[0].is_floating_point():
        batch = (batch[0].to(dtype), batch[1])
    return GradientTask(model, trainable_params(model), resolve_loss(case.loss_fn)), batch


def _collect(chunks):
    chunks = list(chunks)
    assert [chunk.start for chunk in chunks] == sorted(chunk.start for chunk in chunks)
    return {name: torch.cat([chunk.grads[name] for chunk in chunks]) for name in chunks[0].grads}, torch.cat(
        [chunk.losses for chunk in chunks]
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chunk_size", [2, 5])
def test_engine_equals_backward_per_sample(name, engine, chunk_size):
    task, batch = _task(CASES[name])
    grads, losses = _collect(make_engine(engine)(task, batch, chunk_size=chunk_size))
    expected = per_sample_gradients(task.model, batch, task.loss_fn, one_row)
    assert grads.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(grads[key], value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(losses, task.loss_fn(task.model, batch).detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["open_clip ViT", "tied embedding, dict batch"])
def test_float32_agrees_to_its_precision(name):
    task, batch = _task(CASES[name], torch.float32)
    loop, _ = _collect(make_engine("loop")(task, batch, chunk_size=1))
    fast, _ = _collect(make_engine("vmap")(task, batch, chunk_size=3))
    for key, value in loop.items():
        torch.testing.assert_close(fast[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_mean_gradient_is_the_mean_of_per_sample_gradients(name):
    task, batch = _task(CASES[name])
    gradient, _ = task.mean_gradient(batch)
    expected = per_sample_gradients(task.model, batch, task.loss_fn, one_row)
    for key, value in expected.items():
        torch.testing.assert_close(gradient[key], value.mean(0), rtol=1e-9, atol=1e-11)


def test_vmap_keeps_at_most_one_chunk_in_memory():
    task, batch = _task(CASES["mlp, binary (N, 1)"])
    sizes = [chunk.losses.shape[0] for chunk in make_engine("vmap")(task, batch, chunk_size=2)]
    assert sizes == [2, 2, 1]


def test_frozen_parameters_are_measured_only_on_request():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    assert list(trainable_params(model)) == ["1.weight", "1.bias"]
    everything = trainable_params(model, include_frozen=True)
    assert list(everything) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    batch = (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    task = GradientTask(model, everything, resolve_loss(None))
    grads, _ = _collect(make_engine("vmap")(task, batch, chunk_size=4))
    assert grads["0.weight"].abs().sum() > 0
    assert not model[0].weight.requires_grad


def test_unreached_parameters_have_zero_gradients():
    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x):
            return self.used(x)

    model = Partial()
    task = GradientTask(model, trainable_params(model), resolve_loss(None))
    batch = (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    for engine in ENGINES:
        grads, _ = _collect(make_engine(engine)(task, batch, chunk_size=4))
        assert not grads["unused.weight"].any()
        assert grads["used.weight"].all()


def test_detached_model_is_an_error():
    class Detached(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    model = Detached(3, 1)
    task = GradientTask(model, trainable_params(model), resolve_loss(None))
    with pytest.raises(ProbeError, match=r"carries no gradient.*detach\(\)"):
        task.mean_gradient((torch.randn(4, 3), torch.tensor([0, 1, 0, 1])))


def test_models_that_vmap_cannot_run_are_refused():
    class Branching(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return y if y.sum().item() > 0 else -y

    model = Branching(3, 1)
    task = GradientTask(model, trainable_params(model), resolve_loss(None))
    with pytest.raises(ProbeError, match="engine='loop'"):
        list(make_engine("vmap")(task, (torch.randn(4, 3), torch.tensor([0, 1, 0, 1])), chunk_size=2))


def test_errors_of_the_model_itself_pass_through_vmap():
    class Broken(nn.Linear):
        def forward(self, x):
            raise RuntimeError("my own trouble")

    model = Broken(3, 1)
    task = GradientTask(model, trainable_params(model), resolve_loss(None))
    with pytest.raises(RuntimeError, match="my own trouble"):
        list(make_engine("vmap")(task, (torch.randn(4, 3), torch.tensor([0, 1, 0, 1])), chunk_size=2))


def test_no_trainable_parameter():
    model = nn.Linear(2, 1).requires_grad_(False)
    with pytest.raises(ProbeError, match=r"2 parameters, all frozen.*include_frozen=True"):
        trainable_params(model)


def test_complex_parameters_are_refused():
    model = nn.ParameterDict({"w": nn.Parameter(torch.zeros(2, dtype=torch.complex64))})
    with pytest.raises(ProbeError, match=r"complex64 for 'w'"):
        trainable_params(model)


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8 * 10**9), ("512MiB", 512 * 2**20), ("1e9", 10**9), ("2 kb", 2000)]
)
def test_parse_bytes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "8 apples"])
def test_parse_bytes_refuses(text):
    with pytest.raises(ProbeError, match="memory size"):
        parse_bytes(text)
