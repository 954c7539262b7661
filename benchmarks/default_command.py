"""Wall time and peak memory of ``gsnr-probe`` as a whole process.

Command: ``python -m benchmarks.default_command [options of gsnr-probe]``.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile

from benchmarks.instruments import peak_gib, seconds


def main() -> None:
    """Run the command once in a scratch folder and print a line."""
    options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gsnr_toolkit", "--out", f"{folder}/report", *options]
        wall = seconds(lambda: subprocess.run(command, check=True))
    peak = peak_gib(resource.RUSAGE_CHILDREN)
    print(f"{' '.join(['gsnr-probe', *options])}: {wall:.0f} s, peak {peak:.1f} GiB, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
