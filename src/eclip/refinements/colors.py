"""Colors of a model's input pixels, and CIE L*a*b*, where distance approximates perceived color difference."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.backbone import Backbone

# IEC 61966-2-1 (sRGB) to CIE XYZ, and the white point D65 (2 degrees) of ASTM E308
XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)


def unnormalized(
    pixels: Float[Tensor, "image 3 height width"], backbone: Backbone
) -> Float[Tensor, "image 3 height width"]:
    """RGB, float32, in [0, 1] up to rounding and overshoot: input pixels with the model's normalization undone."""
    pixels = pixels.float()
    mean, std = (pixels.new_tensor(of)[:, None, None] for of in (backbone.mean, backbone.std))
    return pixels * std + mean


def to_lab(colors: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image 3 height width"]:
    """Convert sRGB in [0, 1] to CIE L*a*b* under D65: L in [0, 100], a and b about -128 to 127."""
    linear = torch.where(colors > 0.04045, ((colors + 0.055) / 1.055) ** 2.4, colors / 12.92)
    white = colors.new_tensor(WHITE)[:, None, None]
    xyz = torch.einsum("xc,ichw->ixhw", colors.new_tensor(XYZ), linear) / white
    root = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-9) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
