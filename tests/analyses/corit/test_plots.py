"""The legend of a figure names what is drawn in it, and nothing else."""

from pathlib import Path

import pandas as pd

from analyses.corit.plots import draw_radii

STORED = Path(__file__).parents[3] / "figures" / "data"


def test_the_legend_of_the_radii_names_only_drawn_methods():
    table = pd.read_csv(STORED / "corit_baselines.csv")
    figure = draw_radii(table, list(dict.fromkeys(table["method"])))
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert named == set(table[table["trained_on"] != "sbi"]["method"])
    assert "plain SBI classifier" not in named
