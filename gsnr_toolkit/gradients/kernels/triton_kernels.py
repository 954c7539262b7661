"""The Triton kernel over per-sample products ``G_i = left_i^T right_i``, which never writes a G_i to memory.

Only ``triton_products.py`` launches it. Importing this file loads Triton where it is installed, and defines no kernel
where it is not. A tile of ``deviation`` stays in registers from its first product to its last use.
"""

# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: ANN001, ANN201 - Triton reads annotations itself, and its arguments are pointers and numbers
from __future__ import annotations

from importlib.util import find_spec

INSTALLED = find_spec("triton") is not None

if INSTALLED:
    import triton
    import triton.language as tl

    @triton.jit
    def sample_product(
        deviation, left, right, tokens, left_token, right_token, row_offset, column_offset, row_mask, column_mask,
        UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_T: tl.constexpr,
    ):  # fmt: skip
        """Add one sample's tile of ``left^T right`` to ``deviation``, a block of rows of the factors at a time."""
        token = tl.arange(0, BLOCK_T)
        # two 32-bit numbers per entry instead of 64-bit pointers: the kernel is short of registers
        left_offset = row_offset[:, None] + (token * left_token)[None, :]
        right_offset = (token * right_token)[:, None] + column_offset[None, :]
        for start in range(0, tokens, BLOCK_T):
            valid = token < tokens - start
            rows = tl.load(left + left_offset, mask=row_mask[:, None] & valid[None, :], other=0.0)
            columns = tl.load(right + right_offset, mask=valid[:, None] & column_mask[None, :], other=0.0)
            if UPCAST:  # the interpreter multiplies the bits of a bfloat16 as integers
                rows = rows.to(tl.float32)
                columns = columns.to(tl.float32)
            deviation = tl.dot(rows, columns, deviation, input_precision=PRECISION)
            left += BLOCK_T * left_token
            right += BLOCK_T * right_token
        return deviation

    @triton.jit
    def sums_kernel(
        left, right, shift, total, squares, samples, samples_per_split, tokens, rows, columns,
        left_sample, left_token, left_row, right_sample, right_token, right_column,
        HAS_SHIFT: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr,
        BLOCK_T: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr,
    ):  # fmt: skip
        """Compute both sums of one tile over one part of the samples; the grid is (row tile, column tile, part)."""
        row = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
        column = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
        part = tl.program_id(2).to(tl.int64)
        row_mask, column_mask = row < rows, column < columns
        mask = row_mask[:, None] & column_mask[None, :]
        entry = row.to(tl.int64)[:, None] * columns + column[None, :]
        start = tl.zeros((BLOCK_O, BLOCK_I), dtype=tl.float32)
        if HAS_SHIFT:
            start -= tl.load(shift + entry, mask=mask, other=0.0)
        tile_total = tl.zeros((BLOCK_O, BLOCK_I), dtype=tl.float32)
        tile_squares = tl.zeros((BLOCK_O, BLOCK_I), dtype=tl.float32)
        left += part * samples_per_split * left_sample
        right += part * samples_per_split * right_sample
        own = tl.minimum(samples_per_split, samples - part * samples_per_split)
        for _ in range(own):
            deviation = sample_product(
                start, left, right, tokens, left_token, right_token, row * left_row, column * right_column,
                row_mask, column_mask, UPCAST, PRECISION, BLOCK_T,
            )  # fmt: skip
            tile_total += deviation
            tile_squares += deviation * deviation
            left += left_sample
            right += right_sample
        out = part * rows * columns + entry
        tl.store(total + out, tile_total, mask=mask)
        tl.store(squares + out, tile_squares, mask=mask)
