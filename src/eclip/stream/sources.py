"""Sources of many images: folders, tables, tars and URLs, listed one by one in a fixed order, without torch."""

from __future__ import annotations

import csv
import glob
import io
import itertools
import json
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from braceexpand import braceexpand

from eclip.datasets.archives import SEG, TAR, in_tar
from eclip.errors import DataError, DataWarning
from eclip.files import SHARDED, left_out, made_in, unmade
from eclip.images import EXTENSIONS, Place, is_url, open_any

TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})
COLUMNS = ("image", "path", "file", "filename", "file_name", "filepath", "url", "image_path")
"""Names of a table's column of images; the first that it has counts."""


class Item(NamedTuple):
    """An image before it is read.

    Attributes:
        source: its name: the path or URL, or "shard.tar/key".
        place: where its bytes are.
        error: why it cannot be read, if the listing found that out already; otherwise empty.
    """

    source: str
    place: Place
    error: str = ""

    @property
    def is_remote_tar(self) -> bool:
        """Whether it is a whole tar at a URL, whose images are listed once it has been downloaded."""
        return is_url(self.place.file) and is_tar(self.place.file)


def list_images(sources: Sequence[str | Path], out: Path | None = None) -> Iterator[Item]:
    """Yield the images of all sources in a fixed order, in bounded memory.

    Args:
        sources: images, folders (their images, with those of subfolders), glob patterns, tables (CSV, TSV or JSON lines
            with a column of images), tars, and URLs of images, tables and tars that fsspec opens. Braces expand, as in
            "train-{000..127}.tar".
        out: the folder of the results, which is left out of folders.

    Raises:
        DataError: a source does not exist, or contains no image.
    """
    if not sources:
        raise DataError("no source was given: pass images, a folder, a table or tars.")
    results = None if out is None else str(out.resolve())
    for source in sources:
        for one in expanded(str(source)):
            images = _images(one, results)
            if (first := next(images, None)) is None:
                raise DataError(f"{one} contains no image ({', '.join(sorted(EXTENSIONS))}).")
            yield first
            yield from images


def expanded(source: str) -> list[str]:
    """The parts of a source whose braces expand, such as "train-{000..127}.tar"; an existing file is itself."""
    if "{" not in source or os.path.exists(source):
        return [source]
    try:
        return list(braceexpand(source, escape=False))
    except ValueError as error:  # braces that do not match
        raise DataError(f"{source}: no such file or folder ({error}).") from None


def is_tar(file: str) -> bool:
    """Whether the name is that of a tar, compressed or not."""
    return TAR.search(file.partition("?")[0] if is_url(file) else file) is not None


def is_table(file: str) -> bool:
    """Whether the name is that of a table."""
    return _ending(file) in TABLES


def _ending(file: str) -> str:
    return os.path.splitext(file.partition("?")[0] if is_url(file) else file)[1].lower()


def _images(source: str, out: str | None) -> Iterator[Item]:
    if is_url(source):
        if is_tar(source):
            return iter([Item(source, Place(source))])
        return in_table(source) if is_table(source) else iter([Item(source, Place(source))])
    if os.path.isdir(source):
        return in_folder(source, out)
    if not os.path.exists(source):
        if not glob.has_magic(source):
            raise DataError(f"{source or repr(source)}: no such file or folder.")
        named = glob.iglob(source, recursive=True)
        found = [match for match in named if os.path.isfile(match) or not os.path.exists(match)]
        _, others = unmade(source, map(Path, found))
        matches = sorted(match for match in found if Path(match) in others and not _is_inside(match, out))
        if not matches:
            raise DataError(f"{source}: no file matches.")
        parts = (_images(match, out) if os.path.exists(match) else iter([_file(match)]) for match in matches)
        return itertools.chain.from_iterable(parts)
    if is_tar(source):
        return in_tar_at(source, source)
    return in_table(source) if is_table(source) else iter([_file(source)])


