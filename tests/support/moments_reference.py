"""Moments by two passes over formed gradients, and the comparison with moments that an engine streamed."""

import pytest
import torch

from gsnr_toolkit.gradients.kernels.tiles import Workspace
from gsnr_toolkit.gradients.taps.accumulate import add_parts
from gsnr_toolkit.gradients.taps.views import follow
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.by_parameter import Moments
from tests.support.tapped import name_of


def two_passes(grads):
    """Return mean and sum of centred squares by name."""
    mean = {name: grad.mean(0) for name, grad in grads.items()}
    return mean, {name: (grad - mean[name]).square().sum(0) for name, grad in grads.items()}


def assert_moments(moments, grads, rtol):
    mean, squares = two_passes(grads)
    count = len(next(iter(grads.values())))
    assert moments.count == count
    assert_scaled(moments.mean, mean, grads, rtol)
    if isinstance(moments, Moments):
        assert_scaled(moments.m2, squares, grads, rtol, power=2)
        return
    for name, expected in squares.items():
        scale = float(grads[name].square().sum())
        assert moments.squares[name] == pytest.approx(float(expected.sum()), rel=rtol, abs=rtol * scale), name


def assert_scaled(actual, expected, grads, rtol, power=1):
    """Compare entries by the largest gradient of their parameter, because the rounding of a sum is of that size."""
    assert actual.keys() == expected.keys()
    largest = max(float(grad.abs().max()) for grad in grads.values())
    for name, value in expected.items():
        scale = max(float(grads[name].abs().max()), 1e-6 * largest) ** power
        torch.testing.assert_close(actual[name].to(value.dtype), value, rtol=rtol, atol=rtol * scale, msg=name_of(name))


def rand(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


def feed(new, param, terms, views=()):
    """Add terms, one batch each, to empty moments."""
    moments, workspace = new(), Workspace()
    for term in terms:
        parts = term if isinstance(term, list) else [(term, views)]
        add_parts(moments, "w", param, moments.count, parts, workspace)
        moments.count += parts[0][0].count
    return moments


def formed(terms, views, shape):
    """Form the terms' gradients in the parameter's shape."""
    grads = []
    for term in terms:
        for part in term.samples(0, term.count):
            whole = torch.zeros(shape, dtype=part.dtype)
            follow(views, whole).copy_(part)
            grads.append(whole)
    return {"w": torch.stack(grads)}


def check_both(terms, shape, views=(), rtol=1e-10):
    """Compare both kinds of moments of some terms with two passes over the formed gradients."""
    param = torch.zeros(shape, dtype=torch.float64)
    for new in (Moments, GroupMoments):
        assert_moments(feed(new, param, terms, views), formed(terms, views, shape), rtol)
