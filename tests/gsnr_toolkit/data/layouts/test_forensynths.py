import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.layouts.forensynths import GENERATORS, SHARED_REAL
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD
from gsnr_toolkit.errors import ProbeWarning


@pytest.fixture
def write(disk):
    """All 19 sets, two images of each class; ProGAN and CycleGAN with classes of objects."""

    def write(test="test", diffusion="diffusion_datasets"):
        for number, generator in enumerate(each for each in GENERATORS if each not in SHARED_REAL):
            for kind in ("airplane/", "cat/") if generator in ("progan", "cyclegan") else ("",):
                for k in range(2 if kind == "" else 1):
                    disk.image(f"{test}/{generator}/{kind}0_real/img.{k}.5.png", value=2 * number + k)
                    disk.image(f"{test}/{generator}/{kind}1_fake/img.{k}.5.png", value=80 + 2 * number + k)
        for k in range(2):
            for real in ("laion", "imagenet"):
                disk.image(f"{diffusion}/{real}/0_real/{k}.jpg", value=40 + k)
            for generator in SHARED_REAL:
                disk.image(f"{diffusion}/{generator}/1_fake/{k}.png", value=120 + k)
        return disk.root

    return write


@pytest.mark.parametrize("generator", GENERATORS)
def test_each_set_opens(write, generator):
    data = open_dataset(f"ufd-{generator}", root=write(), image_size=16)
    assert sorted(data.labels) == [0, 0, 1, 1]
    assert set(data.records["domain"]) == {generator}
    assert set(data.records["method"]) == {"real", generator}
    assert data.records["source"].is_unique
    folders = {path.parts[-3] for path in data.records["path"][data.labels == 0]}
    shared = {"guided": {"imagenet"}, "progan": {"airplane", "cat"}, "cyclegan": {"airplane", "cat"}}
    assert folders == shared.get(generator, {"laion"} if generator in SHARED_REAL else {generator})
    assert data[0][0].shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("test", "diffusion"), [(".", "."), ("datasets/test", "datasets/diffusion_datasets"), ("test", "test")]
)
def test_the_folders_may_lie_elsewhere(write, test, diffusion):
    assert len(open_dataset("ufd", root=write(test, diffusion))) == 19 * 4


def test_the_umbrella_holds_every_generator_with_its_real_images(write):
    data = open_dataset("ufd", root=write())
    table = data.records.groupby(["domain", "label"]).size().unstack()
    assert sorted(table.index) == sorted(GENERATORS)
    assert (table.to_numpy() == 2).all()
    assert data.caption == "UniversalFakeDetect"
    # One real picture is one source, for however many generators it stands.
    laion = data.records[data.records["path"].map(lambda path: "laion" in path.parts)]
    assert (len(laion), laion["source"].nunique()) == (14, 2)


def test_the_protocol_cuts_the_centre_and_does_not_resize(disk):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 260, 3)).astype(np.uint8)
    for leaf in ("0_real", "1_fake"):
        (disk.root / "test/san" / leaf).mkdir(parents=True)
        Image.fromarray(pixels).save(disk.root / "test/san" / leaf / "1.png")
    image, _ = open_dataset("ufd-san", root=disk.root)[0]
    centre = torch.from_numpy(pixels[38:262, 18:242].astype(np.float64) / 255).permute(2, 0, 1)
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    torch.testing.assert_close(image.double(), (centre - mean) / std, rtol=1e-5, atol=1e-5)


def test_the_share_of_jpeg_is_measured_by_the_files_content(disk, write):
    root = write()
    note = open_dataset("ufd-dalle", root=root).notes[-1]
    assert note.startswith("JPEG files: 100% of the real images (2 looked at), 0% of the fake ones (2): a detector")
    jpeg = root / "diffusion_datasets/dalle/1_fake/0.png"
    Image.open(jpeg).convert("RGB").save(jpeg, "JPEG")  # a wrong suffix
    assert "50% of the fake ones (2)" in open_dataset("ufd-dalle", root=root).notes[-1]
    assert open_dataset("ufd-san", root=root).notes == (
        "JPEG files: 0% of the real images (2 looked at), 0% of the fake ones (2)",
    )


@pytest.mark.parametrize("place", ["train/progan", "datasets/train/progan", "progan_train"])
def test_progan_has_a_training_set(disk, place):
    for leaf in ("0_real", "1_fake"):
        disk.image(f"{place}/car/{leaf}/1.png")
    data = open_dataset("ufd-progan", root=disk.root, split="train")
    assert (len(data), set(data.records["split"])) == (2, {"train"})


@pytest.mark.parametrize("name", ["ufd", "ufd-biggan"])
def test_the_others_are_test_sets(write, name):
    with pytest.raises(DataError, match=rf"split='test' for {name}, .* got 'train'; .*'ufd-progan' with split='train'"):
        open_dataset(name, root=write(), split="train")


def test_a_missing_generator_is_skipped_and_reported(write):
    root = write()
    shutil.rmtree(root / "test/biggan")
    with pytest.warns(ProbeWarning, match=r"ufd: skipped 1, kept 72\. 1 x generator not on disk \(first: biggan\)"):
        data = open_dataset("ufd", root=root)
    assert "biggan" not in set(data.records["domain"])


def test_truncated_images_are_skipped_and_reported(disk, write):
    root = write()
    disk.truncate("test/san/1_fake/img.0.5.png")
    with pytest.warns(ProbeWarning, match=r"ufd-san: skipped 1, kept 3\. 1 x broken image"):
        open_dataset("ufd-san", root=root)


@pytest.mark.parametrize(
    ("name", "remove", "message"),
    [
        (
            "ufd-dalle",
            "diffusion_datasets/laion",
            r"(?s)a folder 0_real of dalle \(its real images are those of laion\), but it is in none of",
        ),
        ("ufd", "diffusion_datasets/imagenet", r"a folder 0_real of guided \(its real images are those of imagenet"),
        ("ufd-san", "test/san/0_real", r"(?s)a folder 0_real of san, but it is in none of .*test/san/0_real.*arrange"),
        ("ufd-san", "test/san/1_fake", "a folder 1_fake of san"),
        ("ufd-san", "test/san/1_fake/*", "san, split 'test': expected images in the folders 1_fake of .*san, but"),
        ("ufd", "*", "(?s)generators of ufd, but .* holds none; arrange"),
    ],
)
def test_what_is_missing_is_named(write, name, remove, message):
    root = write()
    for path in list(root.glob(remove)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    with pytest.raises(DataError, match=message):
        open_dataset(name, root=root)