def _file(file: str) -> Item:
    try:
        if stat.S_ISDIR((state := os.stat(file)).st_mode):
            return Item(file, Place(file), f"{file} is a folder, not an image.")
        return Item(file, Place(file, 0, state.st_size))
    except FileNotFoundError:
        return Item(file, Place(file), f"{file}: no such file.")
    except (OSError, ValueError) as error:  # the latter for names that no file can have
        return Item(file, Place(file), f"{file} cannot be read ({getattr(error, 'strerror', None) or error}).")


def in_folder(folder: str, out: str | None = None) -> Iterator[Item]:
    """Yield the images of a folder and its subfolders, sorted, without what runs of eclip wrote there.

    Links to folders are left out, with a DataWarning. Only the names of one folder are in memory at a time.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from error
    made = made_in(Path(folder))
    for entry in entries:
        if entry.name in made:
            continue
        if os.path.isdir(entry.path):
            if entry.is_symlink():
                warnings.warn(left_out(entry.path), DataWarning, stacklevel=2)
            elif not _is_inside(entry.path, out):
                yield from in_folder(entry.path, out)
        elif _ending(entry.name) in EXTENSIONS:
            yield _file(entry.path)


def _is_inside(path: str, out: str | None) -> bool:
    """Whether a path is the folder of the results, or in one of those that a run makes there."""
    real = os.path.realpath(path)
    made = () if out is None else (out, *(os.path.join(out, name) for name in SHARDED))
    return any(real == one or (one != out and real.startswith(one + os.sep)) for one in made)


def in_tar_at(file: str, name: str) -> Iterator[Item]:
    """Yield the images of an uncompressed tar in order; what is damaged has an `error`.

    The name is the tar's own, or the URL from which it was downloaded.

    Raises:
        DataError: it is compressed or not a tar.
    """
    bad: list[tuple[str, str]] = []
    stem, others, seen = "", list[Item](), False
    try:
        for member in in_tar(file, name, bad):
            if member.stem != stem:
                yield from () if seen else others
                stem, others, seen = member.stem, [], False
            item = Item(f"{name}/{member.name}", member.place)
            if member.kind in EXTENSIONS:
                yield item
                seen = True
            elif (
                member.kind != SEG and os.path.splitext(member.kind)[1] in EXTENSIONS
            ):  # beside an image it is another part of its sample
                others.append(item._replace(error=f"{item.source}: a key ends at the first dot: rename the image."))
        yield from () if seen else others
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}.") from error
    except DataError as error:
        raise DataError(str(error).replace(file, name)) from None
    for source, why in bad:
        yield Item(source, Place(file), f"{source}: {why}")


def in_table(file: str) -> Iterator[Item]:
    """Yield the images that a table names, row by row; relative paths start at the table's folder.

    A CSV or TSV needs a header; lines of JSON are objects, or texts alone. The column is the first of `COLUMNS`.

    Raises:
        DataError: it cannot be read, or has no such column.
    """
    folder = file.partition("?")[0].rpartition("/")[0] if is_url(file) else os.path.dirname(file)
    try:
        with open_any(file) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            for line, name in _rows(file, text):
                if not isinstance(name, str) or not name:
                    raise DataError(f"{file}, line {line}: no image, got {name!r}.")
                path = name if is_url(name) or os.path.isabs(name) else os.path.join(folder, name)
                yield Item(path, Place(path)) if is_url(path) else _file(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{file} cannot be read: {reason}.") from error


def _rows(file: str, text: IO[str]) -> Iterator[tuple[int, Any]]:
    if _ending(file) in (".csv", ".tsv"):
        table = csv.DictReader(text, delimiter="\t" if _ending(file) == ".tsv" else ",")
        column = column_of(table.fieldnames or (), file)
        for row in table:
            yield table.line_num, row[column]
        return
    for number, line in enumerate(text, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{file}, line {number}: not JSON ({error}).") from None
            yield number, row[column_of(row, f"{file}, line {number}")] if isinstance(row, dict) else row


def column_of(columns: Iterable[str], where: str) -> str:
    """The name of the column of images.

    Raises:
        DataError: there is none.
    """
    columns = list(columns)
    for name in COLUMNS:
        if name in columns:
            return name
    raise DataError(f"{where} has no column of images: name it {COLUMNS[0]!r}. Its columns are {', '.join(columns)}.")
