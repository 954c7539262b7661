import math

import pandas as pd
import pytest

from gsnr_toolkit.report.verdict import cor_verdict, describe_weakest, gsnr_verdict, weakest_group


def _row(group="total", **changes):
    row = {
        "step": 20,
        "group": group,
        "status": "ok",
        "message": "the message",
        "num_samples": 256,
        "gsnr": 0.004,
        "gsnr_low": 0.003,
        "gsnr_high": 0.006,
        "noise_floor": 0.002,
        "noise_scale": 250.0,
        "cor": 0.006,
        "cor_low": 0.005,
        "cor_high": 0.008,
        "signal_fraction": 0.004,
        "misspecification": 1.0,
        "grad_norm": 0.5,
        "in_collapse_zone": True,
    }
    return {**row, **changes}


def _layers(*rows):
    return pd.DataFrame(list(rows))


LAYERS = _layers(
    _row("block 1", cor=0.1, signal_fraction=0.1),
    _row("block 2", cor=0.05, signal_fraction=0.05),
    _row("block 3", cor=0.006, signal_fraction=0.004),
)


def test_the_whole_sentence():
    assert cor_verdict(_row(), LAYERS, 0.05, many_steps=True) == (
        "rho = 0.05 lies in the collapse zone: COR 0.006 [0.005, 0.008] at step 20; block 3 loses its direction first, "
        "because its signal is weak (COR 0.006 [0.005, 0.008], GSNR 0.004 [0.003, 0.006] against a noise floor of "
        "0.002)."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cor_high": 0.09}, "Undecided for rho = 0.05, which lies within"),
        ({"cor": 0.07, "cor_low": 0.03, "cor_high": 0.1, "in_collapse_zone": False}, "Undecided for rho = 0.05"),
        ({"cor": 0.7, "cor_low": 0.3, "cor_high": 1, "in_collapse_zone": False}, "0.05 is outside the collapse zone"),
        ({"status": "no_signal", "in_collapse_zone": False}, "Undecided for rho = 0.05: the message"),
        ({"status": "undefined", "in_collapse_zone": False}, "No answer for rho = 0.05: the message"),
        (
            {"status": "above_max_radius", "cor": math.inf, "cor_low": 0.06, "in_collapse_zone": False},
            "outside the collapse zone: COR is",
        ),
    ],
)
def test_every_state_has_its_words(changes, words):
    assert words in cor_verdict(_row(**changes), LAYERS, 0.05, many_steps=False)


def test_a_layer_inside_the_zone_of_which_the_whole_is_outside_is_named():
    total = _row(cor=0.7, cor_low=0.3, cor_high=1.0)
    layers = _layers(_row("block 1", cor=0.9, cor_low=0.8, cor_high=1.0), _row("block 2", cor=0.01, cor_high=0.02))
    text = cor_verdict(total, layers, 0.05, many_steps=False)
    assert "[0.3, 1] for the whole model, although block 2 lies inside it; block 2 loses" in text
    assert "although" not in cor_verdict(total, layers.head(1), 0.05, many_steps=False)


def test_a_tie_does_not_hide_the_layers_without_a_signal():
    silent = [_row(f"block {i}", status="no_signal", cor=math.nan) for i in range(3, 6)]
    text = describe_weakest(_layers(_row("block 1"), _row("block 2"), *silent))
    assert "in an order that the intervals leave open (3 others have no measurable signal)" in text


@pytest.mark.parametrize(
    ("term", "value", "words"),
    [
        ("signal_fraction", 0.01, "its signal is weak"),
        ("misspecification", 10.0, "changes direction quickly"),
        ("grad_norm", 5.0, "its gradient is large"),
    ],
)
def test_the_cause_is_the_largest_term(term, value, words):
    weak = _row("weak", cor=0.001, signal_fraction=0.1, **{} if term == "signal_fraction" else {term: value})
    if term == "signal_fraction":
        weak[term] = value
    layers = _layers(*(_row(f"block {i}", cor=0.1 + i, signal_fraction=0.1) for i in range(3)), weak)
    assert words in describe_weakest(layers)


def test_no_cause_is_named_where_layers_are_alike():
    layers = _layers(*(_row(f"block {i}", cor=0.1 - 0.001 * i) for i in range(3)))
    assert "because" not in describe_weakest(layers)
    assert describe_weakest(layers).startswith("block 2 loses its direction first (COR")


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "1 and 0 lose their direction first, in an order that the intervals leave open (1 has COR"),
        (2, "2, 1 and 0 lose their direction first"),
        (5, "5, 4 and 4 more layers lose their direction first"),
    ],
)
def test_ties_are_ties(count, words):
    """Values of .0203 and .0205 with intervals that begin at 0 have no order."""
    rows = [_row(str(i), cor=0.0205 - 0.0002 * i / count, cor_low=0.0, cor_high=0.05) for i in range(count + 1)]
    apart = _row("apart", cor=0.04, cor_low=0.03, cor_high=0.06)
    text = describe_weakest(_layers(*rows, apart))
    assert text.startswith(words)
    assert "because" not in text


def test_ties_of_gsnr():
    rows = [_row(name, gsnr=value, gsnr_low=0.001, gsnr_high=0.1) for name, value in (("a", 0.02), ("b", 0.021))]
    text = gsnr_verdict(_row(), _layers(*rows, _row("c", gsnr=0.5, gsnr_low=0.4, gsnr_high=0.6)))
    assert "the weakest layers with a signal are a and b, the first with 0.02" in text


def test_above_the_largest_radius_but_with_a_low_limit():
    row = _row(status="above_max_radius", cor=math.inf, cor_low=0.01, cor_high=math.inf)
    text = cor_verdict(row, LAYERS, 0.05, many_steps=False)
    assert text.startswith("Undecided for rho = 0.05: COR is the message, but its interval begins at 0.01")


def test_layers_without_a_number_are_never_the_weakest():
    layers = _layers(_row("a", status="no_signal", cor=math.nan), _row("b", cor=0.3))
    assert weakest_group(layers) == "b"
    assert weakest_group(layers[:1]) is None
    assert describe_weakest(layers[:1]) == ""


def test_layers_without_a_signal_are_not_said_to_hold():
    silent = _row("b", status="no_signal", cor=math.nan)
    alone = describe_weakest(_layers(_row("a", cor=0.3), silent))
    assert alone.startswith("a is the only layer with a measurable signal (1 have none) (COR")
    several = describe_weakest(_layers(_row("a", cor=0.3), _row("c", cor=0.31), silent))
    assert several.startswith("a loses its direction first among the 2 layers with a measurable signal (1 have none)")


def test_gsnr_sentences():
    layers = _layers(_row("a", gsnr=0.01), _row("b", status="no_signal"))
    text = gsnr_verdict(_row(), layers)
    assert "about 250 samples make signal and noise equal" in text
    assert "weakest layer with a signal is a" in text
    assert text.endswith("1 of 2 layers show no signal.")
    assert gsnr_verdict(_row(status="no_signal"), layers) == "Whole model: the message."
