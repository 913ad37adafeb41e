"""One transformer block of a host model, as functions over its own weights.

Methods rerun a block step by step, so that q, k, v and the attention are variables in one autograd graph. No hook, no
patched `forward`, no copy of a weight: nothing in the user's model is changed, so nothing has to be undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from eclip.errors import ModelError

Fn = Callable[[Tensor], Tensor]
QKV = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
QkvVjp = Callable[[Tensor, Tensor, Tensor], Tensor]

Tokens = Float[Tensor, "image token channel"]
Heads = Float[Tensor, "image head token width"]
"""Tokens split into attention heads; `width` is channel / head."""


@dataclass(frozen=True, eq=False)
class Block:
    """`x + out(softmax(q k / sqrt width + relative) v)`, then `x + mlp(norm2(x))`.

    An attention pool (CLIP ResNets, timm towers) is a block without residual and MLP whose tokens are
    [mean of the patches; patches]; its positions are added inside `qkv`.

    Attributes:
        heads: number of attention heads.
        norm1: tokens -> normalized tokens; identity in a pool.
        qkv: normalized tokens -> queries, keys, values (image, head, token, width), this grid's positions included.
        value: normalized tokens -> values (image, head, token, width) without positions. Equals `qkv(x)[2]` in a ViT.
        out: (image, head, token, width) -> (image, token, channel): output projection, layer scale included.
        forward: tokens -> tokens, the host's own fused computation of the whole block.
        host: the host's own module, of which this is a view.
        norm2: tokens -> normalized tokens, None where there is no MLP.
        mlp: normalized tokens -> the update of the residual stream, layer scale included, None where there is no MLP.
        residual: False in an attention pool.
        qkv_vjp: gradients of queries, keys and values, each (image, head, row, width), -> gradients of the normalized
            tokens (image, row, channel): the transpose of `qkv`. None where that is not affine, because queries or keys
            are normalized or rotated, or come from layers other than plain ones.
        first: tokens -> the output of the first token alone (image, 1, output), in a pool where that is cheaper than
            `forward`; None elsewhere.
        reference: the host's own call, where `forward` is not; None elsewhere.
        halves: () -> the MLP as two functions, from normalized tokens to its hidden layer and from there to the update,
            of which the second is affine; None where its layers are not plain, or not two.
        relative: () -> (1, head, token, token), what relative positions add to `q k / sqrt width`; None where there are
            none. Methods that replace the attention by another similarity of tokens leave them out.
    """

    heads: int
    norm1: Fn
    qkv: QKV
    value: Fn
    out: Fn
    forward: Fn
    host: nn.Module
    norm2: Fn | None = None
    mlp: Fn | None = None
    residual: bool = True
    qkv_vjp: QkvVjp | None = None
    first: Fn | None = None
    reference: Fn | None = None
    halves: Callable[[], tuple[Fn, Fn] | None] | None = None
    relative: Callable[[], Tensor] | None = None

    def __deepcopy__(self, memo: object) -> Block:
        raise ModelError(
            "a Block is a view of its model's weights, so a copy would still belong to that model: deep-copy the "
            "Backbone and use the copy's blocks."
        )


def attention(
    q: Float[Tensor, "image head query width"], k: Float[Tensor, "image head token width"], added: Tensor | None = None
) -> Float[Tensor, "image head query token"]:
    """Softmax over the keys of `q k / sqrt(width) + added`: row i holds the attention weights of query i."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (scores if added is None else scores + added).softmax(dim=-1)


def attend(
    block: Block,
    q: Float[Tensor, "image head query width"],
    k: Float[Tensor, "image head token width"],
    rows: slice = slice(None),
) -> Float[Tensor, "image head query token"]:
    """The block's own attention of the queries of some rows, with its relative positions, if it has any."""
    return attention(q, k, None if block.relative is None else block.relative()[:, :, rows])


def mix(
    block: Block, q: Float[Tensor, "image head query width"], k: Heads, v: Heads, rows: slice = slice(None)
) -> Float[Tensor, "image head query width"]:
    """The values that each query gathers: `attend(block, q, k, rows) @ v`, by torch's fused kernel where it can be."""
    if block.relative is None:
        return F.scaled_dot_product_attention(q, k, v)
    return attend(block, q, k, rows) @ v


