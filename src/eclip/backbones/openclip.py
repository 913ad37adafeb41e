"""Adapters: the towers of open_clip as Backbone records.

Families: native ViTs (open_clip's VisionTransformer: with or without `ln_pre`, CLS or average pooling), CLIP ResNets,
timm trunks with an attention pool (absolute or rotary), timm ViTs with a MAP head (SigLIP). Checked against
open_clip 3.3.0 and timm 1.0.31 by parity tests of every family.

Private names of the hosts read here: none called, but the tests pin `VisionTransformer._embeds`' order of steps
(patches, CLS, positions, `ln_pre`), which we repeat so that positions can be resized without touching the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import CLIP, CustomTextCLIP, SimpleTokenizer
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
from open_clip.transformer import VisionTransformer as NativeViT
from timm.layers import Attention as TimmAttention
from timm.layers import AttentionPool2d, AttentionPoolLatent, Mlp, RotAttentionPool2d, apply_rot_embed_cat
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

from eclip.backbones.base import Backbone, Grid, Positions, resize_positions
from eclip.blocks import Block, Fn, merge_heads, split_heads
from eclip.errors import ModelError, OptionError, UnsupportedTowerError

FAMILIES = (
    "native ViTs (CLS or average pooling)",
    "CLIP ResNets",
    "timm trunks with attention pooling (abs_attn, rot_attn)",
    "timm ViTs with a MAP head (SigLIP)",
)


def wrap(
    model: nn.Module,
    *,
    tokenizer: Callable[[list[str]], Tensor] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    name: str | None = None,
) -> Backbone:
    """See an open_clip model in hand as a Backbone; the model itself is never changed.

    Args:
        model: open_clip's CLIP or CustomTextCLIP, on any device, in any mode; it is run in evaluation mode.
        tokenizer: texts -> token ids. None: open_clip's CLIP tokenizer, if the vocabulary is CLIP's.
        mean: color mean the model was trained with, in [0, 1]. None: what open_clip noted on the model.
        std: color standard deviation, likewise.
        interpolation: "bicubic" or "bilinear", likewise; bicubic where nothing is noted.
        name: what to call it in results; the class name if None.

    Raises:
        UnsupportedTowerError: the image tower is of another kind than `FAMILIES`.
        OptionError: mean, std or tokenizer cannot be known and was not given.
    """
    if not isinstance(model, CLIP | CustomTextCLIP):
        raise UnsupportedTowerError(
            f"wrap needs an open_clip CLIP or CustomTextCLIP, got {type(model).__name__}. Families that work: "
            f"{'; '.join(FAMILIES)}."
        )
    noted: dict[str, Any] = getattr(model.visual, "preprocess_cfg", None) or {}
    mean, std = mean or noted.get("mean"), std or noted.get("std")
    if mean is None or std is None:
        raise OptionError(
            "this model carries no color mean and std: give wrap(model, mean=(r, g, b), std=(r, g, b)), those it was "
            "trained with; CLIP's are open_clip.OPENAI_DATASET_MEAN and open_clip.OPENAI_DATASET_STD."
        )
    return Backbone(
        name=name or type(model).__name__,
        model=model,
        logit_scale=float(model.logit_scale.detach().exp()),
        mean=tuple(mean),
        std=tuple(std),
        interpolation=interpolation or noted.get("interpolation", "bicubic"),
        tokenize=_tokenizer(model, tokenizer),
        encode_tokens=model.encode_text,
        **_tower(model.visual),
    )


def _tokenizer(model: nn.Module, given: Callable[[list[str]], Tensor] | None) -> Callable[[list[str]], Tensor]:
    text = getattr(model, "text", model)
    words, context = getattr(text, "vocab_size", None), getattr(text, "context_length", 77)
    if given is None and words == SimpleTokenizer().vocab_size:
        given = SimpleTokenizer(context_length=context)

    def tokenize(texts: list[str]) -> Tensor:
        if given is None:
            raise OptionError(
                f"the vocabulary of this model has {words} words, not CLIP's 49408, so its tokenizer cannot be guessed: "
                "give wrap(model, tokenizer=...), a function from texts to token ids."
            )
        ids = given(texts)
        if words is not None and int(ids.max()) >= words:
            raise ModelError(
                f"the tokenizer gives token id {int(ids.max())}, but the model knows ids below {words}: it is the "
                "tokenizer of another model. Give wrap(model, tokenizer=...) the right one."
            )
        return ids

    return tokenize


def _tower(visual: nn.Module) -> dict[str, Any]:
    """The fields of a Backbone that depend on the kind of image tower."""
    if isinstance(visual, NativeViT):
        return _native_vit(visual)
    if isinstance(visual, ModifiedResNet):
        return _resnet(visual)
    if isinstance(visual, TimmModel):
        pool = getattr(visual.head, "pool", None)
        if isinstance(pool, AttentionPool2d | RotAttentionPool2d):
            return _timm_pool(visual, pool)
        if isinstance(visual.trunk, TimmViT) and isinstance(visual.trunk.attn_pool, AttentionPoolLatent):
            return _timm_map(visual)
        raise _unsupported(f"timm tower {type(visual.trunk).__name__} without attention pooling")
    raise _unsupported(type(visual).__name__)


def _unsupported(what: str) -> UnsupportedTowerError:
    return UnsupportedTowerError(f"no adapter for {what}. Families that work: {'; '.join(FAMILIES)}.")


# --- native ViTs -------------------------------------------------------------------------------------------------------


def _native_vit(visual: NativeViT) -> dict[str, Any]:
    if visual.attn_pool is not None:
        raise _unsupported("a ViT with CoCa's attentional pooler")
    if visual.pool_type not in ("tok", "avg"):
        raise _unsupported(f"a ViT with pooling {visual.pool_type!r}")
    patch = visual.patch_size
    if patch[0] != patch[1]:
        raise _unsupported(f"a ViT with patches of {patch[0]} x {patch[1]} pixels, not square")
    native = Grid(*visual.grid_size)
    blocks = tuple(_native_block(block) for block in visual.transformer.resblocks)

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, None]:
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)  # image patch channel
        first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        table = resize_positions(visual.positional_embedding, native, grid, positions)
        return visual.ln_pre(torch.cat([first, patches], dim=1) + table.to(patches.dtype)), None

    def project(tokens: Tensor) -> Tensor:
        normed = visual.ln_post(tokens)
        return normed if visual.proj is None else normed @ visual.proj

    def pool(tokens: Tensor) -> Tensor:
        if visual.pool_type == "tok":
            return project(tokens[:, 0])
        if visual.final_ln_after_pool:
            return project(tokens[:, 1:].mean(dim=1))
        normed = visual.ln_post(tokens)[:, 1:].mean(dim=1)
        return normed if visual.proj is None else normed @ visual.proj

    return {
        "family": "native ViT",
        "native": native,
        "patch_size": int(patch[0]),
        "prefix": 1,
        "embed": embed,
        "blocks_at": lambda grid, positions: blocks,
        "project": project,
        "pool": pool,
    }


def _native_block(block: nn.Module) -> Block:
    if isinstance(block, CustomResidualAttentionBlock):
        if block.attn.scaled_cosine:
            raise _unsupported("a ViT with scaled cosine attention")
        norm_q, norm_k, norm_out, norm_attn = block.attn.ln_q, block.attn.ln_k, block.attn.ln_inner, block.ln_attn
        scale = block.attn.head_scale
        heads = int(block.attn.num_heads)
    elif isinstance(block, ResidualAttentionBlock):
        norm_q = norm_k = norm_out = norm_attn = nn.Identity()
        scale = None
        heads = int(block.attn.num_heads)
    else:
        raise _unsupported(f"a ViT with blocks of class {type(block).__name__}")
    attn = block.attn

    def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split_heads(part, heads) for part in F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1))
        return norm_q(q), norm_k(k), v

    def value(x: Tensor) -> Tensor:
        bias = None if attn.in_proj_bias is None else attn.in_proj_bias.chunk(3)[2]
        return split_heads(F.linear(x, attn.in_proj_weight.chunk(3)[2], bias), heads)

    def out(mixed: Tensor) -> Tensor:
        merged = norm_out(merge_heads(mixed if scale is None else mixed * scale))
        return block.ls_1(norm_attn(F.linear(merged, attn.out_proj.weight, attn.out_proj.bias)))  # type: ignore[operator,no-any-return]

    def forward(x: Tensor) -> Tensor:
        if getattr(attn, "batch_first", True):
            return block(x)  # type: ignore[no-any-return]
        return block(x.transpose(0, 1)).transpose(0, 1)  # type: ignore[no-any-return]

    return Block(heads, block.ln_1, qkv, value, out, forward, block.ln_2, lambda x: block.ls_2(block.mlp(x)))  # type: ignore[arg-type,operator,no-any-return]


# --- attention pools: CLIP ResNets, timm trunks ------------------------------------------------------------------------


def _pool_tokens(trunk: Tensor) -> Tensor:
    patches = trunk.flatten(2).transpose(1, 2)  # image patch channel
    return torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)


def _pool_block(heads: int, qkv: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], value: Fn, out: Fn) -> Block:
    def forward(x: Tensor) -> Tensor:
        return out(F.scaled_dot_product_attention(*qkv(x)))

    return Block(heads, nn.Identity(), qkv, value, out, forward, residual=False)


def _resnet(visual: ModifiedResNet) -> dict[str, Any]:
    pool = visual.attnpool
    heads = int(pool.num_heads)
    side = visual.image_size[0] if isinstance(visual.image_size, tuple | list) else visual.image_size
    native = Grid(side // 32, side // 32)

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, Tensor]:
        trunk = visual.stem(pixels)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            trunk = layer(trunk)
        return _pool_tokens(trunk), trunk

    def value(x: Tensor) -> Tensor:
        return split_heads(pool.v_proj(x), heads)

    def out(mixed: Tensor) -> Tensor:
        return pool.c_proj(merge_heads(mixed))  # type: ignore[no-any-return]

    def blocks_at(grid: Grid, positions: Positions) -> tuple[Block, ...]:
        table = resize_positions(pool.positional_embedding, native, grid, positions)

        def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            x = x + table.to(x.dtype)
            return split_heads(pool.q_proj(x), heads), split_heads(pool.k_proj(x), heads), value(x)

        return (_pool_block(heads, qkv, value, out),)

    return {
        "family": "CLIP ResNet",
        "native": native,
        "patch_size": 32,
        "prefix": 1,
        "embed": embed,
        "blocks_at": blocks_at,
        "project": nn.Identity(),
        "pool": lambda tokens: tokens[:, 0],
    }


def _timm_pool(visual: TimmModel, pool: AttentionPool2d | RotAttentionPool2d) -> dict[str, Any]:
    if pool.cls_token is not None or pool.pool_type != "token":
        raise _unsupported("a timm attention pool with a class token or without pooling")
    heads = int(pool.num_heads)
    config = visual.trunk.default_cfg
    patch = int(config["input_size"][-1] // config["pool_size"][-1])
    native = Grid(visual.image_size[0] // patch, visual.image_size[1] // patch)
    rest = [module for key, module in visual.head.named_children() if key not in ("pool", "drop")]

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, Tensor]:
        trunk = visual.trunk(pixels)
        if trunk.ndim != 4 or tuple(trunk.shape[-2:]) != grid:
            raise _unsupported(f"a timm trunk whose feature map is {tuple(trunk.shape)} where the grid is {tuple(grid)}")
        return _pool_tokens(trunk), trunk

    def raw_qkv(x: Tensor) -> tuple[Tensor, ...]:
        chunks = pool.qkv(x).chunk(3, dim=-1) if pool.qkv is not None else (pool.q(x), pool.k(x), pool.v(x))
        return tuple(split_heads(part, heads) for part in chunks)

    def value(x: Tensor) -> Tensor:
        if pool.qkv is None:
            return split_heads(pool.v(x), heads)
        bias = None if pool.qkv.bias is None else pool.qkv.bias.chunk(3)[2]
        return split_heads(F.linear(x, pool.qkv.weight.chunk(3)[2], bias), heads)

    def out(mixed: Tensor) -> Tensor:
        return pool.proj(merge_heads(mixed))  # type: ignore[no-any-return]

    def blocks_at(grid: Grid, positions: Positions) -> tuple[Block, ...]:
        if isinstance(pool, AttentionPool2d):
            table = resize_positions(pool.pos_embed, Grid(*pool.feat_size), grid, positions)

            def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                q, k, v = raw_qkv(x + table.to(x.dtype))
                return q, k, v
        else:
            rope = pool.pos_embed.get_embed(grid)
            rope = torch.cat(rope, dim=-1) if isinstance(rope, tuple) else rope

            def turn(z: Tensor) -> Tensor:
                turned = apply_rot_embed_cat(z[:, :, 1:], rope, half=pool.rotate_half)
                return torch.cat([z[:, :, :1], turned], dim=2).type_as(z)

            def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                q, k, v = raw_qkv(x)
                return turn(q), turn(k), v

        return (_pool_block(heads, qkv, value, out),)

    def project(tokens: Tensor) -> Tensor:
        for module in rest:
            tokens = module(tokens)
        return tokens

    return {
        "family": "timm trunk with attention pool",
        "native": native,
        "patch_size": patch,
        "prefix": 1,
        "embed": embed,
        "blocks_at": blocks_at,
        "project": project,
        "pool": lambda tokens: project(tokens[:, 0]),
    }


# --- timm ViTs with a MAP head (SigLIP) --------------------------------------------------------------------------------


def _timm_map(visual: TimmModel) -> dict[str, Any]:
    trunk, head = visual.trunk, visual.trunk.attn_pool
    if trunk.num_prefix_tokens or trunk.pos_embed is None or head.pos_embed is not None or head.latent_len != 1:
        raise _unsupported("a timm ViT with a MAP head and class tokens, rotary positions or several latents")
    patch = trunk.patch_embed.patch_size
    if patch[0] != patch[1]:
        raise _unsupported(f"a ViT with patches of {patch[0]} x {patch[1]} pixels, not square")
    native = Grid(*trunk.patch_embed.grid_size)
    blocks = tuple(_timm_block(block) for block in trunk.blocks)

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, None]:
        patches = trunk.patch_embed.norm(trunk.patch_embed.proj(pixels).flatten(2).transpose(1, 2))
        table = resize_positions(trunk.pos_embed[0], native, grid, positions)
        return trunk.norm_pre(patches + table.to(patches.dtype)), None

    def finish(pooled: Tensor) -> Tensor:
        return visual.head(trunk.head(trunk.fc_norm(pooled)))  # type: ignore[no-any-return]

    def project(tokens: Tensor) -> Tensor:
        """The head's answer to an image that consists of this one token: the attention weight is 1."""
        values = F.linear(
            trunk.norm(tokens),
            head.kv.weight.chunk(2)[1],
            None if head.kv.bias is None else head.kv.bias.chunk(2)[1],
        )
        out = head.proj(values)
        return finish(out if head.mlp is None else out + head.mlp(head.norm(out)))

    return {
        "family": "timm ViT with MAP head",
        "native": native,
        "patch_size": int(patch[0]),
        "prefix": 0,
        "embed": embed,
        "blocks_at": lambda grid, positions: blocks,
        "project": project,
        "pool": lambda tokens: finish(head(trunk.norm(tokens))),
        "bare": trunk.norm,
    }


