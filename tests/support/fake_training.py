"""A training run that takes no time, and one each that fails, is killed, or hangs: what a sweep must live through.

Its name in a sweep is ``tests.support.fake_training:run_training``. Radii stand for what happens.
"""

import math
import os
import signal
import time
import warnings

import torch

from gsnr_toolkit.support.atomic import write_json

FAILS, KILLED_ONCE, HANGS_ONCE, SAYS_NOTHING = 0.5, 0.6, 0.7, 0.8


def run_training(config, folder, *, device=None):
    """Write the files of a run; those that break the first time are well the second time."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config.to_dict())
    been_here = (folder / "begun").exists()
    with open(folder / "begun", "a", encoding="utf8") as stream:
        stream.write(f"{torch.get_num_threads()} {device}\n")
    if config.rho == FAILS:
        raise ValueError("no luck")
    if config.rho == KILLED_ONCE and not been_here:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.rho == HANGS_ONCE and not been_here:
        time.sleep(120)
    if config.rho == SAYS_NOTHING:
        return None
    warnings.warn("mind the gap", stacklevel=1)
    row = result(config)
    write_json(folder / "result.json", row)
    return row


def result(config):
    """What a run of this config ends with: collapsed from rho = 0.05 on."""
    dead = config.rho >= 0.05
    auc = 0.5 if dead else 0.9 - 0.01 * config.seed
    return {
        "key": config.key,
        "status": "dead" if dead else "ok",
        "steps_done": config.steps,
        "train_loss": math.log(2) if dead else 0.2,
        "test_auc": auc,
        "test_auc_low": auc - 0.02,
        "test_auc_high": auc + 0.02,
        "num_test": 800,
        "cor": 0.02,
        "cor_low": 0.015,
        "cor_high": math.inf,
        "cor_status": "ok",
        "escape_radius": math.nan,
        "seconds": 0.1,
        "device": "cpu",
    }
