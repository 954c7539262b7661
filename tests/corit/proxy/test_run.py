import pandas as pd
import pytest

from corit.proxy.check import compare_proxy
from corit.proxy.run import read_steps, run_proxy_check, save_check
from gsnr_toolkit.errors import ProbeError

TINY = "tests.support.tiny_clip:tiny_clip"


def test_data_sets_and_steps_come_together(tmp_path):
    check = run_proxy_check(TINY, ["demo-df", "demo-nt"], steps=(0, 2), samples=16)
    seen = check.table.groupby(["data", "step"]).size()
    assert sorted(seen.index) == [("demo-df", 0), ("demo-df", 2), ("demo-nt", 0), ("demo-nt", 2)]
    # no forgery enters the proxy: before training it cannot tell the families apart, while the truth does
    start = check.table[check.table["step"] == 0].pivot(index="group", columns="data", values=["proxy_gsnr", "gsnr"])
    assert (start["proxy_gsnr"]["demo-df"] == start["proxy_gsnr"]["demo-nt"]).all()
    assert (start["gsnr"]["demo-df"] != start["gsnr"]["demo-nt"]).any()
    # and training has moved both
    moved = check.table[check.table["data"] == "demo-df"].pivot(index="group", columns="step", values="proxy_gsnr")
    assert (moved[0] != moved[2]).any()
    save_check(check, tmp_path / "proxy", {"encoder": TINY})
    stored = pd.read_csv(tmp_path / "proxy" / "proxy_gsnr.csv")
    again = compare_proxy(
        stored.rename(columns={"gsnr": "true", "proxy_gsnr": "gsnr"}).drop(columns="status").assign(status="ok"),
        stored.drop(columns=["proxy_gsnr", "variance_ratio"]),
    )
    assert again.spearman == pytest.approx(check.spearman)
    assert (tmp_path / "proxy" / "rank_correlations.csv").exists()


def test_a_step_is_the_same_whichever_steps_come_before():
    one = run_proxy_check(TINY, ["demo-df"], steps=(3,), samples=16).table
    two = run_proxy_check(TINY, ["demo-df"], steps=(1, 3), samples=16).table
    pd.testing.assert_frame_equal(one, two[two["step"] == 3].reset_index(drop=True))


def test_what_is_refused():
    with pytest.raises(ProbeError, match=r"expected pool to be one of class, mean, tokens, got 'regions'"):
        run_proxy_check(TINY, ["demo-df"], pool="regions")
    with pytest.raises(ProbeError, match=r"expected layerwise to be one of parameters, readout, got 'x'"):
        run_proxy_check(TINY, ["demo-df"], layerwise="x")
    with pytest.raises(ProbeError, match="at least 8 samples, four of them real, got 4"):
        run_proxy_check(TINY, ["demo-df"], samples=4)
    with pytest.raises(ProbeError, match=r"expected steps as whole numbers, got '0,-1'"):
        read_steps("0,-1")
