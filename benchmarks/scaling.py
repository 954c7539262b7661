"""Whether the cost of a sample depends on the batch size, on the number of groups, or on the number of samples.

Claim: it does not. Command: ``python -m benchmarks.scaling`` (two minutes on two cores, clip-demo). Times are medians
of interleaved repetitions, over the number of samples and over the cost of a sample in a plain forward + backward of
a batch of 32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from gsnr_toolkit.gradients.functional import GradientTask, trainable_params
from gsnr_toolkit.gradients.taps import TapsEngine
from gsnr_toolkit.losses import inferred_loss
from gsnr_toolkit.models.registry import build_model
from gsnr_toolkit.moments import Moments
from gsnr_toolkit.probing import estimate_gsnr

TABLE = Path(__file__).with_name("scaling.json")


def _batches(count: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(count, 3, 64, 64, generator=generator), torch.arange(count) % 2
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, count, size)]


def _works() -> dict[str, tuple[int, Callable[[], object]]]:
    """What is timed: number of samples, and the work."""
    model = build_model("clip-demo").eval()
    task, engine = GradientTask(model, trainable_params(model), inferred_loss), TapsEngine(check=False)

    def moments(count: int, size: int) -> Callable[[], object]:
        batches = _batches(count, size)

        def work() -> None:
            total = Moments()
            for batch in batches:
                engine.accumulate(task, batch, total, chunk_size=size)

        return work

    (batch,) = _batches(32, 32)
    many = _batches(256, 32)
    works: dict[str, tuple[int, Callable[[], object]]] = {"plain, batch 32": (32, partial(task.mean_gradient, batch))}
    works |= {f"moments, batch {size}": (64, moments(64, size)) for size in (4, 8, 16, 32, 64)}
    works |= {f"moments, {count} samples": (count, moments(count, 32)) for count in (64, 128, 256)}
    for groups in ("block", "module", "parameter"):
        gsnr = partial(estimate_gsnr, model, many, groups=groups, progress=False)
        works[f"estimate_gsnr, 256 samples, groups by {groups}"] = (256, gsnr)
    return works


def main() -> None:
    """Time everything in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    works = _works()
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, (count, work) in works.items():
            began = time.perf_counter()
            work()
            if turn:  # the first turn warms up
                times[name].append((time.perf_counter() - began) / count)
    plain = statistics.median(times["plain, batch 32"])
    table = {name: [value / plain for value in (statistics.median(t), min(t), max(t))] for name, t in times.items()}
    print("| work | a sample's cost / plain | lowest to highest |\n|---|---|---|")
    for name, (middle, low, high) in table.items():
        print(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} |")
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
