"""Is the model moved by the pixels that a map calls important? Insertion and deletion, on the unaltered model.

Petsiuk et al. 2018 (RISE), https://arxiv.org/abs/1806.07421: pixels are revealed, or taken out, from the warmest to the
coldest, and the area under the score is the answer. Differs from it: any fill (see `fills`), any number of steps, and
pixels of equal heat come in an order drawn by a seed, not in reading order; a flat map is therefore a random order.

Grad-ECLIP (Zhao et al. 2024, script of commit 5c1b5cc, described in words) touches half of the pixels: `up_to=0.5,
steps=10`, `noise` for deletion and `zero` for insertion. It changes pixels of the image in its own size, before CLIP's
preprocessing crops it, and its insertion has no point at share 0 but one more for the whole image.
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
"""From pixels (step, 3, height, width) to scores (step, ...): the cosine of a text, whether a class is found, both."""


@dataclass(frozen=True)
class Curve:
    """Scores on the way from one picture to another.

    Attributes:
        shares: of pixels that were exchanged, ascending from 0.
        scores: at each share, as many numbers as the score function gives of one picture.
    """

    shares: Float[np.ndarray, " share"]
    scores: Float[np.ndarray, "share ..."]


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
    """From the fill to the image, warmest pixels first: the score should rise early, the area be large.

    Args:
        score: the model; called with at most batch_size pictures at once, and without a graph.
        pixels: of the image, as the model takes them.
        heat: on these pixels; only its order counts.
        fill: from `fills.fill`.
        steps: equal parts in which pixels are exchanged; the curve has one point more. In an image of fewer pixels some
            points are the same.
        up_to: the share of the pixels at which the curve ends.
        batch_size: pictures in one call of the score.
        seed: of the order of pixels that are equally warm.

    Raises:
        OptionError: steps or batch_size is less than 1, or up_to is not in (0, 1].
        ShapeError: heat or fill are not of the size of the pixels, or score does not give one row a picture.
        EclipError: heat is NaN or infinite.
    """
    return _walk(score, fill, pixels, heat, steps=steps, up_to=up_to, batch_size=batch_size, seed=seed)


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
    """From the image to the fill, warmest pixels first: the score should fall early, the area be small.

    Args:
        score: as in `insertion`, and so are the rest.
        pixels: see `insertion`.
        heat: see `insertion`.
        fill: see `insertion`.
        steps: see `insertion`.
        up_to: see `insertion`.
        batch_size: see `insertion`.
        seed: see `insertion`.

    Raises:
        EclipError: as `insertion`.
    """
    return _walk(score, pixels, fill, heat, steps=steps, up_to=up_to, batch_size=batch_size, seed=seed)


def area(curve: Curve) -> Float[np.ndarray, "*score"]:
    """The area under a curve by trapezoids, over the width of its shares: its mean height, in units of the score.

    For a curve from 0 to 1 that is the AUC of the papers. No part of the curve is cut off and nothing is divided by the
    score of the whole image.
    """
    widths = np.diff(curve.shares)
    means = (curve.scores[1:] + curve.scores[:-1]) / 2
    return np.asarray(np.tensordot(widths, means, axes=1) / widths.sum())


def random_order(shape: tuple[int, int], seed: int) -> Int[np.ndarray, " pixel"]:
    """All pixels, as places in the flat image, in an order drawn by the seed: the baseline that a map has to beat.

    `insertion` and `deletion` of a flat map walk in this order.
    """
    return np.random.default_rng(seed).permutation(shape[0] * shape[1])


def pixel_order(heat: Heat, seed: int) -> Int[np.ndarray, " pixel"]:
    """All pixels, as places in the flat image, from the warmest to the coldest; equals as in `random_order`."""
    drawn = random_order((heat.shape[0], heat.shape[1]), seed)
    return drawn[np.argsort(-heat.ravel()[drawn], kind="stable")]


def _walk(
    score: Score, start: Pixels, end: Pixels, heat: Heat, *, steps: int, up_to: float, batch_size: int, seed: int
) -> Curve:
    if steps < 1 or batch_size < 1:
        raise OptionError(f"steps and batch_size must be at least 1, got {steps} and {batch_size}.")
    if not 0 < up_to <= 1:
        raise OptionError(f"up_to must be a share in (0, 1], got {up_to}.")
    if start.shape != end.shape or heat.shape != start.shape[1:]:
        given = f"{tuple(start.shape)}, {tuple(end.shape)} and {heat.shape}"
        raise ShapeError(f"pixels, fill and heat must be of one height and width, got {given}: use heatmap.resize.")
    if not np.isfinite(heat).all():
        raise EclipError("heat has values that are NaN or infinite, which have no place in an order.")
    rank = np.empty(heat.size, dtype=np.int64)
    rank[pixel_order(heat, seed)] = np.arange(heat.size)
    places = torch.from_numpy(rank.reshape(heat.shape)).to(start.device)
    counts = np.rint(np.linspace(0, up_to, steps + 1) * heat.size).astype(np.int64)
    scores = []
    for first in range(0, len(counts), batch_size):
        some = torch.from_numpy(counts[first : first + batch_size]).to(start.device)[:, None, None, None]
        with torch.no_grad():
            rows = score(torch.where(places < some, end, start))  # step 3 height width
        if rows.ndim < 1 or len(rows) != len(some):
            raise ShapeError(f"score must give one row for each of {len(some)} pictures, got {tuple(rows.shape)}.")
        scores.append(rows.cpu().double().numpy())
    return Curve(counts / heat.size, np.concatenate(scores))
