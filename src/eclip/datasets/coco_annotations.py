"""COCO's annotations: objects as polygons and run lengths, painted into label maps by `eclip datasets prepare`.

The file is read as a whole, which is what the tools of COCO do too, but once: what is read later are PNGs.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eclip.datasets.layout import either, read_classes, top
from eclip.datasets.mask_files import BACKGROUND, VOID, Numbers, write_indexed
from eclip.datasets.masked import Lazy, Masked
from eclip.datasets.shapes import inside, wrong_with
from eclip.errors import DataError, DataWarning, MissingExtraError, ResultError

PREPARED = "eclip_masks"
"""The folder of label maps that `prepare` makes, below the root."""
IMAGES = "images.json"
"""In that folder: the file of each image by the name of its label map."""
MOST_TOLD = 3
"""Of more annotations that cannot be painted, their number is told."""


class Objects(NamedTuple):
    """An image and its annotations: its file, its (height, width) as annotated, its objects."""

    name: str
    shape: tuple[int, int]
    objects: list[dict[str, Any]]

    def painted(self, numbers: Mapping[int, int], ground: Numbers | None = None) -> Numbers:
        """Paint the objects from large to small, so that a small object on a large one keeps its pixels.

        How large an object is follows from its pixels, not from what an annotation says of its area. A region of a
        crowd is void where no object covers it. What cannot be painted is left out, as `read_annotations` tells.

        Args:
            numbers: class number of each category id.
            ground: what lies under the objects; None: background.
        """
        mask = np.full(self.shape, BACKGROUND, dtype=np.uint16) if ground is None else ground
        shapes = [(one, inside(one.get("segmentation"), self.shape)) for one in self.objects]
        for one, shape in shapes:
            if _is_crowd(one):
                mask[shape] = VOID
        for one, shape in sorted(shapes, key=lambda both: -int(both[1].sum())):
            if not _is_crowd(one) and one.get("category_id") in numbers:
                mask[shape] = numbers[one["category_id"]]
        return mask


@dataclass(frozen=True, eq=False)
class Annotated:
    """An annotation file.

    Attributes:
        file: the JSON.
        categories: name of each category id, ascending.
        images: in the order of their ids.
    """

    file: Path
    categories: dict[int, str]
    images: list[Objects]


def images_of(root: Path, split: str) -> Path:
    """The folder of images of a split."""
    return either(root, split, f"images/{split}")


def prepared(root: Path, folder: str, images: Path) -> tuple[dict[int, str], Lazy]:
    """Classes and records of label maps that `write_masks` made.

    Raises:
        LayoutError: it has not.
        DataError: a file is not as it was made.
    """
    whole = top(root, (f"{PREPARED}/{folder}/{IMAGES}",)) / PREPARED / folder
    classes, _ = read_classes(whole / "classes.txt")
    files = _json(whole / IMAGES)
    return classes, Lazy([*files.items()], partial(_masked, images, whole, frozenset(classes)))


def _masked(images: Path, masks: Path, numbers: frozenset[int], names: tuple[str, str]) -> Masked:
    name, image = names
    return Masked(name, images / image, masks / f"{name}.png", numbers)


def write_masks(
    root: Path,
    folder: str,
    split: str,
    plan: Callable[[Annotated], tuple[dict[int, str], Callable[[Objects], Numbers]]],
    progress: Callable[[int, int], None],
) -> Path:
    """Write the label map of each image of `instances_SPLIT.json` into eclip_masks/FOLDER, which is there when all are.

    Args:
        root: of the data set.
        folder: of the label maps.
        split: of the annotations.
        plan: from the annotations to the names of classes and to what paints an image.
        progress: hears how many images are done, of how many.

    Raises:
        DataError: the annotations are not of COCO's form, or nothing of them can be painted.
        ResultError: the folder cannot be written.
        MissingExtraError: pycocotools is not there.

    Warns:
        DataWarning: annotations cannot be painted, or not in all their parts; the rest is.
    """
    whole, part = root / PREPARED / folder, root / PREPARED / f"{folder}.part"
    if whole.is_dir():
        return whole
    images_of(root, split)
    found = read_annotations(either(root, f"annotations/instances_{split}.json", f"instances_{split}.json"))
    classes, paint = plan(found)
    stems = Counter(Path(one.name).stem for one in found.images)
    files: dict[str, str] = {}
    try:
        part.mkdir(parents=True, exist_ok=True)
        for done, one in enumerate(found.images, 1):
            stem = Path(one.name).stem
            name = stem if stems[stem] == 1 else one.name.replace("/", "_")
            files[name] = one.name
            if not (file := part / f"{name}.png").exists():
                write_indexed(file, paint(one))
            progress(done, len(found.images))
        rows = "".join(f"{number}\t{name}\n" for number, name in classes.items())
        (part / "classes.txt").write_text(rows, encoding="utf-8")
        (part / IMAGES).write_text(json.dumps(files, ensure_ascii=False), encoding="utf-8")
        part.rename(whole)
    except OSError as error:
        raise ResultError(f"{part} cannot be written: {error.strerror or error}.") from error
    return whole


def read_annotations(file: Path) -> Annotated:
    """All of an annotation file; raises and warns as `write_masks`."""
    if importlib.util.find_spec("pycocotools") is None:
        raise MissingExtraError("reading COCO's outlines", "pycocotools", "data")
    whole = _json(file)
    images: dict[int, Objects] = {}
    lacking: list[tuple[dict[str, Any], str, str, bool]] = []  # what, its image, what is wrong, is something left?
    lost = 0
    try:
        categories = {one["id"]: _named(one, "name") for one in whole.get("categories", ())}
        for one in whole.get("images", ()):
            if one["id"] in images:
                raise ValueError(f"the image {one['id']} is listed twice")
            images[one["id"]] = Objects(_named(one, "file_name"), (int(one["height"]), int(one["width"])), [])
        annotations: Sequence[dict[str, Any]] = whole.get("annotations", ())
        for one in annotations:
            if (image := images.get(one["image_id"])) is None:
                stray = f"{file} has an annotation of the image {one['image_id']}, which it does not list."
                raise DataError(stray)
            image.objects.append(one)
            wrong, left = wrong_with(one.get("segmentation"), image.shape)
            lacking += [(one, image.name, wrong, left)] if wrong else []
            if strange := one.get("category_id") not in categories:
                lacking.append((one, image.name, f"its category {one.get('category_id')} is not listed", False))
            lost += strange or not left
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} is not of COCO's form (images, annotations, categories): {error!r}.") from error
    if not images or not categories:
        raise DataError(f"{file} must have images and categories, as COCO's instances have.")
    if lacking:
        rest = {True: ", the rest of it counts", False: ""}
        told = "; ".join(
            f"annotation {one.get('id', 'without id')} of {name}: {why}{rest[left]}"
            for one, name, why, left in lacking[:MOST_TOLD]
        ) + (f"; and {len(lacking) - MOST_TOLD:,} more" if len(lacking) > MOST_TOLD else "")
        said = f"{len(lacking):,} of {len(annotations):,} annotations of {file} cannot be painted as they are"
        if lost == len(annotations):
            raise DataError(f"{said}, so that no object is left ({told}): outlines are needed.")
        message = f"{said}, and what cannot is left out, as if it were not there: {told}."
        warnings.warn(message, DataWarning, stacklevel=5)
    return Annotated(file, dict(sorted(categories.items())), [images[one] for one in sorted(images)])


def _json(file: Path) -> dict[str, Any]:
    """What a file that is one JSON object holds.

    Raises:
        DataError: it cannot be read, is no such JSON, or is of another encoding.
    """
    try:
        data = file.read_bytes()
        if b"\0" in data[:4] or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{file} is not UTF-8 (it looks like UTF-16 or UTF-32): save it as UTF-8.")
        found = json.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        where = f"{error.reason}, {error.object[error.start]:#x} at byte {error.start:,}"
        raise DataError(f"{file} is not UTF-8 ({where}): save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} is cut short, or no JSON: {getattr(error, 'msg', error)}. Fetch it again.") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} must be a JSON object, got a {type(found).__name__}.")
    return found


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
