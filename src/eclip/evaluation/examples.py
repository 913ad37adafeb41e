"""Images to look at: where each method was best and worst, drawn once the numbers are known.

Which pairs these are follows from what was scored; their maps are made anew by the code that scored them, an image at a
time, and a picture that is there already is not drawn again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from scipy import ndimage

from eclip.datasets.masks import MaskSet, present
from eclip.errors import DataError
from eclip.evaluation.protocols import Localize
from eclip.evaluation.query import EvaluationQuery, opened
from eclip.evaluation.row import Row
from eclip.evaluation.store import EXAMPLES, folder_of
from eclip.files import replace_file
from eclip.heatmap import normalize
from eclip.methods import METHODS
from eclip.render import overlay
from eclip.render.colormaps import BACKGROUND, FAINT, INK
from eclip.render.fonts import fit

SIDES = 340, 212  # of the drawn image, at most, in pixels
BAND, LETTERS = 28, 13  # height of the line below, 240 in all, and of its letters
TRUTH, EDGE = (110, 255, 190), (10, 30, 22)  # outline of the true mask, and its dark rim

OnProgress = Callable[[str, int, int], None]
"""Hears of the progress: the model, or what is drawn, images done, images in all."""


@dataclass(frozen=True)
class Example:
    """A pair to be drawn.

    Attributes:
        method: whose map.
        kind: "best" or "worst".
        pair: of the method's row: "image" (place in the data set), "class", "iou", "msc".
    """

    method: str
    kind: str
    pair: dict[str, Any]


def chosen(row: Row, count: int) -> list[Example]:
    """The best and the worst pairs by IoU, so many of each, best first and worst first.

    Each of the best is of another image, and each of the worst; no pair is both. Of equal ones the first in the data
    set counts.
    """
    found: list[Example] = []
    for kind, sign in (("best", -1), ("worst", 1)):
        taken = {(one.pair["image"], one.pair["class"]) for one in found}
        images: set[int] = set()
        for pair in sorted(row.each, key=lambda one: sign * one["iou"]):
            if len(images) == count:
                break
            if pair["image"] not in images and (pair["image"], pair["class"]) not in taken:
                images.add(pair["image"])
                found.append(Example(row.method, kind, pair))
    return found


def draw_examples(
    asked: EvaluationQuery, rows: Sequence[Row], folder: Path, count: int, on_progress: OnProgress
) -> list[dict[str, Any]]:
    """Draw the examples of each method that are not there yet.

    Args:
        asked: the question.
        rows: what was scored of it.
        folder: of the run.
        count: best pairs of each method, and worst ones; 0 = none.
        on_progress: hears of the progress: what is drawn, images done, images in all.

    Returns:
        As `Evaluation.results` has them.

    Raises:
        DataError: an image that was scored can no longer be read.
        ResultError: the folder cannot be written.
    """
    data = asked.data
    assert isinstance(data, MaskSet)
    examples = [one for row in rows if not row.baseline for one in chosen(row, count)]
    missing: dict[int, list[Example]] = {}
    for one in examples:
        if not (folder / _file(asked.backbone.name, one)).is_file():
            missing.setdefault(one.pair["image"], []).append(one)
    text = asked.texts() if missing else None
    for done, (place, wanted) in enumerate(sorted(missing.items())):
        slow = [one.method for one in wanted if METHODS[one.method].kind == "perturbation"]
        by = f" (by {', '.join(dict.fromkeys(slow))}, which takes many passes)" if slow else ""
        on_progress(f"examples of {asked.backbone.name}{by}", done, len(missing))
        found, failures = opened(data.items[place : place + 1], place)
        if failures:
            raise DataError(f"{failures[0][0]} was scored, but can no longer be read: {failures[0][1]}")
        _, encoding, _ = next(iter(asked.encoded(found)))
        image, mask = found[0].image, found[0].mask
        assert isinstance(asked.protocol.rules, Localize) and text is not None
        numbers = present(mask, asked.protocol.rules.least)
        columns = {number: column for column, number in enumerate(data.classes)}
        for method in dict.fromkeys(one.method for one in wanted):
            own = [one for one in wanted if one.method == method]
            maps = asked.maps(method, encoding, text, [[columns[number] for number in numbers]])[0][0]
            for one in own:
                heat = normalize(maps[numbers.index(one.pair["class"])].float()).numpy()
                inside, name = mask == one.pair["class"], data.classes[one.pair["class"]]
                picture = _drawn(image, heat, inside, name, one.pair["iou"])
                path = folder / _file(asked.backbone.name, one)
                replace_file(path, picture)
    if missing:
        on_progress(f"examples of {asked.backbone.name}", len(missing), len(missing))
    return [
        {
            "model": asked.backbone.name,
            "method": one.method,
            "kind": one.kind,
            "image": data.items[one.pair["image"]].name,
            "class": one.pair["class"],
            "name": data.classes[one.pair["class"]],
            "iou": round(one.pair["iou"], 6),
            "msc": round(one.pair["msc"], 6),
            "file": _file(asked.backbone.name, one),
        }
        for one in examples
    ]


def _file(model: str, one: Example) -> str:
    """Its place in the folder of the run, by pair and IoU, so that another count finds it again."""
    pair = f"{one.pair['image']:06d}.{one.pair['class']}.{one.pair['iou']:.4f}"
    return f"{EXAMPLES}/{folder_of(model)}/{one.method}.{pair}.jpg"


def _drawn(
    image: Image.Image,
    heat: Float[np.ndarray, "row col"],
    inside: Bool[np.ndarray, "height width"],
    name: str,
    iou: float,
) -> bytes:
    """The overlay with the outline of the true mask, and below it the name and the IoU; a JPEG of 240 rows at most."""
    scale = min(side / own for side, own in zip(SIDES, image.size, strict=True))
    width, height = size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    view = overlay(image.resize(size, Image.Resampling.LANCZOS), heat, signed=False, legend=False)
    there = np.asarray(Image.fromarray(inside.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)).astype(bool)
    line = there & ~ndimage.binary_erosion(there, border_value=1)
    rim = ndimage.binary_dilation(line) & ~there
    pixels = np.array(view)
    pixels[rim], pixels[line] = EDGE, TRUTH
    canvas = Image.new("RGB", (max(width, SIDES[1] // 2), height + BAND), BACKGROUND)
    canvas.paste(Image.fromarray(pixels), ((canvas.width - width) // 2, 0))
    draw, middle, pad = ImageDraw.Draw(canvas), height + BAND // 2, 6
    told, font = fit(f"IoU {100 * iou:.0f}", canvas.width, LETTERS)
    draw.text((canvas.width - pad, middle), told, FAINT, font, anchor="rm")
    shown, font = fit(name, canvas.width - 3 * pad - font.getlength(told), LETTERS)
    draw.text((pad, middle), shown, INK, font, anchor="lm")
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=75, optimize=True)
    return buffer.getvalue()
