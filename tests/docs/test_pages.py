"""The code blocks of pages that promise it run as shown."""

import re
import warnings
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def _run(name):
    """Run all blocks of a page in order, in one session."""
    page = DOCS / name
    text, namespace = page.read_text(encoding="utf-8"), {}
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(re.findall("^```", text, re.MULTILINE)) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for block in blocks:
            exec(compile(block, str(page), "exec"), namespace)
    return text, namespace


def test_sam(capsys):
    text, namespace = _run("sam.md")
    printed = capsys.readouterr().out
    for expected in re.findall(r"print\(.*\)  # (.+)", text):
        assert expected in printed
    assert namespace["optimizer"].steps == 4
    assert len(namespace["controller"].history) == 2
    assert all(record.status in ("ok", "no_signal", "above_max_radius") for record in namespace["controller"].history)


def test_training(capsys):
    text, namespace = _run("training.md")
    assert "left 103 left" in text
    assert "left 103 left" in capsys.readouterr().out
    assert namespace["report"].totals["step"].tolist() == [0, 10, 20]
    assert namespace["row"]["steps_done"] == 3
    for file in re.findall(r"^\| `([\w/]+\.\w+|\w+/)` \|", text, re.MULTILINE):
        assert (Path(namespace["folder"]) / file).exists() == (file != "checkpoint.pt"), file


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
