"""ViTs of timm with relative positions, which each block adds to its attention before the softmax."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.timm_model import TimmModel
from timm.models.vision_transformer_relpos import RelPosBlock, VisionTransformerRelPos
from torch import Tensor

from eclip.backbones.backbone import Grid, Positions
from eclip.backbones.blocks import Block, merge_heads, reread
from eclip.backbones.catalog import RELPOS
from eclip.backbones.host import original
from eclip.backbones.timm_towers import joint_qkv, timm_halves
from eclip.backbones.timm_vit import BareViT, square_patches, timm_vit
from eclip.errors import OptionError, unsupported


def relpos_vit(visual: TimmModel) -> dict[str, Any]:
    """The fields of a Backbone that depend on the tower."""
    return {**timm_vit(visual, _bare), "family": RELPOS}


def _bare(trunk: VisionTransformerRelPos) -> BareViT:
    native, patch = square_patches(trunk)

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, None]:
        if grid != native:
            raise OptionError(
                f"the relative positions of this ViT are those of {native.row * patch} x {native.col * patch} pixels, "
                "and eclip resizes only absolute ones: leave out image_size, and leave resize at 'squash'."
            )
        patches = trunk.patch_embed(pixels)
        if trunk.cls_token is None:
            return patches, None
        return torch.cat([trunk.cls_token.to(patches.dtype).expand(len(patches), -1, -1), patches], dim=1), None

    blocks_at = reread(lambda: (relpos_block(block, trunk.shared_rel_pos) for block in trunk.blocks))
    return BareViT(native, patch, int(trunk.num_prefix_tokens), embed, blocks_at)


def relpos_block(block: Any, shared: Any) -> Block:
    """A block of timm's ViT with relative positions of its own, or shared with the other blocks.

    Raises:
        UnsupportedTowerError: it is of another class, such as one with its norms behind.
    """
    block = original(block)
    if not isinstance(block, RelPosBlock):
        raise unsupported(f"a timm ViT with relative positions and blocks of class {type(block).__name__}")
    attn: Any = block.attn
    own = shared if attn.rel_pos is None else attn.rel_pos
    return Block(
        **joint_qkv(attn),
        norm1=block.norm1,
        out=lambda mixed: block.ls1(attn.proj(merge_heads(mixed))),
        forward=lambda x: block(x, shared_rel_pos=None if shared is None else shared.get_bias()),
        host=block,
        norm2=block.norm2,
        mlp=lambda x: block.ls2(block.mlp(x)),
        halves=lambda: timm_halves(block),
        relative=None if own is None else own.get_bias,
    )
