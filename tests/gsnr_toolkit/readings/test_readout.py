import numpy as np
import pytest
import torch
from sklearn.covariance import empirical_covariance
from sklearn.linear_model import LogisticRegression
from torch import nn

from gsnr_toolkit import ProbeError, estimate_cor, estimate_gsnr, probe
from gsnr_toolkit.readings.features import BlockFeatures, collect_features, pool_tokens
from gsnr_toolkit.readings.heads import fitted_heads, head_drift, head_gradients, head_losses, zero_heads
from tests.support.cases import TinyViT, open_clip_tower


def _features(n=60, width=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2.0
    z = rng.normal(size=(n, width)) + 0.8 * labels[:, None]
    return BlockFeatures({"block 1": np.c_[z, np.ones(n)], "block 2": np.c_[2 * z, np.ones(n)]}, labels, np.zeros(n))


def _images(n=40, size=8):
    images = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    return images, (images.mean((1, 2, 3)) > 0).long()


def test_gsnr_at_the_zero_head_is_class_separation_over_spread():
    """g = (1/2 - y)[z, 1]: mean and covariance by scikit-learn on the signed features."""
    images, labels = _images(64)
    model = TinyViT().double()
    report = estimate_gsnr(model, [(images.double(), labels)], layerwise="readout", progress=False)
    captured = []
    handle = model.blocks[1].register_forward_hook(lambda m, i, out: captured.append(out[:, 0]))
    with torch.no_grad():
        model(images.double())
    handle.remove()
    signed = (0.5 - labels.numpy()[:, None]) * np.c_[captured[0].numpy(), np.ones(64)]
    trace = np.trace(empirical_covariance(signed)) * 64 / 63
    blocks = signed.reshape(16, 4, -1).mean(1)
    signal = (np.sum(blocks @ blocks.T) - np.sum(blocks**2)) / (16 * 15)
    expected = signal / trace
    np.testing.assert_allclose(report.to_frame().set_index("group").loc["block 2", "gsnr"], expected, rtol=1e-9)


def test_gradients_equal_autograd_at_any_head():
    data = _features()
    heads = {label: np.linspace(-1, 1, x.shape[1]) for label, x in data.features.items()}
    found = head_gradients(data, heads)["block 2"]
    weight = torch.tensor(heads["block 2"], requires_grad=True)
    x, y = torch.from_numpy(data.features["block 2"]), torch.from_numpy(data.labels)
    for i in (0, 7, 59):
        loss = nn.functional.binary_cross_entropy_with_logits(x[i] @ weight, y[i])
        torch.testing.assert_close(found[i], torch.autograd.grad(loss, weight)[0])
    zero = head_losses(data, zero_heads(data))
    np.testing.assert_allclose(zero, np.log(2))


def test_fitted_heads_agree_with_scikit_learn():
    data = _features(200)
    ours = fitted_heads(data, ridge=1e-3)["block 1"]
    theirs = LogisticRegression(C=1 / (200 * 1e-3), fit_intercept=False, tol=1e-10).fit(
        data.features["block 1"], data.labels
    )
    np.testing.assert_allclose(ours, theirs.coef_[0], rtol=1e-2, atol=1e-3)


def test_drift_equals_autograd_at_the_perturbed_head():
    data, radii = _features(), np.array([0.3, 2.0])
    measured = head_drift(data, zero_heads(data), radii, batch_size=10)
    x = torch.from_numpy(data.features["block 1"]).view(6, 10, -1)
    y = torch.from_numpy(data.labels).view(6, 10)

    def gradient(weight, k):
        weight = weight.clone().requires_grad_()
        loss = nn.functional.binary_cross_entropy_with_logits(x[k] @ weight, y[k])
        return torch.autograd.grad(loss, weight)[0]

    zero = torch.zeros(5, dtype=torch.float64)
    plain = torch.stack([gradient(zero, k) for k in range(6)])
    for r, rho in enumerate(radii):
        after = torch.stack([gradient(rho * plain[k] / plain[k].norm(), k) for k in range(6)])
        drift = after - plain
        np.testing.assert_allclose(measured.grams.drift[r, 0], (drift @ drift.T).numpy(), rtol=1e-9)
        np.testing.assert_allclose(measured.grams.cross[r, 0], (plain @ after.T).numpy(), rtol=1e-9)


def test_the_joint_row_of_one_head_is_that_head():
    data = _features()
    one = BlockFeatures({"block 1": data.features["block 1"]}, data.labels, data.losses)
    grams = head_drift(one, zero_heads(one), np.array([0.5]), batch_size=10).grams
    np.testing.assert_allclose(grams.drift[0, 0], grams.drift[0, 1])
    np.testing.assert_allclose(grams.cross[0, 0], grams.cross[0, 1])


@pytest.mark.parametrize("head", ["zero", "fitted"])
def test_a_frozen_encoder_end_to_end(head):
    model = open_clip_tower().requires_grad_(False)
    model[1].requires_grad_(True)
    images, labels = _images(80)
    report = estimate_cor(model, [(images, labels)], layerwise="readout", readout_head=head, progress=False)
    assert report.to_frame()["group"].tolist() == ["block 1", "block 2"]
    assert report.total["num_samples"] == (40 if head == "fitted" else 80)
    assert report.coverage["engine"] == {"closed form": 18}
    assert any("readout heads" in note for note in report.notes)
    assert "closed form" in report.coverage["sentence"]


@pytest.mark.parametrize(
    ("shape", "class_token", "expected"),
    [
        ((5, 3), False, (5, 3)),
        ((5, 7, 3), True, (5, 3)),
        ((7, 5, 3), True, (5, 3)),
        ((5, 3, 4, 4), False, (5, 3)),
        ((5, 4, 4, 3), False, (5, 3)),
    ],
)
def test_pooling(shape, class_token, expected):
    axis = 1 if shape == (7, 5, 3) else 0
    assert pool_tokens((torch.randn(shape), "rest"), 5, class_token, sample_axis=axis).shape == expected


def test_pooling_takes_the_first_or_the_mean_token():
    tokens = torch.randn(5, 7, 3)
    torch.testing.assert_close(pool_tokens(tokens, 5, True), tokens[:, 0])
    torch.testing.assert_close(pool_tokens(tokens, 5, False), tokens.mean(1))
    torch.testing.assert_close(pool_tokens(tokens.transpose(0, 1), 5, True, sample_axis=1), tokens[:, 0])


def test_pooling_refuses_what_it_does_not_know():
    with pytest.raises(ProbeError, match=r"got \(5, 2, 3, 4\).*layerwise='parameters'"):
        pool_tokens(torch.zeros(5, 2, 3, 4), 5, False)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ProbeError, match=r"got none in Linear"):
        estimate_gsnr(nn.Linear(2, 1), [(torch.randn(8, 2), torch.arange(8) % 2)], layerwise="readout", progress=False)


