"""Attention of the last block, the baseline of every paper cited here; it is independent of the text."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eclip.backbones.attention_pooling import pooling_row
from eclip.backbones.encoding import Encoding


def attention(encoding: Encoding, text: Float[Tensor, "text feature"]) -> Float[Tensor, "image text row col"]:
    """Last-block attention of the token that becomes the image feature, averaged over heads.

    It is the CLS row. In models that average patches, it is the mean of their rows; in an attention pool, the mean
    token's row; in a MAP head, the learned query's row.

    Args:
        encoding: with the last block kept.
        text: only the number of texts matters, because every text has the same map.

    Returns:
        Attention weights in [0, 1]; the remainder to a sum of 1 is on tokens that are not patches.
    """
    row = pooling_row(encoding, "attention")  # image patch
    return encoding.on_grid(row[:, :, None].repeat(1, 1, len(text)))
