"""Image towers that open_clip implements itself: its VisionTransformer and the CLIP ResNets.

Each function gives the fields of a Backbone that depend on the tower. Host internals repeated here, and pinned by
parity tests: the order of steps at the input of a ViT (patches, CLS, positions, `ln_pre`), so that positions can be
resized without touching the model; and the stages of a ResNet before its attention pool.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from eclip.backbones.backbone import Grid, Positions
from eclip.backbones.blocks import Block, finish, merge_heads, pull_of, reread, split_heads, split_qkv
from eclip.backbones.coca import coca_pool
from eclip.backbones.host import Halves, attention_weights, halves_of, merges, original, project_last, read_weights
from eclip.backbones.pool import pool_block, pool_tokens
from eclip.backbones.positions import resize_positions
from eclip.errors import unsupported


def native_vit(visual: VisionTransformer) -> dict[str, Any]:
    """A ViT with CLS, average pooling or CoCa's pooler, with or without `ln_pre`, layer scale and query norms."""
    if visual.attn_pool is None and visual.pool_type not in ("tok", "avg"):
        raise unsupported(f"a ViT with pooling {visual.pool_type!r}")
    patch = visual.patch_size
    if patch[0] != patch[1]:
        raise unsupported(f"a ViT with patches of {patch[0]} x {patch[1]} pixels, not square")
    native = Grid(*visual.grid_size)
    blocks_at = reread(lambda: map(native_block, visual.transformer.resblocks))

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, None]:
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)  # image patch channel
        first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        table = resize_positions(visual.positional_embedding, native, grid, positions)
        return visual.ln_pre(torch.cat([first, patches], dim=1) + table.to(patches.dtype)), None

    bare = {"native": native, "patch_size": int(patch[0]), "prefix": 1, "embed": embed, "blocks_at": blocks_at}
    if visual.attn_pool is not None:
        return {**bare, **coca_pool(visual)}

    def to_feature(normed: Tensor) -> Tensor:
        return normed if visual.proj is None else normed @ visual.proj

    def project(tokens: Tensor) -> Tensor:
        return to_feature(visual.ln_post(tokens))

    def pool(tokens: Tensor) -> Tensor:
        if visual.pool_type == "tok":
            return project(tokens[:, 0])
        if visual.final_ln_after_pool:
            return project(tokens[:, 1:].mean(dim=1))
        return to_feature(visual.ln_post(tokens)[:, 1:].mean(dim=1))

    return {
        **bare,
        "family": "native ViT",
        "project": project,
        "pool": pool,
        "pooling": "token" if visual.pool_type == "tok" else "average",
        "norm": lambda: visual.ln_post,
        "to_feature": to_feature,
    }


def native_block(block: Any) -> Block:
    """A block of open_clip's own transformers, of image or text.

    Raises:
        UnsupportedTowerError: it is of another class, or has scaled cosine attention.
    """
    block = original(block)
    if isinstance(block, CustomResidualAttentionBlock):
        return _custom_block(block)
    if not isinstance(block, ResidualAttentionBlock):
        raise unsupported(f"a ViT with blocks of class {type(block).__name__}")
    attn: Any = block.attn
    heads, weights = int(attn.num_heads), cache(partial(attention_weights, attn))

    def forward(x: Tensor) -> Tensor:
        if getattr(attn, "batch_first", True):
            return block(x)
        return block(x.transpose(0, 1)).transpose(0, 1)

    def fused(x: Tensor) -> Tensor:
        return finish(opened, x, F.scaled_dot_product_attention(*opened.qkv(block.ln_1(x))))

    opened = Block(
        heads,
        norm1=block.ln_1,
        qkv=lambda x: split_qkv(weights().qkv(x), heads),
        value=lambda x: split_heads(weights().value(x), heads),
        out=lambda mixed: block.ls_1(weights().project(merge_heads(mixed))),
        forward=fused if merges(attn) else forward,
        host=block,
        norm2=block.ln_2,
        mlp=lambda x: block.ls_2(block.mlp(x)),
        qkv_vjp=pull_of(lambda: [weights().into]),
        reference=forward if merges(attn) else None,
        halves=lambda: _halves(block),
    )
    return opened


def _halves(block: ResidualAttentionBlock) -> Halves | None:
    layers = block.mlp.__dict__["_modules"]
    if type(block.mlp) is not nn.Sequential or list(layers) != ["c_fc", "gelu", "c_proj"]:
        return None
    return halves_of(block.mlp, (layers["c_fc"], layers["gelu"]), layers["c_proj"], block.ls_2)


def _custom_block(block: CustomResidualAttentionBlock) -> Block:
    """open_clip's block with norms for queries, keys and inside its attention, whose projection is a layer."""
    attn: Any = block.attn
    if attn.scaled_cosine:
        raise unsupported("a ViT with scaled cosine attention")
    heads = int(attn.num_heads)

    def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = split_qkv(F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1), heads)
        return attn.ln_q(q), attn.ln_k(k), v

    def out(mixed: Tensor) -> Tensor:
        merged = attn.ln_inner(merge_heads(mixed if attn.head_scale is None else mixed * attn.head_scale))
        return block.ls_1(block.ln_attn(attn.out_proj(merged)))

    affine = isinstance(attn.ln_q, nn.Identity) and isinstance(attn.ln_k, nn.Identity)
    return Block(
        heads,
        norm1=block.ln_1,
        qkv=qkv,
        value=lambda x: split_heads(project_last(x, attn.in_proj_weight, attn.in_proj_bias, 3), heads),
        out=out,
        forward=block,
        host=block,
        norm2=block.ln_2,
        mlp=lambda x: block.ls_2(block.mlp(x)),
        qkv_vjp=pull_of(lambda: [attn.in_proj_weight]) if affine else None,
    )


def resnet(visual: ModifiedResNet) -> dict[str, Any]:
    """A CLIP ResNet: its only block is the attention pool."""
    pool = visual.attnpool
    heads = int(pool.num_heads)
    side = visual.image_size[0] if isinstance(visual.image_size, tuple | list) else visual.image_size
    native = Grid(side // 32, side // 32)

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, Tensor]:
        trunk = visual.stem(pixels)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            trunk = layer(trunk)
        return pool_tokens(trunk), trunk

    def through(layer: Any, x: Tensor) -> Tensor:
        return F.linear(x, *read_weights(layer))  # like the host, which never calls these layers

    def blocks_at(grid: Grid, positions: Positions) -> tuple[Block, ...]:
        table = resize_positions(pool.positional_embedding, native, grid, positions)
        layers = (pool.q_proj, pool.k_proj, pool.v_proj)

        def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            x = x + table.to(x.dtype)
            return split_qkv((through(layer, x) for layer in layers), heads)

        block = pool_block(
            heads,
            qkv,
            value=lambda x: split_heads(through(pool.v_proj, x), heads),
            out=lambda mixed: through(pool.c_proj, merge_heads(mixed)),
            qkv_vjp=pull_of(lambda: [layer.weight for layer in layers]),
            host=pool,
        )
        return (block,)

    return {
        "family": "CLIP ResNet",
        "native": native,
        "patch_size": 32,
        "prefix": 1,
        "embed": embed,
        "blocks_at": blocks_at,
        "project": nn.Identity(),
        "to_feature": nn.Identity(),
        "pool": lambda tokens: tokens[:, 0],
    }
