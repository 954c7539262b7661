r"""CGP, the contrastive gradient proxy, and the GSNR that it predicts from forward passes alone.

The paper's public text: "The discrepancy of visual tokens serves as the Contrastive Gradient Proxy". Why it is a
gradient (our reconstruction): for a logistic head on a token's feature and the pair (x: real, x': fake), the gradient
of the pair's loss at the zero head, where p = 1/2, is

.. math:: (p - 0) z(x) + (p - 1) z(x') = \tfrac12 \bigl(z(x) - z(x')\bigr) = \tfrac12 c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from corit.model.injection import inject
from corit.model.pairs import Counterpart, real_rows, split_pairs
from corit.model.regions import pool_regions
from corit.model.tower import blocks_of, iter_layers, tower_of
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.estimators.gsnr import group_gsnr, group_totals
from gsnr_toolkit.inputs.batches import batch_length
from gsnr_toolkit.inputs.groups import Group, find_blocks
from gsnr_toolkit.inputs.loaders import draw_batches
from gsnr_toolkit.moments.by_group import GroupMoments
from gsnr_toolkit.moments.shards import MAX_SHARDS, ShardCollector
from gsnr_toolkit.moments.sketches import RowPlan, plan_rows
from gsnr_toolkit.readings.moment_pass import cut_at_shards
from gsnr_toolkit.report.tables import gsnr_rows
from gsnr_toolkit.setup.batch_guards import check_count
from gsnr_toolkit.support.arguments import COUNT, FUNCTION, LOADER, Kind, check_arguments, instance, optional
from gsnr_toolkit.support.progress import stage
from gsnr_toolkit.types import Loader

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["POOLS", "proxy_gsnr"]

#: The proxy of one sample at a layer, by name.
POOLS = {
    "class": "the class token's CGP, which corresponds to the readout reading",
    "mean": "the mean CGP of the patch tokens",
    "tokens": "the CGP of every patch token",
    "regions": "the mean CGP of each of CoRIT's regions, strongest anchor first",
    "injected": "CoRIT's region tokens after RSI: the image's minus the counterpart's, in the image's regions",
}


_SHARE = Kind(
    "between 0 and 1",
    lambda value: isinstance(value, Real) and 0 < float(value) < 1,
    "leave it out for the default, 0.95",
)


def proxy_gsnr(
    model: nn.Module,
    loader: Loader,
    *,
    counterpart: Counterpart | None = None,
    pool: str = "class",
    max_samples: int | None = None,
    confidence: float = 0.95,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Estimate the GSNR of the CGP by layer: its mean over images against its variance over images.

    .. math:: \hat r^l = \frac{\widehat{|\mathrm{E}\, c^l|^2}}{\mathrm{tr}\, \mathrm{Cov}(c^l)}

    The estimator is that of :func:`gsnr_toolkit.estimate_gsnr`: debiased, with an interval. A sample is a pair. Only
    real images (label 0) of labelled batches are used, so that the sign of c means the same for all.

    Args:
        model: A visual transformer of open_clip, or a model with one as ``encoder``.
        loader: Batches as :func:`corit.model.pairs.split_pairs` reads them.
        counterpart: Makes counterparts for batches without them; the model's own when None.
        pool: One of :data:`POOLS`; ``"regions"`` and ``"injected"`` need a CoRIT.
        max_samples: Maximum number of rows from the loader.
        confidence: Nominal coverage of the intervals.
        progress: Show a progress bar (on a terminal).

    Returns:
        One row per block, with the columns of a GSNR report: ``group, depth, num_params`` (dimensions of c),
        ``num_samples`` (pairs), ``gsnr, gsnr_low, gsnr_high, trace_covariance, mean_grad_sqnorm``, ...; and
        ``variance_ratio``: variance of c over that of z of the same images. Independent images instead of pairs would
        give 2. NaN where a variance is zero.

    Raises:
        ProbeError: If ``pool`` is unknown, there are fewer than four real images, or counterparts cannot be made.
    """
    check_arguments(
        model=(model, instance(nn.Module, "a model", "pass the torch.nn.Module")),
        loader=(loader, LOADER),
        counterpart=(counterpart, optional(FUNCTION)),
        max_samples=(max_samples, optional(COUNT)),
        confidence=(confidence, _SHARE),
    )
    if not isinstance(pool, str) or pool not in POOLS:
        raise ProbeError(f"expected pool to be one of {', '.join(map(repr, POOLS))}, got {pool!r}; choose one")
    if pool not in _POOLING and not getattr(getattr(model, "config", None), "num_regions", 0):
        raise ProbeError(f"expected a CoRIT with regions for pool={pool!r}, got a model without; use pool='mean'")
    maker = counterpart if counterpart is not None else getattr(model, "counterpart", None)
    labels = list(find_blocks(model).values())
    with stage("contrastive proxies", max_samples, show=progress) as advance:
        pooled = _pooled_batches(model, draw_batches(loader, max_samples), maker, pool, labels, advance)
        proxies, tokens, plan, shards = _moments(pooled, labels)
    check_count(proxies.count)
    estimate = group_gsnr(group_totals(proxies, plan), shards.summary(), confidence)
    sizes = [proxies.mean[label].numel() for label in labels]
    rows = gsnr_rows(labels, range(1, len(labels) + 1), sizes, estimate, [{}] * (len(labels) + 1))
    return _table(labels, rows, proxies, tokens)


