"""Fixtures for tests of figures: artists by their gid, and the boxes of all texts."""

import pytest
from matplotlib.text import Text

from tests.support.synthetic_tables import synthetic_report as make_report


@pytest.fixture(scope="session")
def synthetic_report():
    """The maker itself: call it with the blocks, steps and statuses that a test needs."""
    return make_report


def _by_gid(ax, gid):
    found = [artist for artist in ax.get_children() if artist.get_gid() == gid]
    assert len(found) == 1, f"expected one artist {gid!r}, found {len(found)}; axes has {gids(ax)}"
    return found[0]


def gids(ax):
    return sorted(str(artist.get_gid()) for artist in ax.get_children() if artist.get_gid())


@pytest.fixture(scope="session")
def by_gid():
    """The one artist of an axes that carries a gid."""
    return _by_gid


@pytest.fixture(scope="session")
def all_gids():
    """Every gid on an axes."""
    return gids


@pytest.fixture(scope="session")
def rendered():
    """Draw a figure and return every visible text with its box, in pixels, and the figure's size."""

    def render(figure):
        figure.canvas.draw()
        hidden = {id(label) for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for label in _out_of_view(axis)}
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
        drawn = {id(text): text for text in texts if id(text) not in hidden}.values()
        return [(text.get_text(), text.get_window_extent()) for text in drawn], figure.bbox

    return render


def _out_of_view(axis):
    low, high = sorted(axis.get_view_interval())
    return [
        label
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not low <= tick.get_loc() <= high
        for label in (tick.label1, tick.label2)
    ]
