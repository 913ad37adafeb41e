"""Occlusion (Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901), which treats the model as a black box."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.backbone import Grid
from eclip.backbones.blocks import cosine
from eclip.backbones.encoding import Encoding
from eclip.backbones.masking import masked_scores
from eclip.errors import OptionError

MOST_WINDOWS = 256


def occlusion(
    encoding: Encoding,
    text: Float[Tensor, "text feature"],
    *,
    window: int = 3,
    stride: int | None = None,
    batch_size: int = 8,
) -> Float[Tensor, "image text row col"]:
    """Drop of the score when a window is filled with the mean color, averaged over the windows that cover a patch.

    Args:
        encoding: any; the whole tower is rerun once for each window.
        text: unit length.
        window: side of the square, in patches; cut off at the border.
        stride: patches between windows, at most `window`. None: the smallest that needs at most 256 windows, otherwise
            `window`.
        batch_size: windows in one forward pass.

    Returns:
        Signed difference of cosines; negative where the score rises without the patch.

    Raises:
        OptionError: a number outside its range.
    """
    if window < 1 or batch_size < 1 or (stride is not None and not 1 <= stride <= window):
        raise OptionError(
            f"'occlusion' needs window and batch_size >= 1 and a stride from 1 to window, got {window}, {batch_size} "
            f"and {stride}."
        )
    if stride is None:
        few = (step for step in range(1, window) if len(_windows(encoding.grid, window, step)) <= MOST_WINDOWS)
        stride = next(few, window)
    cover = _windows(encoding.grid, window, stride).to(encoding.pixels)  # window row col
    patch = encoding.backbone.patch_size
    images = range(len(encoding.pixels))
    parts = []
    for some in cover.split(batch_size):
        masks = (1 - some).repeat_interleave(patch, dim=1).repeat_interleave(patch, dim=2)
        parts.append(torch.stack([masked_scores(encoding, text, image, masks) for image in images]))
    scores = torch.cat(parts, dim=1)  # image window text
    loss = cosine(encoding.feature, text)[:, None] - scores  # image window text
    cover = cover.flatten(1).to(loss)
    return encoding.on_grid((cover / cover.sum(dim=0)).T @ loss)


def _windows(grid: Grid, window: int, stride: int) -> Float[Tensor, "window row col"]:
    """1 where a window covers a patch; windows are centered on every `stride`-th patch and on the last."""
    axes = []
    for side in grid:
        centers = torch.tensor(sorted({*range(0, side, stride), side - 1}), dtype=torch.long, device="cpu")[:, None]
        places = torch.arange(side, dtype=torch.long, device="cpu")
        axes.append((places >= centers - (window - 1) // 2) & (places <= centers + window // 2))
    down, across = axes
    return (down[:, None, :, None] & across[None, :, None, :]).flatten(0, 1).float()
