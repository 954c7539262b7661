"""Train and eval modes, changed and restored through the modules' own methods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Modes:
    """Snapshot of modes and ``requires_grad`` flags, with the tensors that an overridden train() or eval() may write.

    Adapters merge their weights in eval() and subtract them again in train(), which rounds. Modules that override
    neither method cannot do so, and their tensors are not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modes = {module: module.training for module in model.modules()}
        self._wanted = [(param, param.requires_grad) for param in model.parameters()]
        acting = [module for module in self._modes if _acts(module)]
        tensors = {id(value): value for module in acting for value in (*module.parameters(), *module.buffers())}
        plain = [value for value in tensors.values() if type(value) in (torch.Tensor, nn.Parameter, nn.Buffer)]
        self._values = [(value, value.detach().clone()) for value in plain if not value.is_meta]

    def restore(self) -> None:
        """Switch modes back by train(), outer modules first, then set what the methods left different.

        Tensors are written back only where a mode had to be switched: other edits are not the switch's.
        """
        if all(module.training == mode for module, mode in self._modes.items()):
            return
        for module, mode in self._modes.items():
            if module.training != mode:
                module.train(mode)
        for module, mode in self._modes.items():
            module.training = mode
        with torch.no_grad():
            for value, saved in self._values:
                if not torch.equal(value, saved):
                    value.copy_(saved)
        for param, wanted in self._wanted:
            param.requires_grad_(wanted)


def _acts(module: nn.Module) -> bool:
    """Whether a module overrides train() or eval()."""
    kind = type(module)
    own = vars(module).keys() & {"train", "eval"}
    return bool(own) or kind.train is not nn.Module.train or kind.eval is not nn.Module.eval


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and restore each module's own mode on leaving.

    Args:
        model: The model that runs inside the block.

    Yields:
        Nothing.
    """
    modes = Modes(model)
    try:
        model.eval()
        yield
    finally:
        modes.restore()
