"""COCO's annotations: objects as polygons and run lengths, read from the JSON when a mask is asked for."""

from __future__ import annotations

import importlib.util
import json
import warnings
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from eclip.datasets.mask_files import BACKGROUND, VOID, Numbers, Table, indexed
from eclip.datasets.masked import Lazy, Masked
from eclip.datasets.records import records
from eclip.datasets.shapes import inside, wrong_with
from eclip.errors import DataError, DataWarning, MissingExtraError
from eclip.images import Place

MOST_TOLD = 3
"""Of more annotations that cannot be painted, their number is told."""
Span = tuple[int, int]
"""(offset, size) of an annotation in its file, in bytes."""


@dataclass(frozen=True)
class Outlines:
    """Paints the objects of a photo, from large to small, so that a small object on a large one keeps its pixels.

    How large an object is follows from its pixels, not from what an annotation says of its area. A region of a crowd is
    void where no object covers it. What cannot be painted is left out, as `read_outlines` tells.

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
            objects = [one for one in objects if _is_crowd(one) or one.get("category_id") in self.numbers]
            shapes = [inside(one.get("segmentation"), self.shape) for one in objects]
            areas = [int(shape.sum()) for shape in shapes]
            for one, shape in zip(objects, shapes, strict=True):
                if _is_crowd(one):
                    mask[shape] = VOID
            for place in sorted(range(len(objects)), key=lambda place: -areas[place]):
                if not _is_crowd(objects[place]):
                    mask[shapes[place]] = self.numbers[objects[place]["category_id"]]
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

    @cached_property
    def is_alone(self) -> list[bool]:
        """Whether no other photo has the name of each, but for folder and ending."""
        stems = [Path(name).stem for name in self.names]
        counts = Counter(stems)
        return [counts[stem] == 1 for stem in stems]

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
        called = Path(name).stem if whole.is_alone[place] else name.replace("/", "_")
        return Masked(called, self.photos / name, whole.file, self.shown, outlines)


def read_outlines(file: Path) -> Annotated:
    """Where all objects of an annotation file lie in it; it is read once, a piece at a time.

    Raises:
        DataError: it is not of COCO's form, or nothing of it can be painted.
        MissingExtraError: pycocotools is not there.

    Warns:
        DataWarning: annotations cannot be painted, or not in all their parts; the rest is.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise MissingExtraError("reading COCO's outlines", "pycocotools", "data")
    names: dict[int, str] = {}
    shapes: dict[int, tuple[int, int]] = {}
    categories: dict[int, str] = {}
    owners, spans, kinds = array("q"), array("q"), array("q")
    lacking: list[tuple[int, str, bool]] = []  # place of an annotation, what is wrong, whether something is left
    later: list[int] = []  # places of annotations before their image
    try:
        for key, offset, size, one in records(file):
            if key == "images":
                twice = one["id"] in names
                names[one["id"]] = _named(one, "file_name")
                shapes[one["id"]] = (int(one["height"]), int(one["width"]))
                if twice:
                    raise ValueError(f"the image {one['id']} is listed twice")
            elif key == "categories":
                categories[one["id"]] = _named(one, "name")
            elif key == "annotations":
                place = len(owners)
                owners.append(one["image_id"])
                spans.extend((offset, size))
                kind = one.get("category_id")
                kinds.append(kind if isinstance(kind, int) else -1)
                if (shape := shapes.get(one["image_id"])) is None:
                    later.append(place)
                elif (wrong := wrong_with(one.get("segmentation"), shape))[0]:
                    lacking.append((place, *wrong))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} is not of COCO's form (images, annotations, categories): {error!r}.") from error
    if not names or not categories:
        raise DataError(f"{file} must have images and categories, as COCO's instances have.")
    places = {image: place for place, image in enumerate(sorted(names))}
    stray = next((owner for owner in owners if owner not in places), None)
    if stray is not None:
        raise DataError(f"{file} has an annotation of the image {stray}, which it does not list.")
    with open(file, "rb") as stream:
        for place in later:
            one = _object(stream, *spans[2 * place : 2 * place + 2])
            if (wrong := wrong_with(one.get("segmentation"), shapes[owners[place]]))[0]:
                lacking.append((place, *wrong))
    strange = [place for place, kind in enumerate(kinds) if kind not in categories]
    lacking += [(place, f"its category {kinds[place]} is not listed", False) for place in strange]
    if lacking:
        _tell(file, sorted(lacking), spans, [names[one] for one in owners])
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


def _tell(file: Path, lacking: Sequence[tuple[int, str, bool]], spans: Sequence[int], photos: Sequence[str]) -> None:
    """Say which annotations cannot be painted, or not in all their parts.

    Raises:
        DataError: none can.
    """
    told = []
    with open(file, "rb") as stream:
        for place, why, left in lacking[:MOST_TOLD]:
            one = _object(stream, *spans[2 * place : 2 * place + 2])
            rest = ", the rest of it counts" if left else ""
            told.append(f"annotation {one.get('id', 'without id')} of {photos[place]}: {why}{rest}")
    more = f"; and {len(lacking) - MOST_TOLD:,} more" if len(lacking) > MOST_TOLD else ""
    said = f"{len(lacking):,} of {len(photos):,} annotations of {file} cannot be painted as they are"
    if not any(left for _, _, left in lacking) and len({place for place, *_ in lacking}) == len(photos):
        raise DataError(f"{said}, so that no object is left ({'; '.join(told)}{more}): outlines are needed.")
    warnings.warn(
        f"{said}, and what cannot is left out, as if it were not there: {'; '.join(told)}{more}.",
        DataWarning,
        stacklevel=6,
    )


def _object(stream: IO[bytes], at: int, size: int) -> dict[str, Any]:
    stream.seek(at)
    return json.loads(stream.read(size))


def _is_crowd(one: Mapping[str, Any]) -> bool:
    return one.get("iscrowd") in (1, True, "1")


def _named(one: Mapping[str, Any], key: str) -> str:
    """A name in one line, as all text files of ours can hold it.

    Raises:
        ValueError: it is empty, or no Unicode.
    """
    name = " ".join(one[key].split()) if key == "name" else one[key]
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{key} {name!r} is no Unicode") from error
    if not name:
        raise ValueError(f"{key} is empty")
    return str(name)
