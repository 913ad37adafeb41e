"""Tars of one's own, as of WebDataset, with a mask under the key of each photo."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from pathlib import Path

from eclip.datasets.decoders import BACKGROUND, VOID, indexed
from eclip.datasets.layout import lines, read_classes
from eclip.datasets.masks import Masked, MaskSet
from eclip.datasets.members import SEG, Member, in_tar
from eclip.datasets.pair import Bad
from eclip.errors import DataError, LayoutError
from eclip.photos import EXTENSIONS


def shards(root: Path, _: str) -> MaskSet:
    """KEY.jpg and KEY.seg.png in tars; classes in a `classes.txt` beside them, or in KEY.json: {"classes": {1: name}}.

    A mask is a palette or gray picture, of 8 or 16 bits; a value is a class number, the greatest void.
    """
    tars = sorted(root.glob("*.tar")) if root.is_dir() else [root]
    if not tars:
        raise LayoutError(f"{root / '*.tar'}: no such file.")
    file = tars[0].parent / "classes.txt"
    classes, table = read_classes(file) if file.exists() and lines(file) else ({}, None)
    found: list[tuple[str, Member, Member]] = []
    for tar in tars:
        for key, group in _groups(tar).items():
            photo = next((one for kind, one in group.items() if kind in EXTENSIONS), None)
            mask = group.get(SEG)
            if photo is None and mask is None:
                continue
            if photo is None or mask is None:
                lacks = "photo" if photo is None else f"mask, {key}{SEG}"
                raise DataError(f"{tar}: the key {key!r} has no {lacks}.")
            if not file.exists():
                _add(classes, group.get(".json"), f"{tar}, {key}.json")
            found.append((f"{tar.stem}/{key}", photo, mask))
    if found and not classes:
        raise DataError(f"{file} is missing, and no KEY.json names classes: classes.txt has number, tab, name a line.")
    decode, numbers = indexed if table is None else partial(indexed, table=table), frozenset(classes)
    items = tuple(Masked(key, photo.place, mask.place, numbers, decode) for key, photo, mask in found)
    return MaskSet(tars[0].parent.resolve().name, dict(sorted(classes.items())), items)


def _groups(tar: Path) -> dict[str, dict[str, Member]]:
    bad: Bad = []
    groups: dict[str, dict[str, Member]] = defaultdict(dict)
    for member in in_tar(str(tar), tar.name, bad):
        groups[member.stem][member.kind] = member
    if bad:
        raise DataError(f"{tar}: {bad[0][1]} ({len(bad)} such) Write the tar again.")
    return groups


def _add(classes: dict[int, str], member: Member | None, name: str) -> None:
    try:
        given = json.loads(member.text).get("classes", {}) if member else {}
        named = {int(number): str(one) for number, one in given.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f'{name} must be {{"classes": {{"1": "a name"}}}}: {error}.') from error
    for number, one in named.items():
        if not BACKGROUND < number < VOID:
            raise DataError(f"{name} names the class {number}; classes are 1 to {VOID - 1}.")
        if classes.setdefault(number, one) != one:
            raise DataError(f"{name} calls class {number} {one!r}, which is {classes[number]!r} in another file.")
