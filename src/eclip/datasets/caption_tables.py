"""Tables of images and captions, one caption per row."""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TextIO

from eclip.datasets.pair import Bad, Pair, Place
from eclip.errors import DataError
from eclip.images import EXTENSIONS


class Columns(NamedTuple):
    """Names of a table's columns in its header, and their separator; the defaults are open_clip's."""

    image: str = "filepath"
    caption: str = "title"
    separator: str = "\t"


_FLICKR8K = Columns("image", "caption", ",")
_NUMBER = re.compile(r"#\d+$")  # of a caption, after the image in Flickr30k's list
_ADDRESS = re.compile(r"\b(https?|s3|gs):/")


def read_table(file: str, columns: Columns, images: Iterable[str] = ()) -> tuple[list[Pair], Bad]:
    """Read one pair per image, in the order in which the rows first name the images.

    Args:
        file: the table, UTF-8.
        columns: of a table with a header.
        images: further paths to which an image named without a folder may refer, if the name is unique among them.

    Returns:
        (pairs, bad), as in `read_pairs`.

    Raises:
        DataError: its header is unknown, it is not UTF-8, or a quote is not closed.
    """
    bad: Bad = []
    captions: dict[str, list[str]] = {}
    root, known = os.path.dirname(file), set(images)
    of_name: dict[str, list[str]] = defaultdict(list)
    for image in images:
        of_name[os.path.basename(image)].append(image)
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            for line, name, caption in _rows(file, stream, columns, bad):
                image = os.path.normpath(os.path.join(root, name))
                if image not in known and len(of_name.get(name, [])) == 1:
                    [image] = of_name[name]
                texts = captions.setdefault(image, [])
                if caption:
                    texts.append(caption)
                else:
                    bad.append((image, f"an empty caption in line {line} of {file}."))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 ({error.reason}, byte {error.object[error.start]:#x}): convert it to UTF-8."
        ) from None
    return pairs_of(captions, bad), bad


def pairs_of(captions: dict[str, list[str]], bad: Bad) -> list[Pair]:
    """One pair for each readable image with captions; the others are added to bad, with the reason."""
    pairs = []
    for image, texts in captions.items():
        size, why = _size(image)
        if why:
            bad.append((image, why))
        elif texts:
            pairs.append(Pair(image, Place(image, 0, size), tuple(texts)))
    return pairs


def _rows(file: str, stream: TextIO, columns: Columns, bad: Bad) -> Iterator[tuple[int, str, str]]:
    """Yield (line, image, caption) of each row; malformed rows are added to bad."""
    first = stream.readline(1 << 16)
    stream.seek(0)
    for known in (columns, _FLICKR8K) if columns == Columns() else (columns,):
        header = [name.strip() for name in next(csv.reader([first], delimiter=known.separator), [])]
        if known.image in header and known.caption in header:
            return _with_header(file, stream, known, header, bad)
    if os.path.splitext(_NUMBER.sub("", first.partition("\t")[0]))[1].lower() in EXTENSIONS:
        return _without_header(file, stream, bad)
    raise DataError(
        f"{file} begins with {first.strip()[:80]!r}. Expected a header with the columns {columns.image!r} and "
        f"{columns.caption!r}, separated by {columns.separator!r}, or Flickr8k's 'image,caption', or an image, a tab "
        "and a caption. Give the names of its columns and its separator."
    )


def _with_header(
    file: str, stream: TextIO, columns: Columns, header: list[str], bad: Bad
) -> Iterator[tuple[int, str, str]]:
    rows = csv.reader(stream, delimiter=columns.separator, strict=True)
    image, caption = header.index(columns.image), header.index(columns.caption)
    try:
        next(rows)
        for row in rows:
            at = f"{file}, line {rows.line_num}"
            if row and len(row) != len(header):
                why = f"{len(row)} columns, but the header has {len(header)}"
                bad.append((at, f"{why}: a caption with {columns.separator!r} needs quotes."))
            elif row and row[image].strip():
                yield rows.line_num, row[image].strip(), row[caption].strip()
            elif row:
                bad.append((at, "the image is missing."))
    except csv.Error as error:
        raise DataError(
            f"{file}, line {rows.line_num}: {error}. A caption that begins with a quote must be enclosed in quotes, "
            "with inner quotes doubled."
        ) from None


def _without_header(file: str, stream: TextIO, bad: Bad) -> Iterator[tuple[int, str, str]]:
    for line, row in enumerate(stream, 1):
        image, tab, caption = row.partition("\t")
        if tab and image.strip():
            yield line, _NUMBER.sub("", image.strip()), caption.strip()
        elif row.strip():
            bad.append((f"{file}, line {line}", "expected an image, a tab and a caption."))


def _size(image: str) -> tuple[int, str]:
    """The size of an image file in bytes, and why it cannot be read, if so."""
    try:
        size = os.path.getsize(image)
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        missing = "no such file." if isinstance(error, FileNotFoundError) else f"cannot be read: {error}."
        return 0, "a URL, not a file: download it first." if _ADDRESS.search(image) else missing
    if os.path.isdir(image):
        return 0, "a folder, not an image."
    return size, "" if size else "empty (0 bytes)."
