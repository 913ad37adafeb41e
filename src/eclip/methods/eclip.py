"""ECLIP, the image-text similarity map through a trained head (Li et al. 2022, https://arxiv.org/abs/2209.07046).

The method works with any head, however it was trained. The paper trains with masked max pooling. The head that ships
with `mini` was trained without pooling into a feature: its single patches learned from names, words and phrases with
boxes (recipes/mini/head.py, docs/eclip.md).
The authors released no code; `eclip.backbones.head` states what is known about the head and what we assumed.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eclip.backbones.blocks import cosine
from eclip.backbones.encoding import Encoding
from eclip.backbones.head import EclipHead, head_rows
from eclip.errors import NoHeadError


def eclip(encoding: Encoding, text: Float[Tensor, "text feature"]) -> Float[Tensor, "image text row col"]:
    """Cosine of each patch with the text, after the head `encoding.backbone.head`.

    No mask is involved: guides are used only in training. A head that also projects texts multiplies each text's map by
    a positive factor near one, the length of the projected text, so that the map stays linear in the text.

    Args:
        encoding: with the last block kept.
        text: unit length.

    Returns:
        Cosines in [-1, 1], times that factor.

    Raises:
        NoHeadError: the backbone has no head.
    """
    head = encoding.backbone.head
    if not isinstance(head, EclipHead):
        raise NoHeadError(encoding.backbone.name)
    features = head(head_rows(encoding, head.config.source))
    return encoding.on_grid(cosine(features, head.project_text(text)))
