import numpy as np
import torch

from gsnr_toolkit.inputs.groups import Group
from gsnr_toolkit.moments.sketches import cross_gram, gram, plan_rows

GROUPS = {"a": Group("first", 0), "b": Group("second", 1), "c": Group("second", 1)}


def _params():
    return {"a": torch.zeros(10), "b": torch.zeros(3000, 20), "c": torch.zeros(500)}


def test_exact_where_it_fits_and_in_depth_order():
    plan = plan_rows(_params(), GROUPS, num_rows=4)
    assert plan.exact
    assert plan.group_names == ("first", "second")
    assert plan.members == {"first": ("a",), "second": ("b", "c")}
    vector = {name: torch.randn_like(value) for name, value in _params().items()}
    first, second = plan.project(vector)
    torch.testing.assert_close(first, vector["a"])
    torch.testing.assert_close(second, torch.cat([vector["b"].flatten(), vector["c"]]))


def test_small_groups_stay_exact_when_large_ones_are_sketched():
    plan = plan_rows(_params(), GROUPS, num_rows=4, budget=4 * 4 * 5000)
    assert not plan.exact
    assert plan.rows[0].length == 10
    assert 1000 < plan.rows[1].length < 5000


def test_sketched_inner_products_are_unbiased():
    generator = torch.Generator().manual_seed(0)
    left = {name: torch.randn(value.shape, generator=generator) for name, value in _params().items()}
    right = {
        name: 0.3 * left[name] + torch.randn(value.shape, generator=generator) for name, value in _params().items()
    }
    true = sum(float((left[name].double() * right[name].double()).sum()) for name in ("b", "c"))
    norms = [sum(float(v[name].double().square().sum()) for name in ("b", "c")) for v in (left, right)]
    found = []
    for seed in range(200):
        plan = plan_rows(_params(), GROUPS, num_rows=4, budget=4 * 4 * 3000, seed=seed)
        rows = [plan.project(vector)[1] for vector in (left, right)]
        found.append(float(rows[0].double() @ rows[1].double()))
    found = np.array(found)
    assert abs(found.mean() - true) < 4 * found.std(ddof=1) / np.sqrt(len(found))
    bound = np.sqrt((norms[0] * norms[1] + true**2) / plan.rows[1].length)
    assert found.std() < 1.3 * bound


def test_a_sketch_depends_on_its_seed_and_name_only():
    plan = plan_rows(_params(), GROUPS, num_rows=4, budget=4 * 4 * 3000, seed=3)
    vector = {name: torch.randn_like(value) for name, value in _params().items()}
    torch.testing.assert_close(plan.project(vector)[1], plan.project(dict(reversed(vector.items())))[1])


def test_groups_without_members_give_empty_rows():
    plan = plan_rows(_params(), GROUPS, num_rows=4)
    assert plan.project({"a": torch.ones(10)})[1].numel() == 0


def test_grams_in_float64():
    rows, other = torch.randn(3, 1000), torch.randn(2, 1000)
    torch.testing.assert_close(gram(rows), rows.double() @ rows.double().T)
    torch.testing.assert_close(cross_gram(rows, other), rows.double() @ other.double().T)
