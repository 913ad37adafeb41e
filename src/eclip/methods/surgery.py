"""CLIP Surgery (Li et al. 2023, https://arxiv.org/abs/2304.05653), architecture and feature surgery.

Code: xmed-lab/CLIP_Surgery (no license; written from the formulas), commit d4696d4.
Differs from it: any grid, several images at once, no rebuilt model. In towers without CLS token, the pooled feature
takes its place.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import Block, Heads, Tokens, cosine, unit
from eclip.backbones.cached import cached
from eclip.backbones.encoding import Encoding
from eclip.errors import OptionError, ShapeError
from eclip.texts.templates import TEMPLATES, fill

RESNETS = ("released_vv", "normed_scale8")


def surgery(
    encoding: Encoding,
    text: Float[Tensor, "text feature"],
    *,
    architecture: bool = True,
    features: bool = True,
    reference: Tensor | None = None,
    resnet: str = "released_vv",
    depth: int = 6,
) -> Float[Tensor, "image text row col"]:
    """Cosine of tokens after value-value attention with the text, minus what all texts have in common.

    Architecture surgery: a second stream accumulates softmax(v v / sqrt d) v of the last blocks, without MLPs. Feature
    surgery: map_k = w_k cos_k - mean_j w_j cos_j, where w is the softmax over texts of 2 cos(CLS, text_k), divided by
    its mean. A single text is compared with the empty text instead.

    Args:
        encoding: with the last `depth` blocks kept (one in an attention pool).
        text: unit length.
        architecture: False uses the tokens of the unmodified model.
        features: False returns plain cosines.
        reference: a unit text (feature,) to subtract from each text instead of the class mean. None: the class mean for
            two texts or more, `empty_text` for one.
        resnet: for attention pools, "released_vv" as in the released code, or "normed_scale8", a variant that is
            disabled there: unit values with scale 1 for the patches.
        depth: how many last blocks feed the second stream, all if there are fewer; the authors use six.

    Returns:
        Signed; 0 is the mean of all texts, or the reference. With the class mean, values sum to 0 over texts.

    Raises:
        OptionError: depth below 1, an unknown resnet, or a reference without feature surgery.
        ShapeError: the reference is not (feature,).
    """
    if depth < 1:
        raise OptionError(f"'surgery' needs depth >= 1, got {depth}.")
    if resnet not in RESNETS:
        raise OptionError(f"'surgery' needs resnet to be {' or '.join(RESNETS)}, got {resnet!r}.")
    if reference is not None and not features:
        raise OptionError("'surgery' with features=False cannot subtract a reference: leave one of them out.")
    if reference is not None and reference.shape != text.shape[1:]:
        raise ShapeError(f"'surgery' needs a reference of shape ({text.shape[1]},), got {tuple(reference.shape)}.")

    def project() -> Tensor:
        tokens = _value_stream(encoding, resnet, depth) if architecture else encoding.tokens
        return encoding.backbone.project(tokens)

    projected = encoding.once(("surgery", architecture, resnet, depth), project)  # image token feature
    patches = projected[:, encoding.prefix :]
    if not features:
        return encoding.on_grid(cosine(patches, text))
    if reference is None and len(text) == 1:
        reference = empty_text(encoding.backbone)
    if reference is not None:
        return encoding.on_grid(cosine(patches, text) - cosine(patches, reference[None]))
    pool = architecture and not encoding.blocks[-1].residual
    pooled = projected[:, 0] if pool else encoding.feature  # a ViT's CLS row is the model's own
    weights = (2 * cosine(pooled, text)).softmax(dim=-1)
    weights = weights / weights.mean(dim=-1, keepdim=True)  # image text
    weighted = weights[:, None] * cosine(patches, text)  # image patch text
    return encoding.on_grid(weighted - weighted.mean(dim=-1, keepdim=True))


def empty_text(backbone: Backbone) -> Float[Tensor, " feature"]:
    """The empty text: the mean of the 85 normalized prompts of CLIP Surgery filled with "", unit length.

    Computed once per backbone, and again if the weights of the text encoder have changed or moved.
    """

    def make() -> Tensor:
        prompts = [fill(template, "") for template in TEMPLATES["surgery85"]]
        return unit(unit(backbone.encode_text(prompts)).mean(dim=0))

    return cached(backbone, "the empty text", make)


def _value_stream(encoding: Encoding, resnet: str, depth: int) -> Float[Tensor, "image token output"]:
    tail = encoding.tail(depth, "surgery")
    if not tail[-1][0].residual:
        return _value_pool(encoding, *tail[-1], resnet)
    stream = tail[0][1]
    for block, x in tail:
        v = encoding.value(block, x)
        stream = stream + block.out(scaled_dot_product_attention(v, v, v))  # fused: a third cheaper
    return stream


def _value_pool(encoding: Encoding, block: Block, x: Tokens, resnet: str) -> Float[Tensor, "image token output"]:
    v = encoding.qkv(block, x)[2]
    mixed: Heads = scaled_dot_product_attention(v, v, v)
    if resnet == "normed_scale8":  # only the patch rows change; row 0 keeps the plain softmax
        normed = v / v.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        similar = (normed @ normed.transpose(-1, -2)).softmax(dim=-1)
        mixed = torch.cat([mixed[:, :, :1], (similar @ v)[:, :, 1:]], dim=2)
    return block.out(mixed)
