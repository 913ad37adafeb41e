"""Arrays of one shape, one a record, in shards on disk, so that more of them than fit into memory can be read anywhere.

A shard is whole or not there: whoever is interrupted goes on behind the last whole one, and whoever finds a folder of
the same key may use what is in it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eclip.errors import ResultError
from eclip.files import replace_file


class Store:
    """A numbered sequence of arrays.

    Args:
        folder: of the shards, made when the first one is written.
        count: of the records.
        shape: of a record.
        dtype: of its numbers.
        shard: records in a shard.
    """

    def __init__(self, folder: Path, count: int, shape: Sequence[int], dtype: type[np.floating], shard: int) -> None:
        self.folder, self.count, self.shard = folder, count, shard
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)

    @property
    def record_bytes(self) -> int:
        """Size of one record."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def missing(self, first: int | None = None) -> list[range]:
        """The records of each shard that is not there yet, of those that hold the `first` so many; None = all."""
        spans = (self._span(number) for number in range(-(-(self.count if first is None else first) // self.shard)))
        return [span for span in spans if not self.has(span)]

    def has(self, span: range) -> bool:
        """Whether the shard of these records is there, and whole."""
        file = self._file(span.start // self.shard)
        return file.is_file() and file.stat().st_size == self._header(span) + len(span) * self.record_bytes

    def bytes_missing(self, first: int | None = None) -> int:
        """What these shards will take on disk."""
        return sum(len(span) for span in self.missing(first)) * self.record_bytes

    def write(self, start: int, values: NDArray[np.floating], bad: dict[int, str] | None = None) -> None:
        """Put a whole shard on disk.

        Args:
            start: number of its first record.
            values: (record, *shape).
            bad: why records, by number, hold nothing to be used.

        Raises:
            ResultError: the folder cannot be written.
        """
        number = start // self.shard
        if bad:
            replace_file(self._file(number, ".bad.json"), json.dumps(bad).encode())
        replace_file(self._file(number), lambda file: np.save(file, np.ascontiguousarray(values, self.dtype)))

    def bad(self) -> dict[int, str]:
        """Records that hold nothing to be used, with the reasons."""
        found: dict[int, str] = {}
        for file in sorted(self.folder.glob("*.bad.json")):
            found |= {int(record): why for record, why in json.loads(file.read_text(encoding="utf-8")).items()}
        return found

    def take(self, records: NDArray[np.integer]) -> NDArray[np.floating]:
        """Records by number, in the order asked for: (record, *shape). Only these are read, a file from front to back.

        Nothing is mapped into memory, where what was ever read would count as used.

        Raises:
            ResultError: a shard is shorter than when it was looked for.
        """
        taken = np.empty((len(records), *self.shape), self.dtype)
        for number, places in groupby(np.argsort(records), lambda place: int(records[place]) // self.shard):
            span = self._span(number)
            with self._file(number).open("rb", buffering=0) as file:
                begin = self._header(span)
                for place in places:
                    file.seek(begin + (int(records[place]) - span.start) * self.record_bytes)
                    if file.readinto(taken[place]) != self.record_bytes:
                        raise ResultError(f"{file.name} was cut off meanwhile: begin again, and it is made anew.")
        return taken

    def _header(self, span: range) -> int:
        """Bytes before the first record in a shard's file."""
        shape = (len(span), *self.shape)
        np.lib.format.write_array_header_1_0(
            header := io.BytesIO(), {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        )
        return header.tell()

    def _span(self, number: int) -> range:
        return range(number * self.shard, min((number + 1) * self.shard, self.count))

    def _file(self, number: int, suffix: str = ".npy") -> Path:
        return self.folder / f"{number:06d}{suffix}"
