import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from corit.proxy.check import check_proxy, compare_proxy, join_checks
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.models.clip import Detector
from tests.support.towers import SIZE, blurred, make_detector, make_images, make_tower


def tables(proxy, true, data="nt", step=0):
    count = len(proxy)
    keys = {"group": [f"block {i}" for i in range(1, count + 1)], "depth": range(1, count + 1), "data": data}
    left = pd.DataFrame({**keys, "step": step, "gsnr": proxy, "status": "ok", "variance_ratio": 0.1})
    right = pd.DataFrame({**keys, "step": step, "gsnr": true, "status": "ok"})
    return left, right


def test_rank_correlation_is_scipys():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=24).round(1), generator.normal(size=24).round(1)  # with ties
    check = compare_proxy(*tables(a, b))
    assert check.spearman == pytest.approx(spearmanr(a, b).statistic)
    layers = check.correlations.set_index("scope").loc["layers"]
    assert (layers["data"], layers["step"], layers["count"]) == ("nt", 0, 24)


def test_scopes_over_layers_data_sets_and_steps():
    checks = [
        compare_proxy(*tables([1.0 + d, 2.0 + d, 3.0 + d], [10.0 * (s + 1) + d, 20.0, 30.0], data=f"d{d}", step=s))
        for d in range(3)
        for s in range(4)
    ]
    joined = join_checks(checks)
    scopes = joined.correlations.groupby("scope").size().to_dict()
    assert scopes == {"all": 1, "layers": 12, "data": 12, "steps": 9}
    assert len(joined.table) == 36
    over_data = joined.correlations.query("scope == 'data' and step == 0").set_index("group")["spearman"]
    assert over_data["block 1"] == pytest.approx(1.0)
    assert math.isnan(over_data["block 2"])  # the truth is constant there
    assert "36 layers, data sets and steps" in joined.sentence
    assert "0.1 of the variance" in joined.sentence


def test_undefined_values_are_left_out():
    check = compare_proxy(*tables([1.0, np.nan, 2.0, 3.0], [1.0, 9.0, 2.0, np.nan]))
    assert check.correlations["count"].tolist() == [2, 2]
    assert math.isnan(check.spearman)
    assert "undefined" in check.sentence


def test_nothing_in_common():
    left, right = tables([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    with pytest.raises(ProbeError, match=r"none in common: groups \['block 1', .* and \['head'\]"):
        compare_proxy(left, right.assign(group="head").head(1))


def labelled(count=32, seed=2):
    images, labels = make_images(count, seed), torch.arange(count) % 2
    return [(torch.where((labels == 1)[:, None, None, None], images + 1, images), labels)]


@pytest.mark.parametrize("kind", ["plain", "corit"])
def test_both_are_measured(kind):
    plain = Detector(make_tower(), 8, name="tiny", image_size=SIZE)
    model = plain if kind == "plain" else make_detector(counterpart=blurred)
    loaders = {"a": labelled(), "b": labelled(seed=5)}
    check = check_proxy(model, loaders, step=7, counterpart=blurred, progress=False)
    assert check.table["data"].tolist() == ["a"] * 3 + ["b"] * 3
    assert set(check.table["step"]) == {7}
    assert check.table[["proxy_gsnr", "gsnr", "variance_ratio"]].notna().all(axis=None)
    assert check.correlations["scope"].tolist() == ["all", "layers", "layers"]


def test_the_parameters_reading_and_batches_of_pairs():
    plain = Detector(make_tower(), 8, name="tiny", image_size=SIZE)
    ((images, labels),) = labelled()
    check = check_proxy(plain, {"a": [(images, blurred(images), labels)]}, layerwise="parameters", progress=False)
    assert check.table["group"].tolist() == ["block 1", "block 2", "block 3"]
    detector = make_detector()
    paired = {"a": [(images, blurred(images), labels)]}
    assert len(check_proxy(detector, paired, pool="regions", progress=False).table) == 3
    with pytest.raises(ProbeError, match="images without labels"):
        check_proxy(plain, {"a": [images]}, counterpart=blurred, progress=False)
