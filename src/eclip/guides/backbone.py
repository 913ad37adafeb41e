"""The model's own attention: it needs no second network, but CLIP's is known to favor the background.

Value-value attention is that of CLIP Surgery (Li et al. 2023, https://arxiv.org/abs/2304.05653) in the last block.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.attention_pooling import pooling_row
from eclip.backbones.blocks import attention
from eclip.errors import OptionError
from eclip.guides import Seen

KINDS = ("vv", "pool")


def backbone(seen: Seen, *, kind: str = "vv") -> Float[Tensor, "image row col"]:
    """Attention that each patch receives in the last block, averaged over heads.

    Args:
        seen: its encoding must have the last block kept.
        kind: "vv": from all patches, the mean of their rows of softmax(v v / sqrt width) over all tokens; values of an
            attention pool have no positions. "pool": from the token that becomes the feature: CLS, the mean token of a
            pool, the query of a MAP head; in models that average patches, the mean of their rows.

    Raises:
        OptionError: an unknown kind.
        KeepError: the last block was not kept.
    """
    if kind not in KINDS:
        raise OptionError(f"'backbone' needs kind to be one of {', '.join(KINDS)}, got {kind!r}.")
    encoding = seen.encoding
    if kind == "pool":
        return pooling_row(encoding, "backbone").unflatten(1, encoding.grid)
    [(block, x)] = encoding.tail(1, "backbone")
    values, first = block.value(block.norm1(x)), encoding.prefix
    # one image at a time: memory grows with tokens squared, for each head
    row = torch.cat([attention(v[:, :, first:], v).mean(dim=(1, 2))[:, first:] for v in values.split(1)])
    return row.unflatten(1, encoding.grid)
