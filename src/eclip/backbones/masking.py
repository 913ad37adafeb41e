"""Scores of photos seen through masks: what perturbation methods ask of a model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.base import Encoding, encode
from eclip.blocks import cosine


def masked_scores(
    encoding: Encoding,
    text: Float[Tensor, "text feature"],
    image: int,
    masks: Float[Tensor, "mask height width"],
    batch_size: int,
) -> Float[Tensor, "mask text"]:
    """Cosine of every text with one image seen through each mask.

    Pixels are multiplied by the mask, so what is covered becomes the training set's mean color.

    Args:
        encoding: of the image, whose model, size and positions are used again.
        text: unit length.
        image: which image of the encoding.
        masks: 1 lets a pixel through, 0 covers it.
        batch_size: masks in one forward pass.
    """
    scores = []
    for some in masks.to(encoding.pixels).split(batch_size):
        seen = encoding.pixels[image] * some[:, None]
        feature = encode(encoding.backbone, seen, keep=0, positions=encoding.positions).feature
        scores.append(cosine(feature, text))
    return torch.cat(scores)
