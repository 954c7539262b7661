"""Agreement of the proxy GSNR with the true per-sample-gradient GSNR, over layers, data sets and steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import nn

from corit.model.pairs import Counterpart, split_pairs
from corit.proxy.gsnr import proxy_gsnr
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.probing.estimate import estimate_gsnr
from gsnr_toolkit.support.arguments import MAPPING, WHOLE, check_arguments
from gsnr_toolkit.types import Loader

__all__ = ["ProxyCheck", "check_proxy", "compare_proxy", "join_checks"]

_KEYS = ["data", "step", "group", "depth"]
#: Minimum number of points for a rank correlation.
_MIN_POINTS = 3


@dataclass(frozen=True, eq=False)
class ProxyCheck:
    """Proxy and true GSNR side by side, and their rank correlations.

    Attributes:
        table: One row per (data, step, group): ``data, step, group, depth, proxy_gsnr, gsnr, variance_ratio,
            proxy_status, status``.
        correlations: Spearman's rank correlations: ``scope, data, step, group, count, spearman``. Scopes: ``"all"``
            rows; ``"layers"`` of one data set and step; ``"data"`` sets, at one layer and step; ``"steps"``, at one
            layer on one data set. NaN for fewer than three points, or if one side is constant. There are no intervals,
            because the layers of one model are not independent.
    """

    table: pd.DataFrame
    correlations: pd.DataFrame

    @property
    def spearman(self) -> float:
        """Rank correlation over all rows."""
        return float(self.correlations.loc[self.correlations["scope"] == "all", "spearman"].iloc[0])

    @property
    def sentence(self) -> str:
        """The result as a sentence."""
        ratio = self.table["variance_ratio"].median()
        layers = self.correlations[self.correlations["scope"] == "layers"]["spearman"].dropna()
        within = f"; over layers of one data set and step {layers.median():.2f} (median)" if len(layers) else ""
        found = "undefined" if math.isnan(self.spearman) else f"{self.spearman:.2f}"
        return (
            f"rank correlation of proxy and true GSNR {found} over {len(self.table)} layers, data sets and steps"
            f"{within}; pairing leaves {ratio:.2g} of the variance (median)"
        )


def check_proxy(
    model: nn.Module,
    loaders: Mapping[str, Loader],
    *,
    step: int = 0,
    counterpart: Counterpart | None = None,
    pool: str = "class",
    layerwise: str = "readout",
    max_samples: int | None = None,
    progress: bool = True,
    **options: Any,
) -> ProxyCheck:
    """Measure proxy and true GSNR of a model at its current parameters, on several data sets.

    The proxy uses pairs of real images and their counterparts; the true GSNR uses the loader's own labels. Join the
    results of several steps with :func:`join_checks`.

    Args:
        model: CoRIT, or a :class:`gsnr_toolkit.models.Detector` on a visual transformer.
        loaders: Name of a data set to its labelled batches; each loader is iterated twice.
        step: The training step, for the table.
        counterpart: Makes counterparts for batches without them; the model's own when None.
        pool: One of :data:`corit.proxy.gsnr.POOLS`.
        layerwise: The reading of the true GSNR: ``"readout"``, or ``"parameters"`` (with ``include_frozen=True`` for a
            frozen encoder).
        max_samples: Maximum number of rows from each loader.
        progress: Show progress bars (on a terminal).
        **options: As for :func:`gsnr_toolkit.estimate_gsnr`.

    Returns:
        Both, by layer and data set.

    Raises:
        ProbeError: If an argument is of a wrong kind, or there is no data set.
    """
    check_arguments(loaders=(loaders, MAPPING), step=(step, WHOLE))
    if not loaders:
        raise ProbeError("expected at least one data set, got none; pass {'name': loader}")
    proxies, truths = [], []
    for name, loader in loaders.items():
        shared = {"max_samples": max_samples, "progress": progress}
        found = proxy_gsnr(model, loader, counterpart=counterpart, pool=pool, **shared)  # type: ignore[arg-type]
        proxies.append(found.assign(data=name, step=step))
        truth = estimate_gsnr(model, _Labelled(model, loader), layerwise=layerwise, **shared, **options)  # type: ignore[arg-type]
        truths.append(truth.to_frame().assign(data=name, step=step))
    return compare_proxy(pd.concat(proxies), pd.concat(truths))


class _Labelled:
    """A loader's batches as the toolkit reads them: the model's inputs, and labels."""

    def __init__(self, model: nn.Module, loader: Loader) -> None:
        self._takes_pairs = getattr(model, "takes_pairs", False)
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            pairs = split_pairs(batch)
            if pairs.labels is None:
                raise ProbeError(
                    "expected labelled batches for the true GSNR, got images without labels; return labels too"
                )
            paired = self._takes_pairs and pairs.counterparts is not None
            yield ((pairs.images, pairs.counterparts) if paired else pairs.images), pairs.labels


def compare_proxy(proxy: pd.DataFrame, true: pd.DataFrame) -> ProxyCheck:
    """Return the layers in both a table of proxies and a table of true values, and their correlations.

    The tables are those of :func:`corit.proxy.gsnr.proxy_gsnr` and of ``report.to_frame()``, each with two more
    columns: ``data`` and ``step``.

    Raises:
        ProbeError: If no layer is in both.
    """
    renamed = proxy.rename(columns={"gsnr": "proxy_gsnr", "status": "proxy_status"})
    left = renamed[[*_KEYS, "proxy_gsnr", "proxy_status", "variance_ratio"]]
    keys = [key for key in _KEYS if key != "depth"]  # depth differs: only one of the readings counts the stem as 0
    table = left.merge(true[[*keys, "gsnr", "status"]], on=keys, validate="one_to_one")
    if table.empty:
        raise ProbeError(
            f"expected tables of the same layers, data sets and steps, got none in common: groups "
            f"{sorted(set(proxy['group']))[:3]} and {sorted(set(true['group']))[:3]}; "
            "measure both on the same model and data"
        )
    return ProxyCheck(table.reset_index(drop=True), _correlations(table))


def join_checks(checks: Iterable[ProxyCheck]) -> ProxyCheck:
    """Join checks of different (data, step), with correlations over all of them."""
    table = pd.concat([check.table for check in checks], ignore_index=True)
    return ProxyCheck(table, _correlations(table))


def _correlations(table: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [{"scope": "all", **_rank(table)}]
    scopes = {"layers": ["data", "step"], "data": ["step", "group"], "steps": ["data", "group"]}
    for scope, fixed in scopes.items():
        for values, part in table.groupby(fixed, sort=False):
            if len(part) >= _MIN_POINTS:
                rows.append({"scope": scope, **dict(zip(fixed, values, strict=True)), **_rank(part)})
    return pd.DataFrame(rows).reindex(columns=["scope", "data", "step", "group", "count", "spearman"])


def _rank(table: pd.DataFrame) -> dict[str, Any]:
    """Return Spearman's correlation over the rows where both values are defined."""
    both = table[["proxy_gsnr", "gsnr"]].dropna().rank()
    enough = len(both) >= _MIN_POINTS and bool((both.nunique() > 1).all())
    return {"count": len(both), "spearman": both["proxy_gsnr"].corr(both["gsnr"]) if enough else math.nan}
