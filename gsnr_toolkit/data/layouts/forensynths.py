"""The 19 test sets of UniversalFakeDetect: eleven generators of ForenSynths, and eight sets of diffusion models.

The layout is ``<generator>/[<class>/]{0_real,1_fake}``. The diffusion sets hold fakes only and share their real
images: ImageNet for ``guided``, LAION for the others. The protocol crops the central 224 pixels without resizing and
normalises as CLIP does.

Source: Wang et al., CNN-generated images are surprisingly easy to spot (CVPR 2020); Ojha et al., Towards universal
fake image detectors (CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gsnr_toolkit.data.base import FAKE, REAL
from gsnr_toolkit.data.checks import DataError, refuse_missing
from gsnr_toolkit.data.layouts.confounds import jpeg_share_note
from gsnr_toolkit.data.layouts.image_files import FileDataset, Skips, Video, natural_key, open_videos, walk_images

__all__ = ["GENERATORS", "SHARED_REAL", "TREE", "open_forensynths"]

#: The real images of the diffusion sets.
SHARED_REAL = {
    "guided": "imagenet",
    **dict.fromkeys(
        ("ldm_200", "ldm_200_cfg", "ldm_100", "glide_100_27", "glide_50_27", "glide_100_10", "dalle"), "laion"
    ),
}

#: The 19 test sets in the order of the published tables.
GENERATORS = (
    *("progan", "cyclegan", "biggan", "stylegan", "gaugan", "stargan", "deepfake", "seeingdark", "san", "crn", "imle"),
    *SHARED_REAL,
)

TREE = """\
ROOT[/test]/progan/[airplane/]{0_real,1_fake}/*.png         ForenSynths: progan, cyclegan, ..., imle
ROOT[/diffusion_datasets]/ldm_200/1_fake/*.png              guided, ldm_*, glide_*, dalle
ROOT[/diffusion_datasets]/{laion,imagenet}/0_real/*.jpg     their real images (imagenet: guided only)"""

_TEST_PLACES = ("test", "datasets/test", "diffusion_datasets", "datasets/diffusion_datasets", ".")
_TRAINED = "progan"
_LEAVES = {REAL: "0_real", FAKE: "1_fake"}


def open_forensynths(
    name: str, *, root: Path, split: str, generator: str | None = None, fit: str = "crop", **options: Any
) -> FileDataset:
    """Open one of the test sets, or all 19.

    Args:
        name: The data set's name here.
        root: The folder of the data.
        split: ``"test"``; for ProGAN also ``"train"`` and ``"val"``, its folders of those names.
        generator: One of :data:`GENERATORS`, or None for all that exist on disk.
        fit: As in :func:`gsnr_toolkit.data.transforms.fit_square`; the protocol prescribes ``"crop"``.
        **options: As in :func:`gsnr_toolkit.data.layouts.image_files.open_videos`.

    Returns:
        The data set. Every image has its own source; a real image that several generators share occurs once for
        each of them, with one source. ``domain`` is the generator, for real images too. The notes report the share
        of JPEG files in each class.

    Raises:
        DataError: If a folder is missing, or the split does not exist.
    """
    if split != "test" and generator != _TRAINED:
        raise DataError(
            f"expected split='test' for {name}, which is a test set, got {split!r}; train and select models on ProGAN, "
            f"as the protocol prescribes: open 'ufd-progan' with split={split!r}"
        )
    skips = Skips()
    videos: list[Video] = []
    for each in GENERATORS if generator is None else (generator,):
        if generator is None and _find(root, each, split, FAKE) is None:
            skips.add(each, "generator not on disk")
            continue
        videos += _images(root, each, split, skips)
    if not videos:
        refuse_missing(f"generators of {name}", f"{root} holds none", TREE)
    caption = "UniversalFakeDetect" + (f" {generator}" if generator else "")
    options.setdefault("frames_per_video", None)  # every image stands for itself
    dataset = open_videos(name, videos, skips, split=split, caption=caption, fit=fit, **options)
    dataset.notes += (jpeg_share_note(dataset),)
    return dataset


def _places(root: Path, folder: str, split: str) -> Iterator[Path]:
    if split != "test":
        yield from (root / split / folder, root / "datasets" / split / folder, root / f"{folder}_{split}")
        return
    for place in _TEST_PLACES:
        yield root / place / folder


def _find(root: Path, folder: str, split: str, label: int) -> Path | None:
    """Return the first place that holds the class's leaf folder, directly or below a folder of one object class."""
    for place in _places(root, folder, split):
        if (place / _LEAVES[label]).is_dir() or any(place.glob(f"*/{_LEAVES[label]}")):
            return place
    return None


def _images(root: Path, generator: str, split: str, skips: Skips) -> list[Video]:
    folders = {REAL: SHARED_REAL.get(generator, generator), FAKE: generator}
    found: list[Video] = []
    for label, folder in folders.items():
        place = _find(root, folder, split, label)
        word = _LEAVES[label]
        if place is None:
            tried = ", ".join(str(path / word) for path in _places(root, folder, split))
            shared = f" (its real images are those of {folder})" if folder != generator else ""
            refuse_missing(f"a folder {word} of {generator}{shared}", f"it is in none of {tried}", TREE)
        files = sorted(_files(place, word, skips), key=lambda path: (path.parent, natural_key(path)))
        if not files:
            raise DataError(
                f"{generator}, split {split!r}: expected images in the folders {word} of {place}, but they are empty; "
                "copy the images again"
            )
        below = place.relative_to(root).as_posix()
        for file in files:
            source = f"{below}/{file.relative_to(place).as_posix()}"
            method = "real" if label == REAL else generator
            found.append(Video(f"{generator}/{source}", label, source, method, [file], domain=generator))
    return found


def _files(place: Path, leaf: str, skips: Skips) -> Iterator[Path]:
    leaves = [place / leaf] if (place / leaf).is_dir() else sorted(place.glob(f"*/{leaf}"))
    for folder in leaves:
        for parent, _, names in walk_images(folder, skips):
            yield from (parent / file for file in names)
