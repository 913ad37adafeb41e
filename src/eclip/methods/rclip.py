"""RCLIP, the image-text similarity map with reversed sign (Li et al. 2022, https://arxiv.org/abs/2209.07046).

ECLIP finds that CLIP's map is inverted; reversing it shows how much of the failure is due to the sign.
Differs from it: the paper uses one minus the min-max map; the negative of the raw map gives the same picture.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eclip.backbones.encoding import Encoding
from eclip.methods.itsm import itsm


def rclip(encoding: Encoding, text: Float[Tensor, "text feature"]) -> Float[Tensor, "image text row col"]:
    """Negative of `itsm`, in [-1, 1]."""
    return -itsm(encoding, text)
