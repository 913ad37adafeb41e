"""SCLIP, correlative self-attention in the last block (Wang et al. 2024, https://arxiv.org/abs/2312.01597).

Code: wangf3014/SCLIP (no license; written from the formula), commit b56bd30.
Differs from it: returns cosines only, without the steps of a segmentation (sliding windows, softmax, thresholds, PAMR).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from eclip.backbones.blocks import cosine, finish
from eclip.backbones.encoding import Encoding


def sclip(encoding: Encoding, text: Float[Tensor, "text feature"]) -> Float[Tensor, "image text row col"]:
    """Cosine of each patch with the text after softmax(q q) v + softmax(k k) v in the last block.

    Residual and MLP are kept. Each softmax is over all tokens with the usual scale 1 / sqrt(width), so rows sum to 2.

    Args:
        encoding: with the last block kept. The authors resize positions as "bicubic_plus01".
        text: unit length.

    Returns:
        Cosines in [-1, 1].
    """

    def project() -> Tensor:
        [(block, x)] = encoding.tail(1, "sclip")
        q, k, v = encoding.qkv(block, x)
        mixed = scaled_dot_product_attention(q, q, v) + scaled_dot_product_attention(k, k, v)
        return encoding.backbone.project(finish(block, x, mixed)[:, encoding.prefix :])

    return encoding.on_grid(cosine(encoding.once("sclip", project), text))
