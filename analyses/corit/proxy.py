"""Does the GSNR of the contrastive proxy follow the true one, and what do CoRIT's parts do to the proxy?

Claims (the paper's abstract): the CGP is a proxy of the gradient; the region mask suppresses its variance, injection
preserves its magnitude. *Following* compares proxy GSNR with true GSNR by layer, family and step of full fine-tuning
(``clip-lab``, twice the strength). The proxy's counterparts are self-blended images, which know no forgery, or, as the
best that pairs can do, the forgery of each image itself. The true GSNR is that of the layer's own parameters, or of a
logistic head on its class token. *Parts* compares variance and size of the CGP by layer on ``clip-demo``, for single
tokens, for regions with and without CGP anchors and RRM, and after RSI.

Command: ``python -m analyses.corit.proxy`` (``--smoke``, ``--replot``, ``--families``).
Hardware: one core of a CPU; resumes.
Obtained: rank correlation with the true GSNR .87 [.81, .92] for pairs with an image's own forgery, -.10 [-.64, .44] for
self-blended pairs; all numbers are in ``analyses/README.md``.

Tables in ``figures/data``: ``corit_proxy.csv`` (a row for each pair of readings, seed, family, step and layer),
``corit_proxy_ranks.csv`` (rank correlations) and ``corit_proxy_parts.csv`` (a row for each variant, seed and layer).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analyses.corit.features import fit_once
from analyses.corit.proxy_plots import draw_following, draw_parts
from analyses.support.runner import run_study
from analyses.support.tables import margin, read_table, store
from corit.model.counterparts import SelfBlendedCounterparts
from corit.model.detector import CoRIT
from corit.model.features import find_shared_regions
from corit.proxy.check import compare_proxy
from corit.proxy.gsnr import proxy_gsnr
from corit.proxy.run import fine_tuned
from gsnr_toolkit.data.demo.dataset import open_demo
from gsnr_toolkit.data.loaders import probe_loader
from gsnr_toolkit.inputs.tuning import set_tuning
from gsnr_toolkit.models.registry import build_model
from gsnr_toolkit.probing.estimate import estimate_gsnr
from gsnr_toolkit.report.plots.style import save

FAMILIES = ("nt", "df", "f2f", "fs")
STEPS = (0, 100, 200)
STRENGTH, LEARNING_RATE, SAMPLES, TRAIN_IMAGES = 2.0, 1e-3, 256, 2000
POOLS = ("class", "tokens")
TRUTHS = ("parameters", "readout")

PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "every token": ({}, "tokens"),
    "random anchors, nearest tokens": ({"anchors": "random", "rrm": False}, "regions"),
    "CGP anchors, nearest tokens": ({"anchors": "cgp", "rrm": False}, "regions"),
    "CGP anchors, RRM": ({"anchors": "cgp"}, "regions"),
    "shared anchors, nearest tokens": ({"anchors": "shared", "rrm": False}, "regions"),
    "shared anchors, RRM": ({"anchors": "shared"}, "regions"),
    "CGP anchors, RRM, RSI": ({"anchors": "cgp"}, "injected"),
    "shared anchors, RRM, RSI": ({"anchors": "shared"}, "injected"),
}
CGP_LAYER = 2


def _pairs(data: Any, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield batches of real images with their own forgeries, which follow them in the data, as counterparts."""
    for start in range(0, count, 32):
        rows = range(start, min(start + 32, count))
        real, fake = (torch.stack([data[2 * row + k][0] for row in rows]) for k in (0, 1))
        yield real, fake, torch.zeros(len(real), dtype=torch.int64)


def following_rows(family: str, seed: int, steps: Sequence[int], samples: int) -> list[dict[str, Any]]:
    """Return a row for each proxy, truth, step and layer along one fine-tuning.

    The true GSNR is measured on ``samples`` images, the proxy on as many pairs. The seed is that of the head, the
    order, and the images to measure on.
    """
    model: Any = build_model("clip-lab", seed=seed)
    set_tuning(model, "full")
    size: dict[str, Any] = {"image_size": model.image_size, "strength": STRENGTH}
    data = open_demo(family, split="val", size=4 * samples, seed=seed, **size)
    held = probe_loader(data, samples, seed=seed)
    pairs, maker = list(_pairs(data, samples)), SelfBlendedCounterparts(mean=model.mean, std=model.std)
    real = [(images, labels) for images, _, labels in pairs]
    rows: list[dict[str, Any]] = []
    train_images = partial(open_demo, family, size=TRAIN_IMAGES, **size)
    for step in fine_tuned(model, train_images, steps, seed, False, LEARNING_RATE):
        model.eval()
        about = {"data": family, "step": step}
        truths = {
            truth: estimate_gsnr(model, held, layerwise=truth, progress=False).to_frame().assign(**about)
            for truth in TRUTHS
        }
        for pool in POOLS:
            proxies = {
                "self-blended": proxy_gsnr(model, real, counterpart=maker, pool=pool, progress=False),
                "own forgery": proxy_gsnr(model, pairs, pool=pool, progress=False),
            }
            for kind, proxy in proxies.items():
                for truth, frame in truths.items():
                    found = compare_proxy(proxy.assign(**about), frame).table
                    rows += found.assign(pool=pool, counterpart=kind, truth=truth, seed=seed).to_dict("records")
    return rows


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Average each seed's rank correlation of proxy and true GSNR, by proxy, truth and scope, with the interval (t)."""
    scopes = {"all": [], "layers": ["data", "step"], "families": ["step", "group"], "steps": ["data", "group"]}
    rows = []
    for keys, part in table.groupby(["counterpart", "pool", "truth"], sort=False):
        for scope, fixed in scopes.items():
            by_seed = [_mean_rank(mine, fixed) for _, mine in part.groupby("seed")]
            values = pd.Series(by_seed).dropna()
            about = dict(zip(("counterpart", "pool", "truth"), keys, strict=True))
            rows.append({**about, "scope": scope, "num_seeds": len(values), **_interval(values)})
    return pd.DataFrame(rows)


