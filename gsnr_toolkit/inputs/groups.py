"""Groups of parameters: the one definition of "layer".

Every parameter belongs to exactly one group. The default, ``"block"``, reads the block index from parameter
names, as open_clip, timm, torchvision and Hugging Face choose them. Parameters before the first block form the
group ``stem``, those after the last block the group ``head``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from gsnr_toolkit.errors import ProbeError

TOTAL = "total"
"""The name of the whole model in reports; no group may have it."""

GroupBy: TypeAlias = str | Callable[[str], str]
"""``"block"``, ``"module"``, ``"parameter"``, or a function from parameter name to group name."""

# Names of modules whose children are numbered blocks. A stage is a stack that may hold stacks itself, such as
# stages.1.blocks.0 of timm's ConvNeXt or features.1.0 of torchvision's; _INNER names the stacks inside a stage.
_STACKS = {"resblocks", "blocks", "layers", "layer", "h", "block", "stages", "features"}
_STAGES = {"stages", "layers", "features", "blocks"}
_INNER = {"blocks", "layers", "layer"}
_NUMBERED_STAGE = re.compile(r"layer\d+$")
_NUMBERED_LAYER = re.compile(r"encoder_layer_\d+$")
# Beside the blocks, the module's name decides; where it is not telling, the order in the model does (_label).
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
    """Read from a parameter's name which block of which stack it belongs to.

    Args:
        name: Parameter name, such as ``"visual.transformer.resblocks.3.ln_1.weight"``.
        has_children: Whether the module at a path has sub-modules. This distinguishes a block inside a stage
            (``features.1.0`` of ConvNeXt) from a plain layer (``features.0.0``, a convolution).

    Returns:
        The paths ``(stack, block)``, or None if the name contains no block index.

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
    """Return the length of the block's path when ``tokens[i]`` names a stack; descend into stages."""
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
        model: The model that has these parameters; its module tree gives stages and order.
        names: Parameter names, usually of the trainable parameters.
        groups: ``"block"`` (default), ``"module"`` (the module that owns the parameter),
            ``"parameter"`` (a group per parameter) or a function from parameter name to group name.

    Returns:
        Parameter name to :class:`Group`. Depths count from 0 in the model's order.

    Raises:
        ProbeError: If ``groups`` is none of these, the function does not return a string, or a group would be
            called ``"total"``.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> {name: group.name for name, group in assign_groups(model, ["0.weight", "0.bias", "1.weight"]).items()}
    {'0.weight': 'module 0', '0.bias': 'module 0', '1.weight': 'module 1'}
    """
    found = _assign(model, list(names), groups)
    taken = next((name for name, group in found.items() if group.name == TOTAL), None)
    if taken is not None:
        raise ProbeError(
            f"expected group names other than {TOTAL!r}, which means the whole model, got it for {taken!r}; "
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
        return _number(labels)
    if groups == "parameter":
        return _number({name: name for name in names})
    if groups == "module":
        return _number({name: name.rpartition(".")[0] or "(root)" for name in names})
    if groups == "block":
        return _by_block(model, names)
    raise ProbeError(
        f"expected groups to be 'block', 'module', 'parameter' or a function of the parameter's name, got {groups!r}; "
        "choose one of these, or pass a function such as lambda name: name.split('.')[0]"
    )


def _number(labels: dict[str, str], order: Iterable[str] | None = None) -> dict[str, Group]:
    """Give each label its depth: its place in ``order``, or the place where it first occurs."""
    depth = {label: i for i, label in enumerate(dict.fromkeys(labels.values()) if order is None else order)}
    return {name: Group(label, depth[label]) for name, label in labels.items()}


def find_blocks(model: nn.Module) -> dict[str, str]:
    """Name a model's blocks, from shallow to deep.

    Returns:
        Module path of each block to its group name. The first block is ``"block 1"``; in a model with several
        stacks the stack's path precedes it. Empty if the model has no stack of blocks.

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
    """Return paths such as ``stages.1`` that are no blocks themselves, because blocks lie inside them."""
    paths = [path for members in stacks.values() for path in members]
    return {path for path in paths if any(other.startswith(path + ".") for other in paths)}


def _by_block(model: nn.Module, names: list[str]) -> dict[str, Group]:
    blocks = find_blocks(model)
    if not blocks:
        return _number({name: _child(name) for name in names})
    everything = [name for name, _ in model.named_parameters()]
    first = min(i for i, name in enumerate(everything) if _owner(name, blocks))
    position = {name: i for i, name in enumerate(everything)}
    labels = {name: _label(name, blocks, before=position.get(name, 0) < first) for name in names}
    return _number(labels, ["stem", *dict.fromkeys(blocks.values()), "head"])


def _child(name: str) -> str:
    """Name the direct child of the model that holds a parameter; a numbered child is called ``module N``."""
    child, dot, _ = name.partition(".")
    if not dot:
        return "(root)"
    return f"module {child}" if child.isdigit() else child


def _owner(name: str, blocks: dict[str, str]) -> str | None:
    """Find the block that holds a parameter; a stage's own parameters (down-sampling) join its first block."""
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
    # A head's name at the very start settles it. Further inside it yields to the stem's names and to the order:
    # "embeddings.proj" is part of the stem.
    if _HEAD.match(name):
        return "head"
    if _STEM.search(name):
        return "stem"
    return "stem" if before and not _HEAD.search(name) else "head"