def test_hooks_are_removed_also_after_an_error():
    model = TinyViT()

    def failing(batch):
        model(batch[0])
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        collect_features(model, [_images(4)], failing, lambda _: None)
    assert not any(block._forward_hooks for block in model.blocks)


class _TokensFirst(nn.Module):
    """Blocks that pass (T, N, d) on, as nn.MultiheadAttention does by default; T = 5 tokens."""

    def __init__(self):
        super().__init__()
        self.vit = TinyViT()
        self.blocks = nn.ModuleList([_Transposed(block) for block in self.vit.blocks])
        del self.vit.blocks

    def forward(self, images):
        tokens = self.vit.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.vit.cls_token.expand(len(images), -1, -1), tokens], 1).transpose(0, 1)
        for block in self.blocks:
            x = block(x)
        return self.vit.head(self.vit.norm(x)[0])


class _Transposed(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x.transpose(0, 1)).transpose(0, 1)


def test_as_many_tokens_as_samples_is_not_ambiguous():
    images, labels = _images(40)
    model = _TokensFirst().double()
    data = [(images.double(), labels)]
    five = [(a, b) for a, b in zip(images.double().split(5), labels.split(5), strict=True)]
    frames = [estimate_gsnr(model, loader, layerwise="readout", progress=False).to_frame() for loader in (data, five)]
    np.testing.assert_allclose(frames[0]["gsnr"], frames[1]["gsnr"], rtol=1e-9)


def test_fitted_heads_see_both_classes_of_an_interleaved_loader():
    images, labels = _images(80)
    order = torch.argsort(labels, stable=True)
    half = min(int(labels.sum()), 80 - int(labels.sum()))
    order = torch.stack([order[:half], order.flip(0)[:half]], 1).flatten()
    loader = [(images[order], labels[order])]
    report = estimate_cor(TinyViT(), loader, layerwise="readout", readout_head="fitted", progress=False)
    assert report.total["num_samples"] == half // 2 * 2
    assert report.settings["perturb"] == "group"


def test_too_few_samples_to_fit_heads_on():
    images, _ = _images(8)
    one_odd = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1])
    with pytest.raises(ProbeError, match=r"7 of class 0 and 1 of class 1.*readout_head='zero'"):
        estimate_gsnr(TinyViT(), [(images, one_odd)], layerwise="readout", readout_head="fitted", progress=False)


def test_the_trajectory_shows_the_models_own_loss_and_no_escape_radius():
    images, labels = _images(40)
    report = probe(
        TinyViT(), [(images, labels)], layerwise="readout", steps=20, lr=0.01, measurements=2, progress=False
    )
    assert report.trajectory["loss"].iloc[1] < report.trajectory["loss"].iloc[0]
    assert report.escape.status == "undefined"
    assert "readout reading" in report.escape.message


def test_no_more_batches_enter_than_the_bootstrap_can_hold():
    data = _features(400)
    assert head_drift(data, zero_heads(data), np.array([0.1, 1.0]), batch_size=2).grams.mean.shape[-1] == 64


def test_lipschitz_is_refused():
    with pytest.raises(ProbeError, match="lipschitz=False"):
        estimate_cor(TinyViT(), [_images(40)], layerwise="readout", lipschitz=True, progress=False)
