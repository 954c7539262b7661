"""Self-blended pairs per second on one core.

Claim: at least 60 pairs a second at 256 pixels. Command: ``python -m benchmarks.corit.sbi`` (``--profile`` shows where
the time goes). ``self_blend`` makes pairs from embedded faces in memory, with and without their landmarks, at several
sizes; OpenCV uses one thread. A row gives the median over rounds, the slowest and the fastest. ``counterpart`` is timed
on a batch of tensors. The data set is timed through its loader, from the face in memory to the normalised batch.
"""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable

import cv2
import numpy as np
import torch

from benchmarks.instruments import head, line, middle_and_range, parser, seconds
from corit.sbi import Face, SelfBlended, counterpart, pair_loader, self_blend
from gsnr_toolkit.data.demo.dataset import open_demo


def _works(size: int, count: int) -> dict[str, Callable[[], int]]:
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


def _rates(work: Callable[[], int], rounds: int) -> list[float]:
    """Return pairs per second for each round, after one round to warm up."""
    made = work()  # every round makes the same number of pairs
    return [made / seconds(work) for _ in range(rounds)]


def _profile(work: Callable[[], int]) -> None:
    profile = cProfile.Profile()
    profile.runcall(lambda: [work() for _ in range(3)])
    pstats.Stats(profile).sort_stats("tottime").print_stats(22)


def main() -> None:
    """Print a Markdown table of pairs per second."""
    commands = parser("benchmarks.corit.sbi", __doc__)
    commands.add_argument("--sizes", type=int, nargs="+", default=[64, 224, 256, 512])
    commands.add_argument("--count", type=int, default=32, help="images")
    commands.add_argument("--rounds", type=int, default=5)
    commands.add_argument("--profile", action="store_true", help="profile self_blend with landmarks at each size")
    arguments = commands.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    print(f"OpenCV {cv2.__version__}, numpy {np.__version__}, one thread, {arguments.count} images\n")
    print(head("size", "what", "pairs a second", "slowest to fastest"))
    for size in arguments.sizes:
        works = _works(size, arguments.count)
        for name, work in works.items():
            rates = _rates(work, arguments.rounds)
            print(line(size, name, *middle_and_range(rates, ".0f")), flush=True)
        if arguments.profile:
            _profile(works["self_blend, landmarks"])


if __name__ == "__main__":
    main()
