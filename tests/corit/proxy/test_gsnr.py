import numpy as np
import pytest
import torch
from torch.nn import functional as F

from corit.model.injection import inject
from corit.model.regions import pool_regions
from corit.model.tower import blocks_of, iter_layers
from corit.proxy.gsnr import POOLS, proxy_gsnr
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.models.clip import Detector
from tests.support.towers import LAYERS, WIDTH, blurred, make_detector, make_images, make_tower


def test_the_proxy_is_the_gradient_of_a_logistic_head_at_one_half():
    encoder, images = make_tower().double(), make_images(3).double()
    others = blurred(images)
    with torch.no_grad():
        layers = [list(iter_layers(encoder, batch)) for batch in (images, others)]
    proxies = [own - other for own, other in zip(*layers, strict=True)]
    assert len(proxies) == LAYERS + 1
    for layer in range(LAYERS + 1):
        for token in (0, 6, 16):
            for i in range(3):
                head = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)
                logits = torch.stack([own[layer][i, token].detach() for own in layers]) @ head
                loss = F.binary_cross_entropy_with_logits(
                    logits, torch.tensor([0.0, 1.0], dtype=torch.float64), reduction="sum"
                )
                (grad,) = torch.autograd.grad(loss, head)
                torch.testing.assert_close(grad, proxies[layer][i, token] / 2)


def literal(values):
    """GSNR from two passes: the signal is the mean inner product of different samples."""
    mean = values.mean(0)
    spread = ((values - mean) ** 2).sum() / (len(values) - 1)
    gram = values @ values.T
    n = len(values)
    return (gram.sum() - np.trace(gram)) / (n * (n - 1)) / spread, spread


@pytest.mark.parametrize("pool", ["class", "mean", "tokens", "regions", "injected"])
def test_gsnr_against_two_passes(pool):
    detector, images = make_detector(cgp_layer=2), make_images(12)
    labels = torch.tensor([0, 1] * 6)
    others = blurred(images)
    loader = [(a, b, c) for a, b, c in zip(images.split(5), others.split(5), labels.split(5), strict=True)]
    table = proxy_gsnr(detector, loader, pool=pool, progress=False)
    assert table["group"].tolist() == ["block 1", "block 2", "block 3"]
    assert table["num_samples"].tolist() == [6, 6, 6]  # real images alone
    real, fake = images[labels == 0], others[labels == 0]
    sides = [list(iter_layers(detector.encoder, batch)) for batch in (real, fake)]
    own, proxies = sides[0], [mine - other for mine, other in zip(*sides, strict=True)]
    regions = detector.regions_of(proxies[2][:, 1:], real)
    valid = regions.valid[..., None]
    injected = [inject(blocks_of(detector.encoder), side, [regions] * LAYERS) for side in sides]
    pooling = {
        "class": lambda z: z[:, 0],
        "mean": lambda z: z[:, 1:].mean(1),
        "tokens": lambda z: z[:, 1:],
        "regions": lambda z: pool_regions(z[:, 1:], regions),
        "injected": lambda z: z * valid,
    }[pool]
    if pool == "injected":
        own[1:], proxies[1:] = injected[0], [a - b for a, b in zip(*injected, strict=True)]
    for layer, row in enumerate(table.to_dict("records"), 1):
        flat = [pooling(z).flatten(1).double().numpy() for z in (proxies[layer], own[layer])]
        expected, spread = literal(flat[0])
        assert row["gsnr"] == pytest.approx(expected, rel=1e-4)
        assert row["trace_covariance"] == pytest.approx(spread, rel=1e-4)
        assert row["variance_ratio"] == pytest.approx(spread / literal(flat[1])[1], rel=1e-4)
        assert row["num_params"] == flat[0].shape[1]
        assert row["gsnr_low"] <= row["gsnr"] <= row["gsnr_high"]


def test_many_samples_in_batches_of_any_size():
    images = make_images(90)
    whole, cut = (proxy_gsnr(make_tower(), images.split(size), counterpart=blurred, progress=False) for size in (90, 7))
    torch.testing.assert_close(torch.tensor(whole["gsnr_plugin"]), torch.tensor(cut["gsnr_plugin"]), rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.tensor(whole["gsnr_low"]), torch.tensor(cut["gsnr_low"]), rtol=1e-3, atol=1e-6)
    some = proxy_gsnr(make_tower(), images.split(7), counterpart=blurred, max_samples=20, progress=False)
    assert some["num_samples"].tolist() == [20] * 3


def test_pairing_cancels_the_content_of_images():
    images = make_images(200)
    pairs = proxy_gsnr(make_tower(), [(images, blurred(images))], progress=False)
    strangers = proxy_gsnr(make_tower(), [(images, make_images(200, seed=9))], progress=False)
    assert (strangers["variance_ratio"] - 2).abs().max() < 0.4  # independent images: the variances add up
    assert (pairs["variance_ratio"] < 0.5 * strangers["variance_ratio"]).all()


def test_any_model_with_a_tower_will_do():
    plain = Detector(make_tower(), 8, name="tiny", image_size=16)
    tables = [
        proxy_gsnr(model, [make_images(9)], counterpart=blurred, progress=False)
        for model in (plain, plain.encoder, make_detector())
    ]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_an_unchanged_counterpart_has_no_gsnr():
    table = proxy_gsnr(make_tower(), [make_images(9)], counterpart=lambda images: images, progress=False)
    assert table["gsnr"].isna().all()
    assert (table["status"] == "undefined").all()
    assert (table["variance_ratio"] == 0).all()


def test_what_cannot_be_measured():
    images = make_images(9)
    with pytest.raises(ProbeError, match=f"one of {', '.join(map(repr, POOLS))}, got 'max'"):
        proxy_gsnr(make_tower(), [images], pool="max", progress=False)
    for pool in ("regions", "injected"):
        with pytest.raises(ProbeError, match=f"expected a CoRIT with regions for pool='{pool}'"):
            proxy_gsnr(make_tower(), [images], pool=pool, progress=False)
    with pytest.raises(ProbeError, match="expected counterparts, got none"):
        proxy_gsnr(make_tower(), [images], progress=False)
    with pytest.raises(ProbeError, match=r"expected real images \(label 0\)"):
        proxy_gsnr(make_tower(), [(images, torch.ones(9))], counterpart=blurred, progress=False)
    with pytest.raises(ProbeError, match="at least 4 samples"):
        proxy_gsnr(make_tower(), [images[:3]], counterpart=blurred, progress=False)
