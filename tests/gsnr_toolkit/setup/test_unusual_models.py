"""Models with weights that are no plain tensors, and models that draw random numbers by themselves."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit import estimate_gsnr
from gsnr_toolkit.errors import ProbeError


def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 6, generator=generator), torch.arange(8) % 2) for _ in range(4)]


class Int8(torch.Tensor):
    """Weight-only quantization in small: operations that it does not know are refused."""

    @staticmethod
    def __new__(cls, q, scale):
        return torch.Tensor._make_wrapper_subclass(cls, q.shape, dtype=scale.dtype, requires_grad=False)

    def __init__(self, q, scale):
        self.q, self.scale = q, scale

    @classmethod
    def __torch_dispatch__(cls, func, types, args, kwargs=None):
        if "detach" in str(func) or "aten.t.default" in str(func):
            return cls(args[0].q if "detach" in str(func) else args[0].q.t(), args[0].scale)
        if "mm" in str(func):
            return func(*[a.q * a.scale if isinstance(a, cls) else a for a in args], **(kwargs or {}))
        raise NotImplementedError(f"Int8 has no {func}")


class Flat(Int8):
    """The same with readable parts, as torchao's tensors have."""

    def __tensor_flatten__(self):
        return ["q", "scale"], None


@pytest.mark.parametrize("kind", [Int8, Flat])
def test_frozen_weights_of_a_tensor_subclass_measure_like_plain_ones(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    q = (model[0].requires_grad_(False).weight / 0.01).round().to(torch.int8)
    model[0].weight = nn.Parameter(q * torch.tensor(0.01), requires_grad=False)
    plain = estimate_gsnr(model, batches(), progress=False).total["gsnr"]
    model[0].weight = nn.Parameter(kind(q, torch.tensor(0.01)), requires_grad=False)
    found = estimate_gsnr(model, batches(), progress=False).total["gsnr"]
    assert found == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_parameters_on_the_meta_device_are_refused_by_name(frozen):
    model = nn.Sequential(nn.Linear(6, 6, device="meta"), nn.Linear(6, 2))
    model[0].requires_grad_(not frozen)
    with pytest.raises(ProbeError, match=r"'0\.weight' on the meta device"):
        estimate_gsnr(model, batches(), progress=False)


class Drawing(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.first, self.last, self.draw = nn.Linear(6, 8), nn.Linear(8, 2), draw

    def forward(self, x):
        return self.last(self.draw(self.first(x)))


@pytest.mark.parametrize(
    ("draw", "noted"),
    [
        (lambda z: F.dropout(z, 0.5), True),
        (lambda z: z + torch.randn_like(z), True),
        (lambda z: z * (torch.rand(()) * 0 + 1), True),
        (torch.tanh, False),
    ],
)
def test_random_numbers_drawn_without_a_dropout_module_are_noted(draw, noted):
    notes = estimate_gsnr(Drawing(draw), batches(), progress=False).notes
    assert any("draws random numbers" in note for note in notes) == noted


class Lora(nn.Linear):
    def __init__(self):
        super().__init__(6, 2)
        self.requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.zeros(2, 2))

    def forward(self, x):
        return super().forward(x) + x @ self.a.T @ self.b.T


@pytest.mark.filterwarnings("ignore:GSNR is undefined")
def test_the_note_on_zero_gradients_tells_unconnected_parameters_from_lora_at_its_start():
    model = Lora()
    model.unused = nn.Parameter(torch.randn(3))
    notes = [note for note in estimate_gsnr(model, batches(), progress=False).notes if "exactly zero" in note]
    assert len(notes) == 2
    assert "1 of 3 parameters" in notes[0]
    assert "'unused': the loss does not reach them;" in notes[0]
    assert "1 of 3 parameters" in notes[1]
    assert "'a': the loss reaches them, but its gradient vanishes" in notes[1]
    with torch.no_grad():
        model.b += 1
    notes = [note for note in estimate_gsnr(model, batches(), progress=False).notes if "exactly zero" in note]
    assert len(notes) == 1
    assert "'unused'" in notes[0]


@pytest.mark.filterwarnings("ignore:GSNR is undefined")
def test_units_that_never_fire_are_connected():
    model = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].bias.fill_(-1e6)
    notes = [note for note in estimate_gsnr(model, batches(), progress=False).notes if "exactly zero" in note]
    assert len(notes) == 1
    assert "the loss reaches them" in notes[0]
