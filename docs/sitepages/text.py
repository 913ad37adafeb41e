"""Text of docstrings and help messages as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MARKS = re.compile(r"[&\\`*_\[\]<>|#{}]")
_KEPT = re.compile(r"(`[^`]+`|https?://[^\s),]+)")


def escape(text: str) -> str:
    """Text that Markdown shows as it stands, except code in backticks and addresses."""
    parts = _KEPT.split(text)
    return "".join(part if place % 2 else _MARKS.sub(_entity, part) for place, part in enumerate(parts))


def _entity(mark: re.Match[str]) -> str:
    return f"&#{ord(mark[0])};"


def cell(text: str) -> str:
    """Text for one cell of a table."""
    return " ".join(escape(text).split())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
