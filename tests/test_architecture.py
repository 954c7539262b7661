"""Imports flow one way: what docs/architecture.md draws, read from the code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. A folder imports from lower rows only; the folders of one row do not know each other. The
# package's own two files are the ground; imports for type checking count like all others.
ORDER = {
    "gsnr_toolkit": """
        errors types
        support
        inputs data
        moments optim
        gradients estimators
        setup report models
        readings
        probing
        training
        search sweeps
        commands
    """,
    "corit": """
        sbi
        model
        proxy scoring
        training
        prediction
        console
        cli
    """,
    "analyses": """
        support
        collapse
        corit figures radius
        tables
        all
    """,
    "benchmarks": """
        instruments
        comparison corit faults
        coverage default_command engines memory products range_test scaling
    """,
}
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 60


def _files(package):
    return sorted((ROOT / package).rglob("*.py"))


def _module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def _imported(path):
    """Names of all modules that a file imports anywhere, and of what it takes from them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = {_module(path): path for package in ORDER for path in _files(package)}
GRAPH = {
    module: {name for name in _imported(path) if name in FILES and name != module} for module, path in FILES.items()
}
ROWS = {
    (package, folder): row
    for package, rows in ORDER.items()
    for row, folders in enumerate(rows.strip().splitlines())
    for folder in folders.split()
}


def _place(module):
    package, _, rest = module.partition(".")
    return package, rest.partition(".")[0]


@pytest.mark.parametrize("module", [name for name in GRAPH if _place(name)[1] not in ("__init__", "__main__")])
def test_imports_go_down(module):
    package, folder = _place(module)
    wrong = []
    for other in sorted(GRAPH[module]):
        beside, below = _place(other)
        if beside != package or below == folder or below in ("__init__", package):
            continue
        if ROWS[beside, below] >= ROWS[package, folder]:
            wrong.append(other)
    assert not wrong, f"{module} imports from above or beside: {wrong}"


def test_every_folder_has_a_row_and_every_row_a_folder():
    assert {_place(name) for name in GRAPH} - set(ROWS) <= {
        (package, name) for package in ORDER for name in ("__init__", "__main__", "")
    }
    assert set(ROWS) <= {_place(name) for name in GRAPH}


@pytest.mark.parametrize(("package", "unknown"), [("gsnr_toolkit", ("corit",)), ("corit", ())])
def test_the_packages_do_not_know_what_uses_them(package, unknown):
    above = {*unknown, "analyses", "benchmarks", "tests"}
    for path in _files(package):
        assert not [name for name in _imported(path) if name.partition(".")[0] in above], path


def test_no_circles():
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for name in sorted(GRAPH[module]):
            visit(name)
        path.pop()
        done.add(module)

    for module in GRAPH:
        if _place(module)[1] != "__init__":  # a package's own names for type checkers point everywhere
            visit(module)


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES.values()}), ids=str)
def test_every_folder_says_what_lives_there_and_what_may_not(folder):
    if folder.parent == ROOT:
        return
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf8")))
    assert text, f"{folder}/__init__.py has no docstring"
    assert re.search(r"\b(not|never|nothing)\b", text, re.I), f"{folder}: what may not live there?"


@pytest.mark.parametrize("module", sorted(FILES))
def test_files_and_functions_stay_short(module):
    text = FILES[module].read_text(encoding="utf8")
    assert text.count("\n") <= LINES_OF_A_FILE, "one idea per file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            size = (body[-1].end_lineno - body[0].lineno + 1) if body else 0
            assert size <= LINES_OF_A_FUNCTION, f"{node.name} has {size} lines"


def _loaded_after(code):
    script = f"{code}\nimport sys\nprint('\\n'.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.partition(".")[0] for name in done.stdout.split()}


HEAVY = {
    "torch",
    "pandas",
    "numpy",
    "scipy",
    "matplotlib",
    "seaborn",
    "open_clip",
    "torchvision",
    "PIL",
    "transformers",
    "ray",
}


def test_importing_the_package_loads_nothing_heavy():
    assert not HEAVY & _loaded_after("import gsnr_toolkit")


def test_importing_what_stands_beside_it_loads_nothing_heavy():
    assert not HEAVY & _loaded_after("import corit")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("probe", ["--help"]), ("sweep", ["--help"]), ("sweep", ["plot", "--help"]), ("sweep", ["--list"])],
)
def test_help_loads_nothing_heavy(module, arguments):
    code = (
        f"import contextlib, io, sys\nsys.argv = {['gsnr', *arguments]}\nfrom gsnr_toolkit.commands import {module}\n"
        f"with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    {module}.main()"
    )
    assert not HEAVY & _loaded_after(code)


def test_the_api_loads_no_plotting_and_no_model_zoo():
    assert not {"matplotlib", "seaborn", "open_clip", "torchvision"} & _loaded_after(
        "from gsnr_toolkit import estimate_cor, Report"
    )


def test_public_names_resolve():
    import gsnr_toolkit

    for name in gsnr_toolkit.__all__:
        assert getattr(gsnr_toolkit, name) is not None
    assert set(dir(gsnr_toolkit)) == set(gsnr_toolkit.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'estimate'; public names: .*estimate_cor"):
        gsnr_toolkit.estimate  # noqa: B018
