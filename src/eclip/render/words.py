"""Words colored by their relevance: for terminals, as HTML, on pictures."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from eclip.render.colormaps import BACKGROUND, FAINT, LEVELS, diverging
from eclip.render.fonts import fit
from eclip.render.html import render
from eclip.render.overlay import PANEL_GAP

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.text import Text

Color = tuple[int, int, int]


def shares(values: Float[np.ndarray, " word"]) -> Float[np.ndarray, " word"]:
    """Each value as a share of the sum of absolute values, in [-1, 1]; all 0 if that sum is 0."""
    total = np.abs(values).sum()
    return values / total if total > 0 else np.zeros_like(values)


def colors(values: Float[np.ndarray, " word"]) -> list[tuple[Color, Color]]:
    """Background and text color of each word: amber is evidence for, blue against; the strongest is the brightest."""
    peak = np.abs(values).max(initial=0)
    scaled = values / peak if peak > 0 else np.zeros_like(values)
    levels = np.rint((scaled + 1) / 2 * (LEVELS - 1)).astype(int)
    found = []
    for red, green, blue in (diverging() * 255).round().astype(int)[levels].tolist():
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 128
        found.append(((red, green, blue), (16, 16, 18) if light else (236, 236, 238)))
    return found


def percent(share: float) -> str:
    """A share in whole percent, with a sign unless it is zero."""
    rounded = round(100 * share)
    return f"{rounded:+d}%" if rounded else "0%"


def printable(text: str) -> str:
    """The text with control characters, which a terminal would obey, replaced by the replacement character."""
    return "".join("\ufffd" if unicodedata.category(letter) == "Cc" else letter for letter in text)


def terminal(words: Sequence[str], values: Float[np.ndarray, " word"], width: int) -> list[Text]:
    """The words on their colors with their shares in percent below, for rich's console, in as many rows as needed.

    The shares carry the information without color. A word wider than the console has its own row and is not broken.
    """
    from rich.cells import cell_len
    from rich.text import Text

    rows: list[tuple[Text, Text]] = [(Text(), Text())]
    for given, (ground, ink), share in zip(words, colors(values), shares(values), strict=True):
        word, number = printable(given), percent(float(share))
        room = max(cell_len(word), len(number))
        if rows[-1][0].cell_len and rows[-1][0].cell_len + room > width:
            rows.append((Text(), Text()))
        top, bottom = rows[-1]
        top.append(word.center(room - cell_len(word) + len(word)), style=f"{_hex(ink)} on {_hex(ground)}")
        bottom.append(number.center(room), style="dim")
        top.append(" ")
        bottom.append(" ")
    return [line for row in rows for line in row]


def page_words(words: Sequence[str], values: Float[np.ndarray, " word"], *, focus: bool = False) -> Markup:
    """The words as HTML spans, each with its share in a tooltip; with `focus` they are accessible by keyboard."""
    each = zip(words, colors(values), shares(values).tolist(), strict=True)
    spans = [(word, _hex(ground), _hex(ink), share) for word, (ground, ink), share in each]
    return render(__name__, "words.html", words=spans, focus=focus)


def drawn(words: Sequence[str], values: Float[np.ndarray, " word"], width: int, points: int = 18) -> Image.Image:
    """The words on their colors with their shares below, wrapped to the width.

    Returns:
        Mode RGB, `width` pixels wide.
    """
    pad = PANEL_GAP * 2 // 3
    cells = []
    for word, color, share in zip(words, colors(values), shares(values), strict=True):
        line, font = fit(word, width - 4 * pad, points)
        number, small = fit(percent(float(share)), width, round(0.7 * points))
        cells.append((line, font, number, small, color, 2 * pad + max(font.getlength(line), small.getlength(number))))
    places, left, top, pitch = [], PANEL_GAP, pad, round(2.8 * points)
    for cell in cells:
        if left > PANEL_GAP and left + cell[-1] > width - pad:
            left, top = PANEL_GAP, top + pitch
        places.append((left, top))
        left += round(cell[-1]) + pad
    canvas = Image.new("RGB", (width, top + pitch), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for (x, y), (line, font, number, small, (ground, ink), size) in zip(places, cells, strict=True):
        draw.rounded_rectangle((x, y, x + size, y + 1.5 * points), pad, fill=ground)
        draw.text((x + size / 2, y + 0.75 * points), line, ink, font, anchor="mm")
        draw.text((x + size / 2, y + 2 * points), number, FAINT, small, anchor="mm")
    return canvas


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def cut_out(
    image: Image.Image,
    box: Sequence[float | int] | np.ndarray,
    words: Sequence[str],
    values: Float[np.ndarray, " word"],
    width: int,
    side: int = 96,
) -> Image.Image:
    """A crop of the image next to the words on their colors.

    Args:
        image: mode RGB.
        box: left, top, right, bottom in pixels of the image.
        words: of the text.
        values: one per word.
        width: of the picture, in pixels.
        side: longer side of the crop, in pixels.
    """
    left, top, right, bottom = (float(side) for side in box)
    part = image.crop((int(left), int(top), max(int(left) + 1, round(right)), max(int(top) + 1, round(bottom))))
    scale = side / max(part.size)
    part = part.resize((max(8, round(part.width * scale)), max(8, round(part.height * scale))))
    line = drawn(words, values, max(160, width - side - 2 * PANEL_GAP))
    canvas = Image.new("RGB", (side + 2 * PANEL_GAP + line.width, max(side, line.height) + PANEL_GAP), BACKGROUND)
    canvas.paste(part, (PANEL_GAP + (side - part.width) // 2, (side - part.height) // 2))
    canvas.paste(line, (side + 2 * PANEL_GAP, max(0, (side - line.height) // 2)))
    return canvas
