"""A row of a result: one method, or control, on one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eclip.evaluation.spread import Number


@dataclass(frozen=True)
class Row:
    """What was measured of one map.

    Attributes:
        method: its name, or that of a control.
        control: it knows neither text nor model.
        pairs: how many maps were scored.
        photos: of so many photos.
        numbers: by name of the metric.
        facts: what else there is to say: thresholds, curves, classes.
        each: the pairs one by one: "photo" (place in the data set), "class", and numbers.
    """

    method: str
    control: bool
    pairs: int
    photos: int
    numbers: dict[str, Number]
    facts: dict[str, Any] = field(default_factory=dict)
    each: list[dict[str, Any]] = field(default_factory=list, repr=False)
