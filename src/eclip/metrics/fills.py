"""What stands in an image where a pixel was taken out, for `insertion` and `deletion`.

No fill is neutral to a model that never saw it, and rankings of methods change with it: use several.
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
    """A whole picture to take pixels from.

    Args:
        name: "zero", black; "mean", the mean color of the image; "blur", the image under a Gaussian; "noise", each
            pixel and channel uniform between black and white.
        pixels: of one image, as the model takes them.
        black: what a black pixel becomes in `backbone.preprocess`, (0 - mean) / std of each channel.
        white: what a white one becomes, (1 - mean) / std.
        sigma: of the Gaussian, in pixels, which is cut off after four of it; RISE takes 5 and cuts off after one.
        seed: of the noise.

    Raises:
        UnknownNameError: there is no such fill.
        OptionError: sigma is not positive.
    """
    if name not in FILLS:
        raise UnknownNameError("fill", name, FILLS, "eclip.metrics.fills.FILLS")
    if not sigma > 0:
        raise OptionError(f"sigma must be above 0 pixels, got {sigma}.")
    low, high = (end.to(pixels)[:, None, None] for end in (black, white))
    if name == "zero":
        return low.expand_as(pixels)
    if name == "mean":
        return pixels.mean((1, 2), keepdim=True).expand_as(pixels)
    if name == "blur":
        blurred = ndimage.gaussian_filter(pixels.float().cpu().numpy(), (0, sigma, sigma), mode="reflect")
        return torch.from_numpy(np.ascontiguousarray(blurred)).to(pixels)
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.rand(pixels.shape, generator=generator, dtype=torch.float32, device="cpu").to(pixels)
    return low + (high - low) * noise
