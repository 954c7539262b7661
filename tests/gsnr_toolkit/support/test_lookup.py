import subprocess
import sys

import pytest

from gsnr_toolkit.support.lookup import (
    Registry,
    TargetError,
    UnknownNameError,
    call_with_known,
    did_you_mean,
    is_target,
    load_target,
)


@pytest.fixture
def colours():
    return Registry("colour", {"red": 1, "dark-blue": 2}, hint="Or a hex code.")


def test_rows_are_found_and_listed_in_order(colours):
    assert colours["dark-blue"] == 2
    assert colours.names == ("red", "dark-blue")
    assert list(colours) == ["red", "dark-blue"]
    assert "red" in colours
    assert "green" not in colours
    assert len(colours) == 2


def test_an_unknown_name_lists_the_names_and_the_nearest(colours):
    expected = (
        r"a known colour, got 'Dark_Blue'; choose one of red, dark-blue\. Or a hex code\. Did you mean 'dark-blue'\?"
    )
    with pytest.raises(UnknownNameError, match=expected):
        colours["Dark_Blue"]


def test_nothing_is_suggested_where_nothing_is_near(colours):
    assert did_you_mean("zzzz", colours) == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("module:function", True),
        ("a.b:c.d", True),
        ("clip-demo", False),
        ("image-folder:/data", False),
        ("image-folder:data", False),
        ("C:\\faces", False),
        (":function", False),
        ("module:", False),
        ("a:b:c", False),
    ],
)
def test_only_identifiers_around_one_colon_are_a_target(name, expected):
    assert is_target(name) is expected


def test_a_module_in_the_current_directory_is_found_and_the_search_path_kept(tmp_path, monkeypatch):
    (tmp_path / "my_local_module.py").write_text("class Box:\n    size = 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = list(sys.path)
    assert load_target("my_local_module:Box.size") == 7
    assert sys.path == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module_here:f", "an importable module, got 'no_such_module_here', which is neither installed nor in"),
        ("math:hypo", "an attribute of module 'math', got 'hypo'; name one of acos, .* Did you mean 'hypot'"),
        ("math", "expected 'module:function'.*got 'math'; write"),
    ],
)
def test_a_wrong_target_says_what_is_wrong(target, message):
    with pytest.raises(TargetError, match=message):
        load_target(target)


def test_an_import_that_fails_inside_the_module_is_shown_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "half_broken.py").write_text("import surely_not_installed\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed") as caught:
        load_target("half_broken:build")
    assert not isinstance(caught.value, TargetError)


def test_a_function_gets_only_what_it_names():
    offered = {"seed": 3, "split": "val"}
    assert call_with_known(lambda seed, other=1: (seed, other), offered) == (3, 1)
    assert call_with_known(lambda **everything: everything, offered) == offered
    assert call_with_known(lambda: "nothing", offered) == "nothing"


def test_an_option_that_a_function_does_not_take_is_an_error():
    with pytest.raises(TargetError, match="to take colour, but it takes seed; add"):
        call_with_known(lambda seed: seed, {"seed": 1, "colour": 2}, required=["colour"])


def test_a_function_that_needs_more_than_is_offered_is_an_error():
    def build(seed, path):
        return seed, path

    with pytest.raises(TargetError, match="build to need only arguments among seed, but it needs path"):
        call_with_known(build, {"seed": 1})


def test_a_target_that_is_no_function_is_an_error():
    with pytest.raises(TargetError, match=r"expected a function, got 3"):
        call_with_known(3, {})


@pytest.mark.parametrize("module", ["gsnr_toolkit.data.registry", "gsnr_toolkit.models.registry"])
def test_listing_names_imports_nothing_heavy(module):
    heavy = ("torch", "torchvision", "open_clip", "pandas", "matplotlib", "PIL", "scipy")
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
