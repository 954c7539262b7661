"""Pretrained weights as files: find them in the cache, fetch them, read them, and say clearly why not."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.lookup import did_you_mean

__all__ = [
    "WeightsError",
    "find_tag",
    "load_into",
    "looks_like_path",
    "read_state_dict",
    "sha256",
    "tag_config",
]

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

#: What the names of a visual tower may be preceded by: CLIP itself, wrappers of it, and our own Detector.
_PREFIXES = ("visual.", "module.visual.", "model.visual.", "encoder.", "module.encoder.", "module.", "")

_TIMEOUT_SECONDS = 10.0


class WeightsError(ProbeError):
    """Weights that are not there, or do not fit the model."""


def looks_like_path(weights: str) -> bool:
    """Tell a path from a tag: it has a slash or a weight file's ending, or is an existing file.

    Args:
        weights: What the user gave.

    Returns:
        Whether it is a path.

    >>> looks_like_path("openai"), looks_like_path("clip.safetensors"), looks_like_path("~/clip")
    (False, True, True)
    """
    return "/" in weights or "\\" in weights or weights.endswith(SUFFIXES) or Path(weights).is_file()


def sha256(path: Path) -> str:
    """Compute a file's SHA-256.

    Args:
        path: The file.

    Returns:
        The digest in hexadecimal.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tag_config(architecture: str, tag: str) -> Mapping[str, Any]:
    """Look up what open_clip knows about a tag: where its file is, its activation and its normalisation.

    Args:
        architecture: The name of open_clip's configuration, such as ``"ViT-L-14"``.
        tag: The tag, such as ``"openai"``.

    Returns:
        Keys ``hf_hub``, ``url``, ``mean``, ``std`` and perhaps ``quick_gelu``.

    Raises:
        WeightsError: If the architecture has no such tag.
    """
    from open_clip import pretrained

    config = pretrained.get_pretrained_cfg(architecture, tag)
    if not config:
        tags = pretrained.list_pretrained_tags_by_model(architecture)
        raise WeightsError(
            f"{architecture} has no weights with the tag {tag!r}.{did_you_mean(tag, tags)} Tags: "
            f"{', '.join(tags)}. Or give the path of a file, or 'random'"
        )
    return config


