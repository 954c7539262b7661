"""Products merged by the compiled kernel, against two passes over the formed products in float64."""

import os
import subprocess
import sys

import pytest
import torch

from gsnr_toolkit.gradients.kernels import fused_products, native
from gsnr_toolkit.gradients.kernels.fused_products import fits, merge
from gsnr_toolkit.gradients.kernels.tiles import Workspace
from tests.support.products_reference import factors, two_passes

pytestmark = pytest.mark.skipif(
    native.function("merge_products", torch.float32) is None, reason=f"no kernel for products: {native.description()}"
)

SHAPES = [
    (1, 2, 1, 1),
    (5, 3, 13, 31),
    (4, 7, 14, 32),
    (4, 33, 15, 33),
    (20, 2, 29, 64),  # samples copied together
    (3, 200, 43, 65),
    (2, 384, 3, 200),
    (40, 16, 30, 5),
]
"""Samples, rows, outputs, inputs: sizes around the edges of a tile (14 x 32 in float32, 6 x 16 on narrower vectors)."""


@pytest.fixture
def threads():
    held = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(held)


def _empty(left, right):
    return torch.full((2, left.shape[2], right.shape[2]), float("nan"), dtype=left.dtype).unbind()


def _merged(left, right, parts):
    """Merge the samples in parts; return both moments, and the total of squares with its mean."""
    mean, m2 = _empty(left, right)
    held, spread, seen = mean.clone(), 0.0, 0
    for some_left, some_right in zip(left.split(parts), right.split(parts), strict=True):
        assert fits(some_left, some_right, mean)
        merge(some_left, some_right, mean, m2, seen, Workspace())
        spread += merge(some_left, some_right, held, None, seen, Workspace())
        seen += len(some_left)
    torch.testing.assert_close(held, mean, rtol=0, atol=0, equal_nan=True)
    return mean, m2, spread


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("parts", [1000, 3, 1])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_moments_equal_two_passes(shape, parts, dtype, rtol):
    left, right = factors(shape, dtype, 0.5)
    mean, m2, spread = _merged(left, right, parts)
    expected_mean, expected_m2, _ = two_passes(left, right)
    scale = float((left.double().mT @ right.double()).abs().max())
    torch.testing.assert_close(mean.double(), expected_mean, rtol=rtol, atol=rtol * scale)
    torch.testing.assert_close(m2.double(), expected_m2, rtol=rtol, atol=rtol * scale**2)
    assert spread == pytest.approx(float(expected_m2.sum()), rel=rtol)


@pytest.mark.parametrize("shape", [(3, 40, 1500, 1300), (2, 300, 1200, 40), (2, 2, 40, 3000)])
def test_threads_and_blocks_change_no_bit(shape, threads):
    """With several blocks of both factors and of scratch memory, each entry is still summed in the same order."""
    left, right = factors(shape, torch.float32, 0.5)
    found = []
    for count in (1, 2, 3, 8):
        threads(count)
        found.append(_merged(left, right, 1000))
    for mean, m2, spread in found[1:]:
        torch.testing.assert_close(mean, found[0][0], rtol=0, atol=0)
        torch.testing.assert_close(m2, found[0][1], rtol=0, atol=0)
        assert spread == pytest.approx(found[0][2], rel=1e-9)
    expected_mean, expected_m2, _ = two_passes(left, right)
    torch.testing.assert_close(found[0][0].double(), expected_mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[0][1].double(), expected_m2, rtol=1e-3, atol=1e-2)
    assert found[0][2] == pytest.approx(float(expected_m2.sum()), rel=1e-5)


STRIDED = {
    "rows last": lambda factor: factor.mT.contiguous().mT,
    "samples last": lambda factor: factor.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "columns of something wider": lambda factor: torch.cat([factor, factor], 2)[..., : factor.shape[2]],
    "every other row": lambda factor: factor.repeat_interleave(2, 1)[:, ::2],
    "one row for all": lambda factor: factor[:, :1].expand_as(factor),
    "one sample for all": lambda factor: factor[:1].expand_as(factor),
    "every other entry": lambda factor: factor.repeat_interleave(2, 2)[..., ::2],
    "negated in name alone": lambda factor: torch.complex(factor, factor).conj().imag,
}


@pytest.mark.parametrize("other", STRIDED)
@pytest.mark.parametrize("way", STRIDED)
def test_factors_of_any_strides(way, other):
    left, right = factors((4, 5, 17, 35), shift=0.5)
    left, right = STRIDED[way](left), STRIDED[other](right)
    mean, m2, spread = _merged(left, right, 3)
    expected_mean, expected_m2, _ = two_passes(left, right)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(m2, expected_m2, rtol=1e-11, atol=1e-11)
    assert spread == pytest.approx(float(expected_m2.sum()), rel=1e-11)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_only_the_requested_entries_are_written(count, threads):
    threads(count)
    left, right = factors((6, 40, 33, 70), torch.float32, 0.5)
    whole = torch.full((2, 66, 90), float("nan"))
    mean, m2 = whole[0, ::2, 10:80], whole[1, ::2, 10:80]
    memory = _Guarded()
    merge(left, right, mean, m2, 0, memory)
    assert bool((memory.held[memory.asked :] == -7).all())
    expected_mean, expected_m2, _ = two_passes(left, right)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(m2.double(), expected_m2, rtol=1e-4, atol=1e-2)
    assert int(whole.isfinite().sum()) == 2 * 33 * 70


