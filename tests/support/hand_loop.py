"""SAM's training loop written by hand from the formula, and the recipes of docs/trainers.md, for tests of trainers."""

import re
from pathlib import Path

import torch
from torch import nn

PAGE = Path(__file__).parents[2] / "docs" / "trainers.md"


def recipes(section):
    """Run the first block of the page and those of one section; return what they define."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = {None: [], "Lightning": [], "accelerate": [], "transformers": []}
    for title, part in re.findall(r"(?:^## (\w+)\n)?((?:(?!^## ).*\n)+)", text, re.MULTILINE):
        blocks[title or None] += re.findall(r"^```python\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
    assert sum(map(len, blocks.values())) == text.count("```python")
    namespace = {}
    for block in [*blocks[None], *blocks[section]]:
        exec(compile(block, str(PAGE), "exec"), namespace)
    return namespace


def expected_prints(section):
    """What the page says that the blocks of a section print."""
    part = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    return "".join(f"{line}\n" for line in re.findall(r"print\(.*\)  # (.+)", part))


def backward(loss_fn, parts, weight=None):
    for part in parts:
        (loss_fn(part) * (1 / len(parts) if weight is None else weight)).backward()


def sam_step_by_hand(params, base, loss_fn, parts, *, rho, clip=None, weight=None):
    """One step on the mean of the micro-batches' losses: ascend, second gradient, back, clip, base step.

    `weight` is that of each micro-batch, one over their number by default.
    """
    params = list(params)
    base.zero_grad()
    backward(loss_fn, parts, weight)
    if rho:
        old = [param.detach().clone() for param in params]
        norm = torch.linalg.vector_norm(torch.cat([param.grad.flatten() for param in params]))
        with torch.no_grad():
            for param in params:
                param.add_(rho * param.grad / norm)
        base.zero_grad()
        backward(loss_fn, parts, weight)
        with torch.no_grad():
            for param, value in zip(params, old, strict=True):
                param.copy_(value)
    if clip is not None:
        nn.utils.clip_grad_norm_(params, clip)
    base.step()


def distance(one, other):
    """Largest difference between two models' parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)
