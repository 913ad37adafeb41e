"""Bi-modal relevance, the text side (Chefer et al. 2021, https://arxiv.org/abs/2103.15679).

Code: hila-chefer/Transformer-MM-Explainability (MIT), commit 58eaea8, its CLIP notebook.
Differs from it: a token's own 1 in R is left out; no division by the sum over the words.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.attention_pooling import score_gradients
from eclip.backbones.gradients import gradients
from eclip.backbones.text_tower import text_attention
from eclip.errors import OptionError
from eclip.words.tokens import Reading


def chefer(
    reading: Reading, image: Float[Tensor, "image feature"], *, depth: int = 1
) -> Float[Tensor, "image text token"]:
    """Attention times the positive gradient of the logit, mean over heads, gathered over the last blocks.

    As on the image side: R <- R + A R with A = mean over heads of relu(dA * A); the relevances are R's row of the token
    that becomes the feature, or the mean of the rows where tokens are averaged.

    Args:
        reading: the texts.
        image: unit length.
        depth: last blocks, all if there are fewer; the authors' default is the last alone.

    Returns:
        Relevance >= 0, no sign. The logit's scale counts from depth 2 on.

    Raises:
        OptionError: depth below 1.
        NotApplicableError: the tower is unknown.
    """
    if depth < 1:
        raise OptionError(f"'chefer' needs depth >= 1, got {depth}.")
    tower = reading.tower("chefer")
    mask = tower.mask(reading.ids)
    attns, values, mixed = [], [], []
    x = reading.entering(depth, "chefer").requires_grad_()
    with gradients(reading.backbone, text=True):
        for block in tower.blocks[-depth:]:
            q, k, v = block.qkv(x)
            attns.append(text_attention(q, k, mask))
            values.append(v)
            mixed.append(attns[-1] @ v)
            x = block.finish(x, block.out(mixed[-1]))
        feature = tower.pool(reading.ids, x)
    start = tower.weights(reading.ids).to(torch.promote_types(x.dtype, torch.float32))  # text token
    parts = []
    for grads in score_gradients(feature, image, mixed):
        share = start.expand(grads[0].shape[0], -1, -1)  # image text token
        for attn, v, grad in zip(reversed(attns), reversed(values), reversed(grads), strict=True):
            relevant = (attn * (grad @ v.to(grad).transpose(-1, -2))).clamp_min(0).mean(dim=2)  # image text query token
            share = share + (share[..., None, :] @ relevant)[..., 0, :] * reading.backbone.logit_scale
        parts.append(share - start)
    return torch.cat(parts).detach()
