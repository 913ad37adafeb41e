"""ViTs of timm, also with convolutional stems, and EVA: bare, or pooled by a class token or the mean of the patches.

Host internals repeated here, and pinned by parity tests: the order of steps at the input, so that positions can be
resized, and EVA's attention with its rotary positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from timm.layers import AttentionRope, RotaryEmbeddingCat, RotaryEmbeddingDinoV3, build_rotary_pos_embed
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from eclip.backbones.backbone import Grid, Positions
from eclip.backbones.blocks import Block, merge_heads, pull_of, split_heads, split_qkv
from eclip.backbones.host import is_linear, last_part, original, read_weights
from eclip.backbones.positions import resize_positions
from eclip.backbones.timm_towers import map_head, rotated, timm_block
from eclip.errors import unsupported


class BareViT(NamedTuple):
    """A timm ViT up to its last block, without its pooling: fields of a Backbone."""

    native: Grid
    patch_size: int
    prefix: int
    embed: Callable[[Tensor, Grid, Positions], tuple[Tensor, None]]
    blocks_at: Callable[[Grid, Positions], tuple[Block, ...]]


def bare_vit(trunk: Any) -> BareViT:
    """Tokens and blocks of a timm ViT, or EVA, on any grid.

    Raises:
        UnsupportedTowerError: it is of another class, or has unknown tokens, positions or blocks.
    """
    if not isinstance(trunk, VisionTransformer | Eva):
        raise unsupported(f"a network of class {type(trunk).__name__}")
    (native, patch), prefix = square_patches(trunk), int(trunk.num_prefix_tokens)

    def first() -> list[Tensor]:
        return [token for token in (trunk.cls_token, trunk.reg_token) if token is not None]

    if prefix != sum(token.shape[1] for token in first()):
        raise unsupported(f"a timm ViT with unknown prefix tokens ({type(trunk).__name__})")
    rope = trunk.rope if isinstance(trunk, Eva) else None
    if rope is not None and (
        not isinstance(rope, RotaryEmbeddingCat | RotaryEmbeddingDinoV3) or getattr(trunk, "rope_mixed", False)
    ):
        raise unsupported(f"an EVA with positions of class {type(rope).__name__}")

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, None]:
        stem = trunk.patch_embed
        maps = stem.backbone(pixels) if hasattr(stem, "backbone") else pixels
        patches = stem.proj(maps[-1] if isinstance(maps, list | tuple) else maps).flatten(2).transpose(1, 2)
        if patches.shape[1] != grid.row * grid.col:
            raise unsupported(f"a timm ViT with {patches.shape[1]} patches where the grid is {tuple(grid)}")
        patches = stem.norm(patches) if hasattr(stem, "norm") else patches
        tokens = torch.cat([*(one.to(patches.dtype).expand(len(patches), -1, -1) for one in first()), patches], dim=1)
        if trunk.pos_embed is not None:
            table = resize_positions(trunk.pos_embed[0], native, grid, positions).to(tokens.dtype)
            tokens = tokens + F.pad(table, (0, 0, tokens.shape[1] - len(table), 0))  # prefix tokens may have none
        return trunk.norm_pre(tokens), None

    def blocks_at(grid: Grid, positions: Positions) -> tuple[Block, ...]:
        if not isinstance(trunk, Eva):
            return tuple(timm_block(block) for block in trunk.blocks)
        turned = None if rope is None else rotary(rope, native, grid)
        return tuple(eva_block(block, turned) for block in trunk.blocks)

    blocks_at(native, "bicubic_aa")  # refuses unknown blocks
    return BareViT(native, patch, prefix, embed, blocks_at)


def square_patches(trunk: Any) -> tuple[Grid, int]:
    """The native grid of a timm ViT and the side of its patches, checked to be square."""
    native = Grid(*trunk.patch_embed.grid_size)
    height, width = trunk.patch_embed.img_size  # the trunk's input size; for ViTamin-XL-384 open_clip has another
    patch = int(height) // native.row
    if (native.row * patch, native.col * patch) != (height, width):
        raise unsupported(f"a timm ViT whose patches are not square: {tuple(native)} of {height} x {width} pixels")
    return native, patch


def timm_vit(visual: TimmModel, read: Callable[[Any], BareViT] = bare_vit) -> dict[str, Any]:
    """A timm ViT, or EVA, whose feature is the class token or the mean of the patches; `read` gives what is below."""
    trunk: Any = visual.trunk
    if getattr(trunk, "attn_pool", None) is not None or trunk.global_pool not in ("token", "avg"):
        raise unsupported(f"a timm ViT with pooling {trunk.global_pool!r}")
    averaged, bare = trunk.global_pool == "avg", read(trunk)
    if getattr(trunk, "pool_include_prefix", False) or not (averaged or bare.prefix):
        raise unsupported("a timm ViT whose mean includes its class token, or without a class token to pool")
    if not any(isinstance(norm, nn.Identity) for norm in (trunk.norm, trunk.fc_norm)):
        raise unsupported("a timm ViT with two norms at its end")

    def to_feature(normed: Tensor) -> Tensor:
        normed = trunk.head(normed)
        for key, module in visual.head.named_children():
            normed = normed if key == "drop" else module(normed)
        return normed

    def project(tokens: Tensor) -> Tensor:
        return to_feature(trunk.fc_norm(trunk.norm(tokens)))

    def pool(tokens: Tensor) -> Tensor:
        tokens = trunk.norm(tokens)
        return to_feature(trunk.fc_norm(tokens[:, bare.prefix :].mean(dim=1) if averaged else tokens[:, 0]))

    return {
        **bare._asdict(),
        "family": "timm ViT" if isinstance(trunk, VisionTransformer) else "EVA",
        "project": project,
        "pool": pool,
        "pooling": "average" if averaged else "token",
        "norm": lambda: trunk.norm if isinstance(trunk.fc_norm, nn.Identity) else trunk.fc_norm,
        "to_feature": to_feature,
    }


def eva_map(visual: TimmModel) -> dict[str, Any]:
    """An EVA under a MAP head, whose learned query also sees the class token, if there is one: PE-Core."""
    return {"family": "EVA with MAP head", **bare_vit(visual.trunk)._asdict(), **map_head(visual)}


def rotary(rope: RotaryEmbeddingCat | RotaryEmbeddingDinoV3, native: Grid, grid: Grid) -> Tensor:
    """Sines and cosines for a grid, (patch, 2 width); for the training grid, the host's own."""
    if isinstance(rope, RotaryEmbeddingDinoV3):
        return rope.get_embed(list(grid))
    if grid == native and rope.pos_embed is not None:
        return rope.pos_embed
    names = ("in_pixels", "ref_feat_shape", "grid_offset", "grid_indexing")
    options = {name: getattr(rope, name) for name in names}
    return torch.cat(tuple(build_rotary_pos_embed(tuple(grid), bands=rope.bands, **options)), dim=-1)


