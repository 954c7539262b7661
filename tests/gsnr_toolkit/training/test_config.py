import dataclasses

import pytest

from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.training.config import TrainConfig, describe_fields


def test_the_key_differs_whenever_a_field_differs():
    changed = {
        "model": "clip-lab", "weights": "random", "data": "demo-df", "data_root": "x", "compression": "c23",
        "strength": 2.0, "eval_data": ("demo-fs",), "train_samples": 10, "eval_samples": 20, "label_noise": 0.1,
        "tuning": "head", "optimizer": "sgd", "lr": 1.0, "weight_decay": 0.1, "momentum": 0.5, "lr_schedule": "cosine",
        "lr_warmup": 1, "batch_size": 4, "steps": 5, "rho": 0.1, "method": "asam", "perturb": "norms",
        "rho_schedule": "linear", "plain_steps": 2, "cor_every": 3, "cor_safety": 0.1, "rho_max": 0.2, "rho_share": 0.3,
        "eval_every": 1, "record_every": 1, "record_samples": 512, "stop_dead": 7, "seed": 1,
    }  # fmt: skip
    assert changed.keys() == {item.name for item in dataclasses.fields(TrainConfig)}
    keys = {dataclasses.replace(TrainConfig(), **{name: value}).key for name, value in changed.items()}
    assert len(keys | {TrainConfig().key}) == len(changed) + 1


def test_it_survives_a_file():
    config = TrainConfig(eval_data=("demo-fs", "demo-df"), rho="auto", train_samples=8)
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_whole_numbers_are_numbers():
    assert TrainConfig(rho=0, lr=1).key == TrainConfig(rho=0.0, lr=1.0).key
    assert isinstance(TrainConfig(steps=3).steps, int)


def test_text_is_read_as_numbers():
    texts = {"lr": "1e-3", "steps": "7", "rho": "0.05", "strength": "none", "eval_data": "demo-fs,demo-df"}
    config = TrainConfig.from_dict(texts)
    assert (config.lr, config.steps, config.rho, config.strength) == (1e-3, 7, 0.05, None)
    assert config.eval_data == ("demo-fs", "demo-df")
    assert TrainConfig.from_dict({"rho": "auto"}).rho == "auto"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0.0}, "expected lr to be a number above 0, got 0.0"),
        ({"lr": float("nan")}, "expected lr to be a number above 0, got nan"),
        ({"steps": 1.5}, "expected steps to be a whole number from 1, got 1.5"),
        ({"steps": True}, "expected steps to be a whole number from 1, got True"),
        ({"label_noise": 1.2}, "expected label_noise to be a number from 0 up to 1, got 1.2"),
        ({"optimizer": "lamb"}, "expected optimizer to be one of 'adamw', 'adam', 'sgd', got 'lamb'"),
        ({"rho": "0.05x"}, "expected rho to be a number from 0, got '0.05x'"),
        ({"rho": -1.0}, "expected rho to be a number from 0, got -1.0"),
        ({"model": ""}, "expected model to be a name, got ''"),
        ({"eval_data": (1,)}, "expected eval_data to be names of data sets"),
        ({"rho": "cor", "method": "asam"}, "expected method 'sam' and perturb 'all' with rho 'cor'"),
        ({"record_every": 5, "record_samples": 64}, "raise record_samples to 256"),
        ({"rho": 0.1, "plain_steps": 300}, "got 300 of 300, so that SAM would never start"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ProbeError, match=message.replace("(", r"\(")):
        TrainConfig(**values)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ProbeError, match=r"the name of a setting, got 'batchsize'; use .* Did you mean 'batch_size'\?"):
        TrainConfig.from_dict({"batchsize": 3})


def test_every_field_is_described():
    lines = describe_fields()
    assert lines.keys() == {item.name for item in dataclasses.fields(TrainConfig)}
    assert all(line[0].isupper() or line.startswith(("rho", "open_clip")) for line in lines.values())
