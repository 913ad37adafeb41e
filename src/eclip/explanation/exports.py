"""Files of all images of a run beside its pictures: a table, annotations, the gallery; filled image by image.

Only what the selection keeps is written. Memory does not grow with the number of images, but for two numbers a row if
the table is sorted: annotations and the gallery wait in temporary files for the end of the run, which Ctrl-C ends too.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eclip.errors import ResultError
from eclip.explanation.rows import Selection, sort_key
from eclip.results.folder import EXPORTS
from eclip.results.table import COLUMNS, HEADER, csv_rows

if TYPE_CHECKING:
    from eclip.explanation.conversions import Chosen
    from eclip.explanation.explanation import Explanation

IN_MEMORY = 1 << 24  # bytes of a file in memory; more wait on disk
Put = Callable[[str, "bytes | Iterable[bytes]"], str]


class Export(Protocol):
    """A file that grows by an image at a time."""

    def add(self, explanation: Explanation, image: int, texts: Chosen) -> None:
        """Take an image and those of its texts that the selection keeps."""

    def finish(self) -> None:
        """Write the file, or what is missing of it."""


class Exports:
    """All files in `EXPORTS` that the formats of a run ask for; `max_side` is for the gallery's images."""

    def __init__(self, formats: Iterable[str], selection: Selection, max_side: int | None) -> None:
        self.files = {name: EXPORTS[name] for name in EXPORTS if name in formats}
        self.selection, self.max_side = selection, max_side
        self._open: list[Export] = []
        self._stack = ExitStack()

    def add(self, explanation: Explanation, image: int, folder: Path, put: Put) -> None:
        """Add an image; the first one begins the files in the folder, where `put` replaces a file."""
        if not self.files:
            return
        from eclip.explanation.conversions import chosen

        if not self._open:
            self._open = [self._begin(name, explanation, folder, put) for name in self.files]
        texts = chosen(explanation, image, self.selection)
        try:
            for one in self._open:
                one.add(explanation, image, texts)
        except OSError as error:
            raise ResultError(f"{str(folder)!r} cannot be written: {error.strerror or error}.") from error

    def _begin(self, name: str, explanation: Explanation, folder: Path, put: Put) -> Export:
        if name == "csv":
            return self._stack.enter_context(closing(Table(folder / EXPORTS[name], self.selection.sort, put)))

        def spool() -> Spool:
            return self._stack.enter_context(closing(Spool(folder)))

        if name == "coco":
            return Coco(explanation.texts, spool(), spool(), put)
        if name == "labelstudio":
            return LabelStudio(spool(), put)
        from eclip.explanation.gallery.gallery import Gallery

        return Gallery(explanation, self.selection, self.max_side, spool(), put)

    def finish(self) -> dict[str, str]:
        """Finish and close all files; the name of each by its format, none if there was no image."""
        try:
            for one in self._open:
                one.finish()
            return self.files if self._open else {}
        finally:
            self._stack.close()


class Spool:
    """Lines that wait in a temporary file, which nobody else sees, until `close`."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(folder))  # noqa: SIM115
        self.count = 0

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def add(self, *contents: dict[str, Any]) -> None:
        """Add lines of JSON, all or none of them."""
        texts = [json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in contents]
        self._file.writelines([text.encode(errors="backslashreplace") for text in texts])
        self.count += len(texts)

    def __iter__(self) -> Iterator[bytes]:
        """All whole lines without their ends; a write that failed may have left more."""
        self._file.seek(0)
        return (line.rstrip(b"\n") for line in itertools.islice(self._file, self.count))

    def joined(self) -> Iterator[bytes]:
        """The lines as items of a JSON array, without its brackets."""
        return (b"\n" + line if not number else b",\n" + line for number, line in enumerate(self))


class Table:
    """The table as CSV: each image's rows are in the file at once, and sorted at the end, before `close`."""

    def __init__(self, file: Path, sort: str | None, put: Put) -> None:
        self.file, self.sort, self._put = file, sort, put
        put(file.name, HEADER)
        self._stream = file.open("r+b")
        self._end = self._stream.seek(0, 2)
        self._keys, self._starts = array("d"), array("q")

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def add(self, explanation: Explanation, image: int, texts: Chosen) -> None:
        """Write the rows of an image."""
        lines = [csv_rows([[row[name] for name in COLUMNS]]) for _, row in texts]
        self._stream.write(b"".join(lines))
        self._stream.flush()
        for line, (_, row) in zip(lines, texts, strict=True):
            if self.sort is not None:
                self._starts.append(self._end)
                self._keys.append(sort_key(row, self.sort))
            self._end += len(line)

    def finish(self) -> None:
        """Remove what an interruption left of the last image, and sort."""
        self._stream.truncate(self._end)
        if self.sort is not None:
            self._put(self.file.name, self._sorted())

    def _sorted(self) -> Iterator[bytes]:
        yield HEADER
        ends = itertools.chain(self._starts[1:], [self._end])
        rows = zip(self._keys, self._starts, ends, strict=False)  # an interruption may have left one more start
        for _, start, end in sorted(rows, key=lambda row: -row[0]):
            self._stream.seek(start)
            yield self._stream.read(end - start)
        self.close()  # before the file is replaced, which Windows refuses while it is open


class Coco:
    """coco.json, as `Explanation.to_coco` returns it."""

    def __init__(self, texts: Iterable[str], images: Spool, annotations: Spool, put: Put) -> None:
        self.texts, self.images, self.annotations, self._put = list(texts), images, annotations, put

    def add(self, explanation: Explanation, image: int, texts: Chosen) -> None:
        """Keep an image and its annotations."""
        from eclip.explanation.conversions import coco_annotations, coco_image

        number = self.images.count + 1
        self.annotations.add(*coco_annotations(explanation, image, texts, number, self.annotations.count + 1))
        self.images.add(coco_image(explanation, image, number))

    def finish(self) -> None:
        """Write the file."""
        self._put(EXPORTS["coco"], self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        from eclip.explanation.conversions import coco_head

        head = json.dumps(coco_head(self.texts), ensure_ascii=False).encode(errors="backslashreplace")
        yield head.removesuffix(b"}") + b', "images": ['
        yield from self.images.joined()
        yield b'\n], "annotations": ['
        yield from self.annotations.joined()
        yield b"\n]}\n"


class LabelStudio:
    """labelstudio.json, as `Explanation.to_label_studio` returns it."""

    def __init__(self, tasks: Spool, put: Put) -> None:
        self.tasks, self._put = tasks, put

    def add(self, explanation: Explanation, image: int, texts: Chosen) -> None:
        """Keep the task of an image."""
        from eclip.explanation.conversions import label_studio_task

        self.tasks.add(label_studio_task(explanation, image, texts))

    def finish(self) -> None:
        """Write the file."""
        self._put(EXPORTS["labelstudio"], itertools.chain([b"["], self.tasks.joined(), [b"\n]\n"]))
