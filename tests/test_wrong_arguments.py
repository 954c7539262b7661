"""Every public function refuses wrong arguments at its door: by a ProbeError, or by the TypeError of its signature."""

import functools
import inspect
import traceback

import pandas as pd
import pytest
import torch
from torch import nn

import corit
import gsnr_toolkit as g
from corit.model.trained import DEMO_FILE
from gsnr_toolkit.errors import ProbeError
from tests.support.corit_config import CONFIG as DETECTOR
from tests.support.front_door import make_loader, mlp

WRONG = {"None": None, "a number": 0.37, "text": "no such thing", "an empty list": [], "a module": nn.Linear(2, 1)}
TRAIN = g.TrainConfig(
    model="tests.support.tiny_detector:tiny_model", data="demo-df", train_samples=16, eval_samples=8, batch_size=8,
    steps=1,
)  # fmt: skip
QUIET = {"progress": lambda: False}
MEASURED = {"model": mlp, "loader": make_loader, **QUIET}


@functools.cache
def report():
    return g.estimate_cor(mlp(), make_loader(), progress=False)


@functools.cache
def detector():
    return corit.CoRIT.from_encoder("clip-lab", num_regions=0)


def table():
    aucs = {"test_auc": [0.9, 0.5], "test_auc_low": [0.8, 0.4], "test_auc_high": [0.95, 0.6]}
    return pd.DataFrame({"data": "d", "rho": [0.0, 0.1], "seed": 0, "status": "ok", "train_loss": [0.2, 0.69], **aucs})


def images():
    return [torch.zeros(8, 3, 32, 32)]


FIELDS = {
    name: functools.partial(lambda name: getattr(report(), name), name)
    for name in ("layers", "totals", "drift", "trajectory", "settings", "provenance", "coverage", "groups")
}
# what is called; its right arguments; what has its signature, where that is another; arguments behind **options
CASES = {
    "estimate_gsnr": (g.estimate_gsnr, MEASURED, None, ("radii", "confidence", "memory", "detail", "refine")),
    "estimate_cor": (g.estimate_cor, MEASURED, None, ("memory", "detail", "refine", "lipschitz", "readout_head")),
    "probe": (g.probe, MEASURED | {"steps": lambda: 1, "measurements": lambda: 1}, g.iter_probe, ()),
    "iter_probe": (lambda **given: list(g.iter_probe(**given)), MEASURED | {"steps": lambda: 0}, g.iter_probe, ()),
    "Recorder": (lambda **given: g.Recorder(**given).measure(0), MEASURED, g.Recorder, ("radii",)),
    "AutoRho": (lambda **given: g.AutoRho(**given).radius(0), {"model": mlp, "loader": make_loader}, g.AutoRho, ()),
    "MarginRadius": (g.MarginRadius, {}, None, ()),
    "plateau_loss": (g.plateau_loss, {"data": lambda: torch.tensor([0, 1])}, None, ()),
    "plateau_loss.loader": (g.plateau_loss, {"data": make_loader, "model": mlp}, None, ()),
    "ProbeOptions": (g.ProbeOptions, {}, None, ()),
    "TrainConfig": (g.TrainConfig, {}, None, ()),
    "Report": (g.Report, FIELDS, None, ()),
    "Report.verdict": (lambda **given: g.Report(**given).verdict, FIELDS, g.Report, ()),
    "Report.load": (g.Report.load, {"directory": lambda: report().save("saved")}, None, ()),
    "Report.save": (lambda **given: report().save(**given), {"directory": lambda: "r"}, g.Report.save, ()),
    "Report.to_html": (lambda **given: report().to_html(**given), {"path": lambda: "p.html"}, g.Report.to_html, ()),
    "Report.from_texts": (g.Report.from_texts, {"texts": lambda: report().to_texts()}, None, ()),
    "build_model": (g.build_model, {"name": lambda: "clip-lab"}, None, ()),
    "open_dataset": (g.open_dataset, {"name": lambda: "demo-df", "size": lambda: 4}, None, ()),
    "probe_loader": (g.probe_loader, {"dataset": lambda: g.open_dataset("demo-df", size=8), "n": lambda: 4}, None, ()),
    "find_rho": (g.find_rho, MEASURED | {"radii": lambda: (0.05,), "max_steps": lambda: 40}, None, ()),
    "RhoSearch.load": (g.RhoSearch.load, {"folder": lambda: "f"}, None, ()),
    "collapse_radii": (g.collapse_radii, {"table": table}, None, ()),
    "CoRITConfig": (corit.CoRITConfig, {}, None, ()),
    "DetectorTraining": (corit.DetectorTraining, {}, None, ()),
    "SelfBlendedCounterparts": (corit.SelfBlendedCounterparts, {}, None, ()),
    "CoRIT.from_encoder": (corit.CoRIT.from_encoder, {"encoder": lambda: "clip-lab"}, None, ("num_regions",)),
    "load_detector": (corit.load_detector, {"path": lambda: DEMO_FILE}, None, ()),
    "load_head": (corit.load_head, {"detector": detector, "path": lambda: DEMO_FILE}, None, ()),
    "load_trained": (corit.load_trained, {}, None, ()),
    "save_detector": (corit.save_detector, {"detector": detector, "path": lambda: "d.safetensors"}, None, ()),
    "calibrate": (corit.calibrate, {"detector": detector, "loader": images}, None, ()),
    "pair_loss": (corit.pair_loss, {"model": detector, "batch": lambda: images()[0]}, None, ()),
    "proxy_gsnr": (corit.proxy_gsnr, {"model": detector, "loader": images, **QUIET}, None, ()),
    "check_proxy": (corit.check_proxy, {"model": detector, "loaders": lambda: {"a": images()}, **QUIET}, None, ()),
}
# these would train before they meet some of their arguments, so only the door is tried
DOORS = {
    "sweep": (g.sweep, {"base": lambda: TRAIN, "axes": dict, "out": lambda: "s"}, ("base", "axes", "out", "workers")),
    "run_training": (
        g.run_training,
        {"config": lambda: TRAIN, "folder": lambda: "t"},
        ("config", "folder", "num_workers", "checkpoint_seconds"),
    ),
    "train_detector": (
        corit.train_detector,
        {"config": lambda: DETECTOR, "folder": lambda: "c"},
        ("config", "folder", "num_workers", "checkpoint_seconds", "draws", "cache"),
    ),
}
ELSEWHERE = {
    "SAM", "CoRIT", "Moments", "Explanation",  # SAM: tests of the optimizer; the others below, and plain values
    "RhoSearch",
    "ProbeError", "ProbeWarning", "__version__",
}  # fmt: skip


