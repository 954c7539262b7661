"""The formulas of docs/theory.md, section 6, checked with numpy alone: nothing here imports the package."""

import numpy as np


def test_cgp_is_twice_the_head_gradient_of_a_pair():
    rng = np.random.default_rng(18)
    real, fake = rng.normal(size=(2, 7))

    def summed_loss(head):
        logits = np.array([real @ head[:-1] + head[-1], fake @ head[:-1] + head[-1]])
        return np.logaddexp(0, logits).sum() - logits[1]

    step = 1e-5
    gradient = [(summed_loss(step * e) - summed_loss(-step * e)) / (2 * step) for e in np.eye(8)]
    np.testing.assert_allclose(gradient, np.append((real - fake) / 2, 0.0), atol=1e-9)


def test_pairing_removes_what_both_images_share():
    rng = np.random.default_rng(19)
    content = 10 * rng.normal(size=(20_000, 3))
    real, fake = content + rng.normal(size=content.shape), content + 0.3 + rng.normal(size=content.shape)
    paired, unpaired = (real - fake).var(0).sum(), real.var(0).sum()
    np.testing.assert_allclose(paired, 6.0, rtol=0.05)
    assert unpaired > 40 * paired
