"""A self-contained HTML page of an image and its texts; with pairs, words and patches highlight each other."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from eclip.render.colormaps import LEVELS, diverging
from eclip.render.html import render
from eclip.render.overlay import view_size
from eclip.render.words import page_words

IMAGE_LENGTH = 480


@dataclass(frozen=True)
class Sentence:
    """A text on the page.

    Attributes:
        score: cosine of image and text.
        words: in order.
        values: one per word.
        pairs: one map per word on the patch grid, or None.
    """

    score: float
    words: Sequence[str]
    values: Float[np.ndarray, " word"]
    pairs: Float[np.ndarray, "word row col"] | None = None


def words_page(title: str, image: Image.Image, sentences: Sequence[Sentence], note: str) -> str:
    """HTML of a whole page: the image and its texts, each word on its color, with its share in a tooltip.

    With pairs, pointing at a word shows its patches on the image, and pointing at a patch colors the words; a click,
    or Tab and Enter, pins a word.

    Args:
        title: name of the image.
        image: mode RGB, any size; its longer side is drawn with 480 pixels.
        sentences: the texts.
        note: a line below, which says what the values are.
    """
    small = image.resize(view_size(image.size, IMAGE_LENGTH, IMAGE_LENGTH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    page = render(
        __name__,
        "page.html",
        title=title,
        width=small.width,
        height=small.height,
        image=base64.b64encode(buffer.getvalue()).decode(),
        sentences=sentences,
        page_words=page_words,
        note=note,
        linked=any(one.pairs is not None for one in sentences),
        pairs=[None if one.pairs is None else one.pairs.astype(float).round(8).tolist() for one in sentences],
        colors=(diverging()[[0, LEVELS // 2, -1]] * 255).round().astype(int).tolist(),
    )
    return str(page)
