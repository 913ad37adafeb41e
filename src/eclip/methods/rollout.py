"""Attention rollout (Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928), over the whole depth.

Some code under this name differs: the script of Cyang-Zhao/Grad-Eclip, commit 5c1b5cc, uses only the last block by
default, which is `attention`. Given all blocks, it equals ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.attention_pooling import gather
from eclip.backbones.blocks import attend
from eclip.backbones.encoding import Encoding
from eclip.errors import NotApplicableError


def rollout(encoding: Encoding, text: Float[Tensor, "text feature"]) -> Float[Tensor, "image text row col"]:
    """Share of each patch in the feature if tokens are mixed only by attention and residual connections.

    Product over blocks of (mean over heads of attention + identity) / 2, later blocks on the left; then the row of the
    token that becomes the feature: CLS, the mean of all patches in models that average them, or a MAP head's query.

    Args:
        encoding: with all blocks kept.
        text: only the number of texts matters, because every text has the same map.

    Returns:
        Shares in [0, 1]; the remainder to a sum of 1 comes from tokens that are not patches.

    Raises:
        NotApplicableError: an attention pool, which has a single attention layer and no residual.
    """
    backbone = encoding.backbone
    if encoding.blocks and not encoding.blocks[-1].residual:
        why = "it has a single attention layer, so there is nothing to multiply (see 'attention')"
        raise NotApplicableError("rollout", backbone.name, backbone.family, why)
    tail = encoding.tail(None, "rollout")
    if backbone.pooling == "latent":
        share = gather(encoding, "rollout").attn.mean(dim=1)[:, 0]  # image token
    else:
        share = torch.zeros_like(tail[0][1][..., 0])
        if backbone.pooling == "token":
            share[:, 0] = 1
        else:
            share[:, encoding.prefix :] = 1 / (share.shape[1] - encoding.prefix)
    for block, x in reversed(tail):
        q, k, _ = encoding.qkv(block, x)
        mixed = share[:, None, None] @ attend(block, q, k)  # image head 1 token
        share = (mixed.mean(dim=1)[:, 0] + share) / 2
    return encoding.on_grid(share[:, encoding.prefix :, None].repeat(1, 1, len(text)))
