"""Text features that a model is asked for again and again, made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from eclip.backbones.host import named_weights
from eclip.backbones.state import text_state

if TYPE_CHECKING:
    from eclip.backbones.backbone import Backbone

MOST = 4
"""So many names are remembered of a model."""


def cached(backbone: Backbone, name: str, make: Callable[[], Tensor]) -> Tensor:
    """What `make` gave under this name, made again when weights or modules of the text side have changed or moved."""
    weights = [weight for key, weight in named_weights(backbone.model) if not key.startswith(backbone.visual)]
    firsts = [weight.detach().flatten()[0].item() for weight in weights]  # some writes are not counted by torch
    state = f"{hash((*text_state(backbone), *firsts))}"
    memo, key = backbone.memo, f"{name} {state}"
    if key not in memo:
        made = make()
        for other in [one for one in memo if not one.endswith(state)] or list(memo)[: 1 - MOST]:
            del memo[other]
        memo[key] = made
    return memo[key]
