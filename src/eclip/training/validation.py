"""Localization scores of a head's maps on images with masks, computed after each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from jaxtyping import Float, UInt16
from torch import Tensor

from eclip.backbones.backbone import Backbone, eval_no_grad
from eclip.backbones.blocks import cosine
from eclip.backbones.encoding import Encoding
from eclip.backbones.head import EclipHead, head_rows
from eclip.backbones.view import View
from eclip.datasets.masks import Masked, MaskSet, present, sides
from eclip.errors import OptionError
from eclip.heatmap import normalize, resize
from eclip.images import read_batches
from eclip.metrics.localization import Localization, Record
from eclip.texts.encode import encode_texts
from eclip.training.word_prompts import PROMPT

KEPT_BYTES = 2**28
"""Rows that do not fit into this are encoded again for each score; 256 MiB hold 260 images of `mini`."""
Rows = tuple[list[Masked], Float[Tensor, "image patch channel"], tuple[int, int]]
"""Images of a batch, the rows that a head reads, and their grid."""


class Validation:
    """Scores heads on images with masks; rows are kept in memory, so that the frozen encoders run once.

    Scores every class that covers at least 1 % of an image's area without void; the texts are the names of all classes
    of the set.

    Args:
        masks: from `read_masks`.
        backbone: from `load` or `wrap`.
        source: what heads read, see `eclip.backbones.head.head_rows`.
        image_size: side in pixels of the square to which images are resized; None = the model's own.
        batch_size: images in one forward pass, at least 1.
    """

    def __init__(
        self, masks: MaskSet, backbone: Backbone, source: str, *, image_size: int | None = None, batch_size: int = 16
    ) -> None:
        self.masks, self.backbone, self.source = masks, backbone, source
        self.image_size, self.batch_size = image_size, batch_size
        self.columns = {number: column for column, number in enumerate(masks.classes)}
        self.text = encode_texts(backbone, list(masks.classes.values()), PROMPT)
        self._kept: list[Rows] | None = None

    def score(self, head: EclipHead) -> Record:
        """Score the maps of a head for the classes that the images show.

        Raises:
            DataError: a mask cannot be used, or no image shows a class.
            ImageError: an image cannot be read.
            OptionError: batch_size is less than 1, or another option is outside its range.
        """
        found = Localization()
        for items, rows, grid in self._rows():
            with eval_no_grad(self.backbone.model):
                maps = cosine(head(rows.to(head.image.weight.device)), head.project_text(self.text))
            for item, raw in zip(items, maps.transpose(1, 2).unflatten(2, grid), strict=True):
                mask = item.read()
                numbers = present(mask)
                score_image(found, raw[[self.columns[number] for number in numbers]], numbers, mask)
        return found.record()

    def _rows(self) -> Iterator[Rows]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, held = list[Rows](), 0
        for items, encoding in encoded(
            self.masks, self.backbone, image_size=self.image_size, batch_size=self.batch_size, keep=1
        ):
            with eval_no_grad(self.backbone.model):
                rows = head_rows(encoding, self.source).cpu()
            held += rows.nbytes
            if held <= KEPT_BYTES:
                kept.append((items, rows, encoding.grid))
            yield items, rows, encoding.grid
        self._kept = kept if held <= KEPT_BYTES else None


def encoded(
    masks: MaskSet, backbone: Backbone, *, image_size: int | None = None, batch_size: int = 16, keep: int | None = None
) -> Iterator[tuple[list[Masked], Encoding]]:
    """The images of a set in order, as batches with their encodings; `keep` as in `encode`, others as in `Validation`.

    Errors of images and options are as in `Validation.score`.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size must be at least 1, got {batch_size}.")
    items = iter(masks.items)
    for batch in read_batches((item.image for item in masks.items), batch_size, None):
        encoding = View(image_size).encode(backbone, (image for _, image in batch), keep)
        yield list(islice(items, len(batch))), encoding


def score_image(
    into: Localization,
    maps: Float[Tensor, "text row col"],
    numbers: Sequence[int],
    mask: UInt16[np.ndarray, "height width"],
) -> None:
    """Add the pairs of one image and the classes with these `numbers`, all present in its mask; maps are raw.

    Raises:
        EclipError: a map value is NaN or infinite.
    """
    for number, raw in zip(numbers, maps.detach().float(), strict=True):
        into.add(number, resize(normalize(raw), mask.shape).cpu().numpy(), *sides(mask, number))