def finish(
    block: Block, x: Float[Tensor, "image row channel"], mixed: Float[Tensor, "image head token width"]
) -> Float[Tensor, "image token output"]:
    """The part of a block after its attention: output projection, residual, MLP.

    `x` is its input, of which one token is broadcast to all; `mixed` are attention-weighted values, or a replacement.
    """
    return add_mlp(block, x + block.out(mixed) if block.residual else block.out(mixed))


def finish_mean(block: Block, x: Tokens, mixed: Heads) -> Float[Tensor, "image output"]:
    """As `finish`, averaged over tokens. An affine second half of the MLP runs on the mean, once for all tokens."""
    split = _finish_half(block, x, mixed)
    if split is None:
        return finish(block, x, mixed).mean(dim=1)
    x, hidden, narrow = split
    return x.mean(dim=1) + narrow(hidden.mean(dim=1))


def finish_both(block: Block, x: Tokens, mixed: Heads) -> tuple[Tokens, Tensor] | None:
    """The values of `finish` and the graph of `finish_mean`, at the cost of one; None if the MLP has no halves."""
    split = _finish_half(block, x, mixed)
    if split is None:
        return None
    x, hidden, narrow = split
    return x.detach() + narrow(hidden.detach()).detach(), x.mean(dim=1) + narrow(hidden.mean(dim=1))


def _finish_half(block: Block, x: Tokens, mixed: Heads) -> tuple[Tensor, Tensor, Fn] | None:
    """Tokens after attention, the MLP's hidden layer, and the affine rest of the MLP, if it has one."""
    halves = None if block.halves is None else block.halves()
    if halves is None or block.norm2 is None:
        return None
    (widen, narrow), x = halves, x + block.out(mixed) if block.residual else block.out(mixed)
    return x, widen(block.norm2(x)), narrow


def add_mlp(block: Block, x: Tensor) -> Tensor:
    """Tokens after attention plus the update of the MLP, if there is one."""
    return x if block.mlp is None or block.norm2 is None else x + block.mlp(block.norm2(x))


def run_block(block: Block, x: Tokens) -> Float[Tensor, "image token output"]:
    """The whole block, recomputed step by step; equals `block.forward(x)` up to rounding."""
    q, k, v = block.qkv(block.norm1(x))
    return finish(block, x, attend(block, q, k) @ v)


def run_first(block: Block, x: Tokens, q: Heads, k: Heads, v: Heads) -> Float[Tensor, "image 1 output"]:
    """The output of the first token alone, from the queries, keys and values of all."""
    return finish(block, x[:, :1], mix(block, q[:, :, :1], k, v, slice(0, 1)))


def split_heads(x: Tokens, heads: int) -> Heads:
    """Split the channels into heads."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # image head token width


def split_qkv(parts: Iterable[Tensor], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each split into heads."""
    q, k, v = (split_heads(part, heads) for part in parts)
    return q, k, v


def merge_heads(x: Heads) -> Tokens:
    """Undo `split_heads`."""
    return x.transpose(1, 2).flatten(2)  # image token channel


def pull_of(weights: Callable[[], Sequence[Tensor]]) -> QkvVjp:
    """The `qkv_vjp` of a Block whose queries, keys and values are linear in its tokens.

    The weights, which stack to (3 * channel, channel), are read each time, since a user may change them.
    """

    def qkv_vjp(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        first, *others = weights()
        weight = torch.cat([first, *others]) if others else first
        return torch.cat([merge_heads(q), merge_heads(k), merge_heads(v)], dim=-1) @ weight.to(q)

    return qkv_vjp


def reread(read: Callable[[], Iterable[Any]]) -> Callable[..., tuple[Any, ...]]:
    """A tower's blocks, the same for every grid, read from the model each time; an unknown one is refused at once."""
    tuple(read())
    return lambda *_: tuple(read())


def unit(x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
    """Rows scaled to length one, in float32 at least. A zero row stays zero."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def cosine(
    features: Float[Tensor, "*batch feature"], text: Float[Tensor, "text feature"]
) -> Float[Tensor, "*batch text"]:
    """Cosine of each row with each text, in float32 at least. `text` must have unit length and is not normalized."""
    with torch.autocast(features.device.type, enabled=False):  # of the caller
        rows = unit(features)
        return rows @ text.to(rows).T
