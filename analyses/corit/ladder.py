"""Where are regions weak: in the encoder, in the proxy that finds them, or in pooling?

The rungs, all on the same frozen tokens of one layer: K random regions of each image (the floor); K regions found by
the image's own CGP; K regions found by the CGPs of many images (``anchors="shared"``); the true forged mask as one
region, which no detector knows (the ceiling of regions); every patch token as input of the head; the class token. A
ceiling at chance means that the encoder carries nothing at that layer; CGP regions at the floor mean that the proxy
finds nothing. ``sbi`` stands for self-blended pairs, with the mask of the blend.

Command: ``python -m analyses.corit.ladder`` (``--smoke``, ``--replot``, ``--families``).
Hardware: one core of a shared CPU, 18 minutes of wall time for four families, of which about half was work; resumes.
Obtained: shared regions reach .93 on nt where an image's own CGP reaches .59; all rungs are in ``analyses/README.md``.
Table: ``figures/data/corit_ladder.csv``, a row for each family, layer, rung and seed.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from analyses.corit.features import SMOKE, Bench, fit_once, open_images
from analyses.corit.heads import Split, choose_rate, fit_head, score
from analyses.corit.plots import draw_ladder
from analyses.support.runner import run_study
from analyses.support.tables import read_table, store
from corit.model.detector import CoRIT
from corit.model.features import find_shared_regions, head_logits
from corit.model.regions import Regions, pool_regions
from corit.model.tower import iter_layers
from gsnr_toolkit.models.spec import input_spec
from gsnr_toolkit.report.plots.style import save

LAYERS = (0, 1, 2, 4, 6, 8)
CGP_LAYER = 2
RUNGS = ("random regions", "CGP regions", "shared CGP regions", "true mask", "all patch tokens", "class token")
FAMILIES = ("nt", "df", "f2f", "fs", "sbi")
_ANCHORS = {"random regions": "random", "CGP regions": "cgp", "shared CGP regions": "shared"}

Rungs = dict[tuple[str, int], Tensor]


class Ladder:
    """Features of every rung for the images of one family; on the CPU when ``device`` is None."""

    def __init__(self, bench: Bench, family: str, device: str | None) -> None:
        self.bench, self.family, self.device = bench, family, device or "cpu"
        self.detectors = {
            rung: CoRIT.from_encoder(
                bench.encoder, anchors=anchors, cgp_layer=CGP_LAYER, hri=False, mid_layer=1, rrm=anchors != "random"
            ).to(self.device)
            for rung, anchors in _ANCHORS.items()
        }
        self.encoder = self.detectors["CGP regions"].encoder
        self.layers = [
            layer for layer in LAYERS if layer <= len(self.encoder.get_submodule("transformer.resblocks")._modules)
        ]

    def splits(self, seeds: int) -> dict[str, tuple[Rungs, Tensor]]:
        """Return features by rung and layer, and labels, of each split."""
        sizes = {"train": seeds * self.bench.train_images, "val": self.bench.val_images, "test": self.bench.test_images}
        return {split: self._features(split, size) for split, size in sizes.items()}

    @torch.no_grad()
    def _features(self, split: str, size: int) -> tuple[Rungs, Tensor]:
        spec = input_spec(self.detectors["CGP regions"])
        data: Any = open_images(self.bench, self.family, split, size, spec)
        if split == "train":
            find_shared_regions(self.detectors["shared CGP regions"], data)
        parts = [self._batch(data, range(i, min(i + 64, size))) for i in range(0, size, 64)]
        joined = {place: torch.cat([part[place] for part in parts]) for place in parts[0]}
        return joined, torch.tensor(data.labels)

    def _batch(self, data: Any, rows: range) -> Rungs:
        images = torch.stack([data[row][0] for row in rows]).to(self.device)
        masks = np.stack([data.pair(row).mask for row in rows[::2]]).repeat(2, 0)  # rows alternate real and forged
        maker: Any = self.detectors["CGP regions"].counterpart
        *_, other = iter_layers(self.encoder, maker(images), CGP_LAYER)
        layers = list(iter_layers(self.encoder, images))
        cgp = (layers[CGP_LAYER] - other)[:, 1:]
        regions = {rung: detector.regions_of(cgp, images) for rung, detector in self.detectors.items()}
        inside = patch_shares(torch.from_numpy(masks).to(self.device), layers[0].shape[1] - 1)
        return {
            (rung, layer): vectors.cpu()
            for layer in self.layers
            for rung, vectors in _rungs(layers[layer], regions, inside).items()
        }


def patch_shares(masks: Tensor, patches: int) -> Tensor:
    """Return the forged share of each of T patches, ``(N, T)``, from masks ``(N, S, S)`` in [0, 1]; T is a square.

    >>> patch_shares(torch.eye(4)[None], 4).tolist()
    [[0.5, 0.0, 0.0, 0.5]]
    """
    return F.adaptive_avg_pool2d(masks[:, None], round(patches**0.5)).flatten(1)


def _rungs(tokens: Tensor, regions: dict[str, Regions], inside: Tensor) -> dict[str, Tensor]:
    patches = tokens[:, 1:]
    weights = inside / inside.sum(1, keepdim=True)
    found = {rung: _ready(pool_regions(patches, each)) for rung, each in regions.items()}
    found["true mask"] = _ready(torch.einsum("nt,ntd->nd", weights, patches)[:, None])
    found["all patch tokens"] = _ready(patches)
    found["class token"] = _ready(tokens[:, :1])
    return found


def _ready(vectors: Tensor) -> Tensor:
    """Normalise as CoRIT's head does; half precision saves memory."""
    normal = F.layer_norm(vectors, vectors.shape[-1:])
    return (normal.flatten(1) * vectors.shape[1] ** -0.5).half()


