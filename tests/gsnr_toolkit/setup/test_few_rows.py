"""Models that run on the loader's batches, but not on one row, on two, or on batches that are joined."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from gsnr_toolkit import estimate_cor, estimate_gsnr
from gsnr_toolkit.errors import ProbeError


class _Streams(nn.Module):
    """Keeps a state for a fixed number of streams."""

    def __init__(self, rows=8):
        super().__init__()
        self.rnn, self.head = nn.GRU(6, 4, batch_first=True), nn.Linear(4, 2)
        self.register_buffer("h", torch.zeros(1, rows, 4))

    def forward(self, x):
        return self.head(self.rnn(x[:, None], self.h)[0][:, -1])


class _Fixed(nn.Linear):
    """Views its input as batches of eight."""

    def forward(self, x):
        return super().forward(x.view(8, 6))


class _Standing(nn.Linear):
    """Refuses a single row, as batch normalisation by hand does."""

    def forward(self, x):
        if len(x) < 2:
            raise ValueError("more than one row, please")
        return super().forward(x)


def _batches(size=8, count=8):
    return [(torch.randn(size, 6), torch.randint(0, 2, (size,))) for _ in range(count)]


@pytest.mark.parametrize("model", [_Streams(), _Fixed(6, 2), _Standing(6, 2)])
@pytest.mark.parametrize("engine", ["auto", "loop"])
@pytest.mark.parametrize("own_loss", [False, True])
def test_a_model_tied_to_a_batch_size(model, engine, own_loss):
    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    chosen = loss if own_loss else None
    with pytest.raises(
        ProbeError, match=r"run 1 to 3 rows, but it runs on the whole batch of 8 rows only .*; take the"
    ):
        estimate_gsnr(model, _batches(), loss_fn=chosen, engine=engine, progress=False)


def test_a_model_that_runs_on_nothing_keeps_its_own_error():
    with pytest.raises(RuntimeError, match="Expected hidden"):
        estimate_gsnr(_Streams(5), _batches(), progress=False)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(8, track_running_stats=False), nn.SyncBatchNorm(8, track_running_stats=False)]
)
def test_batch_statistics_in_eval_mode(norm):
    model = nn.Sequential(nn.Linear(6, 8), norm, nn.ReLU(), nn.Linear(8, 2)).eval()
    with pytest.raises(ProbeError, match=r"without running statistics \('1' and 0 more\).*GroupNorm"):
        estimate_gsnr(model, _batches(), progress=False)


class _Tagger(nn.Module):
    def __init__(self, ordered):
        super().__init__()
        self.table, self.rnn = nn.Embedding(20, 8, padding_idx=0), nn.GRU(8, 8, batch_first=True)
        self.head, self.ordered = nn.Linear(8, 2), ordered

    def forward(self, x, lengths):
        packed = pack_padded_sequence(self.table(x), lengths, batch_first=True, enforce_sorted=self.ordered)
        return self.head(self.rnn(packed)[1][-1])


def _tagged(model, batch):
    return F.cross_entropy(model(batch[0], batch[1]), batch[2], reduction="none")


def _sentences(as_list=False, count=16, size=4):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        lengths = torch.randint(1, 10, (size,), generator=generator).sort(descending=True).values
        x = torch.randint(1, 20, (size, 10), generator=generator) * (torch.arange(10)[None] < lengths[:, None])
        yield x, lengths.tolist() if as_list else lengths, torch.randint(0, 2, (size,), generator=generator)


def test_lengths_as_a_list_are_lengths_as_a_tensor():
    model = _Tagger(False)
    found = [
        estimate_cor(model, list(_sentences(as_list)), loss_fn=_tagged, batch_size=8, engine="loop", progress=False)
        for as_list in (False, True)
    ]
    assert found[0].total["gsnr"] == found[1].total["gsnr"]
    assert found[0].total["cor_high"] == found[1].total["cor_high"]
    assert found[0].drift["drift"].equals(found[1].drift["drift"])


@pytest.mark.parametrize("as_list", [False, True])
def test_sorted_batches_run_apart(as_list):
    ordered, free = _Tagger(True), _Tagger(False)
    free.load_state_dict(ordered.state_dict())
    batches = list(_sentences(as_list))
    found = estimate_gsnr(ordered, batches, loss_fn=_tagged, progress=False)
    expected = estimate_gsnr(free, batches, loss_fn=_tagged, engine="loop", progress=False)
    assert found.total["gsnr"] == pytest.approx(expected.total["gsnr"], rel=1e-4)


def test_sorted_batches_that_are_regrouped():
    with pytest.raises(ProbeError, match=r"mini-batches of 8 rows, which are regrouped .*enforce_sorted=False"):
        estimate_cor(_Tagger(True), list(_sentences()), loss_fn=_tagged, batch_size=8, progress=False)
