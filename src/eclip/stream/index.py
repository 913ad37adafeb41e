"""The index: rows of each image, in JSON lines or Parquet, which pandas, DuckDB and Spark read as it is."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eclip.errors import MissingExtraError
from eclip.registry import one_of
from eclip.results.table import BOX
from eclip.stream.records import dumped

INDEXES = ("jsonl", "parquet")
GROUP = 10_000
"""Rows of a group in a Parquet file, which are in memory at once."""


def check_index(kind: str) -> None:
    """Check that the kind of the index is known, and that its package is installed.

    Raises:
        OptionError: it is unknown.
        MissingExtraError: it is "parquet", and pyarrow is not installed.
    """
    if one_of(kind, "index", INDEXES) == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise MissingExtraError("an index in Parquet", "pyarrow", "parquet") from None


def write_index(rows: Iterable[dict[str, Any]], file: Path, suffix: str, columns: Sequence[str]) -> None:
    """Write rows to a file, the same bytes for the same rows; the suffix, ".jsonl" or ".parquet", says how."""
    if suffix == ".parquet":
        _parquet(rows, file, columns)
        return
    with file.open("wb") as stream:
        for row in rows:
            stream.write(dumped(row) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def count_images(file: Path) -> int:
    """How many images a part of the index has; the rows of one follow each other."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        parts = pq.ParquetFile(file).iter_batches(GROUP, columns=["id"])
        return sum(1 for _ in itertools.groupby(name for part in parts for name in part.column(0).to_pylist()))
    with file.open("rb") as stream:  # a line begins with the id
        return sum(1 for _ in itertools.groupby(line.partition(b",")[0] for line in stream))


def _parquet(rows: Iterable[dict[str, Any]], file: Path, columns: Sequence[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole, number, flag, text = pa.int32(), pa.float32(), pa.bool_(), pa.string()
    types = {
        "id": text, "source": text, "width": whole, "height": whole, "map": pa.list_(whole), "number": whole,
        "text": text, "score": number, "flat": flag, "sensitivity": number, "polarity": number, "artefacts": number,
        "presence": number, "emptiness": number, "doubt": text, "boxes": pa.list_(pa.list_(whole)),
        "mask": pa.struct([("size", pa.list_(whole)), ("counts", pa.list_(whole))]),
        "points": pa.list_(pa.list_(whole)), "scale": number, "shard": text,
        "image": text, "found": text, "area": number, "warnings": text, **dict.fromkeys(BOX, whole),
        "class": text, "confidence": number,
        "words": pa.list_(pa.struct([("word", text), ("value", number), ("share", number)])),
    }  # fmt: skip
    schema, remaining = pa.schema([(name, types[name]) for name in columns]), iter(rows)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while some := list(itertools.islice(remaining, GROUP)):
            for row in some:  # names of files need not be Unicode
                for name in {"source", "image"} & row.keys():
                    row[name] = row[name].encode(errors="backslashreplace").decode()
            writer.write_table(pa.Table.from_pylist(some, schema))
