"""Open Images V7's points (Benenson and Ferrari 2022, https://arxiv.org/abs/2210.14142): is this point on a LABEL?

Each row of a list is one question that annotators answered: ImageId, X, Y, Label, EstimatedYesNo, and votes, which are
not used here. X and Y are shares of the image's width and height; Label is an identifier such as /m/01g317, which a
second list names.

The data set was not at hand. The names of the files, the columns, the shares and the header of the list of names are
those that FiftyOne reads (voxel51/fiftyone, fiftyone/utils/openimages.py), which Open Images recommends as a reader;
it names every label by that list, as we do. The answers yes, no and unsure are those of scripts by users. Not verified:
what the column TextLabel adds (FiftyOne ignores it, and so do we), how many images have points, and whether X and Y of
an image that EXIF rotates belong to the upright image, as is assumed here.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path

from eclip.datasets.layout import either, top
from eclip.datasets.phrases import Phrase, Phrased, PhraseSet, Point
from eclip.errors import DataError, DataWarning

COLUMNS = ("ImageId", "X", "Y", "Label", "EstimatedYesNo")
_NAMES = "oidv7-class-descriptions.csv"
_LISTS = {"validation": "val", "test": "test"}
_FIFTYONE = ("labels/points.csv", "metadata/point_classes.csv", "data")
Answers = dict[str, tuple[list[Point], list[Point]]]
"""The points of an image for each label, those answered yes and those answered no."""


def openimages_points(root: Path, split: str) -> PhraseSet:
    """Images with a phrase for each label that at least one point is on; its type is the label's identifier.

    A label without a point answered yes may not be in the image and is left out, as is an image without labels. Points
    that annotators were unsure about are left out too. In FiftyOne's folders, which can hold a part of the data set,
    images without a file are left out.
    """
    there: set[str] | None = None
    if base := next((one for one in (root / split, root) if (one / _FIFTYONE[0]).exists()), None):
        points, names, images = (top(base, _FIFTYONE) / one for one in _FIFTYONE)
        there = {path.stem for path in images.glob("*.jpg")}
    else:
        listed = f"oidv7-{_LISTS[split]}-annotations-point-labels.csv"
        folder = top(root, (listed, _NAMES), ("", "annotations", split))
        points, names = folder / listed, folder / _NAMES
        images = either(root, split, f"images/{split}", "images")
    known = _read_names(names)
    items: list[Phrased] = []
    for image, labels in _read_points(points).items():
        if there is not None and image not in there:
            continue
        shown = {label: answers for label, answers in labels.items() if answers[0]}
        if missing := [label for label in shown if label not in known]:
            raise DataError(
                f"{names} has no name for {missing[0]}, a label of {image} in {points}: both files must be those of V7."
            )
        phrases = tuple(
            Phrase(known[label], (), (label,), yes=tuple(yes), no=tuple(no)) for label, (yes, no) in shown.items()
        )
        if phrases:
            items.append(Phrased(image, images / f"{image}.jpg", phrases))
    return PhraseSet("openimages_points", items, [])


def _read_points(file: Path) -> dict[str, Answers]:
    """The answers of each image, images and labels in the order in which the rows first name them."""
    rows = _rows(file)
    _, header = next(rows, (0, []))
    if missing := [name for name in COLUMNS if name not in header]:
        raise DataError(f"{file} has no column {', '.join(missing)}; its first line is {','.join(header)[:120]!r}.")
    places = [header.index(name) for name in COLUMNS]
    found: dict[str, Answers] = {}
    shares: dict[str, float] = {}  # each text is converted once, and points share the numbers
    labels: dict[str, str] = {}
    outside: list[int] = []
    for line, row in rows:
        try:
            image, across, down, label, said = (row[place].strip() for place in places)
            x, y = (shares[text] if text in shares else shares.setdefault(text, float(text)) for text in (across, down))
            answer = ("yes", "no", "unsure").index(said.lower())
        except (IndexError, ValueError):
            raise DataError(
                f"line {line} of {file} must have an image, X and Y as numbers, a label, and yes, no or unsure in the "
                f"columns {', '.join(COLUMNS)}; got {','.join(row)[:120]!r}. Download the file again."
            ) from None
        if not (0 <= x <= 1 and 0 <= y <= 1):
            outside.append(line)
        elif answer < 2:
            found.setdefault(image, {}).setdefault(labels.setdefault(label, label), ([], []))[answer].append((x, y))
    if outside:
        warnings.warn(
            f"{len(outside)} points of {file} are outside of their image (X or Y is not from 0 to 1) and are left out; "
            f"the first is in line {outside[0]}.",
            DataWarning,
            stacklevel=5,
        )
    return found


def _read_names(file: Path) -> dict[str, str]:
    """The name of each label; a header, which V7 has and earlier versions do not, is skipped."""
    found: dict[str, str] = {}
    for line, row in _rows(file):
        if line == 1 and not row[0].startswith("/"):
            continue
        if len(row) != 2 or not row[0].startswith("/") or not row[1].strip():
            raise DataError(f"line {line} of {file} must be a label such as /m/01g317 and its name, got {row!r}.")
        found[row[0]] = row[1].strip()
    return found


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each row of a table that is not empty."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            for row in rows:
                if row:
                    yield rows.line_num, row
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not a table of Open Images in UTF-8: {error}. Download the file again.") from None
