"""Figures for print: letters and outlines as vectors around raster maps, drawn with matplotlib (extra `train`).

A figure is a grid of cells in inches, laid out by hand, so that its width is exactly that of a column. What a user set
in matplotlib's rcParams does not change it, and they are changed only while a figure is saved, by one thread at a time.
"""

from __future__ import annotations

import math
import numbers
import textwrap
import threading
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from eclip import heatmap
from eclip.errors import OptionError
from eclip.registry import one_of
from eclip.render.colormaps import BAR_GRAY, COLORMAPS, OWN, blend
from eclip.render.overlay import ABSENT, ALPHA, DIM, UNSURE, paint, view_size
from eclip.render.words import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = ("width", "theme", "colormap", "dpi")
"""What a figure can be told."""
WIDTHS = {"single": 3.25, "double": 6.875}
"""Inches: one column, and the whole text, of the usual two-column styles of computer vision."""
THEMES: dict[str, dict[str, str]] = {
    "light": {"paper": "#ffffff", "ink": "#16161a", "faint": "#6a6a73", "doubt": "#9a5b00"},
    "dark": {"paper": "#141418", "ink": "#f0f0f2", "faint": "#96969e", "doubt": "#e8b060"},
}
LEAST, COMFORTABLE, MOST_ROWS = 0.4, 0.9, 40
"""Inches of a cell's width, at least; of one that is large enough to see something; rows of cells, at most."""
POINTS, SMALL, LEADING = 7.5, 6.5, 1.25
"""Points of titles and of smaller letters; height of a line relative to that."""
GAP, EDGE, LABEL = 0.06, 0.04, 0.85
"""Inches between cells, around the figure, and for the labels of rows."""
SCRIPTS = (
    *("Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Noto Sans Arabic", "Noto Sans Hebrew"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "PingFang SC", "Microsoft YaHei", "Malgun Gothic", "Unifont"),
)
"""Fonts for what matplotlib's own does not have, where the system has them."""
SAVING: Any = {
    **{"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "eclip"},
    **{"savefig.bbox": "standard", "savefig.facecolor": "auto", "savefig.transparent": False},
    **{"figure.autolayout": False, "figure.constrained_layout.use": False},  # which saving would turn on
}
"""The rcParams under which figures are saved: some of these can be set nowhere else."""
_ONE_AT_A_TIME = threading.Lock()  # two would restore each other's rcParams, not the user's


@dataclass(frozen=True)
class Cell:
    """One panel of a figure.

    Attributes:
        image: mode RGB.
        values: of its map, in [0, 1], or [-1, 1] if signed; None = only the image.
        signed: whether zero is meaningful.
        heat: the map that the outline belongs to, in [0, 1]; None = no outline.
        level: the outline encloses heat of at least this.
        title: above the panel.
        caption: below it.
        doubt: `ABSENT` or `UNSURE`: the map is drawn faintly, and this stands below.
    """

    image: Image.Image
    values: Float[np.ndarray, "row col"] | None = None
    signed: bool = False
    heat: Float[np.ndarray, "row col"] | None = None
    level: float = 0.5
    title: str = ""
    caption: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class Line:
    """A row of a figure: its cells, None for an empty one, a label to their left, and a smaller line below that."""

    cells: Sequence[Cell | None]
    label: str = ""
    more: str = ""


def figure(
    lines: Sequence[Line],
    *,
    width: str | float = "double",
    theme: str = "light",
    colormap: str = OWN,
    dpi: int = 300,
    note: str = "",
) -> Figure:
    """Draw rows of cells, a color bar and a note.

    Args:
        lines: of any numbers of cells; all cells are as wide as those of the longest row.
        width: "single" or "double" (3.25 and 6.875 inches), or inches.
        theme: "light" or "dark".
        colormap: a name of `COLORMAPS`, for unsigned maps; signed ones are always blue and amber.
        dpi: pixels of the raster panels per inch.
        note: at the bottom.

    Returns:
        A figure of matplotlib; saved as PDF, its fonts are embedded as TrueType, and in SVG letters stay text.

    Raises:
        OptionError: the width, theme, colormap or dpi is not one, or there is no room for so many cells.
    """
    inches = check_style(width, theme, colormap, dpi)
    return _Page(lines, inches, THEMES[theme], colormap, int(dpi), note).drawn()


def check_names(style: Collection[str]) -> None:
    """Check that all are names of a style.

    Raises:
        OptionError: one is not.
    """
    if unknown := [name for name in style if name not in STYLE]:
        raise OptionError(f"a figure has no {', '.join(map(repr, unknown))}: its style is {', '.join(STYLE)}.")


def check_style(width: str | float = "double", theme: str = "light", colormap: str = OWN, dpi: int = 300) -> float:
    """The width in inches.

    Raises:
        OptionError: the width, theme, colormap or dpi is not one, or matplotlib is not installed.
    """
    _figure()
    one_of(theme, "theme", THEMES)
    one_of(colormap, "colormap", COLORMAPS)
    if isinstance(dpi, bool) or not isinstance(dpi, numbers.Integral) or not 30 <= dpi <= 1200:
        raise OptionError(f"dpi must be a whole number from 30 to 1200, got {dpi!r}.")
    return _inches(width)


def columns_in(width: str | float) -> int:
    """How many panels of a comfortable size fit in a row."""
    return max(1, int((_inches(width) - 2 * EDGE + GAP) / (COMFORTABLE + GAP)))


def most_in(width: str | float) -> int:
    """How many panels have room beside the labels of rows."""
    return max(1, int((_inches(width) - 2 * EDGE - LABEL) / (LEAST + GAP)))


def _inches(width: str | float) -> float:
    if isinstance(width, str):
        if width in WIDTHS:
            return WIDTHS[width]
    elif isinstance(width, numbers.Real) and not isinstance(width, bool) and 1 <= width <= 40:
        return float(width)
    raise OptionError(f"width must be 'single', 'double' or 1 to 40 inches, got {width!r}.")


class _Page:
    """The layout of a figure, in inches from the top left; `drawn` gives it its height and the figure itself."""

    height: float
    page: Figure

    def __init__(
        self, lines: Sequence[Line], width: float, theme: dict[str, str], colormap: str, dpi: int, note: str
    ) -> None:
        self.lines, self.width, self.theme, self.colormap, self.dpi = lines, width, theme, colormap, dpi
        self.left = EDGE + (LABEL + GAP if any(line.label for line in lines) else 0.0)
        most = max(len(line.cells) for line in lines)
        self.cell = (width - EDGE - self.left - (most - 1) * GAP) / most
        if self.cell < LEAST or len(lines) > MOST_ROWS:
            raise OptionError(
                f"a figure {width:g} inches wide has no room for {len(lines)} rows of {most} panels: choose fewer "
                "images, texts, methods or columns, or a larger width."
            )
        self.note = _wrapped(note, width - 2 * EDGE - 1.2, SMALL, 3)

    def drawn(self) -> Figure:
        tops, top = [], EDGE
        for line in self.lines:
            cells = [cell for cell in line.cells if cell is not None]
            above = max(len(self._title(cell)) for cell in cells)
            below = max(len(self._below(cell)) for cell in cells)
            top += _high(POINTS, above)
            shape = max(cell.image.height / cell.image.width for cell in cells)
            panel = self.cell * min(shape, 2.5)
            tops.append((top, panel))
            beside = len(_wrapped(line.label, LABEL, POINTS, 3)) + bool(line.more)
            top += max(panel + _high(SMALL, below), _high(POINTS, beside)) + GAP
        foot = _high(SMALL, max(1, len(self.note)))
        self.height = top + foot + EDGE
        style: dict[str, Any] = {"facecolor": self.theme["paper"], "layout": "none"}
        self.page = _figure()(figsize=(self.width, self.height), dpi=self.dpi, **style)
        for line, (start, panel) in zip(self.lines, tops, strict=True):
            self._line(line, start, panel)
        for place, text in enumerate(self.note):
            self._write(EDGE, top + _high(SMALL, place), text, SMALL, "faint")
        self._bar(top)
        return self.page

    def _title(self, cell: Cell) -> list[str]:
        return _wrapped(cell.title, self.cell, POINTS, 2)

    def _below(self, cell: Cell) -> list[tuple[str, str]]:
        told = [(line, "faint") for line in _wrapped(cell.caption, self.cell, SMALL, 1)]
        return told + [(line, "doubt") for line in _wrapped(cell.doubt, self.cell, SMALL, 2)]

    def _line(self, line: Line, top: float, panel: float) -> None:
        if line.label:
            label = _wrapped(line.label, LABEL, POINTS, 3)
            for row, text in enumerate(label):
                self._write(EDGE, top + _high(POINTS, row), text, POINTS, "ink")
            for more in _wrapped(line.more, LABEL, SMALL, 1):
                self._write(EDGE, top + _high(POINTS, len(label)), more, SMALL, "faint")
        for place, cell in enumerate(line.cells):
            if cell is None:
                continue
            left, title = self.left + place * (self.cell + GAP), self._title(cell)
            for row, text in enumerate(title):
                at = top - _high(POINTS, len(title) - row)
                self._write(left, at, text, POINTS, "ink")
            self._panel(cell, left, top, panel)
            for row, (text, ink) in enumerate(self._below(cell)):
                self._write(left, top + panel + _high(SMALL, row), text, SMALL, ink)

    def _panel(self, cell: Cell, left: float, top: float, panel: float) -> None:
        shape = min(cell.image.height / cell.image.width, panel / self.cell)
        wide, high = self.cell, self.cell * shape
        axes = self._axes(left, top + high, wide, high)
        side = math.ceil(max(wide, high) * self.dpi)
        view = cell.image.resize(view_size(cell.image.size, side, side), Image.Resampling.LANCZOS)
        if cell.values is not None:
            view = paint(view, cell.values, cell.signed, ALPHA * DIM[cell.doubt], level=None, colormap=self.colormap)
        extent = (0, view.width, view.height, 0)
        axes.imshow(np.asarray(view), extent=extent, aspect="auto", interpolation="nearest", origin="upper")
        if cell.values is not None and cell.heat is not None:
            heat = heatmap.resize(torch.from_numpy(np.ascontiguousarray(cell.heat)), _coarse(view.size)).numpy()
            if heat.min() < cell.level < heat.max():
                rows, cols = ((np.arange(count) + 0.5) / count for count in heat.shape)
                faint = {"": 0.95, UNSURE: 0.6, ABSENT: 0.4}[cell.doubt]
                style: dict[str, Any] = {"colors": "white", "linewidths": 0.7, "alpha": faint}
                axes.contour(cols * view.width, rows * view.height, heat, [cell.level], **style)
        axes.set_xlim(0, view.width)
        axes.set_ylim(view.height, 0)

    def _bar(self, top: float) -> None:
        """A bar for each kind of map, at the right of the note."""
        kinds = {cell.signed for line in self.lines for cell in line.cells if cell and cell.values is not None}
        right = self.width - EDGE
        for signed in sorted(kinds):
            low, high = ("-1", "+1") if signed else ("0", "1")
            end = right - (0.15 if signed else 0.09)
            begin = end - 0.42
            self._write(end + 0.03, top, high, SMALL, "faint")
            self._write(begin - 0.03, top, low, SMALL, "faint", align="right")
            thick = 0.07
            middle = top + 0.6 * SMALL / 72
            axes = self._axes(begin, middle + thick / 2, end - begin, thick)
            axes.imshow(blend(signed, ALPHA, self.colormap)[None, :, BAR_GRAY], aspect="auto")
            right = begin - 0.3

    def _axes(self, left: float, bottom: float, wide: float, high: float) -> Any:
        axes: Any = self.page.add_axes(
            (left / self.width, 1 - bottom / self.height, wide / self.width, high / self.height)
        )
        axes.set_axis_off()
        return axes

    def _write(self, left: float, top: float, text: str, points: float, ink: str, align: str = "left") -> None:
        at = left / self.width, 1 - (top + points / 72) / self.height
        style: dict[str, Any] = {"color": self.theme[ink], "fontsize": points, "fontfamily": _families()}
        self.page.text(*at, text, ha=align, va="baseline", parse_math=False, usetex=False, **style)


def _coarse(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the map whose outline is drawn: fine enough to be smooth, coarse enough for small files."""
    scale = min(1.0, 240 / max(size))
    return max(2, round(size[1] * scale)), max(2, round(size[0] * scale))


def _high(points: float, lines: int) -> float:
    return lines * LEADING * points / 72


def _wrapped(text: str, room: float, points: float, most: int) -> list[str]:
    """Lines that fit in so many inches, by the mean width of a letter; the last one is shortened."""
    plain = printable(" ".join(text.split()))
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in plain) / max(1, len(plain))
    letters = max(4, int(room * 72 / ((0.56 + 0.44 * wide) * points)))
    lines = textwrap.wrap(plain, letters, max_lines=most, placeholder=" …")
    if lines and lines[-1] == "…":  # a word that is longer than the line was dropped
        lines[-1] = textwrap.wrap(plain, letters)[len(lines) - 1][: letters - 1] + "…"
    return lines


@cache
def _families() -> list[str]:
    from matplotlib import font_manager

    there = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in SCRIPTS if name in there)]


@cache
def _figure() -> type[Figure]:
    """A figure class of matplotlib that saves letters as letters."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError(
            "figures are drawn with matplotlib, which is not installed: pip install 'eclip[train]'."
        ) from error

    class Vector(Figure):
        def savefig(self, fname: Any, **options: Any) -> None:
            with _ONE_AT_A_TIME, rc_context(SAVING):
                super().savefig(fname, **{"dpi": self.dpi, **options})

    return Vector
