"""Symmetric InfoNCE over all pairs of a batch (Radford et al. 2021, https://arxiv.org/abs/2103.00020).

Its rows may come from several processes and parts; gradient and loss are those of the whole batch. Two more losses, of
the pairs of one part, may be added.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from eclip.backbones.blocks import unit


def contrast(
    logits: Float[Tensor, "pair pair"], good: Bool[Tensor, " pair"], aside: Bool[Tensor, "pair pair"] | None = None
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


MIXED = 4
"""How many images a mix has."""


def mixed(
    tokens: Float[Tensor, "pair patch feature"],
    text: Float[Tensor, "pair feature"],
    good: Bool[Tensor, " pair"],
    scale: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of telling from which image of a mix each patch is, by its cosines with the images' texts.

    MixReorg (Cai et al. 2023, https://arxiv.org/abs/2308.04829) mixes the patches of several images into one and
    matches patches with texts. For a head, which sees each patch by itself, the places in the mix make no difference.
    Images with the same text cannot be told apart and add a constant. Not included are their contrast of mixed and
    original features, and their token that restores context.

    Args:
        tokens: projected patches; of `MIXED` consecutive pairs that count, each makes a mix, a rest is left out.
        text: unit length, of the same pairs.
        good: pairs that count.
        scale: the logit scale.
    """
    count = int(good.sum()) // MIXED * MIXED
    patches = unit(tokens[good][:count]).unflatten(0, (-1, MIXED))  # mix image patch feature
    words = text[good][:count].unflatten(0, (-1, MIXED))
    logits = scale * torch.einsum("minf,mtf->mint", patches, words)
    answers = torch.arange(MIXED, dtype=torch.long, device=text.device)[None, :, None].expand(logits.shape[:3])
    return F.cross_entropy(logits.flatten(0, 2), answers.flatten()) if count else logits.sum()


def separated(
    pooled: Float[Tensor, "pair feature"],
    text: Float[Tensor, "pair feature"],
    good: Bool[Tensor, " pair"],
    scale: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of finding each image among all images, by cosines that count less for similar texts.

    The intra-modality separation of AlignCLIP (Eslami and de Melo 2025, https://arxiv.org/abs/2406.17639): the cosine
    of two images is multiplied by the distance of their texts, one minus their cosine, so that images with the same
    text are not pushed apart.

    Args:
        pooled: a vector of each image, unit length.
        text: unit length, of the same pairs.
        good: pairs that count; a single one has nothing to be told from.
        scale: the logit scale.
    """
    if int(good.sum()) < 2:
        return (pooled.sum() + text.sum()) * 0.0
    images, words = pooled[good], text[good]
    apart = (1 - words @ words.T).fill_diagonal_(1.0)
    answers = torch.arange(len(images), dtype=torch.long, device=text.device)
    return F.cross_entropy(scale * (images @ images.T) * apart, answers)
