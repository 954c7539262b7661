"""Checksums of tensors' bits, to find out whether a tensor changed without keeping a copy."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

_BLOCK = 2**18
"""Number of 4-byte words that a checksum weights and sums at a time; it bounds the memory for their weights."""


def fingerprint(tensor: Tensor) -> tuple[int, ...]:
    """Compute a checksum of a tensor's bits that depends on the place of each word.

    Each 4-byte word is multiplied by the pseudo-random odd number of its place modulo 2^64. The products are summed
    block by block, and the sums of the blocks likewise, so that swapped words, rows or blocks change the result.

    Returns:
        The checksum, followed by the shape.
    """
    if tensor.is_meta:  # holds no values
        return (0, *tensor.shape)
    if hasattr(tensor, "__tensor_flatten__"):
        parts = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
        return (*(number for part in parts for number in fingerprint(part)), *tensor.shape)
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        try:
            return _checksum(tensor.detach())
        except (NotImplementedError, RuntimeError, TypeError):  # its bits cannot be read; edits in place are counted
            return (tensor._version, id(tensor), *tensor.shape)
    return _checksum(tensor.detach())


def _checksum(data: Tensor) -> tuple[int, ...]:
    shape = data.shape
    if data.is_sparse:
        data = data.coalesce().values()
    data = data.resolve_conj().resolve_neg()
    bits = data.contiguous().reshape(-1).view(torch.uint8) if data.numel() else torch.zeros(0, dtype=torch.uint8)
    if bits.numel() % 4 or bits.storage_offset() % 4:
        bits = torch.cat([bits, bits.new_zeros(-bits.numel() % 4)])
    if not bits.numel():
        return (0, *shape)
    weights = _odd_weights(_BLOCK, str(bits.device))
    blocks = bits.view(torch.int32).split(_BLOCK)
    sums = torch.stack([(block.to(torch.int64) * weights[: len(block)]).sum() for block in blocks])
    return (int((sums * _odd_weights(len(sums), str(bits.device))).sum()), *shape)


@lru_cache(maxsize=16)
def _odd_weights(count: int, device: str) -> Tensor:
    """Return one pseudo-random odd int64 per place: a multiply-and-shift hash of the index."""
    index = torch.arange(1, count + 1, dtype=torch.int64)
    mixed = index * -7046029254386353131  # 2^64 / golden ratio, as int64
    mixed = (mixed ^ (mixed >> 29)) * -4658895280553007687
    return ((mixed ^ (mixed >> 32)) | 1).to(device)
