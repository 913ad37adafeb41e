"""Images of colored shapes with captions, and with masks: small data from which something can be learned."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLORS = {"red": (220, 30, 30), "green": (30, 170, 50), "blue": (40, 70, 220), "yellow": (230, 210, 40)}
SHAPES = ("square", "disk", "bar")
CAPTIONS = [f"a {color} {shape}" for color, shape in product(COLORS, SHAPES)]
NOUNS = {"red": "apple", "green": "frog", "blue": "bird", "yellow": "lemon", "square": "box", "disk": "ball"}
NOUNS["bar"] = "stick"
"""Words of the vocabulary, as if the colors and shapes were things."""
SIZE = 32


def draw(color: str, shape: str, seed: int) -> tuple[Image.Image, np.ndarray]:
    """A shape somewhere on gray noise, and where it is."""
    drawn = np.random.default_rng(seed)
    image = Image.fromarray(drawn.integers(90, 150, (SIZE, SIZE, 1), dtype=np.uint8).repeat(3, axis=2))
    mask = Image.new("L", (SIZE, SIZE))
    high, wide = (7, 26) if shape == "bar" else (16, 16)
    left, top = (int(drawn.integers(0, SIZE - side)) for side in (wide, high))
    for picture, ink in ((image, COLORS[color]), (mask, 1)):
        pen = ImageDraw.Draw(picture)
        (pen.ellipse if shape == "disk" else pen.rectangle)((left, top, left + wide, top + high), fill=ink)
    return image, np.array(mask, dtype=bool)


def write_pairs(folder: Path, each: int = 5, seed: int = 0) -> Path:
    """A folder with so many images of each caption, and captions.txt; of the first image there are two captions."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["filepath\ttitle"]
    for number, (color, shape) in enumerate(list(product(COLORS, SHAPES)) * each):
        draw(color, shape, seed + number)[0].save(folder / f"{number:03d}.png")
        rows.append(f"{number:03d}.png\ta {color} {shape}")
    rows.append(f"000.png\tone {rows[1].split()[-2]} shape")
    (folder / "captions.tsv").write_text("\n".join(rows) + "\n")
    return folder


def write_named(folder: Path, each: int = 5, seed: int = 0) -> Path:
    """The same with words for the colors and shapes, and an image more whose caption has none.

    Of the first image there is a second caption, with the word for the color alone.
    """
    write_pairs(folder, each, seed)
    text = (folder / "captions.tsv").read_text()
    for name, noun in NOUNS.items():
        text = text.replace(f" {name}", f" {noun}")
    draw("red", "disk", seed)[0].save(folder / "untold.png")
    (folder / "captions.tsv").write_text(f"{text}untold.png\tnothing of note\n")
    return folder


def write_masks(folder: Path, count: int = 8, seed: int = 1000) -> Path:
    """A pack for `read_masks`; the classes are colors."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        color = list(COLORS)[number % len(COLORS)]
        image, mask = draw(color, SHAPES[number % len(SHAPES)], seed + number)
        image.save(folder / "images" / f"{number:03d}.png")
        Image.fromarray(mask * np.uint8(1 + number % len(COLORS))).save(folder / "masks" / f"{number:03d}.png")
    (folder / "classes.txt").write_text("".join(f"{number}\t{color} thing\n" for number, color in enumerate(COLORS, 1)))
    return folder
