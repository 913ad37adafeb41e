"""Label maps in color: a palette safe for color-blind viewers, and images tinted by class with a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from eclip.render.colormaps import BACKGROUND, DOUBT, FAINT, INK
from eclip.render.fonts import fit, fonts
from eclip.render.overlay import DIM, LEAST_LENGTH, view_size

TINT, DIMMED = 0.55, 0.8  # opacity of a class's color; brightness of the background
PANEL_AT_MOST = 640  # pixels of the longer side of a panel if there are several
GAP = 10
COLORS = bytes.fromhex(
    "e99b009b00ff00d3ffd30b646fffa66490c800bc9bde590bffd3007af4f485d385907aff0085906f64c8ff9bd3de8564e9169b6fa6ffd32c2c"
    "e94364e9bc437ae9bcff4ed3ff85a621ff64c816bcf46f009b59e94ec8c8ffa6ffbcb1597ae9857a90e94ea685de64b1b1598543ffd34ea6d3"
    "a664a6f45943e90b7a4eb16f9043de00c8854edea659904e59e9deb1a6e964de64de4343646fffde4ebcff6fb159f4009b6fe9de85ffde3700"
    "ffb1a659d3de85bc2ca664d337d3bcf4de64b1f4857ae9ff37bcbc85d32c909be921b14eff7a7a6ff4b19b4ebce99b90bc2ca685dec8e9b1e9"
    "c8de9bde8543a685fff4bc6fbc7a9be9640064f4dec8374ec82cff219ba621a66ff464e943906fbc7a3700bc85bcbc6f0bdeffa64ed3a6596f"
    "d36fc864c8de59ff37e9d385599bd364bcd337c859e921644eb1a6d36f7a4eb1bc37bc6fdea64337c8ffff379059ffbc64b1ffde009bf4850b"
    "c82cb1bcde59b14e90de168564f4c89b6fbcd3598564d39be937a6ff4e64e9859bd359c8ffb116169b219b64dee9599b9b43e9de0043c8c859"
    "009bdebc37c800de4ed3592cdea6f464a616de37bc9059de7a7a2cf4de4321f49b2ca643b1d37af485bcf42cf4d37ade7ad3b1de161664a664"
    "bc59b116dee9bc21b159f46fc84ed3de1664e9a600e97a85bc0bc86485f4c82185a66ff4f4907a9b37f485e9d3857ac8a6599bde43902ca6de"
    "e97a9bffa690ff90d32185deb12cd30bde90f485f4de374ee92cb1de85b1d3167affbce985def4bc8543c87abcd390c800c8bcff595964ff90"
    "9b2ce9de37854ebcdeffa6a659debc6fded390deb1b15900c885f4bc85d3e9909bf47a6f90bc856fde37d35959f49bc8f49b85c89b4e00d3c8"
    "59f485bc7ab1e9648516ffe99bbc43e990b1ff593790c859e9166f59f4ffb14ea637c8d31690906f85dede0b904ee990b14e7a4e85d3c87aa6"
    "e99bb1d385c8d32c59d37a64c84ebc00bcb1b1f46fde596f85f4a69ba6f4f400164e854ef437596fc8e9c8e959f44316de8590f4855943e9e9"
    "bcc800167ade21d3d3ff90bcf4a67a90d34eff439b"
)
"""RGB of 254 classes. Each color maximizes the distance to all previous ones in the worst of normal, red-blind and
green-blind vision; `tests/test_palette.py` recomputes them."""


def palette(count: int) -> UInt8[np.ndarray, "label 3"]:
    """Colors for labels 0 to `count`: black, then one per class; a class keeps its color if more are added.

    Among the first twenty, OKLab distances are at least 0.08 for normal vision and 0.06 for red-blind and green-blind
    vision. After 254 classes, the colors repeat.
    """
    colors = np.frombuffer(COLORS, np.uint8).reshape(-1, 3)
    return np.concatenate([np.zeros((1, 3), np.uint8), colors[np.arange(count) % len(colors)]])


def indexed(labels: Integer[np.ndarray, "height width"], count: int) -> Image.Image:
    """A picture whose values are the labels: paletted up to 254 classes (255 is void), otherwise 16-bit grayscale."""
    if count > 254:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8), mode="P")
    picture.putpalette(palette(count).tobytes())
    return picture


def tinted(
    image: Image.Image, labels: Integer[np.ndarray, "height width"], count: int, doubts: Mapping[int, str] | None = None
) -> Image.Image:
    """The image in gray, tinted by class, with a thin line between labels; label 0 stays gray.

    Args:
        image: mode RGB.
        labels: of the image's size, 0 to `count`.
        count: number of classes.
        doubts: by label, `ABSENT` or `UNSURE` for classes that are probably not in the image, or may not be; their tint
            is faint.
    """
    gray = np.arange(256.0)[None, :, None]
    tint = TINT * np.array([DIM[(doubts or {}).get(label, "")] for label in range(count + 1)])[:, None, None]
    table = (1 - tint) * gray + tint * palette(count)[:, None].astype(float)  # label gray 3
    table[0] = DIMMED * gray
    picture = table.round().astype(np.uint8)[labels, np.asarray(image.convert("L"))]
    line = np.zeros(labels.shape, bool)
    line[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    line[1:] |= labels[1:] != labels[:-1]
    stroke = round(max(image.size) / 500)
    if stroke > 1:
        line = ndimage.binary_dilation(line, np.ones((stroke, stroke)))
    picture[line] = INK
    return Image.fromarray(picture)


def labeled(
    image: Image.Image,
    labels: Integer[np.ndarray, "height width"],
    names: Sequence[str],
    *,
    beside: bool,
    doubts: Mapping[int, str] | None = None,
) -> Image.Image:
    """The tinted image with a legend of the classes it contains, largest first, with their share of the pixels.

    Args:
        image: mode RGB.
        labels: of the image's size.
        names: one per label, including 0.
        beside: put the original image to the left, with panels of at most 640 pixels; otherwise use the image's own
            size. Small images are enlarged to 240 pixels on the longer side.
        doubts: as in tinted; the legend has them below the names.
    """
    size = view_size(image.size, LEAST_LENGTH, PANEL_AT_MOST if beside else None)
    count = len(names) - 1
    areas = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
    if size != image.size:
        rows, cols = (np.arange(to) * of // to for to, of in zip(size[::-1], labels.shape, strict=True))
        image, labels = image.resize(size, Image.Resampling.LANCZOS), labels[rows[:, None], cols]
    panels = [image] * beside + [tinted(image, labels, count, doubts), _legend(size, areas, names, doubts or {})]
    canvas = Image.new("RGB", (sum(panel.width + GAP for panel in panels) + GAP, size[1] + 2 * GAP), BACKGROUND)
    left = GAP
    for panel in panels:
        canvas.paste(panel, (left, GAP))
        left += panel.width + GAP
    return canvas


def _legend(size: tuple[int, int], areas: np.ndarray, names: Sequence[str], doubts: Mapping[int, str]) -> Image.Image:
    """A column as high as the panels: color, name and share of each class that occurs, and its doubt below, if any."""
    points = min(64, max(12, min(max(size) // 26, size[1] // 8)))
    pitch = round(1.7 * points)
    order = [int(label) for label in np.argsort(-areas, kind="stable") if areas[label] > 0]
    lines = [(label, doubt) for label in order for doubt in ("", doubts.get(label, ""))[: 1 + (label in doubts)]]
    room = max(1, size[1] // pitch)
    shown = lines if len(lines) <= room else lines[: room - 1]
    width = 13 * points
    column = Image.new("RGB", (width, size[1]), BACKGROUND)
    draw, colors = ImageDraw.Draw(column), palette(len(names) - 1)
    for row, (label, doubt) in enumerate(shown):
        middle = row * pitch + pitch // 2
        if doubt:
            line, font = fit(doubt, width - 1.6 * points, max(11, round(0.75 * points)))
            draw.text((round(1.6 * points), middle - points // 4), line, DOUBT, font, anchor="lm")
            continue
        fill = tuple(colors[label].tolist()) if label else (90, 90, 96)
        draw.rectangle((0, middle - points // 2, points, middle + points // 2), fill=fill)
        share, font = f"{100 * areas[label]:.0f} %" if areas[label] >= 0.005 else "< 1 %", fonts(points)[0]
        name, letters = fit(names[label], width - 2 * points - font.getlength(share) - points // 2, points)
        draw.text((round(1.6 * points), middle), name, INK if label else FAINT, letters, anchor="lm")
        draw.text((width, middle), share, FAINT, font, anchor="rm")
    if more := len(order) - len({label for label, _ in shown}):
        middle = len(shown) * pitch + pitch // 2
        draw.text((0, middle), f"+ {more} more", FAINT, fonts(points)[0], anchor="lm")
    return column
