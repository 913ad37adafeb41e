"""Whether the score depends on the pixels that a map marks as important: insertion and deletion, on the original model.

Petsiuk et al. 2018 (RISE), https://arxiv.org/abs/1806.07421: pixels are revealed or removed in order of decreasing
heat, and the result is the area under the score. Differs from it: any fill (see `fills`), any number of steps, and
pixels of equal heat are in random order, drawn by a seed, not in reading order; a flat map is therefore a random order.

Grad-ECLIP (Zhao et al. 2024, script of commit 5c1b5cc, reimplemented) changes half of the pixels: `up_to=0.5,
steps=10`, `noise` for deletion and `zero` for insertion. It changes pixels of the original image, before CLIP's
preprocessing crops it, and its insertion has no point at share 0 but an additional one for the whole image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eclip.errors import EclipError, OptionError, ShapeError
from eclip.metrics.fills import Pixels
from eclip.metrics.localization import Heat

Score = Callable[[Tensor], Tensor]
"""Maps pixels (step, 3, height, width) to scores (step, ...), such as the cosine with a text."""


@dataclass(frozen=True)
class Curve:
    """Scores along the way from one image to another.

    Attributes:
        shares: fraction of pixels that were replaced, ascending from 0.
        scores: at each share, as many numbers as the score function returns for one image.
    """

    shares: Float[np.ndarray, " share"]
    scores: Float[np.ndarray, "share ..."]


def deletion(
    score: Score,
    pixels: Pixels,
    heat: Heat,
    fill: Pixels,
    *,
    steps: int = 50,
    up_to: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
) -> Curve:
    """Replace the image by the fill, highest heat first; a good map lowers the score early and has a small area.

    Args:
        score: the model; called with at most batch_size images at once, without a graph.
        pixels: preprocessed pixels of the image.
        heat: on these pixels; only its order matters.
        fill: from `fills.fill`.
        steps: equal parts in which pixels are replaced; the curve has one more point. If the image has fewer pixels,
            some points coincide.
        up_to: the fraction of pixels at which the curve ends.
        batch_size: images per call of score.
        seed: for the order of pixels with equal heat.

    Raises:
        OptionError: steps or batch_size is less than 1, or up_to is not in (0, 1] or less than a pixel.
        ShapeError: heat or fill and pixels differ in size, or score does not return one row per image.
        EclipError: heat is NaN or infinite.
    """
    if steps < 1 or batch_size < 1:
        raise OptionError(f"steps and batch_size must be at least 1, got {steps} and {batch_size}.")
    if not 0 < up_to <= 1:
        raise OptionError(f"up_to must be in (0, 1], got {up_to}.")
    if pixels.shape != fill.shape or heat.shape != pixels.shape[1:]:
        given = f"{tuple(pixels.shape)}, {tuple(fill.shape)} and {heat.shape}"
        raise ShapeError(f"pixels, fill and heat must have the same height and width, got {given}: use heatmap.resize.")
    if not np.isfinite(heat).all():
        raise EclipError("heat has values that are NaN or infinite and cannot be ordered.")
    rank = np.empty(heat.size, dtype=np.int64)
    rank[pixel_order(heat, seed)] = np.arange(heat.size)
    places = torch.from_numpy(rank.reshape(heat.shape)).to(pixels.device)
    counts = np.rint(np.linspace(0, up_to, steps + 1) * heat.size).astype(np.int64)
    if not counts[-1]:
        raise OptionError(
            f"up_to={up_to} is less than one of the {heat.size} pixels: use at least {1 / heat.size:.2g}."
        )
    scores = []
    for first in range(0, len(counts), batch_size):
        some = torch.from_numpy(counts[first : first + batch_size]).to(pixels.device)[:, None, None, None]
        with torch.no_grad():
            rows = score(torch.where(places < some, fill, pixels))  # step 3 height width
        if rows.ndim < 1 or len(rows) != len(some):
            raise ShapeError(f"score must return one row for each of {len(some)} images, got {tuple(rows.shape)}.")
        scores.append(rows.cpu().double().numpy())
    return Curve(counts / heat.size, np.concatenate(scores))


def insertion(
    score: Score,
    pixels: Pixels,
    heat: Heat,
    fill: Pixels,
    *,
    steps: int = 50,
    up_to: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
) -> Curve:
    """Reveal the image on the fill, highest heat first; a good map raises the score early and has a large area.

    This is `deletion` with image and fill exchanged; arguments and errors are as there.
    """
    return deletion(score, fill, heat, pixels, steps=steps, up_to=up_to, batch_size=batch_size, seed=seed)


def area(curve: Curve) -> Float[np.ndarray, "*score"]:
    """The area under a curve by the trapezoidal rule, divided by its width: its mean height, in units of the score.

    For a curve from 0 to 1, this is the AUC of the papers. Nothing is clipped, and nothing is divided by the score of
    the whole image.
    """
    widths = np.diff(curve.shares)
    means = (curve.scores[1:] + curve.scores[:-1]) / 2
    return np.asarray(np.tensordot(widths, means, axes=1) / widths.sum())


def random_order(shape: tuple[int, int], seed: int) -> Int[np.ndarray, " pixel"]:
    """All pixels, as indices into the flattened image, in an order drawn by the seed: the baseline for maps.

    `insertion` and `deletion` with a flat map use this order.
    """
    return np.random.default_rng(seed).permutation(shape[0] * shape[1])


def pixel_order(heat: Heat, seed: int) -> Int[np.ndarray, " pixel"]:
    """All pixels, as indices into the flattened image, by decreasing heat; ties are ordered as in `random_order`."""
    drawn = random_order((heat.shape[0], heat.shape[1]), seed)
    return drawn[np.argsort(-heat.ravel()[drawn].astype(float), kind="stable")]  # unsigned numbers have no negative
