import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from corit.model.detector import CoRIT
from corit.model.pairs import pair_loss
from corit.model.regions import pool_regions
from gsnr_toolkit import estimate_cor, estimate_gsnr
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.tuning import set_tuning
from gsnr_toolkit.models.clip import Detector
from gsnr_toolkit.models.spec import input_spec
from tests.support.towers import LAYERS, SIZE, TOWERS, WIDTH, blurred, make_detector, make_images, make_tower

SWITCHES = {
    "all on": {},
    "random anchors": {"anchors": "random"},
    "fixed anchors": {"anchors": "fixed"},
    "no rrm": {"rrm": False},
    "random anchors, no rrm": {"anchors": "random", "rrm": False},
    "no rsi": {"rsi": False},
    "no hri": {"hri": False},
    "no regions": {"num_regions": 0},
    "own regions in each block": {"cgp_layer": "each"},
    "nothing": {"anchors": "random", "rrm": False, "rsi": False, "hri": False},
}


def paired(count=24, seed=3):
    """Batches ((images, counterparts), labels), half of them forged by the stand-in."""
    images = make_images(count, seed)
    labels = torch.arange(count) % 2
    images = torch.where((labels == 1)[:, None, None, None], blurred(images), images)
    return [((part, blurred(part)), label) for part, label in zip(images.split(8), labels.split(8), strict=True)]


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("switches", SWITCHES)
def test_every_switch_on_every_tower(kind, switches):
    detector, images = make_detector(kind, **SWITCHES[switches]), make_images()
    regions = 0 if switches == "no regions" else 3
    layers = 1 if switches in ("no hri", "nothing") else 2
    features = detector.features(images, blurred(images))
    assert features.shape == (5, layers * (1 + regions) * WIDTH) == (5, detector.feature_dim)
    assert features.isfinite().all()
    torch.testing.assert_close(detector(images, blurred(images)), detector.head(features)[:, 0])


@pytest.mark.parametrize("switches", SWITCHES)
def test_an_image_is_scored_alone_as_in_its_batch(switches):
    detector, images = make_detector(**SWITCHES[switches]).double(), make_images().double()
    together = detector(images, blurred(images))
    alone = torch.cat([detector(one, blurred(one)) for one in images.split(1)])
    torch.testing.assert_close(together, alone)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("switches", SWITCHES)
def test_under_vmap(switches):
    detector, images = make_detector(**SWITCHES[switches]), make_images()
    found = torch.vmap(lambda x, y: detector(x[None], y[None])[0])(images, blurred(images))
    torch.testing.assert_close(found, detector(images, blurred(images)), rtol=1e-4, atol=1e-5)


def test_features_are_class_and_region_tokens_of_two_layers():
    detector, images = make_detector(mid_layer=2, cgp_layer=1).double(), make_images().double()
    look = detector._look(images, blurred(images))
    expected = []
    for layer in (2, LAYERS):
        for vector in (look.tokens[layer][:, 0], *look.region_tokens[layer - 1].unbind(1)):
            centred = vector - vector.mean(1, keepdim=True)
            expected.append(centred / (centred.square().mean(1, keepdim=True) + detector.encoder.ln_post.eps).sqrt())
    assert look.regions[0].valid.all()
    torch.testing.assert_close(detector.features(images, blurred(images)), torch.cat(expected, 1) / 8**0.5)


@pytest.mark.parametrize("normalisation", ["layer", "ln_post", "none"])
def test_a_region_that_does_not_exist_is_zero(normalisation):
    detector, images = make_detector(normalisation=normalisation), make_images()
    nn.init.normal_(detector.encoder.ln_post.bias)
    same = detector.features(images, images.clone()).unflatten(1, (2, 4, WIDTH))
    assert (same[:, :, 1:] == 0).all()
    assert (same[:, :, 0] != 0).any(-1).all()
    few = make_detector(nms_radius=3, normalisation=normalisation)  # one anchor fills the grid of 4 by 4
    found = few.features(images, blurred(images)).unflatten(1, (2, 4, WIDTH))
    assert (found[:, :, 1] != 0).any(-1).all()
    assert (found[:, :, 2:] == 0).all()


