"""Samples merged into moments: the compiled kernel and torch, against two passes over all samples in float64."""

import pytest
import torch

from gsnr_toolkit.gradients.kernels.merging import merge_samples, square_sum

pytestmark = pytest.mark.usefixtures("every_kernel")


def _samples(count, shape, dtype=torch.float64, shift=0.0):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(count, *shape, generator=generator, dtype=torch.float64) + shift).to(dtype)


def _expected(samples):
    exact = samples.double()
    return exact.mean(0), (exact - exact.mean(0)).square().sum(0)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 300), (40, 129), (2, 3, 4), (0,), (3, 0)])
@pytest.mark.parametrize("parts", [(1,), (4,), (1, 1), (8, 8, 3)])
def test_chunks_of_any_shape(shape, parts):
    samples = _samples(sum(parts), shape)
    mean, m2 = torch.full((2, *shape), float("nan"), dtype=torch.float64).unbind()
    held, seen, spread = mean.clone(), 0, 0.0
    for chunk in samples.split(parts):
        merge_samples(chunk.clone(), mean, m2, seen)
        spread += merge_samples(chunk.clone(), held, None, seen)
        seen += len(chunk)
    expected_mean, expected_m2 = _expected(samples)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(m2, expected_m2, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(held, mean, rtol=0, atol=0)
    assert spread == pytest.approx(float(expected_m2.sum()), rel=1e-12)


LAYOUTS = {
    "rows of something wider": lambda whole: whole[:, 3:10],
    "every other row": lambda whole: whole[::2],
    "every other column": lambda whole: whole[:, ::2],
    "transposed": lambda whole: whole.t(),
    "one row for all": lambda whole: whole[:1].expand(1, -1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_are_written_to_views_and_nowhere_else(layout):
    whole_mean, whole_m2 = torch.full((2, 6, 12), float("nan"), dtype=torch.float64).unbind()
    mean, m2 = LAYOUTS[layout](whole_mean), LAYOUTS[layout](whole_m2)
    samples = _samples(7, mean.shape)
    merge_samples(samples[:4].clone(), mean, m2, 0)
    merge_samples(samples[4:].clone(), mean, m2, 4)
    expected_mean, expected_m2 = _expected(samples)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(m2, expected_m2)
    assert int(whole_mean.isfinite().sum()) == int(whole_m2.isfinite().sum()) == mean.numel()


@pytest.mark.parametrize("shift", [0.0, 30.0, 1e4])
def test_float32_keeps_its_digits_however_large_the_mean(shift):
    samples = _samples(40, (16, 33), torch.float32, shift)
    mean, m2 = torch.zeros(2, 16, 33).unbind()
    for seen in range(0, 40, 8):
        merge_samples(samples[seen : seen + 8].clone(), mean, m2, seen)
    _, expected = _expected(samples)
    # only the rounding of the means, of size |mean| eps, may be lost
    rounding = 8 * torch.finfo(torch.float32).eps * shift
    torch.testing.assert_close((m2.double() / 40).sqrt(), (expected / 40).sqrt(), rtol=1e-5, atol=rounding)


def test_equal_samples_have_no_spread_and_zeros_stay_zeros():
    mean, m2 = torch.zeros(2, 3).unbind()
    merge_samples(torch.tensor([[0.1, 0.0, 7.0]]).repeat(4, 1), mean, m2, 0)
    merge_samples(torch.tensor([[0.1, 0.0, 7.0]]).repeat(3, 1), mean, m2, 4)
    torch.testing.assert_close(mean, torch.tensor([0.1, 0.0, 7.0]))
    assert m2.tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    assert (mean[1].item(), m2[1].item()) == (0, 0)


def test_non_finite_entries_stay_in_their_place():
    samples = _samples(8, (2, 5))
    samples[3, 0, 1] = float("nan")
    samples[4, 1, 2] = float("inf")
    mean, m2 = torch.zeros(2, 2, 5, dtype=torch.float64).unbind()
    merge_samples(samples[:4].clone(), mean, m2, 0)
    merge_samples(samples[4:].clone(), mean, m2, 4)
    bad = ~m2.isfinite()
    assert bad.nonzero().tolist() == [[0, 1], [1, 2]]
    assert not mean[bad].isfinite().any()
    expected_mean, expected_m2 = _expected(samples)
    torch.testing.assert_close(m2[~bad], expected_m2[~bad])
    torch.testing.assert_close(mean[~bad], expected_mean[~bad])


def test_large_counts_keep_their_weights():
    """After a million samples of mean 1 and variance 1, eight more of mean 3 move both as in Chan's formula."""
    mean, m2 = torch.ones(4), torch.full((4,), 1e6)
    merge_samples(torch.full((8, 4), 3.0), mean, m2, 10**6)
    torch.testing.assert_close(mean, torch.full((4,), 1 + 2 * 8 / (10**6 + 8)))
    torch.testing.assert_close(m2, torch.full((4,), 1e6 + 4 * 8e6 / (10**6 + 8)))


def test_threads_split_a_large_matrix():
    samples = _samples(8, (300, 1000), torch.float32)
    mean, m2 = torch.zeros(2, 300, 1000).unbind()
    merge_samples(samples.clone(), mean, m2, 0)
    expected_mean, expected_m2 = _expected(samples)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(m2.double(), expected_m2, rtol=1e-5, atol=1e-6)
    held = torch.zeros(300, 1000)
    assert merge_samples(samples.clone(), held, None, 0) == pytest.approx(float(expected_m2.sum()), rel=1e-6)


def test_a_million_float32_entries_lose_nothing():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(1536, 768, generator=generator) * torch.rand(1536, 768, generator=generator) ** 4
    assert square_sum(matrix) == pytest.approx(float(matrix.double().square().sum()), rel=1e-6)
