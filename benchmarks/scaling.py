"""Cost of a sample by batch size, number of groups and number of samples.

Claim: it depends on none of them. Commands: ``python -m benchmarks.scaling`` (two minutes on two cores, clip-demo) and
``python -m benchmarks.scaling --model clip-vit-b16 --repeats 3`` (eight minutes). Times are medians of interleaved
repetitions, divided by the number of samples and by the cost of a sample in a plain forward + backward.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.comparison.settings import build_setting
from benchmarks.instruments import Work, head, line, parser, seconds, write_json
from gsnr_toolkit.gradients.taps.engine import TapsEngine
from gsnr_toolkit.moments.by_parameter import Moments
from gsnr_toolkit.probing.estimate import estimate_gsnr
from gsnr_toolkit.support.allocator import keep_freed_memory
from gsnr_toolkit.support.provenance import environment

TABLE = Path(__file__).with_name("scaling.json")


@dataclass(frozen=True)
class Scale:
    """The batch sizes and numbers of samples that are timed on a model.

    Attributes:
        plain: Samples in a plain batch, and in all batches where the batch size is not varied.
        batches: Batch sizes, each for as many samples as the largest of them.
        counts: Numbers of samples.
        whole: Samples of a whole ``estimate_gsnr``; 0 to leave it out.
    """

    plain: int
    batches: tuple[int, ...]
    counts: tuple[int, ...]
    whole: int = 0


SCALES = {
    "clip-demo": Scale(32, (4, 8, 16, 32, 64), (64, 128, 256), 256),
    "clip-vit-b16": Scale(16, (2, 4, 8, 16, 32), (16, 32, 64)),
}


def _works(name: str, scale: Scale) -> dict[str, tuple[int, Work]]:
    """Return what is timed, by name: the number of samples, and the work."""
    setting = build_setting(name, max(*scale.batches, *scale.counts, scale.whole))
    images, labels = setting.batch
    engine = TapsEngine(check=False)

    def batches(count: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(images[i : i + size], labels[i : i + size]) for i in range(0, count, size)]

    def moments(count: int, size: int) -> Work:
        def work() -> None:
            total = Moments()
            for batch in batches(count, size):
                engine.accumulate(setting.task, batch, total, chunk_size=size)

        return work

    (batch,) = batches(scale.plain, scale.plain)
    plain = partial(setting.task.mean_gradient, batch)
    works: dict[str, tuple[int, Work]] = {f"plain, batch {scale.plain}": (scale.plain, plain)}
    most = max(scale.batches)
    works |= {f"moments, batch {size}": (most, moments(most, size)) for size in scale.batches}
    works |= {f"moments, {count} samples": (count, moments(count, scale.plain)) for count in scale.counts}
    if scale.whole:
        many = batches(scale.whole, scale.plain)
        for groups in ("block", "module", "parameter"):
            gsnr = partial(estimate_gsnr, setting.model, many, groups=groups, progress=False)
            works[f"estimate_gsnr, {scale.whole} samples, groups by {groups}"] = (scale.whole, gsnr)
        for size in scale.batches:
            gsnr = partial(estimate_gsnr, setting.model, batches(scale.whole, size), progress=False)
            works[f"estimate_gsnr, {scale.whole} samples, a loader of batches of {size}"] = (scale.whole, gsnr)
    return works


def main(arguments: list[str] | None = None) -> None:
    """Time everything in turns and print a table.

    Args:
        arguments: Arguments of the command line; those of the process when None.
    """
    commands = parser("benchmarks.scaling", __doc__, repeats=5)
    commands.add_argument("--model", choices=tuple(SCALES), default="clip-demo")
    commands.add_argument("--output", type=Path, default=TABLE, help="JSON; its results of other models are kept")
    chosen = commands.parse_args(arguments)
    keep_freed_memory()
    works = _works(chosen.model, SCALES[chosen.model])
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(chosen.repeats + 1):
        for name, (count, work) in works.items():
            took = seconds(work) / count
            if turn:  # the first turn warms up
                times[name].append(took)
    plain = statistics.median(next(iter(times.values())))
    table = {name: [value / plain for value in (statistics.median(t), min(t), max(t))] for name, t in times.items()}
    print(head("work", "a sample's cost / plain", "lowest to highest"))
    for name, (middle, low, high) in table.items():
        print(line(name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}"))
    known = json.loads(chosen.output.read_text(encoding="utf8")) if chosen.output.exists() else {}
    write_json(chosen.output, known | {chosen.model: {"provenance": environment(), "costs": table}})


if __name__ == "__main__":
    main()
