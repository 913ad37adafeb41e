"""One HTML file of all images of a run: their maps, filtered and sorted, and a large view.

It needs no network, font or library. An image is in it once, as a JPEG, and a map as the numbers of its grid, which the
script draws as `eclip.render.paint` does, with the colors computed here: so the size hardly depends on the number of
texts. Without the script, the page lists images, texts and numbers.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from eclip import heatmap, render
from eclip.explanation.health import LEAST_PRESENCE, LEAST_SURE
from eclip.render.colormaps import INK, LEVELS, blend
from eclip.render.html import generate
from eclip.render.overlay import ALPHA, DIM
from eclip.results.folder import EXPORTS
from eclip.results.marks import jpeg
from eclip.results.provenance import maker

if TYPE_CHECKING:
    from eclip.explanation.conversions import Chosen
    from eclip.explanation.explanation import Explanation
    from eclip.explanation.exports import Spool
    from eclip.explanation.rows import Selection

SIDE = 512
"""Longer side of the images, unless `max_side` says otherwise."""
QUALITY = 80
"""Of their JPEG: 512 pixels take some 40 kB, as text a third more."""
MOST_CELLS = 64
"""Finer maps, such as refined ones, are averaged to at most this many cells a side."""
DOUBTS = tuple(DIM)
"""What the script knows by their numbers: no doubt, `render.UNSURE`, `render.ABSENT`."""


class Gallery:
    """gallery.html; images are kept on disk, in `records`, until the end of the run.

    The first explanation has what all have in common. `sort` of the selection is the order at first, `min_presence`
    where the slider begins.
    """

    def __init__(
        self,
        explanation: Explanation,
        selection: Selection,
        max_side: int | None,
        records: Spool,
        put: Callable[[str, bytes | Iterable[bytes]], str],
    ) -> None:
        self.side, self.records, self._put = max_side or SIDE, records, put
        styles = [{"alpha": ALPHA * dim, "table": _table(explanation.signed, ALPHA * dim)} for dim in DIM.values()]
        self.values: dict[str, Any] = {
            "texts": [explanation.label(text) for text in range(len(explanation.texts))],
            "maker": maker(explanation.provenance),
            "sort": selection.sort if selection.sort in ("score", "presence") else "",
            "least": selection.min_presence or 0.0,
            "known": explanation.health is not None and explanation.provenance.get("versus") is None,
            "versus": explanation.provenance.get("versus"),
            "signed": explanation.signed,
            "doubts": DOUBTS,
            "levels": {"absent": LEAST_PRESENCE, "sure": LEAST_SURE},
            "script": {"styles": styles, "levels": LEVELS, "ink": INK, "signed": explanation.signed},
        }

    def add(self, explanation: Explanation, image: int, texts: Chosen) -> None:
        """Keep an image with its texts; nothing if there are none."""
        if not texts:
            return
        picture = render.reduced(explanation.shared(image), self.side)
        source = explanation.sources[image]
        record = {
            "name": Path(source).name or source,
            "source": source,
            "width": picture.width,
            "height": picture.height,
            "jpeg": base64.b64encode(jpeg(picture, quality=QUALITY)).decode(),
            "texts": [{**row, **_map(explanation, image, text)} for text, row in texts],
        }
        self.records.add(record)

    def finish(self) -> None:
        """Write the file."""
        self._put(EXPORTS["html"], self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        images = map(json.loads, self.records)
        for part in generate(__name__, "page.html", images=images, count=self.records.count, **self.values):
            yield part.encode(errors="backslashreplace")


def _map(explanation: Explanation, image: int, text: int) -> dict[str, Any]:
    """A map as levels of the color table, row by row, and where the outline runs."""
    shown = torch.from_numpy(explanation.shown(image, text))
    low, high = float(shown.min()), float(shown.max())
    zero, span = (1, 2) if explanation.signed else (0, 1)
    cells = heatmap.mean_over_cells(shown, (min(MOST_CELLS, shown.shape[0]), min(MOST_CELLS, shown.shape[1])))
    levels = ((cells + zero) / span * (LEVELS - 1)).round().to(torch.uint8).numpy()
    edge = (low + explanation.level(image, text) * (high - low) + zero) / span * (LEVELS - 1)
    return {
        "number": text,
        "label": explanation.label(text),
        "doubt": DOUBTS.index(explanation.doubt(image, text)),
        "grid": list(levels.shape),
        "map": base64.b64encode(levels.tobytes()).decode(),
        "edge": round(edge, 3) if high > low else -1,
    }


def _table(signed: bool, alpha: float) -> str:
    """The colors of all levels over all grays, as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(blend(signed, alpha)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
