"""SAM in accelerate's Accelerator, against a loop written by hand."""

import warnings

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit import SAM, ProbeError
from gsnr_toolkit.errors import ProbeWarning
from tests.support.hand_loop import distance, expected_prints, recipes, sam_step_by_hand

OPTIONS = {"lr": 0.05, "weight_decay": 0.01}
RHO = 0.2


@pytest.fixture(autouse=True)
def _fresh_state():
    """Accelerate keeps one state for the process."""
    states = AcceleratorState, GradientState, PartialState
    for state in states:
        state._shared_state.clear()
    yield
    for state in states:
        state._shared_state.clear()


@pytest.fixture
def train(capsys):
    page = recipes("accelerate")
    _fresh_state_now()
    return page["train"]


def _fresh_state_now():
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()


def make_net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def make_loader():
    inputs = torch.randn(24, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = torch.utils.data.TensorDataset(inputs, (inputs[:, 0] * inputs[:, 1] > 0).long())
    return torch.utils.data.DataLoader(data, batch_size=4)


def prepared(count=1, **options):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=count, **options)
    net = make_net()
    optimizer = SAM(net, torch.optim.AdamW, rho=RHO, **OPTIONS)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)
    return accelerator, *accelerator.prepare(net, optimizer, make_loader(), scheduler)


def by_hand(count=1, epochs=2, *, autocast=False, clip=None, rho=RHO):
    """Train a twin; the learning rate falls after each step, and a shorter last group counts as accelerate lets it."""
    net = make_net()
    base = torch.optim.AdamW(net.parameters(), **OPTIONS)
    scheduler = torch.optim.lr_scheduler.StepLR(base, 1, gamma=0.9)

    def loss_fn(part):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            outputs = net(part[0])
        return F.cross_entropy(outputs.float() if autocast else outputs, part[1])

    for _ in range(epochs):
        batches = list(make_loader())
        for start in range(0, len(batches), count):
            parts = batches[start : start + count]
            sam_step_by_hand(net.parameters(), base, loss_fn, parts, rho=rho, clip=clip, weight=1 / count)
            scheduler.step()
    return net


def assert_same(net, twin, plain, tolerance=1e-12):
    assert distance(net, twin) < tolerance
    assert distance(net, plain) > 10 * tolerance  # SAM differs from the base optimizer here


def test_the_page_runs_and_prints_what_it_says(capsys):
    recipes("accelerate")
    assert capsys.readouterr().out == expected_prints("accelerate")


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_the_recipe(train, count, clip):
    accelerator, net, optimizer, loader, scheduler = prepared(count)
    for _ in range(2):
        train(accelerator, net, optimizer, loader, scheduler, clip=clip)
    assert_same(net, by_hand(count, clip=clip), by_hand(count, clip=clip, rho=0.0))
    assert optimizer.optimizer.steps == 2 * -(-6 // count)


@pytest.mark.parametrize("count", [1, 3])
def test_bf16(train, count):
    accelerator, net, optimizer, loader, scheduler = prepared(count, mixed_precision="bf16")
    for _ in range(2):
        train(accelerator, net, optimizer, loader, scheduler, clip=0.05)
    twin = {"autocast": True, "clip": 0.05}
    # a last bit of a weight may round to another half-precision number, which Adam makes visible
    assert_same(net, by_hand(count, **twin), by_hand(count, rho=0.0, **twin), tolerance=1e-6)


def test_step_with_a_closure():
    accelerator, net, optimizer, loader, scheduler = prepared()
    for _ in range(2):
        for x, y in loader:

            def closure(x=x, y=y):
                accelerator.backward(F.cross_entropy(net(x), y))
                accelerator.clip_grad_norm_(net.parameters(), 0.05)

            optimizer.step(closure)
            scheduler.step()
    assert_same(net, by_hand(clip=0.05), by_hand(clip=0.05, rho=0.0))


@pytest.mark.parametrize("count", [1, 3])
def test_resuming_in_the_middle(train, tmp_path, count):
    accelerator, net, optimizer, loader, scheduler = prepared(count)
    train(accelerator, net, optimizer, loader, scheduler)
    accelerator.save_state(tmp_path / "middle")
    _fresh_state_now()
    accelerator, net, optimizer, loader, scheduler = prepared(count)
    with torch.no_grad():
        net[0].weight.add_(1.0)  # what the checkpoint must undo
    accelerator.load_state(tmp_path / "middle")
    assert optimizer.optimizer.steps == 6 / count
    train(accelerator, net, optimizer, loader, scheduler)
    assert_same(net, by_hand(count), by_hand(count, rho=0.0))


def test_a_closure_in_accumulate_is_told():
    accelerator, net, optimizer, loader, _ = prepared(3)
    told = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x, y in loader:
            with accelerator.accumulate(net):

                def closure(x=x, y=y):
                    accelerator.backward(F.cross_entropy(net(x), y))

                if not accelerator.sync_gradients:
                    closure()
                optimizer.step(closure)
        told = [str(one.message) for one in caught if issubclass(one.category, ProbeWarning)]
    assert len(told) == 1
    assert "a trainer that accumulates" in told[0]


def test_a_step_without_a_closure_is_refused():
    accelerator, net, optimizer, loader, _ = prepared()
    x, y = next(iter(loader))
    accelerator.backward(F.cross_entropy(net(x), y))
    with pytest.raises(ProbeError, match="expected a closure"):
        optimizer.step()
    assert distance(net, make_net()) == 0


@pytest.mark.parametrize("form", ["closure", "no closure"])
def test_its_scaler_is_refused(form):
    """fp16, which accelerate has on a GPU only; its optimizer is built here as it builds it."""
    net = make_net()
    sam = SAM(net, torch.optim.AdamW, rho=RHO, **OPTIONS)
    scaler = torch.amp.GradScaler("cpu")
    Accelerator(cpu=True)
    optimizer = AcceleratedOptimizer(sam, scaler=scaler)
    x, y = next(iter(make_loader()))

    def closure():
        scaler.scale(F.cross_entropy(net(x), y)).backward()

    closure()
    with pytest.raises(ProbeError, match="scaler=scaler"):
        optimizer.step(closure if form == "closure" else None)
    assert distance(net, make_net()) == 0
