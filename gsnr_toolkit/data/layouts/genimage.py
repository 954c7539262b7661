"""GenImage: eight generators, ``<generator>/{train,val}/{ai,nature}``, with any folders in between.

The archives unpack to names such as ``imagenet_ai_0419_sdv4``, and people rename them. A generator is therefore
recognised by any of its usual names, and the class by the leaf folder. Real images are mostly JPEG of many sizes,
fakes PNG of one size: this is measured on the files and reported.

Source: Zhu et al., GenImage (NeurIPS 2023).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gsnr_toolkit.data.base import FAKE, REAL
from gsnr_toolkit.data.checks import DataError, refuse_missing
from gsnr_toolkit.data.layouts.confounds import jpeg_share_note, note_confounds
from gsnr_toolkit.data.layouts.image_files import FileDataset, Skips, Video, natural_key, open_videos, walk_images

__all__ = ["GENERATORS", "TREE", "generator_of", "open_genimage"]

#: The generators in the order of the published tables, with the names of their folders: lower case, letters and
#: digits only, without the prefix of the archives.
GENERATORS = {
    "midjourney": ("midjourney", "mj"),
    "sdv14": ("sdv4", "sdv14", "sd14", "stablediffusionv4", "stablediffusionv14", "stablediffusion14"),
    "sdv15": ("sdv5", "sdv15", "sd15", "stablediffusionv5", "stablediffusionv15", "stablediffusion15"),
    "adm": ("adm",),
    "glide": ("glide",),
    "wukong": ("wukong",),
    "vqdm": ("vqdm",),
    "biggan": ("biggan",),
}

TREE = """\
ROOT[/GenImage]/<generator>/[...]/{train,val}/{ai,nature}/*.{png,JPEG}
<generator>: Midjourney, stable_diffusion_v_1_4 (sdv4), stable_diffusion_v_1_5 (sdv5), ADM, GLIDE, Wukong, VQDM, BigGAN,
or the archives' own names such as imagenet_ai_0419_sdv4"""

_LEAVES = {"nature": REAL, "ai": FAKE}
# The folder val is what GenImage's tables call the testing set.
_FOLDERS = {"train": "train", "test": "val"}
_PREFIX = re.compile(r"^imagenet(ai)?(\d{4})?")


def generator_of(folder: str) -> str | None:
    """Recognise the generator that a folder is named after.

    Args:
        folder: Name of a folder.

    Returns:
        A key of :data:`GENERATORS`, or None.

    >>> generator_of("imagenet_ai_0419_sdv4"), generator_of("Stable Diffusion V1.5"), generator_of("images")
    ('sdv14', 'sdv15', None)
    """
    plain = re.sub(r"[^a-z0-9]", "", folder.lower())
    plain = _PREFIX.sub("", plain)
    return next((key for key, names in GENERATORS.items() if plain in names), None)


def open_genimage(name: str, *, root: Path, split: str, generator: str | None = None, **options: Any) -> FileDataset:
    """Open one generator of GenImage, or all of them.

    Args:
        name: The data set's name here.
        root: The folder of the data.
        split: ``"train"``, or ``"test"``, which is the folder ``val``. GenImage has no third part for model selection.
        generator: A key of :data:`GENERATORS`, or None for all that exist on disk.
        **options: As in :func:`gsnr_toolkit.data.layouts.image_files.open_videos`.

    Returns:
        The data set. Every image has its own source; ``domain`` is the generator, for real images too. The notes
        report the share of JPEG files in each class. Differences in format or size are added to them, and cause a
        warning.

    Raises:
        DataError: If a folder or a class is missing, or the split is ``"val"``.
    """
    if split not in _FOLDERS:
        raise DataError(
            f"expected split='train' or split='test' of GenImage, got {split!r}; its folder val is the test set: open "
            "it with split='test', and hold out a part of split='train' to select models on"
        )
    top = root / "GenImage" if (root / "GenImage").is_dir() else root
    skips = Skips()
    by_generator: dict[str, list[Video]] = {}
    for key, label, file in _scan(top, split, generator, skips):
        source = file.relative_to(top).as_posix()
        method = "real" if label == REAL else key
        by_generator.setdefault(key, []).append(Video(source, label, source, method, [file], domain=key))
    wanted = tuple(GENERATORS) if generator is None else (generator,)
    _require_classes(top, split, wanted, by_generator, skips)
    videos = [video for key in wanted for video in by_generator.get(key, [])]
    caption = "GenImage" + (f" {generator}" if generator else "")
    options.setdefault("frames_per_video", None)  # every image stands for itself
    dataset = open_videos(name, videos, skips, split=split, caption=caption, **options)
    dataset.notes += (jpeg_share_note(dataset),)
    note_confounds(name, dataset)
    return dataset


def _require_classes(
    top: Path, split: str, wanted: tuple[str, ...], found: dict[str, list[Video]], skips: Skips
) -> None:
    """Note missing generators; it is an error if all are missing, or if one has images of a single class."""
    if not any(key in found for key in wanted):
        folder = f"{_FOLDERS[split]}/ai"
        refuse_missing(f"images of {', '.join(wanted)} in a folder {folder}", f"none lies below {top}", TREE)
    for key in wanted:
        labels = {video.label for video in found.get(key, [])}
        if not labels:
            skips.add(key, "generator not on disk")
        elif labels != {REAL, FAKE}:
            leaf = "nature" if REAL not in labels else "ai"
            folder = f"{_FOLDERS[split]}/{leaf}"
            refuse_missing(f"images of both classes of {key}", f"its folder {folder} below {top} has none", TREE)


def _scan(top: Path, split: str, generator: str | None, skips: Skips) -> Iterator[tuple[str, int, Path]]:
    """Yield ``(generator, label, file)`` of the images of a split; ``top`` may be the folder of one generator."""
    own = generator_of(top.name)
    for folder, subfolders, images in walk_images(top, skips):
        parts = folder.relative_to(top).parts
        key = next((found for found in map(generator_of, parts) if found), own)
        if generator is not None and key is not None and key != generator:
            subfolders.clear()  # another generator's tree may hold hundreds of thousands of files
            continue
        leaf = parts[-1].lower() if parts else ""
        if leaf not in _LEAVES or key is None or _FOLDERS[split] not in (part.lower() for part in parts[:-1]):
            continue
        files = sorted((folder / image for image in images), key=natural_key)
        yield from ((key, _LEAVES[leaf], file) for file in files)
