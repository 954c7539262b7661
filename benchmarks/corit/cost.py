"""What CoRIT's features cost, in forward passes of its plain encoder.

Command: ``python -m benchmarks.corit.cost --model clip-vit-b16``. Weights are random. Every variant is timed in turns
with the encoder on the same images (CPU time on a CPU); a row gives the median ratio and its range. Making counterparts
is not part of it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from corit.model.detector import CoRIT
from gsnr_toolkit.models.clip import Detector
from gsnr_toolkit.models.registry import build_model

VARIANTS: dict[str, dict[str, object]] = {
    "CoRIT, regions of the middle layer": {},
    "CoRIT, regions of the last layer": {"cgp_layer": -1},
    "CoRIT, own regions in each block": {"cgp_layer": "each"},
    "without RSI": {"rsi": False},
    "without regions": {"num_regions": 0},
}
Work = Callable[[], object]


def _seconds(work: Work, device: str) -> float:
    if device == "cpu":  # the process's own time, which other work on the machine does not stretch
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def _ratios(work: Work, plain: Work, device: str, repeats: int) -> list[float]:
    work(), plain()
    return [_seconds(work, device) / _seconds(plain, device) for _ in range(repeats)]


def _detector(built: Detector, options: dict[str, object]) -> CoRIT:
    layers = len(built.encoder.get_submodule("transformer.resblocks")._modules)
    chosen = {name: layers if value == -1 else value for name, value in options.items()}
    return CoRIT.from_encoder(built, **chosen)


@torch.inference_mode()
def main() -> None:
    """Time every variant and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="clip-vit-b16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variants", type=int, default=len(VARIANTS), help="how many of the variants, from the top")
    arguments = parser.parse_args()
    with torch.inference_mode(False):
        built = build_model(arguments.model, weights="random").to(arguments.device)
    assert isinstance(built, Detector)
    encoder = built.encoder.eval().requires_grad_(False)
    images = torch.randn(arguments.batch, 3, built.image_size, built.image_size, device=arguments.device)
    others = images + 0.1 * torch.randn_like(images)
    print(f"{arguments.model}, {arguments.device}, batch {arguments.batch}, torch {torch.__version__}\n")
    print("| features | time / encoder | lowest to highest |\n|---|---|---|")
    for label, options in list(VARIANTS.items())[: arguments.variants]:
        detector = _detector(built, options)
        ratios = _ratios(
            lambda detector=detector: detector.features(images, others),  # type: ignore[misc]
            lambda: encoder(images),
            arguments.device,
            arguments.repeats,
        )
        print(f"| {label} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    main()
