"""Pairs of real and forged faces: what a forgery changes, what it leaves, and what gives nothing away."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from gsnr_toolkit.data.demo.camera import sample_cameras
from gsnr_toolkit.data.demo.faces import sample_faces
from gsnr_toolkit.data.demo.forgeries import DONOR_OFFSET, FORGERIES, photograph
from gsnr_toolkit.data.demo.landmarks import landmarks
from gsnr_toolkit.data.demo.pairs import demo_pair, demo_pairs
from gsnr_toolkit.data.demo.splits import SPLITS

FAMILIES = list(FORGERIES)
COUNT = 800


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return {family: demo_pairs(family, np.arange(COUNT)) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_depends_on_its_number_alone(family: str) -> None:
    together = demo_pairs(family, [5, 40, 6])
    alone = demo_pairs(family, [40])
    for batch, single in zip(together, alone, strict=True):
        np.testing.assert_array_equal(batch[1], single[0])
    reseeded = demo_pairs(family, [40], seed=1)
    assert (reseeded[0] != alone[0]).mean() > 0.5


def test_all_families_show_the_same_real_face(pairs: dict) -> None:
    for family in FAMILIES[1:]:
        np.testing.assert_array_equal(pairs[family][0], pairs["df"][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_before_development_nothing_changes_outside_the_mask(family: str) -> None:
    faces = sample_faces(range(20))
    shot = photograph(faces, sample_cameras(faces), 64, seed=0)
    forged, mask = FORGERIES[family](shot, 1.0)
    outside = np.broadcast_to((mask == 0)[:, None], forged.shape)
    np.testing.assert_array_equal(forged[outside], shot.image[outside])
    assert (forged[~outside] != shot.image[~outside]).mean() > 0.99
    assert mask.min() == 0
    assert mask.max() == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mask_covers_the_region_that_the_family_forges(family: str) -> None:
    for identity in range(10):
        pair = demo_pair(family, identity)
        lips = np.rint(pair.landmarks[48:60].mean(axis=0)).astype(int)
        brows = np.rint(pair.landmarks[17:27]).astype(int)
        assert pair.mask[lips[1], lips[0]] > 0.9
        assert (pair.mask[brows[:, 1], brows[:, 0]].max() > 0.3) == (family != "nt")
        np.testing.assert_allclose(pair.landmarks, landmarks(sample_faces([identity]), 64)[0])


def test_families_go_from_visible_to_nearly_invisible(pairs: dict) -> None:
    change = {family: np.abs(real.astype(float) - fake).mean() for family, (real, fake, _) in pairs.items()}
    assert change["df"] > 1.5 * change["f2f"] > 3 * change["nt"]
    assert change["fs"] > 1.5 * change["f2f"]
    assert change["nt"] > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_strength_scales_the_forgery(family: str) -> None:
    def change(strength: float) -> float:
        real, fake, _ = demo_pairs(family, range(24), strength=strength)
        return float(np.abs(real.astype(float) - fake).mean())

    assert change(0.3) < change(1.0) < change(1.8)


def _image_bytes(pixels: np.ndarray, kind: str) -> int:
    with io.BytesIO() as buffer:
        Image.fromarray(pixels).save(buffer, kind)
        return buffer.tell()


STATISTICS = {
    "red": lambda images: images[..., 0].mean(axis=(1, 2)),
    "green": lambda images: images[..., 1].mean(axis=(1, 2)),
    "blue": lambda images: images[..., 2].mean(axis=(1, 2)),
    "contrast": lambda images: images.std(axis=(1, 2, 3)),
    "jpeg": lambda images: np.array([_image_bytes(image, "JPEG") for image in images]),
    "png": lambda images: np.array([_image_bytes(image, "PNG") for image in images]),
}


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("family", FAMILIES)
def test_trivial_statistics_do_not_tell_forgeries(pairs: dict, family: str, statistic: str) -> None:
    # Over different people: half of them shown real, the other half forged. Standard error 0.02.
    real, fake, _ = pairs[family]
    images = np.concatenate([real[: COUNT // 2], fake[COUNT // 2 :]])
    scores = STATISTICS[statistic](images)
    assert abs(roc_auc_score(np.arange(COUNT) >= COUNT // 2, scores) - 0.5) < 0.07


def test_the_control_can_fail(pairs: dict) -> None:
    # The same test catches a forgery that leaves the image a little brighter.
    real, fake, _ = pairs["df"]
    brightened = np.clip(fake + 25.0, 0, 255)
    images = np.concatenate([real[: COUNT // 2], brightened[COUNT // 2 :].astype(np.uint8)])
    auc = roc_auc_score(np.arange(COUNT) >= COUNT // 2, STATISTICS["red"](images))
    assert abs(auc - 0.5) > 0.07


def test_donors_are_nobody_in_any_split() -> None:
    assert max(SPLITS.values()) + (1 << 30) <= DONOR_OFFSET


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="'xx': choose one of df, fs, f2f, nt"):
        demo_pairs("xx", [0])
    with pytest.raises(ValueError, match=r"got -0\.5: pass 1\.0"):
        demo_pairs("nt", [0], strength=-0.5)
