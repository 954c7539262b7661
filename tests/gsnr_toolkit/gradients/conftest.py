"""What the tests of this room share."""

import pytest

from gsnr_toolkit.gradients.kernels import native


@pytest.fixture(params=["compiled", "products by torch", "torch"])
def every_kernel(request, monkeypatch):
    """Both compiled kernels; that of samples alone; and torch, all that a machine without a compiler has."""
    if request.param == "torch":
        monkeypatch.setattr(native, "kernel", lambda: None)
    elif native.kernel() is None:
        pytest.skip(native.description())
    elif request.param == "products by torch":  # as on a processor without wide vectors
        function = native.function
        monkeypatch.setattr(
            native, "function", lambda name, dtype: None if name == "merge_products" else function(name, dtype)
        )
