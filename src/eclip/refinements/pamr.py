"""PAMR, pixel-adaptive mask refinement (Araslanov and Roth 2020, CVPR, https://arxiv.org/abs/2005.08104).

Code: visinf/1-stage-wseg (Apache-2.0), commit bebc9a6. SCLIP and NACLIP take it over with `dilations=[8, 16]`.
Differs from it: maps are resized with corners not aligned, as everywhere here (there: aligned), and the pixels are
those that the model saw, not the image's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from eclip import heatmap
from eclip.backbones.encoding import Encoding
from eclip.errors import OptionError

AROUND = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)]
NEIGHBORS = [shift for shift in AROUND if shift != (0, 0)]
AT_ONCE = 1 << 23
"""Map values that are refined at once, some four copies of them; more texts than that allows take turns."""


def pamr(
    maps: Float[Tensor, "image text row col"],
    encoding: Encoding,
    *,
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24),
    steps: int = 10,
) -> Float[Tensor, "image text height width"]:
    """Each pixel becomes a mean of pixels around it that have its color, ten times over.

    The neighbors of a pixel are the eight around it at each distance of `dilations`; beyond the border lies the border
    pixel. Neighbor j weighs softmax over all neighbors of `-mean over channels of |x_i - x_j| / (0.1 std)`, std that of
    the channel over the same places and the pixel itself, once a dilation (unbiased). Linear in the map; a mean, so a
    map stays inside its range, and a constant map stays as it is.

    Memory beside the maps, one image at a time: 8 numbers a dilation and pixel (19 MiB for 320 x 320; three times that
    while they are computed), and some four copies of at most 2^23 map values (130 MiB).

    Args:
        maps: on any grid over the whole image; resized to the pixels first, bilinear.
        encoding: any.
        dilations: distances in pixels, each at least 1.
        steps: how many times the mean is taken, at least 1.

    Returns:
        Maps on the pixels that the model saw.
    """
    height, width = encoding.pixels.shape[2:]
    shifts = [(step * down, step * across) for step in dilations for down, across in NEIGHBORS]
    refined = []
    for pixels, ours in zip(encoding.pixels.float(), maps, strict=True):
        weights = affinities(pixels, dilations)
        parts = []
        for some in ours.split(max(1, AT_ONCE // (height * width))):
            values = heatmap.resize(some, (height, width))
            for _ in range(steps):
                mean = torch.zeros_like(values)
                for weight, moved in zip(weights, _moved(values, shifts), strict=True):
                    mean.addcmul_(weight, moved)
                values = mean
            parts.append(values)
        refined.append(torch.cat(parts))
    return torch.stack(refined)


def check(*, dilations: Sequence[int], steps: int) -> None:
    """All options are in their ranges.

    Raises:
        OptionError: a dilation or the number of steps is below 1, or there is no dilation.
    """
    if not dilations or min(dilations) < 1:
        raise OptionError(f"'pamr' needs one dilation or more, each at least 1, got {list(dilations)}.")
    if steps < 1:
        raise OptionError(f"'pamr' needs steps at least 1, got {steps}.")


def affinities(
    pixels: Float[Tensor, "channel height width"], dilations: tuple[int, ...]
) -> Float[Tensor, "neighbor height width"]:
    """How much each neighbor weighs for each pixel; they sum to one. Eight neighbors a dilation, row by row.

    An affine change of a channel, as normalizing is, changes nothing.
    """
    around = [(step * down, step * across) for step in dilations for down, across in AROUND]
    mean = torch.zeros_like(pixels)
    for moved in _moved(pixels, around):
        mean += moved / len(around)
    variance = torch.zeros_like(pixels)
    for moved in _moved(pixels, around):
        variance += (moved - mean) ** 2 / (len(around) - 1)
    spread = 1e-8 + 0.1 * variance.sqrt()
    shifts = [(step * down, step * across) for step in dilations for down, across in NEIGHBORS]
    logits = [-((pixels - moved).abs() / spread).mean(dim=0) for moved in _moved(pixels, shifts)]
    return torch.stack(logits).softmax(dim=0)


def _moved(
    values: Float[Tensor, "channel height width"], shifts: list[tuple[int, int]]
) -> Iterator[Float[Tensor, "channel height width"]]:
    """For each shift (down, across) the values at the place shifted to; the border goes on beyond it."""
    height, width = values.shape[1:]
    edge = max(abs(step) for shift in shifts for step in shift)
    wide = pad(values[None], (edge,) * 4, mode="replicate")[0]
    for down, across in shifts:
        yield wide[:, edge + down : edge + down + height, edge + across : edge + across + width]
