"""Images with masks of class numbers, in one plain layout.

    images/NAME.jpg    the image, in any supported format (.png, .JPEG, .tif, .webp ...)
    masks/NAME.png     palette or gray, lossless, of the image's size; values are class numbers
    classes.txt        number, tab, name; or one class per line, whose position is its value (`read_classes`)
    index.tsv          optional: a header with a column `name`, one row per image; `group` joins dependent images

In a mask of this layout 0 is background, which is not a class, and 255 (65535 with 16 bits) is void, which no score
counts. Masks of a set with one class may be binary, with 0 and 255 (`binary`). Other layouts of `eclip.DATASETS` yield
the same records.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from eclip.datasets.binary import meaning, taken
from eclip.datasets.layout import declares_void, read_classes, rows_of, some, top
from eclip.datasets.mask_files import BACKGROUND, VOID, indexed
from eclip.datasets.masked import Decode, Lazy, Masked, MaskSet, present, sides
from eclip.errors import DataError, DataWarning, OptionError
from eclip.images import EXTENSIONS

__all__ = ["BACKGROUND", "VOC_NAMES", "VOID", "Lazy", "MaskSet", "Masked", "present", "read_masks", "sides"]

# fmt: off
VOC_NAMES = dict(enumerate((
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
), start=1))
# fmt: on
"""PASCAL VOC's classes as MaskCLIP names them (Zhou et al. 2022, https://arxiv.org/abs/2112.01071); names alone change
results. For `read_masks(..., classes=VOC_NAMES)`."""


def read_masks(
    folder: str | Path,
    *,
    where: dict[str, str] | None = None,
    every: int = 1,
    first: int = 0,
    classes: dict[int, str] | None = None,
) -> MaskSet:
    """List the images of a folder in the layout above; each is opened later, when it is needed.

    Args:
        folder: with `images/`, `masks/` and `classes.txt`.
        where: columns of `index.tsv` with the value that each must have, such as {"origin": "voc2012_val"}.
        every: take every N-th of these images, at least 1.
        first: position of the first one, from 0.
        classes: names to use instead of `classes.txt`, such as `VOC_NAMES`; keys are class numbers, 1 to 65534.

    Returns:
        Images in the order of `index.tsv`; without one, sorted by name.

    Raises:
        DataError: a folder or file is missing or malformed, or no image is left.
        OptionError: every, first or classes is outside its range.

    Warns:
        DataWarning: there is no `index.tsv`, and images have no mask of the same name; files in `images/` have an
            unsupported format; or masks are not interpreted as class numbers (`MaskSet.notes`).
    """
    if every < 1 or first < 0:
        raise OptionError(f"every must be at least 1 and first at least 0, got {every} and {first}.")
    found = listed_masks(Path(folder), where or {}, classes)
    chosen = tuple(found.items[first::every])
    if not chosen:
        count = len(found.items)
        raise DataError(f"{folder} has {count} images with {where or 'any value'}; none is left from {first=} on.")
    for item in chosen:
        if why := item.missing():
            raise DataError(why)
    found.warn_of_notes()
    return replace(found, items=chosen)


def folder(root: Path, _: str) -> MaskSet:
    """Custom `images/`, `masks/` and `classes.txt`, in the layout above."""
    top(root, ("images", "masks", "classes.txt"))
    return listed_masks(root, {})


def listed_masks(
    folder: Path,
    where: dict[str, str],
    classes: dict[int, str] | None = None,
    group: Callable[[dict[str, str]], str] = lambda row: row.get("group", ""),
) -> MaskSet:
    """Like `read_masks`, but without checking that files exist, and without warning of the notes.

    `group` maps a row of the index to its group; without an index, a row has only a name.
    """
    if classes is not None and (not classes or min(classes) <= BACKGROUND or max(classes) >= VOID):
        raise OptionError(f"classes must map numbers from 1 to {VOID - 1} to names, got {classes}.")
    for needed in (folder, folder / "images", folder / "masks"):
        if not needed.is_dir():
            raise DataError(f"{needed}: no such folder. A folder of masks must have images/, masks/ and classes.txt.")
    listed = folder / "classes.txt"
    named, table = read_classes(listed) if classes is None or listed.is_file() else (classes, None)
    named = named if classes is None else classes
    rows = plain_rows(folder, where, group)
    declared = listed.is_file() and declares_void(listed)
    decode, notes = taken(plain_items(folder, rows, named, indexed), named, table, declared)
    return MaskSet(folder.resolve().name, dict(named), plain_items(folder, rows, named, decode), notes, meaning(decode))


class PlainFiles(NamedTuple):
    """The name of an image without extension, its files relative to `images/` and `masks/`, and its group."""

    name: str
    image: str
    mask: str
    group: str


def plain_rows(folder: Path, where: dict[str, str], group: Callable[[dict[str, str]], str]) -> list[PlainFiles]:
    """List the rows of the index, or without one all masks, in order; see `listed_masks`.

    Raises:
        DataError: the index cannot be read or has a name twice, or a name has two images or two masks.

    Warns:
        DataWarning: images are left out because they have no mask or an unsupported format.
    """
    index, images, masks = folder / "index.tsv", folder / "images", folder / "masks"
    listed = index.exists() or where
    rows = rows_of(index, {"name", *where}) if listed else []
    rows = [row for row in rows if all(row[key] == where[key] for key in where)]
    inside = {os.path.dirname(row["name"]) for row in rows} | {""}
    (pictures, passed), (drawn, _) = _pictures(images, inside), _pictures(masks, inside)
    for row in rows:  # names may include their extension
        stem, kind = os.path.splitext(row["name"])
        if kind.lower() in EXTENSIONS and row["name"] not in pictures and row["name"] in pictures.get(stem, ()):
            row["name"] = stem
    if not listed:
        rows = [{"name": name} for name in sorted(drawn)]
        if left := sorted(pictures.keys() - drawn.keys()):
            _tell(
                f"{len(left)} of {len(pictures)} images in {images} have no mask of the same name and are left out: "
                f"{some(left)}."
            )
        with os.scandir(images) as entries:
            deeper = [one.name for one in entries if one.is_dir() and not one.name.startswith(".")]
        if deep := sorted(_pictures(images, deeper)[0]):
            _tell(
                f"{len(deep)} image{'s' * (len(deep) > 1)} in folders below {images}: {some(deep)}, left out. List "
                f"them in an index.tsv, with the header name and lines such as {deep[0]}."
            )
    names = [row["name"] for row in rows]
    if repeated := some([name for name, count in Counter(names).items() if count > 1]):
        raise DataError(f"{index} lists images more than once: {repeated}. Each has one row and one mask.")
    for at, known in ((images, pictures), (masks, drawn)):
        if twice := next((known[name] for name in names if len(known.get(name, ())) > 1), None):
            raise DataError(f"{at} has {' and '.join(twice)}, whose names are the same: keep one of them.")
    unread = {os.path.splitext(one)[0] for one in passed} - pictures.keys()
    if passed:
        masked = sum(name in unread for name in names)
        also = f", together with the masks of {masked} of them" if masked else ""
        _tell(
            f"{len(passed)} file{'s' * (len(passed) > 1)} in {images} with an unsupported format: {some(passed)}, "
            f"skipped{also}. Save them as JPEG or PNG."
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

    Names are those of images, with folders below `images` and the extension, which `end` replaces for the mask.
    """
    return Lazy(names, partial(_beside, images, masks, frozenset(classes), decode, end))


def _beside(images: Path, masks: Path, numbers: frozenset[int], decode: Decode, end: str, image: str) -> Masked:
    name = os.path.splitext(image)[0]
    return Masked(name, images / image, masks / f"{name}{end}", numbers, decode)


def _pictures(folder: Path, inside: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Supported files by name without extension, and all others; none is hidden. "" stands for the folder."""
    found: dict[str, list[str]] = defaultdict(list)
    passed: list[str] = []
    for below in sorted(inside):
        if not (folder / below).is_dir():
            continue
        for entry in sorted(os.scandir(folder / below), key=lambda one: one.name):
            stem, kind = os.path.splitext(os.path.join(below, entry.name))
            if entry.name.startswith("."):  # such as macOS's "._0.jpg"
                continue
            if kind.lower() in EXTENSIONS:
                found[stem].append(stem + kind)
            elif entry.name not in _NOT_OURS and entry.is_file():
                passed.append(stem + kind)
    return dict(found), passed


_NOT_OURS = ("Thumbs.db", "desktop.ini")


def _tell(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)
