import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, brier_score_loss, roc_auc_score

from corit.scoring.metrics import BINS, by_video, evaluate_scores, measures, video_keys
from gsnr_toolkit.errors import ProbeError


def drawn(count=60, ties=True, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    scores = np.clip(0.3 * labels + rng.normal(0.4, 0.25, count), 0, 1)
    return labels, np.round(scores, 1) if ties else scores


def literal(labels, scores):
    """Every measure from its definition, by loops."""
    pairs = [(f > r) + 0.5 * (f == r) for f in scores[labels == 1] for r in scores[labels == 0]]
    rates, precision_at, last_recall, ap = [], [], 0.0, 0.0
    for threshold in [np.inf, *sorted(set(scores), reverse=True)]:
        called = scores >= threshold
        missed = np.mean(~called[labels == 1])
        rates.append((abs(missed - np.mean(called[labels == 0])), np.mean(called[labels == 0])))
        if called.any():
            precision_at.append(np.mean(labels[called]))
            ap += (1 - missed - last_recall) * precision_at[-1]
            last_recall = 1 - missed
    ece = 0.0
    for number in range(BINS):
        inside = [i for i, p in enumerate(scores) if min(int(p * BINS), BINS - 1) == number]
        if inside:
            ece += len(inside) / len(scores) * abs(np.mean(scores[inside]) - np.mean(labels[inside]))
    smallest = min(gap for gap, _ in rates)
    return {
        "auc": np.mean(pairs),
        "ap": ap,
        "eer": next(false for gap, false in rates if gap == smallest),
        "accuracy": np.mean([(p >= 0.5) == bool(y) for p, y in zip(scores, labels, strict=True)]),
        "ece": ece,
        "brier": np.mean([(p - y) ** 2 for p, y in zip(scores, labels, strict=True)]),
    }


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_against_definitions_and_scikit_learn(ties, seed):
    labels, scores = drawn(ties=ties, seed=seed)
    found = measures(labels, scores)
    assert found == pytest.approx(literal(labels, scores), rel=1e-12)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["ap"] == pytest.approx(average_precision_score(labels, scores))
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, scores >= 0.5))
    assert found["brier"] == pytest.approx(brier_score_loss(labels, scores))


def test_weights_are_repetitions():
    labels, scores = drawn()
    counts = np.random.default_rng(3).integers(0, 4, len(labels))
    repeated = measures(np.repeat(labels, counts), np.repeat(scores, counts))
    assert measures(labels, scores, counts) == pytest.approx(repeated, rel=1e-12)


def test_a_perfect_and_a_useless_detector():
    perfect = measures([0, 0, 1, 1], [0.0, 0.0, 1.0, 1.0])
    assert perfect == {"auc": 1.0, "ap": 1.0, "eer": 0.0, "accuracy": 1.0, "ece": 0.0, "brier": 0.0}
    constant = measures([0, 0, 1, 1], [0.5] * 4)
    assert (constant["auc"], constant["ap"], constant["brier"]) == (0.5, 0.5, 0.25)


def test_frames_of_a_video_are_averaged():
    labels = [0, 0, 1, 1, 1]
    known, scores = by_video(labels, [0.1, 0.3, 0.6, 0.8, 0.2], ["a", "a", "b", "b", "c"])
    assert sorted(zip(known.tolist(), scores.round(3).tolist(), strict=True)) == [(0, 0.2), (1, 0.2), (1, 0.7)]


def test_videos_of_one_name_are_told_apart_by_manipulation_and_label():
    """000_003 exists under Deepfakes and under NeuralTextures, and 000 may be both real and fake."""
    records = pd.DataFrame(
        {
            "label": [1, 1, 1, 1, 0, 0],
            "method": ["Deepfakes", "Deepfakes", "NeuralTextures", "NeuralTextures", "real", "real"],
            "video": ["000_003"] * 6,
            "domain": ["ff"] * 6,
        }
    )
    assert video_keys(records).tolist() == [0, 0, 1, 1, 2, 2]
    found = evaluate_scores(records["label"], [0.9, 0.7, 0.2, 0.4, 0.5, 0.5], video_keys(records), draws=0)
    # videos: 0.8 and 0.3 against 0.5: one of two wins; merged (0.55) they would win, and AUC would be 1
    assert found["video"]["auc"].value == 0.5
    without = records.rename(columns={"video": "source"})
    assert video_keys(without).tolist() == video_keys(records).tolist()


def test_the_bootstrap_draws_videos_within_each_class():
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(40), 8)
    labels = (videos < 20).astype(int)
    scores = np.clip(0.5 + 0.1 * labels + 0.2 * rng.normal(size=40)[videos], 0, 1)  # frames of a video are equal
    found = evaluate_scores(labels, scores, videos, draws=300)
    assert found["frame"]["auc"].value == pytest.approx(found["video"]["auc"].value)
    assert found["frame"]["auc"].low == pytest.approx(
        found["video"]["auc"].low
    )  # 320 frames are 40 videos all the same
    assert found["frame"]["auc"].low < found["frame"]["auc"].value < found["frame"]["auc"].high
    as_if_independent = evaluate_scores(labels, scores, np.arange(320), draws=300)["frame"]["auc"]
    wide = found["frame"]["auc"].high - found["frame"]["auc"].low
    assert wide > 2 * (as_if_independent.high - as_if_independent.low)


def test_an_interval_of_the_bootstrap_agrees_with_the_closed_form():
    from gsnr_toolkit.estimators.auc import auc

    rng = np.random.default_rng(1)
    real, fake = 1 / (1 + np.exp(-rng.normal(0, 1, 300))), 1 / (1 + np.exp(-rng.normal(0.7, 1, 300)))
    labels, scores = np.repeat([0, 1], 300), np.concatenate([real, fake])
    found = evaluate_scores(labels, scores, np.arange(600), draws=800)["frame"]["auc"]
    expected = auc(real, fake)
    assert found.value == pytest.approx(expected.value)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.008)


def test_no_interval_from_one_video():
    found = evaluate_scores([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], ["a", "a", "b", "c"])
    assert np.isnan(found["frame"]["auc"].low)
    assert found["frame"]["auc"].value == 1


def test_what_is_no_score_is_refused():
    with pytest.raises(ProbeError, match=r"expected probabilities from 0 to 1, got values from -1.0 to 2.0"):
        measures([0, 1], [-1, 2])
    with pytest.raises(ProbeError, match=r"from nan to nan"):
        measures([0, 1], [0.5, np.nan])
    with pytest.raises(ProbeError, match=r"got labels \[1\]; AUC needs both"):
        measures([1, 1], [0.5, 0.5])
    with pytest.raises(ProbeError, match=r"a video for each of 2 images, got shape \(3,\)"):
        by_video([0, 1], [0.5, 0.5], [1, 2, 3])
    with pytest.raises(ProbeError, match=r"draws from 0"):
        evaluate_scores([0, 1], [0.5, 0.5], [1, 2], draws=-1)