def _mean_rank(rows: pd.DataFrame, fixed: list[str]) -> float:
    groups = [part for _, part in rows.groupby(fixed)] if fixed else [rows]
    found = [part[["proxy_gsnr", "gsnr"]].dropna().corr("spearman").iloc[0, 1] for part in groups if len(part) >= 3]
    return float(pd.Series(found, dtype=float).mean())


def _interval(values: pd.Series) -> dict[str, float]:
    mean, reach = float(values.mean()), margin(values)
    low, high = np.clip([mean - reach, mean + reach], -1.0, 1.0)
    return {"spearman": mean, "low": float(low), "high": float(high)}


def part_rows(variant: str, seed: int, pairs: int) -> list[dict[str, Any]]:
    """Return the variance and the signal of one variant's CGP, a row for each layer.

    Both are per vector, a token or a region; ``signal`` is the squared mean, debiased. Counterparts are self-blended.
    """
    options, pool = PARTS[variant]
    detector = CoRIT.from_encoder("clip-demo", cgp_layer=CGP_LAYER, mid_layer=CGP_LAYER, **options)
    data = open_demo("df", size=2 * pairs, seed=seed)
    if detector.shared is not None:
        find_shared_regions(detector, open_demo("df", split="val", size=512, seed=seed))
    loader = [
        torch.stack([data[row][0] for row in range(i, min(i + 64, 2 * pairs), 2)]) for i in range(0, 2 * pairs, 64)
    ]
    table = proxy_gsnr(detector, loader, pool=pool, progress=False)
    vectors = int(detector.far.shape[0]) if pool == "tokens" else detector.config.num_regions
    found = table.assign(variant=variant, seed=seed, pairs=pairs)
    found["variance"] = found["trace_covariance"] / vectors
    found["signal"] = found["mean_grad_sqnorm"] / vectors
    columns = ["variant", "seed", "pairs", "depth", "variance", "signal", "gsnr", "gsnr_low", "gsnr_high"]
    return found[columns].to_dict("records")


def compute(chosen: argparse.Namespace) -> None:
    """Measure what is missing, and write the tables after each piece."""
    steps, samples, pairs = ((0, 2), 32, 32) if chosen.smoke else (STEPS, SAMPLES, 600)
    settings = {"steps": steps, "samples": samples, "seeds": chosen.seeds}
    rows: list[dict[str, Any]] = []
    for seed in range(chosen.seeds):
        for variant, options in PARTS.items():
            about = {"study": "proxy parts", "variant": variant, "options": options, "seed": seed, "pairs": pairs}
            rows += fit_once(chosen.runs, about, partial(part_rows, variant, seed, pairs))
        store(chosen.out, "corit_proxy", {"_parts": pd.DataFrame(rows)}, digits=None, **settings)
        print(f"parts, seed {seed}", flush=True)
    rows = []
    for seed in range(chosen.seeds):
        for family in chosen.families:
            about = {"study": "proxy", "family": family, "seed": seed, "steps": list(steps), "samples": samples}
            about |= {"lr": LEARNING_RATE, "strength": STRENGTH}
            rows += fit_once(chosen.runs, about, partial(following_rows, family, seed, steps, samples))
            table = pd.DataFrame(rows).assign(samples=samples)
            store(chosen.out, "corit_proxy", {"": table, "_ranks": ranks(table)}, digits=None, **settings)
            print(f"following, {family}, seed {seed}", flush=True)


def plot(out: Path) -> None:
    """Draw the figures from the stored tables, beside their folder."""
    table, found, parts = (read_table(out, f"corit_proxy{suffix}") for suffix in ("", "_ranks", "_parts"))
    save(draw_following(table, found), out.parent / "corit_proxy")
    save(draw_parts(parts, list(PARTS)), out.parent / "corit_proxy_parts")


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""
    run_study(compute, plot, __doc__, arguments, families=FAMILIES, embedded_only=True)


if __name__ == "__main__":
    main()
