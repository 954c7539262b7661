import pytest

from gsnr_toolkit.report.outcome import collapse_outcome


@pytest.mark.parametrize(
    ("status", "low", "high", "outcome"),
    [
        ("ok", 0.76, 0.94, {0.7: "outside", 0.8: "undecided", 0.9: "undecided", 1.0: "inside"}),
        ("no_signal", 0.0, 0.02, {0.01: "undecided", 0.05: "undecided"}),
        ("undefined", float("nan"), float("nan"), {0.05: "undecided"}),
        ("above_max_radius", 0.3, float("inf"), {0.2: "outside", 0.5: "undecided"}),
        ("ok", float("nan"), float("nan"), {0.05: "undecided"}),
    ],
)
def test_the_interval_decides_and_nothing_else(status, low, high, outcome):
    row = {"status": status, "cor_low": low, "cor_high": high}
    assert {rho: collapse_outcome(row, rho) for rho in outcome} == outcome
