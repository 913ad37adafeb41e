"""Leave one word out (Li et al. 2016, https://arxiv.org/abs/1612.08220, who call it erasure).

It needs only scores, no gradients or attention, so it works with any text tower and serves as a check of the other
methods.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.blocks import cosine
from eclip.words.tokens import Reading


def leave_one_out(reading: Reading, image: Float[Tensor, "image feature"]) -> Float[Tensor, "image text token"]:
    """Drop in score when a word is removed from the text, divided evenly among the word's tokens.

    Args:
        reading: the texts.
        image: unit length.

    Returns:
        Differences of cosines, positive if the word raises the score, 0 if the model does not read the word.
    """
    backbone = reading.backbone
    values = torch.zeros(len(image), *reading.ids.shape, dtype=torch.float32, device=reading.ids.device)
    for number, (text, words) in enumerate(zip(reading.texts, reading.words, strict=True)):
        read = [word for word in words if word.last > word.first]
        text = text[: read[-1].stop] if read else text  # no word from behind the context takes the place of another
        without = [" ".join((text[: word.start] + " " + text[word.stop :]).split()) for word in read]
        scores = cosine(backbone.encode_text([text, *without]), image).T  # image variant
        for word, score in zip(read, scores[:, 1:].T, strict=True):
            values[:, number, word.first : word.last] = ((scores[:, 0] - score) / (word.last - word.first))[:, None]
    return values