@dataclass(frozen=True)
class _Remote:
    """Where the file of a tag is: on the Hugging Face hub, under one of several names, the best first."""

    repository: str
    names: tuple[str, ...]
    legacy: str  # name in open_clip's older cache

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _Remote:
        repository, _, name = str(config.get("hf_hub", "")).rpartition("/")
        legacy = str(config.get("url", "")).rpartition("/")[2]
        if not name:
            return cls(repository, ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"), legacy)
        safe = Path(name).with_suffix(".safetensors").name
        return cls(repository, tuple(dict.fromkeys((safe, name))), legacy)

    def cached(self) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        for name in self.names:
            found = try_to_load_from_cache(self.repository, name)
            if isinstance(found, str):
                return Path(found)
        old = Path("~/.cache/clip").expanduser() / self.legacy
        return old if self.legacy and old.is_file() else None

    def fetch(self) -> Path:
        # One short request shows whether the hub answers, before anything long is begun.
        import huggingface_hub as hub
        from huggingface_hub.errors import EntryNotFoundError

        for name in self.names:
            try:
                hub.get_hf_file_metadata(hub.hf_hub_url(self.repository, name), timeout=_TIMEOUT_SECONDS)
            except EntryNotFoundError:
                continue
            return Path(hub.hf_hub_download(self.repository, name))
        raise FileNotFoundError(f"{self.repository} has none of {', '.join(self.names)}")


def find_tag(model: str, architecture: str, tag: str) -> Path:
    """Find the file of a tag: in the cache, else by downloading it.

    The cache is looked at before anything is asked of the network, and without a network the error comes
    after seconds, not minutes. ``HF_HUB_OFFLINE=1`` forbids asking at all.

    Args:
        model: The model's name, for the message.
        architecture: The name of open_clip's configuration.
        tag: The tag.

    Returns:
        The path of the file.

    Raises:
        WeightsError: If it is neither cached nor can be downloaded; the message names the file.
    """
    from huggingface_hub import constants

    remote = _Remote.of(tag_config(architecture, tag))
    cached = remote.cached()
    if cached is not None:
        return cached
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            return remote.fetch()
        except Exception as error:  # the hub's client raises errors of several libraries
            reason = f"{type(error).__name__}: {_first_line(error)}"
    raise WeightsError(
        f"{model} needs the weights {tag!r}: the file {remote.names[0]} of {remote.repository}. It is not in "
        f"the cache ({constants.HF_HUB_CACHE}) and cannot be downloaded ({reason}).\n"
        "On a machine with network run\n"
        f"    hf download {remote.repository} {remote.names[0]} --local-dir .\n"
        "and pass the file as weights=PATH (--weights PATH on the command line); or pass weights='random' "
        "(--weights random) for an untrained encoder"
    )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file, on the CPU.

    Pickled files are read with ``weights_only=True``, which runs no code of theirs. OpenAI's own files are
    TorchScript archives; their state dict is taken out.

    Args:
        path: A ``.safetensors`` file, or one written by ``torch.save``.

    Returns:
        Tensors by name; the keys ``state_dict`` and ``model`` of a training checkpoint are looked into.

    Raises:
        WeightsError: If the file is missing, broken, or holds no state dict.
    """
    if not path.is_file():
        raise WeightsError(f"the weights file {path} does not exist: check the path given as weights")
    try:
        content = _read(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"cannot read {path} as weights: it is either no file of torch.save, or one of whole objects instead "
            "of tensors; write it with torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # safetensors, zipfile, pickle and torch each raise errors of their own
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise WeightsError(f"cannot read {path} as weights: {reason}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds no state dict, but an object of type {type(content).__name__}")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(TorchScript|torch.jit)")  # expected, see below
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except RuntimeError as error:
            if "TorchScript" not in str(error):
                raise
            return torch.jit.load(path, map_location="cpu").state_dict()


def load_into(encoder: nn.Module, state: Mapping[str, Tensor], origin: str) -> str:
    """Load the visual tower's part of a state dict, in the tower's own dtype, and insist that all of it fits.

    Args:
        encoder: The visual tower; it is changed in place.
        state: A whole CLIP model's state dict, a visual tower's, or a Detector's.
        origin: Where it comes from, for messages.

    Returns:
        The prefix under which the tower's tensors were found.

    Raises:
        WeightsError: If tensors are missing, left over (below that prefix), or of another shape.
    """
    wanted = encoder.state_dict()
    prefix = max(_PREFIXES, key=lambda candidate: len(_under(candidate, state).keys() & wanted.keys()))
    found = _under(prefix, state)
    if not found.keys() & wanted.keys():
        raise WeightsError(
            f"{origin} holds no visual tower of open_clip: expected names such as "
            f"{_some('visual.' + name for name in wanted)}, but it has {_some(state)}."
            f"{_hint_for_transformers(state)}"
        )
    missing = wanted.keys() - found.keys()
    unexpected = found.keys() - wanted.keys() if prefix else set()
    if missing or unexpected:
        raise WeightsError(
            f"{origin} does not fit the visual tower: {len(missing)} tensors missing "
            f"({_some(sorted(missing))}), {len(unexpected)} unexpected ({_some(sorted(unexpected))}). "
            "Is it another architecture?"
        )
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise WeightsError(
                f"{origin} does not fit the visual tower: {name} has shape {tuple(found[name].shape)}, "
                f"but the model needs {tuple(tensor.shape)}. Is it another architecture or image size?"
            )
    encoder.load_state_dict({name: found[name].to(tensor.dtype) for name, tensor in wanted.items()})
    return prefix


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def _some(names: Iterable[str], count: int = 3) -> str:
    listed: Collection[str] = list(names)
    return ", ".join(list(listed)[:count]) + (", ..." if len(listed) > count else "") if listed else "none"


def _hint_for_transformers(state: Mapping[str, Tensor]) -> str:
    if not any("vision_model." in name for name in state):
        return ""
    return " These are the names of Hugging Face transformers: use open_clip's file of the same model"
