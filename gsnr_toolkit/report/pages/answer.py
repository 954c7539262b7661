"""The head of a page: the answer in a few words, and the numbers behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gsnr_toolkit.report.numbers import beyond, cor_text, interval, limits, number
from gsnr_toolkit.report.outcome import collapse_outcome

if TYPE_CHECKING:
    from gsnr_toolkit.estimators.margin import Margin
    from gsnr_toolkit.report.like import ReportLike

BAD, GOOD, UNSURE = "bad", "good", "unsure"


@dataclass(frozen=True)
class Answer:
    """The box at the top of a page.

    Attributes:
        tone: ``"bad"``, ``"good"`` or ``"unsure"``.
        head: The answer in a few words.
        sentences: The verdict, its limits, and what to train with.
    """

    tone: str
    head: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """A number and its meaning.

    Attributes:
        name: Name of the quantity.
        value: The number with its interval, or the reason why there is none.
        meaning: Explanation.
    """

    name: str
    value: str
    meaning: str


def answer_of(report: ReportLike) -> Answer:
    """Return the answer of a probe. It repeats the verdict, and never calls a radius "safe"."""
    tone, head = _cor_head(report) if report.has_cor else _gsnr_head(report)
    sentences = [report.verdict]
    if report.has_cor:
        sentences.append(f"Suggestion: {report.suggestion.message}.")
    if report.partial:
        done = ", ".join(str(step) for step in report.totals["step"])
        sentences.append(f"Partial report: the run was interrupted after step {done}.")
    return Answer(tone, head, tuple(sentences))


def _cor_head(report: ReportLike) -> tuple[str, str]:
    total, rho = report.total, float(report.settings["rho"])
    status, subject = total["status"], f"ρ = {rho:g}"
    if status == "undefined":
        return UNSURE, f"{subject}: no answer"
    outcome = collapse_outcome(total, rho)
    if outcome == "undecided":
        return UNSURE, f"{subject}: undecided"
    if outcome == "inside":
        return BAD, f"{subject} lies in the collapse zone"
    return GOOD, f"{subject} is outside the collapse zone"


def _gsnr_head(report: ReportLike) -> tuple[str, str]:
    heads = {"ok": (GOOD, "The gradient has a measurable signal"), "no_signal": (UNSURE, "No measurable signal")}
    return heads.get(report.total["status"], (UNSURE, "No answer"))


def facts_of(report: ReportLike) -> list[Fact]:
    """Return the numbers of the whole model, the most important first."""
    total = report.total
    facts = _radii(report) if report.has_cor else []
    if report.margin is not None:
        facts.append(_margin(report.margin))
    floor = f"signal over noise of the gradient; the noise floor is 1/n = {number(total['noise_floor'])}"
    facts.append(Fact("GSNR", _explained(interval(total, "gsnr"), total), floor))
    measured = f"n = {int(total['num_samples'])} samples"
    if report.has_cor:
        measured += f", {report.settings['num_batches']} batches of {report.settings['batch_size']}"
    if "loss" in report.settings:  # not in reports of older versions
        measured += f"; loss: {report.settings['loss']}"
    level = f"{100 * float(report.settings['confidence']):g} %"
    return [*facts, Fact("Measured on", measured, f"step {int(total['step'])}; intervals {level}")]


def _explained(text: str, total: Any) -> str:
    return f"undefined: {total['message']}" if text == "undefined" else text


def _radii(report: ReportLike) -> list[Fact]:
    total, above = report.total, beyond(report.settings)
    cor = _explained(cor_text(total, above), total)
    certified = Fact("COR", cor, "up to this radius SAM's step is certified to descend on average")
    if total["status"] not in ("ok", "above_max_radius"):
        return [certified]
    aligned = float(total["alignment_radius"])
    value = above if aligned == float("inf") else number(aligned)
    meaning = "first radius at which it stops descending on these samples; COR, a certificate, may be far smaller"
    return [certified, Fact("Alignment radius", value, meaning)]


def _margin(margin: Margin) -> Fact:
    meaning = "up to it SAM prefers what the plain run has learned to a constant prediction, to first order; ours"
    value = f"{number(margin.value)} {limits(margin.low, margin.high)}" if margin.status == "ok" else margin.message
    return Fact("Margin radius", value, meaning)
