"""Find the files and folders of a data set as published, and read its small text files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from eclip.datasets.mask_files import BACKGROUND, VOID, Table
from eclip.errors import DataError, LayoutError

_NO_CLASS = re.compile(
    r"(?<![^\W_])((backgr|ignor|unus|unlab|undef|bound)|"
    r"(void|unknown|border|edge|difficult|(dont)?care|none|nothing|other|rest|empty|bg)s?(?![^\W_]))|^\W*$",
    re.IGNORECASE,
)
"""Names of 0 or 255 that mean that it is not a class: whole words, or their beginning."""


def top(root: Path, needed: Sequence[str], below: Sequence[str] = ("",)) -> Path:
    """The folder of a data set: the first of root/below that has everything needed.

    Raises:
        LayoutError: none has; the message names the first missing path of the folder that has the most.
    """
    tops = [root / one for one in below]
    there = {one: [(one / name).exists() for name in needed] for one in tops}
    best = max(tops, key=lambda one: sum(there[one]))
    if not all(there[best]):
        raise LayoutError(f"{best / needed[there[best].index(False)]}: no such file or folder.")
    return best


def either(root: Path, *names: str) -> Path:
    """The first of these paths below root that exists.

    Raises:
        LayoutError: none does.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    other = f" (nor {', '.join(names[1:])})" if len(names) > 1 else ""
    raise LayoutError(f"{root / names[0]}: no such file or folder{other}.")


def lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        DataError: it cannot be read, is not UTF-8, or is empty.
    """
    try:
        found = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} is required but cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is required but cannot be read: it is not UTF-8 ({error.reason}, byte "
            f"{error.object[error.start]:#x} at {error.start}). Save it as UTF-8."
        ) from error
    if not found:
        raise DataError(f"{path} is empty.")
    return found.rstrip("\n").split("\n")  # not at other line separators, which a name may contain


def names_in(path: Path) -> list[str]:
    """The first word of each line, as some copies of VOC's lists have more than one; each once.

    Raises:
        DataError: it cannot be read, or lists nothing.
    """
    found = [*dict.fromkeys(line.split()[0] for line in lines(path) if line.strip())]
    if not found:
        raise DataError(f"{path} lists no image.")
    return found


def read_classes(path: Path) -> tuple[dict[int, str], Table | None]:
    """The classes of a `classes.txt`, and the meaning of mask values if they are not class numbers.

    Two formats are read. `number<TAB>name` in each line; 0 is background, 255 (or 65535) void. Or one class per line,
    as SCLIP writes them: the line number, from 0, is the value; if several names are joined by commas, the first is
    used. If line 0 is "background", values are class numbers; if not, there is no background, and value k is class
    k + 1. Several names in line 0 must begin with "background": in SCLIP's files they are words for it.

    Raises:
        DataError: it has neither format, or names no class.
    """
    rows = lines(path)
    if not any("\t" in row for row in rows) and not any(re.match(r"\d+\W", row) for row in rows):
        names = [row.split(",")[0].strip() for row in rows]
        if not all(names):
            raise DataError(f"line {names.index('') + 1} of {path} is empty, but each line must name a class.")
        base = 0 if names[0].casefold() == "background" else 1
        if base and "," in rows[0].strip().rstrip(","):
            raise DataError(
                f"line 1 of {path} has several names, {rows[0]!r}: if they describe the background, as in SCLIP's "
                'files, write "background, " before them; if 0 is a class of its own, keep only one name.'
            )
        named = {place: name for place, name in enumerate(names, base) if place != BACKGROUND}
        table = tuple((place, place + base) for place in range(len(names)))
        if not 0 < len(named) < 255:
            raise DataError(f"{path} names {len(named)} classes, but 8-bit masks hold 1 to 254.")
        return named, (*table, (255, VOID))
    started = [place for place, row in enumerate(rows, 1) if re.match(r"\d+\W", row)]
    if len(started) < len(rows) and not any("\t" in row for row in rows):
        raise DataError(
            f"line {started[0]} of {path} begins with a number but has no tab, {rows[started[0] - 1]!r}: number all "
            "lines, with a tab behind each number, or none."
        )
    named = {}
    for place, row in enumerate(rows, 1):
        number, tab, name = row.partition("\t")
        if not (number.isdecimal() and int(number) <= VOID and tab and name.strip()):
            raise DataError(f"line {place} of {path} must be a number from 0 to {VOID}, a tab and a name, got {row!r}.")
        if int(number) in named:
            raise DataError(f"line {place} of {path} repeats the number {number}: {row!r}.")
        named[int(number)] = name.strip()
    void = {VOID} if max(named, default=0) > 255 else {VOID, 255}
    classes = {number: name for number, name in named.items() if number != BACKGROUND and number not in void}
    marked = [number for number in sorted(void) if number in named and not _NO_CLASS.search(named[number])]
    if len(marked) == 1 and not classes:  # masks of 0 and 255, a common encoding
        return {1: named[marked[0]]}, ((BACKGROUND, BACKGROUND), (marked[0], 1))
    if marked:
        raise DataError(
            f"{path} names {marked[0]} {named[marked[0]]!r}, but in masks {marked[0]} is void, which no score counts: "
            "give the class a different number, also in the masks."
        )
    if not classes:
        raise DataError(f"{path} names no class between 1 and 254.")
    if BACKGROUND in named and not _NO_CLASS.search(named[BACKGROUND]):
        raise DataError(
            f"{path} names 0 {named[BACKGROUND]!r}, but in masks 0 is background, not a class. If 0 is a class, "
            "write only the names, one per line, without numbers: the first is then the value 0."
        )
    return classes, None


def declares_void(path: Path) -> bool:
    """Whether a `classes.txt` has a line that declares 255 or 65535 as void."""
    return any(row.partition("\t")[0] in ("255", str(VOID)) and _NO_CLASS.search(row) for row in lines(path))


def rows_of(index: Path, needed: set[str]) -> list[dict[str, str]]:
    """The rows of a tab-separated table with a header.

    Raises:
        DataError: it cannot be read, lacks a column, or has a malformed row.
    """
    header, *rows = (line.split("\t") for line in lines(index))
    if missing := needed - set(header):
        raise DataError(f"{index} has no column {', '.join(sorted(missing))}; it has {', '.join(header)}.")
    for place, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise DataError(f"line {place} of {index} must have {len(header)} columns, got {len(row)}.")
    return [dict(zip(header, row, strict=True)) for row in rows]


def some(names: Iterable[str]) -> str:
    """The first three names."""
    first = list(names)
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")
