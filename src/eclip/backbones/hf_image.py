"""Image towers of transformers: CLIP ViTs, and SigLIP ViTs with their MAP head, of fixed resolution and NaFlex.

Each function gives the fields of a Backbone that depend on the tower. transformers is not imported here: a
model comes with its own modules. Host internals repeated here, and pinned by parity tests: the order of input steps,
so that positions can be resized, and the names of the weights, which have been the same since transformers 4.45.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eclip.backbones.backbone import DEFAULT_POSITIONS, Grid, Positions
from eclip.backbones.blocks import Block, Fn, merge_heads, pull_of, reread, split_heads, split_qkv
from eclip.backbones.host import Halves, attention_weights, halves_of, is_linear, original, steady
from eclip.backbones.positions import resize_positions
from eclip.errors import OptionError, unsupported

VISUAL = ("vision_model.", "visual_projection.")
"""Prefixes of the names of the image side's weights."""


def clip_tower(model: Any) -> dict[str, Any]:
    """The ViT of CLIPModel, and of MetaCLIP 2, Chinese-CLIP and AltCLIP, whose layout is the same."""
    vision = model.vision_model
    embeddings = vision.embeddings
    native, patch = _grid(embeddings)
    rest = int(embeddings.image_size) % patch

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, None]:
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)  # image patch channel
        first = embeddings.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        table = resize_positions(embeddings.position_embedding.weight, native, grid, positions)
        return vision.pre_layrnorm(torch.cat([first, patches], dim=1) + table.to(patches.dtype)), None

    def project(tokens: Tensor) -> Tensor:
        return model.visual_projection(vision.post_layernorm(tokens))

    def encode_pixels(pixels: Tensor) -> Tensor:
        whole = F.pad(pixels, (0, rest, 0, rest)) if rest else pixels  # it checks the size, and drops these pixels
        return feature_of(model.get_image_features(pixel_values=whole))

    return {
        "native": native,
        "patch_size": patch,
        "prefix": 1,
        "embed": embed,
        "blocks_at": reread(lambda: map(layer_block, vision.encoder.layers)),
        "project": project,
        "pool": lambda tokens: project(tokens[:, 0]),
        "norm": lambda: vision.post_layernorm,
        "to_feature": lambda normed: model.visual_projection(normed),
        "encode_pixels": encode_pixels,
    }


def siglip_tower(model: Any) -> dict[str, Any]:
    """The ViT of SiglipModel, including fixed-resolution SigLIP 2: no class token, one learned query at the end."""
    vision = model.vision_model
    embeddings = vision.embeddings
    native, patch = _grid(embeddings)

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, None]:
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        table = resize_positions(embeddings.position_embedding.weight, native, grid, positions)
        return patches + table.to(patches.dtype), None

    return {
        "native": native,
        "patch_size": patch,
        "embed": embed,
        "encode_pixels": lambda pixels: feature_of(model.get_image_features(pixel_values=pixels)),
        **_headed(vision),
    }


def naflex_tower(model: Any) -> dict[str, Any]:
    """The ViT of Siglip2Model, which was trained on every grid: patches go through a linear layer, row by row.

    It was trained with positions resized by a bilinear filter with antialiasing, so that is the default here; other
    filters are refused off the square grid. All images of a batch have one grid, so nothing is padded.
    """
    vision = model.vision_model
    embeddings = vision.embeddings
    side, patch = int(embeddings.position_embedding_size), int(embeddings.patch_size)
    native = Grid(side, side)

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, None]:
        if grid != native and positions != DEFAULT_POSITIONS:
            raise OptionError(
                f"positions={positions!r} is not available for a Siglip2Model off its grid {tuple(native)}: it was "
                "trained with its own resizing. Omit positions."
            )
        patches = embeddings.patch_embedding(rows_of(pixels, grid))
        table = resize_positions(embeddings.position_embedding.weight, native, grid, "bilinear_aa")
        return patches + table.to(patches.dtype), None

    def rows_of(pixels: Tensor, grid: Grid) -> Tensor:
        squares = pixels.unflatten(3, (grid.col, patch)).unflatten(2, (grid.row, patch))
        return squares.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # image patch (row col color)

    def encode_pixels(pixels: Tensor) -> Tensor:
        count, device = len(pixels), pixels.device
        features = model.get_image_features(
            pixel_values=rows_of(pixels, native),
            pixel_attention_mask=torch.ones(count, side * side, dtype=torch.long, device=device),
            spatial_shapes=torch.tensor([[side, side]] * count, dtype=torch.long, device=device),
        )
        return feature_of(features)

    return {"native": native, "patch_size": patch, "embed": embed, "encode_pixels": encode_pixels, **_headed(vision)}


