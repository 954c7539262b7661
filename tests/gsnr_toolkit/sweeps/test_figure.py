import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from gsnr_toolkit.report.plots.style import root_figure
from gsnr_toolkit.sweeps.figure import describe_runs, plot_auc_radius, plot_sweep

RADII = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)
FALLS_AT = {"demo-nt": 0.03, "demo-f2f": 0.1, "demo-df": 0.3, "demo-fs": 9.0}
COR = {"demo-nt": 0.002, "demo-f2f": 0.008, "demo-df": 0.02, "demo-fs": math.inf}


def sweep_table(families=tuple(FALLS_AT), seeds=3, tunings=("full",), radii=RADII):
    """A sweep in which each family collapses at a radius of its own."""
    rng, rows = np.random.default_rng(0), []
    for tuning in tunings:
        for family in families:
            for seed in range(seeds):
                for rho in radii:
                    dead = rho >= FALLS_AT[family]
                    auc = 0.5 if dead else 0.93 - 1.2 * rho + 0.02 * rng.normal()
                    auc = min(auc, 0.99)
                    rows.append({
                        "data": family, "tuning": tuning, "rho": rho, "seed": seed, "status": "dead" if dead else "ok",
                        "train_loss": math.log(2) if dead else 0.3, "test_auc": auc, "test_auc_low": auc - 0.03,
                        "test_auc_high": min(1, auc + 0.03), "num_test": 1000, "cor_status": "ok",
                        "cor": COR[family] * (1 + 0.1 * (seed - 1)), "cor_low": COR[family] / 2 * (1 + 0.1 * seed),
                        "cor_high": 2 * COR[family] * (1 + 0.1 * seed),
                    })  # fmt: skip
    return pd.DataFrame(rows)


def lines(ax):
    return {str(line.get_gid()): line for line in ax.get_lines()}


def test_lines_are_means_over_seeds_and_dots_are_the_seeds(by_gid):
    table = sweep_table()
    ax = plot_auc_radius(table)
    for family, runs in table.groupby("data"):
        mean = runs[runs["rho"] > 0].groupby("rho")["test_auc"].mean()
        np.testing.assert_allclose(by_gid(ax, family).get_ydata(), mean)
        np.testing.assert_allclose(by_gid(ax, family).get_xdata(), mean.index, rtol=0.06)  # settings stand apart a bit
        np.testing.assert_allclose(
            by_gid(ax, f"zero:{family}").get_ydata(), [runs[runs["rho"] == 0]["test_auc"].mean()]
        )
        assert by_gid(ax, f"zero:{family}").get_xdata()[0] < 0.003 / 2
        dots = by_gid(ax, f"seeds:{family}").get_offsets()
        np.testing.assert_allclose(np.sort(dots[:, 1]), np.sort(runs["test_auc"]))
    segments = {round(float(s[0, 1]), 6) for s in by_gid(ax, "interval:demo-fs").get_segments()}
    assert len(segments) == len(RADII)


def test_zero_has_a_tick_behind_a_break():
    ax = plot_auc_radius(sweep_table())
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels[0] == "0"
    assert set(labels[1:]) <= {f"{radius:g}" for radius in RADII}
    assert "axis_break" in lines(ax)
    no_zero = sweep_table(radii=RADII[1:])
    ax = plot_auc_radius(no_zero[no_zero["data"] == "demo-fs"])
    assert "0" not in [label.get_text() for label in ax.get_xticklabels()]
    assert "axis_break" not in lines(ax)


def test_the_diamond_stands_on_the_curve_at_the_median_cor(by_gid):
    table = sweep_table(families=["demo-df"])
    ax = plot_auc_radius(table)
    (x,), (y,) = by_gid(ax, "cor:demo-df").get_data()
    assert x == pytest.approx(0.02)
    mean = table.groupby("rho")["test_auc"].mean()
    share = math.log(0.02 / 0.01) / math.log(0.03 / 0.01)
    assert y == pytest.approx(mean[0.01] * (1 - share) + mean[0.03] * share)
    # from the lowest of the seeds' limits to the highest
    np.testing.assert_allclose(by_gid(ax, "cor_interval:demo-df").get_xdata(), [0.01, 0.048])


