"""SugarCrepe (Hsieh et al. 2023): captions of COCO val2017 and captions that are wrong in a word, in seven kinds."""

from __future__ import annotations

import json
import os
from pathlib import Path

from eclip.datasets import CREPE
from eclip.datasets.layout import either, top
from eclip.datasets.pair import Bad, Pair, PairSet
from eclip.errors import DataError
from eclip.images import Place


def sugar_crepe(root: Path, split: str) -> PairSet:
    """All kinds, or one. A group is an image, of which there can be several captions."""
    kinds = CREPE if split == "all" else (split,)
    base = top(root, tuple(f"{kind}.json" for kind in kinds), ("", "data", "sugar-crepe/data", "sugar-crepe"))
    places = ("val2017", "images/val2017", "coco/val2017", "coco/images/val2017")
    images = either(root, *(f"{up}{one}" for up in ("", "../") for one in places))
    pairs: list[Pair] = []
    bad: Bad = []
    for kind in kinds:
        file = base / f"{kind}.json"
        try:
            rows = [
                (number, row["filename"], row["caption"].strip(), row["negative_caption"].strip())
                for number, row in json.loads(file.read_bytes()).items()
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{file} is not in SugarCrepe's format (filename, caption and negative_caption of each): {error!r}."
            ) from None
        for number, name, caption, negative in rows:
            key, image = f"{kind}/{number}", str(images / name)
            if not (caption and negative):
                bad.append((key, "an empty caption."))
            elif not os.path.isfile(image):
                bad.append((key, f"{image}: no such file."))
            else:
                place = Place(image, 0, os.path.getsize(image))
                pairs.append(Pair(key, place, (caption,), name, negative, kind))
    return PairSet("sugar_crepe", pairs, None, bad)
