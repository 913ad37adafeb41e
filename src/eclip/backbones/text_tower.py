"""TextTower, the text side of a model as functions over its own weights, block by block.

Methods that explain words rerun it, so that attention and values are variables in one autograd graph. Text features
never come from here: `Backbone.encode_tokens` is the model's own computation, and parity tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eclip.backbones.blocks import QKV, Block, Fn, Tokens, add_mlp, attention

Ids = Int[Tensor, "text token"]
Mask = Float[Tensor, "#text 1 #token token"]
"""Added to attention before the softmax: 0 where a query may attend, -inf elsewhere."""


@dataclass(frozen=True, eq=False, repr=False)
class TextBlock:
    """One block of a text tower, with its norms before (CLIP) or after (BERT) attention and MLP.

    Attributes:
        heads: number of attention heads.
        qkv: input of the block -> queries, keys, values (text, head, token, width), its norm included.
        out: (text, head, token, width) -> (text, token, channel): output projection, layer scale included.
        finish: input of the block and output of its attention, (text, token, channel) each -> output of the block; each
            token independently.
    """

    heads: int
    qkv: QKV
    out: Fn
    finish: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class TextTower:
    """A text tower as functions.

    Attributes:
        embed: ids -> tokens entering block 0, positions included. CoCa adds one behind those of the ids.
        build: the blocks, first to last, of the current modules.
        mask: ids -> `Mask`; None if every token attends to every other.
        weights: ids -> (text, token), weight of each token in the pooled one: one-hot if one token is picked.
        to_feature: (..., channel) of pooled tokens -> (..., feature).
    """

    embed: Callable[[Tensor], Tensor]
    build: Callable[[], tuple[TextBlock, ...]]
    mask: Callable[[Tensor], Tensor | None]
    weights: Callable[[Tensor], Tensor]
    to_feature: Fn

    @property
    def blocks(self) -> tuple[TextBlock, ...]:
        """The blocks, first to last, read from the model each time."""
        return self.build()

    def pool(self, ids: Int[Tensor, "text id"], tokens: Tokens) -> Float[Tensor, "text feature"]:
        """Text features, not normalized, from the output tokens of the last block."""
        return self.to_feature((self.weights(ids).to(tokens)[:, None] @ tokens)[:, 0])


def text_attention(
    q: Float[Tensor, "text head query width"], k: Float[Tensor, "text head token width"], mask: Mask | None
) -> Float[Tensor, "text head query token"]:
    """Softmax over the keys of `q k / sqrt(width) + mask`."""
    return attention(q, k, None if mask is None else mask.to(q))


def run_text_block(block: TextBlock, x: Tokens, mask: Mask | None) -> Tokens:
    """The whole block, recomputed step by step."""
    q, k, v = block.qkv(x)
    return block.finish(x, block.out(text_attention(q, k, mask) @ v))


def text_block(block: Block) -> TextBlock:
    """A pre-norm block of an image tower as a block of a text tower."""
    return TextBlock(
        block.heads,
        qkv=lambda x: block.qkv(block.norm1(x)),
        out=block.out,
        finish=lambda x, attended: add_mlp(block, x + attended),
    )


def padding_mask(kept: Tensor, like: Tensor) -> Mask:
    """A mask that hides padding. `kept` (text, token) is True for all other tokens."""
    return torch.zeros_like(kept, dtype=like.dtype).masked_fill(~kept, float("-inf"))[:, None, None]
