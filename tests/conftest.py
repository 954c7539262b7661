"""Shared set-up: shapes are checked while tests run, and torch keeps to one thread for equal results."""

import signal
import threading

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


@pytest.fixture(autouse=True, scope="session")
def _interruptible():
    """Let the programs that tests start be interrupted: a shell's background job ignores SIGINT, and so would they."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
