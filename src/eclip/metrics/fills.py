"""Replacement values for removed pixels, for `insertion` and `deletion`.

No fill is neutral for a model that was not trained on it, and method rankings depend on the fill: use several.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from eclip.backbones.choices import FILLS as FILLS
from eclip.errors import OptionError, UnknownNameError

Pixels = Float[Tensor, "3 height width"]


def fill(
    name: str,
    pixels: Pixels,
    *,
    black: Float[Tensor, " 3"],
    white: Float[Tensor, " 3"],
    sigma: float = 5.0,
    seed: int = 0,
) -> Pixels:
    """A whole image of replacement pixels.

    Args:
        name: "zero", black; "mean", the mean color of the image; "blur", a Gaussian blur of the image; "noise", each
            pixel and channel uniform between black and white.
        pixels: preprocessed pixels of one image.
        black: a black pixel after `backbone.preprocess`, (0 - mean) / std per channel.
        white: a white pixel after it, (1 - mean) / std.
        sigma: of the Gaussian, in pixels; truncated at 4 sigma, while RISE uses 5 pixels and truncates at 1 sigma.
        seed: for the noise.

    Raises:
        UnknownNameError: there is no such fill.
        OptionError: sigma is not positive.
    """
    if name not in FILLS:
        raise UnknownNameError("fill", name, FILLS, "eclip.metrics.fills.FILLS")
    if not sigma > 0:
        raise OptionError(f"sigma must be greater than 0 pixels, got {sigma}.")
    low, high = (end.to(pixels)[:, None, None] for end in (black, white))
    if name == "zero":
        return low.expand_as(pixels)
    if name == "mean":
        return pixels.mean((1, 2), keepdim=True).expand_as(pixels)
    if name == "blur":
        blurred = ndimage.gaussian_filter(pixels.detach().float().cpu().numpy(), (0, sigma, sigma), mode="reflect")
        return torch.from_numpy(np.ascontiguousarray(blurred)).to(pixels)
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.rand(pixels.shape, generator=generator, dtype=torch.float32, device="cpu").to(pixels)
    return low + (high - low) * noise
