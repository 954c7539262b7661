"""Fixtures that the tests of gradients share."""

import pytest
import torch

from gsnr_toolkit.gradients.kernels import native


@pytest.fixture(params=["compiled", "products by torch", "torch"])
def every_kernel(request, monkeypatch):
    """Run with both compiled kernels, with that of samples only, and with torch alone, as without a compiler."""
    if request.param == "torch":
        monkeypatch.setattr(native, "kernel", lambda: None)
    elif native.kernel() is None:
        pytest.skip(native.description())
    elif request.param == "products by torch":  # as on a processor without wide vectors
        function = native.function
        monkeypatch.setattr(
            native, "function", lambda name, dtype: None if name == "merge_products" else function(name, dtype)
        )


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Fill new memory with NaN, so that reading it before it is written shows."""
    empty = torch.empty

    def poisoned(*args, **settings):
        made = empty(*args, **settings)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poisoned)
