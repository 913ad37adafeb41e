"""Files and folders of a data set, looked for where they are published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eclip.errors import DataError, LayoutError


def top(root: Path, needed: Sequence[str], below: Sequence[str] = ("",)) -> Path:
    """The folder of a data set: the first of root/below that has all that is needed.

    Raises:
        LayoutError: none has; the first path that is missing is that of the folder that comes nearest.
    """
    tops = [root / one for one in below]
    there = {one: [(one / name).exists() for name in needed] for one in tops}
    best = max(tops, key=lambda one: sum(there[one]))
    if not all(there[best]):
        raise LayoutError(f"{best / needed[there[best].index(False)]}: no such file or folder.")
    return best


def either(root: Path, *names: str) -> Path:
    """The first of these below root that exists.

    Raises:
        LayoutError: none does.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    other = f" (nor {', '.join(names[1:])})" if len(names) > 1 else ""
    raise LayoutError(f"{root / names[0]}: no such file or folder{other}.")


def lines(path: Path) -> list[str]:
    """The lines of a text file that has some.

    Raises:
        DataError: it cannot be read, is no UTF-8, or is empty.
    """
    try:
        found = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is needed and cannot be read: {error}.") from error
    if not found:
        raise DataError(f"{path} is empty.")
    return found


def names_in(path: Path) -> list[str]:
    """The first word of each line: of VOC's lists, which have more in some copies.

    Raises:
        DataError: it cannot be read, or names nothing.
    """
    found = [line.split()[0] for line in lines(path) if line.strip()]
    if not found:
        raise DataError(f"{path} names no photo.")
    return found
