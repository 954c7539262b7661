"""Runs of a few steps, shared by all tests of the scripts."""

import pytest

from analyses.collapse import laboratory


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def options(runs, tmp_path, monkeypatch):
    """The command line of a script of the laboratory."""
    monkeypatch.setattr(laboratory, "RECORD_SAMPLES", 32)
    monkeypatch.setattr(laboratory, "RECORD_EVERY", 12)
    out = ["--runs", str(runs), "--out", str(tmp_path / "data")]
    return ["--smoke", "--seeds", "1", "--workers", "1", "--device", "cpu", *out]
