"""RCLIP, the image-text similarity map turned upside down (Li et al. 2022, https://arxiv.org/abs/2209.07046).

ECLIP's finding is that the map of CLIP is inverted; the flip shows how much of the failure is a matter of sign.
Differs from it: the paper takes one minus the min-max map; the raw map's negative gives the same picture.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eclip.backbones.encoding import Encoding
from eclip.methods.itsm import itsm


def rclip(encoding: Encoding, text: Float[Tensor, "text feature"]) -> Float[Tensor, "image text row col"]:
    """Negative of `itsm`.

    Args:
        encoding: any; no block is rerun.
        text: unit length.

    Returns:
        Values in [-1, 1].
    """
    return -itsm(encoding, text)
