"""Wall time and peak memory of ``gsnr-probe`` as a whole process.

Command: ``python -m benchmarks.default_command [gsnr-probe's options]``.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time


def main() -> None:
    """Run the command once in a scratch folder and print a line."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gsnr_toolkit", "--out", f"{folder}/report", *sys.argv[1:]]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        wall = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{' '.join(['gsnr-probe', *sys.argv[1:]])}: {wall:.0f} s, peak {peak:.1f} GiB, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