def feature_of(answer: Any) -> Tensor:
    """The feature in an output: a tensor before transformers 5; since then an object or, if so configured, a tuple."""
    if isinstance(answer, Tensor):
        return answer
    return answer[1] if isinstance(answer, tuple) else answer.pooler_output


def _grid(embeddings: Any) -> tuple[Grid, int]:
    side, patch = int(embeddings.image_size) // int(embeddings.patch_size), int(embeddings.patch_size)
    return Grid(side, side), patch


def _headed(vision: Any) -> dict[str, Any]:
    """The parts that SigLIP's towers share: blocks, final norm, and the head that pools with a learned query."""
    if not getattr(vision, "use_head", True):
        raise unsupported("a SigLIP without its pooling head (vision_use_head=False)")
    head = vision.head
    heads = int(head.attention.num_heads)

    def norm(x: Tensor) -> Tensor:
        return vision.post_layernorm(x)

    def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = attention_weights(head.attention)
        weights, biases = own.into.chunk(3), (None,) * 3 if own.into_bias is None else own.into_bias.chunk(3)
        inputs = (head.probe.to(x.dtype).expand(len(x), -1, -1), x, x)
        return split_qkv(map(F.linear, inputs, weights, biases), heads)

    def project(tokens: Tensor) -> Tensor:
        """The head's output for an image that consists of this one token: the attention weight is 1."""
        own = attention_weights(head.attention)
        out = own.project(own.value(norm(tokens)))
        return out + head.mlp(head.layernorm(out))

    def pool(tokens: Tensor) -> Tensor:
        with steady(head):
            return head(norm(tokens))

    latent = Block(
        heads,
        norm,
        qkv,
        value=lambda x: split_heads(attention_weights(head.attention).value(x), heads),
        out=lambda mixed: attention_weights(head.attention).project(merge_heads(mixed)),
        forward=lambda x: pool(x)[:, None],
        host=head,
        norm2=lambda x: head.layernorm(x),
        mlp=lambda x: head.mlp(x),
        residual=False,
    )
    return {
        "prefix": 0,
        "blocks_at": reread(lambda: map(layer_block, vision.encoder.layers)),
        "project": project,
        "pool": pool,
        "pooling": "latent",
        "to_feature": nn.Identity(),
        "latent": latent,
        "bare": norm,
    }


def layer_block(layer: Any) -> Block:
    """A pre-norm encoder layer, of image or text.

    Raises:
        UnsupportedTowerError: its weights are laid out differently from CLIP's and SigLIP's.
    """
    layer = original(layer)
    attn: Any = getattr(layer, "self_attn", None)
    if not all(hasattr(attn, name) for name in ("q_proj", "k_proj", "v_proj", "out_proj", "num_heads")):
        raise unsupported(f"a ViT with blocks of class {type(layer).__name__}")
    heads, linear = int(attn.num_heads), (attn.q_proj, attn.k_proj, attn.v_proj)
    plain = all(map(is_linear, linear))  # adapters and quantized layers have other gradients
    return Block(
        heads,
        norm1=layer.layer_norm1,
        qkv=lambda x: split_qkv((part(x) for part in linear), heads),
        value=lambda x: split_heads(attn.v_proj(x), heads),
        out=lambda mixed: attn.out_proj(merge_heads(mixed)),
        forward=_whole(layer),
        host=layer,
        norm2=layer.layer_norm2,
        mlp=layer.mlp,
        halves=lambda: _halves(layer.mlp),
        qkv_vjp=pull_of(lambda: [part.weight for part in linear]) if plain else None,
    )


def _halves(mlp: Any) -> Halves | None:
    """The halves of an MLP of two layers; a gated one has others."""
    if set(mlp.__dict__["_modules"]) != {"fc1", "activation_fn", "fc2"}:
        return None
    return halves_of(mlp, (mlp.fc1, mlp.activation_fn), mlp.fc2)


def _whole(layer: Any) -> Fn:
    """The layer itself with its own attention; older versions take no mask, or a second one, and return a tuple."""
    known = inspect.signature(type(layer).forward).parameters
    masks = {name: None for name in ("attention_mask", "causal_attention_mask") if name in known}

    def forward(x: Tensor) -> Tensor:
        answer = layer(x, **masks)
        return answer if isinstance(answer, Tensor) else answer[0]

    return forward
