"""Images whose pixels have class numbers, in one plain layout.

    images/NAME.jpg    the image, of any kind that is read (.png, .JPEG, .tif, .webp ...)
    masks/NAME.png     palette or gray, of the image's size, without loss; a value is a class number
    classes.txt        number, tab, name; or one class a line, which stands for its value (`read_classes`)
    index.tsv          optional: a header with a column `name`, a row an image; `group` joins what is not independent

In a mask of this layout 0 is background, which is no class, and 255 (of 16 bits, 65535) is void: nobody knows, and no
score counts it. Masks of a set with one class may be of 0 and 255 (`binary`). Other layouts of `eclip.DATASETS` make
the same records.
"""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from eclip.datasets.binary import taken
from eclip.datasets.layout import declares_void, read_classes, rows_of, some
from eclip.datasets.mask_files import BACKGROUND, VOID, indexed
from eclip.datasets.masked import Decode, Lazy, Masked, MaskSet, present, sides
from eclip.errors import DataError, DataWarning, OptionError
from eclip.images import EXTENSIONS

__all__ = [
    "BACKGROUND",
    "VOC_NAMES",
    "VOID",
    "Lazy",
    "MaskSet",
    "Masked",
    "listed_masks",
    "plain_items",
    "present",
    "read_masks",
    "sides",
]

# fmt: off
VOC_NAMES = dict(enumerate((
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
), start=1))
# fmt: on
"""PASCAL VOC's classes as MaskCLIP names them (Zhou et al. 2022, https://arxiv.org/abs/2112.01071); names alone move
results. For `read_masks(..., classes=VOC_NAMES)`."""


def read_masks(
    folder: str | Path,
    *,
    where: dict[str, str] | None = None,
    every: int = 1,
    first: int = 0,
    classes: dict[int, str] | None = None,
) -> MaskSet:
    """The images of a folder in the layout above; pictures are opened later, one by one.

    Args:
        folder: with `images/`, `masks/` and `classes.txt`.
        where: columns of `index.tsv` and the value that each must have, such as {"origin": "voc2012_val"}.
        every: of these, every so many-th image, at least 1.
        first: place of the first of them, from 0.
        classes: other names than those of `classes.txt`, such as `VOC_NAMES`; keys are class numbers, 1 to 65534.

    Returns:
        Images in the order of `index.tsv`; without one, by name.

    Raises:
        DataError: a folder or file is missing or not as it must be, or no image is left.
        OptionError: every, first or classes is outside its range.

    Warns:
        DataWarning: there is no `index.tsv`, and images have no mask of their name; files in `images/` are of no kind
            that is read; or masks were not taken for class numbers (`MaskSet.notes`).
    """
    if every < 1 or first < 0:
        raise OptionError(f"every must be at least 1 and first at least 0, got {every} and {first}.")
    found = listed_masks(Path(folder), where or {}, classes)
    chosen = tuple(found.items[first::every])
    if not chosen:
        count = len(found.items)
        raise DataError(f"{folder} has {count} images where {where or 'any'}; none is left from place {first} on.")
    for item in chosen:
        if why := item.missing():
            raise DataError(why)
    found.tell()
    return replace(found, items=chosen)


def listed_masks(
    folder: Path,
    where: dict[str, str],
    classes: dict[int, str] | None = None,
    group: Callable[[dict[str, str]], str] = lambda row: row.get("group", ""),
) -> MaskSet:
    """As `read_masks`, but no image's files are looked for, and what is to be told of masks is in the notes alone.

    Args:
        folder: as of `read_masks`.
        where: as of `read_masks`.
        classes: as of `read_masks`.
        group: of a row of the index; of one with a name alone, where there is no index.
    """
    if classes is not None and (not classes or min(classes) <= BACKGROUND or max(classes) >= VOID):
        raise OptionError(f"classes needs names of numbers from 1 to {VOID - 1}, got {classes}.")
    for needed in (folder, folder / "images", folder / "masks"):
        if not needed.is_dir():
            raise DataError(f"{needed}: no such folder. Images with masks have images/, masks/ and classes.txt in one.")
    listed = folder / "classes.txt"
    named, table = (classes, None) if classes is not None else read_classes(listed)
    decode: Decode = indexed if table is None else partial(indexed, table=table)
    rows = plain_rows(folder, where, group)
    items = plain_items(folder, rows, named, decode)
    other, note = taken(items, named, table, listed.is_file() and declares_void(listed))
    items = items if other is None else plain_items(folder, rows, named, other)
    return MaskSet(folder.resolve().name, dict(named), items, (note,) if note else ())


