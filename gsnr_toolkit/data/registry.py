"""Data sets by name: embedded families, forged faces and generated images on disk, and the user's own."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsnr_toolkit.data.checks import DataError, check_choice, refuse_missing
from gsnr_toolkit.support.arguments import NAME, PATH, SEED, WHOLE, Kind, check_arguments, optional
from gsnr_toolkit.support.lookup import Registry, call_with_known, is_target, load_target

if TYPE_CHECKING:
    from gsnr_toolkit.data.base import ForgeryDataset

__all__ = ["DATASETS", "ROOT_VARIABLE", "SPLITS", "DatasetInfo", "open_dataset"]

#: The environment variable that gives ``root`` where the argument is left out.
ROOT_VARIABLE = "GSNR_DATA"

SPLITS = ("train", "val", "test")

_FOLDER = "image-folder"


@dataclass(frozen=True)
class DatasetInfo:
    """A data set that can be opened by name.

    Attributes:
        description: One line on what it is.
        target: ``"module:function"`` that opens it; the module's ``TREE`` is the expected folder tree.
        fixed: Arguments of that function that this row sets.
        on_disk: Whether the data must be on the user's disk, so that a root is needed.
        kind: Heading under which it is listed.
        split: The default split.
        image_size: The default side of the images, in pixels.
    """

    description: str
    target: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    on_disk: bool = True
    kind: str = "FaceForensics++"
    split: str = "train"
    image_size: int = 64


_DATA = "gsnr_toolkit.data"


def _demo(family: str, description: str, split: str = "train") -> DatasetInfo:
    fixed = {"family": family.removeprefix("demo-")}
    return DatasetInfo(description, f"{_DATA}.demo.dataset:open_demo", fixed, False, "embedded faces", split)


def _ff(name: str, description: str) -> DatasetInfo:
    return DatasetInfo(description, f"{_DATA}.layouts.faceforensics:open_faceforensics", {"name": name})


def _listed(
    name: str, list_name: str, description: str, opener: str = "deepfakebench:open_deepfakebench", **changes: Any
) -> DatasetInfo:
    return DatasetInfo(description, f"{_DATA}.layouts.{opener}", {"name": name, "list_name": list_name}, **changes)


_TEST_FACES: dict[str, Any] = {"kind": "forged faces to test on", "split": "test"}
_CELEBDF: dict[str, Any] = {"opener": "celebdf:open_celebdf", **_TEST_FACES}


def _generated(prefix: str, opener: str, kind: str, texts: Mapping[str | None, str]) -> dict[str, DatasetInfo]:
    """Return the rows of generated images: one for each generator and one (None) for all."""
    names = {generator: f"{prefix}-{generator}" if generator else prefix for generator in texts}
    common: dict[str, Any] = {"kind": f"generated images: {kind}", "split": "test", "image_size": 224}
    return {
        name: DatasetInfo(
            texts[generator], f"{_DATA}.layouts.{opener}", {"name": name, "generator": generator}, **common
        )
        for generator, name in names.items()
    }


_UFD: dict[str | None, str] = {
    None: "all 19 test sets, one domain each",
    "progan": "ProGAN, 20 classes; also train and val",
    "cyclegan": "CycleGAN",
    "biggan": "BigGAN",
    "stylegan": "StyleGAN",
    "gaugan": "GauGAN",
    "stargan": "StarGAN",
    "deepfake": "face swaps",
    "seeingdark": "SITD: low light to daylight",
    "san": "SAN: super-resolution",
    "crn": "CRN: layout to image",
    "imle": "IMLE: layout to image",
    "guided": "guided diffusion (ADM)",
    "ldm_200": "latent diffusion, 200 steps",
    "ldm_200_cfg": "latent diffusion, 200 steps, classifier-free guidance",
    "ldm_100": "latent diffusion, 100 steps",
    "glide_100_27": "GLIDE, 100 and 27 steps",
    "glide_50_27": "GLIDE, 50 and 27 steps",
    "glide_100_10": "GLIDE, 100 and 10 steps",
    "dalle": "DALL-E mini",
}
_GENIMAGE: dict[str | None, str] = {
    None: "all 8 generators, one domain each",
    "midjourney": "Midjourney",
    "sdv14": "Stable Diffusion 1.4",
    "sdv15": "Stable Diffusion 1.5",
    "adm": "ADM",
    "glide": "GLIDE",
    "wukong": "Wukong",
    "vqdm": "VQDM",
    "biggan": "BigGAN",
}

DATASETS: Registry[DatasetInfo] = Registry(
    "data set",
    {
        "demo-df": _demo("demo-df", "identity swap of the inner face with a soft blend"),
        "demo-fs": _demo("demo-fs", "warped donor face with a hard mask and a colour mismatch"),
        "demo-f2f": _demo("demo-f2f", "same identity with a changed expression"),
        "demo-nt": _demo("demo-nt", "only the mouth region re-rendered: nearly non-semantic"),
        "demo-cdf": _demo("demo-cdf", "other people and camera, finer identity swap: to test on", "test"),
        "demo-dfdc": _demo("demo-dfdc", "the four forgeries mixed, resized and compressed hard: to test on", "test"),
        "demo-gan": _demo("demo-gan", "whole image with a GAN's checkerboard: to test on", "test"),
        "demo-diff": _demo("demo-diff", "whole image, smooth, with a latent decoder's blocks: to test on", "test"),
        "df": _ff("df", "Deepfakes"),
        "fs": _ff("fs", "FaceSwap"),
        "f2f": _ff("f2f", "Face2Face"),
        "nt": _ff("nt", "NeuralTextures"),
        "ff": _ff("ff", "all four manipulations"),
        "faceshifter": _listed("faceshifter", "FaceShifter", "FaceShifter on the same originals"),
        "dfd": _listed("dfd", "DeepFakeDetection", "DeepFakeDetection (Google's actors)", **_TEST_FACES),
        "celebdf-v1": _listed("celebdf-v1", "Celeb-DF-v1", "Celeb-DF v1, 100 test videos", **_CELEBDF),
        "celebdf-v2": _listed("celebdf-v2", "Celeb-DF-v2", "Celeb-DF v2, 518 test videos", **_CELEBDF),
        "dfdc": _listed("dfdc", "DFDC", "Deepfake Detection Challenge", **_TEST_FACES),
        "dfdcp": _listed("dfdcp", "DFDCP", "Deepfake Detection Challenge, preview", **_TEST_FACES),
        "deeperforensics": _listed("deeperforensics", "DeeperForensics-1.0", "DeeperForensics-1.0", **_TEST_FACES),
        "ffiw": _listed("ffiw", "FFIW", "Face Forensics in the Wild", **_TEST_FACES),
        "uadfv": _listed("uadfv", "UADFV", "UADFV, 49 + 49 videos", **_TEST_FACES),
        **_generated("ufd", "forensynths:open_forensynths", "UniversalFakeDetect and ForenSynths", _UFD),
        **_generated("genimage", "genimage:open_genimage", "GenImage", _GENIMAGE),
    },
    hint="Or image-folder:PATH for folders real/ and fake/, or module:function for your own data.",
)


_SIDE = Kind(
    "a positive number of pixels",
    lambda value: value is None or (isinstance(value, Integral) and int(value) > 0),
    "pass the model's image_size",
)
_CHANNELS = Kind(
    "three numbers, one per channel, or None",
    lambda values: (
        values is None
        or (isinstance(values, Sequence) and len(values) == 3 and all(isinstance(value, Real) for value in values))
    ),
    "leave it out for CLIP's",
)


def open_dataset(
    name: str,
    *,
    split: str | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    root: str | os.PathLike[str] | None = None,
    size: int | None = None,
    seed: int = 0,
    **options: Any,
) -> ForgeryDataset:
    """Open a data set by name.

    Args:
        name: One of :data:`DATASETS`, ``"image-folder:PATH"``, or ``"module:function"``: the user's own function,
            which returns a map-style data set of ``(image, label)``. It is called with those of the arguments
            below that are among its parameters (see :func:`gsnr_toolkit.data.own.wrap`).
        split: ``"train"``, ``"val"`` or ``"test"``. The default is ``"test"`` for data sets meant for testing only,
            and ``"train"`` for all others.
        image_size: Side of the images, in pixels; pass the model's ``image_size``. The default is 224 where the data
            set's protocol prescribes it, else 64.
        mean: Mean by channel for the normalisation; CLIP's by default.
        std: Standard deviation by channel for the normalisation; CLIP's by default.
        root: Folder of a data set on disk; by default the environment variable ``GSNR_DATA``. For
            ``image-folder:PATH`` the folder to which a relative PATH refers, by default the current folder.
        size: Maximum number of items, drawn class-balanced by ``seed``; all items by default.
        seed: Seed of everything random.
        **options: Further options of the data set: ``strength`` (embedded); ``compression``, ``layout``
            (FaceForensics++ and relatives); ``frames_per_video``, ``verify``, ``fit`` (anything on disk).

    Returns:
        The data set.

    Raises:
        DataError: If the data cannot be found, or do not have the expected form.
        UnknownNameError: If no data set has this name.

    >>> open_dataset("nt", root="/nowhere")
    Traceback (most recent call last):
    gsnr_toolkit.data.checks.DataError: expected the folder of 'nt', but '/nowhere' is not a folder; arrange ...
    """
    from gsnr_toolkit.data.transforms import CLIP_MEAN, CLIP_STD  # imports torch

    check_arguments(name=(name, NAME), split=(split, optional(NAME)), size=(size, optional(WHOLE)), seed=(seed, SEED))
    check_arguments(image_size=(image_size, _SIDE), mean=(mean, _CHANNELS), std=(std, _CHANNELS))
    check_arguments(root=(root, optional(PATH)))
    defaults = DATASETS.rows.get(name, DatasetInfo)
    split = defaults.split if split is None else split
    check_choice("split", split, SPLITS)
    if size is not None and size < 2:
        raise DataError(f"expected size to be at least 2, a real and a fake image, got {size}; leave it out for all")
    common: dict[str, Any] = {
        "split": split,
        "image_size": defaults.image_size if image_size is None else image_size,
        "mean": CLIP_MEAN if mean is None else tuple(mean),
        "std": CLIP_STD if std is None else tuple(std),
        "size": size,
        "seed": seed,
    }
    if is_target(name):
        return _open_own(name, {**common, "root": root}, options)
    if name == _FOLDER or name.startswith(f"{_FOLDER}:"):
        return _open_folder(name, root, common, options)
    info = DATASETS[name]
    if info.on_disk:
        common["root"] = _find_root(name, root)
    elif root is not None:
        raise DataError(
            f"expected no root for {name!r}, which is embedded in the package, got {str(root)!r}; leave root out"
        )
    return _call(name, info.target, {**info.fixed, **common}, options)


def _open_own(name: str, common: dict[str, Any], options: dict[str, Any]) -> ForgeryDataset:
    from gsnr_toolkit.data.own import wrap

    made = call_with_known(load_target(name), {**common, **options}, required=options)
    return wrap(made, name, common["split"])


def _open_folder(
    name: str, root: str | os.PathLike[str] | None, common: dict[str, Any], options: dict[str, Any]
) -> ForgeryDataset:
    path = name.partition(":")[2]
    if not path:
        raise DataError(f"expected image-folder:PATH, got {name!r}; put a path after the colon")
    folder = Path(root or ".").expanduser() / Path(path).expanduser()
    arguments = {"name": name, "path": folder, **common}
    return _call(name, "gsnr_toolkit.data.layouts.image_folder:open_image_folder", arguments, options)


#: Options that openers pass on to :func:`gsnr_toolkit.data.layouts.image_files.open_videos` without naming them.
_FILE_OPTIONS = ("frames_per_video", "verify", "fit")


def _call(name: str, target: str, arguments: dict[str, Any], options: dict[str, Any]) -> ForgeryDataset:
    # Openers pass **options on, where a misspelt option would end up in an unrelated signature: check it here.
    opener = load_target(target)
    parameters = inspect.signature(opener).parameters
    known = [key for key in parameters if key not in arguments and key != "options"]
    known += [key for key in _FILE_OPTIONS if "options" in parameters and key not in known]
    for key in options:
        check_choice(f"an option of {name!r}", key, known)
    return opener(**arguments, **options)


def _tree(name: str) -> str:
    info = DATASETS[name]
    tree: str = load_target(info.target.partition(":")[0] + ":TREE")
    list_name = info.fixed.get("list_name")
    return tree.replace("{list_name}", list_name) if list_name else tree


def _find_root(name: str, root: str | os.PathLike[str] | None) -> Path:
    given = root if root is not None else os.environ.get(ROOT_VARIABLE) or None
    if given is None:
        raise DataError(
            f"expected the folder of {name!r}, which is read from disk, but root is not given; pass root=... "
            f"(--data-root PATH on the command line), set the environment variable {ROOT_VARIABLE}, or open the "
            f"embedded 'demo-nt', which needs no folder. The folder has the form\n{_tree(name)}"
        )
    folder = Path(given).expanduser()
    if not folder.is_dir():
        origin = "" if root is not None else f" (from {ROOT_VARIABLE})"
        refuse_missing(f"the folder of {name!r}", f"{str(folder)!r}{origin} is not a folder", _tree(name))
    return folder
