"""The columns of a table of images and texts, and its rows as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

BOX = ("x0", "y0", "x1", "y1")
COLUMNS = ("image", "text", "score", "presence", "found", *BOX, "area", "points", "warnings")
"""Also the order of the columns; docs/tables.md says what they are."""
SORTS = ("score", "presence", "area")
"""Columns by which rows are sorted, the largest first."""


def csv_rows(rows: Iterable[Iterable[Any]]) -> bytes:
    """Rows as RFC 4180 has them, in UTF-8: None is an empty cell, a list is JSON, surrogates are escaped."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # ends lines with CR LF, so that a cell with either is quoted
    for row in rows:
        writer.writerow([json.dumps(cell, separators=(",", ":")) if isinstance(cell, list) else cell for cell in row])
    return text.getvalue().encode(errors="backslashreplace")


HEADER = csv_rows([COLUMNS])
