from xml.etree import ElementTree

import pytest

from gsnr_toolkit.report.pages.svg import draw, inline_svg
from gsnr_toolkit.report.plots.style import new_figure, paper_style


def _figure(names=("a", "b")):
    figure = new_figure()
    ax = figure.add_subplot()
    for index, name in enumerate(names):
        ax.plot([0, 1], [index, index + 1], gid=name, label=name, marker="o")
    ax.legend()
    return figure


def _ids(root):
    return [element.attrib["id"] for element in root.iter() if "id" in element.attrib]


def test_ids_of_two_figures_do_not_clash():
    first, second = (ElementTree.fromstring(inline_svg(_figure(), name, "words")) for name in ("f0", "f1"))
    assert _ids(first)
    assert all(name.startswith("f0-") for name in _ids(first))
    assert not set(_ids(first)) & set(_ids(second))
    assert len(set(_ids(first))) == len(_ids(first))


def test_every_reference_has_an_end_and_every_end_a_reference():
    text = inline_svg(_figure(), "f0", "words")
    root = ElementTree.fromstring(text)
    for name in _ids(root):
        assert f'"#{name}"' in text or f"url(#{name})" in text
    used = [v for e in root.iter() for k, v in e.attrib.items() if k != "id" and "#f0-" in v]
    for value in used:
        assert value.strip("url()").lstrip("#") in _ids(root), value


def test_nothing_of_a_figure_reaches_the_page_around_it():
    text = inline_svg(_figure(), "f0", "words")
    for part in ("<style", "<metadata", "http", "xmlns", "<!DOCTYPE", "<!--", "<?xml", "<text"):
        assert part not in text, part


def test_the_picture_is_the_one_matplotlib_draws(tmp_path):
    """As many drawn elements as in the file that matplotlib itself writes, outlines of letters included."""
    import matplotlib as mpl

    figure = _figure()
    with paper_style(), mpl.rc_context({"svg.fonttype": "path"}):
        figure.savefig(tmp_path / "a.svg")
    theirs, ours = ElementTree.parse(tmp_path / "a.svg").getroot(), ElementTree.fromstring(inline_svg(figure, "f", ""))
    for kind in ("path", "use", "g", "clipPath"):
        count = sum(element.tag.rpartition("}")[2] == kind for element in theirs.iter())
        assert sum(element.tag == kind for element in ours.iter()) == count, kind


@pytest.mark.parametrize("name", ['"><script>x</script>', "a&b", "#x) url(#y"])
def test_hostile_words_stay_words(name):
    text = inline_svg(_figure((name, "b")), "f0", name)
    assert ElementTree.fromstring(text).attrib["aria-label"] == name
    assert "<script" not in text


def test_only_errors_of_a_value_are_told_in_the_figures_place():
    def broken():
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        draw("f", "t", "c", broken)
