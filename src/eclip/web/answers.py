"""Results of the library as JSON for the page. No number is computed here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from eclip import render
from eclip.explanation.health import ADVICE, SENTENCES
from eclip.metrics import METRICS
from eclip.metrics.localization import ious
from eclip.render.colormaps import INK, table
from eclip.render.overlay import DIM, view_size
from eclip.results.marks import jpeg, png
from eclip.results.provenance import maker
from eclip.web import repeat
from eclip.web.arrays import Precision, packed
from eclip.web.store import Held

if TYPE_CHECKING:
    from eclip.discovery.concepts import Concepts
    from eclip.explanation.comparison import Comparison
    from eclip.explanation.explanation import Explanation
    from eclip.segmentation.segmentation import Segmentation
    from eclip.words.interactions import Interactions
    from eclip.words.relevance import WordRelevance

LEVELS = 256
"""Thresholds of the curve that a ground-truth mask gives: 0, 1/256, ..., 1."""
THUMBNAIL = 240
"""Pixels of the longer side."""
LEAST_VIEW = 640
"""Smaller images are enlarged, so that outlines are sharp."""


def about_image(held: Held, view: int) -> dict[str, Any]:
    """An image and the size of its view."""
    image = held.image
    width, height = view_size(image.size, LEAST_VIEW, view)
    return {
        "id": held.id,
        "name": held.name,
        "width": image.width,
        "height": image.height,
        "view": {"width": width, "height": height},
    }


def viewed(image: Image.Image, side: int) -> Image.Image:
    """The image as the page draws on it: `LEAST_VIEW` to `side` pixels on its longer side."""
    size = view_size(image.size, LEAST_VIEW, side)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def thumbnail(held: Held) -> bytes:
    """A small JPEG, made once."""
    if not held.thumbnail:
        held.thumbnail = jpeg(render.reduced(held.image, THUMBNAIL))
    return held.thumbnail


def colors() -> dict[str, Any]:
    """What the page needs to draw as `eclip.render` does."""
    return {
        "sequential": packed(table(False), "float32"),
        "diverging": packed(table(True), "float32"),
        "dim": DIM,
        "ink": list(INK),
    }


def explained(found: Sequence[Explanation], held: Sequence[Held], dtype: Precision, said: list[str]) -> dict[str, Any]:
    """Explanations of several images for the same texts."""
    first = found[0]
    return {
        "model": first.provenance["model"],
        "method": first.provenance["method"],
        "maker": maker(first.provenance),
        "signed": first.signed,
        "versus": first.provenance["versus"],
        "images": [_explained(one, own, dtype) for one, own in zip(found, held, strict=True)],
        "warnings": said,
    }


def _explained(one: Explanation, held: Held, dtype: Precision) -> dict[str, Any]:
    health = one.health
    return {
        "id": held.id,
        "name": held.name,
        "grid": list(one.provenance["grid"]),
        "maps": packed(one.maps[0], dtype),
        "texts": [_text(one, text) for text in range(len(one.texts))],
        "summary": [] if health is None else health.summary(0),
        "notes": [] if health is None else list(health.notes),
        "seconds": {part: round(seconds, 4) for part, seconds in one.seconds.items()},
        "repeat": repeat.explanation(one, held.name),
    }


def _text(one: Explanation, text: int) -> dict[str, Any]:
    coordinates, labels = one.points(0, text)
    health = one.health
    numbers = {} if health is None else health.noted(0)[one.texts[text]]
    reasons = [] if health is None else health.reasons(0, text)
    return {
        "text": one.texts[text],
        "label": one.label(text),
        "score": float(one.scores[0, text]),
        "doubt": one.doubt(0, text),
        "flat": one.flat is not None and bool(one.flat[0, text]),
        "level": one.level(0, text),
        "otsu": one.level(0, text, "otsu"),
        "boxes": one.boxes(0, text).tolist(),
        "points": {"coordinates": coordinates.tolist(), "labels": labels.tolist()},
        "health": {name: value for name, value in numbers.items() if name != "warnings"},
        "warnings": [{"name": name, "sentence": SENTENCES[name], "advice": ADVICE[name]} for name in reasons],
    }


def worded(found: WordRelevance, said: list[str]) -> dict[str, Any]:
    """Words of a text with their shares."""
    [entry] = found.entries(0)
    return {**entry, "model": found.provenance["model"], "method": found.provenance["method"], "warnings": said}


def paired(found: Interactions, said: list[str]) -> dict[str, Any]:
    """Pairs of words and patches."""
    return {
        "text": found.text,
        "words": list(found.words),
        "values": packed(found.values, "float32"),
        "score": found.score,
        "total": found.total,
        "goal": found.goal,
        "warnings": said,
    }


def compared(found: Comparison, said: list[str], held: Held) -> dict[str, Any]:
    """A row for each method: maps and cost, or why there are none."""
    costs = found.costs
    rows: list[dict[str, Any]] = []
    for pair in found.pairs:
        row: dict[str, Any] = {"method": pair[1], "why": found.not_applicable.get(pair)}
        if row["why"] is None:
            one = found.explanations[pair]
            texts = range(len(one.texts))
            row |= {
                "signed": one.signed,
                "maps": packed(one.drawn(0), "float32"),
                "levels": [one.level(0, text) for text in texts],
                "doubts": [one.doubt(0, text) for text in texts],
                "cost": round(costs[pair], 3),
            }
        rows.append(row)
    any_one = next(iter(found.explanations.values()), None)
    return {
        "texts": list(found.texts),
        "scores": [] if any_one is None else any_one.scores[0].tolist(),
        "rows": rows,
        "image": held.id,
        "warnings": said,
        "repeat": repeat.comparison(found, held.name),
    }


def segmented(found: Segmentation, said: list[str], side: int, held: Held) -> dict[str, Any]:
    """Labels on the view, with colors, areas and doubts."""
    labels = found.labels[0]
    palette = render.palette(len(found.classes) - 1)
    shown = Image.fromarray(labels)
    small = shown.resize(view_size(shown.size, LEAST_VIEW, side), Image.Resampling.NEAREST)
    areas, doubts = found.areas(0), found.doubts(0)
    return {
        "classes": list(found.classes),
        "colors": palette.tolist(),
        "labels": packed(np.asarray(small)),
        "areas": areas,
        "doubts": doubts,
        "picture": base64.b64encode(png(found.overlay(0, legend=False))).decode("ascii"),
        "method": found.provenance["method"],
        "warnings": said,
        "repeat": repeat.segmentation(found, held.name),
    }


def seen(found: Concepts) -> dict[str, Any]:
    """The model's own concepts with their weights."""
    return {
        "concepts": [
            {"name": name, "weight": round(float(weight), 4)}
            for name, weight in zip(found.names, found.weights, strict=True)
        ],
        "cosine": round(found.cosine, 4),
        "available": found.available,
    }


def scored(one: Explanation, text: int, inside: np.ndarray) -> dict[str, Any]:
    """How well the map of the text of this number agrees with a mask (height, width) of the object."""
    heat, outside = one.heatmap(0, text), ~inside
    thresholds = np.arange(LEVELS + 1) / LEVELS
    curve = ious(heat, inside, outside, thresholds)
    best = int(curve.argmax())
    level = one.level(0, text)
    return {
        "text": one.texts[text],
        "curve": packed(curve, "float32"),
        "best": {"iou": float(curve[best]), "threshold": float(thresholds[best])},
        "own": {"iou": METRICS["iou"](heat, inside, outside, threshold=level), "threshold": level},
        "contrast": METRICS["contrast"](heat, inside, outside),
        "pointing_game": METRICS["pointing_game"](heat, inside, outside),
        "energy": METRICS["energy"](heat, inside, outside),
        "area": float(inside.mean()),
    }
