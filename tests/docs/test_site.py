"""The documentation site, checked without mkdocs: the nav is complete, and pages agree with the code."""

import ast
import os
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.main import get_command

import gsnr_toolkit
from gsnr_toolkit.commands import probe as cli
from gsnr_toolkit.commands import sweep as sweep_cli
from gsnr_toolkit.report.plots.frames import STATUSES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def text_of(name):
    return (DOCS / name).read_text(encoding="utf8")


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(name), re.MULTILINE | re.DOTALL)


def _constant(path, name):
    """Read a constant from a file without importing it."""
    for node in ast.parse(path.read_text(encoding="utf8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{path} has no {name}")


BESIDE = _constant(ROOT / ".ci" / "site.py", "BESIDE")


def _entries(nav):
    for item in nav:
        for value in item.values():
            if isinstance(value, str):
                yield value
            else:
                yield from _entries(value)


@pytest.fixture(scope="module")
def site():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf8"))


def test_every_page_is_in_the_nav_and_every_entry_is_a_page(site):
    entries = list(_entries(site["nav"]))
    assert len(set(entries)) == len(entries)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert set(entries) == pages | {page for page in BESIDE.values() if page.endswith(".md")}
    assert entries[0] == "index.md"


def test_pages_beside_docs_exist_under_names_that_are_free():
    for source, page in BESIDE.items():
        assert (DOCS / source).exists(), source
        assert not (DOCS / page).exists(), page


def test_links_out_of_docs_are_among_those_that_the_site_has():
    out = {link for page in DOCS.glob("*.md") for link in re.findall(r"\]\((\.\./[^)#]+)", page.read_text("utf8"))}
    assert out <= set(BESIDE)


def test_nothing_of_the_site_comes_from_elsewhere(site):
    assert site["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css", "repo_url"} & set(site)
    assert "mermaid" not in "".join(path.read_text(encoding="utf8") for path in DOCS.glob("*.md"))
    assert "http" not in re.sub(r"#.*", "", (ROOT / "mkdocs.yml").read_text(encoding="utf8"))


def test_what_the_site_is_built_by_is_pinned_and_there(site):
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]["optional-dependencies"]
    assert all("==" in item for item in extras["docs"])
    for hook in [*site["hooks"], ".ci/docstrings.py"]:
        assert (ROOT / hook).exists()


def test_the_api_page_has_every_public_name():
    named = re.findall(r"^::: ([\w.]+)$", text_of("api.md"), re.MULTILINE)
    assert {name.rpartition(".")[2] for name in named} == set(gsnr_toolkit.__all__) - {"__version__"}
    for name in named:
        module, _, attribute = name.rpartition(".")
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf8"))
        assert attribute in {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


def test_every_test_that_the_theory_names_exists():
    named = re.findall(r"`(\w+\.py)::(test_\w+)`", text_of("theory.md"))
    assert len(named) > 25
    places = dict.fromkeys(("test_theory.py", "test_theory_proxy.py"), ROOT / "tests" / "theory")
    for file, test in named:
        path = places.get(file, ROOT / "tests" / "gsnr_toolkit" / "estimators") / file
        assert f"def {test}(" in path.read_text(encoding="utf8"), f"{file}::{test}"


def test_every_result_of_the_theory_has_a_proof_and_a_test():
    text = text_of("theory.md")
    for result in ("Lemma 1", "It is well posed.", "Theorem 1.", "Lemma 2", "Corollary 1."):
        start = text.index(f"**{result}")
        proof = text.index("*Proof.*", start)
        end = text.index("∎", proof)
        assert proof - start < 1200
        assert re.match(r"∎ Tests?: `", text[end : end + 20]), result
    assert text.count("*Proof") == text.count("∎"), "a proof begins and ends"


@pytest.mark.parametrize("status", [*STATUSES, "unbounded"])
def test_every_status_of_a_report_is_explained(status):
    assert f"`{status}`" in text_of("read-a-report.md")


def test_every_part_of_the_page_is_explained():
    from gsnr_toolkit.report.pages.probe_tables import _CAUSES, _COR, _GSNR, _STATE

    text = text_of("read-a-report.md")
    for column in (*_COR, *_GSNR, *_CAUSES, *_STATE):
        assert f"`{column.name}`" in text, column.name
    template = (ROOT / "gsnr_toolkit" / "report" / "pages" / "templates" / "probe.html").read_text(encoding="utf8")
    for heading in re.findall(r"<h2>(\w+)</h2>", template):
        assert heading.lower() in text.lower()
    answers = (ROOT / "gsnr_toolkit" / "report" / "pages" / "answer.py").read_text(encoding="utf8")
    for words in ("lies in the collapse zone", "is outside the collapse zone", "undecided", "no answer"):
        assert words in answers
        assert f"| {words}" in text


@pytest.mark.parametrize("page", ["index.md", "choose-rho.md", "read-a-report.md"])
def test_the_options_of_the_new_pages_exist(page):
    sweep = get_command(sweep_cli.app)
    parts = [get_command(cli.app), sweep, *sweep.commands.values()]
    known = {name for part in parts for option in part.params for name in option.opts}
    named = {word for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text_of(page)) if word != "--editable"}
    assert named
    assert named <= known, named - known


def test_the_sweeps_of_the_pages_are_understood(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    lines = [
        line for page in ("index.md", "choose-rho.md") for block in blocks(page, "bash") for line in block.splitlines()
    ]
    sweeps = [shlex.split(line)[1:] for line in lines if line.startswith("gsnr-sweep --")]
    assert len(sweeps) == 2
    for arguments in sweeps:
        done = CliRunner().invoke(sweep_cli.app, [*arguments, "--dry-run"])
        assert done.exit_code == 0, done.output
        assert "to do" in done.output


@pytest.mark.slow
def test_choosing_rho_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks("choose-rho.md", "python"):
        exec(compile(block, "docs/choose-rho.md", "exec"), namespace)  # in order, in one session
    report, printed = namespace["report"], capsys.readouterr().out
    assert report.verdict in printed
    assert report.suggestion.message in printed
    assert report.margin.message in printed
    assert os.path.exists("probe.html")
    choose = namespace["cautious_radius"]
    ok = {"status": "ok", "cor_low": 0.02}
    assert choose(pd.DataFrame([ok, {**ok, "cor_low": 0.03}])) == 0.02
    assert choose(pd.DataFrame([ok, {**ok, "status": "no_signal"}])) is None
    assert choose(pd.DataFrame([ok, {**ok, "cor_low": 0.0}])) is None
    assert choose(pd.DataFrame([{"status": "above_max_radius", "cor_low": float("inf")}])) == 0.2
