r"""What each class token and region adds to a detector's logit: the head is linear, so the parts sum up exactly.

.. math:: \text{logit} = b + \sum_v \langle w_v, f_v \rangle

over the vectors v that the head reads: the class token and K regions, at each layer read. Training stores the mean
contributions on validation images; heat maps show an image's contributions relative to them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corit.model.detector import CoRIT

__all__ = ["contributions"]


@torch.no_grad()
def contributions(detector: CoRIT, features: Tensor) -> Tensor:
    """Return what each vector adds to the logits of :meth:`corit.CoRIT.features`, ``(N, layers, 1 + K)``.

    The class token comes first, then the regions, strongest anchor first. Their sum plus the head's bias is the logit.

    >>> detector = CoRIT.from_encoder("clip-demo", num_regions=1, counterpart=lambda images: images.flip(3))
    >>> images = torch.randn(2, 3, 64, 64)
    >>> parts = contributions(detector, detector.features(images))
    >>> torch.testing.assert_close(parts.sum((1, 2)) + detector.head.bias, detector(images))
    """
    shape = (len(detector.read_layers), 1 + detector.config.num_regions, -1)
    weights = detector.head.weight.reshape(shape)
    return (features.to(weights).reshape(len(features), *shape) * weights).sum(-1)
