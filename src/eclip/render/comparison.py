"""A picture that compares methods: one row per method, one column per text, one color scale for all."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw

from eclip import heatmap
from eclip.registry import one_of
from eclip.render.colormaps import BACKGROUND, BAR_GRAY, DOUBT, FAINT, INK, blend
from eclip.render.fonts import fit, fonts, wrap
from eclip.render.overlay import DIM, OUTLINE_LEVEL, paint, stack, view_size

SCALES = ("map", "row")
TEXTS_AT_MOST = 20
LENGTHS = ((4, 220), (8, 190), (TEXTS_AT_MOST, 160))  # number of texts, and longer side of their panels in pixels
MARGIN, GAP, BREAK = 32, 8, 22  # around the page; between panels; between kinds of method
LEAST_COLUMN, LEAST_ROW = 112, 66  # room for a heading and a label, even if the image is thin
LEAST_LABEL, MOST_LABEL = 176, 300
LEAST_CONTENT = 470  # width of the legend's text
TITLE, NAME, SMALL = 24, 17, 13  # points
LEADING = 1.32  # line height relative to the font size
QUIET, RULE, MIDDLE = (29, 29, 34), (56, 56, 63), (198, 198, 204)
ALPHA = 0.85


@dataclass(frozen=True)
class Row:
    """One method: its maps, or why it has none.

    Attributes:
        name: of the method.
        kind: what it uses, in one word.
        cost: its cost as text.
        maps: raw; None if the method is not applicable.
        gap: the reason in that case, as a clause without a period.
        signed: zero is meaningful in these maps; negative values stay gray, or turn blue if there is a `versus` text.
        levels: one per text, the value of its heat map, in [0, 1], that the outline follows; empty = half of the peak.
    """

    name: str
    kind: str
    cost: str = ""
    maps: Float[np.ndarray, "text row col"] | None = None
    gap: str = ""
    signed: bool = False
    levels: Sequence[float] = ()


@dataclass(frozen=True)
class Section:
    """The rows of one model.

    Attributes:
        name: of the model.
        note: a few words below its name.
        scores: one per text; None if no method is applicable.
        rows: its methods.
        doubts: of each text `ABSENT`, `UNSURE` or nothing, and its maps are as faint; none at all if that is unknown.
    """

    name: str
    note: str
    scores: Float[np.ndarray, " text"] | None
    rows: tuple[Row, ...]
    doubts: Sequence[str] = ()


def grid(
    image: Image.Image,
    sections: Sequence[Section],
    *,
    texts: Sequence[str],
    versus: str | None = None,
    scale: str = "map",
) -> Image.Image:
    """One picture of many maps: the image, then one row per method and one column per text, one section per model.

    Args:
        image: mode RGB, any size; drawn as large as the panels, 160 to 220 pixels on the longer side.
        sections: one per model, at least one.
        texts: columns, in this order; of more than twenty, those with the highest scores in the first section.
        versus: the text to which others are contrasted. Maps are then signed, and colors diverge around zero.
        scale: "map" scales each map by its own minimum and maximum; "row" by those of the method over all texts,
            including those not shown, so that texts can be compared.

    Returns:
        Mode RGB.

    Raises:
        OptionError: an unknown scale.
        EclipError: a value is NaN or infinite.
    """
    check_scale(scale)
    page = _Page(image, sections, tuple(texts), versus, scale)
    bands = []
    for index, section in enumerate(sections):
        bands.append(page.header(section, first=index == 0))
        kinds = [row.kind for row in section.rows]
        for row, kind_above in zip(section.rows, [*kinds[:1], *kinds], strict=False):
            bands.append(page.row(row, GAP if row.kind == kind_above else BREAK, section.doubts))
    return stack([*bands, page.legend()])


def check_scale(scale: str) -> None:
    """An OptionError if scale is not one of SCALES."""
    one_of(scale, "scale", SCALES)


@dataclass(frozen=True)
class _Page:
    """The layout from left to right, and the bands that are stacked vertically."""

    image: Image.Image
    sections: Sequence[Section]
    texts: tuple[str, ...]
    versus: str | None
    scale: str

    @property
    def signed(self) -> bool:
        return self.versus is not None

    @cached_property
    def shown(self) -> list[int]:
        if len(self.texts) <= TEXTS_AT_MOST:
            return list(range(len(self.texts)))
        scores = next((section.scores for section in self.sections if section.scores is not None), None)
        ranks = np.zeros(len(self.texts)) if scores is None else -scores
        return [int(text) for text in np.argsort(ranks, kind="stable")[:TEXTS_AT_MOST]]

    @cached_property
    def view(self) -> Image.Image:
        length = next(length for count, length in LENGTHS if len(self.shown) <= count)
        return self.image.resize(view_size(self.image.size, length, length), Image.Resampling.LANCZOS)

    @cached_property
    def column(self) -> int:
        return max(self.view.width, LEAST_COLUMN)

    @cached_property
    def label(self) -> int:
        rows = [row for section in self.sections for row in section.rows]
        names = (fonts(NAME)[0].getlength(row.name) for row in rows)
        costs = (fonts(SMALL)[0].getlength(row.cost) for row in rows)
        return round(min(MOST_LABEL, max(LEAST_LABEL, self.view.width, *names, *costs)))

    @cached_property
    def left(self) -> int:
        """The left edge of the panels."""
        return MARGIN + self.label + 3 * GAP

    @cached_property
    def width(self) -> int:
        panels = len(self.shown) * (self.column + GAP) - GAP
        return self.left + max(panels, LEAST_CONTENT) + MARGIN

    def columns(self) -> list[int]:
        return [self.left + place * (self.column + GAP) for place in range(len(self.shown))]

    def header(self, section: Section, *, first: bool) -> Image.Image:
        more = len(self.texts) - len(self.shown)
        note = section.note + (f" · {more:,} more texts with lower scores are not shown" if more else "")
        room = self.width - MARGIN - self.left
        words = [wrap(self.texts[text], self.column - GAP, NAME - 2, 2) for text in self.shown]
        deepest = max(len(lines) for lines, _ in words)
        title, leading = _line(TITLE), _line(NAME - 2)
        told = section.doubts or [""] * len(self.texts)
        doubted = {text: wrap(told[text], self.column - GAP, SMALL, 2)[0] for text in self.shown}
        doubts = max(map(len, doubted.values()), default=0)
        below = (deepest * leading if section.scores is not None else 0) + _line(SMALL) * (
            (section.scores is not None) + self.signed + doubts
        )
        height = title + _line(SMALL) + BREAK // 2 + below
        top = MARGIN
        bottom = top + max(height, self.view.height if first else 0)
        band = Image.new("RGB", (self.width, bottom + GAP), BACKGROUND)
        draw = ImageDraw.Draw(band)
        if first:
            band.paste(self.view, (MARGIN, bottom - self.view.height))
        else:
            draw.line([(MARGIN, top // 2), (self.width - MARGIN, top // 2)], RULE)
        _write(draw, (self.left, top), section.name, room, TITLE, INK)
        _write(draw, (self.left, top + title), note, room, SMALL, FAINT)
        if section.scores is None:
            return band
        for left, text, (lines, font) in zip(self.columns(), self.shown, words, strict=True):
            baseline = bottom - below + (deepest - len(lines)) * leading
            for line in lines:
                draw.text((left, baseline + leading / 2), line, INK, font, anchor="lm")
                baseline += leading
            if self.versus is not None:
                _write(draw, (left, baseline), f"not {self.versus}", self.column - GAP, SMALL, FAINT)
            score = section.scores[text]
            number = f"score {score:+.3f}" if self.signed else f"score {score:.3f}"
            _write(draw, (left, bottom - (1 + doubts) * _line(SMALL)), number, self.column - GAP, SMALL, MIDDLE)
            for place, line in enumerate(doubted[text], start=-doubts):
                _write(draw, (left, bottom + place * _line(SMALL)), line, self.column - GAP, SMALL, DOUBT)
        return band

    def row(self, row: Row, above: int, doubts: Sequence[str]) -> Image.Image:
        height = LEAST_ROW if row.maps is None else max(LEAST_ROW, self.view.height)
        band = Image.new("RGB", (self.width, above + height), BACKGROUND)
        draw = ImageDraw.Draw(band)
        top = above
        for words, points, ink in (
            (row.name, NAME, FAINT if row.maps is None else INK),
            (row.kind, SMALL, FAINT),
            (row.cost, SMALL, MIDDLE),
        ):
            _write(draw, (MARGIN, top), words, self.label, points, ink)
            top += _line(points)
        if row.maps is None:
            draw.rounded_rectangle([self.left, above, self.width - MARGIN - 1, above + height - 1], 4, QUIET)
            room = self.width - MARGIN - self.left - 4 * GAP
            lines, font = wrap(row.gap[:1].upper() + row.gap[1:] + ".", room, SMALL, 3)
            top = above + (height - len(lines) * _line(SMALL)) // 2
            for line in lines:
                draw.text((self.left + 2 * GAP, top + _line(SMALL) / 2), line, FAINT, font, anchor="lm")
                top += _line(SMALL)
            return band
        values = self.values(row.maps, row.signed)
        heat = heatmap.normalize(torch.from_numpy(np.ascontiguousarray(row.maps))).numpy() if row.levels else None
        for left, text in zip(self.columns(), self.shown, strict=True):
            alpha = ALPHA * DIM[doubts[text] if doubts else ""]
            edge = (None, OUTLINE_LEVEL) if heat is None else (heat[text], row.levels[text])
            band.paste(paint(self.view, values[text], self.signed, alpha, *edge), (left, above))
        return band

    def values(self, maps: Float[np.ndarray, "text row col"], signed: bool) -> Float[np.ndarray, "text row col"]:
        raw = torch.from_numpy(np.ascontiguousarray(maps))
        if signed and not self.signed:
            raw = raw.clamp_min(0)
        scaled = heatmap.signed if signed or self.signed else heatmap.normalize
        return (scaled(raw) if self.scale == "map" else scaled(raw.flatten(0, 1)).view_as(raw)).numpy()

    def legend(self) -> Image.Image:
        room = self.width - MARGIN - self.left
        words = [line for sentence in self.sentences() for line in wrap(sentence, room, SMALL, 4)[0]]
        top = MARGIN + MARGIN // 2
        band = Image.new("RGB", (self.width, top + max(2, len(words)) * _line(SMALL) + MARGIN), BACKGROUND)
        draw = ImageDraw.Draw(band)
        draw.line([(MARGIN, MARGIN // 2 + GAP), (self.width - MARGIN, MARGIN // 2 + GAP)], RULE)
        font = fonts(SMALL)[0]
        low, high = ("-1", "+1") if self.signed else ("0", "1")
        begin = MARGIN + round(font.getlength(low)) + GAP
        end = MARGIN + LEAST_LABEL - round(font.getlength(high)) - GAP
        colors = blend(self.signed, ALPHA)[:, BAR_GRAY]
        bar = Image.fromarray(colors[None]).resize((end - begin, 10), Image.Resampling.BILINEAR)
        middle = top + _line(SMALL) // 2
        band.paste(bar, (begin, middle - 5))
        draw.text((MARGIN, middle), low, FAINT, font, anchor="lm")
        draw.text((end + GAP, middle), high, FAINT, font, anchor="lm")
        for line in words:
            _write(draw, (self.left, top), line, room, SMALL, FAINT)
            top += _line(SMALL)
        return band

    def sentences(self) -> list[str]:
        whole = "each map" if self.scale == "map" else "each row over all its texts"
        if self.versus is not None:
            meaning = f"Amber is evidence for the text above, blue for “{self.versus}”; the peak of {whole} is ±1."
        else:
            meaning = f"0 is the minimum and 1 the maximum of {whole}."
            rows = [row for section in self.sections for row in section.rows if row.signed and row.maps is not None]
            if rows:
                names = ", ".join(dict.fromkeys(row.name for row in rows))
                meaning += f" In {names}, 0 is zero: evidence against a text stays gray."
        return [
            f"{meaning} The line encloses the mask of each map.",
            "A map shows where the object would be; the score shows whether it is present.",
            "Times: forward pass and method together, the best of several runs unless noted, and as a multiple of the "
            "forward pass alone.",
        ]


def _line(points: int) -> int:
    return round(LEADING * points)


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, room: int | float, points: int, ink: tuple[int, int, int]
) -> None:
    """Draw a line of text in a box `_line(points)` pixels high whose top left corner is `at`."""
    line, font = fit(text, room, points)
    draw.text((at[0], at[1] + _line(points) / 2), line, ink, font, anchor="lm")
