"""Self-blended pairs per second on one core.

Claim: at least 60 pairs a second at 256 pixels. Command: ``python -m benchmarks.corit.sbi`` (``--profile`` tells where the
time goes). Pairs are made by ``self_blend`` from embedded faces held in memory, with and without their landmarks, at
several sizes; OpenCV keeps to one thread. A row gives the median over rounds, the slowest and the fastest.
``counterpart`` is timed on a batch of tensors, and the data set by its loader, from the face in memory to the
normalised batch.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from corit.sbi import Face, SelfBlended, counterpart, pair_loader, self_blend
from gsnr_toolkit.data.demo.dataset import open_demo

Work = Callable[[], int]


def _works(size: int, count: int) -> dict[str, Work]:
    demo = open_demo("df", size=2 * count, image_size=size)
    rows = range(0, 2 * count, 2)
    images = [demo.load_image(row) for row in rows]
    faces = [Face(demo.pair(row).landmarks) for row in rows]
    batch = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images])
    data = SelfBlended(demo)
    epoch = iter(range(1_000_000))

    def pairs(known: bool) -> int:
        seed = next(epoch)
        for image, face in zip(images, faces, strict=True):
            self_blend(image, face if known else None, seed=[seed, 0])
        return count

    def loaded() -> int:
        return sum(len(labels) // 2 for _, labels in pair_loader(data, batch_size=2 * min(16, count)))

    return {
        "self_blend, landmarks": lambda: pairs(True),
        "self_blend, generic": lambda: pairs(False),
        "counterpart": lambda: len(counterpart(batch)),
        "pair_loader, no workers": loaded,
    }


def _rates(work: Work, rounds: int) -> list[float]:
    work()
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        made = work()
        rates.append(made / (time.perf_counter() - began))
    return rates


def _profile(work: Work) -> None:
    profile = cProfile.Profile()
    profile.runcall(lambda: [work() for _ in range(3)])
    pstats.Stats(profile).sort_stats("tottime").print_stats(22)


def main() -> None:
    """Print a Markdown table of pairs per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224, 256, 512])
    parser.add_argument("--count", type=int, default=32, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="profile self_blend with landmarks at each size")
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    print(f"OpenCV {cv2.__version__}, numpy {np.__version__}, one thread, {arguments.count} images\n")
    print("| size | what | pairs a second | slowest to fastest |\n|---|---|---|---|")
    for size in arguments.sizes:
        works = _works(size, arguments.count)
        for name, work in works.items():
            rates = _rates(work, arguments.rounds)
            print(
                f"| {size} | {name} | {statistics.median(rates):.0f} | {min(rates):.0f} to {max(rates):.0f} |",
                flush=True,
            )
        if arguments.profile:
            _profile(works["self_blend, landmarks"])


if __name__ == "__main__":
    main()
