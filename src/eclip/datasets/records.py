"""The elements of the lists in a large JSON file, one by one, each with its place: no more than one is held."""

from __future__ import annotations

import json
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import IO, Any

from eclip.errors import DataError

_CHUNK = 1 << 20
_MARK = "\xef\xbb\xbf"  # of UTF-8, a letter a byte
_WIDE = ("\xff\xfe", "\xfe\xff")  # of UTF-16


def records(file: Path) -> Iterator[tuple[str, int, int, Any]]:
    """(key, offset, size, element) of each element of each list of a file that is one JSON object.

    Offset and size are in bytes, so that the element can be read again from there alone. The file is UTF-8, with or
    without a mark at its beginning.

    Raises:
        DataError: it cannot be read, is no such JSON, or is of another encoding.
    """
    try:
        with open(file, encoding="latin-1", newline="") as stream:  # a letter a byte: places in the text are offsets
            yield from _Reader(stream).records()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeError as error:
        raise DataError(f"{file} is not UTF-8 ({error}): save it as UTF-8.") from error
    except (JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"{file} is cut short, or no JSON object of lists: {getattr(error, 'msg', error)}. Fetch it again."
        ) from error


def _right(text: str, offset: int) -> str:
    """What was read a letter a byte, as the UTF-8 that it is."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise UnicodeError(f"{error.reason}, {error.object[error.start]:#x} at byte {at:,}") from None


class _Reader:
    def __init__(self, stream: IO[str]) -> None:
        self.stream, self.text, self.at, self.before = stream, "", 0, 0
        self.decoder = json.JSONDecoder()

    def records(self) -> Iterator[tuple[str, int, int, Any]]:
        while len(self.text) < 4 and self.more():
            pass
        if self.text[:2] in _WIDE or "\0" in self.text[:4]:
            raise UnicodeError("it looks like UTF-16 or UTF-32")
        self.at = len(_MARK) if self.text.startswith(_MARK) else 0
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
            if not (text := self.text[offset - self.before : self.at]).isascii():
                value = json.loads(_right(text, offset))
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
