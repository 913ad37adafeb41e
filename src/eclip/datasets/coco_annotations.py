"""COCO's annotations: objects as polygons and run lengths, painted into label maps by `eclip datasets prepare`.

The whole file is read, as COCO's own tools do, but only once: afterwards, only PNGs are read.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
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
"""In that folder: maps the name of each label map to the file of its image."""
MOST_TOLD = 3
"""How many annotations that cannot be painted are listed; of the others, only the number is."""


class Objects(NamedTuple):
    """An image and its annotations: file, annotated (height, width), objects."""

    name: str
    shape: tuple[int, int]
    objects: list[dict[str, Any]]

    def painted(self, numbers: Mapping[int, int], ground: Numbers | None = None) -> Numbers:
        """Paint the objects from large to small, so that a small object on a large one keeps its pixels.

        The size of an object is its number of pixels, not the annotated area. A crowd region is void where no object
        covers it. Whatever cannot be painted is left out, as `read_annotations` reports.

        Args:
            numbers: class number of each category id.
            ground: the label map below the objects; None = background.
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
    """An annotation file: the JSON, the name of each category id, ascending, and images in the order of their ids."""

    file: Path
    categories: dict[int, str]
    images: list[Objects]


def images_of(root: Path, split: str) -> Path:
    """The folder of the images of a split."""
    return either(root, split, f"images/{split}")


def prepared(root: Path, folder: str, images: Path) -> tuple[dict[int, str], Lazy]:
    """Classes and records of the label maps that `write_masks` wrote.

    Raises:
        LayoutError: they have not been written.
        DataError: a file was changed since.
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
    """Write the label map of each image of `instances_SPLIT.json` into eclip_masks/FOLDER, which appears when complete.

    Args:
        root: of the data set.
        folder: of the label maps.
        split: of the annotations.
        plan: maps the annotations to the names of classes and a function that paints an image.
        progress: called with the number of images done and the total.

    Raises:
        DataError: the annotations are not in COCO's format, or none can be painted.
        ResultError: the folder cannot be written.
        MissingExtraError: pycocotools is not installed.

    Warns:
        DataWarning: annotations, or parts of them, cannot be painted and are left out.
    """
    whole = root / PREPARED / folder
    if whole.is_dir():
        return whole
    images_of(root, split)
    file = either(root, f"annotations/instances_{split}.json", f"instances_{split}.json")
    found = read_annotations(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    part = root / PREPARED / f"{folder}.{digest}.part"  # so that a run goes on only with the same annotations
    classes, paint = plan(found)
    stems = Counter(Path(one.name).stem for one in found.images)
    files: dict[str, str] = {}
    try:
        for other in {*whole.parent.glob(f"{folder}.*part")} - {part}:
            shutil.rmtree(other)
        part.mkdir(parents=True, exist_ok=True)
        for done, one in enumerate(found.images, 1):
            stem = Path(one.name).stem
            name = stem if stems[stem] == 1 else one.name.replace("/", "_")
            if files.setdefault(name, one.name) != one.name:
                raise DataError(
                    f"the images {files[name]} and {one.name} would have one label map: rename one of them."
                )
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
    """Read an annotation file; raises and warns like `write_masks`."""
    if importlib.util.find_spec("pycocotools") is None:
        raise MissingExtraError("reading COCO's outlines", "pycocotools", "data")
    whole = _json(file)
    images: dict[int, Objects] = {}
    named: dict[str, int] = {}
    lacking: list[str] = []
    lost = 0
    try:
        categories = dict(sorted({one["id"]: _named(one, "name") for one in whole.get("categories", ())}.items()))
        for one in whole.get("images", ()):
            if one["id"] in images:
                raise ValueError(f"the image {one['id']} is listed twice")
            name = _named(one, "file_name")
            if name in named:
                raise ValueError(f"the file {name} is listed twice, as images {named[name]} and {one['id']}")
            named[name] = one["id"]
            images[one["id"]] = Objects(name, (int(one["height"]), int(one["width"])), [])
        annotations: Sequence[dict[str, Any]] = whole.get("annotations", ())
        for one in annotations:
            if (image := images.get(one["image_id"])) is None:
                raise DataError(f"{file} has an annotation of image {one['image_id']}, which it does not list.")
            image.objects.append(one)
            wrong, left = wrong_with(one.get("segmentation"), image.shape)
            this = f"annotation {one.get('id', 'without id')} of {image.name}"
            if wrong:
                lacking.append(f"{this}: {wrong}{', its other parts are used' if left else ''}")
            if strange := one.get("category_id") not in categories:
                lacking.append(f"{this}: its category {one.get('category_id')} is not listed")
            lost += strange or not left
        listed = [images[one] for one in sorted(images)]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} is not in COCO's format (images, annotations, categories): {error!r}.") from error
    if not images or not categories:
        raise DataError(f"{file} must list images and categories, as COCO's instances files do.")
    if lacking:
        more = [f"and {len(lacking) - MOST_TOLD:,} more"] if len(lacking) > MOST_TOLD else []
        told = "; ".join(lacking[:MOST_TOLD] + more)
        said = f"{len(lacking):,} of {len(annotations):,} annotations of {file} are not valid outlines"
        if lost == len(annotations):
            raise DataError(f"{said}, so no object is left ({told}): the file must contain outlines.")
        message = f"{said} and are left out as far as they cannot be painted: {told}."
        warnings.warn(message, DataWarning, stacklevel=5)
    return Annotated(file, categories, listed)


def _json(file: Path) -> dict[str, Any]:
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
        raise DataError(f"{file} is truncated or not JSON: {getattr(error, 'msg', error)}. Fetch it again.") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} must be a JSON object, got a {type(found).__name__}.")
    return found


def _is_crowd(one: Mapping[str, Any]) -> bool:
    return one.get("iscrowd") in (1, True, "1")


def _named(one: Mapping[str, Any], key: str) -> str:
    """A name without line breaks, not empty and valid Unicode, which all our text files can hold."""
    name = " ".join(one[key].split()) if key == "name" else one[key]
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{key} {name!r} is not valid Unicode") from error
    if not name:
        raise ValueError(f"{key} is empty")
    return str(name)
