"""Baseline maps, which depend on neither text nor model and are scored like any other: a method must beat them.

`BASELINES[name](grid, seed) -> (row, col)`; to add one: a function here, a line in the dict. The fourth, a method's own
map upside down, is a column of the table instead. `bound` is a ceiling, not a baseline: the true mask on the patch
grid, which no map on that grid exceeds by much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eclip.evaluation.report.numbers import BOUND

Map = Float[np.ndarray, "row col"]
SIGMA = 0.25


def ones(grid: Sequence[int], seed: Sequence[int]) -> Map:
    """A constant map: no position is preferred."""
    return np.ones(tuple(grid), np.float32)


def centre(grid: Sequence[int], seed: Sequence[int]) -> Map:
    """A Gaussian in the center, with a sigma of a quarter of each side, where photographers place objects."""
    down, across = ((np.arange(count) + 0.5) / count - 0.5 for count in grid)
    return np.exp(-(down[:, None] ** 2 + across**2) / (2 * SIGMA**2)).astype(np.float32)


def random(grid: Sequence[int], seed: Sequence[int]) -> Map:
    """Uniform noise on the patches, different for each image and class but reproducible."""
    return np.random.default_rng(list(seed)).random(tuple(grid), np.float32)


BASELINES: dict[str, Callable[[Sequence[int], Sequence[int]], Map]] = {"ones": ones, "centre": centre, "random": random}
NAMES = (*BASELINES, BOUND)
"""The names of the maps that `baseline_maps` returns, in this order."""


def baseline_maps(grid: tuple[int, int], seed: Sequence[int], bound: Map) -> dict[str, Float[Tensor, "row col"]]:
    """The maps of all baselines, and the bound, for a text of an image, in [0, 1]; they are not normalized again.

    So `ones` covers everything at any threshold, as does the bound of an object that fills the image. The seed of the
    random map is the place of the image and the number of its class or text.
    """
    maps = {**{name: baseline(grid, seed) for name, baseline in BASELINES.items()}, BOUND: bound}
    return {name: torch.from_numpy(one).float() for name, one in maps.items()}