def compute(chosen: argparse.Namespace) -> None:
    """Fit what is missing, and write the table after each family."""
    bench = SMOKE if chosen.smoke else Bench()
    rows: list[dict[str, Any]] = []
    for family in chosen.families:
        about = {"study": "ladder", "bench": bench, "family": family, "seeds": chosen.seeds, "layer": CGP_LAYER}
        rows += fit_once(chosen.runs, about, partial(_family, bench, family, chosen.seeds, chosen.device))
        tables = {"": pd.DataFrame(rows)}
        store(chosen.out, "corit_ladder", tables, digits=None, bench=vars(bench), seeds=chosen.seeds)


def _family(bench: Bench, family: str, seeds: int, device: str | None) -> list[dict[str, Any]]:
    splits = Ladder(bench, family, device).splits(seeds)
    rows = []
    for rung, layer in splits["val"][0]:
        parts = {name: Split(found[rung, layer].float(), labels) for name, (found, labels) in splits.items()}
        for seed in range(seeds):
            training = parts["train"].part(seed, bench.train_images)
            lr = choose_rate(training, parts["val"], seed=seed, steps=bench.steps)
            fitted, _ = fit_head(training, parts["val"], seed=seed, steps=bench.steps, lr=lr)
            found = score(head_logits(fitted.head, parts["test"].features), parts["test"].labels)
            about: dict[str, Any] = {"family": family, "layer": layer, "rung": rung, "seed": seed, "lr": lr}
            counts = {"num_train": len(training.labels), "num_test": len(parts["test"].labels)}
            rows.append({**about, **counts, "val_auc": fitted.val_auc, "train_loss": fitted.train_loss, **found})
        mean = np.mean([row["auc"] for row in rows[-seeds:]])
        print(f"{family:<4} layer {layer}  {rung:<20} AUC {mean:.3f}", flush=True)
    return rows


def plot(out: Path) -> None:
    """Draw the figure from the stored table, beside its folder."""
    save(draw_ladder(read_table(out, "corit_ladder"), list(RUNGS)), out.parent / "corit_ladder")


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""
    run_study(compute, plot, __doc__, arguments, families=FAMILIES, embedded_only=True)


if __name__ == "__main__":
    main()
