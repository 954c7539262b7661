import numpy as np
import pandas as pd
import pytest

from gsnr_toolkit.report.plots.layer_profile import plot_cor_by_layer, plot_gsnr_by_layer, plot_layer_profile


def rows_at(report, step):
    return report.layers[report.layers["step"] == step].sort_values("depth").reset_index(drop=True)


@pytest.mark.parametrize("blocks", [1, 7, 24])
def test_cor_line_and_intervals_are_the_frame(synthetic_report, by_gid, blocks):
    report = synthetic_report(blocks=blocks, steps=2)
    ax = plot_cor_by_layer(report.layers, report.settings, step=10)
    rows = rows_at(report, 10)
    line = by_gid(ax, "cor")
    np.testing.assert_array_equal(line.get_xdata(), np.arange(len(rows)))
    np.testing.assert_array_equal(line.get_ydata(), rows["cor"].where(rows["status"] == "ok"))
    bars = by_gid(ax, "cor_interval")
    ok = rows[rows["status"] == "ok"]
    drawn = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(drawn, ok[["cor_low", "cor_high"]].to_numpy())


def test_every_layer_is_shown_exactly_once(synthetic_report, by_gid):
    report = synthetic_report(blocks=24, steps=3)
    for step in (0, 10, 20):
        ax = plot_cor_by_layer(report.layers, report.settings, step=step)
        line = by_gid(ax, "cor")
        shown = list(line.get_xdata()[np.isfinite(line.get_ydata())])
        for gid in ("edge:no_signal", "edge:undefined", "above_max_radius"):
            shown += list(by_gid(ax, gid).get_offsets()[:, 0])
        assert sorted(shown) == list(range(26))


def test_statuses_stand_at_their_stated_places(synthetic_report, by_gid):
    report = synthetic_report(blocks=7, steps=1)
    rows = rows_at(report, 0)
    ax = plot_cor_by_layer(report.layers, report.settings)
    for status in ("no_signal", "undefined"):
        marks = by_gid(ax, f"edge:{status}")
        np.testing.assert_array_equal(marks.get_offsets()[:, 0], np.flatnonzero(rows["status"] == status))
        assert marks.get_facecolor()[0][:3].tolist() == [1, 1, 1]  # hollow
        heights = marks.get_transform(), marks.get_offset_transform().transform(marks.get_offsets())[:, 1]
        below = ax.transData.transform([(0, np.nanmin(rows["cor_low"]))])[0, 1]
        assert np.all(heights[1] < below), "edge marks must lie below every interval"
    arrows = by_gid(ax, "above_max_radius")
    np.testing.assert_array_equal(arrows.get_offsets()[:, 0], np.flatnonzero(rows["status"] == "above_max_radius"))
    np.testing.assert_allclose(arrows.get_offsets()[:, 1], max(report.settings["radii"]))
    legend = " ".join(text.get_text() for text in ax.get_legend().get_texts())
    for words in ("no signal", "undefined", "above the largest radius tried, 1", "collapse zone"):
        assert words in legend


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_collapse_zone_reaches_from_the_axis_end_to_rho(synthetic_report, factor):
    report = synthetic_report(steps=1, all_statuses=False)
    layers = report.layers.copy()
    layers[["cor", "cor_low", "cor_high"]] *= factor
    ax = plot_cor_by_layer(layers, {**report.settings, "rho": 0.07})
    (zone,) = [p for p in ax.patches if "collapse zone" in str(p.get_label())]
    box = zone.get_extents().transformed(ax.transData.inverted())
    np.testing.assert_allclose([box.y0, box.y1], [ax.get_ylim()[0], 0.07], rtol=1e-6)
    assert ax.get_ylim()[0] < 0.07 < ax.get_ylim()[1]


