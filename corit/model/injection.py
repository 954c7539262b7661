r"""RSI, regional signal injection: region tokens pass through the frozen encoder's own blocks.

The paper's public text: refined tokens are aggregated "via average pooling" and injected "into additional Region Tokens
through intra-layer residual connections". Our reconstruction, for region k and block l:

.. math:: \tilde r_k = r_k^{l-1} + \mathrm{mean}_{t \in k}\, z_t^{l-1}, \qquad
    r_k^l = B_l(\tilde r_k \mid z^{l-1}, \tilde r), \qquad r_k^0 = 0

Region tokens attend to the class token, all patches and the other regions. Nothing attends to them: the frozen tokens
come from a separate pass without regions, so they equal the encoder's tokens bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from corit.model.regions import Regions, pool_regions

__all__ = ["attention_mask", "inject", "region_step"]


def inject(blocks: Sequence[Any], tokens: Sequence[Tensor], regions: Sequence[Regions]) -> list[Tensor]:
    """Return the region tokens ``(N, K, d)`` after each of the encoder's L blocks.

    ``tokens`` are the frozen tokens ``(N, 1 + T, d)`` of layers 0 to L - 1; later ones are ignored. ``regions`` are
    those of each block.
    """
    found: list[Tensor] = []
    for block, frozen, region in zip(blocks, tokens, regions, strict=False):
        signal = pool_regions(frozen[:, 1:], region)
        entering = found[-1] + signal if found else signal
        found.append(region_step(block, frozen, entering, region.valid))
    return found


def region_step(block: Any, tokens: Tensor, regions: Tensor, valid: Tensor) -> Tensor:
    """Return the region tokens ``(N, K, d)`` that leave a block, which they enter with the frozen tokens ``(N, F, d)``.

    With ``nn.MultiheadAttention``, only the regions' queries are computed. Any other block runs on the whole sequence
    under a mask, and the frozen part of its output is dropped. ``valid`` ``(N, K)`` says which regions exist.
    """
    joined = torch.cat([tokens, regions], 1)
    frozen, heads = tokens.shape[1], block.attn.num_heads
    if not (isinstance(block.attn, nn.MultiheadAttention) and hasattr(block, "attention")):
        mask = attention_mask(valid, frozen, heads, tokens.dtype)
        return block(joined, attn_mask=mask)[:, frozen:]
    mask = attention_mask(valid, frozen, heads, tokens.dtype, regions_only=True)
    # Keys and values are the same object, so that MultiheadAttention projects them together. It transposes them to
    # token-first order; laying them out so in memory makes the projection one product instead of one per token.
    keys = block.ln_1(joined).transpose(0, 1).contiguous().transpose(0, 1)
    attended = block.attention(q_x=keys[:, frozen:], k_x=keys, v_x=keys, attn_mask=mask)
    middle = regions + block.ls_1(attended)
    return middle + block.ls_2(block.mlp(block.ln_2(middle)))


def attention_mask(valid: Tensor, frozen: int, heads: int, dtype: torch.dtype, *, regions_only: bool = False) -> Tensor:
    """Return the numbers to add to the attention logits: 0, or minus infinity where attention is blocked.

    Each of the F frozen tokens attends to frozen tokens. A region token attends to frozen tokens, itself, and the
    regions that exist, ``valid`` ``(N, K)``. The shape is ``(N * heads, F + K, F + K)``. For the region tokens only, it
    is ``(N * heads, K, F + K)``.

    >>> attention_mask(torch.tensor([[True, False]]), 1, 1, torch.float32)[0].tolist()
    [[0.0, -inf, -inf], [0.0, 0.0, -inf], [0.0, 0.0, 0.0]]
    """
    count, regions = valid.shape
    on: dict[str, Any] = {"dtype": torch.bool, "device": valid.device}
    among = valid[:, None] | torch.eye(regions, **on)
    seen = torch.cat([torch.ones(count, regions, frozen, **on), among], 2)
    if not regions_only:
        above = torch.cat([torch.ones(count, frozen, frozen, **on), torch.zeros(count, frozen, regions, **on)], 2)
        seen = torch.cat([above, seen], 1)
    mask = torch.zeros(seen.shape, dtype=dtype, device=valid.device).masked_fill(~seen, -torch.inf)
    return mask[:, None].expand(-1, heads, -1, -1).reshape(count * heads, *seen.shape[1:])
