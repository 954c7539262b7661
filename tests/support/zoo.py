"""Public architectures in tiny configurations: every gradient engine must agree with ``.backward()`` on them.

Weights are random and nothing is downloaded. Every case runs in eval mode, so that no sample sees another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gsnr_toolkit.inputs.batches import map_tensors
from tests.support.cases import Case
from tests.support.zoo_language import OPEN_CLIP_TEXT, TRANSFORMERS
from tests.support.zoo_plain import PLAIN
from tests.support.zoo_vision import OPEN_CLIP, TIMM, TORCHVISION

ZOO: dict[str, Case] = {**OPEN_CLIP, **OPEN_CLIP_TEXT, **TIMM, **TORCHVISION, **TRANSFORMERS, **PLAIN}

FLOAT32_SUMS = {"timm ViT, learned RoPE", "transformers Mamba"}
"""Models that sum a parameter's gradient over the samples in float32, whatever their dtype; exact to 1e-7."""

FLOAT32_INSIDE = FLOAT32_SUMS | {
    "timm EfficientNet, EvoNorm",
    "transformers T5, tied",
    "transformers Llama",
    "transformers Qwen3",
    "transformers Mixtral",
}
"""Models that compute some values in float32, row by row, whatever their dtype (RMSNorm, variances).

Their float64 gradients move by 5e-8 when the loss is scaled by anything but a power of two, as a batch's mean is.
"""


def randomise(model: nn.Module, seed: int = 0, sd: float = 0.2) -> nn.Module:
    """Perturb every parameter and draw running statistics, so that no gradient is zero because of initialisation.

    Zero heads, class tokens and gammas of 1e-6 would hide errors before them. The perturbation of wide weights is
    scaled by their fan-in; otherwise the softmax of the logits would saturate.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in model.parameters():
            fan_in = param[0].numel() if param.ndim > 1 else 1
            param.add_(min(sd, 0.5 * fan_in**-0.5) * torch.randn(param.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
            elif name.endswith("running_mean"):
                buffer.copy_(sd * torch.randn(buffer.shape, generator=generator))
    return model


def to_dtype(case: Case, dtype: torch.dtype, seed: int = 0) -> tuple[nn.Module, Any]:
    """Return model and batch of a case: in eval mode, with the same random numbers in float32 and float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = randomise(case.model().eval(), seed).to(dtype)
        return model, cast(case.batch(), dtype)


def cast(batch: Any, dtype: torch.dtype) -> Any:
    """Convert a batch's floating-point tensors to another precision; token numbers and masks are kept."""
    return map_tensors(batch, lambda t: t.to(dtype) if t.is_floating_point() else t)


def assert_relatively_close(
    actual: Tensor, expected: Tensor, rtol: float, *, scale: float = 0.0, what: str = ""
) -> None:
    """Compare with the largest entry of the expected tensor, or ``scale`` if larger: tiny entries are rounding."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    largest = max(float(expected.abs().max()), scale)
    difference = float((actual.to(expected.dtype) - expected).abs().max())
    assert difference <= rtol * largest, f"{what}: off by {difference:.3g} of {largest:.3g}, allowed {rtol:.1g} of it"


def vanishing(grads: dict[str, Tensor]) -> list[str]:
    """Return parameters whose float64 gradient is zero except for rounding, such as a key's bias under softmax.

    In the zoo these lie below 2e-16 of the model's largest gradient, and all others above 4e-5 of it.
    """
    largest = max(float(grad.abs().max()) for grad in grads.values())
    return [name for name, grad in grads.items() if float(grad.abs().max()) < 1e-12 * largest]


FLOAT32_FACTOR, FLOAT32_LEAST, FLOAT32_MOST = 6, 1e-5, 2e-5


def float32_tolerance(single: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Return the relative tolerance for a model's gradients in float32, from what float32 itself loses there.

    That is the error of one literal backward per sample in float32, for the worst parameter. Other orders of summation
    lose up to 2.8 times as much in the zoo, depending on the processor's vectors; the factor of six leaves room for
    that. The error itself must be small, so that the tolerance cannot hide a wrong rule.

    Args:
        single: Per-sample gradients by one backward per sample in float32.
        exact: The same in float64.
    """
    largest = max(float(grad.abs().max()) for grad in exact.values())
    rounding = vanishing(exact)
    lost = max(
        float((single[name].double() - grad).abs().max()) / (largest if name in rounding else float(grad.abs().max()))
        for name, grad in exact.items()
    )
    assert lost < FLOAT32_MOST, f"float32 loses {lost:.1g} of the largest entry: too much to compare engines in it"
    return max(FLOAT32_LEAST, FLOAT32_FACTOR * lost)


def assert_gradients_close(
    actual: dict[str, Tensor], expected: dict[str, Tensor], rtol: float, context: str = ""
) -> None:
    """Compare per-sample gradients with a float64 twin's, each parameter by its own largest entry.

    Vanishing gradients are compared by the largest entry of all parameters.
    """
    assert actual.keys() == expected.keys()
    largest = max(float(grad.abs().max()) for grad in expected.values())
    rounding = vanishing(expected)
    for name, grad in expected.items():
        scale = largest if name in rounding else 0.0
        assert_relatively_close(actual[name], grad, rtol, scale=scale, what=f"{context} {name}")
