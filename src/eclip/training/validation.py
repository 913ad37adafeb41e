"""Are maps on the things they are asked for? Scored in memory, in one pass: what training shows after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, UInt16
from torch import Tensor

from eclip.backbones.backbone import Backbone
from eclip.backbones.encoding import Encoding, encode
from eclip.datasets.masks import VOID, Masked, MaskSet, present
from eclip.errors import OptionError, ShapeError
from eclip.heatmap import normalize, resize
from eclip.images import read_batches
from eclip.metrics.localization import Localization, Record
from eclip.texts.encode import encode_texts

MapsOf = Callable[[Encoding, Tensor], dict[str, Tensor]]
"""From an encoding and unit texts (text, feature) to raw maps (image, text, row, col) by name."""


def localize(
    maps_of: MapsOf,
    masks: MaskSet,
    backbone: Backbone,
    *,
    prompt: str | Sequence[str] = "a photo of a {}",
    image_size: int | None = None,
    batch_size: int = 16,
    keep: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Record]:
    """Score the map of each class that a photo shows, with the names of all classes of the set asked together.

    A photo shows a class that has at least 1 % of its area, void left out. Maps that know no text, such as an attention
    map, are scored the same way when `maps_of` expands them over the texts.

    Args:
        maps_of: what to score. Its maps are normalized and resized here, each over its own grid.
        masks: from `read_masks`.
        backbone: from `load` or `wrap`.
        prompt: template of the names, see `encode_texts`.
        image_size: side in pixels that photos are squashed to; None = the model's own.
        batch_size: photos in one forward pass, at least 1.
        keep: last blocks that `maps_of` reruns, see `encode`; None = all.
        progress: hears after each batch how many photos are done.

    Returns:
        A Record for each name that `maps_of` gives.

    Raises:
        DataError: a mask cannot be used, or no photo shows a class.
        ImageError: a photo cannot be read.
        ShapeError: maps are not (image, text, row, col).
        OptionError: batch_size is less than 1, or another option is outside its range.
    """
    columns = {number: column for column, number in enumerate(masks.classes)}
    text = encode_texts(backbone, list(masks.classes.values()), prompt)
    found: dict[str, Localization] = {}
    done = 0
    for items, encoding in encoded(masks, backbone, image_size=image_size, batch_size=batch_size, keep=keep):
        maps = maps_of(encoding, text)
        for name, raw in maps.items():
            if raw.ndim != 4 or raw.shape[:2] != (len(items), len(text)):
                wanted = f"(image, text, row, col) = ({len(items)}, {len(text)}, ...)"
                raise ShapeError(f"maps {name!r} must be {wanted}, got {tuple(raw.shape)}.")
        for row, item in enumerate(items):
            mask = item.read()
            numbers = present(mask)
            for name, raw in maps.items():
                asked = raw[row, [columns[number] for number in numbers]]
                score_photo(found.setdefault(name, Localization()), asked, numbers, mask)
        done += len(items)
        if progress is not None:
            progress(done)
    return {name: one.record() for name, one in found.items()}


def encoded(
    masks: MaskSet,
    backbone: Backbone,
    *,
    image_size: int | None = None,
    batch_size: int = 16,
    keep: int | None = None,
) -> Iterator[tuple[list[Masked], Encoding]]:
    """The photos of a set in order, each batch with its encoding; arguments and errors as of `localize`."""
    if batch_size < 1:
        raise OptionError(f"batch_size must be at least 1, got {batch_size}.")
    items = iter(masks.items)
    for batch in read_batches((item.photo for item in masks.items), batch_size, None):
        pixels = torch.stack([backbone.preprocess(photo, image_size) for _, photo in batch])
        yield list(islice(items, len(batch))), encode(backbone, pixels, keep)


def score_photo(
    into: Localization,
    maps: Float[Tensor, "text row col"],
    numbers: Sequence[int],
    mask: UInt16[np.ndarray, "height width"],
) -> None:
    """Add the pairs of one photo.

    Args:
        into: where they are added.
        maps: raw, one of each class.
        numbers: the classes, each somewhere in the mask.
        mask: of the photo, from `Masked.read`.

    Raises:
        EclipError: a map value is NaN or infinite.
    """
    for number, raw in zip(numbers, maps.detach().float(), strict=True):
        heat = resize(normalize(raw), mask.shape).cpu().numpy()
        inside = mask == number
        into.add(number, heat, inside, ~inside & (mask != VOID))