def test_regions_are_ordered_by_the_proxy_of_their_anchors():
    detector, images = make_detector(cgp_layer=2), make_images()
    look = detector._look(images, blurred(images))
    norms = look.cgp[2].norm(dim=-1).gather(1, look.regions[0].anchors)
    assert look.regions[0].valid.all()
    assert (norms[:, :-1] >= norms[:, 1:]).all()


def test_without_injection_a_region_token_is_the_average_of_its_tokens():
    detector, images = make_detector(rsi=False, normalisation="none", mid_layer=1), make_images()
    look = detector._look(images, blurred(images))
    features = detector.features(images, blurred(images)).unflatten(1, (2, 4, WIDTH)) * 8**0.5
    for place, layer in enumerate((1, LAYERS)):
        expected = pool_regions(look.tokens[layer][:, 1:], look.regions[0])
        torch.testing.assert_close(features[:, place, 1:], expected)


def test_without_the_mask_no_token_is_an_outlier():
    images = make_images()
    kept = make_detector(rrm=False)._look(images, blurred(images)).regions[0]
    masked = make_detector(threshold=0.9)._look(images, blurred(images)).regions[0]
    assert not (kept.assignment < 0).any()
    assert (masked.assignment < 0).any()
    assert torch.equal(kept.anchors, masked.anchors)


@pytest.mark.parametrize("anchors", ["random", "fixed"])
def test_anchors_that_know_nothing_of_the_counterpart(anchors):
    detector, images = make_detector(anchors=anchors), make_images(40)
    chosen = detector._look(images, blurred(images)).regions[0].anchors
    assert torch.equal(chosen, detector._look(images, images + 1).regions[0].anchors)
    assert torch.equal(chosen[:1], detector._look(images[:1], images[:1] + 1).regions[0].anchors)
    other = make_detector(anchors=anchors, anchor_seed=5)
    assert not torch.equal(chosen, other._look(images, images + 1).regions[0].anchors)
    control = make_detector(anchors=anchors, rrm=False)
    torch.testing.assert_close(control(images), control(images, blurred(images)), rtol=0, atol=0)


def test_random_anchors_are_everywhere_and_fixed_ones_are_not():
    images = make_images(400)
    chosen = make_detector(anchors="random", rrm=False)._look(images, None).regions[0].anchors[:, 0]
    counts = torch.bincount(chosen, minlength=16)
    assert ((counts - 25).square() / 25).sum() < 37.7  # chi-squared with 15 degrees of freedom, p = 0.001
    fixed = make_detector(anchors="fixed", rrm=False)._look(images, None).regions[0].anchors
    assert (fixed == fixed[0]).all()


def test_regions_of_each_block_come_from_the_tokens_that_enter_it():
    detector, images = make_detector(cgp_layer="each"), make_images()
    look = detector._look(images, blurred(images))
    assert sorted(look.cgp) == [0, 1, 2]
    for block, regions in enumerate(look.regions):
        assert torch.equal(regions.members, detector.regions_of(look.cgp[block], images).members)


def test_whether_a_region_exists_is_asked_of_the_block_that_is_read():
    detector, images = make_detector(cgp_layer="each", mid_layer=1), make_images()
    others = images.clone()
    others[..., :4, :4] += 1  # one patch: attention spreads the difference, but not before the first block
    valid = [each.valid for each in detector._look(images, others).regions]
    assert torch.equal(valid[0], torch.tensor([True, False, False]).expand(5, 3))
    assert valid[2].all()
    vectors = detector.features(images, others).unflatten(1, (2, 4, WIDTH)).abs().sum(-1) > 0
    assert torch.equal(vectors[:, 0, 1:], valid[0])
    assert torch.equal(vectors[:, 1, 1:], valid[2])


def test_ways_to_hand_over_counterparts():
    detector, images = make_detector(), make_images()
    expected = detector(images, blurred(images))
    with pytest.raises(ProbeError, match=r"set detector\.counterpart"):
        detector(images)
    assert torch.equal(detector((images, blurred(images))), expected)
    detector.counterpart = blurred
    assert torch.equal(detector(images), expected)
    torch.testing.assert_close(detector.predict(images, batch_size=2), torch.sigmoid(expected))
    torch.testing.assert_close(detector.predict(images, blurred(images), batch_size=3), torch.sigmoid(expected))
    assert detector.predict(images[:0]).shape == (0,)
    assert not detector.predict(images).requires_grad


