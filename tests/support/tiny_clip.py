"""A detector on a tiny visual transformer, named in configs as ``tests.support.tiny_clip:tiny_clip``."""

from gsnr_toolkit.models.clip import Detector
from tests.support.towers import SIZE, make_tower


def tiny_clip(weights="random", seed=0):
    """The tower's weights are always the same; the seed is the head's."""
    provenance = {"model": "tests.support.tiny_clip:tiny_clip", "weights": weights}
    encoder = make_tower(seed=7 if weights == "other" else 0)
    return Detector(
        encoder, 8, name="tests.support.tiny_clip:tiny_clip", image_size=SIZE, seed=seed, provenance=provenance
    )
