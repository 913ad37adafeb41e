"""Packs of tars, `SPLIT-000.tar` and so on, with a photo and a text under each key."""

from __future__ import annotations

from pathlib import Path

from eclip.datasets.caption_sources import read_pairs
from eclip.datasets.layout import lines, rows_of, top
from eclip.datasets.pair import Pair, PairSet
from eclip.errors import DataError, LayoutError


def coco_captions(root: Path, split: str) -> PairSet:
    """Photos of COCO val2017 with all their captions; the splits are those of the pack."""
    return in_tars(root, split)


def caltech101(root: Path, split: str) -> PairSet:
    """Photos with one of 100 names, in the order of `classes.txt`: source folder, tab, name, tab, count."""
    top(root, ("classes.txt",))
    rows = [row.split("\t") for row in lines(root / "classes.txt")]
    if not all(len(row) == 3 for row in rows):
        raise DataError(f"{root / 'classes.txt'} must have three columns: source folder, name, count.")
    return _named(in_tars(root, split), tuple(row[1] for row in rows))


def imagenet1k_one_each(root: Path, split: str) -> PairSet:
    """A photo of each of ImageNet's 1,000 classes. Two cranes and two maillots share their names: 998 names.

    They are those of `index.tsv`, whose source names are as "n01484850_great_white_shark.JPEG": a photo that is missing
    takes no name away.
    """
    top(root, ("index.tsv",))
    sources = [row["source_name"] for row in rows_of(root / "index.tsv", {"source_name"})]
    names = (source.partition("_")[2].rpartition(".")[0].replace("_", " ") for source in sources)
    return _named(in_tars(root, split), tuple(dict.fromkeys(names)))


def in_tars(root: Path, split: str) -> PairSet:
    """All pairs of a split's tars."""
    tars = sorted(str(path) for path in root.glob("*.tar") if path.name.startswith(f"{split}-"))
    if not tars:
        raise LayoutError(f"{root / f'{split}-000.tar'}: no such file.")
    pairs, bad = read_pairs(tars)
    return PairSet(root.resolve().name, pairs, None, bad)


def _named(found: PairSet, classes: tuple[str, ...]) -> PairSet:
    known, items, bad = set(classes), list[Pair](), list(found.bad)
    for pair in found.items:
        if len(pair.captions) == 1 and pair.captions[0] in known:
            items.append(pair)
        else:
            bad.append((pair.key, f"{', '.join(pair.captions)!r} is not one of the {len(classes)} names."))
    return PairSet(found.name, items, classes, bad)