def _timm_block(block: nn.Module) -> Block:
    if not isinstance(block, TimmBlock) or not isinstance(block.attn, TimmAttention) or not isinstance(block.mlp, Mlp):
        raise _unsupported(f"a timm ViT with blocks of class {type(block).__name__}")
    attn = block.attn
    if attn.gate is not None:
        raise _unsupported("a timm ViT with gated attention")
    heads = int(attn.num_heads)

    def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split_heads(part, heads) for part in attn.qkv(x).chunk(3, dim=-1))
        return attn.q_norm(q), attn.k_norm(k), v

    def value(x: Tensor) -> Tensor:
        bias = None if attn.qkv.bias is None else attn.qkv.bias.chunk(3)[2]
        return split_heads(F.linear(x, attn.qkv.weight.chunk(3)[2], bias), heads)

    def out(mixed: Tensor) -> Tensor:
        return block.ls1(attn.proj(attn.norm(merge_heads(mixed))))  # type: ignore[no-any-return]

    def mlp(x: Tensor) -> Tensor:
        inner = block.mlp
        return block.ls2(inner.fc2(inner.norm(inner.act(inner.fc1(x)))))  # type: ignore[no-any-return]

    return Block(heads, block.norm1, qkv, value, out, block, block.norm2, mlp)
