"""RISE (Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421), which treats the model as a black box.

Differs from the paper: scores are centered over the masks first, which subtracts the same constant everywhere and
removes the noise of uneven coverage (`centered=False` is the paper's sum); fewer masks, so that an image takes seconds.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from eclip.backbones.encoding import Encoding
from eclip.backbones.masking import masked_scores
from eclip.errors import OptionError


def rise(
    encoding: Encoding,
    text: Float[Tensor, "text feature"],
    *,
    mask_count: int = 256,
    cells: int = 8,
    keep: float = 0.5,
    centered: bool = True,
    seed: int = 0,
    batch_size: int = 8,
) -> Float[Tensor, "image text row col"]:
    """Mean of random masks, weighted by the score of the image under each: sum_i s_i M_i / (masks * keep).

    Masks are random cells, upsampled bilinearly to one cell more than the image and shifted at random; a patch's value
    is the mean over its pixels. All images and texts share the masks, so all texts together cost as much as one.

    Args:
        encoding: any; the whole tower is rerun `mask_count` times per image.
        text: unit length.
        mask_count: random masks; the paper's 4,000 to 8,000 are slower and less noisy.
        cells: rows and columns of cells in a mask.
        keep: probability that a cell is visible, in (0, 1).
        centered: False weights by the uncentered scores, as in the paper.
        seed: for the masks.
        batch_size: masks in one forward pass.

    Returns:
        Values in units of the score; signed if centered.

    Raises:
        OptionError: a number outside its range.
    """
    if mask_count < 1 or cells < 1 or batch_size < 1 or not 0 < keep < 1 or not 0 <= seed < 2**63:
        raise OptionError(
            "'rise' needs mask_count, cells and batch_size >= 1, keep between 0 and 1, seed from 0 to 2^63 - 1, got "
            f"{mask_count}, {cells}, {batch_size}, {keep} and {seed}."
        )
    height, width = encoding.pixels.shape[2:]
    generator = torch.Generator("cpu").manual_seed(seed)
    images = range(len(encoding.pixels))
    scores, seen = [], []
    for first in range(0, mask_count, batch_size):
        masks = _masks(min(batch_size, mask_count - first), (height, width), cells, keep, generator)
        scores.append(torch.stack([masked_scores(encoding, text, image, masks) for image in images]))
        seen.append(adaptive_avg_pool2d(masks, encoding.grid).flatten(1))  # mask patch
    weights = torch.cat(scores, dim=1)  # image mask text
    if centered:
        weights = weights - weights.mean(dim=1, keepdim=True)
    cover = torch.cat(seen).to(weights)
    return encoding.on_grid(cover.T @ weights / (mask_count * keep))


def _masks(
    count: int, size: tuple[int, int], cells: int, keep: float, generator: torch.Generator
) -> Float[Tensor, "mask height width"]:
    """Random masks, drawn one at a time so that the batch size does not change them."""
    side = [-(-length // cells) for length in size]  # of a cell, in pixels, rounded up
    masks = []
    for _ in range(count):
        drawn = torch.rand(1, 1, cells, cells, generator=generator, dtype=torch.float32, device="cpu")
        coarse = (drawn < keep).float()
        fine = interpolate(coarse, [(cells + 1) * length for length in side], mode="bilinear", align_corners=False)
        top, left = (int(torch.randint(length, (1,), generator=generator, device="cpu")) for length in side)
        masks.append(fine[0, 0, top : top + size[0], left : left + size[1]])
    return torch.stack(masks)
