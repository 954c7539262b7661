"""Per-sample gradients by other libraries, each used as its own documentation shows.

Each function prepares a model once and returns the function of a batch that is timed; its result is described in
:mod:`benchmarks.comparison.methods`. Each library is imported on use: if it is missing, its row holds that error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.comparison.settings import Setting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gsnr_toolkit.moments.by_parameter import Moments
    from gsnr_toolkit.types import Batch, Params

WHOLE = "all parameters"
"""Name of norms of the gradient with respect to the whole model."""


def _chunks(batch: Batch, chunk_size: int) -> Iterator[Batch]:
    from gsnr_toolkit.inputs.batches import batch_length, take_rows

    for start in range(0, batch_length(batch), chunk_size):
        yield take_rows(batch, start, start + chunk_size)


def _summed_loss(setting: Setting, module: nn.Module, batch: Batch) -> Tensor:
    # summed: the libraries then return g_i itself and not g_i / N
    return setting.task.loss_fn(module, batch).sum()


def _collect(setting: Setting, attribute: str) -> dict[str, Any]:
    # Takes what a library stored on the parameters; parameters without it are missed.
    found = {}
    for name, param in setting.named_parameters().items():
        value = getattr(param, attribute, None)
        if value is not None:
            found[name] = value
            setattr(param, attribute, None)
    return found


def opacus_hooks(setting: Setting, chunk_size: int) -> Callable[[Batch], Iterator[Params]]:
    """``GradSampleModule``: rules for known layers, ``torch.func`` for the module around any other parameter."""
    from opacus import GradSampleModule

    module = GradSampleModule(setting.model, loss_reduction="sum")

    def gradients(batch: Batch) -> Iterator[Params]:
        for rows in _chunks(batch, chunk_size):
            _summed_loss(setting, module, rows).backward()
            yield _collect(setting, "grad_sample")
            module.zero_grad(set_to_none=True)

    return gradients


def opacus_ghost(setting: Setting, chunk_size: int) -> Callable[[Batch], Params]:
    """``GradSampleModuleFastGradientClipping``: norms without gradients for layers with such a rule."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    del chunk_size
    module = GradSampleModuleFastGradientClipping(setting.model, loss_reduction="sum")

    def norms(batch: Batch) -> Params:
        _summed_loss(setting, module, batch).backward()
        found = {name: norm.square() for name, norm in _collect(setting, "_norm_sample").items()}
        module.zero_grad(set_to_none=True)
        return found

    return norms


def _backpack(setting: Setting, extension: Any) -> Callable[[Batch], None]:
    from backpack import backpack, extend

    module = extend(setting.model)

    def backward(batch: Batch) -> None:
        with backpack(extension):
            _summed_loss(setting, module, batch).backward()

    return backward


def backpack_gradients(setting: Setting, chunk_size: int) -> Callable[[Batch], Iterator[Params]]:
    """``BatchGrad``."""
    from backpack.extensions import BatchGrad

    backward = _backpack(setting, BatchGrad())

    def gradients(batch: Batch) -> Iterator[Params]:
        for rows in _chunks(batch, chunk_size):
            backward(rows)
            setting.model.zero_grad(set_to_none=True)
            yield _collect(setting, "grad_batch")

    return gradients


def backpack_variance(setting: Setting, chunk_size: int) -> Callable[[Batch], Moments]:
    """``Variance``: the mean of the squares minus the square of the mean, divided by N."""
    from backpack.extensions import Variance

    from gsnr_toolkit.inputs.batches import batch_length
    from gsnr_toolkit.moments.by_parameter import Moments

    del chunk_size
    backward = _backpack(setting, Variance())

    def moments(batch: Batch) -> Moments:
        backward(batch)
        count = batch_length(batch)
        m2 = {name: variance * count for name, variance in _collect(setting, "variance").items()}
        summed = {name: param.grad for name, param in setting.named_parameters().items()}
        mean = {name: grad / count for name, grad in summed.items() if grad is not None and name in m2}
        setting.model.zero_grad(set_to_none=True)
        return Moments(count, mean, m2)

    return moments


def backpack_norms(setting: Setting, chunk_size: int) -> Callable[[Batch], Params]:
    """``BatchL2Grad``."""
    from backpack.extensions import BatchL2Grad

    del chunk_size
    backward = _backpack(setting, BatchL2Grad())

    def norms(batch: Batch) -> Params:
        backward(batch)
        setting.model.zero_grad(set_to_none=True)
        return _collect(setting, "batch_l2")

    return norms


def torchjd_rows(setting: Setting, chunk_size: int) -> Callable[[Batch], Iterator[Params]]:
    """``autojac.jac`` of the losses: one backward per sample through the whole chunk, vectorised."""
    from torchjd.autojac import jac

    params = setting.named_parameters()

    def gradients(batch: Batch) -> Iterator[Params]:
        for rows in _chunks(batch, chunk_size):
            losses = setting.task.loss_fn(setting.model, rows)
            yield dict(zip(params, jac(losses, list(params.values())), strict=True))

    return gradients


def torchjd_gram(setting: Setting, chunk_size: int) -> Callable[[Batch], Params]:
    """``autogram.Engine``: inner products of all pairs of samples' gradients; only the diagonal is used.

    Exact in float64. In float32 on a CPU, a matrix product over as many entries as a model has parameters adds them one
    after the other: this loses 2e-4 of the squared norm at 1.6 M parameters, 2e-2 at 86 M.
    """
    from torchjd.autogram import Engine

    del chunk_size
    engine = Engine(setting.model, batch_dim=0)

    def norms(batch: Batch) -> Params:
        return {WHOLE: engine.compute_gramian(setting.task.loss_fn(setting.model, batch)).diagonal()}

    return norms


def trak_gradients(setting: Setting, chunk_size: int) -> Callable[[Batch], Iterator[Params]]:
    """``FunctionalGradientComputer`` with the loss as its output function, before any projection."""
    from torch.func import functional_call
    from trak.gradient_computers import FunctionalGradientComputer
    from trak.modelout_functions import AbstractModelOutput

    from gsnr_toolkit.inputs.losses import classification_loss

    class LossOutput(AbstractModelOutput):
        """The loss of one sample in the form that trak takes."""

        def __init__(self) -> None: ...

        @staticmethod
        def get_output(model: nn.Module, weights: Params, buffers: Params, image: Tensor, label: Tensor) -> Tensor:
            logits = functional_call(model, (weights, buffers), image.unsqueeze(0))
            return classification_loss(logits, label.unsqueeze(0)).squeeze(0)

        def get_out_to_loss_grad(self, *_: Any) -> Tensor:
            raise NotImplementedError("the output is the loss itself; its gradient is not needed")

    first = next(setting.model.parameters())
    computer = FunctionalGradientComputer(setting.model, LossOutput(), setting.num_params(), first.dtype, first.device)

    def gradients(batch: Batch) -> Iterator[Params]:
        for rows in _chunks(batch, chunk_size):
            grads = computer.compute_per_sample_grad(rows)
            yield {name: grad.detach() for name, grad in grads.items()}

    return gradients
