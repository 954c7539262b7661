"""From evidence to estimates: the estimates of a report are computed here.

Readings call some estimators too, to place radii. A further estimator is a function in a file of its own and a row of
:data:`COLUMNS`; CONTRIBUTING.md has an example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gsnr_toolkit.estimators.cor import GroupCOR, group_cor
from gsnr_toolkit.estimators.curvature import lipschitz_radius
from gsnr_toolkit.estimators.evidence import Evidence
from gsnr_toolkit.estimators.gsnr import GroupGSNR, group_gsnr, summarise_parameters
from gsnr_toolkit.types import Floats

COLUMNS: dict[str, Callable[[Evidence, GroupGSNR], Floats | None]] = {
    "lipschitz_radius": lambda evidence, gsnr: lipschitz_radius(gsnr.mean_sqnorm, evidence.hessian_eigenvalue),
}
"""Further columns of the report's tables: name to a function that returns one number for each group and one for the
whole model, shape ``(G + 1,)``, or None if it was not measured."""


@dataclass(frozen=True)
class Estimates:
    """Estimates for G groups, then for the whole model.

    Attributes:
        gsnr: GSNR with its interval.
        parameters: Distribution of the per-parameter GSNR, one dictionary for each group and the whole model.
        cor: COR with its interval; None if it was not measured.
        columns: Results of :data:`COLUMNS`, by name.
    """

    gsnr: GroupGSNR
    parameters: list[dict[str, float]]
    cor: GroupCOR | None
    columns: dict[str, Floats]


def estimate(evidence: Evidence, *, confidence: float, seed: int) -> Estimates:
    """Call every estimator.

    Args:
        evidence: What was measured.
        confidence: Nominal coverage of the intervals.
        seed: Seed of the bootstrap.

    Returns:
        All estimates.
    """
    gsnr = group_gsnr(evidence.totals, evidence.shards, confidence)
    members = list(evidence.members.values())
    everything = tuple(name for names in members for name in names)
    cor = None
    if evidence.drift is not None:
        cor = group_cor(evidence.drift.grams, gsnr.mean_sqnorm, confidence=confidence, seed=seed)
    found = {name: column(evidence, gsnr) for name, column in COLUMNS.items()}
    return Estimates(
        gsnr=gsnr,
        parameters=[summarise_parameters(evidence.moments, names) for names in (*members, everything)],
        cor=cor,
        columns={name: values for name, values in found.items() if values is not None},
    )
