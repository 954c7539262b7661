"""Which entries belong to which sample, from gradients made by hand."""

import pytest
import torch

from gsnr_toolkit.errors import NonFiniteError
from gsnr_toolkit.gradients.taps.ownership import Evidence, Owner, common_owner, one_hot


def _labels(shape, owner, count):
    """Label each entry with the sample that owns it."""
    size = shape[owner.dim]
    line = torch.arange(size) % count if owner.minor else torch.arange(size) // (size // count)
    return line.view([-1 if dim == owner.dim else 1 for dim in range(len(shape))]).expand(shape)


def _seen(shape, owner, count, samples=None):
    evidence, labels = Evidence.of_shape(shape, count), _labels(shape, owner, count)
    for sample in range(count) if samples is None else samples:
        evidence.see((labels == sample) * torch.randn(shape), sample, count)
    return evidence


OWNERS = [
    ((6, 4), Owner(0)),
    ((6, 4), Owner(0, minor=True)),
    ((4, 12), Owner(1)),
    ((4, 12), Owner(1, minor=True)),
    ((9, 6, 3), Owner(1)),
    ((6, 9, 3), Owner(0, minor=True)),
    ((3, 3, 3), Owner(2)),
    ((3, 2), Owner(0)),
]


@pytest.mark.parametrize(("shape", "owner"), OWNERS)
def test_owner_is_found_from_single_samples(shape, owner):
    evidence = _seen(shape, owner, 3)
    assert common_owner([(shape, evidence)], [3]) == owner
    assert evidence.reached == {0, 1, 2}
    assert not evidence.overlap


@pytest.mark.parametrize(("shape", "owner"), OWNERS)
def test_split_puts_samples_first(shape, owner):
    split = owner.split(_labels(shape, owner, 3), 3)
    assert split.shape[0] == 3
    assert split.numel() == torch.Size(shape).numel()
    assert all((split[i] == i).all() for i in range(3))


def test_split_keeps_the_order_of_rows_and_other_dimensions():
    tensor = torch.arange(24).view(2, 6, 2)
    torch.testing.assert_close(Owner(1).split(tensor, 3)[1], tensor[:, 2:4])
    torch.testing.assert_close(Owner(1, minor=True).split(tensor, 3)[1], tensor[:, 1::3])


def test_one_sample_may_not_tell_blocks_from_turns():
    """Only the first sample has a gradient, at the one index that both ways give to it."""
    shape = (6, 2)
    evidence = Evidence.of_shape(shape, 3)
    hit = torch.zeros(shape)
    hit[0] = 1
    evidence.see(hit, 0, 3)
    assert evidence.candidates == {Owner(0), Owner(0, minor=True)}
    assert common_owner([(shape, evidence)], [3]) is None


def test_a_second_count_settles_what_the_first_leaves_open():
    """Time happens to have three steps, which look like three samples."""
    first, second = Evidence.of_shape((3, 6), 3), Evidence.of_shape((3, 10), 5)
    for sample in range(3):  # each has a gradient at one entry, with the same index in both dimensions
        hit = torch.zeros(3, 6)
        hit[sample, 2 * sample] = 1
        first.see(hit, sample, 3)
    assert first.candidates >= {Owner(0), Owner(1)}
    assert common_owner([((3, 6), first)], [3]) is None
    for sample in range(5):
        hit = torch.zeros(3, 10)
        hit[:, 2 * sample : 2 * sample + 2] = 1
        second.see(hit, sample, 5)
    assert common_owner([((3, 6), first), ((3, 10), second)], [3, 5]) == Owner(1)


@pytest.mark.parametrize(("owner", "expected"), [(Owner(0), [[0, 1], [2, 3]]), (Owner(0, True), [[0, 2], [1, 3]])])
def test_owners_split_rows(owner, expected):
    assert owner.split(torch.arange(4), 2).tolist() == expected
    assert owner.split(torch.arange(4).repeat(3, 1).T, 2).shape == (2, 2, 3)


def test_a_class_token_alone_leaves_open_what_a_second_count_settles():
    """With T = 4 tokens and N = 3 samples, rows 0, 4, 8 are also 0, 1, 2 modulo 3."""
    found = []
    for count in (3, 5):
        evidence = Evidence.of_shape((4 * count, 7), count)
        for sample in range(count):
            gradient = torch.zeros(4 * count, 7)
            gradient[4 * sample] = 1
            evidence.see(gradient, sample, count)
        found.append(((4 * count, 7), evidence))
    assert common_owner(found[:1], [3]) is None
    assert common_owner(found, [3, 5]) == Owner(0)


def test_shares_must_agree_between_counts():
    """A dimension of 15 is a multiple of both counts, but does not grow with the samples."""
    shapes = [(15, 3), (15, 5)]
    evidence = [(shape, Evidence.of_shape(shape, n)) for shape, n in zip(shapes, (3, 5), strict=True)]
    assert common_owner(evidence, [3, 5]) == Owner(1)


def test_mixed_samples_overlap_and_leave_no_owner():
    evidence = Evidence.of_shape((3, 4), 3)
    for sample in range(3):
        evidence.see(torch.ones(3, 4), sample, 3)
    assert evidence.overlap
    assert not evidence.candidates
    assert common_owner([((3, 4), evidence)], [3]) is None


def test_disjoint_but_scattered_entries_leave_no_owner():
    evidence = Evidence.of_shape((6, 4), 3)
    for sample, rows in enumerate(([0, 1], [2, 5], [3, 4])):
        hit = torch.zeros(6, 4)
        hit[rows] = 1
        evidence.see(hit, sample, 3)
    assert not evidence.overlap
    assert common_owner([((6, 4), evidence)], [3]) is None


def test_zero_gradients_rule_nothing_out():
    evidence = Evidence.of_shape((6, 4), 3)
    before = set(evidence.candidates)
    evidence.see(torch.zeros(6, 4), 1, 3)
    assert evidence.reached == set()
    assert evidence.candidates == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    gradient = torch.zeros(6, 4)
    gradient[2, 1] = value
    with pytest.raises(
        NonFiniteError, match=r"expected finite gradients .*which rows belong to which sample.* sqrt\(0\)"
    ):
        Evidence.of_shape((6, 4), 3).see(gradient, 0, 3)


def test_conclusions_survive_forget():
    evidence = _seen((6, 4), Owner(0), 3, samples=[0, 1])
    evidence.forget()
    evidence.see((_labels((6, 4), Owner(0), 3) == 2).float(), 2, 3)
    assert common_owner([((6, 4), evidence)], [3]) == Owner(0)


def test_shapes_that_cannot_be_split():
    assert Evidence.of_shape((4, 5), 3).candidates == set()
    assert Evidence.of_shape((), 3).candidates == set()
    assert Evidence.of_shape((0, 3), 3).candidates == {Owner(1)}


def test_one_hot_selects_one_loss():
    torch.testing.assert_close(one_hot(1, torch.randn(3)), torch.tensor([0.0, 1.0, 0.0]))
