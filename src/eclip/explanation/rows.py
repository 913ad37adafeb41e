"""The row of a table for an image and a text, which `--format csv`, `to_pandas`, the index and the gallery share.

A row is a dict with the keys `eclip.results.table.COLUMNS`:

- image: its path as given, or "image 0" for one in memory.
- text: as given.
- score: cosine of image and text, in [-1, 1].
- presence: as in `Health`, in [0, 1]; None if it is unknown.
- found: "yes" or "no" at the operating point `LEAST_SURE` of presence, "no" also for an image that looks empty: exactly
  the texts that pictures draw without a doubt are found. None if presence is unknown.
- x0, y0, x1, y1: the box around the largest region of `Explanation.mask` in pixels of the upright image, from the top
  left; x1 and y1 are exclusive. None if the mask is empty.
- area: of the whole mask, as a share of the image, in [0, 1].
- points: as `Explanation.points` gives them, [[x, y, label], ...].
- warnings: sentences of `Health.warnings`, joined by "; ".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from eclip import heatmap
from eclip.errors import OptionError
from eclip.heatmap import is_share
from eclip.registry import one_of, whole
from eclip.results.table import BOX, SORTS

if TYPE_CHECKING:
    from eclip.explanation.explanation import Explanation
    from eclip.explanation.health import Health


def rows_of(explanation: Explanation, image: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of an image, one for each text, in order."""
    health = None if explanation.health is None else explanation.health.only(image)  # not of all images, each time
    for text in range(len(explanation.texts)):
        yield _row(explanation, image, text, health, explanation.mask(image, text))


def row_of(explanation: Explanation, image: int, text: int, mask: Bool[np.ndarray, "height width"]) -> dict[str, Any]:
    """The row of an image and a text whose mask is known."""
    health = None if explanation.health is None else explanation.health.only(image)
    return _row(explanation, image, text, health, mask)


def _row(
    explanation: Explanation, image: int, text: int, health: Health | None, mask: Bool[np.ndarray, "height width"]
) -> dict[str, Any]:
    name, boxes = explanation.texts[text], heatmap.boxes(mask, min_area=None)
    places, labels = explanation.points(image, text)
    warnings = [] if health is None else [one.removeprefix(f"{name}: ") for one in health.warnings(0, text)]
    return {
        "image": explanation.sources[image],
        "text": name,
        "score": round(float(explanation.scores[image, text]), 6),
        "presence": _presence(health, text),
        "found": found_in(health, text),
        **dict(zip(BOX, boxes[0].tolist() if len(boxes) else [None] * 4, strict=True)),
        "area": round(float(mask.mean()), 6),
        "points": [[*place, label] for place, label in zip(places.tolist(), labels.tolist(), strict=True)],
        "warnings": "; ".join(warnings),
    }


def _presence(health: Health | None, text: int) -> float | None:
    value = math.nan if health is None else float(health.presence[0, text])
    return None if math.isnan(value) else round(value, 4)


def found_in(health: Health | None, text: int) -> str | None:
    """Whether a text is found in an image, see "found" above; `health` is that of the image alone."""
    if health is None or math.isnan(health.presence[0, text]):
        return None
    return "no" if health.doubts(0)[text] else "yes"


@dataclass(frozen=True)
class Selection:
    """Which rows a table or a gallery has, and in which order.

    Attributes:
        sort: one of `SORTS`: the whole table by this column, the largest first, rows without a value last. None: in the
            order of images and texts.
        min_presence: leave out rows with less presence, in [0, 1], and rows whose presence is unknown.
        top: keep only this many rows of each image, the best by `sort` (None: by score), at least 1.

    Raises:
        OptionError: a value is outside its range.
    """

    sort: str | None = None
    min_presence: float | None = None
    top: int | None = None

    def __post_init__(self) -> None:
        if self.sort is not None:
            one_of(self.sort, "sort", SORTS)
        if self.top is not None:
            whole(self.top, "top", least=1)
        if self.min_presence is not None and not is_share(self.min_presence):
            raise OptionError(f"min_presence must be a number in [0, 1], got {self.min_presence!r}.")

    def of_image(self, rows: Sequence[dict[str, Any]]) -> list[int]:
        """Numbers of the rows of one image that are kept, in the order of the texts."""
        least = self.min_presence
        kept = [i for i, row in enumerate(rows) if least is None or sort_key(row, "presence") >= least]
        best = sorted(kept, key=lambda i: -sort_key(rows[i], self.sort or "score"))
        return sorted(best[: self.top])


def sort_key(row: dict[str, Any], column: str) -> float:
    """The value by which a row is sorted, larger first; less than any other if it is unknown."""
    return -math.inf if row[column] is None else float(row[column])
