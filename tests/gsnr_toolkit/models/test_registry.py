import sys

import pytest

import gsnr_toolkit.models
from gsnr_toolkit.models.registry import MODELS, ModelInfo, build_model
from gsnr_toolkit.support.lookup import TargetError

CODE = """
import torch
def plain(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(2, 1)
def loaded(weights=None, num_outputs=1):
    model = torch.nn.Linear(2, num_outputs)
    model.weights = weights
    return model
def wrong():
    return "a model"
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_models.py").write_text(CODE)
    sys.modules.pop("my_models", None)
    yield "my_models"
    sys.modules.pop("my_models", None)


def test_a_function_of_ones_own_gets_what_it_names(mine):
    assert build_model(f"{mine}:plain", seed=3)(__import__("torch").zeros(1, 2)).shape == (1, 1)
    model = build_model(f"{mine}:loaded", weights="a.pt", num_outputs=5)
    assert (model.weights, model.out_features) == ("a.pt", 5)


@pytest.mark.parametrize(
    ("function", "weights", "message"),
    [
        ("plain", "a.pt", "expected plain to take weights, but it takes seed; add"),
        ("wrong", None, r"my_models:wrong to return a torch\.nn\.Module, got str"),
        ("plane", None, "got 'plane'; .* Did you mean 'plain'"),
    ],
)
def test_a_function_of_ones_own_that_does_not_serve_says_why(mine, function, weights, message):
    with pytest.raises(TargetError, match=message):
        build_model(f"{mine}:{function}", weights=weights)


def test_the_package_offers_its_names_lazily():
    for name in gsnr_toolkit.models.__all__:
        assert getattr(gsnr_toolkit.models, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gsnr_toolkit.models.nothing  # noqa: B018


def test_probing_runs_are_gentle_to_large_encoders():
    """Only the small embedded models stand a large learning rate; the rest and one's own get the common default."""
    small = {"clip-demo", "clip-lab"}
    assert {MODELS[name].probe_lr for name in small} == {1e-3}
    assert {MODELS[name].probe_lr for name in MODELS if name not in small} == {ModelInfo.probe_lr} == {1e-4}
