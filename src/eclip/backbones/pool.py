"""Attention pools as blocks: the common parts of CLIP ResNets and timm's pools."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eclip.backbones.blocks import QKV, Block, Fn, QkvVjp


def pool_tokens(trunk: Tensor) -> Tensor:
    """A feature map (image, channel, row, col) as tokens [mean of the patches; patches] (image, token, channel)."""
    patches = trunk.flatten(2).transpose(1, 2)  # image patch channel
    return torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)


def pool_block(
    heads: int, qkv: QKV, value: Fn, out: Fn, qkv_vjp: QkvVjp | None, host: nn.Module, first: Fn | None = None
) -> Block:
    """The block of a pool, in which every token is a query: no norm, no residual, no MLP."""

    def forward(x: Tensor) -> Tensor:
        return out(F.scaled_dot_product_attention(*qkv(x)))

    return Block(
        heads, nn.Identity(), qkv, value, out, forward, residual=False, qkv_vjp=qkv_vjp, host=host, first=first
    )
