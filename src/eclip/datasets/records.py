"""The elements of the lists in a large JSON file, one by one, each with its place: no more than one is held."""

from __future__ import annotations

import json
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import IO, Any

from eclip.errors import DataError

_CHUNK = 1 << 20


def records(file: Path) -> Iterator[tuple[str, int, int, Any]]:
    """(key, offset, size, element) of each element of each list of a file that is one JSON object.

    Offset and size are in bytes, so that the element can be read again from there alone. Texts in an element are
    right as far as they are ASCII; `json.loads` of the bytes gives all of them.

    Raises:
        DataError: it cannot be read, or is no such JSON.
    """
    try:
        with open(file, encoding="latin-1", newline="") as stream:  # a letter a byte: places in the text are offsets
            yield from _Reader(stream).records()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    except (JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"{file} is cut short, or no JSON object of lists: {getattr(error, 'msg', error)}. Fetch it again."
        ) from error


class _Reader:
    def __init__(self, stream: IO[str]) -> None:
        self.stream, self.text, self.at, self.before = stream, "", 0, 0
        self.decoder = json.JSONDecoder()

    def records(self) -> Iterator[tuple[str, int, int, Any]]:
        self.skip("{")
        mark = self.skip("}") if self.peek() == "}" else ","
        while mark == ",":
            key = self.value()
            self.skip(":")
            if self.peek() == "[":
                yield from self.elements(key)
            else:
                self.value()
            mark = self.skip(",}")

    def elements(self, key: str) -> Iterator[tuple[str, int, int, Any]]:
        self.skip("[")
        mark = self.skip("]") if self.peek() == "]" else ","
        while mark == ",":
            self.peek()
            offset = self.before + self.at
            value = self.value()
            yield key, offset, self.before + self.at - offset, value
            mark = self.skip(",]")

    def value(self) -> Any:
        """The value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
                if end < len(self.text) or not self.more():
                    self.at = end
                    return value
            except JSONDecodeError:
                if not self.more():
                    raise

    def peek(self) -> str:
        """The next character that is no blank."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                raise JSONDecodeError("it ends too early", self.text, self.at)

    def skip(self, marks: str) -> str:
        """Pass one of the marks, which must be next."""
        if (mark := self.peek()) not in marks:
            wanted = " or ".join(marks)
            raise JSONDecodeError(
                f"{wanted} expected at byte {self.before + self.at:,}, got {mark}", self.text, self.at
            )
        self.at += 1
        return mark

    def more(self) -> bool:
        """Drop what was passed, and read on; False at the end of the file, where nothing is dropped."""
        if chunk := self.stream.read(max(_CHUNK, len(self.text) - self.at)):
            self.before += self.at
            self.text, self.at = self.text[self.at :] + chunk, 0
        return bool(chunk)
