"""Bi-modal relevance, the text side (Chefer et al. 2021, https://arxiv.org/abs/2103.15679).

Code: hila-chefer/Transformer-MM-Explainability (MIT), commit 58eaea8, its CLIP notebook.
Differs from it: omits each token's own 1 in R, and does not divide by the sum over the words.
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
    """Attention times the positive gradient of the logit, averaged over heads, accumulated over the last blocks.

    As on the image side: R <- R + A R with A = mean over heads of relu(dA * A); the relevances are the row of R for the
    pooled token, or the mean of the rows if the model averages tokens.

    Args:
        reading: the texts.
        image: unit length.
        depth: how many last blocks, all if there are fewer; the authors' default is 1.

    Returns:
        Relevance >= 0, without sign. From depth 2 on it depends on the logit scale.

    Raises:
        OptionError: depth is below 1.
        NotApplicableError: eclip cannot rerun this text tower.
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
