"""What training a head on cached features costs, beside tuning the norms of the encoder on the same images.

Claim: at most a twentieth of LN-tuning's time. Command: ``python -m benchmarks.corit.training`` (``--encoder``,
``--images``, ``--steps``). Trains the same number of steps with ``corit train``'s own loop: LN-tuning; CoRIT with an
empty cache; CoRIT again, with the features that the first left. CPU time of the process, one thread, testing left out
as far as the loop allows (four images); the middle of the repetitions and their range.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from corit.training.config import DetectorTraining
from corit.training.train import train_detector

METHODS = {"LN-tuning": "norms", "CoRIT, features made": "corit", "CoRIT, features cached": "corit"}


def _seconds(config: DetectorTraining, folder: Path, cache: Path) -> float:
    began = time.process_time()
    train_detector(config, folder, device="cpu", cache=cache, draws=0)
    return time.process_time() - began


def main() -> None:
    """Train, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="clip-demo")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    base = {"encoder": chosen.encoder, "data": "demo-nt", "fakes": "given", "train_samples": chosen.images}
    base |= {"val_samples": 64, "eval_samples": 4, "eval_every": chosen.steps, "steps": chosen.steps}
    found: dict[str, list[float]] = {label: [] for label in METHODS}
    for repeat in range(chosen.repeats):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            for number, (label, method) in enumerate(METHODS.items()):
                config = DetectorTraining(method=method, seed=repeat, **base)
                found[label].append(_seconds(config, Path(folder) / str(number), cache))
            shutil.rmtree(cache)
    whole = statistics.median(found["LN-tuning"])
    print(f"{chosen.encoder}, {chosen.images} images, {chosen.steps} steps, torch {torch.__version__}\n")
    print("| training | CPU seconds | lowest to highest | of LN-tuning |\n|---|---|---|---|")
    for label, times in found.items():
        middle = statistics.median(times)
        print(f"| {label} | {middle:.1f} | {min(times):.1f} to {max(times):.1f} | 1/{whole / middle:.0f} |")


if __name__ == "__main__":
    main()
