"""The small network and a batch of the literal SAM step, for tests that need one of each."""

import pytest

from tests.support.sam_reference import make_batch, make_model


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def batch():
    return make_batch()
