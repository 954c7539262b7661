"""The head of a page: the answer in a few words, and the numbers behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gsnr_toolkit.report.verdict import interval, number

if TYPE_CHECKING:
    from gsnr_toolkit.report.report import Report

BAD, GOOD, UNSURE = "bad", "good", "unsure"


@dataclass(frozen=True)
class Answer:
    """What stands first.

    Attributes:
        tone: ``"bad"``, ``"good"`` or ``"unsure"``.
        head: A few words.
        sentences: The verdict, and what limits it.
    """

    tone: str
    head: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """A number with what it means.

    Attributes:
        name: What it is called.
        value: The number with its interval, or why there is none.
        meaning: What it says.
    """

    name: str
    value: str
    meaning: str


def answer_of(report: Report) -> Answer:
    """The answer of a probe.

    Args:
        report: With COR or without.

    Returns:
        Its words are those of the verdict; "safe" is never said of a radius.
    """
    tone, head = _cor_head(report) if report.has_cor else _gsnr_head(report)
    sentences = [report.verdict]
    if report.partial:
        done = ", ".join(str(step) for step in report.totals["step"])
        sentences.append(f"Partial report: the run was interrupted after step {done}.")
    return Answer(tone, head, tuple(sentences))


def _cor_head(report: Report) -> tuple[str, str]:
    total, rho = report.total, float(report.settings["rho"])
    status, zone = total["status"], bool(total["in_collapse_zone"])
    subject = f"ρ = {rho:g}"
    if zone:
        sure = float(total["cor_high"]) < rho
        return BAD, f"{subject} lies in the collapse zone" + ("" if sure else ", within the uncertainty")
    if status == "no_signal":
        return UNSURE, f"{subject}: undecided"
    if status == "undefined":
        return UNSURE, f"{subject}: no answer"
    if status == "ok" and float(total["cor_low"]) < rho:
        return UNSURE, f"{subject} is just outside the collapse zone, within the uncertainty"
    return GOOD, f"{subject} is outside the collapse zone"


def _gsnr_head(report: Report) -> tuple[str, str]:
    status = report.total["status"]
    heads = {"ok": (GOOD, "The gradient has a measurable signal"), "no_signal": (UNSURE, "No measurable signal")}
    return heads.get(status, (UNSURE, "No answer"))


def facts_of(report: Report) -> list[Fact]:
    """The whole model's numbers, each with n or its reason.

    Args:
        report: With COR or without.

    Returns:
        In the order of importance.
    """
    total = report.total
    facts = _radii(report, total) if report.has_cor else []
    known = total["gsnr"] == total["gsnr"]
    facts.append(
        Fact(
            "GSNR",
            interval(total, "gsnr") if known else f"undefined: {total['message']}",
            f"signal over noise of the gradient; the noise floor is 1/n = {number(total['noise_floor'])}",
        )
    )
    if report.escape is not None:
        facts.append(_escape(report.escape))
    facts.append(Fact("Measured on", _measured(report), f"step {int(total['step'])}; intervals {_level(report)}"))
    return facts


def _radii(report: Report, total: Any) -> list[Fact]:
    status, beyond = total["status"], f"above {number(report.settings['radii'][-1])}, the largest tried"
    aligned = float(total["alignment_radius"])
    certified = Fact("COR", _cor(total, beyond), "up to this radius SAM's step is certified to descend on average")
    if status not in ("ok", "above_max_radius"):
        return [certified]
    value = beyond if aligned == float("inf") else number(aligned)
    return [certified, Fact("Alignment radius", value, "first radius at which it stops descending on these samples")]


def _cor(total: Any, beyond: str) -> str:
    if total["status"] == "ok":
        return interval(total, "cor")
    if total["status"] == "above_max_radius":
        return beyond
    if total["status"] == "undefined":
        return f"undefined: {total['message']}"
    bound = number(total["cor_high"])
    return "cannot be told from 0" + ("" if bound in ("nan", "inf") else f", at most {bound}")


def _escape(escape: Any) -> Fact:
    meaning = "past it leaving the plateau no longer pays, to first order; ours, and no guide to the collapse so far"
    if escape.status != "ok":
        bound = f"; at least {number(escape.bound)}" if escape.bound > 0 else ""
        return Fact("Escape radius", escape.message + bound, meaning)
    limits = {"value": escape.value, "value_low": escape.low, "value_high": escape.high}
    return Fact("Escape radius", interval(limits, "value"), meaning)


def _measured(report: Report) -> str:
    settings = report.settings
    text = f"n = {int(report.total['num_samples'])} samples"
    if report.has_cor:
        text += f", {settings['num_batches']} batches of {settings['batch_size']}"
    return text


def _level(report: Report) -> str:
    return f"{100 * float(report.settings['confidence']):g} %"
