import pytest

from tests.support.disk import Disk


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path / "data")


@pytest.fixture
def make_list(disk):
    return disk.nt_list
