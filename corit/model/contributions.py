r"""What each class token and region adds to a detector's answer: its head is linear, so the parts sum up exactly.

.. math:: \text{logit} = b + \sum_v \langle w_v, f_v \rangle

over the vectors v that the head reads: class token and K regions, at each layer read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corit.model.detector import CoRIT

__all__ = ["contributions"]


@torch.no_grad()
def contributions(detector: CoRIT, features: Tensor) -> Tensor:
    """Split logits into what each vector adds.

    Args:
        detector: CoRIT.
        features: What :meth:`corit.CoRIT.features` gave, ``(N, feature_dim)``.

    Returns:
        ``(N, layers, 1 + K)``: class token first, then regions, the strongest anchor first. With the head's bias they
        sum up to the logit.

    >>> detector = CoRIT.from_encoder("clip-demo", num_regions=1, counterpart=lambda images: images.flip(3))
    >>> images = torch.randn(2, 3, 64, 64)
    >>> parts = contributions(detector, detector.features(images))
    >>> torch.testing.assert_close(parts.sum((1, 2)) + detector.head.bias, detector(images))
    """
    shape = (len(detector.read_layers), 1 + detector.config.num_regions, -1)
    weights = detector.head.weight.reshape(shape)
    return (features.to(weights).reshape(len(features), *shape) * weights).sum(-1)
