"""The code of docs/sbi.md runs as it stands, and the benchmark of pairs per second prints its table."""

import re
import sys
import warnings
from pathlib import Path

import pytest
import torch

from benchmarks.corit import sbi as benchmark

PAGE = Path(__file__).parents[3] / "docs" / "sbi.md"


def test_the_python_of_the_page_runs():
    text, namespace = PAGE.read_text(encoding="utf-8"), {}
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(re.findall("^```", text, re.MULTILINE)) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), namespace)  # as a reader would: one session, in order
    assert namespace["pair"].outline in ("68 landmarks", "81 landmarks")
    assert namespace["labels"].tolist().count(1) == 4
    assert not torch.equal(namespace["blends"], namespace["images"])


def test_the_benchmark_prints_a_row_for_each_size_and_work(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sbi", "--sizes", "32", "48", "--count", "2", "--rounds", "1"])
    benchmark.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == 8
    for row in rows:
        assert float(row.split("|")[3]) > 0


@pytest.fixture(autouse=True)
def _threads():
    import cv2

    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)
