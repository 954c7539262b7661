"""Guards on the model, before anything is saved or measured."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from gsnr_toolkit.errors import ProbeError


def check_model(model: nn.Module) -> None:
    """Refuse what no gradient can be taken of, before anything is saved or measured.

    Args:
        model: The model as it is to be measured.

    Raises:
        ProbeError: If the model or a part of it is scripted, has parameters that are not made yet or were made in
            inference mode, or inference mode or autocast is on.
    """
    scripted = [name or "the model" for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        raise ProbeError(
            f"expected modules that run in Python, got a scripted or traced one ({scripted[0]!r}); "
            "pass the model as it was before torch.jit"
        )
    if torch.is_inference_mode_enabled():
        raise ProbeError(
            "expected to be called where gradients can be taken, but torch.inference_mode() is on; leave that block (a "
            "probe changes no parameter, and torch.no_grad() around it is fine)"
        )
    casting = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    if casting:
        raise ProbeError(
            "expected autocast inside the model or loss_fn, got a probe called under "
            f"torch.autocast({casting[0]!r}), which would round sums over gradients too; put the autocast block "
            "into loss_fn(model, batch)"
        )
    named = list(chain(model.named_parameters(), model.named_buffers()))
    lazy = [name for name, value in named if is_lazy(value)]
    if lazy:
        raise ProbeError(
            f"expected parameters that hold values, got lazy ones without a shape yet ({lazy[0]!r} and "
            f"{len(lazy) - 1} more); run the model once on a batch, model(inputs), before the probe"
        )
    inference = [name for name, value in named if value.is_inference()]
    if inference:
        raise ProbeError(
            f"expected parameters that can be differentiated, got {inference[0]!r} made in torch.inference_mode() "
            f"({len(inference)} such); build or load the model outside of that block"
        )


def check_batchnorm(model: nn.Module) -> None:
    """Refuse batch normalisation in train mode: a sample's gradient would depend on its batch.

    Raises:
        ProbeError: If there is any; names the first such layer.
    """
    mixing = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.training]
    if mixing:
        raise ProbeError(
            f"expected samples that do not influence each other, got batch normalisation in train mode "
            f"({mixing[0]!r} and {len(mixing) - 1} more); call model.eval() before the probe, or use GroupNorm"
        )
