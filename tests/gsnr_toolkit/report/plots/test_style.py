import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import gsnr_toolkit.report.plots as plots
from gsnr_toolkit.report.plots.style import OKABE_ITO, depth_colors, new_figure, paper_style, save


def test_importing_the_package_loads_no_plotting_library():
    code = (
        "import sys, gsnr_toolkit, gsnr_toolkit.report.plots;"
        "print([m for m in ('matplotlib', 'pandas', 'torch') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_every_public_name_resolves_and_others_say_so():
    for name in plots.__all__:
        assert callable(getattr(plots, name))
    with pytest.raises(AttributeError, match="no attribute 'plot_everything'; public names: paper_style"):
        _ = plots.plot_everything


def test_drawing_and_saving_leave_global_settings_alone(synthetic_report, tmp_path):
    before = dict(matplotlib.rcParams)
    report = synthetic_report(steps=2)
    save(plots.plot_overview(report.layers, report.totals, report.drift, report.settings), tmp_path / "overview")
    assert dict(matplotlib.rcParams) == before


def test_no_window_or_pyplot_figure_is_made(synthetic_report):
    from matplotlib import pyplot

    open_before = pyplot.get_fignums()
    report = synthetic_report(steps=1)
    plots.plot_cor_by_layer(report.layers, report.settings)
    assert pyplot.get_fignums() == open_before


def test_style_is_undone_after_an_error():
    before = matplotlib.rcParams["font.size"]
    with pytest.raises(RuntimeError), paper_style():
        raise RuntimeError
    assert matplotlib.rcParams["font.size"] == before


def test_pdf_embeds_truetype_fonts(tmp_path):
    figure = new_figure()
    figure.add_subplot().set_title("text")
    _, pdf = save(figure, tmp_path / "figure")
    content = pdf.read_bytes()
    assert b"/CIDFontType2" in content or b"/TrueType" in content
    assert b"/Type3" not in content


def test_equal_figures_give_equal_files(synthetic_report, tmp_path):
    report = synthetic_report(steps=1)
    written = [
        save(plots.plot_cor_by_layer(report.layers, report.settings).figure, tmp_path / name) for name in ("a", "b")
    ]
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_size_on_paper_is_the_size_asked_for(tmp_path):
    from PIL import Image

    (png,) = save(new_figure(3.3, 2.0), tmp_path / "figure", formats=("png",), dpi=100)
    assert Image.open(png).size == (330, 200)


def test_failed_rendering_leaves_the_old_files(tmp_path):
    save(new_figure(), tmp_path / "figure")
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="nosuch"):
        save(new_figure(), tmp_path / "figure", formats=("png", "nosuch"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_failed_writing_leaves_no_temporary_file(tmp_path, monkeypatch):
    from pathlib import Path

    save(new_figure(), tmp_path / "figure")
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_bytes

    def full_disk(self, data):
        if self.name.startswith(".figure.pdf"):
            write(self, data[: len(data) // 2])
            raise OSError("no space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    changed = new_figure()
    changed.add_subplot()
    with pytest.raises(OSError, match="no space left"):
        save(changed, tmp_path / "figure")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_names_with_dots_keep_them(tmp_path):
    (png,) = save(new_figure(), tmp_path / "deep" / "rho0.05", formats=("png",))
    assert png == tmp_path / "deep" / "rho0.05.png"
    assert png.exists()


def test_few_groups_get_palette_colours_many_get_monotone_lightness():
    few = depth_colors(["a", "b", "c"])
    assert list(few.values()) == list(OKABE_ITO.values())[:3]
    many = depth_colors([str(i) for i in range(26)])
    lightness = [np.dot(to_rgb(color), [0.2126, 0.7152, 0.0722]) for color in many.values()]
    assert np.all(np.diff(lightness) > 0)
    assert lightness[-1] < 0.85  # still visible on white paper
