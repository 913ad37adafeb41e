"""Any set of images that can be evaluated on, and its kind."""

from __future__ import annotations

from eclip.datasets.masked import MaskSet
from eclip.datasets.pair import PairSet
from eclip.datasets.phrases import PhraseSet

AnySet = MaskSet | PairSet | PhraseSet


def kind_of(data: AnySet) -> str:
    """What the images of a set come with: "masks", "phrases" or "pairs" (captions, or the name of a class)."""
    return "masks" if isinstance(data, MaskSet) else "phrases" if isinstance(data, PhraseSet) else "pairs"
