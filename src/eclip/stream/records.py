"""What is written of each image: the files of its sample in a shard, and its rows of the index.

A row is one for each text, or for each class that has pixels.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eclip import heatmap
from eclip.errors import OptionError
from eclip.explanation.health import NUMBERS
from eclip.explanation.rows import row_of
from eclip.registry import one_of
from eclip.render import indexed
from eclip.results.coco import runs
from eclip.results.marks import png
from eclip.results.table import COLUMNS
from eclip.segmentation.segmentation import LEAST_INSTANCE

if TYPE_CHECKING:
    from jaxtyping import Float

    from eclip.explanation.explanation import Explanation
    from eclip.segmentation.segmentation import Segmentation
    from eclip.words.relevance import WordRelevance

CONTENTS = ("maps", "masks", "boxes", "points", "overlays", "table")
"""What can be written besides scores and, unless they are off, health numbers; "table": the columns of the table."""
DEFAULT = ("maps", "boxes")
LABEL_CONTENTS = ("labels", "confidences", "masks", "boxes", "overlays")
"""What can be written of a segmentation besides areas, mean confidences and, unless they are off, presence."""
LABEL_DEFAULT = ("labels",)
WORD_CONTENTS = ("words",)
"""What is written of words besides scores: each word with its value and share."""
LEAST, MOST = 2.0**-4, 2.0**14
"""Maps whose largest magnitude lies between these are stored as they are; others are scaled, for float16's sake."""


def columns_of(contents: Sequence[str], *, health: bool) -> list[str]:
    """The columns of the index, in order."""
    own = [*NUMBERS, "doubt"] if health else []
    names = {"boxes": "boxes", "masks": "mask", "points": "points", "maps": "scale"}
    own += [names[one] for one in ("boxes", "masks", "points", "maps") if one in contents]
    named = ["id", "source", "width", "height", "map", "number", "text", "score", "flat", *own]
    return [*named, *(name for name in COLUMNS if "table" in contents and name not in named), "shard"]


def label_columns_of(contents: Sequence[str], *, health: bool) -> list[str]:
    """The columns of the index of segmentations, in order."""
    own = ["presence", "doubt"] if health else []
    own += [name for one, name in (("boxes", "boxes"), ("masks", "mask")) if one in contents]
    return ["id", "source", "width", "height", "number", "class", "area", "confidence", *own, "shard"]


def word_columns_of(contents: Sequence[str], *, health: bool) -> list[str]:
    """The columns of the index of words, in order."""
    return ["id", "source", "width", "height", "number", "text", "score", *contents, "shard"]


@dataclass(frozen=True)
class Record:
    """An image's sample: its files by their ending, and what its JSON says."""

    files: dict[str, bytes]
    info: dict[str, Any]


