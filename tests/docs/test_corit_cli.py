"""The code blocks and commands of docs/corit-cli.md run as shown."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from corit.cli import CACHE_VARIABLE, app
from corit.training.config import METHODS

PAGE = (Path(__file__).parents[2] / "docs" / "corit-cli.md").read_text(encoding="utf8")


@pytest.mark.slow
def test_the_blocks_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "features"))
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == PAGE.count("\n```") / 2
    namespace = {}
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "docs/corit-cli.md", "exec"), namespace)
            continue
        for line in block.splitlines():
            if line.startswith(("corit train", "corit ablate")):
                continue  # like the Python block, but takes minutes; the next test checks the options
            extra = ["--samples", "20", "--draws", "20"] if line.startswith("corit eval") else []
            done = CliRunner().invoke(app, [*shlex.split(line)[1:], *extra])
            assert done.exit_code == 0, (line, done.output, done.exception)
    assert (tmp_path / "maps" / "1.png.heatmap.png").exists()
    assert (tmp_path / "scores" / "scores.csv").exists()
    assert (tmp_path / "test" / "results.csv").exists()
    for file in re.findall(r"^\| `([\w.]+\.\w+)` \|", PAGE, re.MULTILINE):
        assert (tmp_path / "my-detector" / file).exists() == (file != "checkpoint.pt"), file
    assert namespace["own"].predict(namespace["images"]).tolist() == pytest.approx([0.5, 0.5], abs=0.2)


def test_every_option_and_method_of_the_page_exists():
    command = get_command(app)
    for line in re.findall(r"^corit .*", PAGE, re.MULTILINE):
        name, *arguments = shlex.split(line)[1:]
        command.commands[name].make_context(name, arguments)  # raises for an unknown option
    known = {name for part in command.commands.values() for each in part.params for name in each.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert named <= known, named - known
    rows = re.findall(r"^\| `([\w-]+)` \| (?:a linear|scale|the last K|everything)", PAGE, re.MULTILINE)
    assert rows == list(METHODS)
