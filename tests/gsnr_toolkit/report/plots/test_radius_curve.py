import numpy as np
import pytest

from gsnr_toolkit.report.plots.radius_curve import plot_radius_curve


@pytest.mark.parametrize("blocks", [2, 24])
def test_curves_are_drift_over_grad_norm(synthetic_report, by_gid, blocks):
    report = synthetic_report(blocks=blocks, steps=2, all_statuses=False)
    ax = plot_radius_curve(report.drift, report.layers, report.settings, step=10, totals=report.totals)
    rows = report.drift[report.drift["step"] == 10]
    assert set(rows["group"]) == {*report.groups, "total"}
    for group, curve in rows.groupby("group"):
        line = by_gid(ax, group)
        np.testing.assert_array_equal(line.get_xdata(), curve["rho"])
        np.testing.assert_allclose(line.get_ydata(), curve["drift"] / curve["grad_norm"])


def test_crossing_is_marked_at_cor_on_the_line_of_one(synthetic_report, by_gid):
    report = synthetic_report(blocks=7, steps=1)
    ax = plot_radius_curve(report.drift, report.layers, report.settings, totals=report.totals)
    np.testing.assert_array_equal(by_gid(ax, "crossing_level").get_ydata(), [1, 1])
    for row in report.layers[report.layers["status"] == "ok"].itertuples():
        point = by_gid(ax, f"cor:{row.group}")
        np.testing.assert_array_equal([point.get_xdata()[0], point.get_ydata()[0]], [row.cor, 1.0])
        line = by_gid(ax, row.group)  # the marked place is where the curve itself crosses
        log_ratio = np.interp(np.log(row.cor), np.log(line.get_xdata()), np.log(line.get_ydata()))
        np.testing.assert_allclose(log_ratio, 0.0, atol=1e-9)
    (segment,) = by_gid(ax, "cor_interval:total").get_segments()
    np.testing.assert_allclose(segment[:, 0], report.totals[["cor_low", "cor_high"]].iloc[0])


def test_groups_without_a_gradient_norm_are_marked(synthetic_report, all_gids):
    report = synthetic_report(blocks=7, steps=1)
    ax = plot_radius_curve(report.drift, report.layers, report.settings)
    lost = report.layers.loc[report.layers["grad_norm"].isna(), "group"].tolist()
    assert lost
    (gid,) = [gid for gid in all_gids(ax) if gid.startswith("unbounded:")]
    assert gid == "unbounded:" + ",".join(lost)
    (marks,) = [c for c in ax.collections if c.get_gid() == gid]
    assert len(marks.get_offsets()) == len(lost)


def test_a_drift_that_noise_exceeds_is_a_gap_and_not_a_fall(synthetic_report, by_gid, all_gids):
    report = synthetic_report(blocks=3, steps=1, all_statuses=False)
    gone = {"head": [0, 1, 4, 6], "stem": range(13), "block 1": []}
    drift = report.drift.copy()
    for group, places in gone.items():
        rows = drift.index[drift["group"] == group][list(places)]
        drift.loc[rows, ["drift", "drift_low"]] = 0.0
    ax = plot_radius_curve(drift, report.layers, report.settings)
    for group, places in gone.items():
        curve, line = drift[drift["group"] == group], by_gid(ax, group)
        expected = (curve["drift"] / curve["grad_norm"]).to_numpy(copy=True)
        expected[list(places)] = np.nan
        np.testing.assert_array_equal(line.get_xdata(), curve["rho"])
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert by_gid(ax, "head").get_markevery() == [5]  # between two gaps, where no line is
    assert by_gid(ax, "block 1").get_markevery() == []
    assert not [gid for gid in all_gids(ax) if gid.startswith("unbounded:")]  # |mu| of "stem" is known
    low, _ = ax.get_ylim()
    lines = [line.get_ydata() for line in ax.get_lines() if line.get_gid() in report.groups]
    assert np.nanmin(np.concatenate(lines)) > low / 1e3


def test_group_without_signal_is_dotted_and_has_no_cor(synthetic_report, by_gid, all_gids):
    report = synthetic_report(blocks=3, steps=1, all_statuses=False)
    layers = report.layers.assign(status=np.where(report.layers["group"] == "head", "no_signal", "ok"))
    ax = plot_radius_curve(report.drift, layers, report.settings)
    assert by_gid(ax, "head").get_linestyle() != by_gid(ax, "stem").get_linestyle()
    assert "cor:head" not in all_gids(ax)
    assert [t.get_text() for t in ax.get_legend().get_texts()].count("no signal: crossing uncertain") == 1


def test_zone_ends_at_rho(synthetic_report):
    report = synthetic_report(steps=1)
    ax = plot_radius_curve(report.drift, report.layers, report.settings)
    (zone,) = [p for p in ax.patches if "crossing here" in str(p.get_label())]
    box = zone.get_extents().transformed(ax.transData.inverted())
    np.testing.assert_allclose([box.x0, box.x1], [ax.get_xlim()[0], 0.05], rtol=1e-6)


def test_step_without_curve_is_refused(synthetic_report):
    report = synthetic_report(steps=2)
    with pytest.raises(ValueError, match="expected a step with a drift curve, 0, 10, got 7; pass step=None"):
        plot_radius_curve(report.drift, report.layers, report.settings, step=7)
