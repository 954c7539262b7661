"""Pairs of real and forged faces: what a forgery changes, what it leaves, and what gives nothing away."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from gsnr_toolkit.data.demo.faces import sample_faces
from gsnr_toolkit.data.demo.families import FAMILIES
from gsnr_toolkit.data.demo.forgeries import DONOR_OFFSET, FORGERIES
from gsnr_toolkit.data.demo.landmarks import landmarks
from gsnr_toolkit.data.demo.pairs import demo_pair, demo_pairs
from gsnr_toolkit.data.demo.splits import SPLITS

TRAINED = list(FORGERIES)
ALL = list(FAMILIES)
WHOLE = ["gan", "diff"]
LOCAL = [family for family in ALL if family not in WHOLE]
COUNT = 800


@pytest.fixture(scope="module")
def few() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return {family: demo_pairs(family, np.arange(60)) for family in ALL}


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return {family: demo_pairs(family, np.arange(COUNT)) for family in ALL}


@pytest.mark.parametrize("family", ALL)
def test_a_pair_depends_on_its_number_alone(family: str) -> None:
    together = demo_pairs(family, [5, 40, 6])
    alone = demo_pairs(family, [40])
    for batch, single in zip(together, alone, strict=True):
        np.testing.assert_array_equal(batch[1], single[0])
    reseeded = demo_pairs(family, [40], seed=1)
    assert (reseeded[0] != alone[0]).mean() > 0.5


def test_all_families_of_a_world_show_the_same_real_face(few: dict) -> None:
    for family in [*TRAINED[1:], *WHOLE]:
        np.testing.assert_array_equal(few[family][0], few["df"][0])


@pytest.mark.parametrize("family", LOCAL)
def test_before_development_nothing_changes_outside_the_mask(family: str) -> None:
    shot = FAMILIES[family].world.shoot(np.arange(20), 64, seed=0)
    forged, mask = FAMILIES[family].forge(shot, 1.0)
    outside = np.broadcast_to((mask == 0)[:, None], forged.shape)
    np.testing.assert_array_equal(forged[outside], shot.image[outside])
    assert (forged[~outside] != shot.image[~outside]).mean() > 0.99
    assert mask.min() == 0
    assert mask.max() == 1


@pytest.mark.parametrize("family", WHOLE)
def test_a_synthetic_image_is_masked_as_a_whole(few: dict, family: str) -> None:
    real, fake, mask = few[family]
    assert (mask == 1).all()
    quarters = (real != fake).reshape(len(real), 4, 16, 4, 16, 3).any(axis=(2, 4, 5))
    assert quarters.mean() > 0.98


@pytest.mark.parametrize("family", [*TRAINED, "cdf"])
def test_the_mask_covers_the_region_that_the_family_forges(family: str) -> None:
    for identity in range(10):
        pair = demo_pair(family, identity)
        lips = np.rint(pair.landmarks[48:60].mean(axis=0)).astype(int)
        brows = np.rint(pair.landmarks[17:27]).astype(int)
        assert pair.mask[lips[1], lips[0]] > (0.7 if family == "cdf" else 0.9)  # a wider blend
        assert (pair.mask[brows[:, 1], brows[:, 0]].max() > 0.3) == (family != "nt")
        if family != "cdf":
            np.testing.assert_allclose(pair.landmarks, landmarks(sample_faces([identity]), 64)[0])


def test_families_go_from_visible_to_nearly_invisible(few: dict) -> None:
    change = {family: np.abs(real.astype(float) - fake).mean() for family, (real, fake, _) in few.items()}
    assert change["df"] > 1.5 * change["f2f"] > 3 * change["nt"]
    assert change["fs"] > 1.5 * change["f2f"]
    assert change["nt"] > 0.1


@pytest.mark.parametrize("family", LOCAL)
def test_strength_scales_the_forgery(family: str) -> None:
    def change(strength: float) -> float:
        real, fake, _ = demo_pairs(family, range(24), strength=strength)
        return float(np.abs(real.astype(float) - fake).mean())

    assert change(0.3) < change(1.0) < change(1.8)


def _image_bytes(pixels: np.ndarray, kind: str) -> int:
    with io.BytesIO() as buffer:
        Image.fromarray(pixels).save(buffer, kind)
        return buffer.tell()


def _noise(images: np.ndarray) -> np.ndarray:
    # Median absolute value of the Laplacian: edges do not count.
    grey = images.astype(float).mean(axis=3)
    near = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return np.median(np.abs(4 * grey[:, 1:-1, 1:-1] - near), axis=(1, 2))


STATISTICS = {
    "red": lambda images: images[..., 0].mean(axis=(1, 2)),
    "green": lambda images: images[..., 1].mean(axis=(1, 2)),
    "blue": lambda images: images[..., 2].mean(axis=(1, 2)),
    "contrast": lambda images: images.std(axis=(1, 2, 3)),
    "jpeg": lambda images: np.array([_image_bytes(image, "JPEG") for image in images]),
    "png": lambda images: np.array([_image_bytes(image, "PNG") for image in images]),
    "variation": lambda images: sum(np.abs(np.diff(images.astype(int), axis=a)).mean(axis=(1, 2, 3)) for a in (1, 2)),
    "noise": _noise,
}


@pytest.mark.slow
@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("family", ALL)
def test_trivial_statistics_do_not_tell_forgeries(pairs: dict, family: str, statistic: str) -> None:
    # Over different people: half of them shown real, the other half forged. Standard error 0.02.
    real, fake, _ = pairs[family]
    score = STATISTICS[statistic]
    images = np.concatenate([real[: COUNT // 2], fake[COUNT // 2 :]])
    assert abs(roc_auc_score(np.arange(COUNT) >= COUNT // 2, score(images)) - 0.5) < 0.07
    # Over the same people, whose differences cancel.
    everybody = np.concatenate([score(real), score(fake)])
    assert abs(roc_auc_score(np.arange(2 * COUNT) >= COUNT, everybody) - 0.5) < 0.06


@pytest.mark.slow
def test_the_control_can_fail(pairs: dict) -> None:
    # The same test catches a forgery that leaves the image a little brighter.
    real, fake, _ = pairs["df"]
    brightened = np.clip(fake + 25.0, 0, 255)
    images = np.concatenate([real[: COUNT // 2], brightened[COUNT // 2 :].astype(np.uint8)])
    auc = roc_auc_score(np.arange(COUNT) >= COUNT // 2, STATISTICS["red"](images))
    assert abs(auc - 0.5) > 0.07


@pytest.mark.slow
def test_a_control_of_the_noise_can_fail(pairs: dict) -> None:
    # White noise of two grey levels, less than the least grainy camera's, is caught.
    real, fake, _ = pairs["diff"]
    noise = np.random.default_rng(0).normal(0, 4, fake.shape)
    noisy = np.clip(fake + noise, 0, 255).astype(np.uint8)
    for statistic in ("variation", "noise", "png"):
        scores = np.concatenate([STATISTICS[statistic](real), STATISTICS[statistic](noisy)])
        assert roc_auc_score(np.arange(2 * COUNT) >= COUNT, scores) > 0.6


def _spectral_peak(images: np.ndarray) -> np.ndarray:
    # Power at a quarter of the sampling frequency, in both directions, over that of its neighbours.
    grey = images.astype(float).mean(axis=3)
    power = np.abs(np.fft.fft2(grey)) ** 2
    at = grey.shape[1] // 4
    around = power[:, at - 1 : at + 2, at - 1 : at + 2].sum(axis=(1, 2)) - power[:, at, at]
    return power[:, at, at] / around


def _seams(images: np.ndarray) -> np.ndarray:
    # Steps between pixels at the borders of blocks that are half a block off JPEG's, over steps inside.
    steps = np.abs(np.diff(images.astype(float), axis=2)).mean(axis=(1, 3))
    steps += np.abs(np.diff(images.astype(float), axis=1)).mean(axis=(2, 3))
    place = np.arange(steps.shape[1]) % 8
    return steps[:, place == 3].mean(axis=1) / steps[:, place == 5].mean(axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "trace", "least"), [("gan", _spectral_peak, 0.85), ("diff", _seams, 0.65)])
def test_a_synthetic_image_has_its_own_trace_over_the_whole_image(pairs: dict, family, trace, least) -> None:
    def auc(real: np.ndarray, fake: np.ndarray) -> float:
        return float(roc_auc_score(np.repeat([0, 1], len(real)), np.concatenate([trace(real), trace(fake)])))

    assert auc(*pairs[family][:2]) > least
    other = "diff" if family == "gan" else "df"
    assert abs(auc(*pairs[other][:2]) - 0.5) < 0.06
    without = demo_pairs(family, np.arange(300), strength=0.0)
    assert abs(auc(*without[:2]) - 0.5) < 0.07
    stronger = demo_pairs(family, np.arange(100), strength=2.0)
    assert auc(*stronger[:2]) > auc(pairs[family][0][:100], pairs[family][1][:100])


@pytest.mark.slow
def test_other_worlds_have_other_people_light_and_noise(pairs: dict) -> None:
    home, stage, telephone = (pairs[family][0].astype(float) for family in ("df", "cdf", "dfdc"))
    assert stage.mean() > home.mean() + 10 > telephone.mean() + 30
    assert _noise(stage.astype(np.uint8)).mean() < _noise(home.astype(np.uint8)).mean()
    skins = {
        family: np.mean([demo_pair(family, k).attributes["skin"] in ("pale", "fair") for k in range(60)])
        for family in ("df", "cdf", "dfdc")
    }
    assert skins["cdf"] > skins["df"] > skins["dfdc"]


def test_a_mixture_holds_all_four_forgeries() -> None:
    shot = FAMILIES["dfdc"].world.shoot(np.arange(40), 32, seed=0)
    forged, mask = FAMILIES["dfdc"].forge(shot, 1.0)
    equal = []
    for forge in FORGERIES.values():
        alone, its_mask = forge(shot, 1.0)
        equal.append((alone == forged).all(axis=(1, 2, 3)) & (its_mask == mask).all(axis=(1, 2)))
    assert (np.sum(equal, axis=0) == 1).all()
    assert (np.sum(equal, axis=1) > 3).all()


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("size", [33, 96])
def test_other_sizes(family: str, size: int) -> None:
    real, fake, mask = demo_pairs(family, [1, 2], size=size)
    assert real.shape == fake.shape == (2, size, size, 3)
    assert mask.shape == (2, size, size)
    assert (real != fake).any(axis=(1, 2, 3)).all()


def test_nobody_lives_in_two_worlds_or_is_a_donor() -> None:
    donors = 1 << 32
    starts = [0, DONOR_OFFSET, FAMILIES["cdf"].world.offset, FAMILIES["dfdc"].world.offset]
    lengths = [max(SPLITS.values()) + (1 << 30), donors, max(SPLITS.values()) + (1 << 30)]
    assert all(start + length <= after for start, length, after in zip(starts, lengths, starts[1:], strict=False))


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"one of df, fs, f2f, nt, .*got 'xx'"):
        demo_pairs("xx", [0])
    with pytest.raises(ValueError, match=r"got -0\.5; pass 1\.0"):
        demo_pairs("nt", [0], strength=-0.5)
