import numpy as np
import pytest

from gsnr_toolkit.report.attribution import attribution_terms
from gsnr_toolkit.report.plots.attribution import TERMS, factor_ticks, plot_attribution


def test_terms_add_up_to_log_cor_relative_to_the_median_layer(synthetic_report):
    report = synthetic_report(blocks=24, steps=1)
    rows = report.layers.reset_index(drop=True)
    terms, reference = attribution_terms(rows)
    ok = (rows["status"] == "ok").to_numpy()
    np.testing.assert_allclose(terms[list(TERMS)].sum(axis=1)[ok], terms["cor"][ok], atol=1e-12)
    assert terms["cor"][~ok].isna().all()
    ranked = np.sort(rows["cor"][ok])
    scale = rows.loc[rows["group"] == reference, "cor"].iloc[0]
    assert scale == ranked[(len(ranked) - 1) // 2]
    np.testing.assert_allclose(10 ** terms["cor"][ok], rows["cor"][ok] / scale)


def test_signs_say_what_helps(synthetic_report):
    rows = synthetic_report(steps=1, all_statuses=False).layers.reset_index(drop=True)
    terms, reference = attribution_terms(rows)
    here = rows.loc[rows["group"] == reference].iloc[0]
    for name, helps_when in (("signal_fraction", 1), ("misspecification", -1), ("grad_norm", -1)):
        assert np.array_equal(np.sign(terms[name]), helps_when * np.sign(rows[name] - here[name]))


@pytest.mark.parametrize("blocks", [7, 24])
def test_bars_are_the_terms_and_stack_away_from_zero(synthetic_report, by_gid, blocks):
    report = synthetic_report(blocks=blocks, steps=1)
    ax = plot_attribution(report.layers, report.settings)
    terms, _ = attribution_terms(report.layers.reset_index(drop=True))
    ends = np.zeros((2, len(terms)))
    for name, bars in zip(TERMS, ax.containers, strict=True):
        heights = np.array([bar.get_height() for bar in bars])
        np.testing.assert_allclose(heights, terms[name].fillna(0))
        starts = np.array([bar.get_y() for bar in bars])
        np.testing.assert_allclose(starts, np.where(heights >= 0, ends[0], ends[1]))
        ends += [np.maximum(heights, 0), np.minimum(heights, 0)]
    np.testing.assert_array_equal(by_gid(ax, "cor").get_ydata(), terms["cor"])
    shown = [by_gid(ax, f"edge:{s}").get_offsets()[:, 0] for s in ("no_signal", "undefined", "above_max_radius")]
    assert sorted(np.concatenate(shown)) == list(np.flatnonzero(terms["cor"].isna()))


def test_no_layer_with_a_cor_still_draws(synthetic_report, by_gid):
    report = synthetic_report(blocks=3, steps=1)
    layers = report.layers.assign(status="no_signal", cor=np.nan, cor_low=np.nan, cor_high=np.nan)
    ax = plot_attribution(layers, report.settings)
    assert len(by_gid(ax, "edge:no_signal").get_offsets()) == 5


def test_ticks_are_round_and_few():
    for low, high in ((-0.2, 0.2), (-1.0, 1.5), (-6.0, 9.0)):
        ticks = factor_ticks(low, high)
        assert 1 <= len(ticks) <= 8
        assert all(low <= tick <= high for tick in ticks)
        leading = [10 ** (tick % 1) for tick in ticks]
        assert all(min(abs(value - nice) for nice in (1, 2, 3, 5, 10)) < 1e-9 for value in leading)
