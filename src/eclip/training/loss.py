"""Symmetric InfoNCE over all pairs of a batch (Radford et al. 2021, https://arxiv.org/abs/2103.00020).

Its rows may come from several processes and in several parts; gradient and loss are those of the whole.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def contrast(
    logits: Float[Tensor, "pair pair"],
    good: Bool[Tensor, " pair"],
    aside: Bool[Tensor, "pair pair"] | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of finding each image's text among all texts, and each text's image among all images.

    Args:
        logits: of each image (down) with each text (across); those of a pair are on the diagonal.
        good: pairs that count; the others are neither asked for nor in the way.
        aside: images and texts that are no pair and yet may belong together: they are not in each other's way.
    """
    answers = torch.arange(len(logits), dtype=torch.long, device=logits.device)
    if aside is not None:
        apart = answers[:, None] != answers
        logits = logits.masked_fill(aside & apart, -torch.inf)
    by_image = F.cross_entropy(logits.masked_fill(~good, -torch.inf)[good], answers[good])
    by_text = F.cross_entropy(logits.T.masked_fill(~good, -torch.inf)[good], answers[good])
    return (by_image + by_text) / 2


def with_own(everyone: Tensor, own: Tensor, start: int) -> Tensor:
    """The same rows, those from `start` on replaced by `own`, through which the gradient flows."""
    return torch.cat([everyone[:start], own, everyone[start + len(own) :]])
