"""Grad-ECLIP (Zhao et al. 2024, https://arxiv.org/abs/2502.18816).

Code: Cyang-Zhao/Grad-Eclip (no license; written from the formula), commit 5c1b5cc.
Differs from it: uses the model's own heads by default, whereas the release runs the last block with one head over the
full width and so explains the score of a different model; texts share one backward pass of one row each.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.attention_pooling import Gathering, gather
from eclip.backbones.blocks import attention, merge_heads, split_heads, unit
from eclip.backbones.encoding import Encoding
from eclip.errors import NotApplicableError, OptionError

HEADS, LOOSENED = ("native", "single"), ("script", "notebook", "none")


def gradeclip(
    encoding: Encoding, text: Float[Tensor, "text feature"], *, heads: str = "native", loosened: str = "script"
) -> Float[Tensor, "image text row col"]:
    """Each patch's value, weighted per channel by the gradient of the score and by similarity to the pooled token.

    relu(sum over channels of g_c v_nc r_n): g is the gradient of the score with respect to the pooled token's attention
    output in the last block, v the values, and r_n the cosine of the pooled token's query with the key of patch n,
    min-max normalized over the patches (the paper's loosened attention).

    Args:
        encoding: with the last block kept. The authors resize positions as "bicubic".
        text: unit length.
        heads: "native" (the model's own score) or "single" (one head over the full width, as released).
        loosened: where query and key are compared: "script" (after the output projection, as in the authors' script),
            "notebook" (unprojected, as in their notebooks) or "none" (r = 1).

    Returns:
        Evidence >= 0, no unit, comparable between texts of one image.

    Raises:
        OptionError: unknown heads or loosened.
        NotApplicableError: the tower averages its patches, or heads="single" with relative positions.
    """
    if heads not in HEADS or loosened not in LOOSENED:
        raise OptionError(
            f"'gradeclip' needs heads to be {' or '.join(HEADS)} and loosened to be one of {', '.join(LOOSENED)}, "
            f"got {heads!r} and {loosened!r}."
        )
    last = gather(encoding, "gradeclip")
    if heads == "single" and last.block.relative is not None:
        name, family = encoding.backbone.name, encoding.backbone.family
        why = "heads='single' has one head for all, but each has its own relative positions"
        raise NotApplicableError("gradeclip", name, family, why)
    mixed = None if heads == "native" else _single_head(last)
    grad = merge_heads(last.gradient(text, mixed))  # image text channel
    evidence = merge_heads(last.v)[:, encoding.prefix :].to(grad) @ grad.transpose(1, 2)  # image patch text
    if loosened != "none":
        through = last.block.out if loosened == "script" else merge_heads
        likeness = (unit(through(last.k)) * unit(through(last.q))).sum(dim=-1)[:, encoding.prefix :]
        low, high = likeness.amin(dim=1, keepdim=True), likeness.amax(dim=1, keepdim=True)
        spread = torch.where(high > low, (likeness - low) / (high - low), 1)  # no weighting if all are equal
        evidence = evidence * spread[..., None]
    return encoding.on_grid(evidence.clamp_min(0))


def _single_head(last: Gathering) -> Float[Tensor, "image head 1 width"]:
    q, k, v = (merge_heads(part)[:, None] for part in (last.q, last.k, last.v))  # image 1 token channel
    return split_heads((attention(q, k) @ v)[:, 0], last.block.heads)
