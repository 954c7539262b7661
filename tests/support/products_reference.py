"""Factors of matrix products, and moments of the products by two passes in float64."""

import torch


def factors(shape, dtype=torch.float64, shift=0.0):
    """Left and right factors of per-sample products; shape is (samples, rows, outputs, inputs)."""
    samples, rows, outputs, inputs = shape
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(samples, rows, outputs, generator=generator, dtype=torch.float64) + shift
    right = torch.randn(samples, rows, inputs, generator=generator, dtype=torch.float64) + shift
    return left.to(dtype), right.to(dtype)


def two_passes(left, right):
    """Return mean, sum of centred squares, and the products themselves."""
    grads = left.double().mT @ right.double()
    return grads.mean(0), (grads - grads.mean(0)).square().sum(0), grads
