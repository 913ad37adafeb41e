"""Flickr30k Entities (Plummer et al. 2015): the phrases of each caption with their boxes, in the published layout.

Sentences/ID.txt has one caption per line, in which `[/EN#283585/people An elderly woman]` marks a phrase with its chain
(what it describes) and its types; Annotations/ID.xml has the boxes of each chain, in pixels counted from 1, the last
pixel included. Chain 0 is not visual; a chain without a box is a scene, or is not in the image. Both are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from eclip.datasets.layout import either, lines, names_in, top
from eclip.datasets.pair import Bad
from eclip.datasets.phrases import Box, Phrase, Phrased, PhraseSet, fitted
from eclip.errors import DataError

_MARKED = re.compile(r"\[/EN#(\d+)((?:/[^\s\]]+)+) ([^\]]*)\]")


def flickr30k_entities(root: Path, split: str) -> PhraseSet:
    """The images of a split; the boxes of a phrase are all boxes of its chain."""
    base = top(root, ("Sentences", "Annotations", f"{split}.txt"), ("", "flickr30k_entities"))
    images = either(
        root, *(f"{up}{name}" for up in ("", "../") for name in ("flickr30k-images", "flickr30k_images", "images"))
    )
    images = next((one for one in (images / "flickr30k_images", images / "flickr30k-images") if one.is_dir()), images)
    items: list[Phrased] = []
    bad: Bad = []
    for name in names_in(base / f"{split}.txt"):
        try:
            boxes = _boxes(base / "Annotations" / f"{name}.xml")
            phrases = tuple(
                phrase for line in lines(base / "Sentences" / f"{name}.txt") for phrase in _phrases(line, boxes)
            )
        except DataError as error:
            bad.append((name, str(error)))
            continue
        if phrases:
            items.append(Phrased(name, images / f"{name}.jpg", phrases))
        else:
            bad.append((name, "none of its phrases has a box."))
    return PhraseSet(base.name, items, bad)


def _phrases(line: str, boxes: dict[str, tuple[Box, ...]]) -> list[Phrase]:
    """The phrases of a marked caption that have boxes."""
    caption, found, end = "", [], 0
    for mark in _MARKED.finditer(line):
        chain, types, text = mark.groups()
        caption += line[end : mark.start()]
        end = mark.end()
        found.append((chain, tuple(types[1:].split("/")), text.strip(), len(caption)))
        caption += text
    caption += line[end:]
    return [
        Phrase(text, boxes[chain], types, caption.strip(), start - (len(caption) - len(caption.lstrip())))
        for chain, types, text, start in found
        if text and chain in boxes
    ]


def _boxes(file: Path) -> dict[str, tuple[Box, ...]]:
    """The boxes of each chain; DataError if the file cannot be read, or is not in the published format."""
    found: dict[str, tuple[Box, ...]] = {}
    try:
        tree = ElementTree.parse(file).getroot()
        width, height = (float(tree.findtext(f"size/{side}") or "") for side in ("width", "height"))
        for thing in tree.iter("object"):
            if (given := thing.find("bndbox")) is None:
                continue
            left, upper, right, lower = (float(given.findtext(key) or "") for key in ("xmin", "ymin", "xmax", "ymax"))
            if (box := fitted(left - 1, upper - 1, right, lower, width, height)) is not None:
                for name in thing.iter("name"):
                    found[name.text or ""] = (*found.get(name.text or "", ()), box)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    except (ElementTree.ParseError, ValueError, ZeroDivisionError) as error:
        raise DataError(f"{file} is not an annotation of Flickr30k Entities: {error}.") from None
    return found
