"""Evaluation of the embedded CLIP: zero-shot attributes, and linear probes of frozen features on each forgery."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional

from gsnr_toolkit.data.demo.attributes import ATTRIBUTES
from gsnr_toolkit.data.demo.camera import PHOTOGRAPHIC
from gsnr_toolkit.data.demo.captions import visible
from gsnr_toolkit.data.demo.pairs import demo_pairs, real_faces
from gsnr_toolkit.data.demo.splits import identities
from gsnr_toolkit.estimators.auc import NORMAL_95, Auc, auc
from gsnr_toolkit.models.demo_training.clip import embed_images, zero_shot


def logistic_probe(features: Tensor, labels: Tensor, penalty: float = 1e-3) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a logistic regression on standardised features by L-BFGS.

    Args:
        features: Features (N, d).
        labels: 0 or 1, (N,).
        penalty: Coefficient of the squared norm of the weights, which is added to the mean loss.

    Returns:
        Weights (d + 1,), the bias last, and mean and standard deviation of the features, (d,) each.
    """
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    inputs = functional.pad((features - mean) / std, (0, 1), value=1.0)
    weights = torch.zeros(inputs.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(inputs @ weights, labels.float())
        loss = loss + penalty * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach(), mean, std


def probe_forgery(
    model: CLIP,
    family: str,
    *,
    train: int = 1500,
    test: int = 1500,
    seed: int = 0,
    strength: float = 1.0,
    penalty: float = 1e-3,
) -> Auc:
    """Compute the AUC of a linear probe on frozen features, trained and tested on disjoint identities.

    Training uses both images of each pair. Each test identity shows one image only, real or forged, so that all test
    images are independent.

    Args:
        model: The demo model.
        family: Forgery family.
        train: Number of training identities (twice as many images).
        test: Number of test identities; half of them show the forged image.
        seed: Seed of the data.
        strength: Strength of the forgery.
        penalty: Penalty of the logistic regression.

    Returns:
        The test AUC.
    """
    real, fake, _ = demo_pairs(family, identities("train", train), seed=seed, strength=strength)
    features = embed_images(model, np.concatenate([real, fake]))
    labels = torch.arange(2 * train) >= train
    weights, mean, std = logistic_probe(features, labels, penalty)
    real, fake, _ = demo_pairs(family, identities("test", test), seed=seed, strength=strength)
    held_out = embed_images(model, np.concatenate([real[: test // 2], fake[test // 2 :]]))
    scores = (((held_out - mean) / std) @ weights[:-1]).numpy()
    return auc(scores[: test // 2], scores[test // 2 :])


def zero_shot_table(model: CLIP, count: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Compute the zero-shot accuracy on each attribute of unseen faces.

    Accuracy is balanced (the mean recall over values), so that chance is exactly one over the number of values. Its
    interval adds up the binomial variances of the recalls.

    Args:
        model: The demo model.
        count: Number of test identities.
        seed: Seed of the data.

    Returns:
        One row per attribute: ``attribute, kind, accuracy, low, high, chance, count``.
    """
    images, codes = real_faces(identities("test", count), seed=seed)
    features = embed_images(model, images)
    rows = []
    for kind, group in (("semantic", ATTRIBUTES), ("photographic", PHOTOGRAPHIC)):
        for name, attribute in group.items():
            seen = visible(codes, name)
            guess = zero_shot(model, features, name, attribute.values)
            accuracy, margin = _balanced_accuracy(codes[name][seen], guess[seen], len(attribute.values))
            rows.append(
                {
                    "attribute": name,
                    "kind": kind,
                    "accuracy": accuracy,
                    "low": accuracy - margin,
                    "high": accuracy + margin,
                    "chance": 1 / len(attribute.values),
                    "count": int(seen.sum()),
                }
            )
    return pd.DataFrame(rows)


def _balanced_accuracy(truth: NDArray[np.int64], guess: NDArray[np.int64], values: int) -> tuple[float, float]:
    """Return the mean recall over values, and half the width of its 95 % interval."""
    recall, variance = [], []
    for value in range(values):
        right = guess[truth == value] == value
        recall.append(right.mean())
        variance.append(right.mean() * (1 - right.mean()) / len(right))
    return float(np.mean(recall)), float(NORMAL_95 * np.sqrt(np.sum(variance)) / values)
