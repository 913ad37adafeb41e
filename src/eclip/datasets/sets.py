"""Any set of images that can be evaluated on, and its kind."""

from __future__ import annotations

from eclip.datasets.masked import MaskSet
from eclip.datasets.pair import PairSet
from eclip.datasets.phrases import PhraseSet

GAZE = ("gaze",)
"""The type of what has fixations in place of points."""
AnySet = MaskSet | PairSet | PhraseSet


def kind_of(data: AnySet) -> str:
    """What images have: "masks", "phrases" with boxes, labels with "points", "gaze", or "pairs" (captions, a class)."""
    if isinstance(data, PhraseSet):
        if data.items and data.items[0].phrases[0].types == GAZE:
            return "gaze"
        return "points" if any(one.yes for item in data.items for one in item.phrases) else "phrases"
    return "masks" if isinstance(data, MaskSet) else "pairs"
