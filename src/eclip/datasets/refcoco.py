"""RefCOCO, RefCOCO+ (Yu et al. 2016) and RefCOCOg (Mao et al. 2016): expressions that single out an object.

The published lists are pickles. They are read by an unpickler that builds lists, dicts, texts and numbers and nothing
else, so that a manipulated file cannot run code.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, NoReturn

from eclip.datasets.layout import either, top
from eclip.datasets.pair import Bad
from eclip.datasets.phrases import Phrase, Phrased, PhraseSet, fitted
from eclip.errors import DataError


def refcoco(root: Path, split: str) -> PhraseSet:
    """UNC's split; the images of testA show several people, those of testB several objects of other kinds."""
    return _read(root, "refcoco", "unc", split)


def refcoco_plus(root: Path, split: str) -> PhraseSet:
    """UNC's split; the expressions use no words for places."""
    return _read(root, "refcoco+", "unc", split)


def refcocog(root: Path, split: str) -> PhraseSet:
    """Longer expressions; UMD's split, in which no image is in two splits, or Google's, in which objects are split."""
    by, _, name = split.rpartition("-")
    return _read(root, "refcocog", by or "umd", name)


def _read(root: Path, folder: str, by: str, split: str) -> PhraseSet:
    listed = f"refs({by}).p"
    base = top(root, (f"{folder}/{listed}", f"{folder}/instances.json"), ("", "data", "refer/data")) / folder
    places = ("images/mscoco/images/train2014", "images/train2014", "train2014")
    images = either(root, *places, *(f"data/{one}" for one in places), *(f"refer/data/{one}" for one in places))
    file = base / listed
    try:
        with open(file, "rb") as stream:
            refs = _PlainUnpickler(stream, encoding="utf-8", errors="replace").load()
        whole = json.loads((base / "instances.json").read_bytes())
        sizes = {one["id"]: (one["file_name"], one["width"], one["height"]) for one in whole["images"]}
        kinds = {one["id"]: one.get("supercategory", one["name"]) for one in whole["categories"]}
        objects = {one["id"]: (one["bbox"], kinds[one["category_id"]]) for one in whole["annotations"]}
        rows = [
            (ref["image_id"], ref["ann_id"], [said["sent"].strip() for said in ref["sentences"]])
            for ref in refs
            if ref["split"] == split
        ]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from None
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{base} is not in the format of {folder} as published ({listed}): {error!r}.") from None
    phrases: dict[int, list[Phrase]] = {}
    bad: Bad = []
    for image, thing, sentences in rows:
        if image not in sizes or thing not in objects:
            bad.append((f"image {image}, object {thing}", "not in instances.json."))
            continue
        (_, width, height), ((x, y, wide, high), kind) = sizes[image], objects[thing]
        if (box := fitted(x, y, x + wide, y + high, width, height)) is None:
            bad.append((f"image {image}, object {thing}", f"its box {[x, y, wide, high]} is outside of the image."))
            continue
        phrases.setdefault(image, []).extend(Phrase(text, (box,), (kind,)) for text in sentences if text)
    items = [
        Phrased(Path(sizes[image][0]).stem, images / sizes[image][0], tuple(own))
        for image, own in phrases.items()
        if own
    ]
    return PhraseSet(folder, items, bad)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse every class and function: the published lists contain none."""
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which could run code")

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse references to objects outside of the file."""
        raise pickle.UnpicklingError(f"it refers to the outside object {pid!r}")
