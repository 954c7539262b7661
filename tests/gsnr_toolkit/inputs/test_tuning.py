import pytest
import torch
from torch import nn

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.inputs.tuning import Tuning, find_head, is_norm, parse_tuning, set_tuning


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1 = nn.LayerNorm(4)
        self.mlp = nn.Linear(4, 4)


class Tower(nn.Module):
    """The names of open_clip's visual tower."""

    def __init__(self, blocks=4):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(4))
        self.proj = nn.Parameter(torch.zeros(4, 4))
        self.conv1 = nn.Conv2d(3, 4, 2, bias=False)
        self.ln_pre = nn.LayerNorm(4)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList([Block() for _ in range(blocks)])
        self.ln_post = nn.LayerNorm(4)


@pytest.fixture
def model():
    detector = nn.Module()
    detector.encoder = Tower()
    detector.head = nn.Linear(4, 1)
    return detector


HEAD = ["head.weight", "head.bias"]


def block(number):
    prefix = f"encoder.transformer.resblocks.{number}"
    return [f"{prefix}.ln_1.weight", f"{prefix}.ln_1.bias", f"{prefix}.mlp.weight", f"{prefix}.mlp.bias"]


def trainable(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_head_trains_the_head_alone(model):
    assert set_tuning(model, "head") == HEAD == trainable(model)


def test_norms_trains_every_norm_and_the_head(model):
    names = set_tuning(model, "norms")
    blocks = [name for number in range(4) for name in block(number)[:2]]
    ends = [f"encoder.{norm}.{part}" for norm in ("ln_pre", "ln_post") for part in ("weight", "bias")]
    assert sorted(names) == sorted(blocks + ends + HEAD)


@pytest.mark.parametrize("spelling", ["last-2", ("last", 2), Tuning("last", 2)])
def test_last_trains_the_last_blocks_what_follows_and_the_head(model, spelling):
    names = set_tuning(model, *spelling) if isinstance(spelling, tuple) else set_tuning(model, spelling)
    after = ["encoder.proj", "encoder.ln_post.weight", "encoder.ln_post.bias"]
    assert sorted(names) == sorted(block(2) + block(3) + after + HEAD)


def test_full_trains_everything(model):
    assert set_tuning(model, "full") == [name for name, _ in model.named_parameters()]


def test_the_mode_alone_counts_whatever_was_set_before(model):
    set_tuning(model, "head")
    for parameter in model.encoder.parameters():
        parameter.requires_grad_(True)
    assert set_tuning(model, "head") == HEAD
    assert set_tuning(model, "full") == trainable(model)
    assert len(trainable(model)) == 25


def test_only_what_is_trained_gets_a_gradient(model):
    set_tuning(model, "head")
    model.head(torch.ones(2, 4) * model.encoder.class_embedding).sum().backward()
    assert model.head.weight.grad is not None
    assert model.encoder.class_embedding.grad is None


def test_a_tied_parameter_of_the_head_is_trained(model):
    model.encoder.readout = nn.Linear(4, 1)
    model.encoder.readout.weight = model.head.weight
    assert "encoder.readout.weight" in set_tuning(model, "head")  # the one name that a tied tensor has


@pytest.mark.parametrize("name", ["head", "fc", "classifier"])
def test_the_head_is_found_by_its_name(name):
    model = nn.ModuleDict({"body": nn.ModuleDict({"fc": nn.Linear(2, 2)}), name: nn.Linear(2, 2), "z": nn.Linear(2, 2)})
    assert find_head(model) == name


def test_a_head_without_a_name_is_the_last_linear_layer():
    assert find_head(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 4), nn.Linear(4, 1), nn.LayerNorm(1))) == "2"


def test_the_heads_of_real_libraries():
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "image_size": 32,
    }
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**small))
    assert find_head(vit) == "classifier"
    names = set_tuning(vit, "last-1")
    assert "classifier.weight" in names
    assert any("layernorm" in name for name in names)
    assert not any("embeddings" in name or "layer.0." in name or "layers.0." in name for name in names)


def test_a_detector_of_the_package():
    build_clip_like = pytest.importorskip("gsnr_toolkit.models.registry").build_model
    detector = build_clip_like("clip-demo", weights="random")
    names = set_tuning(detector, "last-2")
    blocks = {name.split(".")[3] for name in names if "resblocks" in name}
    assert blocks == {"6", "7"}
    assert {"encoder.proj", "encoder.ln_post.weight", "head.weight"} <= set(names)
    assert not any("conv1" in name or "embedding" in name or "ln_pre" in name for name in names)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.LayerNorm(2), True),
        (nn.BatchNorm1d(2), True),
        (nn.GroupNorm(1, 2), True),
        (nn.RMSNorm(2), True),
        (nn.BatchNorm1d(2, affine=False), False),
        (nn.Linear(2, 2), False),
        (nn.Sequential(nn.LayerNorm(2)), False),
        (type("LlamaRMSNorm", (nn.LayerNorm,), {})(2), True),
        (type("LayerNormFp32", (nn.LayerNorm,), {})(2), True),
        (type("Conv2dNormActivation", (nn.Sequential,), {})(nn.BatchNorm2d(2)), False),
    ],
)
def test_norms_are_told_by_their_class(module, expected):
    assert is_norm(module) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("head", Tuning("head")), ("last", Tuning("last", 1)), ("last-12", Tuning("last", 12)), ("full", Tuning("full"))],
)
def test_modes_are_read_and_written_alike(text, expected):
    assert parse_tuning(text) == expected
    assert parse_tuning(str(expected)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("norm",), r"head: the head only.*last-K: .*got 'norm'; choose one of these\. Did you mean 'norms'\?"),
        (("last-two",), "expected a tuning .*got 'last-two'"),
        (("lst-2",), r"got 'lst-2'; .*Did you mean 'last-K'"),
        (("last-0",), "at least 1 last block, got 0; use the tuning 'head'"),
        (("last", -1), "at least 1 last block, got -1"),
        (("last-9",), "expected 9 blocks for the tuning 'last-9', but Module has 4; use fewer"),
        (("head", 2), "expected the tuning 'last' with last_k=2, got 'head'"),
        (("last-3", 2), "expected last_k=3 with 'last-3', got last_k=2"),
    ],
)
def test_a_wrong_mode_says_what_is_wrong_and_changes_nothing(model, arguments, message):
    set_tuning(model, "norms")
    before = trainable(model)
    with pytest.raises(ProbeError, match=message):
        set_tuning(model, *arguments)
    assert trainable(model) == before


@pytest.mark.parametrize(
    ("model", "mode", "message"),
    [
        (nn.Sequential(nn.Linear(2, 1)), "norms", "expected a normalisation layer .* but Sequential has none"),
        (nn.Sequential(nn.Linear(2, 1)), "last-1", "has 0; use head, norms or full, since no block was recognised"),
        (nn.Sequential(nn.Conv2d(3, 1, 1)), "head", "but Sequential has no such head; rename its last layer to 'head'"),
        (nn.ReLU(), "full", "expected a model with parameters, but ReLU has none"),
    ],
)
def test_a_model_that_the_mode_does_not_fit_says_why(model, mode, message):
    with pytest.raises(ProbeError, match=message):
        set_tuning(model, mode)
