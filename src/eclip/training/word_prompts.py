"""Training texts like the prompts of maps: "a photo of a dog" for each word that the captions of an image mention.

Captions are sentences, but maps are usually requested for words. A text encoder may map the two far apart (in the
first `mini`, the mean of the captions and the mean of the prompts have a cosine of -0.3), and then a head trained on
sentences does not work for words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Bool
from torch import Tensor

from eclip.backbones.blocks import unit
from eclip.datasets.caption_sources import Pair
from eclip.errors import DataError
from eclip.texts.templates import fill
from eclip.texts.vocabulary import words_of
from eclip.training.data import Batch, Places, Texts

PROMPT = "a photo of a {}"
LEAST_IMAGES = 10
ODD = {
    **{"man": "men", "woman": "women", "person": "people", "child": "children", "foot": "feet", "tooth": "teeth"},
    **{"goose": "geese", "mouse": "mice", "knife": "knives", "leaf": "leaves", "wolf": "wolves", "calf": "calves"},
    **{"shelf": "shelves", "bookshelf": "bookshelves", "scarf": "scarves"},
}
"""Irregular plurals; others hardly ever occur in captions of images."""


def as_words(pairs: Sequence[Pair]) -> list[tuple[str, ...]]:
    """Prompts for the words that the captions of each pair mention; some pairs have none.

    A word counts if at least two captions of an image, or its only caption, contain it; words of fewer than ten images
    are left out. The vocabulary is that of `eclip concepts`. Parts of a term that counts, such as "dog" in "hot dog",
    are not used for its image, because they may or may not be present.

    Raises:
        DataError: no pair has such a word.
    """
    singular = {form: word for word in words_of(None) for form in forms(word)}
    found = [_mentioned(pair.captions, singular) for pair in pairs]
    images = Counter(word for words in found for word in words)
    prompts = []
    for words in found:
        kept = [word for word in words if images[word] >= LEAST_IMAGES]
        parts = {part for word in kept for part in _parts(word)}
        prompts.append(tuple(fill(PROMPT, word) for word in kept if word not in parts))
    if not any(prompts):
        raise DataError(
            f"no vocabulary word occurs in the captions of at least {LEAST_IMAGES} images: train on the captions "
            "themselves (--train-texts captions), or on more pairs."
        )
    return prompts


class FalseNegatives:
    """Words that must not count as negatives of an image: its own, their parts, and words with similar meaning.

    A caption with "a man" does not exclude "a person", and "a coffee cup" does not exclude "a cup". Words are similar
    if the cosine of their features, from `read`, exceeds `near`, after subtracting the mean of all words.
    """

    def __init__(self, texts: Texts, read: Callable[[list[str]], Tensor], near: float) -> None:
        self.texts = texts
        self.number = {word: number for number, word in enumerate(sorted({word for words in texts for word in words}))}
        features = read(list(self.number))
        apart = unit(features - features.mean(dim=0))
        self.near = (apart @ apart.T > near) | torch.eye(len(apart), dtype=torch.bool, device=apart.device)
        for text, number in self.number.items():
            for part in _parts(text.removeprefix(PROMPT.removesuffix("{}"))):
                if (other := self.number.get(fill(PROMPT, part))) is not None:
                    self.near[number, other] = True

    def add(self, batch: Batch, owners: Places, captions: Places) -> Batch:
        """Add word numbers and false negatives to a batch; `owners` and `captions` are those it was made with."""
        number = [self.number[self.texts[owner][which]] for owner, which in zip(owners, captions, strict=True)]
        near = [self._near(self.texts[owner]) for owner in owners]
        return replace(
            batch, number=torch.tensor(number, dtype=torch.long, device="cpu"), false_negatives=torch.stack(near)
        )

    def leave_any(self, texts: Texts) -> bool:
        """Whether a word of these texts is a negative of an image with one of them."""
        said = sorted({self.number[word] for words in texts for word in words})
        return any(not bool(self._near(words)[said].all()) for words in texts if words)

    def _near(self, words: Sequence[str]) -> Bool[Tensor, " word"]:
        return self.near[[self.number[word] for word in words]].any(dim=0)


def forms(word: str) -> set[str]:
    """A word and its plurals."""
    regular = {f"{word}s", f"{word}es", f"{word[:-1]}ies" if word.endswith("y") else word}
    return {word, ODD.get(word, word), *regular}


def _parts(word: str) -> list[str]:
    """The words of a term; none if it is a single word."""
    return word.split() if " " in word else []


def _mentioned(captions: Sequence[str], singular: dict[str, str]) -> list[str]:
    """Words that at least two captions, or the only one, contain, most frequent first."""
    counts: Counter[str] = Counter()
    for caption in captions:
        tokens = re.findall(r"[a-z]+", caption.lower())
        terms = [*tokens, *(" ".join(two) for two in pairwise(tokens))]
        counts.update(sorted({singular[term] for term in terms if term in singular}))
    return [word for word, count in counts.most_common() if count >= min(2, len(captions))]
