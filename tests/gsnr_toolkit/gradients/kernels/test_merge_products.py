"""Moments of matrix products, by tiles, against two passes over the formed products in float64."""

import pytest
import torch

from gsnr_toolkit.gradients.kernels import tiles
from gsnr_toolkit.gradients.kernels.merge_products import merge_products
from gsnr_toolkit.gradients.kernels.tiles import Workspace
from tests.support.products_reference import factors, two_passes

SHAPES = [(20, 5, 7, 3), (20, 5, 3, 7), (12, 2, 4, 4), (3, 5, 7, 3), (1, 5, 3, 4), (6, 1, 3, 5)]
SMALL_TILES = [(2**20, 1024, 8), (6, 2, 3), (1, 1, 1)]


pytestmark = pytest.mark.usefixtures("every_kernel")


@pytest.fixture(params=SMALL_TILES)
def sizes(request, monkeypatch):
    for name, value in zip(("TILE_ENTRIES", "TILE_COLUMNS", "SAMPLES_AT_ONCE"), request.param, strict=True):
        monkeypatch.setattr(tiles, name, value)


def _merged(left, right, mean, m2, parts=None):
    seen = 0
    for some_left, some_right in zip(left.split(parts or len(left)), right.split(parts or len(left)), strict=True):
        merge_products(some_left, some_right, mean, m2, seen, Workspace())
        seen += len(some_left)
    return mean, m2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("parts", [None, 2])
def test_every_tile_is_right(sizes, shape, parts):
    left, right = factors(shape)
    mean, m2 = _merged(left, right, *torch.full((2, *shape[2:]), float("nan"), dtype=torch.float64), parts)
    expected_mean, expected_m2, _ = two_passes(left, right)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(m2, expected_m2, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_and_total_of_the_squares(sizes, shape):
    left, right = factors(shape)
    expected_mean, expected_m2, _ = two_passes(left, right)
    for mean in (
        torch.full(shape[2:], float("nan"), dtype=torch.float64),
        torch.full(shape[:1:-1], float("nan"), dtype=torch.float64).t(),
    ):
        assert merge_products(left, right, mean, None, 0, Workspace()) == pytest.approx(
            float(expected_m2.sum()), rel=1e-11
        )
        torch.testing.assert_close(mean, expected_mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1.0, 30.0, 1000.0])
def test_float32_keeps_its_digits_however_large_the_mean(shift):
    left, right = factors((16, 5, 40, 30), torch.float32, shift)
    _, m2 = _merged(left, right, *torch.zeros(2, 40, 30))
    _, expected, grads = two_passes(left, right)
    # only the rounding of a sample's own gradient, of size |G| eps, may be lost
    rounding = 20 * torch.finfo(torch.float32).eps * grads.abs().amax(0)
    spread = (expected / len(left)).sqrt()
    torch.testing.assert_close((m2.double() / len(left)).sqrt(), spread, rtol=64e-6, atol=float(rounding.max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_results_are_written_to_views(sizes, shape):
    """Every other row of a tensor, and a transposed tensor."""
    left, right = factors(shape)
    expected_mean, expected_m2, _ = two_passes(left, right)
    mean, m2 = torch.full((2, 2 * shape[2], shape[3]), float("nan"), dtype=torch.float64)
    _merged(left, right, mean[::2], m2[::2])
    torch.testing.assert_close(mean[::2], expected_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(m2[::2], expected_m2, rtol=1e-9, atol=1e-9)
    assert bool(mean[1::2].isnan().all())
    assert bool(m2[1::2].isnan().all())
    mean, m2 = torch.full((2, shape[3], shape[2]), float("nan"), dtype=torch.float64)
    _merged(left, right, mean.t(), m2.t())
    torch.testing.assert_close(mean.t(), expected_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(m2.t(), expected_m2, rtol=1e-9, atol=1e-9)


def test_half_precision_is_summed_in_float32():
    left, right = (factor.bfloat16() for factor in factors((9, 5, 4, 3)))
    mean, m2 = _merged(left, right, *torch.zeros(2, 4, 3))
    expected_mean, expected_m2, _ = two_passes(left, right)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(m2.double(), expected_m2, rtol=1e-5, atol=1e-5)


def test_non_finite_entries_do_not_cost_others_digits():
    left, right = factors((16, 5, 4, 3), torch.float32, shift=100.0)
    left[3, 0, 0] = float("nan")
    mean, m2 = _merged(left, right, *torch.zeros(2, 4, 3), parts=8)
    expected = two_passes(left, right)[1]
    assert bool(mean[0].isnan().all())
    assert bool(m2[0].isnan().all())
    torch.testing.assert_close(m2[1:].double(), expected[1:], rtol=1e-3, atol=0.0)


def test_unused_rows_are_exactly_zero():
    left, right = factors((16, 5, 4, 3), torch.float32)
    left[:, :, 1] = 0
    mean, m2 = _merged(left, right, *torch.ones(2, 4, 3), parts=4)
    assert float(mean[1].abs().max()) == float(m2[1].max()) == 0


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 3), (1000, 5), (3, 5000), (2304, 768), (5000, 3000)])
def test_tiles_cover_a_matrix_once_within_their_size(rows, columns):
    covered = torch.zeros(rows, columns, dtype=torch.int8)
    for down, across in tiles.tiles(rows, columns):
        covered[down, across] += 1
        assert covered[down, across].numel() <= tiles.TILE_ENTRIES
        assert across.stop - across.start <= tiles.TILE_COLUMNS
    assert bool((covered == 1).all())
