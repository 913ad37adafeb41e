"""Text features that are needed repeatedly, computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from eclip.backbones.host import named_weights
from eclip.backbones.state import text_state

if TYPE_CHECKING:
    from eclip.backbones.backbone import Backbone

MOST = 4
"""At most this many entries are cached per model."""


def cached(backbone: Backbone, name: str, make: Callable[[], Tensor]) -> Tensor:
    """The result of `make` under this name, recomputed when weights or modules of the text side change or move."""
    weights = [weight for key, weight in named_weights(backbone.model) if not key.startswith(backbone.visual)]
    firsts = [weight.detach().flatten()[0].item() for weight in weights]  # torch does not count some writes
    state = f"{hash((*text_state(backbone), *firsts))}"
    memo, key = backbone.memo, f"{name} {state}"
    if key not in memo:
        made = make()
        for other in [one for one in memo if not one.endswith(state)] or list(memo)[: 1 - MOST]:
            del memo[other]
        memo[key] = made
    return memo[key]
