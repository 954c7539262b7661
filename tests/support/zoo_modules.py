"""Small modules of plain torch, each with one use of a parameter that is difficult for a gradient engine."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class Recurrent(nn.Module):
    """Mean output of an LSTM or GRU; time runs along dim 0 inside when ``batch_first`` is False."""

    def __init__(self, kind: type[nn.RNNBase], batch_first: bool, **options: object) -> None:
        super().__init__()
        self.rnn = kind(4, 6, batch_first=batch_first, **options)
        self.head = nn.Linear((self.rnn.proj_size or 6) * (2 if self.rnn.bidirectional else 1), 3)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.rnn(x if self.batch_first else x.transpose(0, 1))
        return self.head(steps.mean(1 if self.batch_first else 0))


class Encoder(nn.Module):
    """A stack of nn.TransformerEncoderLayer with learned positions, tokens or samples first inside."""

    def __init__(self, batch_first: bool, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.positions = nn.Parameter(torch.randn(6, 8))
        self.head = nn.Linear(8, 3)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions
        if self.batch_first:
            return self.head(self.encoder(x).mean(1))
        return self.head(self.encoder(x.transpose(0, 1)).mean(0))


class TimeFirstRows(nn.Module):
    """Linear layers on (time * samples, width) matrices: the rows of a sample are ``batch`` apart."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        time_first = x.transpose(0, 1)
        rows = F.gelu(self.norm(self.inner(time_first.reshape(-1, x.shape[-1]))))
        return self.head(rows.view(*time_first.shape[:2], -1).mean(0))


class Siamese(nn.Module):
    """Both images of a pair in one forward, stacked along the rows: sample i owns rows i and N + i."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 6))
        self.head = nn.Linear(12, 3)

    def forward(self, pairs: Tensor) -> Tensor:
        first, second = self.trunk(torch.cat([pairs[:, 0], pairs[:, 1]])).chunk(2)
        return self.head(torch.cat([first * second, (first - second).abs()], 1))


class BagOfViews(nn.Module):
    """Several views per sample folded into the rows (sample i owns rows i V to i V + V - 1), pooled by attention."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten())
        self.gate, self.head = nn.Linear(36, 1), nn.Linear(36, 3)

    def forward(self, views: Tensor) -> Tensor:
        features = self.trunk(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        return self.head((self.gate(features).softmax(1) * features).sum(1))


class ClassToken(nn.Module):
    """A class token in front of the tokens, by ``expand`` or by ``repeat``, then one attention layer."""

    def __init__(self, repeat: bool) -> None:
        super().__init__()
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 7, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.repeat = repeat

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.repeat(len(x), 1, 1) if self.repeat else self.token.expand(len(x), -1, -1)
        x = torch.cat([token, x], 1) + self.positions
        return self.head(self.attention(x, x, x)[0][:, 0])


class LeftMatmul(nn.Module):
    """Raw parameters on the left of a matmul: they mix tokens, and a row vector pools them."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.pool = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(1, 6))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.pool @ torch.tanh(torch.matmul(self.mix, x))).squeeze(1))


class HeadEinsum(nn.Module):
    """A raw weight per head in an einsum, a per-head bias, and a relative position table that is indexed."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys = nn.Parameter(torch.randn(2, 8, 4)), nn.Parameter(torch.randn(2, 8, 4))
        self.values, self.out = nn.Parameter(torch.randn(2, 8, 4)), nn.Parameter(torch.randn(2, 4, 8))
        self.bias, self.table = nn.Parameter(torch.randn(2, 1, 4)), nn.Parameter(torch.randn(11, 2))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = torch.einsum("btd,hde->bhte", x, self.queries) + self.bias
        k, v = (torch.einsum("btd,hde->bhte", x, weight) for weight in (self.keys, self.values))
        steps = torch.arange(6, device=x.device)
        position = self.table[steps[:, None] - steps[None, :] + 5].permute(2, 0, 1)
        weights = (torch.einsum("bhte,bhse->bhts", q, k) / 2 + position).softmax(-1)
        return self.head(torch.einsum("bhts,bhse,hed->btd", weights, v, self.out).mean(1))


class Temperature(nn.Module):
    """Cosine similarity to raw class prototypes, scaled by ``logit_scale.exp()``, plus a scalar bias, as in SigLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 8, bias=False)
        self.prototypes = nn.Parameter(torch.randn(3, 8))
        self.logit_scale, self.logit_bias = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-0.5))

    def forward(self, x: Tensor) -> Tensor:
        features = F.normalize(self.encode(x), dim=-1)
        return self.logit_scale.exp() * features @ F.normalize(self.prototypes, dim=-1).t() + self.logit_bias


class TiedBlock(nn.Module):
    """One block applied three times, and a weight that is used once as it is and once transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8, bias=False)
        self.block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for _ in range(3):
            x = x + self.block(x)
        return self.head(torch.tanh(x @ self.embed.weight))


