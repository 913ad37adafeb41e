"""LPOSS+, label propagation over patches, then over pixels (Stojnić et al. 2025, https://arxiv.org/abs/2503.19777).

Code: vladan-stojnic/LPOSS (MIT), commit e489a74.
Differs from it as `lposs` does; the pixels are those that the model saw, not the image's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eclip import heatmap
from eclip.backbones.encoding import Encoding
from eclip.errors import OptionError
from eclip.refinements.colors import rgb, to_lab
from eclip.refinements.lposs import LEAST, MOST, check_propagation, lposs
from eclip.refinements.propagation import as_means, pixel_graph, propagate

LAB_RANGE = (100.0, 128.0, 128.0)
AT_ONCE = 1 << 23
"""Map values that are propagated at once, some six copies of them; more texts than that allows take turns."""


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
    """LPOSS on patches, resized to pixels (bilinear); then each pixel gets of those of like color in a window.

    Two pixels weigh `exp(-|difference| / tau)`, Lab colors divided by (100, 128, 128). Beside the maps, one image
    takes 84 numbers a pixel (34 MiB for 320 x 320) and some six copies of at most 2^23 map values (200 MiB).

    Args:
        maps: on the patch grid.
        encoding: see `lposs`.
        features: see `lposs`.
        k: see `lposs`.
        gamma: see `lposs`.
        sigma: see `lposs`.
        alpha: of both passes, see `lposs`.
        steps: of each pass.
        means: of both passes together, see `lposs`; False gives the values themselves, as the authors do.
        tau: above 0; the smaller, the less unlike colors share.
        window: side in pixels, odd, at least 3.

    Returns:
        Maps on the pixels that the model saw.

    Raises:
        OptionError: an option outside its range.
        EclipError: as `lposs`.
    """
    raw: dict[str, Any] = {"features": features, "k": k, "gamma": gamma, "sigma": sigma, "alpha": alpha, "steps": steps}
    if means:
        both = partial(lposs_plus, encoding=encoding, means=False, tau=tau, window=window, **raw)
        return as_means(both, maps)
    coarse = lposs(maps, encoding, means=False, **raw)  # image text row col
    height, width = encoding.pixels.shape[2:]
    lab = to_lab(rgb(encoding)) / coarse.new_tensor(LAB_RANGE)[:, None, None]
    refined = []
    for colors, ours in zip(lab, coarse, strict=True):
        graph = pixel_graph(colors, radius=window // 2, tau=tau)
        parts = [
            propagate(heatmap.resize(some, (height, width)).flatten(1), graph.spread, alpha=alpha, steps=steps)
            for some in ours.split(max(1, AT_ONCE // (height * width)))
        ]
        refined.append(torch.cat(parts).unflatten(1, (height, width)))
    return torch.stack(refined)


def check(*, tau: float, window: int, means: bool, **options: Any) -> None:
    """All options are in their ranges.

    Raises:
        OptionError: one is not.
    """
    check_propagation("lposs+", **options)
    if not LEAST <= tau <= MOST:
        raise OptionError(f"'lposs+' needs tau above 0 ({LEAST} to {MOST}), got {tau}.")
    if window < 3 or window % 2 == 0:
        raise OptionError(f"'lposs+' needs an odd window of at least 3 pixels, got {window}.")
