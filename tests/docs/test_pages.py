"""The code blocks of pages that promise it run as shown."""

import re
import warnings
from pathlib import Path

import pytest

from gsnr_toolkit.data.layouts.celebdf import TEST_LIST
from tests.support.disk import Disk

DOCS = Path(__file__).parents[2] / "docs"


def _run(name, *, other_blocks=0, **replaced):
    """Run all blocks of a page in order, in one session."""
    page = DOCS / name
    text, namespace = page.read_text(encoding="utf-8"), {}
    for old, new in replaced.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) + other_blocks == len(re.findall("^```", text, re.MULTILINE)) / 2
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


def test_find_rho(capsys):
    _, namespace = _run("find-rho.md", other_blocks=1)
    printed = capsys.readouterr().out
    found = namespace["found"]
    assert found.message in printed
    assert 0 < found.rho < found.low < found.high < 12 * found.rho
    assert "leaves the plateau" in found.message
    assert namespace["asam"].settings["optimizer"].startswith("SGD")


def test_data_demo():
    _, namespace = _run("data-demo.md")
    assert namespace["image"].shape == (3, 64, 64)
    assert namespace["label"] == 1
    assert len(namespace["pair"].landmarks) == 81


def test_data_sets(tmp_path):
    disk = Disk(tmp_path)
    for video in ("YouTube-real/00170", "Celeb-synthesis/id0_id1_0002"):
        disk.image(f"Celeb-DF-v2/{video}/000.png")
    lines = "1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id1_0002.mp4\n"
    (tmp_path / "Celeb-DF-v2" / TEST_LIST).write_text(lines, encoding="utf8")
    _, namespace = _run("data-sets.md", other_blocks=5, **{"/data": str(tmp_path)})
    assert sorted(namespace["data"].records["label"]) == [0, 1]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_page_with_code_is_run_by_a_test(page):
    if "\n```python\n" in page.read_text(encoding="utf8"):
        tests = [file.read_text(encoding="utf8") for file in DOCS.parent.joinpath("tests").rglob("*.py")]
        assert any(f'"{page.name}"' in text for text in tests)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
