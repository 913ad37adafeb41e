"""LPOSS, label propagation over patches (Stojnić et al. 2025, CVPR, https://arxiv.org/abs/2503.19777).

Code: vladan-stojnic/LPOSS (MIT), commit e489a74.
Differs from it: there DINO ViT-B/16 says which patches are alike; here the backbone itself, or any features you give.
Whole images on one grid; its sliding windows are one graph of `propagation`, and one test. No pixel is given a class.
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
from eclip.refinements.propagation import as_means, balance, patch_centers, patch_weights, propagate

FEATURES = ("keys", "values", "tokens", "trunk")
LEAST, MOST = 1e-30, 1e30
"""Of positive numbers: float32 holds these, what is beyond becomes 0 or infinity."""


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
    """Each patch gets of the values of patches that look alike and lie near: Z of `(I - alpha W_n) Z = maps`.

    Z itself is large, whatever the text, where a patch has many like it, up to `1 / (1 - alpha)` times the map. That is
    no harm where texts are compared, as in the paper; the heat map of one text would show little else. So each Z is
    divided by the Z of a map of ones, the same for all texts: a mean of the map, weighted by what is alike and near.
    Sign, zero and scale keep their meaning, and a constant map stays as it is.

    Args:
        maps: on the patch grid.
        encoding: with the last block kept, if the features are its values or keys.
        features: what makes patches alike: "keys" or "values" of the last block (all heads side by side; in an
            attention pool keys have positions in them), "tokens" (its output), "trunk" (a CNN's last feature map), or a
            tensor from a guide such as DINO, patches row by row. The paper takes the values of DINO; of what `mini`
            has, keys serve best.
        k: neighbors of each patch, itself among them; more than there are patches means all.
        gamma: power of the cosine, above 0.
        sigma: of `exp(-sigma * distance)`, for each pixel between centers, at least 0.
        alpha: share that is passed on, at least 0 and below 1.
        steps: of conjugate gradients; ten do not reach the end, and are the method.
        means: False gives Z itself, as the authors do.

    Returns:
        Maps on the patch grid.

    Raises:
        OptionError: an option outside its range.
        ShapeError: the maps are not on the patch grid, or a guide's features are not.
        NotApplicableError: "trunk" of a model that has none.
        KeepError: the last block was not kept.
    """
    if means:
        raw: dict[str, Any] = {
            "features": features,
            "k": k,
            "gamma": gamma,
            "sigma": sigma,
            "alpha": alpha,
            "steps": steps,
        }
        return as_means(partial(lposs, encoding=encoding, means=False, **raw), maps)
    grid = encoding.grid
    if tuple(maps.shape[2:]) != tuple(grid):
        raise ShapeError(
            f"'lposs' needs maps on the patch grid {tuple(grid)}, got {tuple(maps.shape[2:])}: refine a method's maps "
            "as they come, and once."
        )
    nodes = unit(patch_features(encoding, features))
    centers = patch_centers(grid, encoding.backbone.patch_size)
    solved = []
    for ours, node in zip(maps.flatten(2), nodes, strict=True):  # an image at a time: the weights are patches squared
        weights = balance(patch_weights(node, centers, k=k, gamma=gamma, sigma=sigma)).to(maps)
        solved.append(propagate(ours, partial(torch.matmul, other=weights), alpha=alpha, steps=steps))
    return torch.stack(solved).unflatten(2, grid)


def check(*, means: bool, **options: Any) -> None:
    """All options are in their ranges.

    Raises:
        OptionError: one is not.
    """
    check_propagation("lposs", **options)


def check_propagation(
    name: str, *, features: str | Tensor, k: int, gamma: float, sigma: float, alpha: float, steps: int
) -> None:
    """The options of a propagation over patches are in their ranges.

    Raises:
        OptionError: one is not.
    """
    if isinstance(features, str) and features not in FEATURES:
        raise OptionError(f"{name!r} needs features one of {', '.join(FEATURES)}, or a tensor, got {features!r}.")
    for option, value, fine, right in (
        ("k", k, k >= 1, "at least 1"),
        ("gamma", gamma, LEAST <= gamma <= MOST, f"above 0 ({LEAST} to {MOST})"),
        ("sigma", sigma, 0 <= sigma <= MOST, f"at least 0 (to {MOST})"),
        ("alpha", alpha, 0 <= alpha < 1, "at least 0 and below 1"),
        ("steps", steps, steps >= 1, "at least 1"),
    ):
        if not fine:
            raise OptionError(f"{name!r} needs {option} {right}, got {value}.")


def patch_features(
    encoding: Encoding, features: str | Float[Tensor, "image patch channel"]
) -> Float[Tensor, "image patch channel"]:
    """What says which patches are alike, see `lposs`; not normalized."""
    if not isinstance(features, str):
        images, count = len(encoding.pixels), encoding.grid.row * encoding.grid.col
        if features.shape[:2] != (images, count):
            raise ShapeError(
                f"features must be (image, patch, channel) = ({images}, {count}, any), got {tuple(features.shape)}: "
                f"the guide needs the same images and a grid of {encoding.grid.row} x {encoding.grid.col}."
            )
        return features.to(encoding.pixels.device)
    return patches.patch_features(encoding, features, "lposs")
