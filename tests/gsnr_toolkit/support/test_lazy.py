import sys
import types

import pytest

from gsnr_toolkit.support.lazy import lazy_exports


@pytest.fixture
def package(monkeypatch):
    module = types.ModuleType("lazy_package")
    monkeypatch.setitem(sys.modules, "lazy_package", module)
    homes = {"hypot": "math", "wrap": "textwrap"}
    module.__getattr__, module.__dir__, module.__all__ = lazy_exports("lazy_package", homes, ready=("version",))
    module.version = "1"
    return module


def test_a_name_is_imported_on_first_use_and_kept(package):
    assert "hypot" not in vars(package)
    assert package.hypot(3, 4) == 5
    assert vars(package)["hypot"](3, 4) == 5


def test_the_public_names_are_listed(package):
    assert dir(package) == package.__all__ == ["hypot", "version", "wrap"]


def test_an_unknown_name_is_an_error_that_lists_the_public_ones(package):
    with pytest.raises(
        AttributeError, match="'lazy_package' has no attribute 'hypo'; public names: hypot, version, wrap"
    ):
        package.hypo  # noqa: B018
