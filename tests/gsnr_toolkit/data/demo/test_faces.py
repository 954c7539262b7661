from __future__ import annotations

import numpy as np
import pytest

from gsnr_toolkit.data.demo.attributes import ATTRIBUTES
from gsnr_toolkit.data.demo.faces import other_expression, sample_faces
from gsnr_toolkit.data.demo.layout import layout


def test_a_face_does_not_depend_on_its_neighbours() -> None:
    together, alone = sample_faces([4, 9, 2]), sample_faces([9])
    np.testing.assert_array_equal(together.features.skin[1], alone.features.skin[0])
    np.testing.assert_array_equal(together.scene.yaw[1], alone.scene.yaw[0])
    assert {name: int(code[1]) for name, code in together.codes.items()} == {
        name: int(code[0]) for name, code in alone.codes.items()
    }


def test_another_seed_or_identity_is_another_face() -> None:
    first = sample_faces([9], seed=0)
    assert first.scene.yaw[0] != sample_faces([9], seed=1).scene.yaw[0]
    assert first.scene.yaw[0] != sample_faces([10], seed=0).scene.yaw[0]


def test_attribute_values_occur_as_often_as_stated() -> None:
    count = 4000
    codes = sample_faces(range(count)).codes
    for name, attribute in ATTRIBUTES.items():
        expected = np.array(attribute.weights)
        observed = np.bincount(codes[name], minlength=len(expected)) / count
        deviation = np.abs(observed - expected) / np.sqrt(expected * (1 - expected) / count)
        assert deviation.max() < 4.5, f"{name}: {observed} against {expected}"


def test_attributes_are_independent_of_each_other() -> None:
    codes = sample_faces(range(4000)).codes
    names = list(codes)
    matrix = np.corrcoef(np.stack([codes[name] for name in names]))
    np.testing.assert_array_less(np.abs(matrix - np.eye(len(names))), 5 / np.sqrt(4000))


def test_left_and_right_mean_left_and_right_in_the_image() -> None:
    faces = sample_faces(range(300))
    pose = np.array(ATTRIBUTES["pose"].values)[faces.codes["pose"]]
    nose = layout(faces).nose_x
    assert nose[pose == "left"].max() < nose[pose == "right"].min()


def test_a_new_expression_changes_nothing_else() -> None:
    faces = sample_faces(range(50))
    changed = other_expression(faces)
    assert (changed.expression.smile != faces.expression.smile).all()
    assert changed.features is faces.features
    assert changed.scene is faces.scene


@pytest.mark.parametrize(("identity", "seed"), [([-3], 0), ([3], -1)])
def test_negative_numbers_are_refused(identity: list[int], seed: int) -> None:
    with pytest.raises(ValueError, match=f"to be non-negative, got {min(identity[0], seed)}"):
        sample_faces(identity, seed)
