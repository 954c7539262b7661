"""Imports flow one way: what docs/architecture.md draws, read from the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "gsnr_toolkit"
BESIDE = "corit"  # imports the package; never the reverse

# A file imports only files of its own floor or of a lower one.
FLOORS = [
    {
        "errors",
        "types",
        "atomic",
        "allocator",
        "differences",
        "run_folder",
        "metrics",
        "provenance",
        "progress",
        "registry",
        "batches",
        "losses",
        "groups",
        "moments",
    }
    | {"settings", "command", "group_moments", "perturbation", "preserve", "options", "attribution"}
    | {"training.config", "training.diagnosis", "over_seeds", "collapse"},
    {"gradients", "checks", "estimators", "data", "plots"},
    {"prepare", "engine_choice", "distributed", "moment_pass", "measure", "models", "training", "optim", "tables"}
    | {"verdict", "trajectory", "pages"},
    {"readings", "report"},
    {"measurement"},
    {"probing", "training.recorder"},
    {"runner", "console", "optim.auto"},
    {"training.setup", "training.run"},
    {"sweeps"},
    {"cli", "sweep_cli", "__main__", "__init__"},
]
BESIDE_FLOORS = [
    {"config", "pairs", "regions", "tower", "explanation", "frozen_state", "sbi", "metrics", "robustness", "crop"},
    {"injection", "shared", "counterparts", "contents", "train_config", "media"},
    {"detector", "proxy", "proxy_check", "train_data"},
    {"weights", "evidence", "proxy_run"},
    {"features", "trained"},
    {"tasks", "heatmap"},
    {"evaluate", "predict"},
    {"train", "evaluate_many", "console"},
    {"ablate", "train_demo"},
    {"cli", "__main__", "__init__"},
]
# Rooms that must not know each other although they stand on one floor, or below.
APART = {
    "estimators": {"gradients", "data", "models", "plots"},
    "gradients": {"estimators", "data", "models", "plots"},
    "plots": {"gradients", "estimators", "data", "models", "report"},
    "data": {"gradients", "estimators", "models", "plots"},
    "models": {"gradients", "estimators", "plots", "report"},
    "moments": {"gradients", "estimators"},
    "group_moments": {"gradients", "estimators"},
    "optim": {"gradients", "estimators", "data", "models", "plots"},
}


def _files(package=PACKAGE):
    return sorted((ROOT / package).rglob("*.py"))


def _module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def _room(module):
    """The room of a file: the package it is in, unless FLOORS gives the file a floor of its own."""
    path = module.partition(".")[2]
    return path if any(path in rooms for rooms in FLOORS) else path.partition(".")[0]


class _Imports(ast.NodeVisitor):
    """Modules of the package that a file imports anywhere, but for type checking."""

    def __init__(self):
        self.found = set()

    def visit_If(self, node):
        if getattr(node.test, "id", None) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_ImportFrom(self, node):
        assert node.level == 0, "imports are absolute"
        self.found.add(node.module)
        self.found.update(f"{node.module}.{alias.name}" for alias in node.names)

    def visit_Import(self, node):
        self.found.update(alias.name for alias in node.names)


def _imports(package=PACKAGE):
    modules = {_module(path): path for path in _files(package)}
    graph = {}
    for module, path in modules.items():
        visitor = _Imports()
        visitor.visit(ast.parse(path.read_text(encoding="utf8")))
        graph[module] = {name for name in visitor.found if name in modules and name != module}
    return graph


GRAPH = _imports()


def test_every_file_has_a_floor():
    known = set().union(*FLOORS)
    assert {_room(module) for module in GRAPH} <= known


@pytest.mark.parametrize("module", GRAPH)
def test_imports_go_down(module):
    floor = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
    up = {name for name in GRAPH[module] if floor[_room(name)] > floor[_room(module)]}
    assert not up, f"{module} imports from above: {sorted(up)}"
    apart = {name for name in GRAPH[module] if _room(name) in APART.get(_room(module), set())}
    assert not apart, f"{module} must not know {sorted(apart)}"


BESIDE_GRAPH = _imports(BESIDE)


@pytest.mark.parametrize("module", BESIDE_GRAPH)
def test_imports_go_down_beside(module):
    floor = {room: i for i, rooms in enumerate(BESIDE_FLOORS) for room in rooms}
    room = {name: name.split(".")[1] for name in (module, *BESIDE_GRAPH[module])}
    up = {name for name in BESIDE_GRAPH[module] if floor[room[name]] > floor[room[module]]}
    assert not up, f"{module} imports from above: {sorted(up)}"


def test_the_package_knows_nothing_of_what_stands_beside_it():
    for path in _files():
        visitor = _Imports()
        visitor.visit(ast.parse(path.read_text(encoding="utf8")))
        assert not [name for name in visitor.found if name.partition(".")[0] == BESIDE], path


@pytest.mark.parametrize("graph", [GRAPH, BESIDE_GRAPH], ids=[PACKAGE, BESIDE])
def test_no_cycles(graph):
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for name in sorted(graph[module]):
            visit(name)
        path.pop()
        done.add(module)

    for module in graph:
        visit(module)


@pytest.mark.parametrize("module", [p.relative_to(ROOT).as_posix() for p in _files() + _files(BESIDE)])
def test_files_and_functions_stay_short(module):
    text = (ROOT / module).read_text(encoding="utf8")
    assert text.count("\n") <= 400, "one idea per file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            size = (body[-1].end_lineno - body[0].lineno + 1) if body else 0
            assert size <= 60, f"{node.name} has {size} lines"


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
    [("cli", ["--help"]), ("sweep_cli", ["--help"]), ("sweep_cli", ["plot", "--help"]), ("sweep_cli", ["--list"])],
)
def test_help_loads_nothing_heavy(module, arguments):
    code = (
        f"import contextlib, io, sys\nsys.argv = {['gsnr', *arguments]}\nfrom gsnr_toolkit import {module}\n"
        f"with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    {module}.main()"
    )
    assert not HEAVY & _loaded_after(code)


def test_the_api_loads_no_plotting_and_no_model_zoo():
    assert not {"matplotlib", "open_clip", "torchvision"} & _loaded_after(
        "from gsnr_toolkit import estimate_cor, Report"
    )


def test_public_names_resolve():
    import gsnr_toolkit

    for name in gsnr_toolkit.__all__:
        assert getattr(gsnr_toolkit, name) is not None
    assert set(dir(gsnr_toolkit)) == set(gsnr_toolkit.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'estimate'; public names: .*estimate_cor"):
        gsnr_toolkit.estimate  # noqa: B018
