"""Every module, file and folder named in the documentation exists."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.test_architecture import ORDER

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
PACKAGES = "gsnr_toolkit|corit|analyses|benchmarks|tests"
FILES = {path.name for path in ROOT.rglob("*.py")} | {path.name for path in ROOT.glob("docs/*.md")}


def _text(page):
    return (ROOT / page).read_text(encoding="utf8")


def _fences(text):
    return "\n".join(re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL))


def _prose(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _created(text):
    """Find the files that a page tells its reader to create: code blocks that start with a file name."""
    return set(re.findall(r"^```python\n# ([\w/.]+\.py)$", text, re.MULTILINE))


def _dotted(text):
    """Find dotted names that start with a package, also in the form ``module:name``."""
    names = re.findall(rf"(?<![\w./-])(?:{PACKAGES})(?:[.:][A-Za-z_]\w*)+", text)
    return {name.replace(":", ".") for name in names if not name.endswith((".py", ".md", ".json", ".csv"))}


def resolves(name):
    """Return whether a dotted name is a module or an attribute of one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        module = ".".join(parts[:cut])
        try:
            found = find_spec(module)
        except ModuleNotFoundError:
            continue
        if found is None:
            continue
        if cut == len(parts):
            return True
        value = import_module(module)
        for attribute in parts[cut:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_names_exists(page):
    text = _text(page)
    created = {file.removesuffix(".py").replace("/", ".") for file in _created(text)}
    names = {name for name in _dotted(text) if not any(name.startswith(module) for module in created)}
    assert not [name for name in sorted(names) if not resolves(name)]


def test_wrong_names_are_found():
    found = _dotted("`gsnr_toolkit.nowhere.x`, `corit.sbi:open_sbi`, `from gsnr_toolkit.optim import SAM`, a.corit.b")
    assert found == {"gsnr_toolkit.nowhere.x", "corit.sbi.open_sbi", "gsnr_toolkit.optim"}
    assert [name for name in sorted(found) if not resolves(name)] == ["gsnr_toolkit.nowhere.x"]


@pytest.mark.parametrize("page", PAGES)
def test_every_import_of_a_page_names_something_that_exists(page):
    text = _text(page)
    created = {file.removesuffix(".py").replace("/", ".") for file in _created(text)}
    for module, names in re.findall(rf"^from ((?:{PACKAGES})[\w.]*) import ([\w, ]+)", _fences(text), re.MULTILINE):
        if module in created:
            continue
        for name in names.split(","):
            attribute = name.split(" as ")[0].strip()
            assert resolves(f"{module}.{attribute}"), f"{page}: from {module} import {attribute}"


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page):
    text = _text(page)
    own = {Path(file).name for file in _created(text)}
    missing = []
    for quoted in re.findall(r"`([^`\n]+)`", _prose(text)):
        path = quoted.partition("::")[0].rstrip("/")
        if re.fullmatch(rf"(?:{PACKAGES}|docs|figures)/[\w./-]+", path) and "." not in path.partition("/")[0]:
            missing += [path] if not (ROOT / path).exists() else []
        elif re.fullmatch(r"\w+\.py", path):
            missing += [path] if path not in FILES | own else []
    assert not missing


@pytest.mark.parametrize("package", sorted(ORDER))
def test_the_architecture_page_has_every_room_in_its_order(package):
    """Compare the tables with ORDER; folders within a row may be in any order."""
    text = _text("docs/architecture.md")
    if package == "gsnr_toolkit":
        table = text[text.index("## The rooms") : text.index("## The other packages")]
    else:
        others = text[text.index("## The other packages") : text.index("## Decisions worth knowing")]
        table = re.search(rf"^\| `{package}` \|.*?(?=^\| `\w+` \| [`]|\Z)", others, re.MULTILINE | re.DOTALL).group()
        table = re.sub(rf"^\| `{package}` ", "| ", table)
    cells = [line.split("|")[2] for line in table.splitlines() if line.startswith("|")]
    shown = [name.rstrip("/") for cell in cells for name in re.findall(r"`([\w/]+)`", cell)]
    rows = [row.split() for row in ORDER[package].strip().splitlines()]
    assert len(shown) == sum(map(len, rows))
    for row in rows:
        assert set(shown[: len(row)]) == set(row)
        del shown[: len(row)]


def test_the_changelog_leads_to_modules_that_exist():
    text = _text("CHANGELOG.md")
    table = re.search(r"^### Migration$.*?^## ", text, re.MULTILINE | re.DOTALL).group()
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) > 20
    for old, new in rows:
        names = _dotted(new)
        assert names, new
        assert not [name for name in sorted(names) if not resolves(name)], old
