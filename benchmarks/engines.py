"""Per-sample moments by our engines and by other libraries, against a plain forward + backward of the same batch.

Claim: what ``engine="auto"`` chooses, and what of a model other libraries cover, at what cost. Command:
``python -m benchmarks.engines`` (the other libraries: ``pip install .[bench]``). Every case runs in a process of its
own, so that peak memory is its own and one that is killed leaves a row; times are medians of interleaved repetitions.
"""

from __future__ import annotations

# Nothing heavy up here: on Linux a process starts with the peak memory of the one that started it.
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
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.support.lookup import is_target

PEERS = ("opacus", "backpack-for-pytorch", "opt_einsum", "torchjd", "traker", "torchvision")


def measure(case: Case, timeout: float) -> dict[str, Any]:
    """Run a case in a process of its own.

    Args:
        case: The case.
        timeout: Seconds after which the process is stopped.

    Returns:
        Its row: the case, what was measured, and ``failure`` (None, or why it ended early).
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "row.json"
        command = [sys.executable, "-m", "benchmarks.comparison.one_case", json.dumps(asdict(case)), str(result)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
            failure = _exit_reason(done.returncode, done.stderr)
        except subprocess.TimeoutExpired:
            failure = f"stopped after {timeout:g} s"
        # a process that is killed while it writes leaves half a file
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
    """What the numbers hold for.

    Args:
        arguments: Of the command.
        rows: The rows, of which the first that knows says how many threads torch used.

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
    if not is_target(name):  # one's own is imported in its process only
        try:
            METHODS[name]
        except ProbeError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS.names)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), type=_known_method, metavar="METHOD",
                        help=f"{', '.join(METHODS)}, or module:name of your own; plain is always measured")  # fmt: skip
    parser.add_argument("--batch", type=int, help="samples in a batch (default: by model)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--budget", type=float, default=2.0, help="GiB of per-sample gradients alive at once")
    parser.add_argument("--allocator", choices=("keep", "default"), default="keep",
                        help="whether a case's process keeps freed memory, as the toolkit's commands do")  # fmt: skip
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for a case")
    parser.add_argument("--resume", action="store_true", help="keep what the output file holds of these very cases")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON; the plot goes beside it as .png")
    return parser


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
            # threads None means torch's own choice, which the row names
            wanted = {key: value for key, value in asdict(case).items() if value is not None}
            found = next((row for row in known if row.items() >= wanted.items()), None)
            rows.append(found or measure(case, options.timeout))
            add_memory_ratios(rows)
            _write(options.output, {"provenance": None, "rows": rows})  # a long run may be cut short
    _write(options.output, {"provenance": provenance(given, rows), "rows": rows})
    from benchmarks.comparison.table import draw, markdown

    print(markdown(rows))
    draw(rows, options.output.with_suffix(""))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows that an earlier run brought to their end."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf8"))["rows"]
    return [row for row in rows if row["failure"] is None]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
