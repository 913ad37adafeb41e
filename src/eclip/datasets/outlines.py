"""COCO's annotations: objects as polygons and run lengths, read from the JSON when a mask is asked for."""

from __future__ import annotations

import importlib.util
import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from eclip.datasets.decoders import BACKGROUND, VOID, Numbers, Table, indexed
from eclip.datasets.masks import Lazy, Masked
from eclip.datasets.records import records
from eclip.errors import DataError, MissingExtraError
from eclip.photos import Place

Span = tuple[int, int]
"""(offset, size) of an annotation in its file, in bytes."""


@dataclass(frozen=True)
class Outlines:
    """Paints the objects of a photo, from large to small, so that a small thing on a large one keeps its pixels.

    A region of a crowd is void where no object covers it.

    Attributes:
        spans: of its annotations.
        shape: (height, width) of the photo as annotated.
        numbers: class number of each category id.
        ground: a picture with what lies under the objects; None: background.
        table: class numbers of its values.
    """

    spans: tuple[Span, ...]
    shape: tuple[int, int]
    numbers: Mapping[int, int] = field(repr=False)
    ground: Path | None = None
    table: Table = ()

    def __call__(self, file: Path | Place) -> Numbers:
        """The mask.

        Raises:
            DataError: an annotation is not of COCO's form.
            ImageError: the ground cannot be read.
        """
        assert isinstance(file, Path), "annotations are a file of their own"
        mask = self._ground()
        try:
            with open(file, "rb") as stream:
                objects = [_object(stream, at, size) for at, size in self.spans]
            crowds = [one for one in objects if one.get("iscrowd", 0)]
            things = sorted((one for one in objects if not one.get("iscrowd", 0)), key=lambda one: -one["area"])
            for one in crowds:
                mask[_inside(one["segmentation"], self.shape)] = VOID
            for one in things:
                mask[_inside(one["segmentation"], self.shape)] = self.numbers[one["category_id"]]
        except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(f"{file} has annotations that are not of COCO's form: {error!r}.") from error
        return mask

    def _ground(self) -> Numbers:
        if self.ground is None:
            return np.full(self.shape, BACKGROUND, dtype=np.uint16)
        ground = indexed(self.ground, self.table)
        if ground.shape != self.shape:
            raise DataError(f"{self.ground} has (height, width) = {ground.shape}, the annotations {self.shape}.")
        return ground


@dataclass(frozen=True, eq=False)
class Annotated:
    """The photos of an annotation file, and where the annotations of each lie in it: 16 bytes an object.

    Attributes:
        file: the JSON.
        categories: name of each category id.
        names: file name of each photo.
        shapes: (height, width) of each.
        first: place of each photo's first span.
        spans: of all objects, those of a photo in a row.
    """

    file: Path
    categories: dict[int, str]
    names: list[str]
    shapes: NDArray[np.int32]
    first: NDArray[np.int64]
    spans: NDArray[np.int64]

    def items(self, photos: Path, numbers: Mapping[int, int], ground: Path | None = None, table: Table = ()) -> Lazy:
        """The records.

        Args:
            photos: the folder of photos.
            numbers: class number of each category id.
            ground: a folder of PNGs with what lies under the objects.
            table: class numbers of their values.
        """
        shown = frozenset(numbers.values()) | {number for _, number in table if number not in (BACKGROUND, VOID)}
        return Lazy(range(len(self.names)), _Maker(self, photos, numbers, shown, ground, table))


@dataclass(frozen=True, eq=False)
class _Maker:
    annotated: Annotated
    photos: Path
    numbers: Mapping[int, int]
    shown: frozenset[int]
    ground: Path | None
    table: Table

    def __call__(self, place: int) -> Masked:
        whole, name = self.annotated, self.annotated.names[place]
        spans = whole.spans[whole.first[place] : whole.first[place + 1]].tolist()
        height, width = whole.shapes[place].tolist()
        ground = None if self.ground is None else self.ground / f"{Path(name).stem}.png"
        outlines = Outlines(tuple((at, size) for at, size in spans), (height, width), self.numbers, ground, self.table)
        return Masked(Path(name).stem, self.photos / name, whole.file, self.shown, outlines)


def read_outlines(file: Path) -> Annotated:
    """Where all objects of an annotation file lie in it; it is read once, a piece at a time.

    Raises:
        DataError: it is not of COCO's form.
        MissingExtraError: pycocotools is not there.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise MissingExtraError("reading COCO's outlines", "pycocotools", "data")
    names: dict[int, str] = {}
    shapes: dict[int, tuple[int, int]] = {}
    categories: dict[int, str] = {}
    owners, spans = array("q"), array("q")
    try:
        for key, offset, size, one in records(file):
            if key == "images":
                names[one["id"]] = one["file_name"]
                shapes[one["id"]] = (one["height"], one["width"])
            elif key == "categories":
                categories[one["id"]] = one["name"].encode("latin-1").decode()
            elif key == "annotations":
                owners.append(one["image_id"])
                spans.extend((offset, size))
    except (KeyError, TypeError, AttributeError, UnicodeError) as error:
        raise DataError(f"{file} is not of COCO's form (images, annotations, categories): {error!r}.") from error
    if not names or not categories:
        raise DataError(f"{file} must have images and categories, as COCO's instances have.")
    places = {image: place for place, image in enumerate(sorted(names))}
    stray = next((owner for owner in owners if owner not in places), None)
    if stray is not None:
        raise DataError(f"{file} has an annotation of the image {stray}, which it does not list.")
    owner = np.array([places[one] for one in owners], dtype=np.int64)
    order = np.argsort(owner, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(names)))])
    ids = sorted(names)
    return Annotated(
        file,
        dict(sorted(categories.items())),
        [names[one] for one in ids],
        np.array([shapes[one] for one in ids], dtype=np.int32),
        first.astype(np.int64),
        np.array(spans, dtype=np.int64).reshape(-1, 2)[order],
    )


def _object(stream: IO[bytes], at: int, size: int) -> dict[str, Any]:
    stream.seek(at)
    return json.loads(stream.read(size))


def _inside(segmentation: Any, shape: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """Pixels of a list of polygons, or of run lengths, packed as text or not."""
    from pycocotools import mask as coco

    if isinstance(segmentation, dict) and tuple(segmentation["size"]) != shape:
        raise ValueError(f"run lengths of size {segmentation['size']} in a photo of {list(shape)}")
    if not isinstance(segmentation, dict) and not (segmentation and all(len(polygon) > 5 for polygon in segmentation)):
        raise ValueError("an object without a polygon of three corners")
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        runs = {"size": list(shape), "counts": segmentation["counts"].encode()}
    else:
        runs = coco.frPyObjects(segmentation, *shape)
    found = coco.decode(coco.merge(runs) if isinstance(runs, list) else runs)
    inside: Bool[np.ndarray, "height width"] = found.astype(bool)
    return inside