def test_training_on_features_is_training_on_images():
    batches = paired()
    on_images, on_features = make_detector(), make_detector()
    cached = [(on_features.features(*inputs).detach(), labels) for inputs, labels in batches]
    for detector, data in ((on_images, batches), (on_features.head, cached)):
        optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
        for inputs, labels in data * 3:
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(detector(inputs).reshape(-1), labels.float()).backward()
            optimizer.step()
    assert torch.equal(on_images.head.weight, on_features.head.weight)
    assert torch.equal(on_images.head.bias, on_features.head.bias)
    assert not torch.equal(on_images.head.weight, make_detector().head.weight)


@pytest.mark.parametrize("kind", ["nn.MultiheadAttention", "own attention"])
def test_engines_agree(kind):
    detector, loader = make_detector(kind), paired()
    frames = {
        engine: estimate_gsnr(detector, loader, engine=engine, progress=False).to_frame()
        for engine in ("loop", "vmap", "taps")
    }
    flat = [(images, others, labels) for (images, others), labels in loader]
    frames["auto"] = estimate_gsnr(detector, flat, loss_fn=pair_loss, progress=False).to_frame()
    columns = ["gsnr", "gsnr_low", "gsnr_high", "trace_covariance", "mean_grad_sqnorm"]
    expected = torch.tensor(frames["loop"][columns].to_numpy())
    assert frames["loop"]["num_params"].sum() == detector.feature_dim + 1
    for frame in frames.values():
        torch.testing.assert_close(torch.tensor(frame[columns].to_numpy()), expected, rtol=1e-4, atol=1e-9)


def test_gradients_of_the_head_are_residual_times_feature():
    detector, ((inputs, labels), *_) = make_detector(), paired()
    features = detector.features(*inputs)
    residual = torch.sigmoid(detector(inputs)) - labels
    grads = residual[:, None] * features
    report = estimate_gsnr(detector, [(inputs, labels)], progress=False)
    spread = grads.var(0).sum() + residual.var()
    assert report.total["trace_covariance"] == pytest.approx(spread.item(), rel=1e-4)


def test_cor_of_a_detector_that_makes_its_own_counterparts():
    detector = make_detector(counterpart=blurred)
    before = copy.deepcopy(detector.state_dict())
    report = estimate_cor(detector, [(images, labels) for (images, _), labels in paired(64)], progress=False)
    assert report.has_cor
    assert report.totals["num_samples"].tolist() == [64]
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_readout_of_every_block():
    detector = make_detector(counterpart=blurred)
    loader = [(images, labels) for (images, _), labels in paired(64)]
    plain = Detector(make_tower(), 8, name="tiny", image_size=SIZE)
    found, expected = (
        estimate_gsnr(model, loader, layerwise="readout", progress=False).to_frame() for model in (detector, plain)
    )
    assert found["group"].tolist() == ["block 1", "block 2", "block 3"]
    torch.testing.assert_close(torch.tensor(found["gsnr"].to_numpy()), torch.tensor(expected["gsnr"].to_numpy()))


def test_the_state_is_the_head():
    detector = make_detector()
    assert sorted(detector.state_dict()) == ["head.bias", "head.weight"]
    other = make_detector(seed=1)
    with torch.no_grad():
        other.head.weight.fill_(2.0)
    encoder = copy.deepcopy(other.encoder.state_dict())
    other.load_state_dict(detector.state_dict())
    assert torch.equal(other.head.weight, detector.head.weight)
    assert all(torch.equal(value, encoder[name]) for name, value in other.encoder.state_dict().items())
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        other.load_state_dict({"head.weight": detector.head.weight})
    holder = nn.ModuleDict({"inner": detector})
    assert sorted(holder.state_dict()) == ["inner.head.bias", "inner.head.weight"]
    holder.load_state_dict(holder.state_dict())


def test_what_is_trained_of_the_encoder_is_in_the_state():
    detector = make_detector()
    names = set_tuning(detector, "norms")
    assert sorted(detector.state_dict()) == sorted(names)
    assert "encoder.ln_pre.weight" in names
    with torch.no_grad():
        detector.encoder.ln_pre.weight.fill_(3.0)
    fresh = make_detector()
    fresh.load_state_dict(detector.state_dict())
    assert (fresh.encoder.ln_pre.weight == 3).all()


