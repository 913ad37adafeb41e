"""The plan of a run: all images of its sources in a file, cut into pieces that are explained and written one by one.

A piece is a number of consecutive images, or a tar at a URL. Pieces are the same for every number of processes, and
an interrupted run finds its images again, or that they have changed.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from eclip.errors import DataError, OptionError, ResultError
from eclip.files import draft_of, may_pass, retried
from eclip.images import Place, is_url, open_any
from eclip.stream.sources import Item, in_tar_at

LISTING = "images.jsonl"
MOST_SHOWN = 100


@dataclass(frozen=True)
class Piece:
    """Consecutive images.

    Attributes:
        number: of the piece, from 0.
        offset: of its first line in the listing, in bytes.
        count: of its lines.
        remote: whether its only line is a tar at a URL, so that the number of images is unknown.
    """

    number: int
    offset: int
    count: int
    remote: bool


class Plan:
    """All pieces of a run, in order, the file that lists its images, and the folder at which their paths start."""

    def __init__(self, file: Path, pieces: list[Piece]) -> None:
        self.file, self.pieces, self.root = file, pieces, ""

    @classmethod
    def make(cls, items: Iterable[Item], folder: Path, size: int, *, anew: bool = False) -> Plan:
        """List all images in a file of a folder; if it exists already, check that they are still the same.

        Args:
            items: from `list_images`.
            folder: where the listing is, or will be.
            size: of pieces: images each.
            anew: do not look at an existing list, but make a new one aside, which `settle` puts in its place.

        Raises:
            ResultError: images differ from those in the listing, or it cannot be written.
            DataError: as from `list_images`.
        """
        file, pieces, offset, number = folder / (f"{LISTING}.new" if anew else LISTING), list[Piece](), 0, -1
        known = file.open("rb") if file.exists() and not anew else None
        try:
            with _new(file) if known is None else known as stream:
                for number, item in enumerate(items):
                    line = _line(item)
                    if known is None:
                        stream.write(line)
                    elif (before := stream.readline()) != line:
                        raise _changed(folder, number, before, line)
                    _add(pieces, item, offset, size)
                    offset += len(line)
                if known is not None and (before := stream.readline()):
                    raise _changed(folder, number + 1, before, b"")
        except OSError as error:
            raise ResultError(f"{file} cannot be written: {error.strerror or error}.") from error
        return cls(file, pieces)

    def settle(self) -> None:
        """Give a new list that was made aside its name, now that the results of the old one are deleted."""
        if self.file.name != LISTING:
            self.file = self.file.replace(self.file.with_name(LISTING))

    @property
    def images(self) -> int | None:
        """How many images there are; None if that is unknown, because tars at URLs are not listed in advance."""
        return None if any(piece.remote for piece in self.pieces) else sum(piece.count for piece in self.pieces)

    @contextmanager
    def items(self, piece: Piece, start: int = 0) -> Iterator[Iterator[Item]]:
        """The images of a piece from position `start` on; a tar at a URL is downloaded and deleted afterwards."""
        items = self._lines(piece)
        with ExitStack() as stack:
            if piece.remote:
                [tar] = items
                items = in_remote_tar(tar, stack)
            yield itertools.islice(items, start, None)

    def _lines(self, piece: Piece) -> Iterator[Item]:
        with self.file.open("rb") as stream:
            stream.seek(piece.offset)
            for _ in range(piece.count):
                source, file, offset, size, error = json.loads(stream.readline())
                file = file if is_url(file) else os.path.join(self.root, file)
                yield Item(source, Place(file, offset, size), error)


def _add(pieces: list[Piece], item: Item, offset: int, size: int) -> None:
    last = pieces[-1] if pieces else None
    if last is None or last.remote or item.is_remote_tar or last.count == size:
        pieces.append(Piece(len(pieces), offset, 1, item.is_remote_tar))
    else:
        pieces[-1] = Piece(last.number, last.offset, last.count + 1, False)


def _line(item: Item) -> bytes:
    return json.dumps([item.source, *item.place, item.error]).encode() + b"\n"  # ASCII: names need not be Unicode


@contextmanager
def _new(file: Path) -> Iterator[IO[bytes]]:
    """A file that has its name once it is complete."""
    with draft_of(file).open("xb") as stream:
        try:
            yield stream
            stream.flush()
            os.replace(stream.name, file)
        except BaseException:
            os.unlink(stream.name)
            raise


def _changed(folder: Path, number: int, before: bytes, now: bytes) -> ResultError:
    shown = [_told(line) for line in (before, now)]
    return ResultError(
        f"the images have changed since the run in {str(folder)!r} began: image {number:,} was {shown[0]}, now it is "
        f"{shown[1]}. Results of both would mix: restore the images, or choose another folder, or --overwrite."
    )


def _told(line: bytes) -> str:
    if not line:
        return "absent"
    try:
        source, _, _, size, error = json.loads(line)
    except (ValueError, TypeError):
        return "a line that eclip did not write"
    shown = source if len(source) <= MOST_SHOWN else f"...{source[-MOST_SHOWN:]}"
    return f"{shown} ({'unreadable' if error else 'of unknown size' if size < 0 else f'{size:,} bytes'})"


def in_remote_tar(tar: Item, stack: ExitStack) -> Iterator[Item]:
    """The images of a tar at a URL, downloaded now until the stack is closed; if there is none, the tar, which failed.

    Raises:
        DataError: it cannot be downloaded.
    """
    try:
        file = stack.enter_context(_downloaded(tar.place.file))
    except FileNotFoundError:
        return iter([tar._replace(error=f"{tar.source}: no such file.")])
    items = in_tar_at(str(file), tar.source)
    try:
        first = next(items, tar._replace(error=f"{tar.source} contains no image."))
    except DataError as error:  # not a tar
        return iter([tar._replace(error=str(error))])
    return itertools.chain([first], items)


@contextmanager
def _downloaded(url: str) -> Iterator[Path]:
    """A copy of the file at a URL, deleted afterwards; a FileNotFoundError if there is no such file."""
    with tempfile.TemporaryDirectory(prefix="eclip-") as folder:
        file = Path(folder) / (url.partition("?")[0].rpartition("/")[2] or "images.tar")

        def fetch() -> None:
            with open_any(url) as stream, file.open("wb") as copy:
                shutil.copyfileobj(stream, copy, 1 << 20)

        try:
            retried(fetch)
        except OptionError:
            raise
        except Exception as error:  # each file system has its own errors
            if isinstance(error, FileNotFoundError) and not may_pass(error):
                raise
            reason = getattr(error, "strerror", None) or error.__cause__ or error
            advice = "to continue a run on shards, run the same command again, without --overwrite"
            raise DataError(f"{url} cannot be downloaded ({reason}): {advice}.") from error
        yield file
