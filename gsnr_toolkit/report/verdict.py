"""One plain sentence about a radius: safe or not, by how much, which layer first, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gsnr_toolkit.report.attribution import attribution_terms

if TYPE_CHECKING:
    import pandas as pd

_CAUSES = {
    "signal_fraction": "its signal is weak",
    "misspecification": "its gradient turns quickly along SAM's step for its scale",
    "grad_norm": "its gradient is large for its scale",
}
_NOTABLE = -0.05
"""Decades by which a term must lower COR against the median layer to be named as the cause."""


def weakest_group(layers: pd.DataFrame) -> str | None:
    """Find the group whose COR is smallest among those that have one.

    Args:
        layers: Rows of one step.

    Returns:
        Its name; None if no group has a COR.
    """
    good = layers[layers["status"] == "ok"]
    return None if good.empty else str(good.loc[good["cor"].idxmin(), "group"])


def describe_weakest(layers: pd.DataFrame) -> str:
    """Say which layer loses its direction first, and why.

    Args:
        layers: Rows of one step.

    Returns:
        A clause, or an empty string when no layer has a COR.
    """
    name = weakest_group(layers)
    if name is None:
        return ""
    row = layers[layers["group"] == name].iloc[0]
    known, silent = int((layers["status"] == "ok").sum()), int((layers["status"] == "no_signal").sum())
    clause = f"{name} loses its direction first"
    if silent and known == 1:
        clause = f"{name} is the only layer with a measurable signal ({silent} have none)"
    elif silent:
        clause += f" among the {known} layers with a measurable signal ({silent} have none)"
    rows = layers.reset_index(drop=True)
    own = attribution_terms(rows)[0].loc[rows.index[rows["group"] == name][0]]
    cause = min(_CAUSES, key=lambda term: float(own[term]))
    if own[cause] < _NOTABLE:
        clause += f", because {_CAUSES[cause]}"
    floor = f"{row['noise_floor']:.2g}"
    return f"{clause}: COR {interval(row, 'cor')}, GSNR {interval(row, 'gsnr')} against a noise floor of {floor}"


def interval(row: Any, name: str) -> str:
    """Write an estimate with its limits.

    Returns:
        Such as ``"0.006 [0.005, 0.008]"``.
    """
    return f"{number(row[name])} [{number(row[f'{name}_low'])}, {number(row[f'{name}_high'])}]"


def number(value: float) -> str:
    """Write a number in two significant digits.

    Returns:
        Such as ``"0.0062"``; ``"inf"`` and ``"nan"`` as they are.

    >>> number(0.00623), number(1234.0), number(float("inf"))
    ('0.0062', '1200', 'inf')
    """
    if not np.isfinite(value):
        return str(value)
    text = f"{value:.2g}"
    return f"{float(text):g}" if "e+" in text else text


def gsnr_verdict(total: Any, layers: pd.DataFrame) -> str:
    """Sentence for a report without COR.

    Args:
        total: The whole model's row.
        layers: Rows of the same step.

    Returns:
        One sentence.
    """
    if total["status"] != "ok":
        return f"Whole model: {total['message']}."
    good = layers[layers["status"] == "ok"]
    text = (
        f"GSNR {interval(total, 'gsnr')} over {int(total['num_samples'])} samples (noise floor "
        f"{total['noise_floor']:.2g}): about {number(total['noise_scale'])} samples make signal and noise equal"
    )
    if not good.empty:
        row = good.loc[good["gsnr"].idxmin()]
        text += f"; the weakest layer with a signal is {row['group']} with {interval(row, 'gsnr')}"
    silent = int((layers["status"] == "no_signal").sum())
    return text + (f"; {silent} of {len(layers)} layers show no signal." if silent else ".")


def cor_verdict(total: Any, layers: pd.DataFrame, rho: float, *, many_steps: bool) -> str:
    """Sentence for a report with COR.

    Args:
        total: The whole model's row at the bottleneck step.
        layers: Rows of that step.
        rho: The SAM radius asked about.
        many_steps: Whether the report covers several steps.

    Returns:
        One sentence.
    """
    when = f" at step {int(total['step'])}" if many_steps else ""
    weakest = describe_weakest(layers)
    tail = f"; {weakest}." if weakest else "."
    if total["status"] == "no_signal" and total["in_collapse_zone"]:
        return (
            f"rho = {rho:g} lies in the collapse zone{when}: COR cannot be told from 0 and is at most "
            f"{number(total['cor_high'])} ({total['message']})."
        )
    if total["status"] == "no_signal":
        return f"Undecided for rho = {rho:g}: {total['message']}{when}."
    if total["status"] == "undefined":
        return f"No answer for rho = {rho:g}: {total['message']}{when}."
    if total["status"] == "above_max_radius":
        return f"rho = {rho:g} is outside the collapse zone: COR is {total['message']}{when}{tail}"
    cor = interval(total, "cor")
    if total["in_collapse_zone"]:
        sure = "" if total["cor_high"] < rho else " (though its interval reaches past it)"
        return f"rho = {rho:g} lies in the collapse zone{sure}: COR {cor}{when}{tail}"
    if total["cor_low"] < rho:
        return f"rho = {rho:g} is just outside the collapse zone, within the uncertainty of COR {cor}{when}{tail}"
    return f"rho = {rho:g} is outside the collapse zone: COR {cor}{when}{tail}"
