"""A custom table of images with texts and, optionally, a mask for each text."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from eclip.datasets.caption_tables import pairs_of
from eclip.datasets.layout import either
from eclip.datasets.mask_files import thing
from eclip.datasets.masks import Lazy, Masked, MaskSet
from eclip.datasets.pair import Bad, PairSet
from eclip.errors import DataError

_NAMES = ("table.csv", "table.tsv", "table.jsonl")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


class _Row(NamedTuple):
    line: int
    image: str
    text: str
    mask: str
    group: str


def table(root: Path, _: str) -> MaskSet | PairSet:
    """Columns, or keys, image, text, mask and, if images belong together, group; paths are relative to its folder.

    With masks: each distinct text is a class, numbered from 1 in sorted order; every pixel of a mask that is not black
    is the object. Without masks: images with texts.
    """
    file = either(root, *_NAMES) if root.is_dir() else root
    rows = [row._replace(image=os.path.normpath(row.image)) for row in _rows(file)]  # one image, one name
    if not rows:
        raise DataError(f"{file} has no rows.")
    groups: dict[str, str] = {}
    for row in rows:
        if groups.setdefault(os.path.normpath(file.parent / row.image), row.group) != row.group:
            raise DataError(f"line {row.line} of {file} puts {row.image} into a different group than an earlier line.")
    unmasked = [row.line for row in rows if not row.mask]
    if len(unmasked) == len(rows):
        captions: dict[str, list[str]] = {}
        for row in rows:
            captions.setdefault(os.path.normpath(file.parent / row.image), []).append(row.text)
        bad: Bad = []
        pairs = [replace(pair, group=groups[pair.key]) for pair in pairs_of(captions, bad)]
        return PairSet(file.stem, pairs, None, bad)
    if unmasked:
        raise DataError(f"line {unmasked[0]} of {file} has no mask, but other lines do: give all rows a mask, or none.")
    seen: dict[tuple[str, str], int] = {}
    for row in rows:
        if (before := seen.setdefault((row.image, row.text), row.line)) != row.line:
            raise DataError(
                f"lines {before} and {row.line} of {file} both have {row.image} with {row.text!r}: merge their masks."
            )
    numbers = {text: number for number, text in enumerate(sorted({row.text for row in rows}), 1)}
    items = Lazy([(row, numbers[row.text]) for row in rows], partial(_masked, file.parent))
    return MaskSet(file.stem, {number: text for text, number in numbers.items()}, items)


def _masked(folder: Path, asked: tuple[_Row, int]) -> Masked:
    row, number = asked
    name, decode = f"{row.image} [{row.text}]", partial(thing, number=number)
    return Masked(name, folder / row.image, folder / row.mask, frozenset({number}), decode, row.group)


def _rows(file: Path) -> Iterator[_Row]:
    kind = file.suffix.lower()
    if kind not in (*_SEPARATORS, ".jsonl"):
        raise DataError(f"{file} is not a table: its extension must be .csv, .tsv or .jsonl.")
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            if kind == ".jsonl":
                given = ((line, json.loads(text)) for line, text in enumerate(stream, 1) if text.strip())
            else:
                reader = csv.DictReader(stream, delimiter=_SEPARATORS[kind], strict=True)
                if (names := reader.fieldnames) and not {"image", "text"} <= set(names):
                    named = ", ".join(map(repr, names))
                    by = "commas" if kind == ".csv" else "tabs"
                    raise DataError(f"{file} has the columns {named}, but needs image and text, separated by {by}.")
                given = ((reader.line_num, row) for row in reader)
            for line, row in given:
                if isinstance(row, dict) and any(more := row.pop(None, [])):
                    raise DataError(
                        f"line {line} of {file} has {len(row) + len(more)} columns, but the header has {len(row)}: a "
                        f"text with {_SEPARATORS[kind]!r} needs quotes."
                    )
                if isinstance(row, dict) and isinstance(group := row.get("group"), int | float):
                    row["group"] = "" if math.isnan(group) else str(group)  # pandas writes a missing one as NaN
                parts = [row.get(key) or "" for key in _Row._fields[1:]] if isinstance(row, dict) else [""]
                if not all(isinstance(part, str) for part in parts) or not all(map(str.strip, parts[:2])):
                    raise DataError(
                        f"line {line} of {file} must have the texts image and text, and may have mask and group."
                    )
                yield _Row(line, *(part.strip() for part in parts))
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} cannot be read: {error}.") from error
