"""The plain layout of `eclip.datasets.masks`: a folder of one's own, and packs that lie in it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from eclip.datasets.binary import lit, object_values
from eclip.datasets.layout import rows_of, top
from eclip.datasets.mask_files import BACKGROUND, VOID, indexed
from eclip.datasets.masked import Decode, Lazy, Masked, MaskSet
from eclip.datasets.masks import VOC_NAMES, listed_masks, plain_items, plain_rows


def folder(root: Path, _: str) -> MaskSet:
    """`images/`, `masks/` and `classes.txt` of one's own."""
    top(root, ("images", "masks", "classes.txt"))
    return listed_masks(root, {})


def camvid(root: Path, _: str) -> MaskSet:
    """Street scenes; every pixel has a class or is void. A group is a video, which a frame's name begins with."""
    top(root, ("images", "masks", "classes.txt"))
    return listed_masks(root, {}, group=lambda row: row.get("group") or row["name"].rpartition("_")[0])


def coco80seg(root: Path, _: str) -> MaskSet:
    """Photos of COCO train2017 and val2017."""
    return folder(root, _)


def voc2012seg(root: Path, split: str) -> MaskSet:
    """Photos of VOC 2012; a split is an origin, as the index has it. Classes are called as `VOC_NAMES` calls them."""
    top(root, ("images", "masks", "index.tsv"))
    return listed_masks(root, {} if split == "all" else {"origin": split}, VOC_NAMES)


def davis2016val(root: Path, _: str) -> MaskSet:
    """Frames with one thing each: the value 1 is what column `text` names. Each text is a class, numbered as sorted.

    A group is a video, as the column `sequence` names it.
    """
    top(root, ("images", "masks", "index.tsv"))
    rows = rows_of(root / "index.tsv", {"name", "text"})
    numbers = {text: number for number, text in enumerate(sorted({row["text"] for row in rows}), 1)}
    texts = {row["name"]: row["text"] for row in rows}
    files = plain_rows(root, {}, lambda row: row.get("group") or row.get("sequence", ""))
    plain = plain_items(root, files, (), indexed)
    mark = object_values(plain, own=1)
    frames = Lazy(
        [(place, numbers[texts[file.name]]) for place, file in enumerate(files)], partial(_numbered, plain, bool(mark))
    )
    told = f"the masks show where and not what: {' or '.join(map(str, sorted(mark)))} is taken for the object."
    classes = {number: text for text, number in numbers.items()}
    return MaskSet("davis2016val", classes, frames, (told,) if mark else ())


def _numbered(plain: Lazy, binary: bool, frame: tuple[int, int]) -> Masked:
    place, number = frame
    table = ((0, BACKGROUND), (1, number), (255, VOID))
    decode: Decode = partial(lit, number=number) if binary else partial(indexed, table=table)
    return replace(plain[place], numbers=frozenset({number}), decode=decode)
