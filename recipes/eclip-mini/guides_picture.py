"""Draw docs/guides.jpg: the maps of each guide that needs no extra network, on four images, with `mini`.

python recipes/eclip-mini/guides_picture.py [OUT]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

import eclip
from eclip.guides import GUIDES, Seen
from eclip.images import open_image
from eclip.render.colormaps import BACKGROUND, BAR_GRAY, FAINT, INK, blend
from eclip.render.fonts import fit
from eclip.render.overlay import paint

DOCS = Path(__file__).parents[2] / "docs"
IMAGES = ("elephant", "dog", "cat", "horses")
COLUMNS: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("spectral", {}, "spectral", "spectral cut of the patches"),
    ("backbone", {"kind": "vv"}, "backbone, vv", "value-value attention"),
    ("backbone", {"kind": "pool"}, "backbone, pool", "pooling attention"),
    ("centre", {}, "centre", "the same for all images"),
)
WIDTH, GAP, MARGIN, HEAD, FOOT = 220, 8, 28, 52, 58
ALPHA = 0.85


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "guides.jpg"
    model = eclip.load("mini")
    images = [open_image(DOCS / "images" / f"{name}.jpg") for name in IMAGES]
    encoding = eclip.encode(model, torch.stack([model.preprocess(image) for image in images]), keep=1)
    seen = Seen(images, list(IMAGES), encoding)
    maps = [GUIDES[name](seen, **options).numpy() for name, options, _, _ in COLUMNS]

    views = [image.resize((WIDTH, round(WIDTH * image.height / image.width))) for image in images]
    lefts = [MARGIN + column * (WIDTH + GAP) for column in range(len(COLUMNS) + 1)]
    height = MARGIN + HEAD + sum(view.height + GAP for view in views) + FOOT
    canvas = Image.new("RGB", (lefts[-1] + WIDTH + MARGIN, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for left, (title, note) in zip(lefts, (("image", ""), *((c[2], c[3]) for c in COLUMNS)), strict=True):
        write(draw, (left, MARGIN + 8), title, 17, INK)
        write(draw, (left, MARGIN + 30), note, 13, FAINT)
    top = MARGIN + HEAD
    for row, view in enumerate(views):
        canvas.paste(view, (lefts[0], top))
        for left, column in zip(lefts[1:], maps, strict=True):
            canvas.paste(paint(view, column[row], False, ALPHA), (left, top))
        top += view.height + GAP
    legend(canvas, draw, lefts, top + 24)
    canvas.save(out, quality=79, optimize=True)
    print(f"{out}: {canvas.width} x {canvas.height}, {out.stat().st_size / 1024:.0f} KiB")


def legend(canvas: Image.Image, draw: ImageDraw.ImageDraw, lefts: list[int], middle: int) -> None:
    bar = Image.fromarray(blend(False, ALPHA)[:, BAR_GRAY][None]).resize((144, 10), Image.Resampling.BILINEAR)
    canvas.paste(bar, (lefts[0] + 16, middle - 5))
    write(draw, (lefts[0], middle), "0", 13, FAINT)
    write(draw, (lefts[0] + 168, middle), "1", 13, FAINT)
    words = "The maximum of each guide is 1; the line is at half of it. No text or label was used. Model: mini."
    write(draw, (lefts[1], middle), words, 13, FAINT, canvas.width - lefts[1])


def write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, points: int, ink: tuple[int, int, int], room: int = WIDTH
) -> None:
    line, font = fit(text, room, points)
    draw.text(at, line, ink, font, anchor="lm")


if __name__ == "__main__":
    main()
