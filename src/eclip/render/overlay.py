"""Overlays, which draw an image with its evidence in color above a legend, and strips of several."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, repeat
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from eclip import heatmap
from eclip.errors import OptionError, ShapeError
from eclip.render.colormaps import BACKGROUND, BAR_GRAY, DOUBT, FAINT, INK, LEVELS, OWN, blend
from eclip.render.fonts import fit, fonts, wrap

OUTLINE_LEVEL = 0.5  # of the outline if no other is given
ALPHA = 0.85  # opacity of the color at the peak, if no other is given
ABSENT, UNSURE = "probably not in the image", "may not be in the image"
"""The line below a text that scores like unrelated words, or whose image looks empty to the model; and below one that
some unrelated words exceed."""
SMALLEST = 12  # points of a legend's smaller letters, at least
DIM = {"": 1.0, UNSURE: 0.6, ABSENT: 0.3}  # opacity of the map of such a text, as a share of that of others
LEAST_SIDE = 16  # minimum pixels of a drawn side, even if the image is thin
LEAST_LENGTH = 240  # minimum pixels of the longer drawn side and of the legend's width
PANEL_LENGTH = 320  # longer side of a strip's panels
PANEL_GAP = 10
CELLS_A_ROW, CELLS_AT_MOST = 6, 24  # of a strip, including the image
BLOCK_PIXELS = 1 << 20  # drawn at a time, to limit memory for large images


def overlay(
    image: Image.Image,
    values: Float[np.ndarray, "row col"],
    *,
    signed: bool,
    text: str = "",
    score: float | None = None,
    legend: bool = True,
    alpha: float = ALPHA,
    what: str = "",
    heat: Float[np.ndarray, "row col"] | None = None,
    level: float = OUTLINE_LEVEL,
    doubt: str = "",
    notes: Sequence[str] = (),
    lines: int = 0,
) -> Image.Image:
    """Draw the image in gray with its evidence in color, a thin outline, and a legend below.

    Args:
        image: mode RGB, any size.
        values: in [0, 1], or [-1, 1] if signed; of any size, resized to the image by heatmap.resize.
        signed: colors diverge around zero, blue below and amber above.
        text: for the legend; above the score if it does not fit beside it, on two lines at most.
        score: for the legend, the cosine of image and text.
        legend: False returns only the picture, in exactly the image's size. With a legend, small images are enlarged
            (the longer side to at least 240 pixels, the shorter to at least 16) and centered; no image is reduced.
        alpha: opacity of the color at the peak, 0 to 1.
        what: a label before the score if it is not a cosine.
        heat: the map that the outline belongs to, on the grid of the values; None = their absolute values.
        level: the outline encloses heat of at least this.
        doubt: `ABSENT` or `UNSURE`, for the legend; if given, the color is faint.
        notes: more lines for the legend.
        lines: for the text above the score, at least, so that legends are of one height.

    Returns:
        Mode RGB.

    Raises:
        OptionError: alpha is outside [0, 1], or a map value is outside its range.
    """
    if not heatmap.is_share(alpha):
        raise OptionError(f"alpha must be between 0 and 1, got {alpha!r}.")
    alpha *= DIM[doubt]
    if not legend:
        return paint(image, values, signed, alpha, heat, level)
    size = view_size(image.size, LEAST_LENGTH)
    view = image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
    points, number = _points(size), _number(what, score)
    below = [(doubt, DOUBT)] * bool(doubt) + [(note, FAINT) for note in notes]
    width, colors = max(view.width, LEAST_LENGTH), blend(signed, alpha)[:, BAR_GRAY]
    lines = max(lines, _lines_above(size, text, number))
    band = stack(
        [
            _legend(width, points, text, number, colors, signed, lines),
            *(_line(width, round(0.8 * points), round(0.7 * points), *one) for one in below),
        ]
    )
    canvas = Image.new("RGB", (band.width, view.height + band.height), BACKGROUND)
    canvas.paste(paint(view, values, signed, alpha, heat, level), ((band.width - view.width) // 2, 0))
    canvas.paste(band, (0, view.height))
    return canvas


def strip(
    image: Image.Image,
    panels: Iterable[Float[np.ndarray, "row col"]],
    *,
    signed: bool,
    texts: Sequence[str],
    scores: Sequence[float],
    what: str = "",
    edges: Iterable[tuple[Float[np.ndarray, "row col"] | None, float]] | None = None,
    doubts: Sequence[str] = (),
    notes: Sequence[str] = (),
    alphas: Sequence[float] = (),
) -> Image.Image:
    """The image and one overlay per text, in rows of at most six; "+ n more" if the texts do not fit in four rows.

    Args:
        image: mode RGB, any size; drawn with 320 pixels on the longer side.
        panels: one per text, like the values of overlay. Only those that are drawn are taken from the iterable, one at
            a time; they may be on the patch grid.
        signed: as in overlay.
        texts: one per panel.
        scores: one per text.
        what: as in overlay.
        edges: heat and level of each panel's outline, as in overlay.
        doubts: one per text, empty for a map without doubt; none at all if there are no doubts.
        notes: lines below all panels.
        alphas: one per text, as in overlay; none at all for the usual one.

    Returns:
        Mode RGB.

    Raises:
        ShapeError: texts and scores differ in number.
        OptionError: a value is outside its range.
        ValueError: there are fewer panels than texts.
    """
    if len(texts) != len(scores):
        raise ShapeError(f"a strip needs one score per text, got {len(texts)} texts and {len(scores)} scores.")
    shown = len(texts) if len(texts) < CELLS_AT_MOST else CELLS_AT_MOST - 2
    small = image.resize(view_size(image.size, PANEL_LENGTH, PANEL_LENGTH), Image.Resampling.LANCZOS)
    cells, outlines = [small], repeat((None, OUTLINE_LEVEL)) if edges is None else edges
    reserved = [" "] * any(doubts[:shown])  # panels without doubts are as high as the others
    told = [*doubts[:shown], *[""] * (shown - len(doubts))]
    numbers = [_number(what, score) for score in scores[:shown]]
    above = max((_lines_above(small.size, *pair) for pair in zip(texts, numbers, strict=False)), default=0)
    opacity = alphas[:shown] or [ALPHA] * shown
    some = zip(
        islice(panels, shown), texts[:shown], scores[:shown], islice(outlines, shown), told, opacity, strict=True
    )
    for values, text, score, (heat, level), doubt, alpha in some:
        panel: dict[str, Any] = {"text": text, "score": score, "what": what, "doubt": doubt, "lines": above}
        panel |= {"alpha": alpha, "notes": () if doubt else reserved, "heat": heat, "level": level}
        cells.append(overlay(small, values, signed=signed, **panel))
    size = cells[-1].size
    if shown < len(texts):
        cells.append(Image.new("RGB", size, BACKGROUND))
        middle, more = (size[0] / 2, size[1] / 2), f"+ {len(texts) - shown:,} more"
        ImageDraw.Draw(cells[-1]).text(middle, more, FAINT, fonts(20)[0], anchor="mm")
    columns = math.ceil(len(cells) / math.ceil(len(cells) / CELLS_A_ROW))
    rows = math.ceil(len(cells) / columns)
    pitch = size[0] + PANEL_GAP, size[1] + PANEL_GAP
    canvas = Image.new("RGB", (columns * pitch[0] + PANEL_GAP, rows * pitch[1] + PANEL_GAP), BACKGROUND)
    for i, cell in enumerate(cells):
        left = PANEL_GAP + i % columns * pitch[0] + (size[0] - cell.width) // 2
        canvas.paste(cell, (left, PANEL_GAP + i // columns * pitch[1]))
    lines = [line for note in notes for line in wrap(note, canvas.width - 4 * PANEL_GAP, SMALLEST, 4)[0]]
    return stack([canvas, *(_line(canvas.width, SMALLEST, PANEL_GAP, line, FAINT) for line in lines)])


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Stack pictures vertically, aligned left."""
    canvas = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), BACKGROUND)
    top = 0
    for one in pictures:
        canvas.paste(one, (0, top))
        top += one.height
    return canvas


