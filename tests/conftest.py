"""Shared set-up: shapes are checked while tests run, and torch keeps to one thread for equal results."""

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook(["gsnr_toolkit.estimators", "gsnr_toolkit.moments"], "beartype.beartype")


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _threads():
    torch.set_num_threads(1)
