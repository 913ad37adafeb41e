"""ClearCLIP, the last block without residual and MLP (Lan et al. 2024, https://arxiv.org/abs/2407.12442).

Code: mc-lan/ClearCLIP (no license; written from the formula), commit ad68a40.
Differs from it: returns cosines only, without the steps of a segmentation (sliding windows, softmax, thresholds).
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
    """Cosine of each patch's output of query-query attention in the last block, out(softmax(q q) v), with the text.

    The paper finds that the residual stream causes the noise in CLIP's maps.

    Args:
        encoding: with the last block kept. The authors resize positions as "bicubic_plus01".
        text: unit length.
        attention: which projections attend to each other: "qq" (the method), or the ablations "kk", "vv", "qk" (as in
            CLIP) and "identity" (as in MaskCLIP).
        residual: True keeps residual and MLP, as an ablation.

    Returns:
        Cosines in [-1, 1].

    Raises:
        OptionError: an unknown attention.
    """
    if attention not in ATTENTIONS:
        raise OptionError(f"'clearclip' needs attention to be one of {', '.join(ATTENTIONS)}, got {attention!r}.")

    def project() -> Tensor:
        [(block, x)] = encoding.tail(1, "clearclip")
        parts = dict(zip("qkv", encoding.qkv(block, x), strict=True))
        if attention == "identity":
            mixed = parts["v"]
        else:
            mixed = scaled_dot_product_attention(parts[attention[0]], parts[attention[1]], parts["v"])
        patches = slice(encoding.prefix, None)
        tokens = finish(block, x[:, patches], mixed[:, :, patches]) if residual else block.out(mixed[:, :, patches])
        return encoding.backbone.project(tokens)

    return encoding.on_grid(cosine(encoding.once(("clearclip", attention, residual), project), text))
