"""LeGrad (Bousselham et al. 2025, https://arxiv.org/abs/2404.03214).

Code: WalBouss/LeGrad (MIT), commit a9edb03, with the sequence-first blocks for which it was written; with current
open_clip the release averages over images instead of tokens. The paper's abstract aggregates over all layers, the
release by default over the last two, as we do; `depth=None` takes all.
Differs from it: no min-max, any grid, texts share backward passes; for MAP heads, only the attention, without the
filter that subtracts an empty prompt.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.attention_pooling import gather, score_gradients
from eclip.backbones.blocks import Block, Tokens
from eclip.backbones.encoding import Encoding
from eclip.backbones.gradients import gradients
from eclip.errors import OptionError


def legrad(
    encoding: Encoding, text: Float[Tensor, "text feature"], *, depth: int | None = 2
) -> Float[Tensor, "image text row col"]:
    """Positive gradient of each block's score with respect to its attention, averaged over heads and queries, summed.

    A block's score is the cosine of the text with the mean of its output tokens after the model's head. In models that
    pool tokens by attention (attention pools, MAP heads, CoCa), each block's output is pooled that way before it is
    scored, and the gradient is taken with respect to the pooling attention.

    Args:
        encoding: with the last `depth` blocks kept.
        text: unit length.
        depth: how many last blocks to sum, all if there are fewer; None = all, as in the paper's abstract.

    Returns:
        Relevance >= 0, no unit, comparable between texts of one image.

    Raises:
        OptionError: depth below 1.
    """
    if depth is not None and depth < 1:
        raise OptionError(f"'legrad' needs depth >= 1, got {depth}.")
    tail = encoding.tail(depth, "legrad")
    if encoding.backbone.pooling == "latent":
        outputs = [*(x for _, x in tail[1:]), encoding.tokens]
        layers = [_pooling_slope(encoding, text, tokens) for tokens in outputs]
    elif not tail[-1][0].residual:
        layers = [_pooling_slope(encoding, text, None)]
    else:
        layers = [_block_slope(encoding, text, block, x) for block, x in tail]
    return torch.stack(layers).sum(dim=0)[..., encoding.prefix :].unflatten(2, encoding.grid)


def _pooling_slope(encoding: Encoding, text: Tensor, tokens: Tokens | None) -> Float[Tensor, "image text token"]:
    pooled = gather(encoding, "legrad", tokens)
    grad = pooled.gradient(text)
    return (grad @ pooled.v.to(grad).transpose(-1, -2)).clamp_min(0).mean(dim=1)


def _block_slope(encoding: Encoding, text: Tensor, block: Block, x: Tokens) -> Float[Tensor, "image text token"]:
    qkv = encoding.qkv(block, x)
    with gradients(encoding.backbone):
        mixed, mean = encoding.mean_output(block, x, qkv)
        feature = encoding.backbone.project(mean)
    parts = []
    for [grad] in score_gradients(feature, text, [mixed]):  # text image head query width
        slope = (grad @ qkv[2].to(grad).transpose(-1, -2)).clamp_min(0)  # text image head query token
        parts.append(slope.mean(dim=(2, 3)).transpose(0, 1))
    return torch.cat(parts, dim=1)
