"""The result of a probe: tidy tables with a status for every number, settings and provenance."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.estimators.escape import EscapeRadius
from gsnr_toolkit.estimators.margin import Margin
from gsnr_toolkit.inputs.options import LOWERED
from gsnr_toolkit.report import verdict as sentences
from gsnr_toolkit.report.outcome import Outcome, collapse_outcome
from gsnr_toolkit.report.suggestion import Suggestion, suggest
from gsnr_toolkit.support.arguments import MAPPING, PATH, TEXTS, check_arguments, instance
from gsnr_toolkit.support.atomic import each_leaf, make_folder, spelled, unspelled, write_text
from gsnr_toolkit.support.run_folder import differences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TABLES = ("layers", "totals", "drift", "trajectory")
_SUMMARY = "report.json"
_FORMAT = 1
_WORST_FIRST = ("inside", "undecided", "outside")


@dataclass(frozen=True)
class Bottleneck:
    """Step and layer at which COR is smallest.

    Attributes:
        step: Training step with the worst outcome and, among those, the smallest COR or upper limit.
        group: Layer with the smallest COR at that step; None if no layer has one.
    """

    step: int
    group: str | None


@dataclass(frozen=True, eq=False)
class Report:
    """Frozen result of :func:`estimate_gsnr`, :func:`estimate_cor` or :func:`probe`.

    Attributes:
        layers: One row per (step, group): ``step, group, depth, num_params, num_samples, gsnr, gsnr_low,
            gsnr_high, gsnr_plugin, noise_floor, noise_scale, trace_covariance, mean_grad_sqnorm``, the
            distribution of the per-parameter GSNR, ``status, message`` and, if COR was measured,
            ``cor, cor_low, cor_high, alignment_radius, signal_fraction, misspecification, grad_norm,
            in_collapse_zone``.
        totals: The same columns for the whole model, one row per step.
        drift: The drift curves: ``step, group, rho, drift, drift_low, drift_high, grad_norm, alignment``.
        trajectory: ``step, loss, loss_low, loss_high, batch_grad_norm`` per measured step.
        settings: Every option that affects a number.
        provenance: Versions, machine, commit, wall time.
        coverage: Which engine served how many trainable parameters.
        groups: Group name to the names of its parameters.
        margin: The margin radius; None if COR was not measured, or only on heads of single layers.
        escape: The escape radius of a probing run.
        notes: Notes on how the numbers were obtained.
        partial: Whether the run was interrupted.
    """

    layers: pd.DataFrame
    totals: pd.DataFrame
    drift: pd.DataFrame
    trajectory: pd.DataFrame
    settings: dict[str, Any]
    provenance: dict[str, Any]
    coverage: dict[str, Any]
    groups: dict[str, list[str]]
    escape: EscapeRadius | None = None
    margin: Margin | None = None
    notes: tuple[str, ...] = field(default=())
    partial: bool = False

    def __post_init__(self) -> None:
        tables = {name: (getattr(self, name), _TABLE) for name in _TABLES}
        mappings = {name: (getattr(self, name), MAPPING) for name in ("settings", "provenance", "coverage", "groups")}
        check_arguments(**tables, **mappings, notes=(self.notes, TEXTS))

    def to_frame(self) -> pd.DataFrame:
        """Return the table of layers.

        Returns:
            A copy, with one row per group (and step).
        """
        return self.layers.copy()

    @property
    def has_cor(self) -> bool:
        """Whether COR was measured."""
        return "cor" in self.totals.columns

    @property
    def total(self) -> pd.Series:
        """Row of the whole model: at the bottleneck step if COR was measured, else at the last step.

        The step with the worst outcome comes first, so that no step certifies what another does not; then the step
        whose COR, or its upper limit where there is no signal, is smallest.
        """
        if not self.has_cor:
            return self.totals.iloc[-1]
        at_most = self.totals["cor"].fillna(self.totals["cor_high"]).fillna(math.inf)
        keys = [(_WORST_FIRST.index(outcome), bound) for outcome, bound in zip(self.outcomes, at_most, strict=True)]
        return self.totals.iloc[keys.index(min(keys))]

    @property
    def cor(self) -> float:
        """COR of the whole model, smallest over the steps that have one; infinity above the largest radius tried.

        NaN if no step has a signal. Steps without one do not count here; :attr:`outcomes` and the verdict count them.
        """
        return float(self.totals["cor"].min()) if self.has_cor else math.nan

    @property
    def bottleneck(self) -> Bottleneck:
        """Step of :attr:`total`, and the layer that loses its direction first at that step."""
        step = int(self.total["step"])
        at_step = self.layers[self.layers["step"] == step]
        return Bottleneck(step, sentences.weakest_group(at_step) if self.has_cor else None)

    @property
    def outcomes(self) -> list[Outcome]:
        """Whether rho is inside or outside the collapse zone, or undecided, at each measured step."""
        rho = float(self.settings["rho"])
        return [collapse_outcome(row, rho) for row in self.totals.to_dict("records")] if self.has_cor else []

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        at_step = self.layers[self.layers["step"] == int(self.total["step"])]
        if not self.has_cor:
            return sentences.gsnr_verdict(self.total, at_step)
        many = len(self.totals) > 1
        text = sentences.cor_verdict(self.total, at_step, float(self.settings["rho"]), many_steps=many)
        silent = self.totals[(self.totals["status"] == "no_signal") & (self.totals["step"] != self.total["step"])]
        if many and len(silent):
            bounds = [_bounded_step(row.step, row.cor_high) for row in silent.itertuples()]
            noun = "step" if len(bounds) == 1 else "steps"
            text += f" At {noun} {' and '.join(bounds)} COR is indistinguishable from zero."
        return " ".join([text, *(f"{note.split(', so that')[0]}." for note in self.notes if note.startswith(LOWERED))])

    @property
    def suggestion(self) -> Suggestion:
        """What to train with: a radius or ``"auto"``, and the reason in one line."""
        last = int(self.totals["step"].iloc[-1])
        return suggest(self.total, self.margin, float(self.settings.get("rho", math.nan)), last)

    def suggest_rho(self) -> float | str:
        """Return a value for ``SAM(..., rho=...)``; :attr:`suggestion` gives the reason.

        Returns:
            A radius, or ``"auto"`` where the measurement supports none.
        """
        return self.suggestion.rho

    def plot(self) -> Figure:
        """Draw the layer profile, the trajectories and the drift curve; only GSNR by layer without COR.

        Returns:
            A matplotlib figure.
        """
        from gsnr_toolkit.report.plots.layer_profile import plot_gsnr_by_layer
        from gsnr_toolkit.report.plots.overview import plot_overview
        from gsnr_toolkit.report.plots.style import root_figure

        if not self.has_cor:
            return root_figure(plot_gsnr_by_layer(self.layers, self.settings, step=self.bottleneck.step))
        return plot_overview(self.layers, self.totals, self.drift, self.settings, bottleneck=self.bottleneck)

    def to_html(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the report as one HTML page that needs no other file and no network.

        Args:
            path: The file. An earlier page of this tool is replaced.
            overwrite: Replace any other file too.

        Returns:
            The path.
        """
        from gsnr_toolkit.report.pages.probe import probe_page
        from gsnr_toolkit.report.pages.write import check_page, write_page

        return write_page(check_page(path, overwrite=overwrite), probe_page(self), overwrite=overwrite)

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write ``report.json`` and one CSV per table, each file atomically.

        Args:
            directory: Folder to write to; created if missing.
            overwrite: Replace a report that was made with other settings.

        Returns:
            The directory.

        Raises:
            ProbeError: If the directory holds a report made with other settings, or cannot be written.
        """
        check_arguments(directory=(directory, PATH))
        folder = Path(directory)
        make_folder(folder)
        existing = folder / _SUMMARY
        if existing.exists() and not overwrite:
            theirs = _settings_in(existing)
            ours = json.loads(_dumps(self.settings))
            if theirs != ours:
                raise ProbeError(
                    f"expected {folder} to be empty or to hold a report with these settings, but its report differs in "
                    f"{differences(theirs, ours)}; choose another folder or overwrite it"
                )
        # the summary comes last and holds the tables' checksums: after a kill in between, load() refuses the mixture
        for name, text in self.to_texts().items():
            write_text(folder / name, text)
        return folder

    def to_texts(self) -> dict[str, str]:
        """Return the files of a saved report, the summary last.

        Returns:
            File name to content.
        """
        tables = {f"{name}.csv": getattr(self, name).to_csv(index=False, lineterminator="\n") for name in _TABLES}
        summary = {**self._summary(), "sha256": {name: _sum(text) for name, text in tables.items()}}
        return {**tables, _SUMMARY: _dumps(spelled(summary), indent=2)}

    def _summary(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "verdict": self.verdict,
            "cor": self.cor,
            "bottleneck": {"step": self.bottleneck.step, "group": self.bottleneck.group},
            "margin": self.margin.to_dict() if self.margin else None,
            "escape": self.escape.to_dict() if self.escape else None,
            "partial": self.partial,
            "notes": list(self.notes),
            "settings": self.settings,
            "coverage": self.coverage,
            "groups": self.groups,
            "provenance": self.provenance,
        }

    def to_json(self) -> str:
        """Return everything except the drift curves as one JSON document.

        Returns:
            Text; numbers that are not finite become null.
        """
        tables = {name: json.loads(getattr(self, name).to_json(orient="records")) for name in ("layers", "totals")}
        trajectory = json.loads(self.trajectory.to_json(orient="records"))
        return _dumps({**self._summary(), **tables, "trajectory": trajectory}, indent=2, strict=True)

    @classmethod
    def load(cls, directory: str | Path) -> Report:
        """Read a saved report.

        Args:
            directory: Folder that :meth:`save` wrote to.

        Returns:
            An equal report.

        Raises:
            ProbeError: If a file is missing or of another format.
        """
        check_arguments(directory=(directory, PATH))
        folder = Path(directory)
        names = (_SUMMARY, *(f"{name}.csv" for name in _TABLES))
        try:
            return cls.from_texts({name: (folder / name).read_text(encoding="utf8") for name in names})
        except (OSError, UnicodeDecodeError) as error:
            raise ProbeError(
                f"expected {folder} to hold {', '.join(names)}, but reading them failed ({error}); give the folder "
                "that Report.save wrote to"
            ) from error

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Report:
        """Read the files of a saved report from memory.

        Args:
            texts: The return value of :meth:`to_texts`.

        Returns:
            An equal report.

        Raises:
            ProbeError: If it is of another format, a file is missing or damaged, or tables and summary do not belong
                together.
        """
        check_arguments(texts=(texts, MAPPING))
        summary = _read_summary(texts)
        if summary.get("format") != _FORMAT:
            raise ProbeError(
                f"expected a report of format {_FORMAT}, got {summary.get('format')!r}; it was written by another "
                f"version ({summary.get('provenance', {}).get('versions', {}).get('gsnr-toolkit')}): use that one"
            )
        try:
            tables = {name: _read_csv(texts[f"{name}.csv"]) for name in _TABLES}
            escape = EscapeRadius(**unspelled(summary["escape"])) if summary["escape"] else None
            margin = Margin(**unspelled(summary["margin"])) if summary.get("margin") else None
            keys = ("settings", "provenance", "coverage", "groups", "partial")
            rest = {key: summary[key] for key in keys}
            return cls(**tables, **rest, escape=escape, margin=margin, notes=tuple(summary["notes"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ProbeError(
                f"expected the files of a saved report, but they cannot be read ({type(error).__name__}: {error}); "
                "measure and save it again"
            ) from error


_TABLE = instance(pd.DataFrame, "a table", "pass a pandas.DataFrame")


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _settings_in(path: Path) -> Any:
    """Return the settings of a saved report; None if the file is something else."""
    try:
        return json.loads(path.read_text(encoding="utf8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_summary(texts: Mapping[str, str]) -> dict[str, Any]:
    """Read the summary, and compare the tables with the checksums in it, if it has any."""
    try:
        summary = json.loads(texts[_SUMMARY])
        sums = dict(summary.get("sha256", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProbeError(
            f"expected a report in {_SUMMARY}, but it cannot be read ({type(error).__name__}: {error}); give the "
            "files that Report.save wrote"
        ) from error
    changed = [name for name, known in sums.items() if name not in texts or _sum(texts[name]) != known]
    if changed:
        raise ProbeError(
            f"expected the tables that {_SUMMARY} was written with, but {', '.join(changed)} changed since, or the "
            f"report was being replaced when its process ended; measure again, or remove 'sha256' from {_SUMMARY} to "
            "read them as they are"
        )
    return summary


def join_steps(reports: Sequence[Report], **changes: Any) -> Report:
    """Join the reports of several steps of one run.

    Args:
        reports: One per measured step, in order.
        **changes: Fields to set in the joint report.

    Returns:
        A report with all rows.
    """
    frames = {name: pd.concat([getattr(report, name) for report in reports], ignore_index=True) for name in _TABLES}
    notes = tuple(dict.fromkeys(note for report in reports for note in report.notes))
    wall = sum(float(report.provenance.get("wall_seconds", 0.0)) for report in reports)
    provenance = {**reports[-1].provenance, "wall_seconds": wall}
    return replace(reports[-1], **{**frames, "notes": notes, "provenance": provenance, **changes})


def _bounded_step(step: int, high: float) -> str:
    return f"{step} (at most {sentences.number(high)})" if math.isfinite(high) else str(step)


def _read_csv(text: str) -> pd.DataFrame:
    try:
        return pd.read_csv(StringIO(text), dtype={"group": str}, keep_default_na=False, na_values=["", "nan", "NaN"])
    except pd.errors.EmptyDataError:
        return pd.DataFrame()


def _dumps(value: Any, indent: int | None = None, *, strict: bool = False) -> str:
    return json.dumps(_without_nan(value) if strict else value, indent=indent, default=str, allow_nan=False)


def _without_nan(value: Any) -> Any:
    """Replace numbers that JSON cannot hold by null."""
    return each_leaf(value, lambda item: None if isinstance(item, float) and not math.isfinite(item) else item)
