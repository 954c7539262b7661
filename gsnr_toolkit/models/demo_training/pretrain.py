"""Contrastive pretraining of the embedded CLIP on real procedural faces and their captions.

Usage: ``python -m gsnr_toolkit.models.demo_training.pretrain --threads 2``. An interrupted run resumes from its
checkpoint. At the end the run writes the weights and the model card.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional

from gsnr_toolkit.data.demo.captions import captions, tokenize
from gsnr_toolkit.data.demo.pairs import real_faces
from gsnr_toolkit.data.demo.splits import identities
from gsnr_toolkit.models.demo_training.card import write_card
from gsnr_toolkit.models.demo_training.checkpoint import export_weights, load_checkpoint, save_checkpoint
from gsnr_toolkit.models.demo_training.clip import WEIGHTS_PATH, build_demo_clip, load_demo_clip, normalize
from gsnr_toolkit.optim.learning_rate import warmup_then_cosine

_MAX_LOGIT_SCALE = math.log(100)


@dataclass(frozen=True)
class PretrainOptions:
    """Options of the pretraining run; they are saved with the weights.

    The run has two parts. In the first, captions name semantic attributes and colours equally often. The model learns
    the colours of large areas, which nearly suffice to distinguish the faces of a batch. In the second part, captions
    rarely name those colours, so that the model must learn shapes (expression, pose, beard, ...) and photographic
    attributes.

    Attributes:
        seed: Seed of the weights, the faces, the batches and the captions.
        faces: Number of different identities.
        steps: Number of optimizer steps of the first part.
        refine_steps: Number of optimizer steps of the second part.
        batch_size: Pairs per step.
        learning_rate: Peak learning rate of AdamW in each part, between a linear warm-up and a cosine decay.
        weight_decay: Weight decay of matrices; gains, biases and the temperature have none.
        warmup: Warm-up steps of each part.
        semantic: Probability that a caption names a semantic attribute.
        colors: The same probability for the colours of large areas (skin, hair, clothes, background), first part.
        refine_colors: The same for the second part.
        photographic: Probability that a caption names a photographic attribute, first part.
        refine_photographic: The same for the second part.
    """

    seed: int = 0
    faces: int = 40_000
    steps: int = 900
    refine_steps: int = 800
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup: int = 100
    semantic: float = 0.6
    colors: float = 0.6
    refine_colors: float = 0.15
    photographic: float = 0.25
    refine_photographic: float = 0.4

    @property
    def total(self) -> int:
        """Number of steps of both parts."""
        return self.steps + self.refine_steps


class FacePool:
    """Real faces of the pretraining identities, rendered in chunks on first use.

    Args:
        count: Number of identities.
        seed: Seed of the faces.
        chunk: Identities rendered at once.
    """

    def __init__(self, count: int, seed: int, chunk: int = 2_000) -> None:
        self._identities = identities("pretrain", count)
        self._seed, self._chunk = seed, min(chunk, count)
        self._images: list[NDArray[np.uint8]] = []
        self._codes: list[dict[str, NDArray[np.int64]]] = []

    def __len__(self) -> int:
        return len(self._identities)

    def take(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
        """Return the images and attribute codes of some identities.

        Args:
            indices: Positions in the pool, (N,).

        Returns:
            Images (N, 64, 64, 3), uint8, and codes by attribute name, (N,) each.
        """
        while len(self._images) * self._chunk <= int(indices.max()):
            start = len(self._images) * self._chunk
            images, codes = real_faces(self._identities[start : start + self._chunk], seed=self._seed)
            self._images.append(images)
            self._codes.append(codes)
        places = [divmod(int(i), self._chunk) for i in indices]
        pixels = np.stack([self._images[block][row] for block, row in places])
        names = self._codes[0]
        return pixels, {n: np.array([self._codes[block][n][row] for block, row in places]) for n in names}


def clip_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Compute the symmetric cross-entropy of CLIP (Radford et al., 2021, figure 3).

    Args:
        images: Unit-length image embeddings (N, d).
        texts: Unit-length text embeddings (N, d); row i belongs to image i.
        scale: Inverse temperature.

    Returns:
        The mean loss; ``log N`` for embeddings without information.

    >>> same = torch.ones(4, 1)
    >>> round(float(clip_loss(same, same, torch.tensor(1.0)) - math.log(4)), 6)
    0.0
    """
    logits = scale * images @ texts.T
    target = torch.arange(len(images))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def learning_rate_at(step: int, options: PretrainOptions) -> float:
    """Compute the learning rate of a step: in each part a linear warm-up, then a half cosine to zero.

    Args:
        step: Step number from 0.
        options: Options of the run.

    Returns:
        The learning rate.

    >>> options = PretrainOptions(steps=200, refine_steps=200, warmup=100, learning_rate=1.0)
    >>> learning_rate_at(49, options), round(learning_rate_at(150, options), 6), learning_rate_at(249, options)
    (0.5, 0.5, 0.5)
    """
    steps = options.steps
    if step >= steps:
        step, steps = step - steps, options.refine_steps
    return warmup_then_cosine(step, steps, peak=options.learning_rate, warmup=options.warmup)


