"""Example images: the best and worst of each method, drawn when the numbers are known.

The scores determine the pairs; their maps are computed again by the code that scored them, one image at a time, and an
example that exists is not drawn again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from scipy import ndimage

from eclip.datasets.masks import MaskSet, present
from eclip.errors import DataError
from eclip.evaluation.localize import LocalizeTask
from eclip.evaluation.query import opened
from eclip.evaluation.row import Row
from eclip.evaluation.store import EXAMPLES, folder_of
from eclip.files import replace_file
from eclip.heatmap import normalize
from eclip.methods import METHODS
from eclip.render import overlay
from eclip.render.colormaps import BACKGROUND, FAINT, INK
from eclip.render.fonts import fit

SIDES = 340, 212  # largest size of the drawn image, in pixels
BAND, LETTERS = 28, 13  # height of the caption below (240 in total), and its font size
TRUTH, EDGE = (110, 255, 190), (10, 30, 22)  # outline of the true mask, and its dark rim

OnProgress = Callable[[str, int, int], None]
"""Called with the model, or what is being drawn, the number of images done and the total."""


class Example(NamedTuple):
    """A pair to be drawn, from the row of a method, as its "best" or "worst"; see `Row.each`."""

    method: str
    kind: str
    pair: dict[str, Any]


def chosen(row: Row, count: int, numbers: Sequence[int]) -> list[Example]:
    """The `count` best pairs by IoU, best first, and the `count` worst, worst first; `numbers` has each item's image.

    The best are of different images, and so are the worst; no pair is both. Among equal pairs, the first in the data
    set is chosen.
    """
    found: list[Example] = []
    for kind, sign in (("best", -1), ("worst", 1)):
        taken = {(one.pair["image"], one.pair["class"]) for one in found}
        images: set[int] = set()
        for pair in sorted(row.each, key=lambda one: sign * one["iou"]):
            if len(images) == count:
                break
            image = numbers[pair["image"]]
            if image not in images and (pair["image"], pair["class"]) not in taken:
                images.add(image)
                found.append(Example(row.method, kind, pair))
    return found


def draw_examples(
    task: LocalizeTask, rows: Sequence[Row], folder: Path, count: int, on_progress: OnProgress
) -> list[dict[str, Any]]:
    """Draw the missing examples of each method, `count` best and `count` worst pairs, into the folder of the run.

    Returns:
        The examples as in `Evaluation.results`.

    Raises:
        DataError: an image that was scored can no longer be read.
        ResultError: the folder cannot be written.
    """
    asked, model, data = task.asked, task.asked.backbone.name, task.asked.data
    assert isinstance(data, MaskSet)
    numbers = data.image_numbers()
    examples = [one for row in rows if not row.baseline for one in chosen(row, count, numbers)]
    missing: dict[int, list[Example]] = {}
    for one in examples:
        if not (folder / _file(model, one)).is_file():
            missing.setdefault(one.pair["image"], []).append(one)
    for done, (place, wanted) in enumerate(sorted(missing.items())):
        slow = [one.method for one in wanted if METHODS[one.method].kind == "perturbation"]
        by = f" (slow: {', '.join(dict.fromkeys(slow))})" if slow else ""
        on_progress(f"examples of {model}{by}", done, len(missing))
        found, failures = opened(data.items[place : place + 1], place, data.classes)
        if failures:
            raise DataError(f"{failures[0][0]} was scored, but can no longer be read: {failures[0][1]}")
        _, encoding, _ = next(iter(asked.encoded(found)))
        image, mask = found[0].image, found[0].mask
        there = present(mask, task.rules.least)
        shown = [[task.columns[number] for number in there]]
        for method in dict.fromkeys(one.method for one in wanted):
            maps = asked.maps(method, encoding, task.text, shown)[0]
            for one in wanted:
                if one.method == method:
                    number = one.pair["class"]
                    heat = normalize(asked.leveled(method, maps[there.index(number)])).numpy()
                    picture = _drawn(image, heat, mask == number, data.classes[number], one.pair["iou"])
                    replace_file(folder / _file(model, one), picture)
    if missing:
        on_progress(f"examples of {model}", len(missing), len(missing))
    return [
        {
            "model": model,
            "method": one.method,
            "kind": one.kind,
            "image": data.items[one.pair["image"]].name,
            "class": one.pair["class"],
            "name": data.classes[one.pair["class"]],
            "iou": round(one.pair["iou"], 6),
            "msc": round(one.pair["msc"], 6),
            "file": _file(model, one),
        }
        for one in examples
    ]


def _file(model: str, one: Example) -> str:
    """Its path in the folder of the run, named by pair and IoU, so that runs with another count find it again."""
    pair = f"{one.pair['image']:06d}.{one.pair['class']}.{one.pair['iou']:.4f}"
    return f"{EXAMPLES}/{folder_of(model)}/{one.method}.{pair}.jpg"


def _drawn(
    image: Image.Image,
    heat: Float[np.ndarray, "row col"],
    inside: Bool[np.ndarray, "height width"],
    name: str,
    iou: float,
) -> bytes:
    """The overlay with the outline of the true mask, and name and IoU below; a JPEG with at most 240 rows."""
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
