"""From parameter names to groups: the one definition of "layer".

Every parameter belongs to exactly one group. The default, ``"block"``, reads the block index from the
names that open_clip, timm, torchvision and Hugging Face give their stacks of blocks; what comes before
the first block is the ``stem``, what comes after the last one the ``head``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from gsnr_toolkit.errors import ProbeError

TOTAL = "total"
"""The name under which reports keep the whole model; no group may have it."""

GroupBy: TypeAlias = str | Callable[[str], str]
"""``"block"``, ``"module"``, ``"parameter"``, or a function from parameter name to group name."""

_STACKS = {"resblocks", "blocks", "layers", "layer", "h", "block", "stages", "features"}
_STAGES = {"stages", "layers", "features", "blocks"}
_INNER = {"blocks", "layers", "layer"}
_NUMBERED_STAGE = re.compile(r"layer\d+$")
_NUMBERED_LAYER = re.compile(r"encoder_layer_\d+$")
_HEAD = re.compile(
    r"(^|\.)(ln_post|ln_f|ln_final|proj|heads?|fc|fc_norm|classifier|lm_head|embed_out|final\w*|pooler|score)(\.|$)"
)
_STEM = re.compile(
    r"(^|\.)((?!embed_out)\w*embed\w*|ln_pre|pre_la?y\w*norm|\w*cls_token|\w*class_token|pos_\w*"
    r"|patch\w*|stem|conv1|bn1|wte|wpe|shared|reg_token)(\.|$)"
)


@dataclass(frozen=True)
class Group:
    """A layer: its name and its depth (0 is nearest to the input)."""

    name: str
    depth: int


def block_path(name: str, has_children: Callable[[str], bool] = lambda _: False) -> tuple[str, str] | None:
    """Read which block of which stack a parameter belongs to.

    Args:
        name: Parameter name, such as ``"visual.transformer.resblocks.3.ln_1.weight"``.
        has_children: Whether the module at a path has sub-modules; it tells a block inside a stage
            (``features.1.0`` of ConvNeXt) from a plain layer (``features.0.0``, a convolution).

    Returns:
        ``(stack, block)``, both paths, or None if the name holds no block index.

    >>> block_path("visual.transformer.resblocks.3.ln_1.weight")
    ('visual.transformer', 'visual.transformer.resblocks.3')
    >>> block_path("stages.1.blocks.0.mlp.fc1.weight")
    ('', 'stages.1.blocks.0')
    >>> block_path("head.weight") is None
    True
    """
    tokens = name.split(".")
    for i, token in enumerate(tokens[:-1]):
        stack = ".".join(tokens[:i])
        if _NUMBERED_LAYER.match(token):
            return stack, ".".join(tokens[: i + 1])
        if _NUMBERED_STAGE.match(token) and tokens[i + 1].isdigit():
            return stack, ".".join(tokens[: i + 2])
        if token in _STACKS and tokens[i + 1].isdigit():
            return stack, ".".join(tokens[: _block_end(tokens, i, has_children)])
    return None


def _block_end(tokens: list[str], i: int, has_children: Callable[[str], bool]) -> int:
    """Find where the block's path ends when ``tokens[i]`` names a stack, looking into stages."""
    end = i + 2
    if tokens[i] not in _STAGES:
        return end
    rest = tokens[end:]
    if len(rest) > 1 and rest[0] in _INNER and rest[1].isdigit():
        return end + 2
    if rest and rest[0].isdigit() and has_children(".".join(tokens[: end + 1])):
        return end + 1
    return end


def assign_groups(model: nn.Module, names: Iterable[str], groups: GroupBy = "block") -> dict[str, Group]:
    """Assign every named parameter to exactly one group, ordered by depth.

    Args:
        model: The model the names come from; its module tree resolves stages and order.
        names: Parameter names, usually the trainable ones.
        groups: ``"block"`` (default), ``"module"`` (the module that owns the parameter),
            ``"parameter"`` (each by itself) or a function from name to group name.

    Returns:
        Name to :class:`Group`; groups of one name share one depth, numbered from 0 in the model's order.

    Raises:
        ProbeError: If ``groups`` is not one of these, the function returns something not a string, or a group
            would be called ``"total"``.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> {name: group.name for name, group in assign_groups(model, ["0.weight", "0.bias", "1.weight"]).items()}
    {'0.weight': 'module 0', '0.bias': 'module 0', '1.weight': 'module 1'}
    """
    found = _assign(model, list(names), groups)
    taken = next((name for name, group in found.items() if group.name == TOTAL), None)
    if taken is not None:
        raise ProbeError(
            f"expected group names other than {TOTAL!r}, which stands for the whole model, got it for {taken!r}; "
            "return another name from groups(name), such as 'all', or rename the module"
        )
    return found


