"""The negative control: photographers center their subjects. A useful guide must beat this one."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.errors import OptionError
from eclip.guides import Seen

LEAST = 1e-3


def centre(seen: Seen, *, sigma: float = 0.25) -> Float[Tensor, "image row col"]:
    """`exp(-r^2 / (2 sigma^2))` on the patch grid, where r is the distance of a patch from the image center.

    Args:
        seen: only its grid is used.
        sigma: as a fraction of the image's sides, so that the Gaussian is an ellipse in an image that is not square.

    Raises:
        OptionError: sigma is below 0.001 or infinite.
    """
    if not LEAST <= sigma < float("inf"):
        raise OptionError(f"'centre' needs sigma >= {LEAST}, as a fraction of the image's side, got {sigma}.")
    encoding = seen.encoding
    places: Any = {"dtype": torch.float32, "device": encoding.pixels.device}
    down, across = ((torch.arange(count, **places) + 0.5) / count - 0.5 for count in encoding.grid)
    distance = down[:, None] ** 2 + across**2  # row col
    weights = torch.exp((distance.min() - distance) / (2 * sigma**2))  # the peak is 1, however small sigma
    return weights.expand(len(encoding.pixels), -1, -1)
