import os
import shutil
import warnings

import pytest

from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.layouts.genimage import GENERATORS, generator_of
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.errors import ProbeWarning

FOLDERS = {
    "midjourney": "Midjourney/imagenet_midjourney",
    "sdv14": "stable_diffusion_v_1_4/imagenet_ai_0419_sdv4",
    "sdv15": "Stable Diffusion V1.5",
    "adm": "imagenet_ai_0508_adm",
    "glide": "GLIDE",
    "wukong": "Wukong",
    "vqdm": "VQDM/imagenet_ai_0419_vqdm",
    "biggan": "BigGAN",
}


@pytest.fixture
def write(disk):
    """Two images of each class, generator and split: JPEG of several sizes and PNG of one, unless ``same``."""

    def write(top="GenImage", generators=tuple(GENERATORS), same=False):
        for number, generator in enumerate(generators):
            for split in ("train", "val"):
                folder = f"{top}/{FOLDERS[generator]}/{split}"
                for k in range(2):
                    size = (32, 32) if same else (30 + k + 2 * number, 28)
                    disk.image(f"{folder}/nature/n{k}.{'png' if same else 'JPEG'}", value=number + k, size=size)
                    disk.image(f"{folder}/ai/0.{k}_x.png", value=90 + number + k, size=(32, 32))
        return disk.root

    return write


@pytest.mark.parametrize(
    ("folder", "generator"),
    [
        *((name.split("/")[0], key) for key, name in FOLDERS.items()),
        *((name.split("/")[-1], key) for key, name in FOLDERS.items()),
        ("imagenet_glide", "glide"),
        ("SDv1.4", "sdv14"),
        ("imagenet_ai_0424_wukong", "wukong"),
        ("imagenet_ai_0424_sdv5", "sdv15"),
        ("imagenet", None),
        ("biggan2", None),
        ("train", None),
    ],
)
def test_a_generator_is_known_by_its_usual_names(folder, generator):
    assert generator_of(folder) == generator


@pytest.mark.parametrize("top", ["GenImage", "."])
@pytest.mark.parametrize("generator", list(GENERATORS))
def test_each_generator_opens_and_its_folder_val_is_the_test_set(write, top, generator):
    data = open_dataset(f"genimage-{generator}", root=write(top, same=True))
    assert sorted(data.labels) == [0, 0, 1, 1]
    assert set(data.records["domain"]) == {generator}
    assert set(data.records["method"]) == {"real", generator}
    assert set(data.records["split"]) == {"test"}
    parts = [path.parts for path in data.records["path"]]
    assert all("val" in each for each in parts)
    assert [each[-2] for each in parts] == [("nature", "ai")[label] for label in data.labels]
    assert data[0][0].shape == (3, 224, 224)


def test_the_root_may_be_the_generators_own_folder(write):
    root = write(same=True)
    assert len(open_dataset("genimage-glide", root=root / "GenImage" / "GLIDE")) == 4


def test_the_umbrella_holds_every_generator(write):
    data = open_dataset("genimage", root=write(same=True), split="train")
    table = data.records.groupby(["domain", "label"]).size().unstack()
    assert sorted(table.index) == sorted(GENERATORS)
    assert (table.to_numpy() == 2).all()
    assert data.records["source"].is_unique
    assert all("train" in path.parts for path in data.records["path"])


def test_the_confound_of_jpeg_and_png_is_measured_and_told(write):
    with pytest.warns(ProbeWarning, match=r"genimage-adm: the file formats of real \(2 JPEG\) and fake \(2 PNG\)"):
        data = open_dataset("genimage-adm", root=write())
    assert data.notes[0] == (
        "JPEG files: 100% of the real images (2 looked at), 0% of the fake ones (2): a detector of JPEG traces alone "
        "would separate the classes. Compare with both saved in the same way before drawing conclusions"
    )
    assert [note.split(" of real")[0] for note in data.notes[1:]] == ["the file formats", "the image sizes"]


def test_without_the_confound_there_is_no_warning(write):
    root = write(same=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = open_dataset("genimage", root=root)
    assert data.notes == ("JPEG files: 0% of the real images (16 looked at), 0% of the fake ones (16)",)


def test_a_missing_generator_is_skipped_and_reported(write):
    with pytest.warns(ProbeWarning, match=r"genimage: skipped 6, kept 8\. 6 x generator not on disk"):
        data = open_dataset("genimage", root=write(generators=("glide", "wukong"), same=True))
    assert set(data.records["domain"]) == {"glide", "wukong"}


def test_truncated_images_are_skipped_and_reported(disk, write):
    root = write(same=True)
    disk.truncate("GenImage/GLIDE/val/ai/0.1_x.png")
    with pytest.warns(ProbeWarning, match=r"skipped 1, kept 3\. 1 x broken image"):
        open_dataset("genimage-glide", root=root)


def test_links_in_circles_are_walked_once(write):
    root = write(same=True)
    os.symlink(root / "GenImage", root / "GenImage" / "GLIDE" / "val" / "again")
    assert len(open_dataset("genimage-glide", root=root)) == 4


def test_there_is_no_third_part_to_select_on(write):
    with pytest.raises(DataError, match="got 'val'; its folder val is the test set: open it with split='test'"):
        open_dataset("genimage", root=write(same=True), split="val")


@pytest.mark.parametrize(
    ("name", "remove", "message"),
    [
        ("genimage-glide", "GLIDE/val/nature", "both classes of glide, but its folder val/nature below"),
        ("genimage", "GLIDE/val/ai", "both classes of glide, but its folder val/ai below"),
        ("genimage-glide", "GLIDE", "(?s)images of glide in a folder val/ai, but none lies below .*arrange"),
        ("genimage-glide", "GLIDE/val", "images of glide in a folder val/ai, but none lies below"),
        ("genimage", "*", "images of midjourney, sdv14, .* in a folder val/ai, but none lies below"),
    ],
)
def test_what_is_missing_is_named(write, name, remove, message):
    root = write(same=True)
    for folder in list((root / "GenImage").glob(remove)):
        shutil.rmtree(folder)
    with pytest.raises(DataError, match=message):
        open_dataset(name, root=root)
