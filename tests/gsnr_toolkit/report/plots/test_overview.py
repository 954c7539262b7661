from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from gsnr_toolkit.report.plots.attribution import plot_attribution
from gsnr_toolkit.report.plots.layer_profile import plot_layer_profile
from gsnr_toolkit.report.plots.overview import plot_overview


def draw(report, **options):
    return plot_overview(report.layers, report.totals, report.drift, report.settings, **options)


@pytest.mark.parametrize(("blocks", "steps"), [(7, 1), (7, 6), (24, 1), (24, 6)])
def test_texts_stay_inside_and_apart(synthetic_report, rendered, blocks, steps):
    boxes, page = rendered(draw(synthetic_report(blocks=blocks, steps=steps)))
    for text, box in boxes:
        assert box.x0 >= -1, f"{text!r} is clipped at the left"
        assert box.x1 <= page.x1 + 1, f"{text!r} is clipped at the right"
        assert box.y0 >= -1, f"{text!r} is clipped at the bottom"
        assert box.y1 <= page.y1 + 1, f"{text!r} is clipped at the top"
    for (text_a, a), (text_b, b) in combinations(boxes, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        along = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across < 1 or along < 1.5, f"{text_a!r} and {text_b!r} overlap"


def test_caption_and_title_say_what_was_measured(synthetic_report):
    report = synthetic_report(steps=6)
    figure = draw(report)
    assert figure.get_suptitle() == "clip-demo on demo-nt"
    assert figure.get_supxlabel() == "Data: embedded data. n = 512, 95 % intervals."


def test_caption_falls_back_on_the_data_name(synthetic_report):
    report = synthetic_report(steps=1)
    report.settings["caption"] = ""
    assert draw(report).get_supxlabel().startswith("Data: demo-nt. n = 512")


def test_bottleneck_without_a_group_marks_the_whole_model(synthetic_report, by_gid):
    report = synthetic_report(steps=3)
    middle = draw(report, bottleneck=SimpleNamespace(step=10, group=None)).axes[1]
    assert by_gid(middle, "diamond:total").get_xdata() == [10]


def test_panels_agree_on_the_bottleneck_step(synthetic_report):
    report = synthetic_report(steps=6)
    titles = [ax.get_title(loc="left") for ax in draw(report, bottleneck=SimpleNamespace(step=30, group="head")).axes]
    assert titles[:3] == ["COR by layer, step 30", "COR over steps", "Drift curve, step 30"]


def test_single_step_shows_gsnr_in_the_middle(synthetic_report):
    titles = [ax.get_title(loc="left") for ax in draw(synthetic_report(steps=1)).axes]
    assert titles[1] == "GSNR by layer, step 0"


def test_report_without_any_cor_still_draws(synthetic_report):
    report = synthetic_report(steps=3)
    for table in (report.layers, report.totals):
        table["status"] = "no_signal"
        table[["cor", "cor_low", "cor_high", "grad_norm"]] = np.nan
    report.drift["grad_norm"] = np.nan
    figure = draw(report)
    figure.canvas.draw()
    assert figure.axes[0].get_title(loc="left").startswith("COR by layer")


@pytest.mark.parametrize("plot", [plot_layer_profile, lambda *a: plot_attribution(*a).figure])
@pytest.mark.parametrize(
    "groups", [None, [f"visual.transformer.resblocks.{i}.mlp.c_fc.weight" for i in range(40)], ["all"]]
)
def test_column_figures_do_not_collapse(synthetic_report, rendered, plot, groups):
    report = synthetic_report(groups=groups, blocks=24, steps=1)
    figure = plot(report.layers, report.settings)
    boxes, page = rendered(figure)
    assert all(box.x0 >= -1 and box.x1 <= page.x1 + 1 for _, box in boxes)
    assert all(ax.get_position().height * figure.get_figheight() > 0.6 for ax in figure.axes)
