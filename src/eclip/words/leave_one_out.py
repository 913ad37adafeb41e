"""Leave one word out (Li et al. 2016, https://arxiv.org/abs/1612.08220, who call it erasure).

No gradient, no attention: it asks the model itself, and so works with any text tower and holds the other methods to
account.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.blocks import cosine
from eclip.words.tokens import Reading


def leave_one_out(reading: Reading, image: Float[Tensor, "image feature"]) -> Float[Tensor, "image text token"]:
    """What the score loses when a word is taken out of the text, shared evenly among the word's tokens.

    Args:
        reading: the texts.
        image: unit length.

    Returns:
        Differences of cosines: positive where the word raises the score. 0 where a word is not read.
    """
    backbone = reading.backbone
    values = torch.zeros(len(image), *reading.ids.shape, dtype=torch.float32, device=reading.ids.device)
    for number, (text, words) in enumerate(zip(reading.texts, reading.words, strict=True)):
        read = [word for word in words if word.last > word.first]
        without = [" ".join((text[: word.start] + " " + text[word.stop :]).split()) for word in read]
        scores = cosine(backbone.encode_text([text, *without]), image).T  # image variant
        for word, score in zip(read, scores[:, 1:].T, strict=True):
            values[:, number, word.first : word.last] = ((scores[:, 0] - score) / (word.last - word.first))[:, None]
    return values
