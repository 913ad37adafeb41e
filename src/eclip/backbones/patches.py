"""Features of patches, and how similar they are to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.blocks import merge_heads, unit
from eclip.backbones.encoding import Encoding
from eclip.backbones.eval_no_grad import eval_no_grad
from eclip.backbones.preprocess import Grid
from eclip.errors import NotApplicableError, OptionError
from eclip.registry import one_of, whole

SPACES = ("tokens", "features", "values", "keys")
"""Where `similarity` compares patches."""


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


def similarity(
    encoding: Encoding, patch: Sequence[SupportsIndex] | None, space: str = "tokens"
) -> Float[Tensor, "image row col"] | Float[Tensor, "image from_row from_col row col"]:
    """Cosine of one patch, or of each, with every patch of its image.

    Args:
        encoding: for "values" and "keys", with the last block kept.
        patch: (row, col) on `encoding.grid`, from 0, or from the end; the same in all images. None = each patch.
        space: what is compared: "tokens" (the output of the last block; in a CNN, of the trunk), "features" (these in
            the space of the texts, as `itsm` compares them), or the "values" or "keys" of the last block, all heads
            together.

    Returns:
        float32 in [-1, 1], 1 at the patch itself: (image, row, col), or (image, row, col, row, col) for each patch.

    Raises:
        OptionError: there is no such patch or space.
        KeepError: the last block was not kept.
        NotApplicableError: values or keys of a CNN without attention pooling or a Swin.
        AlteredModelError: the last block does not compute what its weights say.
        StaleEncodingError: the model has changed since the encoding was made.
    """
    one_of(space, "space", SPACES)
    place = None if patch is None else _place(patch, encoding.grid)
    with eval_no_grad(encoding.backbone.model):
        encoding.check_current()
        found = patch_features(encoding, "tokens" if space == "features" else space, "similarity")
        found = unit(encoding.backbone.project(found) if space == "features" else found).unflatten(1, encoding.grid)
        if place is None:
            cosines = torch.einsum("iabc,ixyc->iabxy", found, found)
        else:
            cosines = (found * found[:, place[0], place[1], None, None]).sum(dim=-1)
    return cosines.clamp(-1, 1).float()


def _place(patch: Sequence[SupportsIndex], grid: Grid) -> tuple[int, int]:
    if isinstance(patch, str) or not isinstance(patch, Sequence) or len(patch) != 2:
        raise OptionError(f"patch must be two whole numbers, (row, col), got {patch!r}.")
    row, col = (whole(place, "each number of patch") for place in patch)
    if not (-grid.row <= row < grid.row and -grid.col <= col < grid.col):
        raise OptionError(
            f"there is no patch {(row, col)}: the grid has {grid.row} rows and {grid.col} columns, from 0."
        )
    return row, col
