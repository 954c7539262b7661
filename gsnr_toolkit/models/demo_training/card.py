"""The model card of the embedded CLIP, with measured numbers."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pandas as pd
from open_clip.model import CLIP

from gsnr_toolkit.data.demo.forgeries import FORGERIES
from gsnr_toolkit.models.demo_training.evaluate import Auc, probe_forgery, zero_shot_table

_INTRODUCTION = """\
# clip-demo

A small CLIP (Radford et al., ICML 2021) in open_clip's own format: a vision transformer of 8 blocks, width 128,
patch 8, for images of 64 pixels, and a text transformer of 2 blocks, width 64, over a vocabulary of words
(`gsnr_toolkit/data/demo/captions.py`). `clip-demo.json` is the configuration, `clip-demo.safetensors` the state
dictionary in float16, of which `clip-demo` uses the visual tower.

It was trained on **real** procedural faces and captions alone; it has seen no forgery, and none of the identities
of the forgery sets. It knows nothing about photographs of people and is no forgery detector: it is an encoder
with semantic features, small enough to study in seconds what happens when such an encoder is fine-tuned.
"""

_PROBES = """\
## Linear probes on frozen features

Logistic regression on the output of the visual tower, trained on pairs of {train} identities of the training split;
each of the test identities shows one image, real or forged. Intervals after DeLong et al. (1988).

| forgery | AUC | 95 % interval | n |
| --- | --- | --- | --- |
"""

_ZERO_SHOT = """\
## Zero-shot attributes

Each image of unseen identities takes the value whose prompt is nearest. Accuracy is the mean over values of the
share recognised; chance is one over the number of values.

| attribute | accuracy | 95 % interval | chance | n |
| --- | --- | --- | --- | --- |
"""


def probe_table(model: CLIP, train: int = 1500, test: int = 2000) -> dict[str, Auc]:
    """Compute the linear-probe AUC on every forgery family at its default strength.

    Args:
        model: The demo model.
        train: Number of training identities.
        test: Number of test identities.

    Returns:
        AUC by family.
    """
    return {family: probe_forgery(model, family, train=train, test=test) for family in FORGERIES}


def _zero_shot_rows(table: pd.DataFrame) -> str:
    rows = [
        f"| {row['attribute']} ({row['kind']}) | {row['accuracy']:.3f} | [{row['low']:.3f}, {row['high']:.3f}] "
        f"| {row['chance']:.3f} | {row['count']} |"
        for row in table.to_dict("records")
    ]
    return "\n".join(rows)


def _probe_rows(probes: dict[str, Auc]) -> str:
    return "\n".join(
        f"| `demo-{family}` | {result.value:.3f} | [{result.low:.3f}, {result.high:.3f}] | {result.count} |"
        for family, result in probes.items()
    )


def write_card(path: Path, model: CLIP, options: Any, minutes: float, threads: int, final_loss: float) -> None:
    """Evaluate the model and write its card, atomically.

    Args:
        path: File to write.
        model: The pretrained model, with the weights as shipped.
        options: The run's frozen dataclass of options.
        minutes: Wall time of the pretraining.
        threads: CPU threads it ran on.
        final_loss: Mean contrastive loss of the last steps.
    """
    train = 1500
    settings = dataclasses.asdict(options)
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())
    parts = [
        _INTRODUCTION,
        "## How it was made\n",
        f"```\npython -m gsnr_toolkit.models.demo_training.pretrain {flags} --threads {threads}\n```\n",
        f"{minutes:.0f} minutes on {threads} CPU threads, rendering included; {settings['faces']} identities, "
        f"{options.total * settings['batch_size']} images seen; final loss {final_loss:.2f} "
        f"in batches of {settings['batch_size']}. The seed is {settings['seed']}.\n",
        _ZERO_SHOT + _zero_shot_rows(zero_shot_table(model)) + "\n",
        _PROBES.format(train=train) + _probe_rows(probe_table(model, train)) + "\n",
    ]
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join(parts))
    os.replace(partial, path)
