"""Karpathy's splits: one JSON with file names, splits and sentences (Karpathy and Fei-Fei 2015)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from eclip.datasets.caption_tables import pairs_of
from eclip.datasets.layout import either
from eclip.datasets.pair import Bad, PairSet
from eclip.errors import DataError

CAPTIONS = 5
"""Captions used per image: some COCO images have more, but results are reported on 25,000 captions of 5,000 images."""


def coco_karpathy(root: Path, split: str) -> PairSet:
    """COCO 2014 with the splits of dataset_coco.json; the first five captions of each image."""
    file = either(root, "dataset_coco.json", "annotations/dataset_coco.json")
    return read_karpathy(file, split, [root, root / "images"])


def read_karpathy(file: Path, split: str, folders: Sequence[Path]) -> PairSet:
    """The images of a split.

    Args:
        file: the JSON.
        split: its name in the file, or "all".
        folders: searched in this order for `filepath/filename`, or `filename` if there is no filepath.

    Raises:
        DataError: the file cannot be read or is not in Karpathy's format.
    """
    try:
        rows = [
            (os.path.join(one.get("filepath", ""), one["filename"]), [said["raw"].strip() for said in one["sentences"]])
            for one in json.loads(file.read_bytes())["images"]
            if split in ("all", one["split"])
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is not in Karpathy's format (images, each with split, filename, sentences): {error!r}."
        ) from None
    captions: dict[str, list[str]] = {}
    bad: Bad = []
    for name, said in rows:
        places = [folder / name for folder in folders]
        image = str(next((place for place in places if place.is_file()), places[0]))
        captions[image] = [caption for caption in said if caption][:CAPTIONS]
        if not captions[image]:
            bad.append((image, "no caption."))
    return PairSet(file.stem, pairs_of(captions, bad), None, bad)
