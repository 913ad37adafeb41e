"""Label maps in color: a palette that all eyes can tell apart, and photos tinted by class with a legend beside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from eclip.render.colormaps import BACKGROUND, FAINT, INK, oklab
from eclip.render.fonts import fit, fonts
from eclip.render.overlay import LEAST_LENGTH, view_size

TINT, DIMMED = 0.55, 0.8  # opacity of a class's color; brightness of what is background
PANEL_AT_MOST = 640  # pixels of the longer side of a panel in a picture of several
GAP = 10
LIGHTNESS, LEAST_CHROMA = (0.56, 0.90), 0.09  # of a class's color, in OKLab: light enough on dark, no gray
STEPS = 24  # levels of red, green and blue among which colors are chosen

# How red-blind and green-blind eyes see linear sRGB (Machado et al. 2009, severity 1, doi 10.1109/TVCG.2009.113)
# fmt: off
BLIND = np.array([[[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
                  [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]])
# fmt: on


@lru_cache(maxsize=8)
def palette(count: int) -> UInt8[np.ndarray, "label 3"]:
    """Colors of labels 0 to `count`: black, then one a class; a class keeps its color when more are added.

    Each new color is the one farthest from all before it in OKLab, as seen by the eyes that tell them apart worst:
    normal, red-blind or green-blind, to whom distances count a fifth more, or the others would get much blue. Among
    the first twenty no two are nearer than 0.08 to normal eyes and 0.06 to the others.
    """
    colors, seen = _candidates()
    start = int(np.argmin(np.abs(colors.astype(int) - (230, 159, 0)).sum(axis=1)))  # an orange all eyes know
    chosen = [start]
    nearest = np.full(len(colors), np.inf)
    for _ in range(min(count, len(colors)) - 1):
        apart = np.linalg.norm(seen - seen[:, chosen[-1:]], axis=2).min(axis=0)
        nearest = np.minimum(nearest, apart)
        chosen.append(int(nearest.argmax()))
    cycled = [chosen[label % len(chosen)] for label in range(count)]
    return np.concatenate([np.zeros((1, 3), np.uint8), colors[cycled]])


@cache
def _candidates() -> tuple[np.ndarray, np.ndarray]:
    """Colors that a class may have (color, 3) of 8 bits, and each as three kinds of eyes see it (eye, color, 3)."""
    levels = np.linspace(0, 255, STEPS).round().astype(np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = oklab(colors / 255.0)
    fits = (lab[:, 0] >= LIGHTNESS[0]) & (lab[:, 0] <= LIGHTNESS[1]) & (np.hypot(lab[:, 1], lab[:, 2]) >= LEAST_CHROMA)
    colors = colors[fits]
    return colors, np.stack([oklab(colors / 255.0), *(1.2 * oklab(_seen(colors / 255.0, blind)) for blind in BLIND)])


def _seen(rgb: np.ndarray, blind: np.ndarray) -> np.ndarray:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ blind.T, 0, 1)
    found: np.ndarray = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return found


def indexed(labels: Integer[np.ndarray, "height width"], count: int) -> Image.Image:
    """A picture whose values are the labels: with the palette up to 254 classes (255 is void), else gray of 16 bits."""
    if count > 254:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8), mode="P")
    picture.putpalette(palette(count).tobytes())
    return picture


def tinted(photo: Image.Image, labels: Integer[np.ndarray, "height width"], count: int) -> Image.Image:
    """The photo in gray, each class in its color, a thin line where labels change; label 0 stays gray.

    Args:
        photo: mode RGB.
        labels: of the photo's size, 0 to `count`.
        count: how many classes there are.
    """
    gray = np.arange(256.0)[None, :, None]
    table = (1 - TINT) * gray + TINT * palette(count)[:, None].astype(float)  # label gray 3
    table[0] = DIMMED * gray
    picture = table.round().astype(np.uint8)[labels, np.asarray(photo.convert("L"))]
    line = np.zeros(labels.shape, bool)
    line[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    line[1:] |= labels[1:] != labels[:-1]
    stroke = round(max(photo.size) / 500)
    if stroke > 1:
        line = ndimage.binary_dilation(line, np.ones((stroke, stroke)))
    picture[line] = INK
    return Image.fromarray(picture)


def labeled(
    photo: Image.Image, labels: Integer[np.ndarray, "height width"], names: Sequence[str], *, beside: bool
) -> Image.Image:
    """The tinted photo with its legend: each class that is there, the largest first, and its share of the pixels.

    Args:
        photo: mode RGB.
        labels: of the photo's size.
        names: of each label, 0 among them.
        beside: the photo itself to the left, and panels of at most 640 pixels; else in the photo's own size. Small
            photos are drawn larger, the longer side 240 pixels.
    """
    size = view_size(photo.size, LEAST_LENGTH, PANEL_AT_MOST if beside else None)
    count = len(names) - 1
    areas = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
    if size != photo.size:
        rows, cols = (np.arange(to) * of // to for to, of in zip(size[::-1], labels.shape, strict=True))
        photo, labels = photo.resize(size, Image.Resampling.LANCZOS), labels[rows[:, None], cols]
    panels = [photo] * beside + [tinted(photo, labels, count), _legend(size, areas, names)]
    canvas = Image.new("RGB", (sum(panel.width + GAP for panel in panels) + GAP, size[1] + 2 * GAP), BACKGROUND)
    left = GAP
    for panel in panels:
        canvas.paste(panel, (left, GAP))
        left += panel.width + GAP
    return canvas


def _legend(size: tuple[int, int], areas: np.ndarray, names: Sequence[str]) -> Image.Image:
    """A column as high as the panels: a square of color, name and share of each class that is there."""
    points = min(64, max(12, min(max(size) // 26, size[1] // 8)))
    pitch = round(1.7 * points)
    order = [int(label) for label in np.argsort(-areas, kind="stable") if areas[label] > 0]
    room = max(1, size[1] // pitch)
    shown = order if len(order) <= room else order[: room - 1]
    width = 13 * points
    column = Image.new("RGB", (width, size[1]), BACKGROUND)
    draw, colors = ImageDraw.Draw(column), palette(len(names) - 1)
    for row, label in enumerate(shown):
        middle = row * pitch + pitch // 2
        fill = tuple(colors[label].tolist()) if label else (90, 90, 96)
        draw.rectangle((0, middle - points // 2, points, middle + points // 2), fill=fill)
        share, font = f"{100 * areas[label]:.0f} %" if areas[label] >= 0.005 else "< 1 %", fonts(points)[0]
        name, letters = fit(names[label], width - 2 * points - font.getlength(share) - points // 2, points)
        draw.text((round(1.6 * points), middle), name, INK if label else FAINT, letters, anchor="lm")
        draw.text((width, middle), share, FAINT, font, anchor="rm")
    if len(shown) < len(order):
        middle = len(shown) * pitch + pitch // 2
        draw.text((0, middle), f"+ {len(order) - len(shown)} more", FAINT, fonts(points)[0], anchor="lm")
    return column
