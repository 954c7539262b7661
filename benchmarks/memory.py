"""Whether the memory of a pass is what its model says: the numbers behind ``--memory``.

Claim: the prediction is near the truth, and rather above it (for the loop within some percent). Command: ``python -m
benchmarks.memory`` (two minutes, two cores). Each case runs in a process of its own; the peak is that of the process,
less what model, moments and libraries take before the pass.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

TABLE = Path(__file__).with_name("memory.json")
CASES = [
    ("clip-demo", "taps", 64),
    ("clip-demo", "vmap", 32),
    ("clip-vit-b32", "loop", 1),
    ("clip-vit-b32", "taps", 4),
    ("clip-vit-b32", "taps", 32),
    ("clip-vit-b32", "vmap", 4),
    ("clip-vit-b16", "taps", 8),
]


def _peak() -> float:
    """Peak memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _child(model_name: str, engine_name: str, chunk: int) -> dict[str, float]:
    import torch

    from gsnr_toolkit.gradients.select import make_engine, predicted_bytes
    from gsnr_toolkit.gradients.taps.engine import TapsEngine
    from gsnr_toolkit.gradients.task import GradientTask, trainable_params
    from gsnr_toolkit.inputs.losses import inferred_loss
    from gsnr_toolkit.models.registry import build_model
    from gsnr_toolkit.moments.by_parameter import Moments

    model = build_model(model_name, weights=None if model_name == "clip-demo" else "random").eval()
    side = int(model.image_size)  # type: ignore[arg-type]
    batch = (torch.randn(chunk, 3, side, side), torch.arange(chunk) % 2)
    task, moments = GradientTask(model, trainable_params(model), inferred_loss), Moments()
    for name, param in task.params.items():
        for held in moments.place(name, param):
            held.fill_(0)  # so that the pages are there
    small = (batch[0][:2], batch[1][:2])
    predicted = predicted_bytes(engine_name, task, small, chunk) / 2**30
    engine = TapsEngine(check=False) if engine_name == "taps" else make_engine(engine_name)
    before = _peak()
    engine.accumulate(task, batch, moments, chunk_size=chunk)
    return {"predicted": predicted, "measured": _peak() - before}


def main() -> None:
    """Run every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        model, engine, chunk = arguments.child
        print(json.dumps(_child(model, engine, int(chunk))))
        return
    rows = []
    print("| model | engine | samples at once | predicted GiB | measured GiB |\n|---|---|---|---|---|")
    for model, engine, chunk in CASES:
        command = [sys.executable, "-m", "benchmarks.memory", "--child", model, engine, str(chunk)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append({"model": model, "engine": engine, "chunk": chunk, **row})
        print(f"| {model} | {engine} | {chunk} | {row['predicted']:.2f} | {row['measured']:.2f} |", flush=True)
    from gsnr_toolkit.support.provenance import environment

    TABLE.write_text(json.dumps({"provenance": environment(), "rows": rows}, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
