"""The code of docs/sam.md runs as it stands."""

import re
import warnings
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "sam.md"


def test_the_python_of_the_page_runs(capsys):
    text, namespace = PAGE.read_text(encoding="utf-8"), {}
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(re.findall("^```", text, re.MULTILINE)) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), namespace)  # as a reader would: one session, in order
    printed = capsys.readouterr().out
    for expected in re.findall(r"print\(.*\)  # (.+)", text):
        assert expected in printed
    assert namespace["optimizer"].steps == 4
    assert len(namespace["controller"].history) == 2
    assert all(record.status in ("ok", "no_signal", "above_max_radius") for record in namespace["controller"].history)
