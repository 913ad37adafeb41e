"""Grad-ECLIP for the text side (Zhao et al. 2024, https://arxiv.org/abs/2502.18816).

Code: Cyang-Zhao/Grad-Eclip (no license; written from the formula), commit 5c1b5cc, its text script and notebook.
Differs from it: uses the model's own heads by default, as for images; relevance keeps its sign, whereas the release
clamps it at 0 and divides by the sum.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.attention_pooling import score_gradients
from eclip.backbones.blocks import Heads, merge_heads, split_heads, unit
from eclip.backbones.gradients import gradients
from eclip.backbones.text_tower import TextBlock, text_attention
from eclip.errors import OptionError
from eclip.words.tokens import Reading

HEADS, LOOSENED = ("native", "single"), ("script", "notebook", "none")


def gradeclip(
    reading: Reading,
    image: Float[Tensor, "image feature"],
    *,
    depth: int = 8,
    heads: str = "native",
    loosened: str = "script",
) -> Float[Tensor, "image text token"]:
    """Each token's value, weighted per channel by the gradient of the score and by similarity to the pooled token.

    Sum over the last blocks of r_n sum over channels of g_c v_nc: g is the gradient of the score with respect to the
    pooled token's attention output in a block, v the block's values, and r_n the cosine of the pooled token's query
    with the key of token n, min-max over all tokens including padding: loosened attention.

    Args:
        reading: the texts.
        image: unit length.
        depth: how many last blocks, all if there are fewer.
        heads: "native" (the model's own heads) or "single" (one head over the full width, as released).
        loosened: where query and key are compared: "script" (both through the output projection, as in the authors'
            script), "notebook" (as they are, as in their text notebook) or "none" (r = 1).

    Returns:
        Signed, no unit, comparable between words of one text. For the authors' numbers, clamp at 0, keep the tokens
        between start and end, and divide by their sum.

    Raises:
        OptionError: heads or loosened is unknown, or depth is below 1.
        NotApplicableError: the model does not pool a single token, or eclip cannot rerun this text tower.
    """
    if heads not in HEADS or loosened not in LOOSENED or depth < 1:
        raise OptionError(
            f"'gradeclip' takes heads {' or '.join(HEADS)}, loosened {', '.join(LOOSENED)} and depth >= 1, got "
            f"heads={heads!r}, loosened={loosened!r} and depth={depth}."
        )
    tower, place = reading.tower("gradeclip"), reading.place("gradeclip")
    every = torch.arange(len(place), dtype=torch.long, device=place.device)
    mask = tower.mask(reading.ids)
    mixed, values, spreads = [], [], []
    x = reading.entering(depth, "gradeclip").requires_grad_()
    with gradients(reading.backbone, text=True):
        for block in tower.blocks[-depth:]:
            q, k, v = block.qkv(x)
            mixed.append(_single_head(block, q, k, v, mask) if heads == "single" else text_attention(q, k, mask) @ v)
            values.append(merge_heads(v).detach())
            spreads.append(_spread(block, q.detach(), k.detach(), place, loosened))
            x = block.finish(x, block.out(mixed[-1]))
        feature = tower.pool(reading.ids, x)
    parts = []
    for grads in score_gradients(feature, image, mixed):
        part = torch.zeros((), dtype=torch.float32, device=x.device)
        for grad, value, spread in zip(grads, values, spreads, strict=True):
            pooled = grad[:, every, :, place].transpose(0, 1).flatten(2)  # image text channel
            part = part + (value.to(pooled) @ pooled.permute(1, 2, 0)).permute(2, 0, 1) * spread
        parts.append(part)
    return torch.cat(parts).detach()


def _single_head(block: TextBlock, q: Heads, k: Heads, v: Heads, mask: Tensor | None) -> Heads:
    q, k, v = (merge_heads(part)[:, None] for part in (q, k, v))  # text 1 token channel
    return split_heads((text_attention(q, k, mask) @ v)[:, 0], block.heads)


def _spread(block: TextBlock, q: Heads, k: Heads, place: Tensor, loosened: str) -> Float[Tensor, "text token"]:
    if loosened == "none":
        return torch.ones_like(q[:, 0, :, 0])
    through = block.out if loosened == "script" else merge_heads
    query = unit(through(q))[torch.arange(len(place), dtype=torch.long, device=place.device), place]
    likeness = (unit(through(k)) @ query[..., None])[..., 0]
    low, high = likeness.amin(dim=1, keepdim=True), likeness.amax(dim=1, keepdim=True)
    return torch.where(high > low, (likeness - low) / (high - low), 1)
