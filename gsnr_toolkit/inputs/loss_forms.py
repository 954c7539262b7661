"""What a loss must look like, and errors that name the loss to write where a model or a loss has another form."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.nn import functional as F

from gsnr_toolkit.errors import ProbeError, first_line
from gsnr_toolkit.inputs.fields import type_name

_FUNCTIONS = {
    "CrossEntropyLoss": "cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "BCELoss": "binary_cross_entropy",
    "MSELoss": "mse_loss",
    "L1Loss": "l1_loss",
    "NLLLoss": "nll_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss",
    "KLDivLoss": "kl_div",
    "PoissonNLLLoss": "poisson_nll_loss",
    "SoftMarginLoss": "soft_margin_loss",
}


def check_loss_fn(loss_fn: Any) -> None:
    """Check that a loss takes a model and a batch.

    Raises:
        ProbeError: If it is no function, or one of outputs and targets such as those of ``torch.nn``.

    >>> check_loss_fn(nn.MSELoss())
    Traceback (most recent call last):
    gsnr_toolkit.errors.ProbeError: expected loss_fn(model, batch) -> (N,), got MSELoss(), a loss of outputs and ...
    """
    if not callable(loss_fn) or isinstance(loss_fn, type):
        raise ProbeError(
            f"expected loss_fn(model, batch) -> (N,), got {loss_fn!r}; pass a function, such as "
            f"{_written('F.mse_loss')}"
        )
    inner = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    if isinstance(inner, nn.Module) and type(inner).__module__.startswith("torch.nn."):
        name = _FUNCTIONS.get(type(inner).__name__)
        _refuse_criterion(f"{type(inner).__name__}()", "F." + name if name else f"torch.nn.{type(inner).__name__}")
    name = getattr(inner, "__name__", "")
    if getattr(F, name, None) is inner:
        _refuse_criterion(f"F.{name}", f"F.{name}")
    if not _takes(loss_fn, 2):
        raise ProbeError(
            f"expected loss_fn(model, batch) -> (N,), got {_signature(loss_fn)}, which does not take two arguments; "
            f"pass a function of model and batch, such as {_written('F.mse_loss')}"
        )


def _refuse_criterion(got: str, function: str) -> NoReturn:
    raise ProbeError(
        f"expected loss_fn(model, batch) -> (N,), got {got}, a loss of outputs and targets; pass "
        f"loss_fn={_written(function)}"
    )


def _written(function: str) -> str:
    """The code of a loss that calls a loss of outputs and targets, one number per sample."""
    if not function.startswith("F."):
        return f'lambda model, batch: {function}(reduction="none")(model(batch[0]), batch[1])'
    outputs = "model(batch[0])" if function in ("F.cross_entropy", "F.nll_loss") else "model(batch[0]).squeeze(-1)"
    return f'lambda model, batch: {function}({outputs}, batch[1], reduction="none")'


def _takes(function: Any, count: int) -> bool:
    """Whether a function takes so many arguments; True where Python cannot tell."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def _signature(function: Any) -> str:
    try:
        arguments = str(inspect.signature(function))
    except (TypeError, ValueError):  # a builtin without a signature
        arguments = ""
    return f"{getattr(function, '__name__', type(function).__name__)}{arguments}"


@contextmanager
def explained_loss(loss_fn: Any, model: nn.Module) -> Iterator[None]:
    """Explain an error of a loss that treats the model as outputs.

    Yields:
        Nothing.

    Raises:
        ProbeError: If the error names the model's class, as one does of a function that expected a tensor.
        TypeError: Any other, unchanged.
        AttributeError: Any other, unchanged.
    """
    try:
        yield
    except (TypeError, AttributeError) as error:
        if type(model).__name__ not in str(error) or "forward()" in str(error):
            raise
        raise ProbeError(
            f"expected loss_fn(model, batch) -> (N,), got {_signature(loss_fn)}, which fails on a model and a batch "
            f"({first_line(error)}); if it takes outputs and targets, pass "
            f"loss_fn=lambda model, batch: {getattr(loss_fn, '__name__', 'loss')}(model(batch[0]), batch[1])"
        ) from error


def explain_call(model: nn.Module, inputs: Any, error: Exception) -> None:
    """Explain why a model does not take the inputs of a batch; return if that is not the reason for the error.

    Raises:
        ProbeError: If the model has other arguments than the batch has fields, or takes several inputs.
    """
    mapping = isinstance(inputs, Mapping)
    if not mapping and not isinstance(inputs, (tuple, list)):
        return
    if mapping and (isinstance(error, AttributeError) or _binds(model.forward, inputs)):
        return
    if isinstance(error, AttributeError) and f"'{type(inputs).__name__}' object" not in str(error):
        return
    call = "model(batch)" if mapping else "model(*batch[0])"
    labels = 'batch["labels"]' if mapping else "batch[1]"
    how = f"the fields {', '.join(map(str, inputs))} as keyword arguments" if mapping else "all inputs as one argument"
    raise ProbeError(
        f"expected a model that takes {how}, but {first_line(error)}; pass "
        f'loss_fn=lambda model, batch: F.cross_entropy({call}, {labels}, reduction="none"), '
        "changed to the model's call and output"
    ) from error


def _binds(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def describe_batch(batch: Any) -> str:
    """Say in a few words what a batch holds, for an error message."""
    if isinstance(batch, Mapping):
        none = [str(key) for key in batch if not isinstance(batch[key], Tensor)]
        without = f", of which {', '.join(none)} hold no tensor" if none else ""
        return f"keys {sorted(map(str, batch))}{without}"
    if is_dataclass(batch):
        return f"{type(batch).__name__} with the fields {', '.join(field.name for field in fields(batch))}"
    if isinstance(batch, (tuple, list)):
        held = ", ".join(map(type_name, batch[:6]))
        single = " (one sample of a data set? wrap it in a DataLoader)" if _is_sample(batch) else ""
        return f"{type(batch).__name__} of {held}{single}"
    return type(batch).__name__


def _is_sample(batch: Any) -> bool:
    return len(batch) == 2 and isinstance(batch[0], Tensor) and isinstance(batch[1], (int, float))


def describe_output(output: Any) -> str:
    """Say in a few words what a model returned, for an error message."""
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with the keys {', '.join(map(str, output))}"
    if is_dataclass(output):
        return f"{type(output).__name__} with the fields {', '.join(field.name for field in fields(output))}"
    if isinstance(output, (tuple, list)):
        return f"{type(output).__name__} of {', '.join(type(part).__name__ for part in output[:6])}"
    return type(output).__name__


def loss_name(loss_fn: Any) -> str:
    """Name a caller's loss, for a report."""
    inner = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    name = getattr(inner, "__qualname__", "") or type(inner).__name__
    return name.replace("<locals>.", "")
