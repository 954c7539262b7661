"""Moments of one batch of matrix products, by tiles, against two passes over the formed products in float64."""

import pytest
import torch

from gsnr_toolkit.gradients import batch_moments as module
from gsnr_toolkit.gradients.batch_moments import Workspace, batch_moments, batch_sums, square_sum

SHAPES = [(20, 5, 7, 3), (20, 5, 3, 7), (12, 2, 4, 4), (3, 5, 7, 3)]


def _factors(shape, dtype=torch.float64, shift=0.0):
    samples, rows, outputs, inputs = shape
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(samples, rows, outputs, generator=generator, dtype=torch.float64) + shift
    right = torch.randn(samples, rows, inputs, generator=generator, dtype=torch.float64) + shift
    return left.to(dtype), right.to(dtype)


def _two_passes(left, right):
    grads = left.double().mT @ right.double()
    return grads.mean(0), (grads - grads.mean(0)).square().sum(0), grads


def _collected(left, right, workspace, name="layer"):
    shape = (left.shape[2], right.shape[2])
    mean, m2 = torch.full(shape, float("nan")).double(), torch.full(shape, float("nan")).double()
    for rows, columns, tile_mean, tile_m2 in batch_moments(left, right, workspace, name):
        mean[rows, columns], m2[rows, columns] = tile_mean.double(), tile_m2.double()
    return mean, m2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tile_rows", [2, 1536])
def test_every_tile_is_right(monkeypatch, shape, tile_rows):
    monkeypatch.setattr(module, "TILE_ROWS", tile_rows)
    left, right = _factors(shape)
    workspace = Workspace()
    mean, m2 = _collected(left, right, workspace)
    expected_mean, expected_m2, _ = _two_passes(left, right)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(m2, expected_m2, rtol=1e-11, atol=1e-11)
    assert not workspace.cancelling


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tile_rows", [2, 1536])
def test_sums_and_norms_alone(monkeypatch, shape, tile_rows):
    monkeypatch.setattr(module, "TILE_ROWS", tile_rows)
    left, right = _factors(shape)
    total, squares = torch.full((left.shape[2], right.shape[2]), float("nan")).double(), 0.0
    for rows, columns, tile, sqnorm in batch_sums(left, right, Workspace()):
        total[rows, columns] = tile
        squares += sqnorm
    grads = _two_passes(left, right)[2]
    torch.testing.assert_close(total, grads.sum(0), rtol=1e-12, atol=1e-12)
    assert squares == pytest.approx(float(grads.square().sum()), rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1.0, 30.0, 1000.0])
def test_float32_keeps_its_digits_however_large_the_mean(shift):
    left, right = _factors((16, 5, 40, 30), torch.float32, shift)
    _, m2 = _collected(left, right, Workspace())
    _, expected, grads = _two_passes(left, right)
    # rounding of a sample's own gradient, of size |G| eps, is all that may be lost
    rounding = 20 * torch.finfo(torch.float32).eps * grads.abs().amax(0)
    spread = (expected / len(left)).sqrt()
    torch.testing.assert_close((m2 / len(left)).sqrt(), spread, rtol=64e-6, atol=float(rounding.max()))


def test_a_layer_with_a_large_mean_is_remembered(monkeypatch):
    left, right = _factors((16, 5, 4, 3), torch.float32, shift=100.0)
    workspace = Workspace()
    first = _collected(left, right, workspace, "deep")
    assert workspace.cancelling == {"deep"}
    monkeypatch.setattr(module, "_about_zero", None)  # not even tried
    again = _collected(left, right, workspace, "deep")
    assert torch.equal(first[1], again[1])
    with pytest.raises(TypeError):
        _collected(left, right, workspace, "other")


def test_equal_gradients_have_no_spread_and_unused_weights_are_zero():
    left, right = _factors((1, 5, 4, 3), torch.float32)
    left, right = left.expand(16, -1, -1).clone(), right.expand(16, -1, -1).clone()
    left[:, :, 1] = 0
    workspace = Workspace()
    mean, m2 = _collected(left, right, workspace)
    assert float(m2.max()) <= len(left) * (4 * torch.finfo(torch.float32).eps * float(mean.abs().max())) ** 2
    assert float(mean[1].abs().max()) == 0
    left[:, :, [0, 2, 3]] = 0
    _collected(left, right, workspace := Workspace())
    assert not workspace.cancelling  # zeros lose nothing


@pytest.mark.parametrize("shape", [*SHAPES, (4, 1, 3, 5)])
@pytest.mark.parametrize("tile_rows", [2, 1536])
def test_results_lie_where_they_are_wanted(monkeypatch, shape, tile_rows):
    """Also in every other row of something, also where squares are taken about a sample, also with one row a sample."""
    monkeypatch.setattr(module, "TILE_ROWS", tile_rows)
    for shift in (0.0, 100.0):
        left, right = _factors(shape, shift=shift)
        mean, m2 = torch.full((2, 2 * shape[2], shape[3]), float("nan"), dtype=torch.float64)
        into = mean[::2], m2[::2]
        for rows, columns, tile_mean, tile_m2 in batch_moments(left, right, Workspace(), into=into):
            assert tile_mean.data_ptr() == into[0][rows, columns].data_ptr()
            assert tile_m2.data_ptr() == into[1][rows, columns].data_ptr()
        expected_mean, expected_m2, _ = _two_passes(left, right)
        torch.testing.assert_close(into[0], expected_mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(into[1], expected_m2, rtol=1e-9, atol=1e-9)
        assert bool(mean[1::2].isnan().all())
        assert bool(m2[1::2].isnan().all())


def test_one_entry_that_is_not_a_number_costs_the_others_no_digits():
    left, right = _factors((16, 5, 4, 3), torch.float32, shift=100.0)
    left[3, 0, 0] = float("nan")
    _, m2 = _collected(left, right, Workspace())
    expected = _two_passes(left, right)[1]
    torch.testing.assert_close(m2[1:], expected[1:], rtol=1e-3, atol=0.0)


def test_what_is_not_finite_stays_so():
    left, right = _factors((16, 5, 4, 3), torch.float32)
    left[3, 0, 0] = float("nan")
    mean, m2 = _collected(left, right, Workspace())
    assert bool(mean[0].isnan().all())
    assert bool(m2[0].isnan().all())
    assert bool(m2[1:].isfinite().all())


def test_a_million_float32_entries_lose_nothing():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(1536, 768, generator=generator) * torch.rand(1536, 768, generator=generator) ** 4
    assert square_sum(matrix) == pytest.approx(float(matrix.double().square().sum()), rel=1e-6)
