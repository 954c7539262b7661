"""Cost of training a head on cached features, against tuning the norms of the encoder on the same images.

Claim: at most a twentieth of the time of LN-tuning. Command: ``python -m benchmarks.corit.training`` (``--encoder``,
``--images``, ``--steps``). Three trainings of the same number of steps, with the loop of ``corit train``: LN-tuning;
CoRIT with an empty cache; CoRIT again, with the features that the first one cached. A row gives the median CPU time of
the process over the repetitions, and its range, with one thread. Testing is left out as far as the loop allows (four
images).
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.instruments import head, line, middle_and_range, parser, seconds
from corit.training.config import DetectorTraining
from corit.training.train import train_detector

METHODS = {"LN-tuning": "norms", "CoRIT, features made": "corit", "CoRIT, features cached": "corit"}


def main() -> None:
    """Train, and print a Markdown table."""
    commands = parser("benchmarks.corit.training", __doc__, repeats=3)
    commands.add_argument("--encoder", default="clip-demo")
    commands.add_argument("--images", type=int, default=1000)
    commands.add_argument("--steps", type=int, default=600)
    chosen = commands.parse_args()
    torch.set_num_threads(1)
    base = {"encoder": chosen.encoder, "data": "demo-nt", "fakes": "given", "train_samples": chosen.images}
    base |= {"val_samples": 64, "eval_samples": 4, "eval_every": chosen.steps, "steps": chosen.steps}
    found: dict[str, list[float]] = {label: [] for label in METHODS}
    for repeat in range(chosen.repeats):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            for number, (label, method) in enumerate(METHODS.items()):
                config = DetectorTraining(method=method, seed=repeat, **base)
                train = partial(train_detector, config, Path(folder) / str(number), device="cpu", cache=cache, draws=0)
                found[label].append(seconds(train, clock=time.process_time))
            shutil.rmtree(cache)
    whole = statistics.median(found["LN-tuning"])
    print(f"{chosen.encoder}, {chosen.images} images, {chosen.steps} steps, torch {torch.__version__}\n")
    print(head("training", "CPU seconds", "lowest to highest", "of LN-tuning"))
    for label, times in found.items():
        print(line(label, *middle_and_range(times, ".1f"), f"1/{whole / statistics.median(times):.0f}"))


if __name__ == "__main__":
    main()
