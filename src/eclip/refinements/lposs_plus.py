"""LPOSS+, label propagation over patches, then over pixels (Stojnić et al. 2025, https://arxiv.org/abs/2503.19777).

Code: vladan-stojnic/LPOSS (MIT), commit e489a74.
Differs from it as `lposs` does; the pixels are those of the model's input, not of the original image.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eclip import heatmap
from eclip.backbones.encoding import Encoding
from eclip.errors import OptionError
from eclip.refinements.colors import to_lab, unnormalized
from eclip.refinements.lposs import LEAST, MOST, check_propagation, lposs
from eclip.refinements.propagation import as_means, pixel_graph, propagate, with_ones

LAB_RANGE = (100.0, 128.0, 128.0)
AT_ONCE = 1 << 23
"""Most map values propagated at once, with about six copies of them; more texts are processed in parts."""


def lposs_plus(
    maps: Float[Tensor, "image text row col"],
    encoding: Encoding,
    *,
    features: str | Float[Tensor, "image patch channel"] = "keys",
    k: int = 400,
    gamma: float = 3.0,
    sigma: float = 0.01,
    alpha: float = 0.95,
    steps: int = 10,
    means: bool = True,
    tau: float = 0.01,
    window: int = 13,
) -> Float[Tensor, "image text height width"]:
    """LPOSS on patches, resized to pixels (bilinear), then propagation between pixels of similar color in a window.

    Two pixels have weight `exp(-|difference| / tau)`, with Lab colors divided by (100, 128, 128). Besides the maps, an
    image takes 84 numbers per pixel (34 MiB for 320 x 320) and about six copies of up to 2^23 map values (200 MiB).

    Arguments that are not listed here are those of `lposs`; alpha and steps are for each of the two passes.

    - means: for both passes together; False returns the values themselves, as the authors do.
    - tau: above 0; smaller values separate different colors more strongly.
    - window: side in pixels, odd, at least 3.

    Returns:
        Maps on the pixels of the model's input.

    Raises:
        OptionError: an option is outside its range.
        EclipError: as `lposs`.
    """
    maps = with_ones(maps) if means else maps
    coarse = lposs(
        maps, encoding, features=features, k=k, gamma=gamma, sigma=sigma, alpha=alpha, steps=steps, means=False
    )
    height, width = encoding.pixels.shape[2:]
    seen = unnormalized(encoding.pixels, encoding.backbone).clamp(0, 1)
    lab = to_lab(seen) / coarse.new_tensor(LAB_RANGE)[:, None, None]
    refined = []
    for colors, ours in zip(lab, coarse, strict=True):
        graph = pixel_graph(colors, radius=window // 2, tau=tau)
        parts = [
            propagate(heatmap.resize(some, (height, width)).flatten(1), graph.spread, alpha=alpha, steps=steps)
            for some in ours.split(max(1, AT_ONCE // (height * width)))
        ]
        refined.append(torch.cat(parts).unflatten(1, (height, width)))
    return as_means(torch.stack(refined)) if means else torch.stack(refined)


def check(*, tau: float, window: int, means: bool, **options: Any) -> None:
    """Raise OptionError if an option is outside its range."""
    check_propagation("lposs+", **options)
    if not LEAST <= tau <= MOST:
        raise OptionError(f"'lposs+' needs tau to be above 0 ({LEAST} to {MOST}), got {tau}.")
    if window < 3 or window % 2 == 0:
        raise OptionError(f"'lposs+' needs window to be odd and at least 3 pixels, got {window}.")
