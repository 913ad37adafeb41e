"""Refinements: equal to their authors' arrays and to brute force, and what must hold for any map, photo and tower."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import eclip
import tiny
from eclip.backbones.base import Backbone, Encoding, Grid
from eclip.cli import app
from eclip.errors import EclipError, KeepError, NoMeaningError, OptionError, ShapeError, UnknownNameError
from eclip.explanation import Explanation
from eclip.refinements import REFINEMENTS
from eclip.refinements.colors import rgb, to_lab
from eclip.refinements.lposs import patch_features
from eclip.refinements.pamr import affinities
from eclip.refinements.propagation import balance, patch_centers, patch_weights, pixel_graph, propagate

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "lposs.npz"
golden = pytest.mark.skipif(not GOLDEN.is_file(), reason="../shared/golden, the authors' arrays, is not here")
TYPES = [torch.float32, torch.float64]


@cache
def _arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def _golden(name: str, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(_arrays()[name]).to(dtype)


def _close(ours: torch.Tensor, name: str, atol: float) -> None:
    np.testing.assert_allclose(ours.numpy(), _arrays()[name], rtol=1e-4, atol=atol)


# --- the authors' arrays -----------------------------------------------------


@golden
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("case", "grids", "k"), [("onewindow", [Grid(6, 7)], 10), ("twowindows", [Grid(5, 5), Grid(5, 5)], 12)]
)
def test_lposs_equals_its_authors_code(case: str, grids: list[Grid], k: int, dtype: torch.dtype) -> None:
    features, values = _golden(f"{case}__features", dtype), _golden(f"{case}__Y", dtype)
    windows = zip(grids, _golden(f"{case}__locations", dtype).tolist(), strict=True)  # top, bottom, left, right
    centers = torch.cat([patch_centers(grid, 16, (window[0], window[2])) for grid, window in windows])
    weights = balance(patch_weights(features, centers, k=k, gamma=3.0, sigma=0.01))
    _close(torch.eye(len(weights)) - 0.95 * weights, f"{case}__laplacian", 1e-5)

    def solved(steps: int) -> torch.Tensor:
        return propagate(values.T, lambda z: z @ weights, alpha=0.95, steps=steps).T

    _close(solved(10), f"{case}__Z_cg10", 1e-4)
    _close(solved(1000), f"{case}__Z_exact", 1e-4)


@golden
@pytest.mark.parametrize("dtype", TYPES)
def test_lposs_plus_equals_its_authors_code(dtype: torch.dtype) -> None:
    lab = to_lab(_golden("plus__image", dtype))[0] / torch.tensor([100.0, 128.0, 128.0]).to(dtype)[:, None, None]
    graph = pixel_graph(lab, radius=6, tau=0.01)
    ones = torch.eye(120, dtype=dtype)
    _close(ones - 0.95 * graph.spread(ones), "plus__laplacian", 1e-4)
    ours = propagate(_golden("plus__Y", dtype).T, graph.spread, alpha=0.95, steps=10)
    _close(ours.T, "plus__Z_cg10", 1e-3)