class _Guarded:
    """Return a workspace with a mark behind the requested memory."""

    def take(self, shape, like):
        (self.asked,) = shape
        self.held = torch.full((self.asked + 4096,), -7.0, dtype=like.dtype)
        return self.held[: self.asked]


@pytest.mark.parametrize("shift", [0.0, 1.0, 30.0, 1000.0])
def test_float32_keeps_its_digits_however_large_the_mean(shift):
    left, right = factors((64, 5, 40, 30), torch.float32, shift)
    _, m2, _ = _merged(left, right, 16)
    _, expected, grads = two_passes(left, right)
    rounding = 20 * torch.finfo(torch.float32).eps * grads.abs().max()
    torch.testing.assert_close((m2.double() / 64).sqrt(), (expected / 64).sqrt(), rtol=64e-6, atol=float(rounding))


def test_non_finite_entries_stay_in_their_place():
    left, right = factors((9, 20, 30, 40), shift=0.5)
    left[3, 2, 7], right[5, 0, 38] = float("nan"), float("inf")
    mean, m2, spread = _merged(left, right, 4)
    bad = torch.zeros(30, 40, dtype=torch.bool)
    bad[7], bad[:, 38] = True, True
    assert torch.equal(~m2.isfinite(), bad)
    assert torch.equal(~mean.isfinite(), bad)
    assert spread != spread
    expected = two_passes(left, right)[1]
    torch.testing.assert_close(m2[~bad], expected[~bad], rtol=1e-11, atol=1e-11)


def test_unused_rows_are_exactly_zero():
    left, right = factors((16, 5, 20, 40), torch.float32, 0.5)
    left[:, :, 1] = 0
    mean, m2, _ = _merged(left, right, 4)
    assert float(mean[1].abs().max()) == float(m2[1].max()) == 0


def test_windows_are_read_without_a_copy():
    """Overlapping windows of an image, as in a 3 x 3 convolution of stride 2."""
    left, _ = factors((4, 12, 6, 1), shift=0.5)
    image = torch.randn(4, 5, 9, 7, dtype=torch.float64)
    windows = image.as_strided((4, 4, 3, 5, 3, 3), (315, 14, 2, 63, 7, 1))
    right = torch.nn.functional.unfold(image, 3, stride=2).mT
    mean, m2 = _empty(left, right)
    spread = merge(left, windows, mean.clone(), None, 0, Workspace(), places=2)
    merge(left, windows, mean, m2, 0, Workspace(), places=2)
    expected_mean, expected_m2, _ = two_passes(left, right)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(m2, expected_m2, rtol=1e-11, atol=1e-11)
    assert spread == pytest.approx(float(expected_m2.sum()), rel=1e-11)


def test_where_it_fits(monkeypatch):
    def ask(rows=5, left=torch.float32, right=torch.float32, mean=torch.float32, count=3, outputs=4):
        factors = torch.ones(count, rows, outputs, dtype=left), torch.ones(count, rows, 6, dtype=right)
        return fits(*factors, torch.zeros(outputs, 6, dtype=mean))

    assert ask()
    assert ask(left=torch.bfloat16)  # after conversion to full precision
    assert ask(rows=fused_products.MOST_ROWS)
    assert not ask(rows=fused_products.MOST_ROWS + 1)
    assert not ask(rows=1)
    assert not ask(rows=0)
    assert not ask(count=0)
    assert not ask(outputs=0)
    assert not ask(mean=torch.float64)
    assert not ask(right=torch.float64)
    assert not fits(torch.ones(3, 5, 4), torch.ones(3, 5, 6), torch.zeros(6, 4).t())
    assert not fits(*(torch.ones(3, 5, 4, device="meta") for _ in range(3)))
    monkeypatch.setattr(native, "kernel", lambda: None)
    assert not ask()


PROGRAM = """
import torch
from gsnr_toolkit.gradients.kernels import native
from gsnr_toolkit.gradients.kernels.merge_products import merge_products
from gsnr_toolkit.gradients.kernels.tiles import Workspace
left, right = torch.randn(5, 33, 20).double(), torch.randn(5, 33, 50).double()
grads = left.mT @ right
for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
    mean, m2 = torch.empty(20, 50, dtype=dtype), torch.empty(20, 50, dtype=dtype)
    merge_products(left.to(dtype), right.to(dtype), mean, m2, 0, Workspace())
    torch.testing.assert_close(mean.double(), grads.mean(0), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(m2.double(), grads.var(0) * 4, rtol=tolerance, atol=100 * tolerance)
print(native.description())
"""


@pytest.mark.parametrize(
    ("capability", "said"), [("avx2", "compiled"), ("default", "compiled, products by torch")], ids=["avx2", "none"]
)
def test_processors_with_narrower_vectors(capability, said, tmp_path):
    settings = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=settings, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == said
