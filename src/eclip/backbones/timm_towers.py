"""Image towers that open_clip uses from timm: trunks with an attention pool, and ViTs with a MAP head (SigLIP).

Each function gives the fields of a Backbone that depend on the tower.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from timm.layers import Attention, AttentionPool2d, Mlp, RotAttentionPool2d, apply_rot_embed_cat
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from eclip.backbones.backbone import Grid, Positions
from eclip.backbones.blocks import Block, merge_heads, pull_of, reread, split_heads, split_qkv
from eclip.backbones.folding import OneQuery
from eclip.backbones.host import Halves, halves_of, is_linear, last_part, original
from eclip.backbones.pool import pool_block, pool_tokens
from eclip.backbones.positions import resize_positions
from eclip.errors import unsupported


def timm_pool(visual: TimmModel, pool: AttentionPool2d | RotAttentionPool2d) -> dict[str, Any]:
    """A timm trunk under an attention pool, with absolute or rotary positions: the pool is its only block."""
    if pool.cls_token is not None or pool.pool_type != "token":
        raise unsupported("a timm attention pool with a class token or without pooling")
    heads = int(pool.num_heads)
    config = visual.trunk.default_cfg
    patch = int(config["input_size"][-1] // config["pool_size"][-1])
    native = Grid(visual.image_size[0] // patch, visual.image_size[1] // patch)

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, Tensor]:
        trunk = visual.trunk(pixels)
        if trunk.ndim != 4 or tuple(trunk.shape[-2:]) != grid:
            raise unsupported(f"a timm trunk whose feature map is {tuple(trunk.shape)} where the grid is {tuple(grid)}")
        return pool_tokens(trunk), trunk

    def raw_qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return split_qkv((pool.q(x), pool.k(x), pool.v(x)) if pool.qkv is None else pool.qkv(x).chunk(3, -1), heads)

    def blocks_at(grid: Grid, positions: Positions) -> tuple[Block, ...]:
        first = None
        if isinstance(pool, AttentionPool2d):
            table = resize_positions(pool.pos_embed, Grid(*pool.feat_size), grid, positions)
            if isinstance(pool, OneQuery) and is_linear(pool.qkv):

                def first(x: Tensor) -> Tensor:
                    mixed: Tensor = pool.proj(pool.gathered(x + table.to(x.dtype)))
                    return mixed[:, None]

            def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                return raw_qkv(x + table.to(x.dtype))
        else:
            rope = pool.pos_embed.get_embed(grid)
            rope = torch.cat(rope, dim=-1) if isinstance(rope, tuple) else rope
            turn = partial(rotated, rope=rope, prefix=1, half=pool.rotate_half)

            def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                q, k, v = raw_qkv(x)
                return turn(q), turn(k), v

        layers = (pool.q, pool.k, pool.v) if pool.qkv is None else (pool.qkv,)
        affine = isinstance(pool, AttentionPool2d) and all(map(is_linear, layers))
        block = pool_block(
            heads,
            qkv,
            value=lambda x: split_heads(pool.v(x) if pool.qkv is None else last_part(pool.qkv, x, 3), heads),
            out=lambda mixed: pool.proj(merge_heads(mixed)),
            qkv_vjp=pull_of(lambda: [layer.weight for layer in layers]) if affine else None,
            host=pool,
            first=first,
        )
        return (block,)

    def project(tokens: Tensor) -> Tensor:
        for key, module in visual.head.named_children():
            tokens = tokens if key in ("pool", "drop") else module(tokens)
        return tokens

    return {
        "family": "timm trunk with attention pool",
        "native": native,
        "patch_size": patch,
        "prefix": 1,
        "embed": embed,
        "blocks_at": blocks_at,
        "project": project,
        "to_feature": project,
        "pool": lambda tokens: project(tokens[:, 0]),
    }


def rotated(z: Tensor, rope: Tensor, prefix: int, half: bool) -> Tensor:
    """Queries or keys (image, head, token, width) rotated by the position of their patch; prefix tokens have none."""
    turned = apply_rot_embed_cat(z[:, :, prefix:], rope, half=half)
    return torch.cat([z[:, :, :prefix], turned], dim=2).type_as(z)


def timm_map(visual: TimmModel) -> dict[str, Any]:
    """A timm ViT without class token under a multi-head attention pool with one latent query."""
    trunk = visual.trunk
    if trunk.num_prefix_tokens or trunk.pos_embed is None:
        raise unsupported("a timm ViT with a MAP head and class tokens or rotary positions")
    patch = trunk.patch_embed.patch_size
    if patch[0] != patch[1]:
        raise unsupported(f"a ViT with patches of {patch[0]} x {patch[1]} pixels, not square")
    native = Grid(*trunk.patch_embed.grid_size)
    blocks_at = reread(lambda: map(timm_block, trunk.blocks))

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, None]:
        patches = trunk.patch_embed.norm(trunk.patch_embed.proj(pixels).flatten(2).transpose(1, 2))
        table = resize_positions(trunk.pos_embed[0], native, grid, positions)
        return trunk.norm_pre(patches + table.to(patches.dtype)), None

    return {
        "family": "timm ViT with MAP head",
        "native": native,
        "patch_size": int(patch[0]),
        "prefix": 0,
        "embed": embed,
        "blocks_at": blocks_at,
        **map_head(visual),
    }


def map_head(visual: TimmModel) -> dict[str, Any]:
    """The fields of a Backbone that depend on a multi-head attention pool with one latent query."""
    trunk, head = visual.trunk, visual.trunk.attn_pool
    if head.pos_embed is not None or head.latent_len != 1:
        raise unsupported("a timm ViT with a MAP head that has positions or several latents")

    heads = int(head.num_heads)

    def norm(x: Tensor) -> Tensor:
        return trunk.norm(x)

    def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = split_heads(head.q(head.latent.expand(len(x), -1, -1)), heads)
        k, v = (split_heads(part, heads) for part in head.kv(x).chunk(2, dim=-1))
        return head.q_norm(q), head.k_norm(k), v

    def finish(pooled: Tensor) -> Tensor:
        return visual.head(trunk.head(trunk.fc_norm(pooled)))

    def project(tokens: Tensor) -> Tensor:
        """The head's output for an image that consists of this one token: the attention weight is 1."""
        out = head.proj(last_part(head.kv, norm(tokens), 2))
        return finish(out if head.mlp is None else out + head.mlp(head.norm(out)))

    latent = Block(
        heads,
        norm,
        qkv,
        value=lambda x: split_heads(last_part(head.kv, x, 2), heads),
        out=lambda mixed: head.proj(merge_heads(mixed)),
        forward=lambda x: head(norm(x))[:, None],
        host=head,
        norm2=None if head.mlp is None else lambda x: head.norm(x),
        mlp=None if head.mlp is None else lambda x: head.mlp(x),
        residual=False,
    )
    return {
        "project": project,
        "pool": lambda tokens: finish(head(norm(tokens))),
        "pooling": "latent",
        "to_feature": finish,
        "latent": latent,
        "bare": norm,
    }


