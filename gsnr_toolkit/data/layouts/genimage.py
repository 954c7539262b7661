"""GenImage: eight generators, ``<generator>/{train,val}/{ai,nature}``, whatever folders lie between.

The archives unpack to names such as ``imagenet_ai_0419_sdv4``, and people rename them; a generator is therefore known
by any of its usual names, and the class by the leaf folder. Real images are mostly JPEG of many sizes, fakes PNG of
one size: the data set measures that on the files and says it.

Source: Zhu et al., GenImage (NeurIPS 2023).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gsnr_toolkit.data.base import FAKE, REAL, DataError
from gsnr_toolkit.data.layouts.confounds import format_confounds, jpeg_share_note
from gsnr_toolkit.data.layouts.image_files import IMAGE_SUFFIXES, FileDataset, Skips, Video, natural_key, open_videos
from gsnr_toolkit.errors import ProbeWarning

__all__ = ["GENERATORS", "TREE", "generator_of", "open_genimage"]

#: The generators in the order of the published tables, with the names that their folders bear: lower case,
#: letters and digits only, without the archives' prefix.
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
# GenImage's val folder is what its tables call the testing set.
_FOLDERS = {"train": "train", "test": "val"}
_PREFIX = re.compile(r"^imagenet(ai)?(\d{4})?")


def generator_of(folder: str) -> str | None:
    """Tell which generator a folder's name means.

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
        split: ``"train"``, or ``"test"``, which is the folder ``val``. There is no third part to select on.
        generator: A key of :data:`GENERATORS`, or None for all that are there.
        **options: As in :func:`gsnr_toolkit.data.layouts.image_files.open_videos`.

    Returns:
        The data set. Each image is a source of its own, ``domain`` is the generator, of real images as well. Its
        notes say how many files of either class are JPEG, and whether formats or sizes differ, which is a
        warning too.

    Raises:
        DataError: If a folder or a class is missing, or ``val`` is asked for.
    """
    if split not in _FOLDERS:
        raise DataError(
            f"the folder val of GenImage is its test set: open it with split='test', and hold out a part of "
            f"split='train' to select models on (asked for split={split!r})"
        )
    top = root / "GenImage" if (root / "GenImage").is_dir() else root
    skips = Skips()
    by_generator: dict[str, list[Video]] = {}
    for key, label, file in _scan(top, split, generator):
        source = file.relative_to(top).as_posix()
        method = "real" if label == REAL else key
        by_generator.setdefault(key, []).append(Video(source, label, source, method, [file], domain=key))
    wanted = tuple(GENERATORS) if generator is None else (generator,)
    _require_classes(top, split, wanted, by_generator, skips)
    videos = [video for key in wanted for video in by_generator.get(key, [])]
    options = {"caption": "GenImage" + (f" {generator}" if generator else ""), "frames_per_video": None, **options}
    dataset = open_videos(name, videos, skips, split=split, **options)
    confounds = format_confounds(dataset)
    dataset.notes += (jpeg_share_note(dataset), *confounds)
    if confounds:
        warnings.warn(f"{name}: {'; '.join(confounds)}", ProbeWarning, stacklevel=2)
    return dataset


def _require_classes(
    top: Path, split: str, wanted: tuple[str, ...], found: dict[str, list[Video]], skips: Skips
) -> None:
    """Note generators that are not there; one without images, or a lone class, is an error."""
    if not any(key in found for key in wanted):
        folder = _FOLDERS[split]
        raise DataError(f"no image of {', '.join(wanted)} lies in a folder {folder}/ai below {top}. Expected\n{TREE}")
    for key in wanted:
        labels = {video.label for video in found.get(key, [])}
        if not labels:
            skips.add(key, "generator not on disk")
        elif labels != {REAL, FAKE}:
            leaf = "nature" if REAL not in labels else "ai"
            raise DataError(
                f"{key}, split {split!r}: no image in its folder {_FOLDERS[split]}/{leaf} below {top}, but both "
                f"classes are needed. Expected\n{TREE}"
            )


def _scan(top: Path, split: str, generator: str | None) -> Iterator[tuple[str, int, Path]]:
    """Yield ``(generator, label, file)`` of the images of a split; ``top`` may be one generator's own folder."""
    seen: set[str] = set()  # links are followed, and may lead in circles
    own = generator_of(top.name)
    for folder, subfolders, files in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        parts = Path(folder).relative_to(top).parts
        key = next((found for found in map(generator_of, parts) if found), own)
        if generator is not None and key is not None and key != generator:
            subfolders.clear()
            continue
        leaf = parts[-1].lower() if parts else ""
        if leaf not in _LEAVES or key is None or _FOLDERS[split] not in (part.lower() for part in parts[:-1]):
            continue
        images = sorted((Path(f) for f in files if Path(f).suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
        yield from ((key, _LEAVES[leaf], Path(folder) / image) for image in images)
