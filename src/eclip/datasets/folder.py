"""The plain layout of `eclip.datasets.masks`: a folder of one's own, and packs that lie in it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from eclip.datasets.decoders import BACKGROUND, VOID, indexed
from eclip.datasets.layout import rows_of, top
from eclip.datasets.masks import VOC_NAMES, Lazy, Masked, MaskSet, listed_masks, plain_items


def folder(root: Path, _: str) -> MaskSet:
    """`images/`, `masks/` and `classes.txt` of one's own."""
    top(root, ("images", "masks", "classes.txt"))
    return listed_masks(root, {})


def camvid(root: Path, _: str) -> MaskSet:
    """Street scenes; every pixel has a class or is void."""
    return folder(root, _)


def coco80seg(root: Path, _: str) -> MaskSet:
    """Photos of COCO train2017 and val2017."""
    return folder(root, _)


def voc2012seg(root: Path, split: str) -> MaskSet:
    """Photos of VOC 2012; a split is an origin, as the index has it. Classes are called as `VOC_NAMES` calls them."""
    top(root, ("images", "masks", "index.tsv"))
    return listed_masks(root, {} if split == "all" else {"origin": split}, VOC_NAMES)


def davis2016val(root: Path, _: str) -> MaskSet:
    """Frames with one thing each: the value 1 is what column `text` names. Each text is a class, numbered as sorted."""
    top(root, ("images", "masks", "index.tsv"))
    rows = rows_of(root / "index.tsv", {"name", "text"})
    numbers = {text: number for number, text in enumerate(sorted({row["text"] for row in rows}), 1)}
    plain = plain_items(root, [row["name"] for row in rows], (), indexed)
    frames = Lazy([(place, numbers[row["text"]]) for place, row in enumerate(rows)], partial(_numbered, plain))
    return MaskSet("davis2016val", {number: text for text, number in numbers.items()}, frames)


def _numbered(plain: Lazy, frame: tuple[int, int]) -> Masked:
    place, number = frame
    table = ((0, BACKGROUND), (1, number), (255, VOID))
    return replace(plain[place], numbers=frozenset({number}), decode=partial(indexed, table=table))
