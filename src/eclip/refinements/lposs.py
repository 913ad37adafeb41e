"""LPOSS, label propagation over patches (Stojnić et al. 2025, CVPR, https://arxiv.org/abs/2503.19777).

Code: vladan-stojnic/LPOSS (MIT), commit e489a74.
Differs from it: similarity of patches comes from the backbone itself or any features you pass, not from DINO ViT-B/16.
Whole images on one grid; a test covers its sliding windows as one graph of `propagation`. Pixels are not classified.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones import patches
from eclip.backbones.blocks import unit
from eclip.backbones.encoding import Encoding
from eclip.errors import OptionError, ShapeError
from eclip.refinements.propagation import as_means, balance, patch_centers, patch_weights, propagate, with_ones

FEATURES = ("keys", "values", "tokens", "trunk")
LEAST, MOST = 1e-30, 1e30
"""Range of positive options: beyond it, float32 becomes 0 or infinity."""


def lposs(
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
) -> Float[Tensor, "image text row col"]:
    """Spread values between patches that look alike and are near each other: Z of `(I - alpha W_n) Z = maps`.

    Z itself is large for any text where a patch has many similar ones, up to `1 / (1 - alpha)` times the map. That is
    harmless when texts are compared, as in the paper, but would dominate the heat map of a single text. Therefore Z is
    divided by the Z of a map of ones, the same for all texts: a mean of the map, weighted by similarity and proximity.
    Sign, zero and scale keep their meaning, and a constant map is unchanged.

    Args:
        maps: on the patch grid.
        encoding: with the last block kept, if the features are its values or keys.
        features: what is compared: "keys" or "values" of the last block (all heads concatenated; keys of an attention
            pool include positions), "tokens" (its output), "trunk" (a CNN's last feature map), or a tensor from another
            network such as DINO, patches row by row. The paper uses the values of DINO; of the features of the first
            `mini`, keys work best.
        k: neighbors of each patch, including itself; all patches if there are fewer.
        gamma: exponent of the cosine, above 0.
        sigma: in `exp(-sigma * distance)`, per pixel of distance between patch centers, at least 0.
        alpha: share that is propagated, at least 0 and below 1.
        steps: of conjugate gradients; ten, as in the method, do not converge fully.
        means: False returns Z itself, as the authors do.

    Returns:
        Maps on the patch grid.

    Raises:
        OptionError: an option is outside its range.
        ShapeError: the maps or the given features are not on the patch grid.
        NotApplicableError: "trunk" for a model without one.
        KeepError: the last block was not kept.
    """
    grid = encoding.grid
    if tuple(maps.shape[2:]) != tuple(grid):
        raise ShapeError(
            f"'lposs' needs maps on the patch grid {tuple(grid)}, got {tuple(maps.shape[2:])}: pass a method's raw "
            "maps, not resized or refined ones."
        )
    maps = with_ones(maps) if means else maps
    nodes = unit(patch_features(encoding, features))
    centers = patch_centers(grid, encoding.backbone.patch_size)
    solved = []
    for ours, node in zip(maps.flatten(2), nodes, strict=True):  # one image at a time: patches squared
        weights = balance(patch_weights(node, centers, k=k, gamma=gamma, sigma=sigma)).to(maps)
        solved.append(propagate(ours, partial(torch.matmul, other=weights), alpha=alpha, steps=steps))
    refined = torch.stack(solved).unflatten(2, grid)
    return as_means(refined) if means else refined


def check(*, means: bool, **options: Any) -> None:
    """Raise OptionError if an option is outside its range."""
    check_propagation("lposs", **options)


def check_propagation(
    name: str, *, features: str | Tensor, k: int, gamma: float, sigma: float, alpha: float, steps: int
) -> None:
    """Raise OptionError if an option of a propagation over patches is outside its range."""
    if isinstance(features, str) and features not in FEATURES:
        raise OptionError(f"{name!r} needs features to be a tensor or one of {', '.join(FEATURES)}, got {features!r}.")
    if not isinstance(features, str) and not bool(features.isfinite().all()):
        raise OptionError(f"{name!r} needs features to be finite, got NaN or infinity.")
    for option, value, fine, right in (
        ("k", k, k >= 1, "at least 1"),
        ("gamma", gamma, LEAST <= gamma <= MOST, f"above 0 ({LEAST} to {MOST})"),
        ("sigma", sigma, 0 <= sigma <= MOST, f"at least 0 (to {MOST})"),
        ("alpha", alpha, 0 <= alpha < 1, "at least 0 and below 1"),
        ("steps", steps, steps >= 1, "at least 1"),
    ):
        if not fine:
            raise OptionError(f"{name!r} needs {option} to be {right}, got {value}.")


def patch_features(
    encoding: Encoding, features: str | Float[Tensor, "image patch channel"]
) -> Float[Tensor, "image patch channel"]:
    """The features by which patches are compared, see `lposs`; not normalized."""
    if not isinstance(features, str):
        images, count = len(encoding.pixels), encoding.grid.row * encoding.grid.col
        if features.shape[:2] != (images, count):
            raise ShapeError(
                f"features must be (image, patch, channel) = ({images}, {count}, any), got {tuple(features.shape)}: "
                f"compute them for the same images on a grid of {encoding.grid.row} x {encoding.grid.col}."
            )
        return features.to(encoding.pixels.device)
    return patches.patch_features(encoding, features, "lposs")
