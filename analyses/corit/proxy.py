"""Does the GSNR of the contrastive proxy follow the true one, and what do CoRIT's parts do to the proxy?

Claims (the paper's abstract): the CGP is a proxy of the gradient; the region mask suppresses its variance, injection
preserves its magnitude. *Following*: proxy GSNR (from self-blended counterparts, which know no forgery, and, as the
best that pairs can do, from the forgery of each image itself) against the true GSNR by layer, family and step of full
fine-tuning (``clip-lab``, twice the strength); true is that of the layer's own parameters, or of a logistic head on its
class token. *Parts*: variance and size of the CGP by layer on ``clip-demo``, for single tokens, for regions with and
without CGP anchors and RRM, and after RSI.

Command: ``python -m analyses.corit.proxy`` (``--smoke`` for a minute, ``--replot`` from the stored tables). It goes on
where it was stopped. Hardware: one core of a CPU.
Tables: ``figures/data/corit_proxy.csv`` (a row for each pair of readings, seed, family, step and layer),
``corit_proxy_ranks.csv`` (rank correlations), ``corit_proxy_parts.csv`` (a row for each variant, seed and layer),
``corit_proxy.json``. Figures: ``figures/corit_proxy.png`` and ``corit_proxy_parts.png``, both with ``.pdf``.

Obtained (3 seeds, n = 256; rank correlation over layers, families and steps together, 95 % interval over seeds).
*Following*: pairs of a real image and its own forgery follow the true GSNR of a head on the class token, .87 [.81, .92]
(tokens .61 [.36, .85]), and perhaps that of the layer's parameters, .49 [-.11, 1]; self-blended pairs, which know no
forgery, follow neither: -.10 [-.64, .44] and -.30 [-1, .60]. The proxy is as good as the counterpart.
*Parts* (n = 600 self-blended pairs): with shared anchors, RRM raises the variance of a region against nearest tokens
(30 to 2.7 at layer 2, since it keeps fewer tokens) and the squared mean as much (.110 to .014), so that its proxy GSNR
is lower, .0035 to .0053: it does not suppress variance. Shared anchors raise proxy GSNR over an image's own, .0035 to
.0014. RSI keeps it level over depth (.0032 to .0042) while the squared mean grows from .07 to 14: magnitude is
preserved, and more than that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analyses.corit.heads import keep, kept, read_kept, read_study, study_parser
from analyses.corit.proxy_plots import draw_following, draw_parts
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
from gsnr_toolkit.support.atomic import write_json, write_text
from gsnr_toolkit.support.provenance import environment

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


class Pairs:
    """Batches of real images with their own forgeries as counterparts.

    Args:
        data: An embedded data set, real and forged images in turn.
        count: Pairs.
    """

    def __init__(self, data: Any, count: int) -> None:
        self._data, self._count = data, count

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for start in range(0, self._count, 32):
            rows = range(start, min(start + 32, self._count))
            real, fake = (torch.stack([self._data[2 * row + k][0] for row in rows]) for k in (0, 1))
            yield real, fake, torch.zeros(len(real), dtype=torch.int64)


def following_rows(family: str, seed: int, steps: Sequence[int], samples: int) -> list[dict[str, Any]]:
    """Every proxy beside every truth, along one fine-tuning.

    Args:
        family: Whose images.
        seed: Of the head, the order, and the images to measure on.
        steps: Where to measure.
        samples: Images for the true GSNR; as many pairs for the proxy.

    Returns:
        A row for each proxy, truth, step and layer.
    """
    model: Any = build_model("clip-lab", seed=seed)
    set_tuning(model, "full")
    size: dict[str, Any] = {"image_size": model.image_size, "strength": STRENGTH}
    data = open_demo(family, split="val", size=4 * samples, seed=seed, **size)
    held = probe_loader(data, samples, seed=seed)
    pairs, maker = Pairs(data, samples), SelfBlendedCounterparts(mean=model.mean, std=model.std)
    real = [(images, labels) for images, _, labels in pairs]
    rows: list[dict[str, Any]] = []
    for step in fine_tuned(
        model,
        lambda: open_demo(family, size=TRAIN_IMAGES, **size),
        steps,
        seed,
        False,
        LEARNING_RATE,
    ):
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
    """Rank correlations over layers, families and steps, one for each seed, averaged.

    Args:
        table: What :func:`following_rows` gave.

    Returns:
        A row for each proxy, truth and scope, with the interval over seeds (t) of the mean.
    """
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
    from scipy.stats import t

    mean, nan = float(values.mean()), float("nan")
    if len(values) < 3:
        return {"spearman": mean, "low": nan, "high": nan}
    margin = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return {"spearman": mean, "low": max(-1.0, mean - margin), "high": min(1.0, mean + margin)}


def part_rows(variant: str, seed: int, pairs: int) -> list[dict[str, Any]]:
    """Variance and size of one variant's CGP by layer.

    Args:
        variant: A key of :data:`PARTS`.
        seed: Of the images.
        pairs: Real images with self-blended counterparts.

    Returns:
        A row for each layer; ``variance`` and ``signal`` (squared mean, debiased) are those of one vector: a token or a
        region.
    """
    options, pool = PARTS[variant]
    detector = CoRIT.from_encoder("clip-demo", cgp_layer=CGP_LAYER, mid_layer=CGP_LAYER, **options)
    data = open_demo("df", size=2 * pairs, seed=seed)
    if detector.shared is not None:
        find_shared_regions(detector, open_demo("df", split="val", size=512, seed=seed))
    loader = [
        (torch.stack([data[row][0] for row in range(i, min(i + 64, 2 * pairs), 2)])) for i in range(0, 2 * pairs, 64)
    ]
    table = proxy_gsnr(detector, loader, pool=pool, progress=False)
    vectors = int(detector.far.shape[0]) if pool == "tokens" else detector.config.num_regions
    found = table.assign(variant=variant, seed=seed, pairs=pairs)
    found["variance"] = found["trace_covariance"] / vectors
    found["signal"] = found["mean_grad_sqnorm"] / vectors
    columns = ["variant", "seed", "pairs", "depth", "variance", "signal", "gsnr", "gsnr_low", "gsnr_high"]
    return found[columns].to_dict("records")


def compute(families: Sequence[str], seeds: int, runs: Path, out: Path, *, smoke: bool = False) -> None:
    """Make what is missing, and write the tables after each piece.

    Args:
        families: Which families.
        seeds: Number of seeds.
        runs: Where results are kept.
        out: Folder of the tables.
        smoke: Few steps and samples.
    """
    out.mkdir(parents=True, exist_ok=True)
    steps, samples, pairs = ((0, 2), 32, 32) if smoke else (STEPS, SAMPLES, 600)
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for variant in PARTS:
            about = {
                "study": "proxy parts",
                "variant": variant,
                "options": PARTS[variant],
                "seed": seed,
                "pairs": pairs,
            }
            place = kept(runs, about)
            rows += read_kept(place) or keep(place, part_rows(variant, seed, pairs))
            write_text(out / "corit_proxy_parts.csv", pd.DataFrame(rows).to_csv(index=False))
        _say(f"parts, seed {seed}")
    rows = []
    for seed in range(seeds):
        for family in families:
            about = {"study": "proxy", "family": family, "seed": seed, "steps": list(steps), "samples": samples}
            place = kept(runs, {**about, "lr": LEARNING_RATE, "strength": STRENGTH})
            rows += read_kept(place) or keep(place, following_rows(family, seed, steps, samples))
            table = pd.DataFrame(rows).assign(samples=samples)
            write_text(out / "corit_proxy.csv", table.to_csv(index=False))
            write_text(out / "corit_proxy_ranks.csv", ranks(table).to_csv(index=False))
            _say(f"following, {family}, seed {seed}")
    write_json(out / "corit_proxy.json", {**environment(), "steps": steps, "samples": samples, "seeds": seeds})


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def plot(out: Path) -> None:
    """Draw the figures from the stored tables.

    Args:
        out: Folder of the tables.
    """
    table, found, parts = (pd.read_csv(out / f"corit_proxy{suffix}.csv") for suffix in ("", "_ranks", "_parts"))
    save(draw_following(table, found), out.parent / "corit_proxy")
    save(draw_parts(parts, list(PARTS)), out.parent / "corit_proxy_parts")


def main(arguments: list[str] | None = None) -> None:
    """Run the study.

    Args:
        arguments: Of the command line; those of the process when None.
    """
    chosen = read_study(study_parser(__doc__, FAMILIES), arguments)
    if not chosen.replot:
        compute(chosen.families.split(","), chosen.seeds, chosen.runs, chosen.out, smoke=chosen.smoke)
    plot(chosen.out)


if __name__ == "__main__":
    main()
