"""Arrays of the same shape in shards on disk, with random access to more of them than fit into memory.

Shards are written atomically: an interrupted run continues after the last complete shard, and any run may use a folder
with its key.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eclip.errors import ResultError
from eclip.files import replace_file


class Store:
    """A numbered sequence of `count` arrays, called records, `shard` in a file; the first one makes the folder."""

    def __init__(self, folder: Path, count: int, shape: Sequence[int], dtype: type[np.floating], shard: int) -> None:
        self.folder, self.count, self.shard = folder, count, shard
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.record_bytes = math.prod(shape) * self.dtype.itemsize

    def missing(self, first: int | None = None) -> list[range]:
        """The records of each missing shard, among those that contain the `first` records; None = all."""
        spans = (self.span(number) for number in range(-(-(self.count if first is None else first) // self.shard)))
        return [span for span in spans if not self.has(span)]

    def has(self, span: range) -> bool:
        """Whether the shard of these records exists and is complete."""
        file = self._file(span.start // self.shard)
        return file.is_file() and file.stat().st_size == self._header(span) + len(span) * self.record_bytes

    def bytes_missing(self, first: int | None = None) -> int:
        """The disk space that the missing shards will take."""
        return sum(len(span) for span in self.missing(first)) * self.record_bytes

    def write(self, start: int, values: NDArray[np.floating], bad: dict[int, str] | None = None) -> None:
        """Write a complete shard (record, *shape) from its first record on, and which are unusable, with the reasons.

        Raises:
            ResultError: the folder cannot be written.
        """
        number = start // self.shard
        told = self._file(number, ".bad.json")
        if bad:
            replace_file(told, json.dumps(bad).encode())
        replace_file(self._file(number), lambda file: np.save(file, np.ascontiguousarray(values, self.dtype)))
        if not bad:
            told.unlink(missing_ok=True)

    def bad(self) -> dict[int, str]:
        """Unusable records by number, with the reasons."""
        found: dict[int, str] = {}
        for file in sorted(self.folder.glob("*.bad.json")):
            found |= {int(record): why for record, why in json.loads(file.read_text(encoding="utf-8")).items()}
        return found

    def take(self, records: NDArray[np.integer]) -> NDArray[np.floating]:
        """The records with these numbers, in this order: (record, *shape). Each file is read from front to back.

        Files are not memory-mapped, because all pages ever read would count as used memory.

        Raises:
            ResultError: a shard has become shorter since it was checked, or is gone.
        """
        taken = np.empty((len(records), *self.shape), self.dtype)
        for number, places in groupby(np.argsort(records), lambda place: int(records[place]) // self.shard):
            span = self.span(number)
            path = self._file(number)
            try:
                with path.open("rb", buffering=0) as file:
                    begin = self._header(span)
                    for place in places:
                        file.seek(begin + (int(records[place]) - span.start) * self.record_bytes)
                        if file.readinto(taken[place]) != self.record_bytes:
                            raise ResultError(f"{path} was truncated during the run: start again to recreate it.")
            except OSError as error:
                reason = error.strerror or error
                raise ResultError(f"{path} cannot be read any more ({reason}): start again to recreate it.") from error
        return taken

    def _header(self, span: range) -> int:
        """Bytes before the first record in a shard's file."""
        header, shape = io.BytesIO(), (len(span), *self.shape)
        fields = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, fields)
        return header.tell()

    def span(self, number: int) -> range:
        """The records of a shard."""
        return range(number * self.shard, min((number + 1) * self.shard, self.count))

    def _file(self, number: int, suffix: str = ".npy") -> Path:
        return self.folder / f"{number:06d}{suffix}"
