"""The code of docs/engines.md runs, and docs/engine-coverage.md lists every architecture of the zoo."""

import re
from pathlib import Path

from tests.support.zoo import ZOO

DOCS = Path(__file__).parents[2] / "docs"


def test_the_python_of_the_page_runs(capsys):
    page = (DOCS / "engines.md").read_text(encoding="utf8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "engines.md", "exec"), {})
    assert "100 % by the taps engine" in capsys.readouterr().out


def test_the_table_of_coverage_holds_every_architecture_of_the_zoo():
    lines = (DOCS / "engine-coverage.md").read_text(encoding="utf8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    assert [row[0] for row in cells] == list(ZOO)
    assert all(float(row[4]) < 1e-6 for row in cells)
    assert all(bool(row[3]) == bool(row[5]) for row in cells)
