"""ClearCLIP, the last block without residual and MLP (Lan et al. 2024, https://arxiv.org/abs/2407.12442).

Code: mc-lan/ClearCLIP (no licence; written from the formula), commit ad68a40.
Differs from it: cosines only. Sliding windows, softmax over classes and thresholds make a segmentation of them.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from eclip.backbones.blocks import cosine, finish
from eclip.backbones.encoding import Encoding
from eclip.errors import OptionError

ATTENTIONS = ("qq", "kk", "vv", "qk", "identity")


def clearclip(
    encoding: Encoding, text: Float[Tensor, "text feature"], *, attention: str = "qq", residual: bool = False
) -> Float[Tensor, "image text row col"]:
    """Cosine of what query-to-query attention alone brings each patch in the last block: out(softmax(q q) v).

    The residual stream, the paper finds, is what makes CLIP's maps noisy.

    Args:
        encoding: with the last block kept. The authors resize positions as "bicubic_plus01".
        text: unit length.
        attention: what is compared with what: "qq" (the method), or the ablations "kk", "vv", "qk" (CLIP's own) and
            "identity" (MaskCLIP's).
        residual: True keeps residual and MLP, the ablation that shows what they do.

    Returns:
        Cosines in [-1, 1].

    Raises:
        OptionError: an unknown attention.
    """
    if attention not in ATTENTIONS:
        raise OptionError(f"'clearclip' knows attention {', '.join(ATTENTIONS)}, got {attention!r}.")
    [(block, x)] = encoding.tail(1, "clearclip")
    parts = dict(zip("qkv", block.qkv(block.norm1(x)), strict=True))
    if attention == "identity":
        mixed = parts["v"]
    else:
        mixed = scaled_dot_product_attention(parts[attention[0]], parts[attention[1]], parts["v"])
    patches = slice(encoding.prefix, None)
    tokens = finish(block, x[:, patches], mixed[:, :, patches]) if residual else block.out(mixed[:, :, patches])
    return encoding.on_grid(cosine(encoding.backbone.project(tokens), text))