def _table(labels: list[str], rows: list[dict[str, Any]], proxies: GroupMoments, tokens: GroupMoments) -> pd.DataFrame:
    import pandas as pd

    for label, row in zip(labels, rows, strict=False):  # the row of the whole model is left out
        spread = tokens.spread([label])
        row["variance_ratio"] = proxies.spread([label]) / spread if spread > 0 else float("nan")
    return pd.DataFrame(rows[: len(labels)])


def _pooled_batches(
    model: nn.Module,
    batches: Iterator[Any],
    maker: Counterpart | None,
    pool: str,
    labels: list[str],
    advance: Callable[[int], None],
) -> Iterator[dict[str, dict[str, Tensor]]]:
    """Yield pooled proxies and tokens of the real images of each batch, by block."""
    encoder = tower_of(model)
    for batch in batches:
        pairs = real_rows(split_pairs(batch))
        if len(pairs.images):
            with torch.no_grad():
                images, counterparts = pairs.complete(maker)
                layers = list(zip(*(iter_layers(encoder, each) for each in (images, counterparts)), strict=True))
                found = _pooled(model, images, layers, pool)
            yield {kind: dict(zip(labels, values, strict=True)) for kind, values in found.items()}
        advance(batch_length(batch))


def _pooled(model: Any, images: Tensor, layers: list[tuple[Tensor, Tensor]], pool: str) -> dict[str, list[Tensor]]:
    """Return proxy and token of each image at layers 1 to L, ``(N, D)`` each, float64 on the CPU."""
    if pool in _POOLING:
        pairs = [(_POOLING[pool](own.double()), _POOLING[pool](other.double())) for own, other in layers[1:]]
    else:
        pairs = _in_regions(model, images, layers, injected=pool == "injected")
    return {
        "proxy": [(own - other).flatten(1).cpu() for own, other in pairs],
        "token": [own.flatten(1).cpu() for own, _ in pairs],
    }


def _in_regions(
    model: Any, images: Tensor, layers: list[tuple[Tensor, Tensor]], *, injected: bool
) -> list[tuple[Tensor, Tensor]]:
    """Return region tokens of images and of counterparts after each block, both in the images' regions."""
    cgp = {layer: (own - other)[:, 1:] for layer, (own, other) in enumerate(layers)}
    regions = model.block_regions(cgp, images)
    sides = []
    for tokens in zip(*layers, strict=True):
        if injected:
            found = inject(blocks_of(tower_of(model)), tokens, regions)
        else:
            found = [pool_regions(z[:, 1:].double(), each) for z, each in zip(tokens[1:], regions, strict=True)]
        exist = [each.valid[..., None] for each in regions]
        sides.append([torch.where(there, z.double(), 0) for there, z in zip(exist, found, strict=True)])
    return list(zip(*sides, strict=True))


_POOLING: dict[str, Callable[[Tensor], Tensor]] = {
    "class": lambda tokens: tokens[:, 0],
    "mean": lambda tokens: tokens[:, 1:].mean(1),
    "tokens": lambda tokens: tokens[:, 1:],
}


def _moments(
    batches: Iterator[dict[str, dict[str, Tensor]]], labels: list[str]
) -> tuple[GroupMoments, GroupMoments, RowPlan, ShardCollector]:
    """Accumulate moments of proxies and of tokens over all images, and the proxies' shards."""
    first = next(batches, None)
    if first is None:
        raise ProbeError("expected real images (label 0) to make pairs of, got none; pass a loader with some")
    groups = {label: Group(label, depth) for depth, label in enumerate(labels, 1)}
    plan = plan_rows({label: first["proxy"][label][0] for label in labels}, groups, num_rows=MAX_SHARDS + 1)
    collector = ShardCollector(plan)
    # only the proxies need shards: their intervals come from the spread between shards
    proxies, tokens, shard = GroupMoments(), GroupMoments(), GroupMoments()
    for piece in cut_at_shards(chain([first], batches), lambda: collector.size):
        shard.update(piece.rows["proxy"])
        tokens.update(piece.rows["token"])
        if piece.ends_shard:
            collector.add(shard)
            proxies.absorb(shard)
            shard = GroupMoments()
    if shard.count:
        collector.add(shard)
        proxies.absorb(shard)
    return proxies, tokens, plan, collector
