"""The output: for each piece a shard (a tar in WebDataset's layout, or a folder), its part of the index, and failures.

A shard is written to a ".part", sample by sample in order, which is also its journal: after a kill, the last batch that
it contains is removed and repeated. A piece is done once its part of the index exists, which is written last. All files
are the same bytes, however often a run was interrupted.
"""

from __future__ import annotations

import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from eclip.errors import ResultError
from eclip.files import SHARDED, lock, replace_file
from eclip.stream.index import count_images, write_index
from eclip.stream.records import Record, dumped

INDEX, SHARDS, FAILURES = SHARDED
PART = ".part"
LAYOUTS = ("tar", "folder")
INFO = "json"
"""The ending of a sample's last file, which says what the others are."""
_BLOCK = tarfile.BLOCKSIZE


class Shard:
    """The output of one piece, continued where an earlier run was stopped; a context manager.

    The entries of the list in a sample's JSON that is named `entries` become rows with these columns of the index.

    Attributes:
        was_done: whether all of it had been written before.
        start: once entered, how many images of the piece were done before.
        failed: names and errors of the images that failed.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        layout: str,
        index: str,
        batch_size: int,
        columns: Sequence[str],
        entries: str = "texts",
    ) -> None:
        self.entries = entries
        self.folder, self.name, self.batch_size, self.columns = folder, f"{number:06d}", batch_size, columns
        self.file = folder / SHARDS / (f"{self.name}.tar" if layout == "tar" else self.name)
        self.index_part = folder / INDEX / f"{self.name}.{index}"
        self.failures = folder / FAILURES / f"{self.name}.jsonl"
        self.was_done = self.index_part.exists()
        self.start, self.failed = 0, _read_lines(self.failures) if self.was_done else []
        self._journal = self.failures.with_name(self.failures.name + PART)
        self._draft = self._journal.with_name(self._journal.name + PART)  # of either, whose writer has the lock
        self._store: _Tar | _Files

    def count(self) -> int:
        """How many images its part of the index has."""
        return count_images(self.index_part)

    def __enter__(self) -> Shard:
        with _advising(self.folder):
            for place in (SHARDS, INDEX, FAILURES):
                (self.folder / place).mkdir(exist_ok=True)
            self._store = (_Tar if self.file.suffix else _Files)(self.file, self.index_part)
            try:
                self._resume()
            except BaseException:
                self._store.close()
                raise
        return self

    def __exit__(self, *reason: object) -> None:
        self._store.close()

    def add(self, start: int, batch: Sequence[Record | tuple[str, str]]) -> None:
        """Write a batch: for each image its record, or its name and why it failed; `start` is the first position."""
        places = [(self._id(start + place), one) for place, one in enumerate(batch)]
        failed = [{"id": name, "source": one[0], "error": one[1]} for name, one in places if isinstance(one, tuple)]
        self.failed += failed
        with _advising(self.folder):
            if failed:
                with self._journal.open("ab") as stream:
                    stream.write(_lines(failed))
            for name, one in places:
                if isinstance(one, Record):
                    for ending, content in {**one.files, INFO: dumped({"id": name, **one.info})}.items():
                        self._store.put(f"{name}.{ending}", content)
            self._store.flush()

    def finish(self) -> None:
        """Give all files their names, the part of the index last."""
        with _advising(self.folder):
            part = self.index_part.with_name(self.index_part.name + PART)
            write_index(self._rows(), part, self.index_part.suffix, self.columns)
            if self.failed:
                replace_file(self.failures, _lines(self.failed), self._draft)
            else:
                self.failures.unlink(missing_ok=True)
            self._journal.unlink(missing_ok=True)
            self._store.finish()
            os.replace(part, self.index_part)

    def _id(self, position: int) -> str:
        return f"{self.name}-{position:06d}"

    def _rows(self) -> Iterator[dict[str, Any]]:
        for info in self._store.infos():
            image = json.loads(info)
            entries = image.pop(self.entries)
            for number, entry in enumerate(entries):
                yield {**image, "number": number, **entry, "shard": f"{SHARDS}/{self.file.name}"}

    def _resume(self) -> None:
        """Remove the last batch of what an earlier run wrote, which may be incomplete."""
        self.failed = _read_lines(self._journal if self._journal.exists() else self.failures)
        names = self._store.samples() | {str(one["id"]) for one in self.failed}
        seen = next(place for place in itertools.count() if self._id(place) not in names)
        self.start = max(0, seen - 1) // self.batch_size * self.batch_size
        self._store.cut(first := self._id(self.start))
        self.failed = [one for one in self.failed if one["id"] < first]
        replace_file(self._journal, _lines(self.failed), self._draft)


def read_failures(folder: Path) -> Iterator[dict[str, Any]]:
    """All images of a run that failed: "id", "source" and "error" of each, in order."""
    for file in sorted((folder / FAILURES).glob("*.jsonl")):
        yield from _read_lines(file)


class _Tar:
    """A tar without times and owners, so that equal content gives equal bytes."""

    def __init__(self, file: Path, index: Path) -> None:
        self.file, self.part = file, file.with_name(file.name + PART)
        self._release = _claim(file, self.part, index)
        self.stream = open(self.part, "r+b")  # noqa: SIM115  # closed by `close`

    def samples(self) -> set[str]:
        return {name.partition(".")[0] for name, *_ in members(self.stream)}

    def cut(self, first: str) -> None:
        end = 0
        for name, _, data, size in members(self.stream):
            if name.partition(".")[0] >= first:
                break
            end = data + _padded(size)
        self.stream.truncate(end)
        self.stream.seek(end)

    def put(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self.stream.write(info.tobuf(tarfile.USTAR_FORMAT) + content + b"\0" * (_padded(info.size) - info.size))

    def flush(self) -> None:
        self.stream.flush()

    def infos(self) -> Iterator[bytes]:
        for name, _, data, size in members(self.stream):
            if name.partition(".")[2] == INFO:
                self.stream.seek(data)
                yield self.stream.read(size)

    def finish(self) -> None:
        self.stream.seek(0, os.SEEK_END)
        self.stream.write(b"\0" * 2 * _BLOCK)
        self.stream.flush()
        os.fsync(self.stream.fileno())
        os.replace(self.part, self.file)

    def close(self) -> None:
        try:
            self.stream.close()
        except OSError:  # what a full disk did not take has been told already
            pass
        finally:
            self._release()


def members(stream: IO[bytes]) -> Iterator[tuple[str, int, int, int]]:
    """Name, offset, offset of the content and its size of each complete file of a tar that we wrote."""
    offset, length = 0, stream.seek(0, os.SEEK_END)
    while offset + _BLOCK <= length:
        stream.seek(offset)
        try:
            info = tarfile.TarInfo.frombuf(stream.read(_BLOCK), "utf-8", "strict")
        except (tarfile.TarError, ValueError):  # the end, or cut off
            return
        data = offset + _BLOCK
        if data + _padded(info.size) > length:
            return
        yield info.name, offset, data, info.size
        offset = data + _padded(info.size)


class _Files:
    """A folder."""

    def __init__(self, file: Path, index: Path) -> None:
        self.file, self.part = file, file.with_name(file.name + PART)
        self._release = _claim(file, self.part, index)

    def samples(self) -> set[str]:
        return {one.name.partition(".")[0] for one in os.scandir(self.part)}

    def cut(self, first: str) -> None:
        for one in list(os.scandir(self.part)):
            if one.name.partition(".")[0] >= first:
                os.unlink(one.path)

    def put(self, name: str, content: bytes) -> None:
        with (self.part / name).open("wb") as stream:
            stream.write(content)

    def flush(self) -> None:
        pass

    def infos(self) -> Iterator[bytes]:
        for file in sorted(self.part.glob(f"*.{INFO}")):
            yield file.read_bytes()

    def finish(self) -> None:
        os.replace(self.part, self.file)

    def close(self) -> None:
        self._release()


class FinishedMeanwhile(Exception):
    """Another process has finished the shard since it was found to be unfinished."""


def _claim(file: Path, part: Path, index: Path) -> Callable[[], None]:
    """Lock the unfinished shard, created if there is none; the returned function releases it.

    A finished shard whose part of the index is missing becomes unfinished again.

    Raises:
        ResultError: another run is writing it.
        FinishedMeanwhile: another process has finished it, with its part of the index.
    """
    while True:
        there = file if file.exists() else part
        if not there.exists():
            part.touch() if file.suffix else part.mkdir()
        release = lock(there)
        if there.exists():  # or the other run has finished it meanwhile
            break
        release()
    if index.exists():
        if there == part and file.exists():  # made above, while the other process finished
            part.unlink() if file.suffix else part.rmdir()
        release()
        raise FinishedMeanwhile
    if there == file:
        os.replace(file, part)
    return release


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _lines(values: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(dumped(one) + b"\n" for one in values)


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """The complete lines of a file; none if it does not exist."""
    if not file.exists():
        return []
    *whole, _ = file.read_bytes().split(b"\n")
    return [json.loads(line) for line in whole]


@contextmanager
def _advising(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into a ResultError that says how to continue."""
    try:
        yield
    except OSError as error:
        raise ResultError(
            f"{str(folder)!r} cannot be written: {error.strerror or error}. What is there is kept: run the same "
            "command again, without --overwrite, to continue."
        ) from error
