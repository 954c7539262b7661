import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from analyses.support.tables import margin, read_table, store


def test_a_stored_table_has_six_digits_or_all(tmp_path):
    table = pd.DataFrame({"x": [1 / 3]})
    store(tmp_path, "short", {"": table, "_more": table}, seeds=2)
    store(tmp_path, "long", {"": table}, digits=None)
    assert read_table(tmp_path, "short_more")["x"].tolist() == [0.333333]
    assert read_table(tmp_path, "long")["x"].tolist() == [1 / 3]
    about = json.loads((tmp_path / "short.json").read_text(encoding="utf8"))
    assert about["seeds"] == 2
    assert "torch" in json.dumps(about)


def test_a_missing_table_says_how_to_compute_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv, but it is missing; run the script without --replot"):
        read_table(tmp_path, "nothing")


def test_the_margin_over_seeds_is_that_of_the_t_interval():
    values = pd.Series([0.5, 0.7, 0.65, 0.8])
    low, high = ttest_1samp(values, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([values.mean() - margin(values), values.mean() + margin(values)], [low, high])
    assert math.isnan(margin(values[:2]))
