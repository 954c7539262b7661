"""Cost of CoRIT's features, in forward passes of its plain encoder.

Command: ``python -m benchmarks.corit.cost --model clip-vit-b16``. Weights are random. Every variant is timed in turns
with the encoder on the same images (CPU time on a CPU); a row gives the median ratio and its range. The time to make
counterparts is not included.
"""

from __future__ import annotations

import time
from functools import partial

import torch

from benchmarks.instruments import head, line, middle_and_range, parser, ratios
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


def _detector(built: Detector, options: dict[str, object]) -> CoRIT:
    layers = len(built.encoder.get_submodule("transformer.resblocks")._modules)
    chosen = {name: layers if value == -1 else value for name, value in options.items()}
    return CoRIT.from_encoder(built, **chosen)


@torch.inference_mode()
def main() -> None:
    """Time every variant and print a Markdown table."""
    commands = parser("benchmarks.corit.cost", __doc__, device="cpu", repeats=5)
    commands.add_argument("--model", default="clip-vit-b16")
    commands.add_argument("--batch", type=int, default=8)
    commands.add_argument("--variants", type=int, default=len(VARIANTS), help="number of variants, from the top")
    arguments = commands.parse_args()
    with torch.inference_mode(False):
        built = build_model(arguments.model, weights="random").to(arguments.device)
    assert isinstance(built, Detector)
    encoder = built.encoder.eval().requires_grad_(False)
    images = torch.randn(arguments.batch, 3, built.image_size, built.image_size, device=arguments.device)
    others = images + 0.1 * torch.randn_like(images)
    print(f"{arguments.model}, {arguments.device}, batch {arguments.batch}, torch {torch.__version__}\n")
    print(head("features", "time / encoder", "lowest to highest"))
    for label, options in list(VARIANTS.items())[: arguments.variants]:
        detector = _detector(built, options)
        work, plain = partial(detector.features, images, others), partial(encoder, images)
        # the process's own time, which other work on the machine does not affect
        found = ratios(work, plain, arguments.repeats, arguments.device, time.process_time)
        print(line(label, *middle_and_range(found)), flush=True)


if __name__ == "__main__":
    main()