def check_contents(contents: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The contents in the order of the known ones.

    Raises:
        OptionError: one is unknown, or they are not in a list.
    """
    if isinstance(contents, str) or not isinstance(contents, Iterable):
        raise OptionError(f"write must be a list, such as {[known[0]]}, got {contents!r}.")
    contents = tuple(contents)
    for one in contents:
        one_of(one, "write", known)
    return tuple(one for one in known if one in contents)


def record(explanation: Explanation, image: int, contents: Sequence[str], max_side: int | None = None) -> Record:
    """What is written of an image.

    The info has "source", "width", "height", "map" [row, col], and "texts": for each text "text", "score", "flat", the
    health numbers and "doubt" if they are known, and what was asked for: "boxes" [[left, top, right, bottom], ...],
    "mask" as COCO's uncompressed RLE, "points" [[x, y, label], ...] for SAM, and for "table" all that `rows_of` has.
    "maps" is "npy" of (text, row, col) in float16; the map of a text is its row times its "scale", a power of two.
    Overlays have at most `max_side` pixels on a side.
    """
    files, (width, height) = dict[str, bytes](), explanation.sizes[image]
    shape = list(explanation.maps.shape[2:])
    told = [_text(explanation, image, text, contents) for text in range(len(explanation.texts))]
    if "maps" in contents:
        scales = [scale_of(one) for one in explanation.maps[image]]
        stored = (explanation.maps[image] / np.array(scales, dtype=np.float32)[:, None, None]).astype(np.float16)
        files["maps.npy"] = _npy(stored)
        for one, scale in zip(told, scales, strict=True):
            one["scale"] = scale
    if "overlays" in contents:
        for text in range(len(explanation.texts)):
            files[f"{text}.png"] = png(explanation.overlay(image, text, max_side=max_side))
    info = {"source": explanation.sources[image], "width": width, "height": height, "map": shape, "texts": told}
    return Record(files, info)


def label_record(segmentation: Segmentation, image: int, contents: Sequence[str]) -> Record:
    """What is written of a segmented image.

    The info has "source", "width", "height", and "classes": for each class that has pixels, the largest first, "number"
    (its label), "class", "area" (its share of the pixels), "confidence" (the mean over these), "presence" and "doubt"
    if they are known, and what was asked for: "boxes" and "mask" as in `record`, of every class but the background.
    "labels" is a PNG of label values, as `eclip segment` writes it; "confidences" is "npy" of (height, width), float16.
    """
    files, labels = dict[str, bytes](), segmentation.labels[image]
    confidence, areas = segmentation.confidences[image], segmentation.areas(image)
    numbers = [segmentation.classes.index(name) for name in areas]
    doubts = segmentation.doubts(image)
    told = []
    for number, (name, area) in zip(numbers, areas.items(), strict=True):
        mask = labels == number
        one: dict[str, Any] = {"number": number, "class": name, "area": round(area, 6)}
        one["confidence"] = round(float(confidence[mask].mean(dtype=np.float64)), 6)
        if segmentation.presence is not None:
            value = float(segmentation.presence[image][number])
            one |= {"presence": None if math.isnan(value) else round(value, 4), "doubt": doubts.get(name, "")}
        if "boxes" in contents:
            one["boxes"] = heatmap.boxes(mask, min_area=LEAST_INSTANCE).tolist() if number else []
        if "masks" in contents:
            one["mask"] = {"size": list(mask.shape), "counts": runs(mask)} if number else None
        told.append(one)
    if "labels" in contents:
        files["labels.png"] = png(indexed(labels, len(segmentation.classes) - 1))
    if "confidences" in contents:
        files["confidences.npy"] = _npy(confidence.astype(np.float16))
    if "overlays" in contents:
        files["overlay.png"] = png(segmentation.overlay(image))
    height, width = labels.shape
    info = {"source": segmentation.sources[image], "width": width, "height": height, "classes": told}
    return Record(files, info)


def word_record(relevance: WordRelevance, image: int, size: tuple[int, int]) -> Record:
    """What is written of an image and the words of texts; `size` is its width and height.

    The info has "source", "width", "height", and "texts": for each "text", "score", and "words", each with its "word",
    "value" and "share", as in the manifest of `eclip words`.
    """
    width, height = size
    info = {"source": relevance.sources[image], "width": width, "height": height, "texts": relevance.entries(image)}
    return Record({}, info)


def _text(explanation: Explanation, image: int, text: int, contents: Sequence[str]) -> dict[str, Any]:
    flat, health = explanation.flat, explanation.health
    told: dict[str, Any] = {"text": explanation.texts[text], "score": round(float(explanation.scores[image, text]), 6)}
    told["flat"] = bool(flat is not None and flat[image, text])
    if health is not None:
        for name in NUMBERS:
            value = float(getattr(health, name)[image, text])
            told[name] = None if math.isnan(value) else round(value, 4)
        told["doubt"] = health.doubts(image)[text]
    if {"boxes", "masks", "table"} & set(contents):
        mask = explanation.mask(image, text)
        if "boxes" in contents:
            told["boxes"] = heatmap.boxes(mask, min_area=None).tolist()
        if "masks" in contents:
            told["mask"] = {"size": list(mask.shape), "counts": runs(mask)}
        if "table" in contents:
            told = {**row_of(explanation, image, text, mask), **told}
    if "points" in contents and "table" not in contents:
        places, labels = explanation.points(image, text)
        told["points"] = [[*place, label] for place, label in zip(places.tolist(), labels.tolist(), strict=True)]
    return told


def scale_of(values: Float[np.ndarray, "row col"]) -> float:
    """The power of two by which a map is divided before it is stored as float16; usually 1."""
    largest = float(np.abs(values).max())
    return 1.0 if LEAST <= largest <= MOST or largest == 0 else 2.0 ** math.floor(math.log2(largest))


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def dumped(info: dict[str, Any]) -> bytes:
    """JSON on one line, the same bytes for the same content."""
    text = json.dumps(info, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")
