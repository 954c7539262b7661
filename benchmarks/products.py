"""Moments of per-sample weight gradients against the one matrix product that makes a plain weight gradient.

Claim: what the compiled kernels of a CPU save beside torch's own passes, up to how many rows of a sample, and what the
Triton kernel saves on a GPU; why tiles have their size (``--tiles``).
Command: ``python -m benchmarks.products --device cpu``. Layers are those of a ViT-B at 197 tokens (``--tokens``). Every
variant is timed in turns with the plain product over all b T rows; a row gives the median ratio and its range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from gsnr_toolkit.gradients.kernels import native, tiles, triton_products
from gsnr_toolkit.gradients.kernels.merge_products import merge_products
from gsnr_toolkit.gradients.kernels.products import plain_product_sums
from gsnr_toolkit.gradients.kernels.tiles import Workspace

LAYERS = ((2304, 768), (768, 768), (3072, 768), (768, 3072))
TILES = ((2**18, 1024, 8), (2**19, 1024, 8), (2**20, 1024, 8), (2**20, 1024, 4), (2**19, 1024, 16), (2**20, 2048, 4))
"""Entries and columns of a tile, and samples at once."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Work = Callable[[], object]


def _kept(left: Tensor, right: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The sums by way of all per-sample gradients in memory."""
    deviations = torch.bmm(left.mT, right).float().sub_(shift)
    return deviations.sum(0), deviations.square_().sum(0)


@contextmanager
def _by(kernels: Collection[str], sizes: tuple[int, int, int] | None = None) -> Iterator[None]:
    """Only these of the compiled kernels, and tiles of another size."""
    held, function = (tiles.TILE_ENTRIES, tiles.TILE_COLUMNS, tiles.SAMPLES_AT_ONCE), native.function
    tiles.TILE_ENTRIES, tiles.TILE_COLUMNS, tiles.SAMPLES_AT_ONCE = sizes or held
    native.function = lambda name, dtype: function(name, dtype) if name in kernels else None
    try:
        yield
    finally:
        tiles.TILE_ENTRIES, tiles.TILE_COLUMNS, tiles.SAMPLES_AT_ONCE = held
        native.function = function


def _products_alone(left: Tensor, right: Tensor, workspace: Workspace) -> None:
    """Formed in the same memory tile by tile, and not used."""
    for rows, columns in tiles.tiles(left.shape[2], right.shape[2]):
        for _ in tiles.formed(left[:, :, rows], right[:, :, columns], workspace):
            pass


def _on_cpu(left: Tensor, right: Tensor, other_tiles: bool) -> dict[str, Work]:
    workspace, mean = Workspace(), left.new_empty(left.shape[2], right.shape[2])
    m2 = torch.empty_like(mean)
    works: dict[str, Work] = {
        "mean and squares": lambda: merge_products(left, right, mean, m2, 0, workspace),
        "mean and their sum": lambda: merge_products(left, right, mean, None, 0, workspace),
    }

    def within(work: Work, kernels: Collection[str], sizes: tuple[int, int, int] | None = None) -> None:
        with _by(kernels, sizes):
            work()

    ways = {"one kernel": ("merge_products",), "tiles and a kernel": ("merge_samples",), "tiles and torch": ()}
    found = {f"{label}, {way}": partial(within, works[label], ways[way]) for label in works for way in ways}
    if other_tiles:
        works = {"products alone": lambda: _products_alone(left, right, workspace)} | works
        for entries, columns, samples in TILES:
            size = f"{entries} entries x {samples}, columns up to {columns}"
            for label, work in works.items():
                found[f"{label}, {size}"] = partial(within, work, ("merge_samples",), (entries, columns, samples))
    return found


def _variants(left: Tensor, right: Tensor, shift: Tensor, tf32: bool, other_tiles: bool) -> dict[str, Work]:
    found: dict[str, Work] = {"every gradient kept": lambda: _kept(left, right, shift)}
    if left.device.type == "cpu":
        found |= _on_cpu(left, right, other_tiles)
    else:
        found["plain, whole matrix"] = lambda: plain_product_sums(left, right, shift)
    if left.device.type == "cuda" and triton_products.available(left.device):
        found["Triton"] = lambda: triton_products.product_sums(left, right, shift, allow_tf32=tf32)
        for parts in (1, 2, 4):
            label = f"Triton, parts = {parts}"
            found[label] = lambda parts=parts: triton_products.product_sums(
                left, right, shift, allow_tf32=tf32, parts=parts
            )
    return found


def _seconds(work: Work, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _ratios(work: Work, plain: Work, device: str, repeats: int) -> list[float]:
    work(), plain()
    return [_seconds(work, device) / _seconds(plain, device) for _ in range(repeats)]


def _layer(rows: int, columns: int, arguments: argparse.Namespace) -> None:
    torch.manual_seed(0)
    dtype = DTYPES[arguments.dtype]
    left = torch.randn(arguments.batch, arguments.tokens, rows, device=arguments.device).to(dtype)
    right = torch.randn(arguments.batch, arguments.tokens, columns, device=arguments.device).to(dtype)
    shift = torch.randn(rows, columns, device=arguments.device)
    flat_left, flat_right = left.flatten(0, 1), right.flatten(0, 1)
    for label, work in _variants(left, right, shift, arguments.tf32, arguments.tiles).items():
        ratios = _ratios(work, lambda: flat_left.mT @ flat_right, arguments.device, arguments.repeats)
        low, high = min(ratios), max(ratios)
        print(
            f"| {rows} x {columns} | {label} | {statistics.median(ratios):.2f} | {low:.2f} to {high:.2f} |", flush=True
        )


def main() -> None:
    """Time every layer and variant and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=197, help="rows of a sample")
    parser.add_argument("--tiles", action="store_true", help="also tiles of other sizes")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--layers", type=int, default=len(LAYERS), help="how many of the layers, smallest first")
    parser.add_argument("--tf32", action="store_true", help="TF32 in the kernel and in the plain product")
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high" if arguments.tf32 else "highest")
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"{name}, {arguments.dtype}, b = {arguments.batch}, T = {arguments.tokens}, torch {torch.__version__}\n")
    print("| O x I | variant | time / plain weight gradient | lowest to highest |\n|---|---|---|---|")
    with torch.inference_mode():
        for rows, columns in sorted(LAYERS, key=lambda layer: layer[0] * layer[1])[: arguments.layers]:
            _layer(rows, columns, arguments)


if __name__ == "__main__":
    main()
