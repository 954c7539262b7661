"""The worked examples of CONTRIBUTING.md run, and fit where the page puts them."""

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
NEW_FILES = {block[2:].partition("\n")[0]: block for block in BLOCKS if block.startswith("# gsnr_toolkit/")}


def _example(word):
    (name,) = (name for name in NEW_FILES if word in name)
    return name


def _line(start):
    (block,) = (block for block in BLOCKS if block.startswith(start))
    return block.strip().removesuffix(",")


def _loaded(name):
    """Run a new file of the page as the module that it would be."""
    module = types.ModuleType(name.removesuffix(".py").replace("/", "."))
    exec(compile(NEW_FILES[name], name, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", sorted(NEW_FILES))
def test_new_files_have_a_free_name_in_a_folder_that_exists(name):
    assert (ROOT / name).parent.is_dir()
    assert not (ROOT / name).exists()


@pytest.mark.parametrize("name", sorted(NEW_FILES))
def test_new_files_pass_the_lint_checks(name):
    code = NEW_FILES[name].partition("\n")[2].encode()
    for check in (["check", "--quiet"], ["format", "--check", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *check, "--stdin-filename", name, "-"]
        done = subprocess.run(command, input=code, capture_output=True, cwd=ROOT, check=False)
        if b"No module named" in done.stderr:
            pytest.skip("ruff is part of the extra dev")
        assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_the_new_rule_agrees_with_one_backward_per_sample():
    from gsnr_toolkit.gradients.taps.rules.table import RULES
    from tests.gsnr_toolkit.gradients.taps.rules import test_table as table

    before = dict(RULES)
    try:
        _loaded(_example("rules/"))
        (operation,) = set(RULES) - set(before)
        ((named, make),) = eval(f"{{{_line('(')}}}", vars(table)).items()
        assert named == (operation, 1)
        assert named in table._check(*make())
    finally:
        RULES.clear()
        RULES.update(before)


def test_the_new_data_set_opens(monkeypatch, tmp_path):
    import numpy as np
    from PIL import Image

    from gsnr_toolkit.data import registry

    name = _example("layouts/")
    module = _loaded(name)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = eval(f"{{{_line(chr(34))}}}", {"DatasetInfo": registry.DatasetInfo, "_DATA": "gsnr_toolkit.data"})
    for key, info in row.items():
        assert key not in registry.DATASETS.rows
        monkeypatch.setitem(registry.DATASETS.rows, key, info)
    lines = ["path,label,video,split"]
    for number in range(6):
        Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{number % 2},{number},{'test' if number > 3 else 'train'}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    (key,) = row
    data = registry.open_dataset(key, root=tmp_path, image_size=32)
    assert sorted(data.labels) == [0, 0, 1, 1]
    assert data[0][0].shape == (3, 32, 32)
    assert len(registry.open_dataset(key, root=tmp_path, split="test")) == 2
    for arguments in ({"root": tmp_path, "split": "val"}, {"root": tmp_path / "nowhere"}, {}):
        with pytest.raises(module.DataError):
            registry.open_dataset(key, **arguments)
