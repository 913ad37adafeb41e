"""CoCa in open_clip: its attentional pooler, whose first learned query becomes the image feature.

The other queries feed the text decoder, which has no part in the score. Host internals repeated here, and pinned by
parity tests: the pooler's cross attention, whose keys and values are wider than its queries.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.nn.functional as F
from open_clip import CoCa
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from eclip.backbones.blocks import Block, merge_heads, split_heads, split_qkv
from eclip.backbones.catalog import COCA
from eclip.backbones.host import attention_weights, merges, original, read_weights
from eclip.errors import ModelError, unsupported


class _Weights(NamedTuple):
    """Weight and bias of each projection of an attention whose queries may differ in width from its tokens."""

    query: tuple[Tensor, Tensor | None]
    key: tuple[Tensor, Tensor | None]
    value: tuple[Tensor, Tensor | None]
    out: tuple[Tensor, Tensor | None]


def coca_pool(visual: VisionTransformer) -> dict[str, Any]:
    """The fields of a Backbone that depend on CoCa's attentional pooler, as one block with one learned query."""
    if visual.attn_pool_contrastive is not None:
        raise unsupported("a ViT with two attentional poolers, which open_clip itself calls untested")
    if visual.pool_type != "tok":
        raise unsupported(f"a ViT with pooling {visual.pool_type!r} of several learned queries")
    pooler: Any = original(visual.attn_pool)
    heads = int(pooler.attn.num_heads)

    def qkv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = _weights(pooler.attn)
        first = pooler.ln_q(pooler.query)[:1].expand(len(x), 1, -1)
        return split_qkv((F.linear(first, *own.query), F.linear(x, *own.key), F.linear(x, *own.value)), heads)

    def forward(x: Tensor) -> Tensor:
        return pooler(x)[:, :1]

    def pooled(x: Tensor) -> Tensor:
        if not merges(pooler.attn):
            return forward(x)
        return latent.out(F.scaled_dot_product_attention(*qkv(pooler.ln_k(x))))

    latent = Block(
        heads,
        norm1=lambda x: pooler.ln_k(x),
        qkv=qkv,
        value=lambda x: split_heads(F.linear(x, *_weights(pooler.attn).value), heads),
        out=lambda mixed: F.linear(merge_heads(mixed), *_weights(pooler.attn).out),
        forward=pooled,
        host=pooler,
        residual=False,
        reference=forward,
    )

    def to_feature(normed: Tensor) -> Tensor:
        return normed if visual.proj is None else normed @ visual.proj

    def project(tokens: Tensor) -> Tensor:
        """The feature of an image that consists of this one token: the attention weight is 1."""
        own = _weights(pooler.attn)
        return to_feature(visual.ln_post(F.linear(F.linear(pooler.ln_k(tokens), *own.value), *own.out)))

    return {
        "family": COCA,
        "project": project,
        "pool": lambda tokens: to_feature(visual.ln_post(latent.forward(tokens)[:, 0])),
        "pooling": "latent",
        "norm": lambda: visual.ln_post,
        "to_feature": to_feature,
        "latent": latent,
    }


def _weights(attn: Any) -> _Weights:
    if merges(attn) or attn.in_proj_weight is not None:
        own = attention_weights(attn)
        into: Any = own.into.chunk(3)
        bias, out = own.into_bias, (own.out, own.out_bias)
    else:
        into = (attn.q_proj_weight, attn.k_proj_weight, attn.v_proj_weight)
        bias, out = attn.in_proj_bias, read_weights(attn.out_proj)
    query, key, value = zip(into, (None,) * 3 if bias is None else bias.chunk(3), strict=True)
    return _Weights(query, key, value, out)


def check_coca(model: nn.Module) -> None:
    """Check that both towers of a CoCa return what its own `encode_image` and `encode_text` unpack.

    Raises:
        ModelError: a tower returns only its feature, so that a batch of two would be read as feature and tokens.
    """
    if isinstance(model, CoCa):
        for name in ("visual", "text"):
            if not getattr(original(getattr(model, name)), "output_tokens", False):
                raise ModelError(
                    f"CoCa unpacks a feature and tokens from each of its towers, but {name}.output_tokens is not True: "
                    f"set model.{name}.output_tokens = True."
                )