def _names(function, further):
    kept = [item for item in inspect.signature(function).parameters.values() if item.kind not in (2, 4)]
    kept = [item for item in kept if item.name not in ("progress", "overwrite", "eval_mode")]  # any value will do
    return dict.fromkeys([*(item.name for item in kept if item.name != "self"), *further])


TRIALS = [
    (case, name) for case, (call, _, signature, further) in CASES.items() for name in _names(signature or call, further)
]


def _refuses(call, given, name, value):
    """Call with one wrong argument; a value that is right after all, such as None, may pass."""
    try:
        call(**{other: make() for other, make in given.items() if other != name}, **{name: value})
    except ProbeError:
        return
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        # a module is a model, and can be called: its own error on foreign data is the user's to see
        if not (isinstance(value, nn.Module) and any("torch/nn/modules" in frame.filename for frame in frames)):
            raise


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "name"), TRIALS, ids=lambda part: part)
def test_wrong_arguments_are_named(case, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, given, _, _ = CASES[case]
    for value in WRONG.values():
        _refuses(call, given, name, value)


@pytest.mark.parametrize(("case", "name"), [(case, name) for case, row in DOORS.items() for name in row[2]])
def test_trainings_refuse_before_they_write(case, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, given, _ = DOORS[case]
    right = {("cache", "None"), ("cache", "text"), ("workers", "None"), ("checkpoint_seconds", "a number")}
    right |= {("folder", "text"), ("out", "text"), ("axes", "an empty list")}
    for kind, value in WRONG.items():
        if (name, kind) in right:
            continue
        with pytest.raises(ProbeError, match=r"^expected .+, got .+; "):
            call(**{**{other: make() for other, make in given.items()}, name: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", WRONG.values(), ids=list(WRONG))
def test_other_moments_and_states_are_named(value):
    with pytest.raises(ProbeError, match="expected other to be moments"):
        g.Moments().merge(value)
    for owner in (g.Recorder(mlp(), make_loader()), g.AutoRho(mlp(), make_loader())):
        with pytest.raises(ProbeError, match=r"expected a state saved by \w+\.state_dict\(\), got .*; load the state"):
            owner.load_state_dict(value)
    with pytest.raises(ProbeError, match="expected config to be a CoRITConfig"):
        corit.CoRIT(nn.Linear(1, 1), value, mean=(0, 0, 0), std=(1, 1, 1))


def test_every_public_name_is_tried():
    public = {*g.__all__, *corit.__all__}
    assert public == {name for name in {*CASES, *DOORS, *ELSEWHERE} if "." not in name}


@pytest.mark.parametrize("radii", ["0.1,0.2", 0.1, [0.1], [0.2, 0.1], [0.1, "0.2"], {0.1: 1}, [0.1, None], [[0.1], 2]])
def test_radii_that_are_none(radii):
    for call in (g.estimate_cor, g.Recorder, g.probe):
        with pytest.raises(ProbeError, match="expected radii to be two or more positive, increasing radii"):
            call(mlp(), make_loader(), radii=radii)


@pytest.mark.parametrize("call", [g.estimate_cor, g.estimate_gsnr, g.Recorder, g.probe, g.AutoRho])
def test_a_misspelt_option_is_told(call):
    with pytest.raises(ProbeError, match=r"got 'confidense'; use one of .*Did you mean 'confidence'\?"):
        call(mlp(), make_loader(), confidense=0.9)


@pytest.mark.parametrize("device", ["mps", "cuda", "cuda:7", "gpu", 3.5])
def test_a_device_that_is_not_there(device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ProbeError, match=r"expected a device of this machine, got .*; use device='cpu'"):
        g.estimate_cor(mlp(), make_loader(), device=device)
