"""Figures for print of explanations and comparisons: which panels, in which rows, with which words."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eclip.errors import OptionError
from eclip.explanation.exports import Put
from eclip.methods import method_names
from eclip.registry import whole
from eclip.render.figure import Cell, Line, check_names, columns_in, figure, most_in
from eclip.results.folder import FIGURES
from eclip.results.indexing import Which, image_of, number_of, several
from eclip.results.marks import MARK
from eclip.results.provenance import head_of, maker, refined_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eclip.explanation.comparison import Comparison
    from eclip.explanation.explanation import Explanation

LINE = "The line encloses the mask of each map."


def explanation_figure(
    answer: Explanation,
    images: Which | Sequence[Which] | None,
    texts: Which | Sequence[Which] | None,
    columns: int | None,
    **style: Any,
) -> Figure:
    """Each image with one panel per text, see `Explanation.figure`."""
    check_names(style)
    shown = _numbers(images, range(len(answer.sources)), lambda one: image_of(one, answer.sources, answer.texts))
    lines: list[Line] = []
    for image in shown:
        chosen = _numbers(texts, answer.best_texts(image), lambda one: number_of(one, answer.texts, "text"))
        cells = [Cell(answer.shared(image)), *(_cell(answer, image, text) for text in chosen)]
        fitting = columns_in(style.get("width", "double"))
        count = fitting if columns is None else whole(columns, "columns", "a whole number or None", 1)
        lines += [Line(cells[start : start + count]) for start in range(0, len(cells), count)]
    return figure(lines, note=f"{maker(answer.provenance)}. {LINE}", **style)


def _cell(answer: Explanation, image: int, text: int) -> Cell:
    heat, level = answer.edge(image, text)
    words = answer.label(text), f"score {answer.scores[image, text]:.3f}", answer.doubt(image, text)
    return Cell(answer.shared(image), answer.shown(image, text), answer.signed, heat, level, *words)


def comparison_figure(
    comparison: Comparison, texts: Which | Sequence[Which] | None, methods: Sequence[str] | None, **style: Any
) -> Figure:
    """One row per text, one column per method and model, see `Comparison.figure`."""
    check_names(style)
    chosen = _numbers(texts, range(len(comparison.texts)), lambda one: number_of(one, comparison.texts, "text"))
    there = comparison.explanations
    every = list(dict.fromkeys(method for _, method in there))
    names = every if methods is None else method_names(methods)
    if unknown := [name for name in names if name not in every]:
        raise OptionError(f"this comparison has no map of {', '.join(unknown)}: it has {', '.join(every) or 'none'}.")
    shown = {pair: answer for pair, answer in there.items() if pair[1] in names}
    if not shown:
        raise OptionError("no method of this comparison is applicable, so there is nothing to draw.")
    several, one = len({model for model, _ in shown}) > 1, next(iter(shown.values()))
    lines: list[Line] = []
    pairs = list(shown)
    blocks = -(-len(pairs) // max(1, most_in(style.get("width", "double")) - 1))  # below each other, if there are many
    size = -(-len(pairs) // blocks)
    for start in range(0, len(pairs), size):
        for row, text in enumerate(chosen):
            cells: list[Cell | None] = [None if lines else Cell(comparison.shared)]
            for model, method in pairs[start : start + size]:
                title = "" if row else f"{method}, {model}" if several else method
                cells.append(replace(_cell(shown[model, method], 0, text), title=title, caption=""))
            score = "" if several else f"score {one.scores[0, text]:.3f}"
            lines.append(Line(cells, one.label(text), score))
    models = ", ".join(dict.fromkeys(model for model, _ in shown))
    heads = {head_of(answer.provenance) for (_, method), answer in shown.items() if method == "eclip"}
    return figure(lines, note=f"{models}{''.join(sorted(heads))}{refined_by(one.provenance)}. {LINE}", **style)


def figure_files(formats: Sequence[str], stem: str, make: Callable[[], Figure], put: Put) -> dict[str, str]:
    """Write a figure in those of the formats that are a figure's, drawn only if there is one; the files by format."""
    endings = [one for one in formats if one in FIGURES]
    if not endings:
        return {}
    page = make()
    files = {}
    for ending in endings:
        buffer, dated = io.BytesIO(), "CreationDate" if ending == "pdf" else "Date"  # the same bytes each time
        page.savefig(buffer, format=ending, metadata={"Creator": MARK.decode(), dated: None})
        files[ending] = put(f"{stem}.figure.{ending}", buffer.getvalue())
    return files


def _numbers(asked: Any, every: Sequence[int], number: Any) -> list[int]:
    """The numbers of what was asked for: one, several, or None for all."""
    if asked is None:
        return list(every)
    some = several(asked)
    if not some:
        raise OptionError("a figure needs an image and a text: name them, or leave the argument out for all.")
    return [number(one) for one in some]
