"""Per-sample moments by our engines and by other libraries, against a plain forward + backward of the same batch.

Question: what does each engine cost, and which part of a model do other libraries cover, at what cost? Command:
``python -m benchmarks.engines`` (the other libraries: ``pip install .[bench]``). Every case runs in its own process, so
that its peak memory is its own, and a case that is killed still leaves a row. Times are medians of interleaved
repetitions.
"""

from __future__ import annotations

# Import nothing heavy here: on Linux, a process starts with the peak memory of its parent.
import argparse
import json
import math
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.comparison.methods import METHODS
from benchmarks.comparison.one_case import Case
from benchmarks.comparison.settings import MODELS, RESULTS
from benchmarks.instruments import parser, write_json
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.lookup import is_target

PEERS = ("opacus", "backpack-for-pytorch", "opt_einsum", "torchjd", "traker", "torchvision")


def measure(case: Case, timeout: float) -> dict[str, Any]:
    """Run a case in its own process.

    Args:
        case: The case.
        timeout: Seconds after which the process is stopped.

    Returns:
        Its row: the case, the measurements, and ``failure`` (None, or why it ended early).
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "row.json"
        command = [sys.executable, "-m", "benchmarks.comparison.one_case", json.dumps(asdict(case)), str(result)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
            failure = _exit_reason(done.returncode, done.stderr)
        except subprocess.TimeoutExpired:
            failure = f"stopped after {timeout:g} s"
        # a process that is killed while writing leaves half a file
        try:
            found = json.loads(result.read_text(encoding="utf8"))
        except (FileNotFoundError, json.JSONDecodeError):
            found = {}
    row = {**asdict(case), "failure": failure, **found}
    return {key: _finite(value) for key, value in row.items()}


def _exit_reason(code: int, errors: str) -> str | None:
    if code == 0:
        return None
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    last = errors.strip().splitlines()[-1:] or [""]
    return f"exit status {code}: {last[0]}".removesuffix(": ")


def _finite(value: Any) -> Any:
    # JSON has no NaN and no infinity
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def add_memory_ratios(rows: list[dict[str, Any]]) -> None:
    """Give each row ``memory_ratio``: its peak over that of the plain process of the same model."""
    plain = {row["model"]: row.get("peak_gib") for row in rows if row["method"] == "plain"}
    for row in rows:
        own, base = row.get("peak_gib"), plain.get(row["model"])
        row["memory_ratio"] = own / base if own and base else None


def provenance(arguments: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Describe the conditions of the measurement.

    Args:
        arguments: Arguments of the command.
        rows: The rows; the first one with that field gives the number of threads of torch.

    Returns:
        Versions, processor, device, threads, time, commit, command.
    """
    import torch

    from gsnr_toolkit.support.provenance import environment

    found = environment() | {"command": ["python", "-m", "benchmarks.engines", *arguments]}
    found["versions"] |= {name: _version(name) for name in PEERS}
    found["threads"] = next((row["threads"] for row in rows if row["threads"] is not None), None)
    if any(row["device"] == "cuda" for row in rows) and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _known_method(name: str) -> str:
    if not is_target(name):  # module:name is imported only in the process of its case
        try:
            METHODS[name]
        except ProbeError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return name


def _parser() -> argparse.ArgumentParser:
    commands = parser("benchmarks.engines", __doc__, device="cpu", repeats=5)
    add = commands.add_argument
    add("--models", nargs="+", default=list(MODELS), choices=MODELS.names)
    add("--methods", nargs="+", default=list(METHODS), type=_known_method, metavar="METHOD",
        help=f"{', '.join(METHODS)}, or module:name of any other; plain is always measured")  # fmt: skip
    add("--batch", type=int, help="samples in a batch (default: by model)")
    add("--threads", type=int, help="threads of torch (default: its own choice)")
    add("--budget", type=float, default=2.0, help="GiB of per-sample gradients in memory at once")
    add("--allocator", choices=("keep", "default"), default="keep",
        help="whether the process of a case keeps freed memory, as the toolkit's commands do")  # fmt: skip
    add("--timeout", type=float, default=900.0, help="seconds for a case")
    add("--resume", action="store_true", help="skip cases whose results the output file holds already")
    add("--output", type=Path, default=RESULTS, help="JSON; the figure is saved beside it as .png")
    return commands


def main(arguments: list[str] | None = None) -> None:
    """Run every case, print a Markdown table, write rows and plot."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    known = _read_rows(options.output) if options.resume else []
    rows: list[dict[str, Any]] = []
    for model in options.models:
        for method in dict.fromkeys(["plain", *options.methods]):
            batch = options.batch or MODELS[model].batch
            how = (options.device, options.threads, options.budget, options.allocator)
            case = Case(model, method, batch, options.repeats, *how)
            print(f"{model}, {method} ...", file=sys.stderr, flush=True)
            # threads is None for torch's own choice; the row holds the number
            wanted = {key: value for key, value in asdict(case).items() if value is not None}
            found = next((row for row in known if row.items() >= wanted.items()), None)
            rows.append(found or measure(case, options.timeout))
            add_memory_ratios(rows)
            write_json(options.output, {"provenance": None, "rows": rows})  # a long run may be interrupted
    write_json(options.output, {"provenance": provenance(given, rows), "rows": rows})
    from benchmarks.comparison.table import draw, markdown

    print(markdown(rows))
    draw(rows, options.output.with_suffix(""))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of an earlier run that did not fail."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf8"))["rows"]
    return [row for row in rows if row["failure"] is None]


if __name__ == "__main__":
    main()
