"""PAMR, pixel-adaptive mask refinement (Araslanov and Roth 2020, CVPR, https://arxiv.org/abs/2005.08104).

Code: visinf/1-stage-wseg (Apache-2.0), commit bebc9a6. SCLIP and NACLIP use it with `dilations=[8, 16]`.
Differs from it: maps are resized without aligned corners, as everywhere in eclip, and the pixels are those of the
model's input, not of the original image.
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
"""Most map values refined at once, with about four copies of them; more texts are processed in parts."""


def pamr(
    maps: Float[Tensor, "image text row col"],
    encoding: Encoding,
    *,
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24),
    steps: int = 10,
) -> Float[Tensor, "image text height width"]:
    """Replace each pixel by a weighted mean of surrounding pixels of similar color, `steps` times.

    A pixel has eight neighbors at each distance in `dilations`; the border is replicated. The weight of neighbor j is
    the softmax over all neighbors of `-mean over channels of |x_i - x_j| / (0.1 std)`, where std is the channel's
    unbiased standard deviation over the neighbors and the pixel itself, counted once per dilation. Linear in the map; a
    map keeps its range because values are averaged, and a constant map is unchanged.

    Memory besides the maps, one image at a time: 8 numbers per dilation and pixel (19 MiB for 320 x 320; three times
    that while they are computed), and about four copies of at most 2^23 map values (130 MiB).

    Args:
        maps: on any grid over the whole image; first resized to the pixels, bilinear.
        encoding: any.
        dilations: distances in pixels, each at least 1.
        steps: how many times to average, at least 1.

    Returns:
        Maps on the pixels of the model's input.
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
    """Raise OptionError if steps or a dilation is below 1, or there is no dilation."""
    if not dilations or min(dilations) < 1:
        raise OptionError(f"'pamr' needs at least one dilation, each at least 1, got {list(dilations)}.")
    if steps < 1:
        raise OptionError(f"'pamr' needs steps to be at least 1, got {steps}.")


def affinities(
    pixels: Float[Tensor, "channel height width"], dilations: tuple[int, ...]
) -> Float[Tensor, "neighbor height width"]:
    """Weight of each neighbor for each pixel, summing to one; eight neighbors per dilation, row by row.

    Affine changes of a channel, such as normalization, have no effect.
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
    """For each shift (down, across), the values at the shifted positions, with replicated borders."""
    height, width = values.shape[1:]
    edge = max(abs(step) for shift in shifts for step in shift)
    wide = pad(values[None], (edge,) * 4, mode="replicate")[0]
    for down, across in shifts:
        yield wide[:, edge + down : edge + down + height, edge + across : edge + across + width]