def _assign(model: nn.Module, names: list[str], groups: GroupBy) -> dict[str, Group]:
    if callable(groups):
        labels = {name: groups(name) for name in names}
        wrong = {name: label for name, label in labels.items() if not isinstance(label, str)}
        if wrong:
            raise ProbeError(
                f"expected groups(name) to return a string for every parameter, got {next(iter(wrong.items()))}; "
                "return a name such as 'other' for parameters you do not care about"
            )
        return _number(labels, list(dict.fromkeys(labels.values())))
    if groups == "parameter":
        return _number({name: name for name in names}, names)
    if groups == "module":
        labels = {name: name.rpartition(".")[0] or "(root)" for name in names}
        return _number(labels, list(dict.fromkeys(labels.values())))
    if groups == "block":
        return _by_block(model, names)
    raise ProbeError(
        f"expected groups to be 'block', 'module', 'parameter' or a function of the parameter's name, got {groups!r}"
    )


def _number(labels: dict[str, str], order: list[str]) -> dict[str, Group]:
    depth = {label: i for i, label in enumerate(order)}
    return {name: Group(label, depth[label]) for name, label in labels.items()}


def find_blocks(model: nn.Module) -> dict[str, str]:
    """Name a model's blocks, shallow to deep.

    Returns:
        Module path of each block to its group name (``"block 1"`` is the first; the stack's path
        stands before it where a model has several stacks). Empty if the model has no stack of blocks.

    >>> layers = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
    >>> find_blocks(layers)
    {'blocks.0': 'block 1', 'blocks.1': 'block 2'}
    """
    modules = dict(model.named_modules())

    def has_children(path: str) -> bool:
        return path in modules and any(True for _ in modules[path].children())

    stacks: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        found = block_path(name, has_children)
        if found and found[1] in modules and found[1] not in stacks.setdefault(found[0], []):
            stacks[found[0]].append(found[1])
    stages = _stages_that_only_join(stacks)
    labels: dict[str, str] = {}
    for stack, paths in stacks.items():
        blocks = [path for path in paths if path not in stages]
        prefix = f"{stack} " if len(stacks) > 1 and stack else ""
        labels.update({path: f"{prefix}block {i}" for i, path in enumerate(blocks, 1)})
    return labels


def _stages_that_only_join(stacks: dict[str, list[str]]) -> set[str]:
    """List paths such as ``stages.1`` (a down-sampling) that hold blocks of their own further inside."""
    paths = [path for members in stacks.values() for path in members]
    return {path for path in paths if any(other.startswith(path + ".") for other in paths)}


def _by_block(model: nn.Module, names: list[str]) -> dict[str, Group]:
    blocks = find_blocks(model)
    if not blocks:
        labels = {name: _child(name) for name in names}
        return _number(labels, list(dict.fromkeys(labels.values())))
    everything = [name for name, _ in model.named_parameters()]
    first = min(i for i, name in enumerate(everything) if _owner(name, blocks))
    position = {name: i for i, name in enumerate(everything)}
    labels = {name: _label(name, blocks, before=position.get(name, 0) < first) for name in names}
    return _number(labels, ["stem", *dict.fromkeys(blocks.values()), "head"])


def _child(name: str) -> str:
    """Name the model's direct child that holds a parameter; children known by number are called modules."""
    child, dot, _ = name.partition(".")
    if not dot:
        return "(root)"
    return f"module {child}" if child.isdigit() else child


def _owner(name: str, blocks: dict[str, str]) -> str | None:
    """Find the block that holds a parameter; a stage's own parameters go to the stage's first block."""
    tokens = name.split(".")
    for end in range(len(tokens) - 1, 0, -1):
        path = ".".join(tokens[:end])
        if path in blocks:
            return blocks[path]
    found = block_path(name)
    if found:
        return next((label for path, label in blocks.items() if path.startswith(found[1] + ".")), None)
    return None


def _label(name: str, blocks: dict[str, str], *, before: bool) -> str:
    inside = _owner(name, blocks)
    if inside:
        return inside
    if _HEAD.match(name):
        return "head"
    if _STEM.search(name):
        return "stem"
    return "stem" if before and not _HEAD.search(name) else "head"
