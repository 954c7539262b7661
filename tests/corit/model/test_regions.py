import math

import numpy as np
import pytest
import torch

from corit.model.regions import (
    Regions,
    assign_by_distance,
    assign_by_similarity,
    grid_offsets,
    pick_anchors,
    pool_regions,
)

GRID = (3, 5)


def literal_anchors(scores, grid, radius, count):
    """One image: take the best token that is left, cross out its neighbourhood, again."""
    left = {t: s for t, s in enumerate(scores) if s > 0}
    anchors = []
    while left and len(anchors) < count:
        best = max(left, key=lambda t: (left[t], -t))
        anchors.append(best)
        row, column = divmod(best, grid[1])
        for t in list(left):
            r, c = divmod(t, grid[1])
            if max(abs(r - row), abs(c - column)) <= radius:
                del left[t]
    return anchors


def literal_regions(cgp, anchors, threshold):
    """One image: the region of each token, None for outliers."""

    def cosine(a, b):
        norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0

    found = []
    for t, vector in enumerate(cgp):
        if t in anchors:
            found.append(anchors.index(t))
        elif not anchors or not any(vector):
            found.append(None)
        else:
            similar = [cosine(vector, cgp[a]) for a in anchors]
            best = max(range(len(anchors)), key=lambda k: (similar[k], -k))
            found.append(best if similar[best] >= threshold else None)
    return found


def proxies(count=20, dim=3, seed=0, dtype=torch.float64):
    """CGP with tokens that are exactly zero, and one image whose CGP is zero everywhere."""
    generator = torch.Generator().manual_seed(seed)
    cgp = torch.randn(count, GRID[0] * GRID[1], dim, generator=generator, dtype=dtype)
    cgp[torch.rand(cgp.shape[:2], generator=generator) < 0.3] = 0
    cgp[3] = 0
    return cgp


def find(cgp, radius, count, threshold):
    far = grid_offsets(GRID).amax(2) > radius
    anchors, valid = pick_anchors(torch.linalg.vector_norm(cgp, dim=-1), far, count)
    return assign_by_similarity(cgp, anchors, valid, threshold)


@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.6, 1.0])
def test_against_a_loop_over_images_and_tokens(radius, count, threshold):
    cgp = proxies()
    regions = find(cgp, radius, count, threshold)
    for i, image in enumerate(cgp.tolist()):
        anchors = literal_anchors([math.sqrt(sum(x * x for x in t)) for t in image], GRID, radius, count)
        assert regions.valid[i].tolist() == [k < len(anchors) for k in range(count)]
        assert regions.anchors[i, : len(anchors)].tolist() == anchors
        expected = literal_regions(image, anchors, threshold)
        assert regions.assignment[i].tolist() == [-1 if k is None else k for k in expected]


def test_the_cases_above_hold_images_with_too_few_anchors_and_outliers():
    regions = find(proxies(), 2, 6, 0.6)
    assert not regions.valid.all()
    assert regions.valid.any(1).sum() == 19
    assert (regions.assignment < 0).any()
    assert not (regions.assignment < 0).all(1).sum() > 1


def test_an_image_equal_to_its_counterpart_has_no_regions():
    regions = find(torch.zeros(2, 15, 4), 1, 3, -1.0)
    assert not regions.valid.any()
    assert not regions.members.any()
    assert (regions.assignment == -1).all()


def test_anchors_of_parallel_proxies_keep_their_own_regions():
    cgp = torch.zeros(1, 15, 2)
    cgp[0, 0], cgp[0, 14], cgp[0, 7] = torch.tensor([[3.0, 0.0], [0.3, 0.0], [0.1, 0.0]])
    regions = find(cgp, 1, 2, 1.0)
    assert regions.anchors.tolist() == [[0, 14]]
    assert regions.assignment[0, [0, 14, 7]].tolist() == [0, 1, 0]


def test_proxies_that_are_not_numbers_are_never_anchors():
    cgp = torch.ones(1, 15, 2)
    cgp[0, 4] = torch.nan
    assert 4 not in find(cgp, 0, 14, 0.0).anchors[0].tolist()


def test_a_member_belongs_to_one_region_at_most():
    members = find(proxies(), 1, 5, -1.0).members
    assert (members.sum(2) <= 1).all()


def test_float32_takes_the_same_anchors():
    exact, single = (
        find(proxies(dtype=torch.float64).to(dtype), 1, 4, 0.5) for dtype in (torch.float64, torch.float32)
    )
    assert torch.equal(exact.anchors, single.anchors)
    assert torch.equal(exact.members, single.members)


def test_nearest_anchor_on_the_grid():
    anchors = torch.tensor([[0, 14, 4], [7, 0, 0]])
    valid = torch.tensor([[True, True, True], [True, False, False]])
    regions = assign_by_distance(grid_offsets(GRID).square().sum(2), anchors, valid)
    for i in range(2):
        live = [a for a, ok in zip(anchors[i].tolist(), valid[i].tolist(), strict=True) if ok]
        for t in range(15):
            distance = [math.dist(divmod(t, 5), divmod(a, 5)) for a in live]
            assert regions.assignment[i, t] == min(range(len(live)), key=lambda k: (distance[k], k))
    none = assign_by_distance(grid_offsets(GRID).square().sum(2), anchors, torch.zeros_like(valid))
    assert not none.members.any()


def test_pooling_against_a_loop():
    regions = find(proxies(), 2, 4, 0.3)
    tokens = torch.randn(20, 15, 6, dtype=torch.float64)
    pooled = pool_regions(tokens, regions)
    for i in range(20):
        for k in range(4):
            chosen = [t for t in range(15) if regions.assignment[i, t] == k]
            expected = np.mean([tokens[i, t].numpy() for t in chosen], axis=0) if chosen else np.zeros(6)
            torch.testing.assert_close(pooled[i, k], torch.from_numpy(expected))


def test_under_vmap_each_image_is_as_in_its_batch():
    cgp = proxies(dtype=torch.float32)

    def one(image):
        regions = find(image[None], 1, 3, 0.2)
        return regions.anchors[0], regions.valid[0], regions.members[0], pool_regions(image[None], regions)[0]

    anchors, valid, members, pooled = torch.vmap(one)(cgp)
    together = find(cgp, 1, 3, 0.2)
    assert torch.equal(anchors, together.anchors)
    assert torch.equal(valid, together.valid)
    assert torch.equal(members, together.members)
    torch.testing.assert_close(pooled, pool_regions(cgp, together))


def test_no_regions_at_all():
    members = torch.zeros(2, 15, 0, dtype=torch.bool)
    regions = Regions(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool), members)
    assert (regions.assignment == -1).all()
