"""Fused sums of per-sample weight gradients against a float64 loop that keeps all of them."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.gradients.kernels import products, triton_products
from gsnr_toolkit.gradients.kernels.products import plain_product_sums, product_sums

ROOT = Path(__file__).parents[4]
SHAPES = [(1, 5, 7, 3), (7, 1, 5, 4), (2, 33, 70, 130), (3, 17, 64, 128), (5, 1, 129, 65), (4, 2, 1, 1)]
EMPTY = [(0, 5, 3, 4), (3, 0, 3, 4), (0, 1, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}


def literal_sums(left, right, shift=None):
    """Form one gradient per sample in float64, then sum them."""
    grads = [torch.einsum("to,ti->oi", a.double(), b.double()) for a, b in zip(left, right, strict=True)]
    deviations = [grad - (0 if shift is None else shift.double()) for grad in grads]
    zero = torch.zeros(left.shape[2], right.shape[2], dtype=torch.float64, device=left.device)
    return sum(deviations, zero), sum((deviation**2 for deviation in deviations), zero)


def factors(shape, dtype=torch.float32, *, strided=False, shifted=True, device="cpu"):
    b, tokens, rows, columns = shape
    if strided:
        left = torch.randn(tokens, b, rows).transpose(0, 1)
        right = torch.randn(b, columns, 2 * tokens)[:, :, ::2].mT
    else:
        left, right = torch.randn(b, tokens, rows), torch.randn(b, tokens, columns)
    shift = torch.randn(columns, rows).mT.to(device) if shifted else None
    return left.to(device, dtype), right.to(device, dtype), shift


def assert_sums(found, expected, dtype, tokens):
    scale = max(tokens, 1) ** 0.5
    for value, exact in zip(found, expected, strict=True):
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(value.double(), exact, rtol=tolerance, atol=tolerance * scale * 10)


@pytest.mark.parametrize("shape", SHAPES + EMPTY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_plain_sums_equal_the_literal_loop(shape, dtype, strided, shifted, monkeypatch):
    left, right, shift = factors(shape, dtype, strided=strided, shifted=shifted)
    expected = literal_sums(left, right, shift)
    for tile_bytes in (products.TILE_BYTES, 1, 1000):
        monkeypatch.setattr(products, "TILE_BYTES", tile_bytes)
        assert_sums(plain_product_sums(left, right, shift), expected, dtype, shape[1])
    assert_sums(product_sums(left, right, shift), expected, dtype, shape[1])


def test_plain_sums_do_not_change_their_arguments_or_record_a_graph():
    left, right, shift = factors((3, 4, 5, 6))
    copies = [value.clone() for value in (left, right, shift)]
    total, squares = plain_product_sums(left.requires_grad_(), right.requires_grad_(), shift)
    assert not total.requires_grad
    assert not squares.requires_grad
    for value, copy in zip((left, right, shift), copies, strict=True):
        torch.testing.assert_close(value.detach(), copy, rtol=0, atol=0)


def _far_mean(tokens, ratio=3e3):
    """Return factors whose products have a mean of ``ratio`` standard deviations, and that mean in float32."""
    b, rows, columns = 64, 8, 8
    left = torch.ones(b, tokens, rows)
    left[:, 0] += torch.randn(b, rows) * tokens / ratio
    right = torch.ones(b, tokens, columns)
    return left, right, literal_sums(left, right)[0].div(b).float()


def _variance(sums, count):
    total, squares = (value.double() for value in sums)
    return (squares - total**2 / count) / (count - 1)


@pytest.mark.parametrize("tokens", [1, 7])
def test_the_shift_keeps_the_variance_exact_where_the_mean_is_large(tokens):
    left, right, mean = _far_mean(tokens)
    exact = _variance(literal_sums(left, right), len(left))
    shifted = _variance(plain_product_sums(left, right, mean), len(left))
    torch.testing.assert_close(shifted, exact, rtol=2e-3, atol=0)
    naive = _variance(plain_product_sums(left, right), len(left))
    assert ((naive - exact).abs() / exact).max() > 0.1, "without a shift float32 must fail on these data"


def test_squares_are_never_negative():
    left, right = torch.full((9, 1, 1), 1.1), torch.full((9, 1, 1), 1.3)
    mean = literal_sums(left, right)[0].div(9).float()
    assert plain_product_sums(left, right, mean)[1].item() >= 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"right": torch.zeros(2, 4, 5)}, r"got \(2, 3, 4\) and \(2, 4, 5\)"),
        ({"right": torch.zeros(3, 5)}, r"got \(2, 3, 4\) and \(3, 5\)"),
        ({"right": torch.zeros(2, 3, 5, dtype=torch.float64)}, "got torch.float32 and torch.float64"),
        ({"left": torch.zeros(2, 3, 4).int(), "right": torch.zeros(2, 3, 5).int()}, "got torch.int32"),
        ({"shift": torch.zeros(5, 4)}, r"shape \(4, 5\), got \(5, 4\)"),
        ({"shift": torch.zeros(4, 5, device="meta")}, "got cpu, meta"),
    ],
)
def test_factors_that_do_not_fit_are_refused(change, message):
    arguments = {"left": torch.zeros(2, 3, 4), "right": torch.zeros(2, 3, 5), **change}
    with pytest.raises(ProbeError, match=message):
        product_sums(**arguments)


def test_triton_is_not_available_for_cpu_tensors_without_its_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not triton_products.available(torch.device("cpu"))
    with pytest.raises(ProbeError, match="got tensors on cpu"):
        triton_products.product_sums(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))


@pytest.mark.parametrize(("stride", "copied"), [(2**25, False), (2**26, True)])
def test_strides_too_wide_for_32_bit_offsets_are_copied(stride, copied):
    factor = torch.empty(0, device="meta").as_strided((2, 40, 3), (40 * stride, stride, 1))
    assert (triton_products._narrow(factor).stride() == (120, 3, 1)) is copied


def test_plain_path_loads_no_triton():
    code = (
        "import sys, torch\nfrom gsnr_toolkit.gradients.kernels import products as p, triton_products as t\n"
        "before = 'triton' in sys.modules\n"  # torch itself may load it
        "p.product_sums(torch.ones(2, 3, 4), torch.ones(2, 3, 5)); t.available(torch.device('cpu'))\n"
        "print(before, 'triton' in sys.modules, 'gsnr_toolkit.gradients.kernels.triton_kernels' in sys.modules)"
    )
    before, after, kernels = _run(["-c", code]).split()
    assert (after, kernels) == (before, "False")


def _run(arguments, **environment):
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_kernels(shape, dtype, device, *, strided, shifted, parts=None):
    left, right, shift = factors(shape, dtype, strided=strided, shifted=shifted, device=device)
    expected = literal_sums(left, right, shift)
    found = triton_products.product_sums(left, right, shift, parts=parts)
    assert_sums(found, expected, dtype, shape[1])
    again = triton_products.product_sums(left, right, shift, parts=parts)
    for first, second in zip(found, again, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


INTERPRETED = [
    ((2, 33, 70, 130), torch.float32, {"strided": True, "shifted": True}),
    ((2, 33, 70, 130), torch.bfloat16, {"strided": True, "shifted": False, "parts": 2}),
    ((7, 1, 5, 4), torch.float32, {"strided": False, "shifted": True, "parts": 3}),
    ((7, 5, 5, 4), torch.bfloat16, {"strided": False, "shifted": True, "parts": 5}),
    ((3, 17, 64, 64), torch.float16, {"strided": False, "shifted": True, "parts": 9}),
    *((shape, torch.float32, {"strided": True, "shifted": True}) for shape in EMPTY),
]


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_in_the_interpreter():
    """In a separate process, because Triton reads its switch on import."""
    assert "interpreted" in _run([__file__], TRITON_INTERPRET="1")


needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and triton_products.available(torch.device("cuda"))), reason="needs an NVIDIA GPU"
)


@needs_gpu
@pytest.mark.parametrize("shape", [*SHAPES, *EMPTY, (16, 197, 768, 320)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("parts", [None, 3])
def test_kernels_on_a_gpu(shape, dtype, strided, shifted, parts):
    check_kernels(shape, dtype, "cuda", strided=strided, shifted=shifted, parts=parts)


@needs_gpu
def test_float32_is_not_rounded_to_tf32():
    """TF32 has 10 bits of mantissa: products of two such numbers would be off by 1e-3."""
    left, right, _ = factors((8, 64, 64, 64), device="cuda")
    exact = literal_sums(left, right)[0]
    gap = triton_products.product_sums(left, right)[0] - exact
    assert gap.abs().max() < 1e-5 * exact.abs().max()


@needs_gpu
def test_dispatch_on_a_gpu():
    left, right, shift = factors((5, 33, 70, 130), torch.bfloat16, device="cuda")
    assert_sums(product_sums(left, right, shift), literal_sums(left, right, shift), torch.bfloat16, 33)
    left, right, shift = factors((5, 33, 70, 130), torch.float64, device="cuda")
    assert_sums(product_sums(left, right, shift), literal_sums(left, right, shift), torch.float64, 33)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for case_shape, case_dtype, options in INTERPRETED:
        check_kernels(case_shape, case_dtype, "cpu", **options)
    print(f"{len(INTERPRETED)} cases interpreted")