def timm_block(block: Any) -> Block:
    """A block of timm's ViT.

    Raises:
        UnsupportedTowerError: it is of another class, or its attention is gated.
    """
    block = original(block)
    if not isinstance(block, TimmBlock) or not isinstance(block.attn, Attention):
        raise unsupported(f"a timm ViT with blocks of class {type(block).__name__}")
    attn: Any = block.attn
    if attn.gate is not None:
        raise unsupported("a timm ViT with gated attention")
    return Block(
        **joint_qkv(attn),
        norm1=block.norm1,
        out=lambda mixed: block.ls1(attn.proj(attn.norm(merge_heads(mixed)))),
        forward=block,
        host=block,
        norm2=block.norm2,
        mlp=lambda x: block.ls2(block.mlp(x)),
        halves=lambda: timm_halves(block),
    )


def timm_halves(block: Any) -> Halves | None:
    """The halves of a block's MLP, if it is timm's plain one: a gated one has layers of the same names."""
    mlp = block.mlp
    return halves_of(mlp, (mlp.fc1, mlp.act, mlp.norm), mlp.fc2, block.ls2) if type(mlp) is Mlp else None


def joint_qkv(attn: Any) -> dict[str, Any]:
    """The fields of a Block that depend on timm's joint layer of queries, keys and values, and on norms of these."""
    heads = int(attn.num_heads)

    def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = split_qkv(attn.qkv(x).chunk(3, dim=-1), heads)
        return attn.q_norm(q), attn.k_norm(k), v

    affine = isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity) and is_linear(attn.qkv)
    return {
        "heads": heads,
        "qkv": qkv,
        "value": lambda x: split_heads(last_part(attn.qkv, x, 3), heads),
        "qkv_vjp": pull_of(lambda: [attn.qkv.weight]) if affine else None,
    }
