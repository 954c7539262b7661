import pandas as pd
import pytest

from corit.training.ablate import PARTS, ablate, grid_variants, summarise
from corit.training.train import train_detector
from gsnr_toolkit.errors import ProbeError
from tests.support.corit_config import CONFIG


def test_variants_share_features_and_are_resumed(tmp_path, monkeypatch):
    variants = grid_variants({"rho": ["0", "0.1"], "num_regions": ["0", "2"]})
    table = ablate(CONFIG, variants, tmp_path, seeds=2, device="cpu")
    assert table["variant"].nunique() == 4
    assert len(list((tmp_path / "runs").iterdir())) == 8
    # train (2 views), validation and test images are in one file each, for K = 0 and for K = 2; and what the regions
    # that all images share are found from
    assert len(list((tmp_path / "features").iterdir())) == 2 * 4 + 1
    from corit.model import features

    monkeypatch.setattr(features.FeatureMaker, "_compute", None)  # nothing is computed again
    again = ablate(CONFIG, variants, tmp_path, seeds=2, device="cpu")
    pd.testing.assert_frame_equal(again, table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "ablation.csv"), table, check_dtype=False)


def test_a_variant_is_the_training_that_its_config_says(tmp_path):
    table = ablate(CONFIG, {"without RSI": {"rsi": False}}, tmp_path, device="cpu")
    from dataclasses import replace

    alone = train_detector(replace(CONFIG, rsi=False), tmp_path / "alone", device="cpu", draws=0)
    assert table["value"].tolist() == [row["value"] for row in alone["test"]]


def test_summary_over_seeds():
    rows = [
        {"variant": "a", "seed": seed, "selection": "last", "data": "d", "level": level, "value": value, "val_auc": 0.5}
        for seed, value in ((0, 0.6), (1, 0.8))
        for level in ("frame", "video")
    ]
    (row,) = summarise(pd.DataFrame(rows)).to_dict("records")
    assert (row["auc"], row["auc_min"], row["auc_max"], row["seeds"]) == (pytest.approx(0.7), 0.6, 0.8, 2)


def test_every_part_is_a_change(tmp_path):
    from dataclasses import replace

    configs = [replace(CONFIG, **changes) for changes in PARTS.values()]
    assert len({config.key for config in configs}) == len(PARTS)


def test_what_cannot_be_varied(tmp_path):
    with pytest.raises(ProbeError, match=r"the name of a setting, got 'num_region'; use .* Did you mean 'num_regions'"):
        grid_variants({"num_region": ["1"]})
    with pytest.raises(ProbeError, match=r"the number of seeds, got seed as a setting to vary"):
        grid_variants({"seed": ["1"]})
    with pytest.raises(ProbeError, match=r"expected seeds to be 1 or more, got 0"):
        ablate(CONFIG, {"a": {}}, tmp_path, seeds=0)
