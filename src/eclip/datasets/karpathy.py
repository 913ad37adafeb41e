"""Karpathy's splits: one JSON with file names, splits and sentences (Karpathy and Fei-Fei 2015)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from eclip.datasets.layout import either
from eclip.datasets.pair import Bad, Pair, PairSet, Place
from eclip.errors import DataError

CAPTIONS = 5
"""Captions of a photo that count: some of COCO's have more, and results are reported of 25,000 for 5,000 photos."""


def coco_karpathy(root: Path, split: str) -> PairSet:
    """COCO 2014 as split by dataset_coco.json; the first five captions of each photo."""
    file = either(root, "dataset_coco.json", "annotations/dataset_coco.json")
    return read_karpathy(file, split, [root, root / "images"])


def read_karpathy(file: Path, split: str, folders: Sequence[Path]) -> PairSet:
    """The photos of a split.

    Args:
        file: the JSON.
        split: its name there, or "all".
        folders: where `filepath/filename`, or `filename` where there is no filepath, is looked for, in this order.

    Raises:
        DataError: it cannot be read, or is not of this form.
    """
    try:
        records = json.loads(file.read_bytes())["images"]
        chosen = [one for one in records if split in ("all", one["split"])]
        rows = [
            (os.path.join(one.get("filepath", ""), one["filename"]), [said["raw"].strip() for said in one["sentences"]])
            for one in chosen
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is not of Karpathy's form (images, each with split, filename, sentences): {error!r}."
        ) from None
    pairs, bad = list[Pair](), Bad()
    for name, said in rows:
        captions = tuple(caption for caption in said if caption)[:CAPTIONS]
        places = [folder / name for folder in folders]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            bad.append((str(places[0]), "no such file."))
        elif not captions:
            bad.append((str(found), "no caption."))
        elif not (size := found.stat().st_size):
            bad.append((str(found), "empty (0 bytes)."))
        else:
            pairs.append(Pair(str(found), Place(str(found), 0, size), captions))
    return PairSet(file.stem, pairs, None, bad)
