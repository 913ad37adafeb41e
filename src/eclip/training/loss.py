"""Symmetric InfoNCE over all pairs of a batch (Radford et al. 2021, https://arxiv.org/abs/2103.00020).

Its rows may come from several processes and parts; gradient and loss are those of the whole batch.
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
    """Mean cross-entropy of retrieving each image's text among all texts, and each text's image among all images.

    Args:
        logits: images in rows, texts in columns; pairs are on the diagonal.
        good: pairs that count; others are neither targets nor negatives.
        aside: images and texts that may match although they are not a pair; they are not negatives of each other.
    """
    answers = torch.arange(len(logits), dtype=torch.long, device=logits.device)
    if aside is not None:
        apart = answers[:, None] != answers
        logits = logits.masked_fill(aside & apart, -torch.inf)
    by_image = F.cross_entropy(logits.masked_fill(~good, -torch.inf)[good], answers[good])
    by_text = F.cross_entropy(logits.T.masked_fill(~good, -torch.inf)[good], answers[good])
    return (by_image + by_text) / 2


def with_own(everyone: Tensor, own: Tensor, start: int) -> Tensor:
    """The rows `everyone` with `own`, through which the gradient flows, in place of those from `start` on."""
    return torch.cat([everyone[:start], own, everyone[start + len(own) :]])
