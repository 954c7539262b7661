"""The code blocks of docs/corit.md run as shown."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "corit.md"


def test_the_python_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, namespace = PAGE.read_text(encoding="utf-8"), {}
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(re.findall("^```", text, re.MULTILINE)) / 2
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)  # in order, in one session
    images, detector = namespace["images"], namespace["detector"]
    assert (namespace["again"].predict(images) == detector.predict(images)).all()
    assert not (namespace["probabilities"] == detector.predict(images)).all()  # the head was trained in between
    assert namespace["report"].has_cor


def test_the_options_of_the_page_are_the_defaults():
    from corit.model.config import CoRITConfig

    text = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `?\"?([^|`\"]+?)\"?`? \|", text, re.MULTILINE))
    for name in ("num_regions", "threshold", "nms_radius", "anchors", "normalisation"):
        assert rows[name] == str(getattr(CoRITConfig(), name))
