"""No guide: all patches have equal weight."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.guides import Seen


def none(seen: Seen) -> Float[Tensor, "image row col"]:
    """Ones on the patch grid."""
    pixels = seen.encoding.pixels
    return torch.ones(len(pixels), *seen.encoding.grid, dtype=torch.float32, device=pixels.device)