class LowRank(nn.Module):
    """A linear layer with a parallel low-rank path ``x @ A @ B``, and a low-rank path merged into a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.down, self.up = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 8))
        self.left, self.right = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.base(x) + 0.5 * (x @ self.down @ self.up))
        return F.linear(x, self.head.weight + self.left @ self.right, self.head.bias)


class GatedBlock(nn.Module):
    """RMSNorm, a gated linear unit and a LayerScale on (samples, tokens, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.widen, self.narrow = nn.RMSNorm(6), nn.Linear(6, 16), nn.Linear(8, 6)
        self.scale, self.head = nn.Parameter(1e-5 * torch.ones(6)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.narrow(F.glu(self.widen(self.norm(x)), dim=-1))
        return self.head(x.amax(1))


class SlicedWeight(nn.Module):
    """One parameter cut into the weights of two layers and a bias, with in-place arithmetic on activations."""

    def __init__(self) -> None:
        super().__init__()
        self.packed = nn.Parameter(torch.randn(6 * 8 + 8 * 3 + 3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, bias = self.packed.split([48, 24, 3])
        hidden = F.linear(x, first.view(8, 6)).mul_(0.7).relu_()
        return torch.addmm(bias, hidden, second.view(8, 3))


class DynamicWeight(nn.Module):
    """A separate weight for every sample, computed from the sample, then applied by bmm."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.shared = nn.Linear(6, 24), nn.Parameter(torch.randn(4, 6))
        self.head = nn.Bilinear(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.make(x).view(len(x), 4, 6) + self.shared
        return self.head(torch.tanh(torch.bmm(weight, x.unsqueeze(-1)).squeeze(-1)), x)


def upsampling_net() -> nn.Module:
    """Weight-normalised convolutions, PReLU and a transposed convolution."""
    return nn.Sequential(
        weight_norm(nn.Conv2d(3, 4, 3, stride=2, padding=1)),
        nn.PReLU(4),
        nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.PReLU(),
        nn.InstanceNorm2d(4, affine=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        weight_norm(nn.Linear(16, 3)),
    )


def waveform_net() -> nn.Module:
    """Grouped, dilated and depthwise Conv1d on waveforms."""
    return nn.Sequential(
        nn.Conv1d(2, 8, 5, stride=2, groups=2),
        nn.GELU(),
        nn.Conv1d(8, 8, 3, dilation=2, groups=8, padding=2, padding_mode="circular"),
        nn.GroupNorm(1, 8),
        nn.SiLU(),
        nn.Conv1d(8, 4, 1),
        nn.AdaptiveMaxPool1d(3),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def video_net() -> nn.Module:
    """Conv3d in channels-last memory order, BatchNorm3d in eval mode."""
    return nn.Sequential(
        nn.Conv3d(3, 4, (2, 3, 3), padding=(0, 1, 1)),
        nn.BatchNorm3d(4),
        nn.Hardswish(),
        nn.AvgPool3d((1, 2, 2)),
        nn.Flatten(),
        nn.Linear(48 * 4, 3),
    )


class WordBag(nn.Module):
    """EmbeddingBag (mean of words) beside an Embedding with a padding index and its own weights per word."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(9, 4, mode="mean")
        self.words = nn.Embedding(9, 4, padding_idx=0)
        self.importance = nn.Embedding(9, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        weights = self.importance(tokens).softmax(1)
        return self.head(torch.cat([self.bag(tokens), (weights * self.words(tokens)).sum(1)], 1))
