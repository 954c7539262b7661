"""RRM, the region refinement mask: which tokens of an image belong to which region.

The paper's public text: "clusters visual tokens around region anchors derived from the CGP, filtering out outlier
tokens". The method is our reconstruction. All operations are batched tensor operations; the only loop is over regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Regions",
    "assign_by_distance",
    "assign_by_similarity",
    "grid_offsets",
    "join_by_similarity",
    "pick_anchors",
    "pool_regions",
    "random_scores",
]


@dataclass(frozen=True)
class Regions:
    """The regions of N images with T patch tokens each, at most K per image, strongest anchor first.

    If an image has fewer than K anchors, the remaining regions have no members, ``valid`` is False, and their anchor 0
    is a placeholder.

    Attributes:
        anchors: Token of each anchor, ``(N, K)``, int64.
        valid: Whether the region exists, ``(N, K)``, bool.
        members: Whether token t belongs to region k, ``(N, T, K)``, bool; each token belongs to at most one region.
    """

    anchors: Tensor
    valid: Tensor
    members: Tensor

    @property
    def assignment(self) -> Tensor:
        """Region of each token, ``(N, T)``, int64; -1 for outliers."""
        numbers = torch.arange(1, self.members.shape[2] + 1, device=self.members.device)
        return (self.members * numbers).sum(2) - 1


def grid_offsets(grid: tuple[int, int]) -> Tensor:
    """Return the absolute offsets in rows and columns between all patches of a grid, ``(T, T, 2)``.

    Patches are numbered row by row.

    >>> grid_offsets((2, 3))[0].tolist()
    [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    """
    rows, columns = (torch.arange(size) for size in grid)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    return (places[:, None] - places[None]).abs()


def pick_anchors(scores: Tensor, far: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return anchors ``(N, K)``, by descending score, and whether each exists: non-maximum suppression on the grid.

    The first token wins a tie. Tokens with a score ``(N, T)`` of 0 or less, or NaN, are never picked. ``far``
    ``(T, T)`` says which pairs of tokens are far enough apart, and ``count`` is K.

    >>> far = torch.tensor([[False, False, True], [False, False, False], [True, False, False]])
    >>> [found.tolist() for found in pick_anchors(torch.tensor([[3.0, 2.0, 1.0]]), far, 2)]
    [[[0, 2]], [[True, True]]]
    """
    alive = scores > 0
    anchors, valid = [], []
    for _ in range(count):
        best = scores.masked_fill(~alive, -torch.inf).argmax(1)
        anchors.append(best)
        valid.append(alive.any(1))
        alive = alive & far[best]
    return torch.stack(anchors, 1), torch.stack(valid, 1)


def random_scores(images: Tensor, pixels: Tensor, factors: Tensor) -> Tensor:
    """Return pseudo-random numbers ``(N, T)``, 0 (exclusive) to 1, float64, which depend on each image's pixels alone.

    ``pixels`` ``(J,)`` are the places of the pixel values to read. ``factors`` ``(T,)`` are distinct large integers.

    >>> scores = random_scores(torch.randn(2, 3, 4, 4), torch.tensor([3, 7]), torch.tensor([10007, 10009, 10037]))
    >>> scores.shape, bool((scores[0] != scores[1]).any())
    (torch.Size([2, 3]), True)
    """
    # pixels are added one by one, so that an image alone is rounded as in a batch
    looked = images.detach().flatten(1)[:, pixels].double()
    total = looked[:, 0]
    for place in range(1, len(pixels)):
        total = total + (place + 1) * looked[:, place]
    return 1 - (total[:, None] * factors).frac().abs()


def assign_by_similarity(cgp: Tensor, anchors: Tensor, valid: Tensor, threshold: float) -> Regions:
    r"""Return regions: each token joins the anchor with the most similar CGP ``(N, T, d)``, unless it is an outlier.

    .. math:: k(t) = \arg\max_k \cos(c_t, c_{a_k}), \qquad
        t \text{ is an outlier if } \cos(c_t, c_{a_{k(t)}}) < \tau \text{ or } c_t = 0

    An anchor belongs to its own region whatever the threshold, so that an existing region is never empty.
    """
    norms = torch.linalg.vector_norm(cgp, dim=-1, keepdim=True)
    units = cgp / torch.where(norms > 0, norms, 1)
    similarity = units @ torch.take_along_dim(units, anchors[..., None], 1).mT
    return join_by_similarity(similarity, norms[..., 0] > 0, anchors, valid, threshold)


def join_by_similarity(
    similarity: Tensor, nonzero: Tensor, anchors: Tensor, valid: Tensor, threshold: float
) -> Regions:
    """Assign tokens as :func:`assign_by_similarity`, by their cosines with the anchors' CGPs, ``(N, T, K)``."""
    similarity = similarity.masked_fill(~valid[:, None], -torch.inf)
    # an anchor always joins its own region, even if an earlier anchor has the same CGP, or rounding puts its cosine
    # with itself below the threshold
    own = (_count_up(similarity.shape[1], anchors)[:, None] == anchors[:, None]) & valid[:, None]
    best = similarity.masked_fill(own, torch.inf).argmax(2)
    inside = (similarity.amax(2) >= threshold) & nonzero
    members = _one_hot(best, anchors) & inside[..., None] & valid[:, None]
    return Regions(anchors, valid, members | own)


def assign_by_distance(squared: Tensor, anchors: Tensor, valid: Tensor) -> Regions:
    """Assign each token to the nearest anchor, by squared distances ``(T, T)``; to none if there is no anchor."""
    distance = squared[anchors].mT.to(torch.float32).masked_fill(~valid[:, None], torch.inf)
    members = _one_hot(distance.argmin(2), anchors) & valid[:, None]
    return Regions(anchors, valid, members)


def pool_regions(tokens: Tensor, regions: Regions) -> Tensor:
    """Return the mean token of each region, ``(N, K, d)``; zero for a region that does not exist."""
    weights = regions.members.to(tokens.dtype)
    count = weights.sum(1)
    return (weights.mT @ tokens) / torch.where(count > 0, count, 1)[..., None]


def _count_up(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, device=like.device)


def _one_hot(best: Tensor, anchors: Tensor) -> Tensor:
    return best[..., None] == _count_up(anchors.shape[1], anchors)
