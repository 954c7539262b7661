"""The models of the benchmark, with random weights, and batches of noise for them.

Nothing heavy is imported before a setting is built, because the process that starts the others must stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gsnr_toolkit.support.lookup import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from gsnr_toolkit.gradients.task import GradientTask

RESULTS = Path(__file__).parents[1] / "engines.json"
"""The stored measurements."""


@dataclass(frozen=True)
class ModelRow:
    """A model of the benchmark.

    Attributes:
        description: One line about it.
        batch: Default number of samples in a batch.
        image_size: Side of its images in pixels; 0 for vectors of 64 numbers.
        num_outputs: Logits per sample.
    """

    description: str
    batch: int
    image_size: int
    num_outputs: int = 1


MODELS: Registry[ModelRow] = Registry(
    "model",
    {
        "mlp": ModelRow("two linear layers", 32, 0),
        "resnet18-gn": ModelRow("torchvision's ResNet-18, GroupNorm, nothing in place", 16, 64, 10),
        "clip-demo": ModelRow("the shipped CLIP, a small ViT", 16, 64),
        "clip-vit-b32": ModelRow("open_clip ViT-B/32, random weights", 8, 224),
        "clip-vit-b16": ModelRow("open_clip ViT-B/16, random weights", 16, 224),
    },
)


@dataclass(frozen=True)
class Setting:
    """A model and a batch for it, with the same numbers each time it is built.

    Attributes:
        model: The model in train mode (none has dropout or batch statistics; some libraries work in train mode only).
        batch: ``(inputs, labels)``.
        task: The same in the form that our engines take.
    """

    model: nn.Module
    batch: tuple[Tensor, Tensor]
    task: GradientTask

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters by name."""
        return dict(self.model.named_parameters())

    def num_params(self) -> int:
        """Return the number of scalar parameters."""
        return self.task.num_params


def build_setting(name: str, rows: int, device: str = "cpu", dtype: torch.dtype | None = None) -> Setting:
    """Build a model and a batch of noise.

    Args:
        name: One of :data:`MODELS`.
        rows: Samples in the batch.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: Type of parameters and inputs; float32 when None. The values do not depend on it.

    Returns:
        The setting.
    """
    import torch

    from gsnr_toolkit.gradients.task import GradientTask, trainable_params
    from gsnr_toolkit.inputs.losses import inferred_loss

    row = MODELS[name]
    torch.manual_seed(0)
    model = _build_model(name, row)
    size = (rows, 3, row.image_size, row.image_size) if row.image_size else (rows, 64)
    inputs = torch.randn(size, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(rows) % max(2, row.num_outputs)
    model = model.train().to(device=device, dtype=dtype or torch.float32)
    batch = (inputs.to(device=device, dtype=dtype or torch.float32), labels.to(device))
    return Setting(model, batch, GradientTask(model, trainable_params(model), inferred_loss))


def _build_model(name: str, row: ModelRow) -> nn.Module:
    from torch import nn

    if name == "mlp":
        return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, row.num_outputs))
    if name == "resnet18-gn":
        return _resnet18(row.num_outputs)
    from gsnr_toolkit.models.registry import build_model

    return build_model(name, weights=None if name == "clip-demo" else "random", num_outputs=row.num_outputs)


def _resnet18(num_outputs: int) -> nn.Module:
    from torch import nn
    from torchvision.models.resnet import BasicBlock, ResNet

    class Block(BasicBlock):
        """The same block without ``+=``: torch forbids in-place changes after the module hooks of other libraries."""

        def forward(self, x: Tensor) -> Tensor:
            inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            return self.relu(inner + (x if self.downsample is None else self.downsample(x)))

    model = ResNet(Block, [2, 2, 2, 2], num_classes=num_outputs, norm_layer=lambda width: nn.GroupNorm(32, width))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model
