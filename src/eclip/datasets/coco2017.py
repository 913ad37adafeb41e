"""COCO 2017, the 80 things, as class masks (Lin et al. 2014)."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from eclip.datasets.coco_annotations import Annotated, read_outlines
from eclip.datasets.layout import either, read_classes
from eclip.datasets.mask_files import write_indexed
from eclip.datasets.masked import Lazy, Masked, MaskSet
from eclip.errors import ResultError

PREPARED = "eclip_masks"
"""The folder of label maps that `prepare` makes, below the root."""
IMAGES = "images.json"
"""In that folder: the file of each photo by the name of its label map."""


def coco2017(root: Path, split: str) -> MaskSet:
    """Objects of `instances_SPLIT.json`, numbered 1 to 80 in the order of COCO's ids, which run to 90.

    Objects are painted from large to small; a crowd is void where no object covers it; all else is background.
    """
    photos = photos_of(root, split)
    prepared = root / PREPARED / split
    if prepared.is_dir():
        classes, _ = read_classes(prepared / "classes.txt")
        listed = prepared / IMAGES
        files = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else {}
        names = files or {path.stem: f"{path.stem}.jpg" for path in sorted(prepared.glob("[!.]*.png"))}
        return MaskSet(
            "coco2017", classes, Lazy([*names.items()], partial(_prepared, photos, prepared, frozenset(classes)))
        )
    found = read_outlines(instances_of(root, split))
    numbers = numbered(found)
    classes = {numbers[one]: name for one, name in found.categories.items()}
    return MaskSet("coco2017", classes, found.items(photos, numbers))


def prepare(root: Path, split: str, progress: Callable[[int, int], None]) -> Path:
    """Write the label map of each photo into eclip_masks/SPLIT, which is there when all are done."""
    whole, part = root / PREPARED / split, root / PREPARED / f"{split}.part"
    if whole.is_dir():
        return whole
    found = read_outlines(instances_of(root, split))
    numbers = numbered(found)
    photos = photos_of(root, split)
    items = found.items(photos, numbers)
    try:
        part.mkdir(parents=True, exist_ok=True)
        for done, item in enumerate(items, 1):
            if not (file := part / f"{item.name}.png").exists():
                write_indexed(file, item.decode(item.mask))
            progress(done, len(items))
        rows = (f"{numbers[one]}\t{name}\n" for one, name in found.categories.items())
        (part / "classes.txt").write_text("".join(rows), encoding="utf-8")
        files = {item.name: item.photo.relative_to(photos).as_posix() for item in items if isinstance(item.photo, Path)}
        (part / IMAGES).write_text(json.dumps(files, ensure_ascii=False), encoding="utf-8")
        part.rename(whole)
    except OSError as error:
        raise ResultError(f"{part} cannot be written: {error.strerror or error}.") from error
    return whole


def _prepared(photos: Path, masks: Path, numbers: frozenset[int], names: tuple[str, str]) -> Masked:
    name, photo = names
    return Masked(name, photos / photo, masks / f"{name}.png", numbers)


def photos_of(root: Path, split: str) -> Path:
    """The folder of photos of a split."""
    return either(root, split, f"images/{split}")


def instances_of(root: Path, split: str) -> Path:
    """The annotations of a split."""
    return either(root, f"annotations/instances_{split}.json", f"instances_{split}.json")


def numbered(found: Annotated) -> dict[int, int]:
    """Class number of each category id: 1 and on, in the order of the ids."""
    return {one: number for number, one in enumerate(found.categories, 1)}
