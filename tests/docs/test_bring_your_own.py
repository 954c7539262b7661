"""The code blocks of docs/bring-your-own.md run as shown."""

import re
import shlex
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def file_of(block):
    found = re.match(r"# (\w+\.py)\n", block)
    return found[1] if found else None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A new current directory with the files that the page defines."""
    monkeypatch.chdir(tmp_path)
    files = {file_of(block): block for block in blocks("python") if file_of(block)}
    for name, content in files.items():
        Path(name).write_text(content)
        sys.modules.pop(name.removesuffix(".py"), None)
    yield tmp_path
    for name in files:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.usefixtures("folder")
def test_the_python_of_the_page_runs(capsys):
    namespace = {}
    for block in blocks("python"):
        if not file_of(block):
            exec(compile(block, str(PAGE), "exec"), namespace)  # in order, in one session
    printed = capsys.readouterr().out
    for expected in re.findall(r"print\(.*\)  # (.+)", PAGE.read_text(encoding="utf-8")):
        assert expected in printed
    assert set(namespace) >= {"report", "data", "regression"}


@pytest.mark.usefixtures("folder")
def test_the_commands_of_the_page_run():
    from typer.testing import CliRunner

    from gsnr_toolkit.commands.probe import app

    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("gsnr-probe")]
    assert commands
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, done.output
