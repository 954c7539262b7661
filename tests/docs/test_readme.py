"""The example, commands, table and links of README.md are correct."""

import os
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from gsnr_toolkit.commands import probe as cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf8")


def _blocks(language):
    found = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    return [text for kind, text in found if kind == language]


def test_the_api_example_runs(tmp_path, monkeypatch, capsys):
    (example,) = _blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "0.05" in out.splitlines()[0]
    assert "block 8" in out
    assert (tmp_path / "my-report" / "report.json").exists()


def test_both_commands_set_up_everything():
    main, tests = _blocks("bash")
    assert main.strip().endswith(".venv/bin/gsnr-probe")
    assert tests.strip().endswith(".venv/bin/pytest -n auto")
    for command in (main, tests):
        assert "python3 -m venv .venv && .venv/bin/pip install" in command


def test_the_table_of_results_is_the_stored_one():
    stored = (ROOT / "figures" / "data" / "table_foretell.md").read_text(encoding="utf8")
    rows = {tuple(line.split(" | ")[:3]) for line in stored.splitlines() if line.startswith("| ")}
    shown = re.search(r"^\| candidate \|.*?\n\n", README, flags=re.DOTALL | re.MULTILINE)
    lines = [line.removesuffix(" |") for line in shown.group().splitlines() if line.startswith("| ")]
    assert len(lines) == 7
    assert {tuple(line.split(" | ")) for line in lines} <= rows


def test_ci_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf8")
    assert "<!-- test command -->" in script
    assert "<!-- test command -->\n```bash\n" in README
    for tool in ("ruff check", "ruff format --check", "mypy"):
        assert tool in script


def test_the_options_it_shows_exist():
    known = {name for option in get_command(cli.app).params for name in option.opts}
    (block,) = [text for text in _blocks("") if "gsnr-probe" in text]
    lines = [line.partition("#")[0] for line in block.splitlines() if line.startswith("gsnr-probe")]
    used = {word for line in lines for word in shlex.split(line) if word.startswith("--")}
    assert used
    assert used <= known


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert os.path.exists((ROOT / page).parent / target), f"{page} links to {target}"
