"""Per-sample moments by each engine against a plain forward + backward of the same batch.

Claim: what ``engine="auto"`` chooses on a CPU. Command: ``python -m benchmarks.engines``. Every case runs in a
process of its own, so that peak memory is its own; times are medians of interleaved repetitions.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

TABLE = Path(__file__).with_name("engines.json")
MODELS = ("mlp", "clip-demo", "clip-vit-b32", "clip-vit-b16")
ENGINES = ("plain", "loop", "vmap")


def _setting(name: str, batch: int):  # noqa: ANN202 - types would import torch here
    import torch
    from torch import nn

    if name == "mlp":
        model, images = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 1)), torch.randn(batch, 64)
    else:
        from gsnr_toolkit.models.registry import build_model

        model = build_model(name, weights=None if name == "clip-demo" else "random").eval()
        images = torch.randn(batch, 3, model.image_size, model.image_size)  # type: ignore[arg-type]
    return model, (images, torch.arange(batch) % 2)


def _work(name: str, engine: str, batch: int) -> Callable[[], None]:
    from gsnr_toolkit.gradients.functional import GradientTask, trainable_params
    from gsnr_toolkit.gradients.select import ENGINES as OURS
    from gsnr_toolkit.gradients.select import choose_chunk
    from gsnr_toolkit.losses import inferred_loss
    from gsnr_toolkit.moments import Moments

    model, data = _setting(name, batch)
    task = GradientTask(model, trainable_params(model), inferred_loss)
    if engine == "plain":
        return lambda: task.mean_gradient(data) and None
    chunk = choose_chunk(task, memory=2 * 2**30)

    def moments() -> None:
        total = Moments()
        for piece in OURS[engine](task, data, chunk_size=chunk):
            total.update(piece.grads)

    return moments


def _child(name: str, engine: str, batch: int, repeats: int) -> None:
    run, plain = _work(name, engine, batch), _work(name, "plain", batch)
    run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    times: dict[str, list[float]] = {"own": [], "plain": []}
    plain()
    for _ in range(repeats):
        for key, work in (("own", run), ("plain", plain)):
            began = time.perf_counter()
            work()
            times[key].append(time.perf_counter() - began)
    ratios = [own / base for own, base in zip(times["own"], times["plain"], strict=True)]
    row = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "peak_gib": peak}
    print(json.dumps({"model": name, "engine": engine, "batch": batch, "repeats": repeats, **row}))


def main() -> None:
    """Run every case and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(*arguments.child, arguments.batch, arguments.repeats)
        return
    rows = []
    for model in arguments.models:
        for engine in ENGINES:
            command = [sys.executable, "-m", "benchmarks.engines", "--child", model, engine]
            command += ["--batch", str(arguments.batch), "--repeats", str(arguments.repeats)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            row = rows[-1]
            print(f"| {model} | {engine} | {row['ratio']:.2f} | {row['low']:.2f} to {row['high']:.2f} | "
                  f"{row['peak_gib']:.2f} |", flush=True)  # fmt: skip
    TABLE.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
