"""Files of pretrained weights: find them in the cache, download, read and load them, with errors that say why not."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
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

#: Prefixes of the visual tower's tensors in state dicts of CLIP, of wrappers of it, and of our Detector.
_PREFIXES = ("visual.", "module.visual.", "model.visual.", "encoder.", "module.encoder.", "module.", "")

_TIMEOUT_SECONDS = 10.0


class WeightsError(ProbeError):
    """Weights that cannot be found, or do not fit the model."""


def looks_like_path(weights: str) -> bool:
    """Tell a path from a tag: a path has a slash or the suffix of a weights file, or is an existing file.

    Args:
        weights: The user's argument.

    Returns:
        True for a path.

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
    """Look up open_clip's record of a tag: the origin of its file, its activation and its normalisation.

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
            f"expected a tag of {architecture} ({', '.join(tags)}), got {tag!r}; choose one of these, or pass 'random' "
            f"or the path of a file.{did_you_mean(tag, tags)}"
        )
    return config


@dataclass(frozen=True)
class _Remote:
    """The file of a tag on the Hugging Face hub: its repository, and its possible names, the best first."""

    repository: str
    names: tuple[str, ...]
    legacy: str  # name in the cache of older versions of open_clip

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
        # A short request with a timeout shows whether the hub answers; the download itself could hang for minutes.
        import huggingface_hub as hub
        from huggingface_hub.errors import EntryNotFoundError

        for name in self.names:
            try:
                hub.get_hf_file_metadata(hub.hf_hub_url(self.repository, name), timeout=_TIMEOUT_SECONDS)
            except EntryNotFoundError:
                continue
            return Path(hub.hf_hub_download(self.repository, name))
        raise FileNotFoundError(
            f"expected {' or '.join(self.names)} in {self.repository}, but it has none of them; pass the path of a file"
        )


def find_tag(model: str, architecture: str, tag: str) -> Path:
    """Find the file of a tag in the cache, or download it.

    The network is used only if the file is not cached. Without a network the error comes after seconds rather than
    minutes. ``HF_HUB_OFFLINE=1`` forbids any request.

    Args:
        model: The model's name, for the message.
        architecture: The name of open_clip's configuration.
        tag: The tag.

    Returns:
        The path of the file.

    Raises:
        WeightsError: If the file is not cached and cannot be downloaded; the message names the file.
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
        f"expected the weights {tag!r} of {model}, but the file {remote.names[0]} of {remote.repository} is not in the "
        f"cache ({constants.HF_HUB_CACHE}) and cannot be downloaded ({reason}); on a machine with network run\n"
        f"    hf download {remote.repository} {remote.names[0]} --local-dir .\n"
        "and pass the file as weights=PATH (--weights PATH on the command line); or pass weights='random' "
        "(--weights random) for an untrained encoder"
    )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file, on the CPU.

    Pickled files are read with ``weights_only=True``, so that no code in them runs. OpenAI's files are TorchScript
    archives, from which the state dict is extracted.

    Args:
        path: A ``.safetensors`` file, or one written by ``torch.save``.

    Returns:
        Tensors by name. In a training checkpoint they are found under the key ``state_dict`` or ``model``.

    Raises:
        WeightsError: If the file is missing, broken, or holds no state dict.
    """
    if not path.is_file():
        raise WeightsError(f"expected a weights file at {path}, but there is none; check the path passed as weights")
    try:
        content = _read(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"expected a state dict in {path}, but it is no file of torch.save, or holds whole objects instead of "
            "tensors; write it with torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # safetensors, zipfile, pickle and torch have no common error type
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise WeightsError(f"expected a state dict in {path}, but {reason}; copy or download the file again") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(
            f"expected a state dict in {path}, got {type(content).__name__} without tensors; write it with "
            "torch.save(model.state_dict(), path)"
        )
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(TorchScript|torch.jit)")  # OpenAI's files are archives
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except RuntimeError as error:
            if "TorchScript" not in str(error):
                raise
            return torch.jit.load(path, map_location="cpu").state_dict()


def load_into(encoder: nn.Module, state: Mapping[str, Tensor], origin: str) -> str:
    """Load the visual tower from a state dict, in the tower's dtype, and check that all tensors fit.

    Args:
        encoder: The visual tower; it is changed in place.
        state: The state dict of a whole CLIP model, of a visual tower, or of a Detector.
        origin: The file of the state dict, for messages.

    Returns:
        The prefix of the tower's tensors in the state dict.

    Raises:
        WeightsError: If tensors are missing, unexpected (below that prefix), or have another shape.
    """
    wanted = encoder.state_dict()
    prefix = max(_PREFIXES, key=lambda candidate: len(_under(candidate, state).keys() & wanted.keys()))
    found = _under(prefix, state)
    if not found.keys() & wanted.keys():
        raise WeightsError(
            f"expected a visual tower of open_clip in {origin}, with names such as "
            f"{_some('visual.' + name for name in wanted)}, but it has {_some(state)}; {_other_file(state)}"
        )
    missing = wanted.keys() - found.keys()
    unexpected = found.keys() - wanted.keys() if prefix else set()
    if missing or unexpected:
        raise WeightsError(
            f"expected the tensors of the visual tower in {origin}, but {len(missing)} are missing "
            f"({_some(sorted(missing))}) and {len(unexpected)} are unexpected ({_some(sorted(unexpected))}); use a "
            "file of the same architecture"
        )
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise WeightsError(
                f"expected {name} to have shape {tuple(tensor.shape)}, but it has {tuple(found[name].shape)} in "
                f"{origin}; use a file of the same architecture and image size"
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


def _other_file(state: Mapping[str, Tensor]) -> str:
    """Say which file would fit instead of this state dict."""
    if any("vision_model." in name for name in state):
        return "these are the names of Hugging Face transformers, so use open_clip's file of the same model"
    return "use the state dict of a CLIP model or of a Detector"
