"""Where does a weakness of regions sit: in the encoder, in the proxy that finds regions, or in pooling?

The rungs, all on the same frozen tokens of one layer: K random regions of each image (the floor); K regions by the
image's own CGP; K regions by the CGPs of many images (``anchors="shared"``); the true forged mask as one region, which
no detector knows (the ceiling of regions); every patch token given to the head; the class token. A ceiling at chance
says that the encoder carries nothing at that layer; CGP regions at the floor, that the proxy finds nothing. ``sbi`` are
self-blended pairs, with the mask of the blend.

Command: ``python -m analyses.corit.ladder`` (``--smoke`` for seconds, ``--replot`` from the stored table). It goes on
where it was stopped. Hardware: one core of a shared CPU
(18 minutes of wall time for four families, of which about half was work).
Tables: ``figures/data/corit_ladder.csv`` (a row for each family, layer, rung and seed), ``corit_ladder.json``. Figure:
``figures/corit_ladder.png`` and ``.pdf``.

Obtained (test AUC at layer 2; n = 400 test images, 3 seeds of 1000 training images each; intervals in the table):

| rung | nt | df | f2f | fs |
|---|---|---|---|---|
| random regions | .578 | .537 | .618 | .527 |
| CGP regions of each image | .594 | .549 | .677 | .521 |
| shared CGP regions | .931 | .713 | .804 | .722 |
| true mask | .985 | .696 | .959 | .676 |
| all patch tokens | .970 | .723 | .906 | .712 |
| class token | .572 | .595 | .579 | .547 |

The encoder carries the traces (those of nt and f2f fade with depth, .93 and .82 under the true mask at layer 8; those
of df and fs do not). Regions by an image's own CGP sit at the floor: the proxy, not the encoder, was the weak place.
Shared regions reach what all patch tokens give on df and fs, and most of it on nt and f2f. Self-blended pairs
leave hardly a trace at this layer: true mask .548, all patch tokens .549, shared regions .506; the ceiling is near
chance, so that training on them is held back by the encoder, not by the regions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from analyses.corit.heads import (
    SMOKE,
    Bench,
    Split,
    choose_rate,
    fit_head,
    keep,
    kept,
    open_images,
    read_kept,
    read_study,
    score,
    study_parser,
)
from analyses.corit.plots import draw_ladder
from corit.model.detector import CoRIT
from corit.model.features import head_logits
from corit.model.regions import Regions, pool_regions
from corit.model.tower import iter_layers
from gsnr_toolkit.models.spec import input_spec
from gsnr_toolkit.report.plots.style import save
from gsnr_toolkit.support.atomic import write_json, write_text
from gsnr_toolkit.support.provenance import environment

LAYERS = (0, 1, 2, 4, 6, 8)
CGP_LAYER = 2
RUNGS = ("random regions", "CGP regions", "shared CGP regions", "true mask", "all patch tokens", "class token")
FAMILIES = ("nt", "df", "f2f", "fs", "sbi")
_ANCHORS = {"random regions": "random", "CGP regions": "cgp", "shared CGP regions": "shared"}

Rungs = dict[tuple[str, int], Tensor]


class Ladder:
    """Features of every rung.

    Args:
        bench: The study.
        family: Whose images.
        device: Where to work.
    """

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
        """All features.

        Args:
            seeds: Number of seeds.

        Returns:
            Features by rung and layer, and labels, of each split.
        """
        sizes = {"train": seeds * self.bench.train_images, "val": self.bench.val_images, "test": self.bench.test_images}
        return {split: self._features(split, size) for split, size in sizes.items()}

    @torch.no_grad()
    def _features(self, split: str, size: int) -> tuple[Rungs, Tensor]:
        spec = input_spec(self.detectors["CGP regions"])
        data: Any = open_images(self.bench, self.family, split, size, spec)
        if split == "train":
            self._share(data)
        parts = [self._batch(data, range(i, min(i + 64, size))) for i in range(0, size, 64)]
        joined = {place: torch.cat([part[place] for part in parts]) for place in parts[0]}
        return joined, torch.tensor(data.labels)

    def _share(self, data: Any) -> None:
        from corit.model.features import find_shared_regions

        find_shared_regions(self.detectors["shared CGP regions"], data)

    def _batch(self, data: Any, rows: range) -> Rungs:
        images = torch.stack([data[row][0] for row in rows]).to(self.device)
        masks = np.stack([data.pair(row).mask for row in rows[::2]]).repeat(2, 0)
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
    """Share of each patch that is forged.

    Args:
        masks: ``(N, S, S)``, in [0, 1].
        patches: Patches of an image, a square number.

    Returns:
        ``(N, T)``.

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
    """Normalised as CoRIT's head has them, in half precision to be kept."""
    normal = F.layer_norm(vectors, vectors.shape[-1:])
    return (normal.flatten(1) * vectors.shape[1] ** -0.5).half()


def compute(bench: Bench, families: list[str], seeds: int, runs: Path, out: Path, *, device: str | None) -> None:
    """Make what is missing, and write the table after each family.

    Args:
        bench: The study.
        families: Which families.
        seeds: Number of seeds.
        runs: Where fits are kept.
        out: Folder of the tables.
        device: Where to work.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for family in families:
        place = kept(runs, {"study": "ladder", "bench": bench, "family": family, "seeds": seeds, "layer": CGP_LAYER})
        rows += read_kept(place) or keep(place, _family(bench, family, seeds, device))
        write_text(out / "corit_ladder.csv", pd.DataFrame(rows).to_csv(index=False))
    write_json(out / "corit_ladder.json", {**environment(), "bench": vars(bench), "seeds": seeds})


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
        sys.stdout.write(
            f"{family:<4} layer {layer}  {rung:<20} AUC {np.mean([r['auc'] for r in rows[-seeds:]]):.3f}\n"
        )
        sys.stdout.flush()
    return rows


def plot(out: Path) -> None:
    """Draw the figure from the stored table.

    Args:
        out: Folder of the tables.
    """
    save(draw_ladder(pd.read_csv(out / "corit_ladder.csv"), list(RUNGS)), out.parent / "corit_ladder")


def main(arguments: list[str] | None = None) -> None:
    """Run the study.

    Args:
        arguments: Of the command line; those of the process when None.
    """
    chosen = read_study(study_parser(__doc__, FAMILIES), arguments)
    bench = SMOKE if chosen.smoke else Bench()
    if not chosen.replot:
        compute(bench, chosen.families.split(","), chosen.seeds, chosen.runs, chosen.out, device=chosen.device)
    plot(chosen.out)


if __name__ == "__main__":
    main()