def test_a_cor_above_all_radii_is_hollow_at_the_edge_and_one_below_widens_the_axis(by_gid):
    ax = plot_auc_radius(sweep_table())
    assert to_hex(by_gid(ax, "cor:demo-fs").get_markerfacecolor()) == "#ffffff"
    assert 0.3 < by_gid(ax, "cor:demo-fs").get_xdata()[0] < ax.get_xlim()[1]
    assert to_hex(by_gid(ax, "cor:demo-nt").get_markerfacecolor()) != "#ffffff"
    assert by_gid(ax, "zero:demo-nt").get_xdata()[0] < 0.002


@pytest.mark.parametrize("status", ["no_signal", None])
def test_no_diamond_without_a_cor(status):
    table = sweep_table(families=["demo-nt"])
    table = table.drop(columns=["cor_status"]) if status is None else table.assign(cor_status=status, cor=math.nan)
    assert not any(gid.startswith("cor") for gid in lines(plot_auc_radius(table)))


def test_the_zone_begins_at_the_smallest_collapse_radius(by_gid):
    ax = plot_auc_radius(sweep_table())
    box = by_gid(ax, "zone").get_extents().transformed(ax.transData.inverted())
    np.testing.assert_allclose([box.x0, box.x1], [0.03, ax.get_xlim()[1]], rtol=1e-6)
    np.testing.assert_allclose(by_gid(ax, "bracket:demo-f2f").get_xdata(), [0.03, 0.1])
    ax = plot_auc_radius(sweep_table(families=["demo-fs"]))
    assert not [patch for patch in ax.patches if patch.get_gid() == "zone"]
    assert not any(gid.startswith("bracket") for gid in lines(ax))


def test_the_note_counts_seeds_and_images_and_names_embedded_data():
    table = sweep_table(seeds=2)
    assert describe_runs(table) == "2 seeds, n = 1000 test images, 95 % intervals, embedded data"
    real = table.assign(data="nt", num_test=[500] * 10 + [1000] * (len(table) - 10))
    assert describe_runs(real[real["seed"] == 0]).startswith("1 seed, n = 500–1000 test images")
    assert "embedded" not in describe_runs(real)


def test_a_panel_for_every_other_setting_and_one_colour_for_a_data_set(by_gid):
    table = sweep_table(tunings=("head", "full"), seeds=2)
    table = table[(table["tuning"] == "full") | (table["data"] != "demo-nt")]
    figure = plot_sweep(table)
    first, second = figure.axes
    assert [ax.get_title("left") for ax in figure.axes] == ["tuning head", "tuning full"]
    assert "demo-nt" not in lines(first)
    assert by_gid(first, "demo-df").get_color() == by_gid(second, "demo-df").get_color()
    (legend,) = figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert sorted(named[:4]) == sorted(FALLS_AT)
    assert len(named) == len(set(named)) == 10
    assert len({by_gid(second, family).get_color() for family in FALLS_AT}) == 4


def test_nothing_leaves_the_figure_and_no_tick_labels_touch(rendered):
    for table in (sweep_table(), sweep_table(families=["demo-nt"], seeds=1), sweep_table(tunings=("head", "full"))):
        figure = plot_sweep(table)
        texts, box = rendered(figure)
        for text, extent in texts:
            assert extent.x0 >= box.x0 - 1, text
            assert extent.x1 <= box.x1 + 1, text
            assert extent.y0 >= box.y0 - 1, text
            assert extent.y1 <= box.y1 + 1, text
        for ax in figure.axes:
            spans = sorted(
                (label.get_window_extent().x0, label.get_window_extent().x1) for label in ax.get_xticklabels()
            )
            assert all(left[1] <= right[0] for left, right in pairwise(spans))


def test_one_data_point_is_drawn_and_no_run_is_refused():
    root_figure(plot_auc_radius(sweep_table(families=["demo-nt"], seeds=1, radii=[0.0]))).canvas.draw()
    root_figure(plot_auc_radius(sweep_table(families=["demo-nt"], seeds=1, radii=[0.01]))).canvas.draw()
    with pytest.raises(ValueError, match="expected ended runs at a fixed radius, got none"):
        plot_auc_radius(sweep_table().assign(status="failed"))
    with pytest.raises(ValueError, match="got one without rho"):
        plot_auc_radius(sweep_table().drop(columns="rho"))
