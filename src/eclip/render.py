"""Pictures of heat maps: a photo with its evidence in color, a legend below, and strips of several.

Color means evidence and nothing else: the photo beneath is drawn in gray, slightly dimmed, and color comes in as
the evidence grows. The color tables are built in OKLab (Ottosson 2020, https://bottosson.github.io/posts/oklab/), with
lightness strictly linear in the value and equal steps all the way, so equal differences look equal.
"""

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from eclip import heatmap
from eclip.errors import OptionError, ShapeError

LEVELS = 255  # odd, so that zero has a level of its own in the middle of the diverging table
OUTLINE_LEVEL = 0.5  # the outline runs where the heat map, or its absolute value, is half of its peak
FAINTEST, FULL = 0.12, 0.85  # values, or absolute values, where color sets in and where it is as opaque as it gets
BAR_GRAY = 140  # the legend's bar shows the colors as they look over this gray, 0 to 255
LEAST_SIDE = 16  # pixels of a drawn side, however thin the photo
LEAST_LENGTH = 240  # pixels of the longer drawn side, and of the width that a legend needs
PANEL_LENGTH = 320  # longer side of a strip's panels
PANEL_GAP = 10
CELLS_A_ROW, CELLS_AT_MOST = 6, 24  # of a strip, the photo among them
BLOCK_PIXELS = 1 << 20  # drawn at a time, which bounds memory on large photos
TEXT_AT_MOST = 400  # characters that are measured; no legend has room for more
NO_GLYPH = "\U0010fffe"  # never a character, so always drawn as the font's empty box
BACKGROUND, INK, FAINT = (20, 20, 24), (240, 240, 242), (150, 150, 158)
# Bundled with Pillow is little more than ASCII; these, where the system has one, draw other scripts.
SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf")

# fmt: off
LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929],  # linear sRGB to cone responses
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005]])
LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468],  # cube roots of cone responses to OKLab
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660]])
# fmt: on


@cache
def sequential() -> Float[np.ndarray, "level 3"]:
    """Colors of 0 to 1: indigo, magenta, coral, pale gold; sRGB in [0, 1], OKLab lightness linear, 0.22 to 0.92."""
    lightness = np.linspace(0.22, 0.92, LEVELS)
    chroma, hue = (0.10, 0.175, 0.20, 0.15, 0.11), (284, 312, 357, 411, 456)
    return _srgb(_even_path(lightness, chroma, hue))


