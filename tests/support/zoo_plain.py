"""The zoo's models of plain torch, each with one difficulty."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.cases import Case
from tests.support.zoo_modules import (
    BagOfViews,
    ClassToken,
    DynamicWeight,
    Encoder,
    GatedBlock,
    HeadEinsum,
    LeftMatmul,
    LowRank,
    Recurrent,
    Siamese,
    SlicedWeight,
    Temperature,
    TiedBlock,
    TimeFirstRows,
    WordBag,
    upsampling_net,
    video_net,
    waveform_net,
)


def data(*shape: int) -> tuple[Tensor, Tensor]:
    """Five normal samples of a shape, with labels 0 to 2."""
    return torch.randn(5, *shape), torch.tensor([0, 1, 2, 0, 1])


def sigmoid_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """SigLIP's pairwise loss: one binary decision per class prototype."""
    inputs, labels = batch
    logits = model(inputs)
    wanted = (labels[:, None] == torch.arange(logits.shape[1])).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1)


def tempered_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy whose temperature is a parameter that only the loss uses."""
    inputs, labels = batch
    return F.cross_entropy(model["net"](inputs) * model["scales"]["temperature"].exp(), labels, reduction="none")


def tempered_model() -> nn.Module:
    """A network with a parameter that its forward does not use."""
    scales = nn.ParameterDict({"temperature": nn.Parameter(torch.tensor(0.3))})
    return nn.ModuleDict({"net": nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 3)), "scales": scales})


PLAIN: dict[str, Case] = {
    "LSTM, two directions": Case(
        lambda: Recurrent(nn.LSTM, batch_first=True, num_layers=2, bidirectional=True), lambda: data(7, 4)
    ),
    "LSTM with projection, time first": Case(
        lambda: Recurrent(nn.LSTM, batch_first=False, proj_size=3), lambda: data(7, 4)
    ),
    "GRU, time first": Case(lambda: Recurrent(nn.GRU, batch_first=False), lambda: data(7, 4)),
    "TransformerEncoder, samples first": Case(lambda: Encoder(True, norm_first=True), lambda: data(6, 8)),
    "TransformerEncoder, tokens first": Case(lambda: Encoder(False, norm_first=False), lambda: data(6, 8)),
    "rows by time, then sample": Case(TimeFirstRows, lambda: data(7, 4)),
    "siamese pairs stacked along the rows": Case(Siamese, lambda: data(2, 3, 8, 8)),
    "views folded into the rows": Case(BagOfViews, lambda: data(4, 3, 8, 8)),
    "class token by expand": Case(lambda: ClassToken(repeat=False), lambda: data(6, 8)),
    "class token by repeat": Case(lambda: ClassToken(repeat=True), lambda: data(6, 8)),
    "parameter on the left of matmul": Case(LeftMatmul, lambda: data(6, 8)),
    "einsum with a weight per head": Case(HeadEinsum, lambda: data(6, 8)),
    "scalar temperature and prototypes": Case(Temperature, lambda: data(6), sigmoid_loss),
    "temperature used by the loss alone": Case(tempered_model, lambda: data(6), tempered_loss),
    "block applied three times": Case(TiedBlock, lambda: data(6)),
    "low-rank adapter": Case(LowRank, lambda: data(6)),
    "RMSNorm, GLU, LayerScale": Case(GatedBlock, lambda: data(7, 6)),
    "one parameter cut into layers": Case(SlicedWeight, lambda: data(6)),
    "weight made from the sample": Case(DynamicWeight, lambda: data(6)),
    "weight norm, PReLU, ConvTranspose": Case(upsampling_net, lambda: data(3, 8, 8)),
    "grouped Conv1d": Case(waveform_net, lambda: data(2, 32)),
    "Conv3d": Case(video_net, lambda: data(3, 4, 8, 8)),
    "EmbeddingBag": Case(WordBag, lambda: (torch.randint(0, 9, (5, 6)), torch.tensor([0, 1, 2, 0, 1]))),
}
