from types import SimpleNamespace

import numpy as np
import pytest

from gsnr_toolkit.report.plots.trajectory import plot_trajectory


@pytest.mark.parametrize("quantity", ["cor", "gsnr"])
@pytest.mark.parametrize(("blocks", "steps"), [(2, 6), (7, 6), (24, 20)])
def test_each_group_has_a_line_with_its_values(synthetic_report, by_gid, quantity, blocks, steps):
    report = synthetic_report(blocks=blocks, steps=steps)
    ax = plot_trajectory(report.layers, report.settings, quantity=quantity, totals=report.totals)
    for group, table in [*report.layers.groupby("group"), ("total", report.totals)]:
        line, table = by_gid(ax, group), table.sort_values("step")
        np.testing.assert_array_equal(line.get_xdata(), table["step"])
        np.testing.assert_array_equal(line.get_ydata(), table[quantity])


def test_diamond_stands_at_the_given_bottleneck(synthetic_report, by_gid, all_gids):
    report = synthetic_report(blocks=2, steps=6, all_statuses=False)
    bottleneck = SimpleNamespace(step=30, group="block 1")
    ax = plot_trajectory(report.layers, report.settings, totals=report.totals, bottleneck=bottleneck)
    assert [g for g in all_gids(ax) if g.startswith("diamond")] == [
        f"diamond:{g}" for g in sorted([*report.groups, "total"])
    ]
    at = report.layers[(report.layers["step"] == 30) & (report.layers["group"] == "block 1")]
    diamond = by_gid(ax, "diamond:block 1")
    assert diamond.get_marker() == "D"
    np.testing.assert_array_equal(diamond.get_xdata(), [30])
    np.testing.assert_array_equal(diamond.get_ydata(), at["cor"])
    assert diamond.get_markersize() > by_gid(ax, "diamond:stem").get_markersize()
    assert "bottleneck: step 30, block 1" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_bottleneck_is_found_at_the_lowest_whole_model_cor(synthetic_report, by_gid):
    report = synthetic_report(blocks=24, steps=6)
    ax = plot_trajectory(report.layers, report.settings, totals=report.totals)
    step = report.totals.loc[report.totals["cor"].idxmin(), "step"]
    here = report.layers[report.layers["step"] == step]
    lowest = here.loc[here["cor"].idxmin(), "group"]
    np.testing.assert_array_equal(by_gid(ax, f"diamond:{lowest}").get_xdata(), [step])


def test_many_groups_keep_bands_for_those_that_matter(synthetic_report, all_gids):
    many = synthetic_report(blocks=24, steps=6, all_statuses=False)
    bands = [g for g in all_gids(plot_trajectory(many.layers, many.settings, totals=many.totals)) if "band:" in g]
    assert len(bands) == 2
    assert "band:total" in bands
    few = synthetic_report(blocks=2, steps=6, all_statuses=False)
    bands = [g for g in all_gids(plot_trajectory(few.layers, few.settings)) if "band:" in g]
    assert bands == sorted(f"band:{group}" for group in few.groups)


def test_band_is_the_interval(synthetic_report, by_gid):
    report = synthetic_report(blocks=2, steps=4, all_statuses=False)
    ax = plot_trajectory(report.layers, report.settings)
    table = report.layers[report.layers["group"] == "head"]
    ends = by_gid(ax, "band:head").get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(ends.min(), table["cor_low"].min())
    np.testing.assert_allclose(ends.max(), table["cor_high"].max())


def test_steps_without_a_cor_are_marked_not_dropped(synthetic_report):
    report = synthetic_report(blocks=7, steps=6)
    ax = plot_trajectory(report.layers, report.settings)
    for status, prefix in (
        ("no_signal", "edge:no_signal:"),
        ("undefined", "edge:undefined:"),
        ("above_max_radius",) * 2,
    ):
        for group, table in report.layers.groupby("group"):
            expected = table.loc[table["status"] == status, "step"].to_numpy(dtype=float)
            gid = f"{prefix}{'' if prefix.endswith(':') else ':'}{group}"
            marks = [c for c in ax.collections if c.get_gid() == gid]
            drawn = np.concatenate([m.get_offsets()[:, 0] for m in marks]) if marks else np.zeros(0)
            assert drawn.shape == expected.shape
            np.testing.assert_allclose(drawn, expected, atol=0.36 * 10)  # beside its own step, never at another


def test_marks_of_different_groups_do_not_coincide(synthetic_report):
    report = synthetic_report(blocks=24, steps=3)
    layers = report.layers.assign(status="no_signal", cor=np.nan, cor_low=np.nan, cor_high=np.nan)
    ax = plot_trajectory(layers, report.settings)
    x = np.concatenate([c.get_offsets()[:, 0] for c in ax.collections if str(c.get_gid()).startswith("edge")])
    assert len(np.unique(x)) == len(layers)


def test_single_step_spreads_the_groups(synthetic_report, by_gid):
    report = synthetic_report(blocks=24, steps=1, all_statuses=False)
    ax = plot_trajectory(report.layers, report.settings)
    x = [by_gid(ax, group).get_xdata()[0] for group in report.groups]
    assert x == sorted(set(x))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0"]


def test_unknown_quantity_is_refused(synthetic_report):
    report = synthetic_report(steps=1)
    with pytest.raises(ValueError, match="expected quantity to be one of cor, gsnr, got 'loss'; pass"):
        plot_trajectory(report.layers, report.settings, quantity="loss")
