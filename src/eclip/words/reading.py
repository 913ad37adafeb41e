"""Reading, texts read once by a text tower; methods for words ask it as often as they like."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eclip.backbones.base import Backbone, plainly
from eclip.backbones.text_tower import TextTower, run_text_block
from eclip.blocks import Tokens
from eclip.errors import NoMeaningError

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # written without spaces
_LETTER = rf"(?![{_CJK}])\w"
_WORD = re.compile(rf"[{_CJK}]|(?:{_LETTER})+(?:['\u2019-](?:{_LETTER})+)*|[^\w\s]+")


class Word(NamedTuple):
    """A word of a text: its letters, where they stand, and which tokens the model reads in their place.

    `first` equals `last` for a word that the model does not read, since the text is too long for it.
    """

    letters: str
    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Reading:
    """Texts as token ids, and which tokens are which words. Special tokens belong to none.

    Attributes:
        backbone: who reads.
        texts: as given.
        ids: (text, token), start, end and padding included.
        words: of each text, in order.
    """

    backbone: Backbone
    texts: tuple[str, ...]
    ids: Int[Tensor, "text token"]
    words: tuple[tuple[Word, ...], ...]

    def tower(self, method: str) -> TextTower:
        """The text tower, block by block.

        Raises:
            NoMeaningError: nobody has read its kind.
        """
        if self.backbone.text_tower is None:
            raise NoMeaningError(
                method,
                self.backbone.name,
                "model with a text tower that eclip cannot look into",
                "it needs the attention of each block; 'leaveout' works with every text tower",
            )
        return self.backbone.text_tower

    def place(self, method: str) -> Int[Tensor, " text"]:
        """Which token becomes the feature.

        Raises:
            NoMeaningError: their mean does.
        """
        weights = self.tower(method).weights(self.ids)
        if int((weights != 0).sum(dim=1).max()) > 1:
            raise NoMeaningError(
                method,
                self.backbone.name,
                "model that averages the tokens of a text",
                "it needs the one that is pooled",
            )
        return weights.argmax(dim=1)

    def entering(self, depth: int, method: str) -> Tokens:
        """What enters the last `depth` blocks of the tower, all if it has fewer; no gradients."""
        tower = self.tower(method)
        with torch.no_grad():
            x, mask = tower.embed(self.ids), tower.mask(self.ids)
            for block in tower.blocks[: max(0, len(tower.blocks) - depth)]:
                x = run_text_block(block, x, mask)
        return x

    def by_word(self, values: Float[Tensor, "*batch text token"]) -> list[Float[Tensor, "*batch word"]]:
        """Values of tokens summed over each word; one tensor a text. A word that is not read has 0."""
        return [
            torch.stack([values[..., text, word.first : word.last].sum(dim=-1) for word in words], dim=-1)
            for text, words in enumerate(self.words)
        ]


def read(backbone: Backbone, texts: Sequence[str]) -> Reading:
    """Tokenize texts and find their words.

    Words are runs of letters and digits, with hyphens and apostrophes inside, and runs of other signs; of Chinese
    and Japanese, each character. Where a tokenizer joins several into one token, they stay together.
    """
    with plainly(backbone.model):
        ids = backbone.tokenize(list(texts)).to(backbone.weight.device)
    empty = backbone.tokenize([""])[0].tolist()
    return Reading(backbone, tuple(texts), ids, tuple(_words(backbone, text, empty) for text in texts))


def content(row: list[int], empty: list[int]) -> range:
    """Where the tokens of a text lie, between those that the empty text has too: start, end, padding."""
    first = next((place for place, (a, b) in enumerate(zip(row, empty, strict=True)) if a != b), len(row))
    rest = row[first:]
    count = next(n for n in range(len(rest) + 1) if rest[n:] == empty[first : len(row) - n])
    return range(first, first + count)


def _words(backbone: Backbone, text: str, empty: list[int]) -> tuple[Word, ...]:
    found = list(_WORD.finditer(text))
    rows: list[list[int]] = backbone.tokenize([text, *(text[: word.end()] for word in found)]).tolist()
    whole = content(rows[0], empty)
    tokens = rows[0][whole.start : whole.stop]
    words: list[Word] = []
    start, first = found[0].start(), whole.start
    for word, row in zip(found, rows[1:], strict=True):
        place = content(row, empty)
        last = place.stop if row[place.start : place.stop] == tokens[: len(place)] else None
        if word is found[-1]:
            last = whole.stop
        if last is None:
            continue  # its tokens reach into the next word
        words.append(Word(text[start : word.end()], start, word.end(), first, last))
        following = found.index(word) + 1
        start, first = (found[following].start() if following < len(found) else len(text)), last
    return tuple(words)