def eva_block(block: Any, rope: Tensor | None) -> Block:
    """EVA's block, pre-norm or post-norm, with queries and keys rotated by the position of their patch.

    Raises:
        UnsupportedTowerError: it is of another class.
    """
    block = original(block)
    attn: Any = getattr(block, "attn", None)
    known = isinstance(attn, EvaAttention) or (isinstance(attn, AttentionRope) and attn.num_kv_groups == 1)
    if type(block) not in (EvaBlock, EvaBlockPostNorm) or not known or attn.gate is not None:
        raise unsupported(f"an EVA with blocks of class {type(block).__name__} over {type(attn).__name__}")
    heads, prefix = int(attn.num_heads), int(attn.num_prefix_tokens)
    behind = isinstance(block, EvaBlockPostNorm)
    apart = attn.qkv is None
    layers = (attn.q_proj, attn.k_proj, attn.v_proj) if apart else (attn.qkv,)
    biased = getattr(attn, "q_bias", None) is not None  # next to the layer, not in it

    def joint(x: Tensor) -> tuple[Tensor, ...]:
        if apart:
            return tuple(layer(x) for layer in layers)
        if not biased:
            return attn.qkv(x).chunk(3, dim=-1)
        bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        if attn.qkv_bias_separate:
            return (attn.qkv(x) + bias).chunk(3, dim=-1)
        return F.linear(x, read_weights(attn.qkv)[0], bias).chunk(3, dim=-1)

    def turn(z: Tensor) -> Tensor:
        return z if rope is None else rotated(z, rope, prefix, getattr(attn, "rotate_half", False))

    def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = split_qkv(joint(x), heads)
        return turn(attn.q_norm(q)), turn(attn.k_norm(k)), v

    def value(x: Tensor) -> Tensor:
        if apart:
            return split_heads(attn.v_proj(x), heads)
        return split_heads(joint(x)[2] if biased else last_part(attn.qkv, x, 3), heads)

    def out(mixed: Tensor) -> Tensor:
        gained = attn.proj(attn.norm(merge_heads(mixed)))
        if behind:
            return block.norm1(gained)
        return gained if block.gamma_1 is None else block.gamma_1 * gained

    def mlp(x: Tensor) -> Tensor:
        gained = block.mlp(x)
        if behind:
            return block.norm2(gained)
        return gained if block.gamma_2 is None else block.gamma_2 * gained

    unnormed = isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity)
    affine = rope is None and unnormed and all(map(is_linear, layers))
    return Block(
        heads,
        norm1=nn.Identity() if behind else block.norm1,
        qkv=qkv,
        value=value,
        out=out,
        forward=lambda x: block(x, rope=rope),
        host=block,
        norm2=nn.Identity() if behind else block.norm2,
        mlp=mlp,
        qkv_vjp=pull_of(lambda: [layer.weight for layer in layers]) if affine else None,
    )