class PlainFiles(NamedTuple):
    """Files of a name in the plain layout, from `images/` and `masks/` on.

    Attributes:
        name: without ending.
        image: its file.
        mask: its file.
        group: of the image.
    """

    name: str
    image: str
    mask: str
    group: str


def plain_rows(folder: Path, where: dict[str, str], group: Callable[[dict[str, str]], str]) -> list[PlainFiles]:
    """What the index names, or without one each mask, in order; see `listed_masks`.

    Raises:
        DataError: the index cannot be read, or a name has two images, or two masks.

    Warns:
        DataWarning: images are left out, having no mask, or being of no kind that is read.
    """
    index = folder / "index.tsv"
    images, masks = folder / "images", folder / "masks"
    if index.exists() or where:
        rows = [row for row in rows_of(index, {"name", *where}) if all(row[key] == where[key] for key in where)]
        inside = {os.path.dirname(row["name"]) for row in rows} | {""}
        pictures, passed = _pictures(images, inside)
        for row in rows:  # names may have their ending
            stem, kind = os.path.splitext(row["name"])
            if kind.lower() in EXTENSIONS and row["name"] not in pictures and row["name"] in pictures.get(stem, ()):
                row["name"] = stem
        drawn, _ = _pictures(masks, inside)
    else:
        pictures, passed = _pictures(images, {""})
        drawn, _ = _pictures(masks, {""})
        rows = [{"name": name} for name in sorted(drawn)]
        if left := sorted(pictures.keys() - drawn.keys()):
            _tell(
                f"{len(left)} of {len(pictures)} images in {images} have no mask of their name and are left out: "
                f"{some(left)}."
            )
    names = [row["name"] for row in rows]
    for at, known in ((images, pictures), (masks, drawn)):
        if twice := next((known[name] for name in names if len(known.get(name, ())) > 1), None):
            raise DataError(f"{at} must have one of {' and '.join(twice)}, got {'both' if len(twice) == 2 else 'all'}.")
    unread = {os.path.splitext(one)[0] for one in passed} - pictures.keys()
    if passed:
        masked = sum(name in unread for name in names)
        also = f", and so are the masks of {masked} of them" if masked else ""
        _tell(
            f"{len(passed)} file{'s' * (len(passed) > 1)} in {images} of no kind that is read: {some(passed)}, passed "
            f"over{also}. Save them as JPEG or PNG."
        )
    return [
        PlainFiles(
            name, pictures.get(name, [f"{name}.jpg"])[0], drawn.get(name, [f"{name}.png"])[0], group(row).strip()
        )
        for name, row in zip(names, rows, strict=True)
        if name not in unread
    ]


def plain_items(folder: Path, rows: Sequence[PlainFiles], classes: Iterable[int], decode: Decode) -> Lazy:
    """Records of rows of the plain layout."""
    return Lazy(rows, partial(_plain, folder, frozenset(classes), decode))


def _plain(folder: Path, numbers: frozenset[int], decode: Decode, row: PlainFiles) -> Masked:
    return Masked(row.name, folder / "images" / row.image, folder / "masks" / row.mask, numbers, decode, row.group)


def beside(
    names: Sequence[str], images: Path, masks: Path, classes: Iterable[int], decode: Decode = indexed, end: str = ".png"
) -> Lazy:
    """Records of images in one folder and their masks in another, under the same names.

    Args:
        names: of the images, with folders below `images` and ending.
        images: the folder of images.
        masks: the folder of masks.
        classes: numbers that masks may show.
        decode: what reads a mask.
        end: what stands in the name of a mask for the image's ending.
    """
    return Lazy(names, partial(_beside, images, masks, frozenset(classes), decode, end))


def _beside(images: Path, masks: Path, numbers: frozenset[int], decode: Decode, end: str, image: str) -> Masked:
    name = os.path.splitext(image)[0]
    return Masked(name, images / image, masks / f"{name}{end}", numbers, decode)


def _pictures(folder: Path, inside: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Files of a kind that is read by their names without ending, and all other files that are not hidden.

    Args:
        folder: in which they are.
        inside: folders below that are looked into, "" for itself.
    """
    found: dict[str, list[str]] = defaultdict(list)
    passed: list[str] = []
    for below in sorted(inside):
        if not (folder / below).is_dir():
            continue
        for entry in sorted(os.scandir(folder / below), key=lambda one: one.name):
            stem, kind = os.path.splitext(os.path.join(below, entry.name))
            if kind.lower() in EXTENSIONS:
                found[stem].append(stem + kind)
            elif not entry.name.startswith(".") and entry.name not in _NOT_OURS and entry.is_file():
                passed.append(stem + kind)
    return dict(found), passed


_NOT_OURS = ("Thumbs.db", "desktop.ini")


def _tell(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)
