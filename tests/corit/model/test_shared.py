import math
from dataclasses import replace

import pytest
import torch

from corit import load_trained, save_detector
from corit.model.config import CoRITConfig
from corit.model.features import CALIBRATION, FeatureMaker, find_shared_regions
from corit.model.head_files import load_detector
from corit.model.shared import calibrate, contrast_products
from corit.model.tower import iter_layers
from corit.training.train import train_detector
from gsnr_toolkit.data.demo.dataset import open_demo
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.models.clip import Detector
from tests.support.corit_config import CONFIG
from tests.support.towers import PATCHES, blurred, make_detector, make_images


def made(**options):
    detector = make_detector(anchors="shared", num_regions=2, cgp_layer=2, **options)
    detector.counterpart = blurred
    return detector


def literal_vectors(detector, images, layer):
    """The CGPs of all images laid end to end: one list of numbers for each token."""
    own, other = ([*iter_layers(detector.encoder, each, layer)][-1][:, 1:] for each in (images, blurred(images)))
    return [(own - other)[:, token].double().flatten().tolist() for token in range(PATCHES)]


def literal_anchors(norms, count):
    """Tokens of the largest norm on a grid of 4 by 4, more than one patch apart."""
    left, anchors = list(range(len(norms))), []
    while left and len(anchors) < count:
        best = max(left, key=lambda token: (norms[token], -token))
        anchors.append(best)
        left = [token for token in left if max(abs(token // 4 - best // 4), abs(token % 4 - best % 4)) > 1]
    return anchors


def cosine(one, other):
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


@pytest.mark.parametrize("threshold", [-1.0, 0.2, 0.9])
def test_regions_are_those_of_all_images_laid_end_to_end(threshold):
    detector, images = made(threshold=threshold), make_images(6)
    calibrate(detector, images.split(4))
    vectors = literal_vectors(detector, images, 2)
    anchors = literal_anchors([math.hypot(*vector) for vector in vectors], 2)
    assert detector.shared.anchors.tolist() == anchors
    expected = []
    for token, vector in enumerate(vectors):
        similar = [1.0 if token == anchor else cosine(vector, vectors[anchor]) for anchor in anchors]
        if token in anchors:
            expected.append(anchors.index(token))
        else:
            expected.append(similar.index(max(similar)) if max(similar) >= threshold else -1)
    assert detector.shared.assignment.tolist() == expected


def test_inner_products_are_averages_over_images():
    detector, images = made(), make_images(5)
    found = contrast_products(detector, images.split(2), 2)
    vectors = literal_vectors(detector, images, 2)
    expected = [[math.fsum(a * b for a, b in zip(s, t, strict=True)) / 5 for s in vectors] for t in vectors]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    first = contrast_products(detector, images.split(2), 2, max_images=3)
    torch.testing.assert_close(first, contrast_products(detector, [images[:3]], 2))


def test_forged_images_do_not_count():
    one, other = made(), made()
    images = make_images(6)
    calibrate(one, [(images, torch.tensor([0, 1, 0, 1, 0, 1]))])
    calibrate(other, [images[0::2]])
    assert torch.equal(one.shared.assignment, other.shared.assignment)
    with pytest.raises(ProbeError, match="expected real images"):
        calibrate(one, [(images, torch.ones(6))])


def test_all_images_have_the_same_regions_and_need_no_counterpart():
    detector, images = made(), make_images(5)
    calibrate(detector, [images])
    detector.counterpart = None
    assert not detector.config.needs_counterparts
    whole = detector.features(images)
    # an image alone gives what it gives in a batch
    torch.testing.assert_close(whole[3:4], detector.features(images[3:4]), rtol=1e-5, atol=1e-6)
    regions = detector.regions_of(torch.zeros(3, PATCHES, 1), images[:3])
    assert torch.equal(regions.assignment, detector.shared.assignment.expand(3, -1))
    detector.counterpart = blurred
    assert torch.equal(detector.explain(images).assignment[0].flatten(), detector.shared.assignment)


def test_without_rrm_tokens_join_the_nearest_anchor():
    detector = made(rrm=False)
    calibrate(detector, [make_images(5)])
    places = [(anchor // 4, anchor % 4) for anchor in detector.shared.anchors.tolist()]
    for token, found in enumerate(detector.shared.assignment.tolist()):
        distance = [math.dist((token // 4, token % 4), place) for place in places]
        assert distance[found] == min(distance)


def test_regions_must_be_found_first():
    detector = made()
    with pytest.raises(ProbeError, match=r"none yet; call corit.calibrate\(detector, loader\)"):
        detector.features(make_images())
    with pytest.raises(ProbeError, match="expected a CoRIT with anchors='shared', got anchors='cgp'"):
        calibrate(make_detector(), [make_images()])
    with pytest.raises(ProbeError, match="expected one cgp_layer with anchors='shared', got cgp_layer='each'"):
        CoRITConfig(anchors="shared", cgp_layer="each").resolved(3, 16)


def test_an_image_equal_to_its_counterpart_leaves_no_region():
    detector, images = made(), make_images()
    calibrate(detector, [(images, images)])
    assert detector.shared.anchors.tolist() == [-1, -1]
    assert detector.shared.assignment.tolist() == [-1] * PATCHES
    assert torch.isfinite(detector.features(images)).all()


def test_a_file_holds_the_regions(tmp_path):
    detector, images = made(), make_images()
    calibrate(detector, [images])
    assert {"shared.anchors", "shared.assignment"} <= set(detector.state_dict())
    path = save_detector(detector, tmp_path / "head.safetensors")
    again = load_detector(path, encoder=Detector(detector.encoder, 8, name="tiny", image_size=16), counterpart=None)
    assert torch.equal(again.predict(images), detector.predict(images))


def test_features_are_kept_apart_by_their_regions(tmp_path):
    data = open_demo("df", size=8, image_size=16)

    class Known:
        def __call__(self, images):
            return blurred(images)

        def describe(self):
            return {"kind": "blurred"}

    detector = made()
    detector.counterpart = Known()
    find_shared_regions(detector, data, tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert len(files) == 1
    again = made()
    again.counterpart = type("Fails", (Known,), {"__call__": lambda self, images: pytest.fail("not read")})()
    find_shared_regions(again, data, tmp_path)
    assert torch.equal(again.shared.assignment, detector.shared.assignment)
    FeatureMaker(detector, tmp_path)(data)
    moved = made(threshold=-1.0)
    moved.counterpart = Known()
    find_shared_regions(moved, data, tmp_path)
    maker = FeatureMaker(moved, tmp_path)
    maker(data)
    assert maker.found == 0
    assert CALIBRATION > 8


def test_training_finds_them(tmp_path):
    config = replace(CONFIG, anchors="shared")
    result = train_detector(config, tmp_path / "run", device="cpu", draws=0)
    trained = load_trained(tmp_path / "run" / "selected.safetensors")
    assert trained.model.shared.known
    again = train_detector(config, tmp_path / "again", device="cpu", draws=0)
    assert [row["value"] for row in again["test"]] == [row["value"] for row in result["test"]]
