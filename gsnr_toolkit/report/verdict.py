"""The verdict: one sentence that says whether a radius is safe, by how much, which layer fails first, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gsnr_toolkit.report.attribution import attribution_terms
from gsnr_toolkit.report.numbers import interval, number
from gsnr_toolkit.report.outcome import collapse_outcome

if TYPE_CHECKING:
    import pandas as pd

_CAUSES = {
    "signal_fraction": "its signal is weak",
    "misspecification": "its gradient changes direction quickly along SAM's step, relative to its size",
    "grad_norm": "its gradient is large for its scale",
}
_NOTABLE = -0.05
"""In decades: a term is named as the cause only if it lowers COR by more than this against the median layer."""


def weakest_group(layers: pd.DataFrame) -> str | None:
    """Return the group with the smallest COR among the rows of one step; None if no group has a COR."""
    good = layers[layers["status"] == "ok"]
    return None if good.empty else str(good.loc[good["cor"].idxmin(), "group"])


def describe_weakest(layers: pd.DataFrame) -> str:
    """Describe the weakest layer of one step, and why it is weak; the empty string if no layer has a COR."""
    name = weakest_group(layers)
    if name is None:
        return ""
    row = layers[layers["group"] == name].iloc[0]
    known, silent = int((layers["status"] == "ok").sum()), int((layers["status"] == "no_signal").sum())
    equals = _equals(layers, row)
    clause = f"{name} loses its direction first"
    none = f" ({silent} others have no measurable signal)" if silent else ""
    if equals:
        clause = f"{_listed([name, *equals])} lose their direction first, in an order that the intervals leave open"
        clause += none
    elif silent and known == 1:
        clause = f"{name} is the only layer with a measurable signal ({silent} have none)"
    elif silent:
        clause += f" among the {known} layers with a measurable signal ({silent} have none)"
    rows = layers.reset_index(drop=True)
    own = attribution_terms(rows)[0].loc[rows.index[rows["group"] == name][0]]
    cause = min(_CAUSES, key=lambda term: float(own[term]))
    if own[cause] < _NOTABLE and not equals:
        clause += f", because {_CAUSES[cause]}"
    of = f"{name} has " if equals else ""
    gsnr = f"GSNR {interval(row, 'gsnr')} against a noise floor of {row['noise_floor']:.2g}"
    return f"{clause} ({of}COR {interval(row, 'cor')}, {gsnr})"


def _equals(layers: pd.DataFrame, weakest: Any, column: str = "cor") -> list[str]:
    """Other layers that the intervals do not tell from the weakest: each value lies within the other's interval."""
    others = layers[(layers["status"] == "ok") & (layers["group"] != weakest["group"])]
    alike = (others[column] <= weakest[f"{column}_high"]) & (others[f"{column}_low"] <= weakest[column])
    return others[alike].sort_values(column)["group"].astype(str).tolist()


def _inside_alone(layers: pd.DataFrame, rho: float) -> str:
    """Name the layers whose own COR lies below rho although that of the whole model does not."""
    inside = [row["group"] for row in layers.to_dict("records") if collapse_outcome(row, rho) == "inside"]
    if not inside:
        return ""
    names, verb = (_listed(inside), "lie") if len(inside) > 1 else (inside[0], "lies")
    return f" for the whole model, although {names} {verb} inside it"


def _listed(names: list[str]) -> str:
    """Up to three names, then how many more."""
    shown = names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more layers"]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def gsnr_verdict(total: Any, layers: pd.DataFrame) -> str:
    """Return the sentence for a report without COR.

    Args:
        total: Row of the whole model.
        layers: Rows of the same step.
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
        equals = _equals(good, row, "gsnr")
        who = f"the weakest layer with a signal is {row['group']} with"
        if equals:
            who = f"the weakest layers with a signal are {_listed([row['group'], *equals])}, the first with"
        text += f"; {who} {interval(row, 'gsnr')}"
    silent = int((layers["status"] == "no_signal").sum())
    return text + (f"; {silent} of {len(layers)} layers show no signal." if silent else ".")


def cor_verdict(total: Any, layers: pd.DataFrame, rho: float, *, many_steps: bool) -> str:
    """Return the sentence for a report with COR.

    Args:
        total: Row of the whole model at the bottleneck step.
        layers: Rows of that step.
        rho: SAM radius in question.
        many_steps: Whether the report covers several steps, so that the sentence names the step.
    """
    when = f" at step {int(total['step'])}" if many_steps else ""
    weakest = describe_weakest(layers)
    tail = f"; {weakest}." if weakest else "."
    if total["status"] == "no_signal":
        return f"Undecided for rho = {rho:g}: {total['message']}{when}."
    if total["status"] == "undefined":
        return f"No answer for rho = {rho:g}: {total['message']}{when}."
    outcome = collapse_outcome(total, rho)
    if total["status"] == "above_max_radius" and outcome == "outside":
        alone = _inside_alone(layers, rho)
        return f"rho = {rho:g} is outside the collapse zone: COR is {total['message']}{when}{alone}{tail}"
    if total["status"] == "above_max_radius":
        low = number(total["cor_low"])
        return f"Undecided for rho = {rho:g}: COR is {total['message']}, but its interval begins at {low}{when}{tail}"
    cor = interval(total, "cor")
    if outcome == "inside":
        return f"rho = {rho:g} lies in the collapse zone: COR {cor}{when}{tail}"
    if outcome == "undecided":
        return f"Undecided for rho = {rho:g}, which lies within the uncertainty of COR {cor}{when}{tail}"
    return f"rho = {rho:g} is outside the collapse zone: COR {cor}{when}{_inside_alone(layers, rho)}{tail}"
