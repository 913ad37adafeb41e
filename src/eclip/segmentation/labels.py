"""From maps of texts to one label per pixel: maps are averaged where windows overlap, and the largest class wins.

Resizing comes first and the softmax over classes second, as in SCLIP (Wang et al. 2024,
https://arxiv.org/abs/2312.01597, code wangf3014/SCLIP at d84d4ab, no license; written from its behavior).
Differs from it: windows are cut from the original image and their maps resized to its pixels once, whereas SCLIP
resizes twice; a class is one term of the softmax, not one for each of its words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt16
from PIL import Image
from torch import Tensor

from eclip import heatmap
from eclip.errors import OptionError
from eclip.segmentation.windows import Box, windows

LEAST, MOST = 1e-3, 1e6
"""Of the scale of the softmax, which is computed in float32."""


class Piece(NamedTuple):
    """Maps of a part of an image: its box in the image's pixels, and raw maps (text, row, col) over that box."""

    box: Box
    maps: Tensor


def pieces_of(
    images: Sequence[Image.Image],
    slid: tuple[int, int, int] | None,
    batch_size: int,
    maps_of: Callable[[list[Image.Image], list[int]], Mapping[str, Iterable[Tensor]]],
) -> dict[str, list[list[Piece]]]:
    """The maps of images, whole or in windows, `batch_size` of either per pass.

    Args:
        images: upright, RGB.
        slid: window, stride and side, see `eclip.segmentation.windows`; None for whole images.
        batch_size: images, or windows of any image, in one pass.
        maps_of: takes such crops and the places of their images; returns raw maps (text, row, col) of each by the name
            of a method.

    Returns:
        The pieces of each image, by method name.
    """
    cut = [
        (place, box)
        for place, image in enumerate(images)
        for box in ([(0, 0, *image.size)] if slid is None else windows(image.size, *slid))
    ]
    found: dict[str, list[list[Piece]]] = {}
    for start in range(0, len(cut), batch_size):
        near = cut[start : start + batch_size]
        given = maps_of([images[place].crop(box) for place, box in near], [place for place, _ in near])
        for name, maps in given.items():
            own = found.setdefault(name, [[] for _ in images])
            for (place, box), one in zip(near, maps, strict=True):
                own[place].append(Piece(box, one))
    return found


def label_pixels(
    pieces: Sequence[Piece],
    size: tuple[int, int],
    places: Mapping[int, Sequence[int]],
    *,
    scale: float,
    prob_threshold: float | None = None,
    area_threshold: float | None = None,
) -> tuple[UInt8[np.ndarray, "height width"] | UInt16[np.ndarray, "height width"], Float[np.ndarray, "height width"]]:
    """The class with the largest map at each pixel, and its share of the softmax.

    A text's logit at a pixel is the mean of its maps there, each resized bilinearly to the pixels of its box; a class's
    is the maximum over its texts. Classes are processed in turn, so memory is a few numbers per pixel for any number.

    Args:
        pieces: together they cover the image.
        size: (height, width) of the image.
        places: for each label, the places of its texts in the maps. In a tie, the first label wins.
        scale: inverse temperature: the softmax over classes is of scale times the logit.
        prob_threshold: pixels whose largest share of the softmax is below it get label 0; None = no threshold.
        area_threshold: a class with at most this share of all pixels that are not background is removed, and its pixels
            go to the next best class, or to label 0 if no class is left; None = no threshold.

    Returns:
        Labels, uint8 up to 255 and uint16 above, and the winner's share of the softmax, 0 to 1, float32, which
        prob_threshold does not change; where area_threshold gives a pixel to another class, it is that class's.
    """
    check_cuts(scale, prob_threshold, area_threshold)
    covered = None if len(pieces) == 1 else _count(pieces, size)
    kept = set(places)
    labels, top, total = _largest(pieces, size, places, kept, covered, scale)
    if area_threshold is not None:
        areas = np.bincount(labels.numpy().ravel(), minlength=max(places) + 1)[1:]
        small = {label + 1 for label in np.flatnonzero(areas <= area_threshold * areas.sum()).tolist()}
        if small & set(labels.unique().tolist()):
            labels, best, _ = _largest(pieces, size, places, kept - small, covered, scale)
            top = torch.where(best.isfinite(), best, top)  # where no class is left, that of the class that lost it
    share = (top - total).exp_()
    if prob_threshold is not None:
        labels[share < prob_threshold] = 0
    return labels.numpy().astype(np.uint8 if max(places) <= 255 else np.uint16), share.numpy()


def check_cuts(scale: float, prob_threshold: float | None, area_threshold: float | None) -> None:
    """Raise OptionError unless scale and thresholds are in their ranges."""
    if not LEAST <= scale <= MOST:
        raise OptionError(f"scale must be between {LEAST:g} and {MOST:,.0f}, such as 40, got {scale}.")
    for name, value in (("prob_threshold", prob_threshold), ("area_threshold", area_threshold)):
        if value is not None and not 0 <= value <= 1:
            raise OptionError(f"{name} must be between 0 and 1, got {value}.")


def _largest(
    pieces: Sequence[Piece],
    size: tuple[int, int],
    places: Mapping[int, Sequence[int]],
    kept: set[int],
    covered: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels among the kept classes, their logits, and the log-sum-exp over all classes."""
    labels = torch.zeros(size, dtype=torch.int32, device="cpu")
    top = torch.full(size, -torch.inf, dtype=torch.float32, device="cpu")
    total = torch.full(size, -torch.inf, dtype=torch.float32, device="cpu")
    for label, texts in places.items():
        logits = scale * reduce(torch.maximum, (_laid(pieces, text, size, covered) for text in texts))
        torch.logaddexp(total, logits, out=total)
        if label in kept:
            labels[logits > top] = label
            torch.maximum(top, logits, out=top)
    return labels, top, total


def _laid(
    pieces: Sequence[Piece], text: int, size: tuple[int, int], covered: Tensor | None
) -> Float[Tensor, "height width"]:
    """A text's logit at each pixel of the image, before the scale."""
    if covered is None:
        return heatmap.resize(pieces[0].maps[text], size)
    canvas = torch.zeros(size, dtype=torch.float32, device="cpu")
    for piece, place in _on_canvas(pieces):
        canvas[place] += heatmap.resize(piece.maps[text], (canvas[place].shape[0], canvas[place].shape[1]))
    return canvas / covered


def _count(pieces: Sequence[Piece], size: tuple[int, int]) -> Float[Tensor, "height width"]:
    """How many pieces cover each pixel."""
    count = torch.zeros(size, dtype=torch.float32, device="cpu")
    for _, place in _on_canvas(pieces):
        count[place] += 1
    assert bool((count > 0).all()), "windows cover the image"
    return count


def _on_canvas(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, tuple[slice, slice]]]:
    for piece in pieces:
        left, top, right, bottom = piece.box
        yield piece, (slice(top, bottom), slice(left, right))