def _optimizer(model: CLIP, options: PretrainOptions) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), eps=1e-6)


def _batch(pool: FacePool, step: int, options: PretrainOptions) -> tuple[Tensor, Tensor]:
    """Build the images and captions of a step, as a pure function of (seed, step)."""
    # Epochs follow seeded permutations, so that a resumed run sees the data that an uninterrupted run would see.
    per_epoch = len(pool) // options.batch_size
    epoch, place = divmod(step, per_epoch)
    start = place * options.batch_size
    indices = np.arange(start, start + options.batch_size)
    if epoch:
        order = np.random.default_rng([options.seed, 1, epoch]).permutation(len(pool))
        indices = order[indices]
    pixels, codes = pool.take(indices)
    rng = np.random.default_rng([options.seed, 2, step])
    first = step < options.steps
    lines = captions(
        codes,
        rng,
        semantic=options.semantic,
        colors=options.colors if first else options.refine_colors,
        photographic=options.photographic if first else options.refine_photographic,
    )
    return normalize(pixels), torch.from_numpy(tokenize(lines))


def _step(model: CLIP, optimizer: torch.optim.AdamW, batch: tuple[Tensor, Tensor], rate: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    images, texts, scale = model(*batch)
    loss = clip_loss(images, texts, scale)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(max=_MAX_LOGIT_SCALE)
    return float(loss.detach())


@dataclass(frozen=True)
class Pretrained:
    """Result of a pretraining run.

    Attributes:
        model: The model, in eval mode.
        minutes: Wall time of the run and of all its interrupted parts, rendering included.
        loss: Running mean of the contrastive loss at the end.
    """

    model: CLIP
    minutes: float
    loss: float


def pretrain(
    options: PretrainOptions, checkpoint: Path | None = None, every: int = 100, quiet: bool = False
) -> Pretrained:
    """Pretrain the embedded CLIP.

    Args:
        options: Options of the run.
        checkpoint: File to resume from and to save to; None saves nothing.
        every: Number of steps between checkpoints, and between lines of progress.
        quiet: Print no progress.

    Returns:
        The model, its wall time and its loss.
    """
    model, pool = build_demo_clip(options.seed), FacePool(options.faces, options.seed)
    optimizer = _optimizer(model, options)
    first, seconds, mean_loss = 0, 0.0, math.log(options.batch_size)
    saved = load_checkpoint(checkpoint, dataclasses.asdict(options)) if checkpoint else None
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, seconds, mean_loss = saved["step"], saved["seconds"], saved["loss"]
    began = time.monotonic() - seconds
    for step in range(first, options.total):
        loss = _step(model, optimizer, _batch(pool, step, options), learning_rate_at(step, options))
        mean_loss = 0.95 * mean_loss + 0.05 * loss
        if (step + 1) % every and step + 1 < options.total:
            continue
        seconds = time.monotonic() - began
        if checkpoint:
            progress = {"step": step + 1, "seconds": seconds, "loss": mean_loss}
            save_checkpoint(checkpoint, {**progress, **_state(model, optimizer, options)})
        if not quiet:
            left = seconds / (step + 1) * (options.total - step - 1) / 60
            print(f"step {step + 1}/{options.total}  loss {mean_loss:.3f}  {left:.1f} min left", flush=True)
    return Pretrained(model.eval(), seconds / 60, mean_loss)


def _state(model: CLIP, optimizer: torch.optim.AdamW, options: PretrainOptions) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "options": dataclasses.asdict(options),
    }


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gsnr_toolkit.models.demo_training.pretrain", description=__doc__)
    for field in dataclasses.fields(PretrainOptions):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=type(field.default), default=field.default, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=WEIGHTS_PATH, help="weights file (default: the shipped one)")
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/pretrain-demo/last.pt"))
    parser.add_argument("--quiet", action="store_true", help="print no progress")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the pretraining from the command line, then write the weights, evaluate them and write the card.

    Args:
        argv: Arguments; None reads ``sys.argv``.
    """
    arguments = _arguments(argv)
    torch.set_num_threads(arguments.threads)
    names = [field.name for field in dataclasses.fields(PretrainOptions)]
    options = PretrainOptions(**{name: getattr(arguments, name) for name in names})
    result = pretrain(options, arguments.checkpoint, quiet=arguments.quiet)
    export_weights(result.model, arguments.output, {name: str(getattr(options, name)) for name in names})
    shipped = load_demo_clip(arguments.output)
    card = arguments.output.with_suffix(".md")
    write_card(card, shipped, options, result.minutes, arguments.threads, result.loss)
    print(f"wrote {arguments.output} and {card} after {result.minutes:.1f} minutes")


if __name__ == "__main__":
    main()
