"""Any set of images that can be evaluated on, and its kind."""

from __future__ import annotations

from eclip.datasets.masked import MaskSet
from eclip.datasets.pair import PairSet
from eclip.datasets.phrases import PhraseSet

AnySet = MaskSet | PairSet | PhraseSet


def kind_of(data: AnySet) -> str:
    """What images come with: "masks", "phrases" with boxes, labels with "points", or "pairs" (captions, or a class)."""
    if isinstance(data, PhraseSet):
        return "points" if any(one.yes for item in data.items for one in item.phrases) else "phrases"
    return "masks" if isinstance(data, MaskSet) else "pairs"
