"""The code blocks and commands of docs/sweep.md are correct."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gsnr_toolkit.commands.sweep import app
from gsnr_toolkit.sweeps.folder import SweepFolder
from gsnr_toolkit.sweeps.grid import read_grid
from gsnr_toolkit.sweeps.grid_file import read_grid_file

PAGE = (Path(__file__).parents[2] / "docs" / "sweep.md").read_text(encoding="utf8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_page_are_understood(tmp_path, monkeypatch):
    """List the grid without training it, which would take minutes; other tests train."""
    monkeypatch.chdir(tmp_path)
    first, *others = blocks("bash")[0].splitlines()
    done = CliRunner().invoke(app, [*shlex.split(first)[1:], "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "12 runs, 12 to do" in done.output
    assert [shlex.split(line)[1:] for line in others] == [["status", "sweep"], ["plot", "sweep"], ["report", "sweep"]]


def test_the_file_of_the_page_is_a_grid(tmp_path):
    (tmp_path / "grid.toml").write_text(blocks("toml")[0])
    assert len(read_grid(*read_grid_file(tmp_path / "grid.toml")).configs) == 2 * 6 * 3


def test_every_option_and_file_on_the_page_exists(tmp_path):
    from typer.main import get_command

    command = get_command(app)
    known = {name for part in (command, *command.commands.values()) for each in part.params for name in each.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert named <= known, named - known
    folder = SweepFolder(tmp_path)
    for path in (folder.grid_file, folder.table_file):
        assert f"`{path.name}`" in PAGE


@pytest.mark.slow
def test_the_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("python")
    exec(compile(block, "docs/sweep.md", "exec"), {"__name__": "__main__"})
    out = capsys.readouterr().out
    assert "test_auc" in out
    assert "empirical_radius" in out
    assert (tmp_path / "my-sweep" / "sweep.csv").exists()


@pytest.mark.parametrize("status", ["ok", "not_monotone", "never_collapsed", "never_trained", "no_baseline", "no_runs"])
def test_every_status_is_explained(status):
    assert f"| `{status}` |" in PAGE
