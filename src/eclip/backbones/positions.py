"""Position embeddings for grids other than the training grid."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eclip import heatmap
from eclip.backbones.backbone import Grid, Positions


def resize_positions(
    table: Float[Tensor, "token channel"], native: Grid, grid: Grid, positions: Positions
) -> Float[Tensor, "other channel"]:
    """Position embeddings for another grid; rows before the patches are kept. The table itself is not changed.

    Args:
        table: [prefix rows; native.row * native.col patch rows].
        native: the grid of the table.
        grid: the target grid.
        positions: see `encode`; or "bilinear_aa", as SigLIP 2 NaFlex was trained.
    """
    if grid == native:
        return table
    prefix, patches = table[: -native.row * native.col], table[-native.row * native.col :]
    maps = patches.float().T.unflatten(1, native)[None]  # 1 channel row col
    options: dict[str, Any] = {"mode": "bilinear" if positions.startswith("bilinear") else "bicubic"}
    if positions == "bicubic_plus01":
        options["scale_factor"] = ((grid.row + 0.1) / native.row, (grid.col + 0.1) / native.col)
    else:
        options["size"] = tuple(grid)
        options["antialias"] = positions.endswith("_aa")
    resized = heatmap.interpolate(maps, **options)[0].flatten(1).T  # patch channel
    return torch.cat([prefix, resized.to(table.dtype)])
