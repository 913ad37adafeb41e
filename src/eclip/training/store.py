"""Arrays of one shape, one a record, in shards on disk, so that more of them than fit into memory can be read anywhere.

A shard is whole or not there: whoever is interrupted goes on behind the last whole one, and whoever finds a folder of
the same key may use what is in it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHARD_BYTES = 2**26


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
        self.folder, self.count, self.shape, self.dtype, self.shard = (
            folder,
            count,
            tuple(shape),
            np.dtype(dtype),
            shard,
        )
        self._open: dict[int, NDArray[np.floating]] = {}

    @property
    def record_bytes(self) -> int:
        """Size of one record."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def missing(self) -> list[range]:
        """The records of each shard that is not there yet."""
        return [span for span in self._spans() if not self._file(span.start // self.shard, ".npy").is_file()]

    def bytes_missing(self) -> int:
        """What the missing shards will take on disk."""
        return sum(len(span) for span in self.missing()) * self.record_bytes

    def write(self, start: int, values: NDArray[np.floating], bad: dict[int, str] | None = None) -> None:
        """Put a whole shard on disk.

        Args:
            start: number of its first record.
            values: (record, *shape).
            bad: why records, by number, hold nothing to be used.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if bad:
            self._replace(start // self.shard, ".bad.json", json.dumps(bad).encode())
        self._replace(start // self.shard, ".npy", np.ascontiguousarray(values, self.dtype))

    def bad(self) -> dict[int, str]:
        """Records that hold nothing to be used, with the reasons."""
        found: dict[int, str] = {}
        for file in sorted(self.folder.glob("*.bad.json")):
            found |= {int(record): why for record, why in json.loads(file.read_text()).items()}
        return found

    def take(self, records: NDArray[np.integer]) -> NDArray[np.floating]:
        """Records by number, in the order asked for: (record, *shape)."""
        taken = np.empty((len(records), *self.shape), self.dtype)
        shards = records // self.shard
        for shard in np.unique(shards):
            mine = shards == shard
            taken[mine] = self._read(int(shard))[records[mine] % self.shard]
        return taken

    def _spans(self) -> Iterator[range]:
        for start in range(0, self.count, self.shard):
            yield range(start, min(start + self.shard, self.count))

    def _file(self, shard: int, suffix: str) -> Path:
        return self.folder / f"{shard:06d}{suffix}"

    def _read(self, shard: int) -> NDArray[np.floating]:
        if shard not in self._open:
            self._open[shard] = np.load(self._file(shard, ".npy"), mmap_mode="r")
        return self._open[shard]

    def _replace(self, shard: int, suffix: str, content: bytes | NDArray[np.floating]) -> None:
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as part:
            if isinstance(content, bytes):
                part.write(content)
            else:
                np.save(part, content)
        os.replace(part.name, self._file(shard, suffix))
