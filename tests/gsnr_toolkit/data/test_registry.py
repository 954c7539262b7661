import importlib
import inspect
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import gsnr_toolkit.data
from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.layouts import forensynths, genimage
from gsnr_toolkit.data.registry import DATASETS, open_dataset
from gsnr_toolkit.support.lookup import TargetError, UnknownNameError


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    """Write a module of one's own into the current directory."""
    monkeypatch.chdir(tmp_path)

    def write(code, name="my_faces"):
        (tmp_path / f"{name}.py").write_text(code)
        sys.modules.pop(name, None)
        return name

    yield write
    sys.modules.pop("my_faces", None)


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_row_leads_to_a_function_that_takes_what_the_row_sets(name):
    info = DATASETS[name]
    module, _, function = info.target.partition(":")
    opener = getattr(importlib.import_module(module), function)
    arguments = dict.fromkeys((*info.fixed, "split", *(["root"] if info.on_disk else [])))
    bound = inspect.signature(opener).bind(**arguments)
    assert not {name for name in arguments if name not in (*bound.arguments, *bound.kwargs)}


@pytest.mark.parametrize("name", [name for name in DATASETS if name.startswith("demo-")])
def test_the_embedded_families_open(name):
    data = open_dataset(name, size=4, image_size=32, mean=(0, 0, 0), std=(1, 1, 1), strength=1.0)
    image, _ = data[0]
    assert (data.name, data.caption, len(data)) == (name, "embedded data", 4)
    assert image.shape == (3, 32, 32)
    assert 0 <= image.min() < image.max() <= 1


@pytest.mark.parametrize("name", [name for name, info in DATASETS.rows.items() if info.on_disk])
def test_every_data_set_on_disk_says_what_it_expects(name, monkeypatch):
    monkeypatch.delenv("GSNR_DATA", raising=False)
    with pytest.raises(DataError, match=r"(?s)pass root=.*The folder has the form\nROOT") as caught:
        open_dataset(name)
    assert "{list_name}" not in str(caught.value)


def test_rows_of_a_kind_stand_together():
    kinds = [info.kind for info in DATASETS.rows.values()]
    changes = [a for a, b in itertools.pairwise([*kinds, None]) if a != b]
    assert len(changes) == len(set(kinds)) == 5


def test_there_are_rows_for_all_generators():
    assert [name for name in DATASETS if name.startswith("ufd-")] == [f"ufd-{each}" for each in forensynths.GENERATORS]
    assert [n for n in DATASETS if n.startswith("genimage-")] == [f"genimage-{each}" for each in genimage.GENERATORS]
    assert (len(forensynths.GENERATORS), len(genimage.GENERATORS)) == (19, 8)


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_row_is_documented(name):
    info = DATASETS[name]
    page = (Path(__file__).parents[3] / "docs" / ("data-sets.md" if info.on_disk else "data-demo.md")).read_text("utf8")
    assert re.search(rf"\b{re.escape(info.fixed.get('generator') or name)}\b", page)


def test_sets_to_test_on_are_opened_at_their_test_split():
    splits = {name: info.split for name, info in DATASETS.rows.items()}
    assert [name for name, split in splits.items() if split == "train"] == [
        *("demo-df", "demo-fs", "demo-f2f", "demo-nt", "df", "fs", "f2f", "nt", "ff", "faceshifter")
    ]
    assert set(open_dataset("demo-cdf", size=2).records["split"]) == {"test"}
    assert set(open_dataset("demo-cdf", size=2, split="val").records["split"]) == {"val"}


CODE = """
import torch
def faces(split, image_size, seed=0, dots=1):
    labels = [0, 1] * 4
    return [(torch.full((3, image_size, image_size), float(dots)), label) for label in labels]
"""


def test_a_function_of_ones_own(my_module):
    data = open_dataset(f"{my_module(CODE)}:faces", image_size=12, split="val", dots=3)
    assert data.labels.tolist() == [0, 1] * 4
    assert data[0][0].unique().tolist() == [3.0]
    assert data.image_size == 12
    assert set(data.records["split"]) == {"val"}


@pytest.mark.parametrize(
    ("code", "options", "error", "message"),
    [
        (
            CODE,
            {"colour": 1},
            TargetError,
            "expected faces to take colour, but it takes dots, image_size, seed, split; add",
        ),
        ("def faces(path): return []", {}, TargetError, "but it needs path; give those parameters a default"),
        ("def faces(): return []", {}, DataError, "expected images in .* got an empty data set"),
        ("def faces(): return None", {}, DataError, "to be a map-style data set .* got NoneType"),
        ("def face(): return None", {}, TargetError, "got 'faces'; name one of face. Did you mean 'face'"),
    ],
)
def test_a_function_of_ones_own_that_does_not_serve_says_why(my_module, code, options, error, message):
    with pytest.raises(error, match=message):
        open_dataset(f"{my_module(code)}:faces", **options)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "demo-tn",
            {},
            UnknownNameError,
            r"a known data set, got 'demo-tn'; choose .*image-folder.* Did you mean 'demo-nt'\?",
        ),
        ("demo-nt", {"root": "/data"}, DataError, "no root for 'demo-nt', which is embedded .* got '/data'"),
        ("demo-nt", {"strenght": 1}, DataError, "an option of 'demo-nt' .* got 'strenght'.*Did you mean 'strength'"),
        ("nt", {}, DataError, r"(?s)pass root=\.\.\. .*GSNR_DATA.*'demo-nt'.*original_sequences"),
        ("nt", {"root": "/no/such"}, DataError, r"(?s)folder of 'nt', but '/no/such' is not a folder.*train\.json"),
        ("dfdc", {"split": "test"}, DataError, r"(?s)GSNR_DATA.*dataset_json\]/DFDC\.json"),
        ("celebdf-v3", {}, UnknownNameError, r"a known data set, got 'celebdf-v3'; .* Did you mean 'celebdf-v"),
        ("ufd-ldm200", {}, UnknownNameError, r"Did you mean 'ufd-ldm_200'\?"),
        ("genimage-sd14", {}, UnknownNameError, r"Did you mean 'genimage-sdv14'\?"),
        ("nt", {"split": ""}, DataError, "one of train, val, test, got ''"),
        ("demo-nt", {"image_size": 0}, ValueError, "image_size to be a positive number of pixels, got 0"),
        ("nt", {"split": "training"}, DataError, r"one of train, val, test, got 'training'.*Did you mean 'train'"),
        ("nt", {"size": 1}, DataError, "size to be at least 2"),
        ("image-folder:", {}, DataError, "put a path after the colon"),
        ("image-folder", {}, DataError, "got 'image-folder'; put a path after the colon"),
    ],
)
def test_what_cannot_be_opened_says_why(name, options, error, message, monkeypatch):
    monkeypatch.delenv("GSNR_DATA", raising=False)
    with pytest.raises(error, match=message):
        open_dataset(name, **options)


def test_a_wrong_variable_is_named(monkeypatch):
    monkeypatch.setenv("GSNR_DATA", "/no/such")
    with pytest.raises(DataError, match=r"'/no/such' \(from GSNR_DATA\) is not a folder"):
        open_dataset("nt")


def test_the_package_offers_its_names_lazily():
    for name in gsnr_toolkit.data.__all__:
        assert getattr(gsnr_toolkit.data, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gsnr_toolkit.data.nothing  # noqa: B018
    data = gsnr_toolkit.data.in_memory(np.zeros((2, 8, 8, 3), np.uint8), [0, 1])
    assert len(data) == 2
