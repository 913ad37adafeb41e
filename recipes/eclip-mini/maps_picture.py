"""Draw docs/eclip.jpg: ITSM, RCLIP, ECLIP and CLIP Surgery side by side, with `mini`.

python recipes/eclip-mini/maps_picture.py [OUT] [IMAGE=TEXT ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from guides_picture import ALPHA, DOCS, FOOT, GAP, HEAD, MARGIN, WIDTH, write
from PIL import Image, ImageDraw

import eclip
from eclip.images import open_image
from eclip.render.colormaps import BACKGROUND, FAINT, INK
from eclip.render.overlay import paint

SHOWN = ("elephant=an elephant", "elephant=a man", "dog=a dog", "cat=a cat", "horses=a horse")
COLUMNS = (
    ("itsm", "similarity of tokens and text"),
    ("rclip", "the same, inverted"),
    ("eclip", "with a trained head"),
    ("surgery", "value attention, no redundant features"),
)


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "eclip.jpg"
    shown = [pair.partition("=") for pair in sys.argv[2:]] or [
        (f"{DOCS}/images/{name}.jpg", "", text) for name, _, text in (pair.partition("=") for pair in SHOWN)
    ]
    images = [open_image(name) for name, _, _ in shown]
    views = [image.resize((WIDTH, round(WIDTH * image.height / image.width))) for image in images]
    lefts = [MARGIN + column * (WIDTH + GAP) for column in range(len(COLUMNS) + 1)]
    height = MARGIN + HEAD + sum(view.height + 26 + GAP for view in views) + FOOT
    canvas = Image.new("RGB", (lefts[-1] + WIDTH + MARGIN, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for left, (title, note) in zip(lefts, (("image", ""), *COLUMNS), strict=True):
        write(draw, (left, MARGIN + 8), title, 17, INK)
        write(draw, (left, MARGIN + 30), note, 13, FAINT)
    top = MARGIN + HEAD
    for image, view, (_, _, text) in zip(images, views, shown, strict=True):
        write(draw, (lefts[0], top + 10), text, 15, INK)
        top += 26
        canvas.paste(view, (lefts[0], top))
        answers = eclip.explain(image, f"a photo of {text}", method=[name for name, _ in COLUMNS])
        for left, (name, _) in zip(lefts[1:], COLUMNS, strict=True):
            canvas.paste(paint(view, answers[name].heatmap(0, 0), False, ALPHA), (left, top))
        top += view.height + GAP
    words = 'Each map from its lowest to its highest value; the line is at half. Prompt: "a photo of ...". Model: mini.'
    write(draw, (lefts[0], top + 24), words, 13, FAINT, canvas.width - lefts[0])
    canvas.save(out, quality=79, optimize=True)
    print(f"{out}: {canvas.width} x {canvas.height}, {out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
