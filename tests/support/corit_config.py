"""A training of a second, for tests."""

from corit.training.config import DetectorTraining

CONFIG = DetectorTraining(
    encoder="tests.support.tiny_clip:tiny_clip", train_samples=24, val_samples=16, eval_samples=16, views=2, steps=9, batch_size=8,
    eval_every=4, num_regions=2, nms_radius=1, lr=1e-2,
)  # fmt: skip
