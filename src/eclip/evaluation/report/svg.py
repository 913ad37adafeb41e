"""Charts as SVG: lines over a share, and points over a cost. Colors come from the page's style, names from the series.

Each series has `data-m`, its number, by which the page's script highlights the same method everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eclip.render.html import render

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 12, 38
COLORED = 6
"""Number of the best methods that have their own color."""
Box = tuple[int | float, int | float, int | float, int | float]
"""Left, top, right, bottom."""
_LETTER = 6.6  # approximate width of a character in a label
_SIDES = ((1, "start"), (-1, "end"))


@dataclass(frozen=True)
class Series:
    """The data of one method in a chart.

    Attributes:
        number: its number on the page.
        rank: 1 for the best method; 0 for a baseline.
        label: its name.
        points: (x, y) of a line, or a single one.
        low: end of the interval of a point.
        high: the other end.
    """

    number: int
    rank: int
    label: str
    points: Sequence[tuple[float, float]]
    low: float | None = None
    high: float | None = None

    @property
    def style(self) -> str:
        """Its CSS class."""
        return "control" if not self.rank else f"c{self.rank}" if self.rank <= COLORED else "other"


def lines(title: str, series: Sequence[Series], across: str, up: str, *, percent: bool = True) -> Markup:
    """One line per method over shares from 0 to 1; the peaks of the best show their rank, baselines are dashed.

    Args:
        title: read by screen readers.
        series: the best are drawn last, on top.
        across: title of the x axis.
        up: title of the y axis.
        percent: show y in percent.
    """
    values = [y for one in series for _, y in one.points]
    low, high = min(0.0, *values), max(values)
    most = max(x for one in series for x, _ in one.points) or 1.0
    axis = _Axis(low, high if high > low else low + 1)
    ticks = [(_x(x / most), f"{x:.2g}") for x in _Axis(0.0, most).ticks()]
    curves = []
    for one in sorted(series, key=lambda one: -one.rank if one.rank else -1000):
        at, peak = max(one.points, key=lambda point: point[1])
        told = f"{one.label}: highest {_number(peak, percent)} at {at:.2g}"
        path = " ".join(f"{_x(x / most):.1f},{axis.y(y):.1f}" for x, y in one.points)
        marked = 0 < one.rank <= COLORED
        curves.append(
            {"series": one, "told": told, "path": path, "marked": marked, "x": _x(at / most), "y": axis.y(peak)}
        )
    return _chart(title, axis, ticks, across, up, percent, curves=curves)


def scatter(title: str, series: Sequence[Series], floor: tuple[str, float] | None, up: str, *, percent: bool) -> Markup:
    """One point per method over its cost in forward passes, on a logarithmic axis, with its name and interval.

    Args:
        title: as in `lines`.
        series: one point each, with a cost of at least 1.
        floor: name and value of the best baseline, drawn as a dashed line.
        up: title of the y axis.
        percent: show y in percent.
    """
    ends = [end for one in series for end in (one.points[0][1], one.low, one.high) if end is not None]
    ends += [floor[1]] if floor else []
    pad = 0.06 * (max(ends) - min(ends)) or 0.05
    axis = _Axis(min(ends) - pad, max(ends) + pad)
    first, last = min(one.points[0][0] for one in series), max(one.points[0][0] for one in series)
    start, stop = math.log(first) - 0.08 * math.log(last / first), math.log(last) + 0.3 * math.log(last / first)
    if stop - start < 0.02:
        start, stop = start - 0.05, stop + 0.1

    def across(cost: float) -> float:
        return (math.log(cost) - start) / (stop - start)

    ticks = [(_x(across(cost)), f"{cost:g}") for cost in _costs(math.exp(start), math.exp(stop))]
    at = {one.number: (_x(across(one.points[0][0])), axis.y(one.points[0][1])) for one in series}
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in at.values()]
    if floor:
        taken.append((WIDTH - RIGHT - _LETTER * len(floor[0]), axis.y(floor[1]), WIDTH - RIGHT, axis.y(floor[1]) + 15))
    points = []
    for one in sorted(series, key=lambda one: one.rank):
        x, y = at[one.number]
        cost, value = one.points[0]
        told = f"{one.label}: {_number(value, percent)} at {cost:.3g} forward passes"
        whisker = None if one.low is None or one.high is None else (axis.y(one.low), axis.y(one.high))
        label = _free(x, y, _LETTER * len(one.label), taken)
        points.append({"series": one, "told": told, "x": x, "y": y, "whisker": whisker, "label": label})
    line = None if floor is None else {"name": floor[0], "y": axis.y(floor[1])}
    across_name = "cost in forward passes, including the forward pass"
    return _chart(title, axis, ticks, across_name, up, percent, floor=line, points=points)


class _Axis:
    """The y axis: maps values to pixels."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)

    def ticks(self) -> list[float]:
        rough = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [step * place for place in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _chart(
    title: str, axis: _Axis, ticks: Sequence[tuple[float, str]], across: str, up: str, percent: bool, **drawn: Any
) -> Markup:
    """The template with axes and content: `floor`, `curves` and `points`."""
    box = {"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
    rows = [(axis.y(value), _number(value, percent, tick=True)) for value in axis.ticks()]
    axes = {"across": {"name": across, "ticks": ticks}, "up": {"name": up, "ticks": rows}}
    drawn = {"floor": None, "curves": [], "points": [], **drawn}
    return render(__name__, "chart.svg", title=title, width=WIDTH, height=HEIGHT, **box, **axes, **drawn)


def _costs(low: float, high: float) -> list[float]:
    """Round costs between two: 1, 2, 5, 10 and so on, or finer if the two are close."""
    if high / low > 3:
        found = [digit * 10.0**power for power in range(6) for digit in (1, 2, 5)]
    else:
        found = _Axis(low, high).ticks()
    return [cost for cost in found if low <= cost <= high]


def _free(x: float, y: float, width: float, taken: list[Box]) -> tuple[float, float, str]:
    """Where a label of this width next to a point overlaps nothing: x, y and text anchor; otherwise on its right."""
    places = [(x + 8, y + 4, "start"), (x - 8, y + 4, "end")]
    places += [(x + side * 6, y + 4 + down, anchor) for down in (-11, 11, -20, 20) for side, anchor in _SIDES]
    for left, base, anchor in places:
        start = left - (width if anchor == "end" else 0)
        box = (start, base - 10, start + width, base + 2)
        inside = box[0] >= LEFT and box[2] <= WIDTH - 2 and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return left, base, anchor
    return places[0]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _x(share: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * share


def _number(value: float, percent: bool, tick: bool = False) -> str:
    text = (f"{100 * value:.3g}" if tick else f"{100 * value:.1f}") if percent else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")
