"""Features of patches that measure how similar patches are."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eclip.backbones.blocks import merge_heads
from eclip.backbones.encoding import Encoding
from eclip.errors import NotApplicableError


def patch_features(encoding: Encoding, features: str, method: str) -> Float[Tensor, "image patch channel"]:
    """Patch features from one place in the tower, not normalized.

    Args:
        encoding: with the last block kept, except for "tokens" and "trunk".
        features: "inputs", "keys" or "values" of the last block (all heads concatenated; in an attention pool keys
            include positions), "tokens" (its output), or "trunk" (a CNN's last feature map).
        method: the calling method, for errors.

    Raises:
        NotApplicableError: "trunk" of a model that has none.
        KeepError: the last block was not kept.
    """
    if features == "tokens":
        return encoding.tokens[:, encoding.prefix :]
    if features == "trunk":
        if encoding.trunk is None:
            backbone = encoding.backbone
            raise NotApplicableError(
                method, backbone.name, backbone.family, "it has no CNN trunk to take features from"
            )
        return encoding.trunk.flatten(2).transpose(1, 2)
    [(block, x)] = encoding.tail(1, method)
    if features == "inputs":
        return x[:, encoding.prefix :]
    heads = encoding.value(block, x) if features == "values" else encoding.qkv(block, x)[1]
    return merge_heads(heads)[:, encoding.prefix :]