def view_size(size: tuple[int, int], least: int, most: int | None = None) -> tuple[int, int]:
    """The size at which to draw an image, with the longer side from `least` to `most` pixels, never too thin."""
    scale = min(max(least, *size), most or math.inf) / max(size)
    width, height = (max(LEAST_SIDE, round(side * scale)) for side in size)
    return width, height


def paint(
    image: Image.Image,
    values: Float[np.ndarray, "row col"],
    signed: bool,
    alpha: float,
    heat: Float[np.ndarray, "row col"] | None = None,
    level: float | None = OUTLINE_LEVEL,
    colormap: str = OWN,
) -> Image.Image:
    """The picture without legend: the image in gray, its evidence in color, an outline; arguments as in overlay.

    Without a level there is no outline. The colormap is a name of `colormaps.COLORMAPS`.
    """
    low = -1 if signed else 0
    if not (values.min() >= low and values.max() <= 1):
        given, maker = f"{values.min()} to {values.max()}", "heatmap.signed" if signed else "heatmap.normalize"
        raise OptionError(f"an overlay needs values in [{low}, 1], got {given}: use {maker} first.")
    width, height = image.size
    values = _fill(values, image.size)
    heat = None if heat is None else _fill(heat, image.size)
    gray = np.asarray(image.convert("L"))
    colors = blend(signed, alpha, colormap)
    picture = np.empty((height, width, 3), np.uint8)
    stroke = max(1.25, max(width, height) / 420)
    step = max(1, BLOCK_PIXELS // width)
    for top in range(0, height, step):
        above, stop = max(0, top - 1), min(height, top + step)
        block = values[above : stop + 1]  # one more row on either side, for the slope of the outline
        color = np.rint((block - low) / (1 - low) * (LEVELS - 1)).astype(np.uint8)
        painted = colors[color, gray[above : stop + 1]]
        if level is not None:
            line = alpha * _outline(np.abs(block) if heat is None else heat[above : stop + 1], level, stroke)
            on = line > 0
            painted[on] = np.rint(painted[on] + line[on, None] * (np.array(INK) - painted[on]))
        picture[top:stop] = painted[top - above : stop - above]
    return Image.fromarray(picture)


def _fill(values: Float[np.ndarray, "row col"], size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Values resized to an image of (width, height)."""
    if values.shape == size[::-1]:
        return values
    return heatmap.resize(torch.from_numpy(np.ascontiguousarray(values)), size[::-1]).numpy()


def _outline(heat: Float[np.ndarray, "row col"], level: float, stroke: float) -> Float[np.ndarray, "row col"]:
    # distance of a pixel from the level, in pixels: its difference divided by the slope
    slope = np.hypot(*(np.gradient(heat, axis=axis) if heat.shape[axis] > 1 else 0 * heat for axis in (0, 1)))
    distance = np.full_like(heat, np.inf)
    np.divide(np.abs(heat - level), slope, out=distance, where=slope > 0)
    return np.clip(stroke / 2 + 0.5 - distance, 0, 1)


def _points(size: tuple[int, int]) -> int:
    """The height of the letters below a view of this size."""
    return min(64, max(13, min(size[0], 3 * size[1]) // 28))


def _number(what: str, score: float | None) -> str:
    return "" if score is None else f"{what} {score:.3f}".strip()


def _room(width: int, points: int, number: str) -> float:
    """For the text beside the number and the bar."""
    pad, length = round(0.7 * points), min(10 * points, width // 4)
    ends = 2 * round(fonts(max(SMALLEST, round(0.8 * points)))[0].getlength("+1"))
    return width - length - ends - 5 * pad - fonts(points)[0].getlength(number)


def _lines_above(size: tuple[int, int], text: str, number: str) -> int:
    """How many lines a text needs above the number and the bar: none if it fits beside them, and two at most."""
    width, points = max(size[0], LEAST_LENGTH), _points(size)
    line, font = fit(text, math.inf, points)
    if font.getlength(line) <= _room(width, points, number):
        return 0
    return len(wrap(text, width - 2 * round(0.7 * points), points, 2)[0])


def _legend(
    width: int, points: int, text: str, number: str, colors: UInt8[np.ndarray, "level 3"], signed: bool, above: int
) -> Image.Image:
    """Text, number and color bar in one line, or the text on lines `above` the others."""
    pad, leading = round(0.7 * points), round(1.4 * points)
    band = Image.new("RGB", (width, points + 2 * pad + above * leading), BACKGROUND)
    draw = ImageDraw.Draw(band)
    middle = pad + above * leading + points // 2
    font, small = fonts(points)[0], fonts(max(SMALLEST, round(0.8 * points)))[0]

    low, high = ("-1", "+1") if signed else ("0", "1")
    thickness, length = max(6, points // 2), min(10 * points, width // 4)
    right = width - pad
    draw.text((right, middle), high, FAINT, small, anchor="rm")
    right -= round(small.getlength(high)) + pad // 2
    bar = Image.fromarray(colors[None]).resize((length, thickness), Image.Resampling.BILINEAR)
    band.paste(bar, (right - length, middle - thickness // 2))
    right -= length + pad // 2
    draw.text((right, middle), low, FAINT, small, anchor="rm")

    left = pad
    if above:
        lines, text_font = wrap(text, width - 2 * pad, points, above)
        for place, line in enumerate(lines):
            draw.text((pad, pad + points // 2 + place * leading), line, INK, text_font, anchor="lm")
    else:
        line, text_font = fit(text, _room(width, points, number), points)
        draw.text((pad, middle), line, INK, text_font, anchor="lm")
        left += round(text_font.getlength(line)) + pad if line else 0
    draw.text((left, middle), number, FAINT, font, anchor="lm")
    return band


def _line(width: int, points: int, pad: int, text: str, ink: tuple[int, int, int]) -> Image.Image:
    """A line below a legend, or below a strip, with `pad` pixels to its left and right."""
    points = max(SMALLEST, points)
    band = Image.new("RGB", (width, round(1.5 * points)), BACKGROUND)
    line, font = fit(text, width - 2 * pad, points)
    ImageDraw.Draw(band).text((pad, points // 2), line, ink, font, anchor="lm")
    return band


def reduced(picture: Image.Image, most: int | None) -> Image.Image:
    """The picture with at most `most` pixels on its longer side; None = as it is."""
    if most is None or max(picture.size) <= most:
        return picture
    return picture.resize(_within(picture.size, most), Image.Resampling.LANCZOS)


def bounded(image: Image.Image, most: int | None, draw: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What `draw` makes of the image, the image reduced as far as the result has at most `most` pixels on a side.

    The letters of a legend stay sharp, which they would not if the result were reduced.
    """
    if most is None:
        return draw(image)
    side, picture = most, draw(reduced(image, most))
    while (over := max(picture.size) - most) > 0 and side > LEAST_SIDE:
        side = max(LEAST_SIDE, min(side, max(image.size)) - over)
        picture = draw(reduced(image, side))
    return reduced(picture, most)


def _within(size: tuple[int, int], most: int) -> tuple[int, int]:
    width, height = (max(1, round(side * most / max(size))) for side in size)
    return width, height
