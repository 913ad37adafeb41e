"""Attention of the last block, the baseline of every paper here; it does not see the text."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eclip.backbones.attention_pooling import pooling_row
from eclip.backbones.encoding import Encoding


def attention(encoding: Encoding, text: Float[Tensor, "text feature"]) -> Float[Tensor, "image text row col"]:
    """Where the token that becomes the feature looks: its row of the last block's attention, mean over heads.

    Where patches are averaged, the mean of their rows; in a pool the mean token's row; in a MAP head the learned
    query's.

    Args:
        encoding: with the last block kept.
        text: only its number counts: every text has the same map.

    Returns:
        Shares of attention in [0, 1]; what is missing to a sum of 1 went to tokens that are no patches.
    """
    row = pooling_row(encoding, "attention")  # image patch
    return encoding.on_grid(row[:, :, None].expand(-1, -1, len(text)))
