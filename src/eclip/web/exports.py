"""What the page shows as files: a picture, arrays, JSON, or a page of its own that works without a server."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclip.files import slug
from eclip.render.html import render
from eclip.results.marks import png
from eclip.results.provenance import named
from eclip.web import answers, repeat
from eclip.web.arrays import npz
from eclip.web.schemas import Export, SegmentExport

if TYPE_CHECKING:
    from eclip.explanation.explanation import Explanation
    from eclip.segmentation.segmentation import Segmentation
    from eclip.web.store import Held

STATIC = Path(__file__).parent / "static"
SCHEMA = "eclip.page/1"
MODULES = ("arrays.js", "paint.js", "regions.js", "stage.js", "standalone.js")
"""Scripts of the page that work without a server, each after those that it imports."""
KINDS = {"png": "image/png", "npz": "application/zip", "json": "application/json", "html": "text/html"}
File = tuple[str, str, bytes]
"""Name, media type and content."""


def exported(one: Explanation, asked: Export, held: Held, view: int) -> File:
    """An explanation as a file."""
    text = asked.text
    if asked.format == "png":
        data = png(one.overlay(0, text, threshold=asked.threshold, alpha=asked.alpha))
    elif asked.format == "npz":
        health = {} if one.health is None else one.health.arrays(0)
        flat = {} if one.flat is None else {"flat": one.flat[0]}
        data = npz({"maps": one.maps[0], "scores": one.scores[0], **flat, **health})
    elif asked.format == "json":
        data = json.dumps(_entry(one, held.name), indent=1, ensure_ascii=False).encode()
    else:
        data = _page(one, asked, held, view).encode(errors="backslashreplace")
    own = f"-{slug(one.texts[text])}" if asked.format == "png" else ""
    return f"{slug(Path(held.name).stem)}{own}.{asked.format}", KINDS[asked.format], data


def segmentation_file(found: Segmentation, asked: SegmentExport, held: Held) -> File:
    """A segmentation as a picture with a legend, COCO annotations, or arrays."""
    stem = f"{slug(Path(held.name).stem)}-classes"
    if asked.format == "png":
        return f"{stem}.png", KINDS["png"], png(found.picture(0))
    if asked.format == "npz":
        return f"{stem}.npz", KINDS["npz"], npz({"labels": found.labels[0], "confidence": found.confidences[0]})
    return f"{stem}.json", KINDS["json"], json.dumps(found.to_coco(), ensure_ascii=False).encode()


def _entry(one: Explanation, name: str) -> dict[str, Any]:
    places = range(len(one.texts))
    return {
        "schema": SCHEMA,
        "image": {"name": name, "width": one.sizes[0][0], "height": one.sizes[0][1]},
        "texts": list(one.texts),
        "signed": one.signed,
        "scores": named(one.texts, one.scores[0]),
        "maps": {one.texts[text]: one.maps[0, text].astype(float).round(7).tolist() for text in places},
        "levels": {one.texts[text]: round(one.level(0, text), 6) for text in places},
        "boxes": {one.texts[text]: one.boxes(0, text).tolist() for text in places},
        "health": None if one.health is None else one.health.noted(0),
        "provenance": {**one.provenance, **repeat.explanation(one, name)},
    }


def _page(one: Explanation, asked: Export, held: Held, view: int) -> str:
    image = answers.viewed(held.image, view)
    data = {
        "answer": answers.explained([one], [held], "float32", []),
        "colors": answers.colors(),
        "size": [image.width, image.height],
        "shown": {"text": asked.text, "threshold": asked.threshold, "alpha": asked.alpha},
    }
    return str(
        render(
            __name__,
            "standalone.html",
            name=held.name,
            image=base64.b64encode(png(image)).decode("ascii"),
            data=data,
            style=(STATIC / "style.css").read_text(encoding="utf-8"),
            script=bundle(),
        )
    )


def bundle() -> str:
    """The modules as one script, which a browser also runs from a file: their imports and exports removed."""
    parts = []
    for name in MODULES:
        text = (STATIC / name).read_text(encoding="utf-8")
        text = re.sub(r"^import .*?from '.*?';?$", "", text, flags=re.MULTILINE | re.DOTALL)
        parts.append(re.sub(r"^export (default )?", "", text, flags=re.MULTILINE))
    return "\n".join(parts)