def test_undecided_layers_do_not_stand_in_the_zone(synthetic_report, by_gid):
    report = synthetic_report(blocks=7, steps=1)
    ax = plot_cor_by_layer(report.layers, report.settings)
    strip = by_gid(ax, "edge_strip").get_window_extent()
    (zone,) = [p for p in ax.patches if "collapse zone" in str(p.get_label())]
    assert by_gid(ax, "edge_strip").get_zorder() > zone.get_zorder()
    marks = by_gid(ax, "edge:no_signal")
    centre = marks.get_offset_transform().transform(marks.get_offsets())[0]
    assert strip.contains(*centre)
    decided = report.layers[report.layers["status"] == "ok"]
    lowest = ax.transData.transform([(0, decided["cor_low"].min())])[0, 1]
    assert lowest > strip.y1
    all_decided = plot_cor_by_layer(decided, report.settings)
    assert not [artist for artist in all_decided.get_children() if artist.get_gid() == "edge_strip"]


def test_infinite_upper_end_is_drawn_up_to_the_largest_radius(synthetic_report):
    report = synthetic_report(steps=1, all_statuses=False)
    layers = report.layers.assign(cor_high=np.inf)
    ax = plot_cor_by_layer(layers, report.settings)
    tops = [segment[1, 1] for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(tops, max(report.settings["radii"]))


def test_gsnr_panel_shows_negative_values_and_floor(synthetic_report, by_gid):
    report = synthetic_report(blocks=7, steps=1)
    rows = rows_at(report, 0)
    ax = plot_gsnr_by_layer(report.layers, report.settings)
    line = by_gid(ax, "gsnr")
    np.testing.assert_array_equal(line.get_ydata(), rows["gsnr"])
    assert np.nanmin(line.get_ydata()) < 0
    assert ax.get_yscale() == "symlog"
    assert ax.get_ylim()[0] < rows["gsnr_low"].min()
    np.testing.assert_allclose(by_gid(ax, "noise_floor").get_ydata(), 1 / 512)
    np.testing.assert_array_equal(by_gid(ax, "edge:undefined").get_offsets()[:, 0], np.flatnonzero(rows["gsnr"].isna()))


def test_positive_gsnr_uses_a_plain_log_axis(synthetic_report):
    report = synthetic_report(steps=1, all_statuses=False, num_samples=100_000)
    assert plot_gsnr_by_layer(report.layers, report.settings).get_yscale() == "log"


def test_order_of_rows_does_not_matter(synthetic_report, by_gid):
    report = synthetic_report(steps=2)
    shuffled = report.layers.sample(frac=1, random_state=3)
    first, second = (
        by_gid(plot_cor_by_layer(frame, report.settings, step=10), "cor").get_ydata()
        for frame in (report.layers, shuffled)
    )
    np.testing.assert_array_equal(first, second)


def test_input_frame_is_left_alone(synthetic_report):
    report = synthetic_report(steps=2)
    before = report.layers.copy(deep=True)
    plot_layer_profile(report.layers, report.settings)
    pd.testing.assert_frame_equal(report.layers, before)


def test_note_states_n_and_level(synthetic_report, by_gid):
    report = synthetic_report(steps=1, num_samples=321)
    settings = {**report.settings, "confidence": 0.9}
    for plot in (plot_cor_by_layer, plot_gsnr_by_layer):
        assert by_gid(plot(report.layers, settings), "note").get_text() == "n = 321, 90 % intervals"


def test_errors_name_what_is_missing(synthetic_report):
    report = synthetic_report(steps=1)
    with pytest.raises(ValueError, match=r"missing: cor_low.*estimate_cor"):
        plot_cor_by_layer(report.layers.drop(columns="cor_low"), report.settings)
    with pytest.raises(ValueError, match="expected one of the measured steps 0, got 99; pass step=None"):
        plot_cor_by_layer(report.layers, report.settings, step=99)
    with pytest.raises(ValueError, match=r"expected settings\['rho'\], got settings with confidence, radii; pass"):
        plot_cor_by_layer(report.layers, {"confidence": 0.95, "radii": [1.0]})
    with pytest.raises(ValueError, match=r"expected one of the statuses ok, .*, got 'fine'; pass"):
        plot_cor_by_layer(report.layers.assign(status="fine"), report.settings)
    with pytest.raises(ValueError, match="at least one row"):
        plot_cor_by_layer(report.layers.iloc[:0], report.settings)
