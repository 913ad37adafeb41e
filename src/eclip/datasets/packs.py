"""Packs: small subsets of data sets, in the plain layout or in tars with an image and a text under each key."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from eclip.datasets.binary import object_values
from eclip.datasets.caption_sources import read_pairs
from eclip.datasets.layout import lines, rows_of, top
from eclip.datasets.mask_files import BACKGROUND, VOID, indexed, lit
from eclip.datasets.masked import Decode, Lazy, Masked, MaskSet
from eclip.datasets.masks import VOC_NAMES, folder, listed_masks, plain_items, plain_rows
from eclip.datasets.pair import Bad, Pair, PairSet
from eclip.datasets.phrases import Phrase, Phrased, PhraseSet
from eclip.datasets.sets import GAZE
from eclip.errors import DataError, LayoutError
from eclip.images import Place


def caltech101(root: Path, split: str) -> PairSet:
    """Images with one of 100 names, in the order of `classes.txt`: source folder, tab, name, tab, count."""
    top(root, ("classes.txt",))
    rows = [row.split("\t") for row in lines(root / "classes.txt")]
    if not all(len(row) == 3 for row in rows):
        raise DataError(f"{root / 'classes.txt'} must have three columns: source folder, name, count.")
    return _named(in_tars(root, split), tuple(row[1] for row in rows))


def imagenet1k_one_each(root: Path, split: str) -> PairSet:
    """One image of each of ImageNet's 1,000 classes. Two cranes and two maillots share their names: 998 names.

    The names come from `index.tsv`, whose source names look like "n01484850_great_white_shark.JPEG", so a missing image
    removes no name.
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


def coco_captions(root: Path, split: str) -> PairSet:
    """Images of COCO val2017 with all their captions; the pack defines the splits."""
    return in_tars(root, split)


def coco80seg(root: Path, split: str) -> MaskSet:
    """Images of COCO train2017 and val2017."""
    return folder(root, split)


def flickr8k_entities(root: Path, split: str) -> PhraseSet:
    """The phrases of Flickr30k Entities for images of the pack flickr8k, which is a folder beside this one."""
    base = top(root, (f"{split}.jsonl.gz",))
    images = {pair.key: pair.place for pair in in_tars(root.resolve().parent / "flickr8k", split).items}
    items: list[Phrased] = []
    bad: Bad = []
    with gzip.open(base / f"{split}.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    for row in rows:
        phrases = tuple(
            Phrase(one["text"], tuple(map(tuple, one["boxes"])), tuple(one["types"]), said["text"], one["start"])
            for said in row["captions"]
            for one in said["phrases"]
            if one["boxes"]
        )
        name = f"{row['shard']}/{row['key']}"
        if name not in images:
            bad.append((name, "there is no such image in flickr8k."))
        elif phrases:
            items.append(Phrased(name, images[name], phrases))
        else:
            bad.append((name, "none of its phrases has a box."))
    return PhraseSet(root.resolve().name, items, bad)


def osie(root: Path, _: str) -> PhraseSet:
    """Images with the fixations of fifteen people, but the first of each, which is where they looked before."""
    top(root, ("images", "fixations.jsonl"))
    items: list[Phrased] = []
    bad: Bad = []
    for row in map(json.loads, lines(root / "fixations.jsonl")):
        points = tuple(
            (float(x), float(y)) for one in row["fixations"] for x, y, _ in one[1:] if 0 <= x <= 1 and 0 <= y <= 1
        )
        if points:
            items.append(Phrased(row["name"], root / "images" / row["name"], (Phrase("gaze", (), GAZE, yes=points),)))
        else:
            bad.append((row["name"], "it has no fixation."))
    return PhraseSet(root.resolve().name, items, bad)


def sugar_crepe_pack(root: Path, split: str) -> PairSet:
    """The captions of SugarCrepe for images of the packs coco-captions and coco80seg, which are folders beside it."""
    beside = root.resolve().parent
    tars = {
        pair.key: pair.place
        for part in ("train", "val", "test")
        for pair in in_tars(beside / "coco-captions", part).items
    }
    pairs: list[Pair] = []
    bad: Bad = []
    rows = rows_of(root / "pairs.tsv", {"pack", "shard", "key", "kind", "caption", "negative"})
    for number, row in enumerate(rows):
        if split not in ("all", row["kind"]):
            continue
        image = beside / "coco80seg" / "images" / f"{row['key']}.jpg"
        place = tars.get(f"{row['shard']}/{row['key']}") if row["shard"] else Place(str(image), 0, image.stat().st_size)
        if place is None:
            bad.append((f"row {number}", f"there is no image {row['shard']}/{row['key']} in coco-captions."))
        else:
            key = f"{row['kind']}/{number}"
            pairs.append(Pair(key, place, (row["caption"],), row["key"], row["negative"], row["kind"]))
    return PairSet(root.resolve().name, pairs, None, bad)


def _named(found: PairSet, classes: tuple[str, ...]) -> PairSet:
    known, items, bad = set(classes), list[Pair](), list(found.bad)
    for pair in found.items:
        if len(pair.captions) == 1 and pair.captions[0] in known:
            items.append(pair)
        else:
            bad.append((pair.key, f"{', '.join(pair.captions)!r} is not one of the {len(classes)} names."))
    return PairSet(found.name, items, classes, bad)


def camvid(root: Path, _: str) -> MaskSet:
    """Street scenes; every pixel has a class or is void. A group is a video, the prefix of a frame's name."""
    top(root, ("images", "masks", "classes.txt"))
    return listed_masks(root, {}, group=lambda row: row.get("group") or row["name"].rpartition("_")[0])


def voc2012seg(root: Path, split: str) -> MaskSet:
    """Images of VOC 2012; a split is an origin in the index. Classes have the names of `VOC_NAMES`."""
    top(root, ("images", "masks", "index.tsv"))
    return listed_masks(root, {} if split == "all" else {"origin": split}, VOC_NAMES)


def davis2016val(root: Path, _: str) -> MaskSet:
    """Frames with one object each: the value 1 is the object in column `text`. Each text is a class, in sorted order.

    A group is a video, given by the column `sequence`.
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
    told = f"the masks are binary: {' or '.join(map(str, sorted(mark)))} is interpreted as the object."
    classes = {number: text for text, number in numbers.items()}
    return MaskSet("davis2016val", classes, frames, (told,) if mark else ())


def _numbered(plain: Lazy, binary: bool, frame: tuple[int, int]) -> Masked:
    place, number = frame
    table = ((0, BACKGROUND), (1, number), (255, VOID))
    decode: Decode = partial(lit, number=number) if binary else partial(indexed, table=table)
    return replace(plain[place], numbers=frozenset({number}), decode=decode)
