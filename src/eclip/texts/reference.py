"""Reference texts, which a model's scores and maps are compared with: nonsense, and a few hundred common nouns."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import unit
from eclip.backbones.cached import cached
from eclip.texts.encode import features_of
from eclip.texts.vocabulary import words_of

NONSENSE = ("xqzvk wjrp", "jxkq vbnt", "wqxzj", "zzzz")
"""Meaningless strings; the mean of their features is used, so that no single string biases the result."""
EVERY_NTH_WORD = 5
"""Every fifth of the package's 1,444 nouns is a word to compare with: 289 words."""


def reference_features(
    backbone: Backbone, sentence: str = "{}"
) -> tuple[Float[Tensor, "1 feature"], Float[Tensor, "word feature"]]:
    """Unit features of nonsense and of words in a template, computed once per model and kept on disk."""

    def make() -> Tensor:
        words = [*NONSENSE, *words_of(None)[::EVERY_NTH_WORD]]
        return features_of(backbone, words, (sentence,), keep=True)

    both = cached(backbone, f"health {sentence}", make)
    return unit(both[: len(NONSENSE)].mean(dim=0, keepdim=True)), both[len(NONSENSE) :]
