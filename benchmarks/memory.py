"""Predicted and measured memory of a pass: the numbers behind ``--memory``.

Claim: the prediction is near the measurement, and above it more often than below (for the loop within some percent).
Command: ``python -m benchmarks.memory`` (two minutes, two cores). Each case runs in its own process. The measurement is
the peak of that process, minus what model, moments and libraries take before the pass.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.instruments import head, line, parser, peak_gib, write_json

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
            held.fill_(0)  # so that the system allocates the pages before the pass
    small = (batch[0][:2], batch[1][:2])
    predicted = predicted_bytes(engine_name, task, small, chunk) / 2**30
    engine = TapsEngine(check=False) if engine_name == "taps" else make_engine(engine_name)
    before = peak_gib()
    engine.accumulate(task, batch, moments, chunk_size=chunk)
    return {"predicted": predicted, "measured": peak_gib() - before}


def main() -> None:
    """Run every case and print a table."""
    commands = parser("benchmarks.memory", __doc__)
    commands.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = commands.parse_args()
    if arguments.child:
        model, engine, chunk = arguments.child
        print(json.dumps(_child(model, engine, int(chunk))))
        return
    rows = []
    print(head("model", "engine", "samples at once", "predicted GiB", "measured GiB"))
    for model, engine, chunk in CASES:
        command = [sys.executable, "-m", "benchmarks.memory", "--child", model, engine, str(chunk)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append({"model": model, "engine": engine, "chunk": chunk, **row})
        print(line(model, engine, chunk, f"{row['predicted']:.2f}", f"{row['measured']:.2f}"), flush=True)
    from gsnr_toolkit.support.provenance import environment

    write_json(TABLE, {"provenance": environment(), "rows": rows})


if __name__ == "__main__":
    main()
