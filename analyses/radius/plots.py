"""Figures of the study of the failing radius, from its stored tables."""

from __future__ import annotations

from pathlib import Path


def plot_study(out: Path) -> None:
    """Draw the margin radius against the failing radius."""


def plot_controllers(out: Path) -> None:
    """Draw the score of each rule against the best fixed radius."""
