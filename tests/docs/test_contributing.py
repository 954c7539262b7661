"""The worked examples of CONTRIBUTING.md run, and their rows fit the registries."""

import doctest
import re
import subprocess
import sys
import types
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
BLOCKS = re.findall(r"^```python\n# (.*?)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
NEW_FILES = {name: code for name, code in BLOCKS if name.endswith(".py") and " " not in name}
ROWS = {name.split()[1]: code for name, code in BLOCKS if name.startswith("in ")}


def _loaded(word, monkeypatch):
    """Run the example file with this word in its name, as the module that it would become."""
    (name,) = (name for name in NEW_FILES if word in name)
    module = types.ModuleType(name.removesuffix(".py").replace("/", "."))
    exec(compile(NEW_FILES[name], name, "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def _row(registry, names):
    """Evaluate the row that the page adds to a registry."""
    ((name, value),) = eval(f"{{{ROWS[registry]}}}", dict(names)).items()
    return name, value


def _report():
    import torch

    from gsnr_toolkit import estimate_cor

    torch.manual_seed(0)
    inputs = torch.randn(64, 5)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    return estimate_cor(model, [(inputs, (inputs[:, 0] > 0).float())], batch_size=8, progress=False)


def test_every_door_has_a_new_file_and_a_row():
    assert len(NEW_FILES) == len(ROWS) == 4
    assert len(BLOCKS) == PAGE.count("```python")


@pytest.mark.parametrize("name", sorted(NEW_FILES))
def test_new_files_have_a_free_name_in_a_folder_that_exists(name):
    assert (ROOT / name).parent.is_dir()
    assert not (ROOT / name).exists()


@pytest.mark.parametrize("name", sorted(NEW_FILES))
def test_new_files_pass_the_lint_checks(name):
    for check in (["check", "--quiet"], ["format", "--check", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *check, "--stdin-filename", name, "-"]
        done = subprocess.run(command, input=NEW_FILES[name].encode(), capture_output=True, cwd=ROOT, check=False)
        if b"No module named" in done.stderr:
            pytest.skip("ruff is part of the extra dev")
        assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_the_new_rule_agrees_with_one_backward_per_sample(monkeypatch):
    from gsnr_toolkit.gradients.taps.rules.table import RULES
    from tests.gsnr_toolkit.gradients.taps.rules import test_table as table

    before = dict(RULES)
    try:
        _loaded("rules/", monkeypatch)
        (operation,) = set(RULES) - set(before)
        named, make = _row("MODELS", vars(table))
        assert named == (operation, 1)
        assert named in table._check(*make())
    finally:
        RULES.clear()
        RULES.update(before)


def test_the_new_data_set_opens(monkeypatch, tmp_path):
    from PIL import Image

    from gsnr_toolkit.data import registry

    module = _loaded("layouts/", monkeypatch)
    name, info = _row("DATASETS", vars(registry))
    assert name not in registry.DATASETS.rows
    monkeypatch.setitem(registry.DATASETS.rows, name, info)
    lines = ["path,label,video,split"]
    for number in range(6):
        Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{number % 2},{number},{'test' if number > 3 else 'train'}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    data = registry.open_dataset(name, root=tmp_path, image_size=32)
    assert sorted(data.labels) == [0, 0, 1, 1]
    assert data[0][0].shape == (3, 32, 32)
    assert len(registry.open_dataset(name, root=tmp_path, split="test")) == 2
    for arguments in ({"root": tmp_path, "split": "val"}, {"root": tmp_path / "nowhere"}, {}):
        with pytest.raises(module.DataError):
            registry.open_dataset(name, **arguments)


def test_the_new_estimator_is_right(monkeypatch):
    module = _loaded("estimators/", monkeypatch)
    assert doctest.testmod(module).failed == 0
    rng = np.random.default_rng(0)
    means = rng.normal(size=(2, 5, 7))  # two groups, five shards
    gram, sqnorm = means @ means.swapaxes(1, 2), (means**2).sum(2).T
    cosines = [np.corrcoef(np.concatenate([group, -group], axis=1)) for group in means]  # centred by construction
    expected = [matrix[~np.eye(5, dtype=bool)].mean() for matrix in cosines]
    np.testing.assert_allclose(module.shard_agreement(gram, sqnorm), expected, rtol=1e-12)
    assert np.isnan(module.shard_agreement(gram * 0, sqnorm * 0)).all()


def test_the_new_estimator_is_a_column_of_a_report(monkeypatch):
    estimates = import_module("gsnr_toolkit.estimators.estimates")
    module = _loaded("estimators/", monkeypatch)
    name, column = _row("COLUMNS", vars(module))
    assert name not in estimates.COLUMNS
    monkeypatch.setitem(estimates.COLUMNS, name, column)
    report = _report()
    assert report.layers[name].between(-1, 1).all()
    assert report.totals[name].between(-1, 1).all()


def test_the_new_format_writes_a_table(monkeypatch, tmp_path):
    module, report = _loaded("report/", monkeypatch), _report()
    (path,) = module.write_latex(report, tmp_path / "report.tex")
    text = path.read_text()
    assert r"\begin{tabular}" in text
    assert "gsnr\\_low & gsnr\\_high & cor" in text
    assert text.count(r"\\") == 1 + len(report.layers)


def test_the_new_format_is_one_of_the_formats(monkeypatch, tmp_path):
    formats = import_module("gsnr_toolkit.report.formats")
    _loaded("report/", monkeypatch)
    name, row = _row("FORMATS", vars(formats))
    assert name not in formats.FORMATS.rows
    monkeypatch.setitem(formats.FORMATS.rows, name, row)
    (path,) = formats.write_formats(_report(), tmp_path, [name])
    assert path.exists()
