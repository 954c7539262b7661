"""Moments of per-sample weight gradients, against the one matrix product of a plain weight gradient.

Question: how much do the compiled kernels of a CPU save compared with torch's own passes, and up to how many rows of a
sample? How much does the Triton kernel save on a GPU? Why do tiles have their size (``--tiles``)?
Command: ``python -m benchmarks.products --device cpu``. Layers are those of a ViT-B at 197 tokens (``--tokens``). Every
variant is timed in turns with the plain product over all b T rows; a row gives the median ratio and its range.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from benchmarks.instruments import Work, head, line, middle_and_range, parser, ratios
from gsnr_toolkit.gradients.kernels import native, tiles, triton_products
from gsnr_toolkit.gradients.kernels.merge_products import merge_products
from gsnr_toolkit.gradients.kernels.products import plain_product_sums
from gsnr_toolkit.gradients.kernels.tiles import Workspace

LAYERS = ((2304, 768), (768, 768), (3072, 768), (768, 3072))
TILES = ((2**18, 1024, 8), (2**19, 1024, 8), (2**20, 1024, 8), (2**20, 1024, 4), (2**19, 1024, 16), (2**20, 2048, 4))
"""Entries and columns of a tile, and samples at once."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _kept(left: Tensor, right: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the sums from all per-sample gradients in memory."""
    deviations = torch.bmm(left.mT, right).float().sub_(shift)
    return deviations.sum(0), deviations.square_().sum(0)


@contextmanager
def _by(kernels: Collection[str], sizes: tuple[int, int, int] | None = None) -> Iterator[None]:
    """Use only these compiled kernels, and tiles of another size."""
    held, function = (tiles.TILE_ENTRIES, tiles.TILE_COLUMNS, tiles.SAMPLES_AT_ONCE), native.function
    tiles.TILE_ENTRIES, tiles.TILE_COLUMNS, tiles.SAMPLES_AT_ONCE = sizes or held
    native.function = lambda name, dtype: function(name, dtype) if name in kernels else None
    try:
        yield
    finally:
        tiles.TILE_ENTRIES, tiles.TILE_COLUMNS, tiles.SAMPLES_AT_ONCE = held
        native.function = function


def _products_alone(left: Tensor, right: Tensor, workspace: Workspace) -> None:
    """Form all products tile by tile in the same memory, without using them."""
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


def _variants(left: Tensor, right: Tensor, shift: Tensor, other_tiles: bool) -> dict[str, Work]:
    found: dict[str, Work] = {"every gradient kept": lambda: _kept(left, right, shift)}
    if left.device.type == "cpu":
        found |= _on_cpu(left, right, other_tiles)
    else:
        found["plain, whole matrix"] = lambda: plain_product_sums(left, right, shift)
    if left.device.type == "cuda" and triton_products.available(left.device):
        found["Triton"] = lambda: triton_products.product_sums(left, right, shift)
        for parts in (1, 2, 4):
            found[f"Triton, parts = {parts}"] = partial(triton_products.product_sums, left, right, shift, parts=parts)
    return found


def _layer(rows: int, columns: int, arguments: argparse.Namespace) -> None:
    torch.manual_seed(0)
    dtype = DTYPES[arguments.dtype]
    left = torch.randn(arguments.batch, arguments.tokens, rows, device=arguments.device).to(dtype)
    right = torch.randn(arguments.batch, arguments.tokens, columns, device=arguments.device).to(dtype)
    shift = torch.randn(rows, columns, device=arguments.device)
    flat_left, flat_right = left.flatten(0, 1), right.flatten(0, 1)
    for label, work in _variants(left, right, shift, arguments.tiles).items():
        found = ratios(work, lambda: flat_left.mT @ flat_right, arguments.repeats, arguments.device)
        print(line(f"{rows} x {columns}", label, *middle_and_range(found)), flush=True)


def main() -> None:
    """Time every layer and variant and print a Markdown table."""
    commands = parser("benchmarks.products", __doc__, device="cpu", repeats=7)
    commands.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    commands.add_argument("--batch", type=int, default=16)
    commands.add_argument("--tokens", type=int, default=197, help="rows of a sample")
    commands.add_argument("--tiles", action="store_true", help="add tiles of other sizes")
    commands.add_argument("--layers", type=int, default=len(LAYERS), help="number of layers, smallest first")
    arguments = commands.parse_args()
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"{name}, {arguments.dtype}, b = {arguments.batch}, T = {arguments.tokens}, torch {torch.__version__}\n")
    print(head("O x I", "variant", "time / plain weight gradient", "lowest to highest"))
    with torch.inference_mode():
        for rows, columns in sorted(LAYERS, key=lambda layer: layer[0] * layer[1])[: arguments.layers]:
            _layer(rows, columns, arguments)


if __name__ == "__main__":
    main()
