from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from gsnr_toolkit.models.demo_training.checkpoint import export_weights
from gsnr_toolkit.models.demo_training.clip import load_demo_clip
from gsnr_toolkit.models.demo_training.pretrain import FacePool, PretrainOptions, clip_loss, pretrain

TINY = PretrainOptions(faces=48, steps=2, refine_steps=2, batch_size=16, warmup=1)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(TINY, quiet=True)
    take, calls = FacePool.take, []

    def failing(pool: FacePool, indices: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return take(pool, indices)

    monkeypatch.setattr(FacePool, "take", failing)
    with pytest.raises(KeyboardInterrupt):
        pretrain(TINY, tmp_path / "last.pt", every=1, quiet=True)
    resumed = pretrain(TINY, tmp_path / "last.pt", every=1, quiet=True)
    assert len(calls) == 5  # steps 0 and 1, the interruption, steps 2 and 3
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, rtol=0, atol=0)
    assert resumed.loss == whole.loss


def test_a_checkpoint_of_other_options_is_refused(tmp_path: Path) -> None:
    short = dataclasses.replace(TINY, steps=1, refine_steps=0, faces=16)
    pretrain(short, tmp_path / "last.pt", quiet=True)
    with pytest.raises(ValueError, match=r"last\.pt was made with .*; delete it or repeat its options"):
        pretrain(dataclasses.replace(short, seed=1), tmp_path / "last.pt", quiet=True)


def test_shipped_weights_round_trip_in_half_precision(tmp_path: Path) -> None:
    model = pretrain(dataclasses.replace(TINY, steps=1, refine_steps=0, faces=16), quiet=True).model
    export_weights(model, tmp_path / "w.safetensors", {"seed": "0"})
    loaded = load_demo_clip(tmp_path / "w.safetensors")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor.half().float())
    assert not list(tmp_path.glob("*.partial"))


def test_the_loss_is_symmetric_and_falls_with_agreement() -> None:
    images = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    texts = images.flip(0)
    scale = torch.tensor(20.0)
    torch.testing.assert_close(clip_loss(images, texts, scale), clip_loss(texts, images, scale))
    assert clip_loss(images, images, scale) < math.log(6) < clip_loss(images, texts, scale)