@cache
def diverging() -> Float[np.ndarray, "level 3"]:
    """Colors of -1 to 1: blue, neutral, amber; sRGB in [0, 1], OKLab lightness linear in |value|, 0.25 to 0.80."""
    lightness = np.linspace(0.25, 0.80, LEVELS // 2 + 1)
    amber = _even_path(lightness, (0.0, 0.05, 0.10, 0.135, 0.14), (45, 45, 48, 55, 70))
    blue = _even_path(lightness, (0.0, 0.05, 0.10, 0.13, 0.115), (265, 265, 262, 255, 237))
    return _srgb(np.concatenate([blue[:0:-1], amber]))


def overlay(
    photo: Image.Image,
    values: Float[np.ndarray, "row col"],
    *,
    signed: bool,
    text: str = "",
    score: float | None = None,
    legend: bool = True,
    alpha: float = 0.85,
) -> Image.Image:
    """The photo in gray with its evidence in color, a thin outline at half the peak, and a legend below.

    Args:
        photo: mode RGB, any size.
        values: in [0, 1], or [-1, 1] if signed; of any size, resized to the photo by heatmap.resize.
        signed: colors diverge around zero, blue below and amber above.
        text: for the legend; shortened with an ellipsis where it does not fit.
        score: for the legend, the cosine of photo and text.
        legend: False gives the bare picture in exactly the photo's size. A legend makes small photos larger (the longer
            side at least 240 pixels, the shorter at least 16), centered above it, and no photo smaller.
        alpha: opacity of the color at the peak, 0 to 1.

    Returns:
        Mode RGB.

    Raises:
        OptionError: alpha is outside [0, 1], or a value outside its range.
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha must be between 0 and 1, got {alpha}.")
    if not legend:
        return _paint(photo, values, signed, alpha)
    size = _view_size(photo.size, LEAST_LENGTH)
    view = photo if size == photo.size else photo.resize(size, Image.Resampling.BICUBIC)
    points = min(64, max(13, min(view.width, 3 * view.height) // 28))
    band = _legend(max(view.width, LEAST_LENGTH), points, text, score, _blend(signed, alpha)[:, BAR_GRAY], signed)
    canvas = Image.new("RGB", (band.width, view.height + band.height), BACKGROUND)
    canvas.paste(_paint(view, values, signed, alpha), ((band.width - view.width) // 2, 0))
    canvas.paste(band, (0, view.height))
    return canvas


def strip(
    photo: Image.Image,
    panels: Iterable[Float[np.ndarray, "row col"]],
    *,
    signed: bool,
    texts: Sequence[str],
    scores: Sequence[float],
) -> Image.Image:
    """The photo and one overlay a text, in rows of at most six; "+ n more" where the texts do not fit in four rows.

    Args:
        photo: mode RGB, any size; drawn 320 pixels long.
        panels: one a text, as the values of overlay. Only those that are drawn are taken from the iterable, one at a
            time; patch grids are enough, no need to resize them to the photo.
        signed: as in overlay.
        texts: one a panel.
        scores: one a text.

    Returns:
        Mode RGB.

    Raises:
        ShapeError: texts and scores differ in number.
        OptionError: a value is outside its range.
        ValueError: there are fewer panels than texts.
    """
    if len(texts) != len(scores):
        raise ShapeError(f"a strip needs one score a text, got {len(texts)} texts and {len(scores)} scores.")
    shown = len(texts) if len(texts) < CELLS_AT_MOST else CELLS_AT_MOST - 2
    small = photo.resize(_view_size(photo.size, PANEL_LENGTH, PANEL_LENGTH), Image.Resampling.LANCZOS)
    cells = [small]
    for values, text, score in zip(islice(panels, shown), texts[:shown], scores[:shown], strict=True):
        cells.append(overlay(small, values, signed=signed, text=text, score=score))
    size = cells[-1].size
    if shown < len(texts):
        cells.append(Image.new("RGB", size, BACKGROUND))
        middle, more = (size[0] / 2, size[1] / 2), f"+ {len(texts) - shown:,} more"
        ImageDraw.Draw(cells[-1]).text(middle, more, FAINT, _fonts(20)[0], anchor="mm")
    columns = math.ceil(len(cells) / math.ceil(len(cells) / CELLS_A_ROW))
    rows = math.ceil(len(cells) / columns)
    pitch = size[0] + PANEL_GAP, size[1] + PANEL_GAP
    canvas = Image.new("RGB", (columns * pitch[0] + PANEL_GAP, rows * pitch[1] + PANEL_GAP), BACKGROUND)
    for i, cell in enumerate(cells):
        left = PANEL_GAP + i % columns * pitch[0] + (size[0] - cell.width) // 2
        canvas.paste(cell, (left, PANEL_GAP + i // columns * pitch[1]))
    return canvas


def _view_size(size: tuple[int, int], least: int, most: int | None = None) -> tuple[int, int]:
    scale = min(max(least, *size), most or math.inf) / max(size)
    width, height = (max(LEAST_SIDE, round(side * scale)) for side in size)
    return width, height


def _paint(photo: Image.Image, values: Float[np.ndarray, "row col"], signed: bool, alpha: float) -> Image.Image:
    low = -1 if signed else 0
    if not (values.min() >= low and values.max() <= 1):
        given, maker = f"{values.min()} to {values.max()}", "heatmap.signed" if signed else "heatmap.normalize"
        raise OptionError(f"an overlay needs values in [{low}, 1], got {given}: {maker} makes them.")
    width, height = photo.size
    if values.shape != (height, width):
        values = heatmap.resize(torch.from_numpy(np.ascontiguousarray(values)), (height, width)).numpy()
    gray = np.asarray(photo.convert("L"))
    colors = _blend(signed, alpha)
    picture = np.empty((height, width, 3), np.uint8)
    stroke = max(1.25, max(width, height) / 420)
    step = max(1, BLOCK_PIXELS // width)
    for top in range(0, height, step):
        above, stop = max(0, top - 1), min(height, top + step)
        block = values[above : stop + 1]  # one row more on either side, for the slope of the outline
        level = np.rint((block - low) / (1 - low) * (LEVELS - 1)).astype(np.uint8)
        painted = colors[level, gray[above : stop + 1]]
        line = alpha * _outline(np.abs(block), stroke)
        on = line > 0
        painted[on] = np.rint(painted[on] + line[on, None] * (np.array(INK) - painted[on]))
        picture[top:stop] = painted[top - above : stop - above]
    return Image.fromarray(picture)


def _outline(heat: Float[np.ndarray, "row col"], stroke: float) -> Float[np.ndarray, "row col"]:
    # how far a pixel is from the level, in pixels: its difference over the slope there
    slope = np.hypot(*(np.gradient(heat, axis=axis) if heat.shape[axis] > 1 else 0 * heat for axis in (0, 1)))
    distance = np.full_like(heat, np.inf)
    np.divide(np.abs(heat - OUTLINE_LEVEL), slope, out=distance, where=slope > 0)
    return np.clip(stroke / 2 + 0.5 - distance, 0, 1)


@lru_cache(maxsize=16)
def _blend(signed: bool, alpha: float) -> UInt8[np.ndarray, "level gray 3"]:
    """What is drawn for each value over each gray; lightness is mixed less than color, so the texture stays."""
    gray = np.linspace(0, 1, 256)
    ground = 0.90 * _oklab(np.stack([gray] * 3, axis=1))[:, 0]
    color = _oklab(diverging() if signed else sequential())[:, None]
    strength = np.abs(np.linspace(-1 if signed else 0, 1, LEVELS))[:, None]
    ramp = np.clip((strength - FAINTEST) / (FULL - FAINTEST), 0, 1)
    opacity = alpha * ramp**2 * (3 - 2 * ramp)
    lightness = ground + 0.92 * opacity * (color[..., 0] - ground)
    plane = np.broadcast_to(opacity[..., None] * color[..., 1:], (*lightness.shape, 2))
    mixed = np.concatenate([lightness[..., None], plane], axis=-1)
    return (_srgb(mixed) * 255).round().astype(np.uint8)


def _legend(
    width: int, points: int, text: str, score: float | None, colors: UInt8[np.ndarray, "level 3"], signed: bool
) -> Image.Image:
    pad = round(0.7 * points)
    band = Image.new("RGB", (width, points + 2 * pad), BACKGROUND)
    draw = ImageDraw.Draw(band)
    middle = band.height // 2
    font, small = _fonts(points)[0], _fonts(max(11, round(0.8 * points)))[0]

    low, high = ("-1", "+1") if signed else ("0", "1")
    thickness, length = max(6, points // 2), min(10 * points, width // 4)
    right = width - pad
    draw.text((right, middle), high, FAINT, small, anchor="rm")
    right -= round(small.getlength(high)) + pad // 2
    bar = Image.fromarray(colors[None]).resize((length, thickness), Image.Resampling.BILINEAR)
    band.paste(bar, (right - length, middle - thickness // 2))
    right -= length + pad // 2
    draw.text((right, middle), low, FAINT, small, anchor="rm")
    right -= round(small.getlength(low)) + pad

    number = "" if score is None else f"{score:.3f}"
    line, text_font = _fit(text, right - 2 * pad - font.getlength(number), points)
    draw.text((pad, middle), line, INK, text_font, anchor="lm")
    left = pad + text_font.getlength(line) + pad if line else pad
    draw.text((left, middle), number, FAINT, font, anchor="lm")
    return band


def _fit(text: str, room: float, points: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text in letters that can be drawn, shortened to the room in pixels, and the font that has them."""
    line = " ".join(text[:TEXT_AT_MOST].split())
    font = max(_fonts(points), key=lambda candidate: sum(_draws(candidate, letter) for letter in line))
    line = "".join(letter if _draws(font, letter) else _spell(letter, font) for letter in line)
    if font.getlength(line) > room:
        kept = bisect_right(range(len(line)), room, key=lambda count: font.getlength(line[:count].rstrip() + "…")) - 1
        line = line[:kept].rstrip() + "…" if kept > 0 else ""
    return line, font


@cache
def _fonts(points: int) -> list[ImageFont.FreeTypeFont]:
    """Pillow's own font, then those of SYSTEM_FONTS that are found."""
    fonts = [ImageFont.load_default(points)]
    for name in SYSTEM_FONTS:
        with suppress(OSError):  # this system lacks it
            fonts.append(ImageFont.truetype(name, points))
    return [font for font in fonts if isinstance(font, ImageFont.FreeTypeFont)]


@lru_cache(maxsize=4096)
def _draws(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    return bytes(font.getmask(letter)) != bytes(font.getmask(NO_GLYPH))


def _spell(letter: str, font: ImageFont.FreeTypeFont) -> str:
    """A letter the font lacks, in others: é as e, an emoji by its name, the rest by number; joiners vanish."""
    if unicodedata.category(letter) in ("Cf", "Mn", "Cc"):
        return ""
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    if plain != letter and all(_draws(font, part) for part in plain):
        return plain
    if unicodedata.category(letter) == "So":
        return f"({unicodedata.name(letter, 'symbol').lower()})"
    return letter.encode("unicode_escape").decode()


def _even_path(
    lightness: Float[np.ndarray, " level"], chroma: Sequence[float], hue: Sequence[int]
) -> Float[np.ndarray, "level 3"]:
    """OKLab colors of the given lightness along a smooth curve through (chroma, hue in degrees), in equal steps."""
    at = np.linspace(0, 1, len(chroma))
    fine = np.linspace(0, 1, 4001)
    angle = np.deg2rad(hue)
    plane = [np.polyval(np.polyfit(at, chroma * wave(angle), len(at) - 1), fine) for wave in (np.cos, np.sin)]
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(plane, axis=1)))])
    even = np.linspace(0, length[-1], len(lightness))
    return np.stack([lightness, *(np.interp(even, length, axis) for axis in plane)], axis=1)


def _srgb(lab: Float[np.ndarray, "*color 3"]) -> Float[np.ndarray, "*color 3"]:
    linear = np.clip((lab @ np.linalg.inv(LAB).T) ** 3 @ np.linalg.inv(LMS).T, 0, 1)
    rgb: np.ndarray = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb


def _oklab(rgb: Float[np.ndarray, "*color 3"]) -> Float[np.ndarray, "*color 3"]:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lab: np.ndarray = np.cbrt(linear @ LMS.T) @ LAB.T
    return lab
