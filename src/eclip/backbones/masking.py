"""Scores of masked images, for perturbation methods."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from jaxtyping import Float
from torch import Tensor

from eclip.backbones.blocks import cosine
from eclip.backbones.encoding import Encoding, encode

PAUSE: ContextVar[Callable[[], None]] = ContextVar("pause", default=lambda: None)
"""Called before each forward pass of masked images. It may raise, which stops a method with many passes."""


def masked_scores(
    encoding: Encoding, text: Float[Tensor, "text feature"], image: int, masks: Float[Tensor, "mask height width"]
) -> Float[Tensor, "mask text"]:
    """Cosine of every text with one image under each mask, in one forward pass.

    Pixels are multiplied by the mask, so covered pixels take the training set's mean color.

    Args:
        encoding: of the image; its model, size and positions are reused.
        text: unit length.
        image: which image of the encoding.
        masks: 1 lets a pixel through, 0 covers it.
    """
    PAUSE.get()()
    seen = encoding.pixels[image] * masks.to(encoding.pixels)[:, None]
    feature = encode(encoding.backbone, seen, keep=0, positions=encoding.positions).feature
    return cosine(feature, text)
