"""Custom WebDataset tars with a mask under the key of each image."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from eclip.datasets.archives import SEG, Member, in_tar
from eclip.datasets.binary import meaning, taken
from eclip.datasets.layout import declares_void, read_classes, some
from eclip.datasets.mask_files import BACKGROUND, VOID
from eclip.datasets.masked import Masked, MaskSet
from eclip.datasets.pair import Bad
from eclip.errors import DataError, DataWarning, LayoutError
from eclip.images import EXTENSIONS


def shards(root: Path, _: str) -> MaskSet:
    """KEY.jpg and KEY.seg.png in tars; classes in a `classes.txt` beside them, or in KEY.json: {"classes": {1: name}}.

    A mask is a palette or gray image of 8 or 16 bits; values are class numbers, and the largest is void. KEY.json may
    also have a "group", a text that is the same for images that belong together, such as frames of one video.
    """
    tars = sorted(root.glob("*.tar")) if root.is_dir() else [root]
    if not tars:
        raise LayoutError(f"{root / '*.tar'}: no such file.")
    file = tars[0].parent / "classes.txt"
    classes, table = read_classes(file) if file.exists() else ({}, None)
    found: list[tuple[str, Member, Member, str]] = []
    passed: list[str] = []
    for tar in tars:
        for key, group in _groups(tar).items():
            images = [one for kind, one in group.items() if kind in EXTENSIONS]
            image, mask = images[0] if images else None, group.get(SEG)
            if len(images) > 1:
                raise DataError(
                    f"{tar}: the key {key!r} has {len(images)} images ({', '.join(one.name for one in images)})."
                )
            other = [one.name for kind, one in group.items() if kind not in (*EXTENSIONS, SEG, ".txt", ".json", ".cls")]
            if image is None and mask is not None and other:
                passed += other
                continue
            if image is None and mask is None:
                if dotted := [one.name for kind, one in group.items() if os.path.splitext(kind)[1] in EXTENSIONS]:
                    raise DataError(
                        f"{tar}: {some(dotted)}: a key ends at the first dot, so this is not read as an image or mask: "
                        "rename it."
                    )
                continue
            if image is None or mask is None:
                lacks = "image" if image is None else f"mask, {key}{SEG}"
                raise DataError(f"{tar}: the key {key!r} has no {lacks}.")
            if not file.exists():
                _add(classes, group.get(".json"), f"{tar}, {key}.json")
            found.append((f"{tar.stem}/{key}", image, mask, _group(group.get(".json"))))
    if passed:
        warnings.warn(
            f"{len(passed)} files beside masks in {tars[0].parent} have an unsupported format and are skipped: "
            f"{some(passed)}. Save them as JPEG or PNG.",
            DataWarning,
            stacklevel=4,
        )
    if found and not classes:
        raise DataError(f"{file} is missing, and no KEY.json names classes: write lines 'number<TAB>name' into it.")
    numbers = frozenset(classes)
    plain = [Masked(key, image.place, mask.place, numbers, group=group) for key, image, mask, group in found]
    decode, notes = taken(plain, classes, table, file.exists() and declares_void(file))
    items = tuple(replace(item, decode=decode) for item in plain)
    return MaskSet(tars[0].parent.resolve().name, dict(sorted(classes.items())), items, notes, meaning(decode))


def _groups(tar: Path) -> dict[str, dict[str, Member]]:
    bad: Bad = []
    groups: dict[str, dict[str, Member]] = defaultdict(dict)
    for member in in_tar(str(tar), tar.name, bad):
        if groups[member.stem].setdefault(member.kind, member) is not member:
            raise DataError(f"{tar} contains {member.name} twice: give each its own key.")
    if bad:
        raise DataError(f"{tar}: {bad[0][1]} ({len(bad)} in total) Create the tar again.")
    return groups


def _group(member: Member | None) -> str:
    """The group that KEY.json names, if any."""
    try:
        given = json.loads(member.text).get("group") if member else None
    except (ValueError, AttributeError):
        return ""
    return "" if given is None or (isinstance(given, float) and math.isnan(given)) else str(given)


def _add(classes: dict[int, str], member: Member | None, name: str) -> None:
    try:
        given = json.loads(member.text).get("classes", {}) if member else {}
        named = {int(number): str(one) for number, one in given.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f'{name} must be {{"classes": {{"1": "a name"}}}}: {error}.') from error
    for number, one in named.items():
        if not BACKGROUND < number < VOID:
            raise DataError(f"{name} names class {number}, but class numbers are 1 to {VOID - 1}.")
        if classes.setdefault(number, one) != one:
            raise DataError(f"{name} names class {number} {one!r}, but another file names it {classes[number]!r}.")
