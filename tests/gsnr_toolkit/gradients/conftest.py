"""What the tests of this room share."""

import pytest

from gsnr_toolkit.gradients import native


@pytest.fixture(params=["compiled", "torch"])
def both_kernels(request, monkeypatch):
    """Samples merged by the compiled kernel, and by torch; a machine without a compiler has only the second."""
    if request.param == "torch":
        monkeypatch.setattr(native, "kernel", lambda: None)
    elif native.kernel() is None:
        pytest.skip(native.description())
