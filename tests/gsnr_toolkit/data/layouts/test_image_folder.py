import os
import warnings

import pytest

from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.layouts.confounds import format_confounds
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.errors import ProbeWarning


def opened(disk, **options):
    return open_dataset(f"image-folder:{disk.root}", image_size=16, **options)


@pytest.mark.parametrize(("real", "fake"), [("real", "fake"), ("0_real", "1_fake"), ("nature", "ai"), ("Real", "FAKE")])
def test_the_class_is_the_folders_name(disk, real, fake):
    for number in range(3):
        disk.image(f"{real}/{number}.png")
        disk.image(f"{fake}/{number}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = opened(disk)
    assert sorted(data.labels) == [0, 0, 0, 1, 1, 1]
    assert data.records["source"].nunique() == 6
    assert data.caption == "data"
    assert data.name == f"image-folder:{disk.root}"


def test_forensynths_has_classes_of_objects_above_and_dots_in_names(disk):
    for kind in ("airplane", "cat"):
        disk.image(f"progan/test/{kind}/0_real/img.000.1.png")
        disk.image(f"progan/test/{kind}/1_fake/img.000.1.png")
    data = opened(disk, split="test")
    assert sorted(data.labels) == [0, 0, 1, 1]
    assert set(data.records["method"]) == {"real", "progan"}


def test_genimage_has_generators_and_splits(disk):
    for generator in ("glide", "biggan"):
        for split, count in (("train", 2), ("val", 1)):
            for number in range(count):
                disk.image(f"{generator}/{split}/nature/{number}.png")
                disk.image(f"{generator}/{split}/ai/{number}.png")
    assert len(opened(disk, split="train")) == 8
    validation = opened(disk, split="val")
    assert len(validation) == 4
    assert sorted(validation.records["method"]) == ["biggan", "glide", "real", "real"]
    with pytest.raises(DataError, match="to be one of train, val, got 'test'"):
        opened(disk, split="test")


def test_the_nearest_telling_folder_wins(disk):
    disk.image("fake/real/1.png")
    disk.image("real/fake/1.png")
    by_path = {path.parent.name: label for path, label in opened(disk).records[["path", "label"]].to_numpy()}
    assert by_path == {"real": 0, "fake": 1}


def test_a_folder_below_the_class_is_a_source(disk):
    for video in ("a", "b"):
        for number in range(3):
            disk.image(f"real/{video}/{number}.png")
            disk.image(f"fake/{video}/{number}.png")
    data = opened(disk)
    assert len(data) == 12
    assert sorted(data.records["source"].unique()) == ["fake/a", "fake/b", "real/a", "real/b"]
    assert len(opened(disk, frames_per_video=1)) == 4


def test_images_outside_a_class_and_broken_ones_are_skipped_and_reported(disk):
    for number in range(3):
        disk.image(f"real/{number}.png")
        disk.image(f"fake/{number}.png")
    disk.image("other/1.png")
    disk.truncate("fake/2.png")
    with pytest.warns(ProbeWarning, match="skipped 2, kept 5") as caught:
        data = opened(disk)
    assert sorted(data.skipped["reason"]) == ["broken image", "no folder above it is named by a class"]
    assert len(caught) == 1


def test_links_in_circles_are_walked_once(disk):
    disk.image("real/1.png")
    disk.image("fake/1.png")
    os.symlink(disk.root, disk.root / "real" / "again")
    assert len(opened(disk)) == 2


def test_different_formats_of_the_classes_are_a_warning(disk):
    for number in range(4):
        disk.image(f"nature/{number}.jpg", size=(20 + number, 30))
        disk.image(f"ai/{number}.png", size=(32, 32))
    with pytest.warns(ProbeWarning, match=r"the file formats of real \(4 JPEG\) and fake \(4 PNG\) images differ"):
        data = opened(disk)
    assert [note.split(" of real")[0] for note in data.notes] == ["the file formats", "the image sizes"]


def test_different_sizes_of_the_classes_are_a_warning(disk):
    for number in range(4):
        disk.image(f"nature/{number}.png", size=(20 + number, 30))
        disk.image(f"ai/{number}.png", size=(32, 32))
    with pytest.warns(ProbeWarning, match=r"the image sizes of real .*4 32x32\) images differ"):
        opened(disk)


def test_a_small_difference_is_no_warning(disk):
    for number in range(8):
        disk.image(f"nature/{number}.png")
        disk.image(f"ai/{number}.{'png' if number else 'jpg'}")
    assert format_confounds(opened(disk)) == ()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["pictures/1.png"], r"folders named by their class, but found none; .*1 x no folder above"),
        (["real/1.png"], "found 1 real and 0 fake images"),
        (["real/notes.txt"], "expected images below .* but found none"),
    ],
)
def test_folders_that_cannot_serve_say_why(disk, files, message):
    for file in files:
        if file.endswith(".png"):
            disk.image(file)
        else:
            (disk.root / file).parent.mkdir(parents=True)
            (disk.root / file).write_text("x")
    with pytest.raises(DataError, match=message):
        opened(disk)


def test_a_relative_path_starts_from_the_root(disk):
    disk.image("sub/real/1.png")
    disk.image("sub/fake/1.png")
    assert len(open_dataset("image-folder:sub", root=disk.root)) == 2


def test_a_path_that_is_no_folder_is_an_error(disk):
    with pytest.raises(DataError, match=r"to name a folder, but .* is none"):
        opened(disk)


def test_a_source_below_the_class_may_be_called_like_a_split(disk):
    for folder in ("test", "anna", "val"):
        disk.image(f"real/{folder}/1.png")
        disk.image(f"fake/{folder}/1.png")
    data = opened(disk)
    assert len(data) == 6
    assert set(data.records["source"]) >= {"real/test", "fake/val"}


def test_splits_may_lie_below_the_class(disk):
    for split in ("train", "test"):
        disk.image(f"real/{split}/1.png")
        disk.image(f"fake/{split}/1.png")
    assert len(opened(disk)) == len(opened(disk, split="test")) == 2
