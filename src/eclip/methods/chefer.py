"""Bi-modal relevance on CLIP, also called GAME (Chefer et al. 2021, https://arxiv.org/abs/2103.15679).

Code: hila-chefer/Transformer-MM-Explainability (MIT), commit 58eaea8, its CLIP notebook.
Differs from it: texts share backward passes, which at the default depth involve a single row of the attention.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.attention_pooling import Gathering, gather, gather_from, score_gradients
from eclip.backbones.blocks import attend, finish
from eclip.backbones.encoding import Encoding
from eclip.backbones.gradients import gradients
from eclip.errors import OptionError


def chefer(
    encoding: Encoding, text: Float[Tensor, "text feature"], *, depth: int = 1
) -> Float[Tensor, "image text row col"]:
    """Attention times the positive gradient of the logit, averaged over heads, accumulated over the last blocks.

    R = identity; then for each of these blocks in order, R <- R + A R with A = mean over heads of relu(dA * A), where
    dA is the gradient of the logit with respect to the attention. The map is R's row of the token that becomes the
    feature: CLS, or the mean of all patches in models that average them. The single attention row of a MAP head or an
    attention pool counts as a block.

    Args:
        encoding: with the last `depth` blocks kept.
        text: unit length.
        depth: attention layers, all if there are fewer; the authors use only the last by default and recommend few.

    Returns:
        Relevance >= 0 (plus 1 / patches in models that average patches). The logit scale matters from depth 2 on.

    Raises:
        OptionError: depth below 1.
    """
    if depth < 1:
        raise OptionError(f"'chefer' needs depth >= 1, got {depth}.")
    scale, prefix = encoding.backbone.logit_scale, encoding.prefix
    if encoding.backbone.pooling != "average" and (depth == 1 or not encoding.blocks[-1].residual):
        last = gather(encoding, "chefer")
        grad = last.gradient(text)  # image head text width
        relevant = (last.attn * (grad @ last.v.to(grad).transpose(-1, -2))).clamp_min(0)  # image head text token
        share = scale * relevant.mean(dim=1)
    else:
        share = _through_blocks(encoding, text, depth)  # image text token
    return share[..., prefix:].unflatten(2, encoding.grid)


def _through_blocks(encoding: Encoding, text: Tensor, depth: int) -> Float[Tensor, "image text token"]:
    """The row of R, multiplied from the left, so that the full token-by-token product is never formed."""
    backbone, pooling = encoding.backbone, encoding.backbone.pooling
    tail = encoding.tail(depth - 1 if pooling == "latent" else depth, "chefer")
    whole = tail[:-1] if pooling == "token" else tail
    last: Gathering | None = None
    with gradients(encoding.backbone):
        x = tail[0][1].detach().requires_grad_()
        attns, values, mixed = [], [], []
        for block, _ in whole:
            q, k, v = block.qkv(block.norm1(x))
            attns.append(attend(block, q, k))
            values.append(v)
            mixed.append(attns[-1] @ v)
            x = finish(block, x, mixed[-1])
        if pooling == "average":
            feature = backbone.pool(x)
        else:
            block = backbone.latent or tail[-1][0]
            last = gather_from(encoding, block, x, block.norm1(x))
            attns.append(last.attn)
            values.append(last.v)
            mixed.append(last.attn @ last.v)
            feature = last.features(mixed[-1])[:, 0]
    start = torch.zeros_like(x[..., 0], dtype=torch.promote_types(x.dtype, torch.float32))  # image token
    if pooling == "token":
        start[:, 0] = 1
    elif pooling == "average":
        start[:, encoding.prefix :] = 1 / (x.shape[1] - encoding.prefix)
    parts = []
    for grads in score_gradients(feature, text, mixed):
        share = start
        for attn, v, grad in zip(reversed(attns), reversed(values), reversed(grads), strict=True):
            relevant = (attn * (grad @ v.to(grad).transpose(-1, -2))).clamp_min(0).mean(dim=2)  # text image query token
            relevant = backbone.logit_scale * relevant
            if relevant.shape[2] == 1:
                share = share + relevant[:, :, 0]
            else:
                share = share + (share[..., None, :] @ relevant)[..., 0, :]
        parts.append(share.transpose(0, 1))
    return torch.cat(parts, dim=1).detach()