def test_gradients_reach_the_encoder_where_it_is_trained():
    detector, ((inputs, labels), *_) = make_detector(), paired()
    set_tuning(detector, "norms")
    pair_loss(detector, (*inputs, labels)).mean().backward()
    assert detector.encoder.transformer.resblocks[0].ln_1.weight.grad.abs().max() > 0


def test_a_copy_is_independent():
    detector = make_detector(counterpart=blurred)
    twin = copy.deepcopy(detector)
    with torch.no_grad():
        twin.head.weight.zero_()
    assert detector.head.weight.abs().max() > 0
    assert sorted(twin.state_dict()) == ["head.bias", "head.weight"]


def test_the_encoder_is_frozen_and_stays_in_eval_mode():
    detector = make_detector(sizes={"patch_dropout": 0.5}).train()
    assert detector.training
    assert not detector.encoder.training
    assert [name for name, p in detector.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    assert detector(make_images(), blurred(make_images())).shape == (5,)


def test_what_images_it_wants():
    detector = make_detector()
    assert input_spec(detector).image_size == SIZE
    assert len(input_spec(detector).std) == 3
    assert "num_regions=3" in repr(detector)
    assert "off=['rsi']" in repr(make_detector(rsi=False))


def test_from_a_name():
    detector = CoRIT.from_encoder("clip-demo", num_regions=2, mid_layer=3)
    assert (detector.config.encoder, detector.config.cgp_layer, detector.read_layers) == ("clip-demo", 3, (3, 8))
    images = make_images(2, size=64)
    assert detector.explain(images, blurred(images)).region_tokens.shape == (2, 8, 2, 128)


def test_what_cannot_be_built():
    with pytest.raises(ProbeError, match=r"'num_region'.* Did you mean 'num_regions'"):
        CoRIT.from_encoder("clip-vit-l14", num_region=3)
    with pytest.raises(ProbeError, match="weights='openai' with a built one"):
        CoRIT.from_encoder(Detector(make_tower(), 8, name="tiny", image_size=SIZE), weights="openai")
    with pytest.raises(ProbeError, match="this encoder pools before it"):
        make_detector("attentional pooling", normalisation="ln_post")
    with pytest.raises(ProbeError, match="got Sequential without"):
        convolutional = nn.Sequential(nn.Conv2d(3, 2, 3))
        CoRIT.from_encoder(Detector(convolutional, 2, name="own", image_size=8))


def test_half_precision_runs():
    detector, images = make_detector().bfloat16(), make_images().bfloat16()
    assert detector(images, blurred(images)).isfinite().all()


@pytest.mark.parametrize("switches", ["all on", "random anchors, no rrm", "own regions in each block"])
def test_explanation(switches):
    detector, images = make_detector(**SWITCHES[switches]), make_images()
    found = detector.explain(images, blurred(images))
    look = detector._look(images, blurred(images), show=found.layer)
    assert found.layer == 1
    torch.testing.assert_close(found.cgp.flatten(1), look.cgp[1].norm(dim=-1))
    regions = look.regions[1]
    assert torch.equal(found.assignment.flatten(1), regions.assignment)
    assert torch.equal(found.outliers, found.assignment == -1)
    assert torch.equal(found.anchors[..., 0] * 4 + found.anchors[..., 1], regions.anchors)
    assert found.region_tokens.shape == (5, LAYERS, 3, WIDTH)
    torch.testing.assert_close(found.logits, detector(images, blurred(images)))
    assert found.cgp_map.shape == found.assignment_map.shape == (5, SIZE, SIZE)
    assert torch.equal(found.assignment_map[:, 2::4, 2::4], found.assignment)
    assert found.cgp_map.amax() <= found.cgp.amax() * (1 + 1e-6)


def test_explanation_of_an_image_without_regions():
    detector, images = make_detector(), make_images()
    found = detector.explain(images, images.clone())
    assert (found.anchors == -1).all()
    assert found.outliers.all()
    assert (found.region_tokens == 0).all()
    with pytest.raises(ProbeError, match="num_regions=0"):
        make_detector(num_regions=0).explain(images, images)
