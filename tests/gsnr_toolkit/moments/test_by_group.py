"""Mean gradients and summed spreads, against two passes and against moments of every entry."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments


def _samples(count, seed=0, dtype=torch.float64, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": mean + torch.randn(count, 3, 2, generator=generator, dtype=dtype),
        "b": mean + torch.randn(count, 4, generator=generator, dtype=dtype),
    }


def _of(grads):
    moments = GroupMoments()
    moments.update(grads)
    return moments


def _assert_two_pass(moments, grads):
    assert moments.count == grads["a"].shape[0]
    for name, grad in grads.items():
        mean = grad.mean(0)
        torch.testing.assert_close(moments.mean[name], mean, rtol=1e-12, atol=1e-12)
        assert moments.squares[name] == pytest.approx(float((grad - mean).square().sum()), rel=1e-11)
    assert moments.spread(["a", "b"]) == pytest.approx(sum(moments.squares.values()))


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, 20), max_size=6), order=st.randoms(use_true_random=False))
def test_any_split_and_any_merge_order_equals_two_passes(cuts, order):
    grads = _samples(20, mean=3.0)
    edges = sorted({0, 20, *cuts})
    shards = [_of({name: grad[a:b] for name, grad in grads.items()}) for a, b in itertools.pairwise(edges)]
    shards.append(GroupMoments())  # an empty shard changes nothing
    while len(shards) > 1:
        first = shards.pop(order.randrange(len(shards)))
        second = shards.pop(order.randrange(len(shards)))
        first.absorb(second)
        shards.append(first)
    _assert_two_pass(shards[0], grads)


def test_streaming_in_uneven_chunks_equals_moments_of_every_entry():
    grads, moments, every = _samples(17, mean=-5.0), GroupMoments(), Moments()
    for start, stop in ((0, 1), (1, 8), (8, 16), (16, 17)):
        for one in (moments, every):
            one.update({name: grad[start:stop] for name, grad in grads.items()})
    _assert_two_pass(moments, grads)
    for name in grads:
        torch.testing.assert_close(moments.mean[name], every.mean[name], rtol=1e-13, atol=1e-13)
        assert moments.spread([name]) == pytest.approx(every.spread([name]), rel=1e-12)


def test_the_first_mean_may_be_the_placed_tensor():
    grads, moments = _samples(5), GroupMoments()
    for name, grad in grads.items():
        held = moments.place(name, grad[0])
        held.copy_(grad.mean(0))
        moments.merge_in(name, 0, 5, held, float((grad - held).square().sum()))
    moments.count = 5
    _assert_two_pass(moments, grads)


def test_absorbing_leaves_the_other_unchanged():
    first, second = _of(_samples(3)), _of(_samples(4, seed=1))
    before = {name: value.clone() for name, value in second.mean.items()}
    squares = dict(second.squares)
    empty = GroupMoments()
    empty.absorb(second)
    empty.absorb(first)
    first.absorb(second)
    assert (first.count, second.count, empty.count) == (7, 4, 7)
    assert second.squares == squares
    for name, value in before.items():
        torch.testing.assert_close(second.mean[name], value, rtol=0, atol=0)
        torch.testing.assert_close(first.mean[name], empty.mean[name], rtol=1e-13, atol=1e-13)


def test_different_parameters_are_an_error():
    with pytest.raises(ValueError, match=r"'a', 'b'.*one side only"):
        _of({"a": torch.ones(2, 1)}).absorb(_of({"b": torch.ones(2, 1)}))


def test_gradients_of_exactly_zero():
    moments = _of({"zero": torch.zeros(3, 2), "same": torch.ones(3, 2), "sum": torch.tensor([[1.0], [-1.0], [0.0]])})
    assert [moments.is_zero(name) for name in moments.mean] == [True, False, False]


def test_half_precision_is_summed_in_float32():
    moments = GroupMoments()
    assert moments.place("w", torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.float32
    grads = torch.randn(50, 2, 3).bfloat16()
    moments.update({"w": grads})
    assert moments.mean["w"].dtype == torch.float32
    exact = grads.double()
    assert moments.spread(["w"]) == pytest.approx(float((exact - exact.mean(0)).square().sum()), rel=1e-6)


def test_spread_holds_where_the_difference_of_squares_fails():
    """Negative control: the mean is ten thousand standard deviations."""
    single = _samples(400, dtype=torch.float64, mean=1e4)["b"].float()
    exact = single.double()
    truth = float((exact - exact.mean(0)).square().sum())
    moments = GroupMoments()
    for chunk in single.split(16):
        moments.update({"b": chunk})
    naive = float((single.square().mean(0) - single.mean(0).square()).sum()) * 400
    assert moments.spread(["b"]) == pytest.approx(truth, rel=1e-2)
    assert abs(naive / truth - 1) > 0.1


def test_a_parameter_without_entries():
    moments = _of({"none": torch.zeros(3, 0), "one": torch.randn(3, 1)})
    assert moments.spread(["none"]) == 0.0
    assert moments.is_zero("none")
