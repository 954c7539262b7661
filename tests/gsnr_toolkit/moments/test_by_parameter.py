import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gsnr_toolkit.moments.by_parameter import Moments


def _samples(count, seed=0, dtype=torch.float64, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": mean + torch.randn(count, 3, 2, generator=generator, dtype=dtype),
        "b": mean + torch.randn(count, 4, generator=generator, dtype=dtype),
    }


def _assert_two_pass(moments, grads):
    assert moments.count == grads["a"].shape[0]
    for name, grad in grads.items():
        torch.testing.assert_close(moments.mean[name], grad.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(moments.m2[name], (grad - grad.mean(0)).square().sum(0), rtol=1e-11, atol=1e-11)


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, 20), max_size=6), order=st.randoms(use_true_random=False))
def test_any_split_and_any_merge_order_equals_two_passes(cuts, order):
    grads = _samples(20)
    edges = sorted({0, 20, *cuts})
    shards = [
        Moments.from_samples({name: grad[a:b] for name, grad in grads.items()}) for a, b in itertools.pairwise(edges)
    ]
    shards.append(Moments())  # an empty shard changes nothing
    while len(shards) > 1:
        first = shards.pop(order.randrange(len(shards)))
        second = shards.pop(order.randrange(len(shards)))
        merged = Moments()  # the mean of a single sample is a view of it, and must not be changed
        merged.absorb(first)
        merged.absorb(second)
        shards.append(merged)
    _assert_two_pass(shards[0], grads)


def test_streaming_in_uneven_chunks():
    grads, moments = _samples(17), Moments()
    for start, stop in ((0, 1), (1, 8), (8, 8 + 8), (16, 17)):
        moments.update({name: grad[start:stop] for name, grad in grads.items()})
    _assert_two_pass(moments, grads)


def test_absorbing_leaves_the_other_untouched():
    first, second = Moments.from_samples(_samples(3)), Moments.from_samples(_samples(4, seed=1))
    before = {name: value.clone() for name, value in second.mean.items()}
    empty = Moments()
    empty.absorb(second)
    empty.absorb(first)
    first.absorb(second)
    assert (first.count, second.count, empty.count) == (7, 4, 7)
    for name, value in before.items():
        torch.testing.assert_close(second.mean[name], value, rtol=0, atol=0)


def test_merge_leaves_both_untouched():
    first, second = Moments.from_samples(_samples(3)), Moments.from_samples(_samples(4, seed=1))
    before = {name: value.clone() for name, value in first.mean.items()}
    assert first.merge(second).count == 7
    assert first.count == 3
    assert second.count == 4
    for name, value in before.items():
        torch.testing.assert_close(first.mean[name], value, rtol=0, atol=0)


def test_one_sample_is_copied():
    grads = _samples(1)
    moments = Moments()
    moments.update(grads)
    grads["a"].zero_()
    assert moments.mean["a"].abs().sum() > 0


def test_different_parameters_are_an_error():
    first, second = Moments.from_samples({"a": torch.ones(2, 1)}), Moments.from_samples({"b": torch.ones(2, 1)})
    with pytest.raises(ValueError, match=r"'a', 'b'.*one side only"):
        first.absorb(second)


def test_half_precision_gradients_accumulate_in_float32():
    moments = Moments.from_samples({"a": torch.ones(3, 2, dtype=torch.bfloat16)})
    assert moments.mean["a"].dtype == torch.float32


def test_centred_moments_hold_where_the_difference_of_squares_fails():
    """Negative control: |mean| / sd = 1e3 and 1e4 in float32."""
    exact, worst_naive = {}, {}
    for ratio in (1e3, 1e4):
        grads = _samples(400, dtype=torch.float64, mean=ratio)["b"]
        single = grads.float()
        truth = single.double().var(0)
        moments = Moments()
        for chunk in single.split(16):
            moments.update({"b": chunk})
        exact[ratio] = float((moments.m2["b"].double() / 399 / truth - 1).abs().max())
        naive = (single.square().mean(0) - single.mean(0).square()) * 400 / 399
        worst_naive[ratio] = float((naive.double() / truth - 1).abs().max())
    assert exact[1e3] < 1e-4
    assert exact[1e4] < 1e-2
    assert worst_naive[1e3] > 0.01
    assert worst_naive[1e4] > 0.5
    assert np.isfinite(list(exact.values())).all()
