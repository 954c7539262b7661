from itertools import islice

import numpy as np
import pytest
import torch

from gsnr_toolkit.data.own import in_memory
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.training.stream import FlippedLabels, balanced_rows, training_batches


def _data(real=12, fake=8):
    count = real + fake
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return in_memory(images, labels=[0] * real + [1] * fake, image_size=2)


def _taken(batches, count):
    return [(images, labels) for images, labels in islice(batches, count)]


@pytest.mark.parametrize("start", [1, 3, 4, 5, 9])
def test_batch_t_is_the_same_wherever_one_starts(start):
    data = _data()
    whole = _taken(training_batches(data, 4, seed=3, label_noise=0.25), 12)
    later = _taken(training_batches(data, 4, seed=3, start=start, label_noise=0.25), 12 - start)
    for (images, labels), (late_images, late_labels) in zip(whole[start:], later, strict=True):
        assert torch.equal(images, late_images)
        assert torch.equal(labels, late_labels)


def test_batches_are_balanced_and_differ_between_epochs_and_seeds():
    data = _data()
    epochs = [torch.cat([labels for _, labels in _taken(training_batches(data, 4, start=s), 4)]) for s in (0, 4)]
    assert all(labels.float().mean() == 0.5 for labels in epochs)
    first, other = (next(training_batches(data, 4, seed=seed))[0] for seed in (0, 1))
    assert not torch.equal(first, other)


def test_only_the_rows_asked_for_are_read():
    data = _data()
    rows = balanced_rows(data, 8)
    wanted = {float(data[row][0].flatten()[0]) for row in rows}
    seen = {
        float(image.flatten()[0]) for images, _ in _taken(training_batches(data, 4, rows=rows), 6) for image in images
    }
    assert seen == wanted


def test_the_same_share_of_each_class_is_flipped():
    data = _data(20, 10)
    noisy = FlippedLabels(data, 0.3, seed=5)
    changed = [row for row in range(len(data)) if noisy[row][1] != data[row][1]]
    assert set(changed) == noisy.flipped
    assert [int((data.labels[changed] == label).sum()) for label in (0, 1)] == [6, 3]
    assert FlippedLabels(data, 0.3, seed=5).flipped == noisy.flipped != FlippedLabels(data, 0.3, seed=6).flipped


def test_rows_are_spread_evenly_over_each_class():
    assert balanced_rows(_data(12, 8), 6) == [0, 6, 11, 12, 16, 19]
    with pytest.raises(ProbeError, match="expected 9 fake images for train_samples=18, got 8"):
        balanced_rows(_data(12, 8), 18)
