"""The attention weights of a block of the image tower, as the model computes them."""

from __future__ import annotations

from typing import SupportsIndex

from jaxtyping import Float
from torch import Tensor

from eclip.backbones.blocks import attend
from eclip.backbones.encoding import Encoding
from eclip.backbones.eval_no_grad import eval_no_grad
from eclip.errors import OptionError
from eclip.registry import whole, whole_or_none


def attention(
    encoding: Encoding, block: SupportsIndex, head: SupportsIndex | None = None
) -> Float[Tensor, "image head token token"] | Float[Tensor, "image token token"]:
    """Attention weights of one block of the image tower, relative positions included.

    The first `encoding.prefix` tokens are not patches, such as CLS and registers; the patches follow in reading order:
    `weights[..., 0, encoding.prefix:].unflatten(-1, encoding.grid)` is how much the first token looks at each patch.
    An attention pool (CLIP ResNets, `mini`) is the only block of its tower; its first token is the mean of the patches,
    and only that row reaches the image feature. A MAP head (SigLIP, CoCa) is not a block: its query is learned and no
    token, and `eclip.METHODS["attention"]` returns that row, averaged over heads.

    Args:
        encoding: with this block and those after it kept.
        block: number of the block, from 0, or from the end, -1 for the last.
        head: number of a head, from 0, or from the end; None = all.

    Returns:
        (image, head, token, token), or (image, token, token) for one head; float32. Each row belongs to the token that
        looks, each column to one that is looked at; rows sum to 1.

    Raises:
        OptionError: there is no such block or head.
        KeepError: the encoding kept fewer blocks.
        NotApplicableError: the tower, a CNN without attention pooling or a Swin, has no block over all patches.
        AlteredModelError: the block does not compute what its weights say.
        StaleEncodingError: the model has changed since the encoding was made.
    """
    with eval_no_grad(encoding.backbone.model):
        encoding.check_current()
        depth = len(encoding.blocks)
        number = _number(whole(block, "block"), depth, "block", encoding.backbone.name) if depth else 0
        one, x = encoding.tail(max(1, depth - number), "attention")[0]
        chosen = whole_or_none(head, "head")
        chosen = None if chosen is None else _number(chosen, one.heads, "head", encoding.backbone.name)
        q, k, _ = encoding.qkv(one, x)
        weights = attend(one, q, k).float()
    return weights if chosen is None else weights[:, chosen]


def _number(given: int, count: int, what: str, model: str) -> int:
    if not -count <= given < count:
        there = f"are {count} {what}s, numbered 0 to {count - 1}" if count > 1 else f"is 1 {what}, number 0"
        raise OptionError(f"there is no {what} {given} in the image tower of {model}: there {there}, or from the end.")
    return given % count
