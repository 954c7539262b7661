"""SAM in the real Lightning Trainer, against a loop written by hand."""

import warnings

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.nn import functional as F

from gsnr_toolkit import SAM, ProbeError
from gsnr_toolkit.errors import ProbeWarning
from tests.support.hand_loop import distance, expected_prints, recipes, sam_step_by_hand

OPTIONS = {"lr": 0.05, "weight_decay": 0.01}
RHO = 0.2


@pytest.fixture(scope="module")
def page():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return recipes("Lightning")


def make_net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def make_loader(rows=4, count=24):
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()), batch_size=rows
    )


def make_trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"enable_checkpointing": False, "max_epochs": 2, **options}
    return pl.Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **quiet, **options)


def fit(module, trainer, loader, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"lightning\.")
        warnings.filterwarnings("error", category=ProbeWarning)
        trainer.fit(module, loader, **options)


def by_hand(groups_of, epochs=2, *, autocast=False, clip=None, rho=RHO, rows=4):
    """Train a twin, `groups_of` micro-batches to a step; the learning rate falls after each epoch."""
    net = make_net()
    base = torch.optim.AdamW(net.parameters(), **OPTIONS)
    scheduler = torch.optim.lr_scheduler.StepLR(base, 1, gamma=0.5)

    def loss_fn(part):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast, cache_enabled=False):
            return F.cross_entropy(net(part[0]), part[1])

    for _ in range(epochs):
        batches = list(make_loader(rows))
        for start in range(0, len(batches), groups_of):
            parts = batches[start : start + groups_of]
            sam_step_by_hand(net.parameters(), base, loss_fn, parts, rho=rho, clip=clip)
        scheduler.step()
    return net


def sam_and_scheduler(self):
    optimizer = SAM(self.model, torch.optim.AdamW, rho=RHO, **OPTIONS)
    return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


@pytest.fixture
def automatic(page, monkeypatch):
    monkeypatch.setattr(page["Classifier"], "configure_optimizers", sam_and_scheduler)
    return page["Classifier"]


class EpochScheduler(pl.Callback):
    """Manual optimization leaves schedulers to the user."""

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.lr_schedulers().step()


@pytest.fixture
def manual(page, monkeypatch):
    monkeypatch.setattr(page["Classifier"], "configure_optimizers", sam_and_scheduler)
    return page["Accumulating"]


def assert_same(net, twin, plain, tolerance=1e-12):
    assert distance(net, twin) < tolerance
    assert distance(net, plain) > 10 * tolerance  # SAM differs from the base optimizer here


def test_the_page_runs_and_prints_what_it_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recipes("Lightning")
    assert capsys.readouterr().out == expected_prints("Lightning")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("clip", [None, 0.05])
def test_automatic_optimization(automatic, tmp_path, clip):
    net = make_net()
    trainer = make_trainer(tmp_path, gradient_clip_val=clip)
    fit(automatic(net), trainer, make_loader())
    assert_same(net, by_hand(1, clip=clip), by_hand(1, clip=clip, rho=0.0))
    assert trainer.global_step == trainer.optimizers[0].steps == 12


@pytest.mark.parametrize(("count", "clip"), [(1, None), (3, None), (3, 0.05), (4, 0.05)])
def test_manual_optimization_accumulates(manual, tmp_path, count, clip):
    net = make_net()  # 4 does not divide 6 micro-batches
    trainer = make_trainer(tmp_path, callbacks=[EpochScheduler()])
    fit(manual(net, count, clip=clip), trainer, make_loader())
    assert_same(net, by_hand(count, clip=clip), by_hand(count, clip=clip, rho=0.0))
    assert trainer.global_step == trainer.optimizers[0].steps == 2 * -(-6 // count)


@pytest.mark.parametrize("form", ["automatic", "manual"])
def test_bf16(request, tmp_path, form):
    kind = request.getfixturevalue(form)
    net = make_net()
    module = kind(net, 2, clip=0.05) if form == "manual" else kind(net)
    callbacks = [EpochScheduler()] if form == "manual" else []
    clip = {} if form == "manual" else {"gradient_clip_val": 0.05}
    fit(module, make_trainer(tmp_path, precision="bf16-mixed", callbacks=callbacks, **clip), make_loader())
    twin = {"autocast": True, "clip": 0.05}
    steps = 2 if form == "manual" else 1
    # a last bit of a weight may round to another half-precision number, which Adam makes visible
    assert_same(net, by_hand(steps, **twin), by_hand(steps, rho=0.0, **twin), tolerance=1e-6)


@pytest.mark.parametrize("form", ["automatic", "manual"])
def test_resuming_in_the_middle(request, tmp_path, form):
    kind = request.getfixturevalue(form)

    def module(net):
        return kind(net, 2) if form == "manual" else kind(net)

    callbacks = [EpochScheduler()] if form == "manual" else []
    first, second = make_net(), make_net()
    trainer = make_trainer(tmp_path, max_epochs=1, callbacks=callbacks)
    fit(module(first), trainer, make_loader())
    trainer.save_checkpoint(tmp_path / "middle.ckpt")
    resumed = make_trainer(tmp_path, max_epochs=2, callbacks=callbacks)
    fit(module(second), resumed, make_loader(), ckpt_path=tmp_path / "middle.ckpt")
    steps = 2 if form == "manual" else 1
    assert_same(second, by_hand(steps), by_hand(steps, rho=0.0))
    assert resumed.optimizers[0].steps == resumed.global_step == 12 / steps


def test_accumulation_in_automatic_optimization_is_told(automatic, tmp_path):
    with pytest.warns(ProbeWarning, match=r"inside the closure \(a trainer that accumulates"):
        make_trainer(tmp_path, accumulate_grad_batches=3).fit(automatic(make_net()), make_loader())


@pytest.mark.parametrize("clip", [None, 0.05])
def test_the_trainers_own_scaler_is_refused(automatic, tmp_path, clip):
    """What `precision="16-mixed"` is on a GPU; on a CPU, Lightning takes bf16 instead."""
    net = make_net()
    mixed = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    trainer = make_trainer(tmp_path, plugins=[mixed], gradient_clip_val=clip)
    with pytest.raises(ProbeError, match="step\\(closure, scaler=scaler\\)"):
        fit(automatic(net), trainer, make_loader())
    assert distance(net, make_net()) == 0
