"""Reading, texts tokenized once for a text tower and split into words, for any number of methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import regex
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eclip.backbones.agreement import check_text
from eclip.backbones.backbone import Backbone, eval_no_grad
from eclip.backbones.blocks import Tokens
from eclip.backbones.text_tower import TextTower, run_text_block
from eclip.errors import NotApplicableError

_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}"  # scripts of which each character is a word
_LETTER = rf"[[\p{{L}}\p{{N}}\p{{M}}_]--[{_SPACELESS}]]"
WORD = regex.compile(
    rf"(?V1)[{_SPACELESS}]|{_LETTER}+(?:(?:['\u2019-]|(?<=\p{{N}})[.,](?=\p{{N}})){_LETTER}+)*|[^\s\p{{L}}\p{{N}}\p{{M}}_]+"
)
_PREFIXES_AT_ONCE = 64


class Word(NamedTuple):
    """A word of a text: its characters, their range in the text, and the range of its tokens.

    `first` equals `last` for a word that the model does not read: the text is too long, or the tokenizer drops it.
    """

    letters: str
    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Reading:
    """Texts as token ids, and the tokens of each word. Special tokens belong to no word.

    Attributes:
        backbone: the model.
        texts: as given.
        ids: (text, token), including start, end and padding.
        words: of each text, in order.
    """

    backbone: Backbone
    texts: tuple[str, ...]
    ids: Int[Tensor, "text token"]
    words: tuple[tuple[Word, ...], ...]

    def tower(self, method: str) -> TextTower:
        """The text tower, block by block, checked to be one that eclip can rerun, with the model's own features."""
        if self.backbone.text_tower is None:
            raise NotApplicableError(
                method,
                self.backbone.name,
                "model with a text tower that eclip cannot rerun",
                "it needs the attention of each block"
                + ("" if method == "pairs" else "; 'leave_one_out' works with any"),
            )
        check_text(self.backbone, self.ids)
        return self.backbone.text_tower

    def place(self, method: str) -> Int[Tensor, " text"]:
        """The position of the pooled token in each text; NotApplicableError if the model averages tokens instead."""
        weights = self.tower(method).weights(self.ids)
        if int((weights != 0).sum(dim=1).max()) > 1:
            raise NotApplicableError(
                method, self.backbone.name, "model that averages the tokens of a text", "it needs a single pooled token"
            )
        return weights.argmax(dim=1)

    def entering(self, depth: int, method: str) -> Tokens:
        """The input of the last `depth` blocks of the tower, of all if it has fewer; without gradients."""
        tower = self.tower(method)
        with torch.no_grad():
            x, mask = tower.embed(self.ids), tower.mask(self.ids)
            for block in tower.blocks[: max(0, len(tower.blocks) - depth)]:
                x = run_text_block(block, x, mask)
        return x

    def split(self, count: int) -> Iterator[Reading]:
        """Readings of at most `count` texts each."""
        for start in range(0, len(self.texts), count):
            some = slice(start, start + count)
            yield Reading(self.backbone, self.texts[some], self.ids[some], self.words[some])

    def by_word(self, values: Float[Tensor, "*batch text token"]) -> list[Float[Tensor, "*batch word"]]:
        """Values of tokens summed over each word, one tensor per text. A word that the model does not read has 0."""
        return [
            torch.stack([values[..., text, word.first : word.last].sum(dim=-1) for word in words], dim=-1)
            for text, words in enumerate(self.words)
        ]


def read(backbone: Backbone, texts: Sequence[str]) -> Reading:
    """Tokenize texts and find their words.

    Words are runs of letters and digits, including inner hyphens and apostrophes, and runs of other characters; in
    Chinese and Japanese, each character is a word. Words stay together if their tokens differ from those that each has
    alone: to the byte-pair tokenizer of CLIP, a Chinese or Japanese sentence without spaces is one word; tokenizers
    with characters or sentencepiece split it.
    """
    with eval_no_grad(backbone.model):
        ids = backbone.tokenize(list(texts)).to(backbone.weight.device)
    empty = backbone.tokenize([""])[0].tolist()
    return Reading(backbone, tuple(texts), ids, tuple(_words(backbone, text, empty) for text in texts))


def content(row: list[int], empty: list[int]) -> range:
    """Positions of a text's own tokens, between those that the empty text has too: start, end, padding."""
    first = next((place for place, (a, b) in enumerate(zip(row, empty, strict=True)) if a != b), len(row))
    rest = row[first:]
    count = next(n for n in range(len(rest) + 1) if rest[n:] == empty[first : len(row) - n])
    return range(first, first + count)


def _words(backbone: Backbone, text: str, empty: list[int]) -> tuple[Word, ...]:
    """Split where the tokens of all words so far are the first tokens of the text; elsewhere words stay together."""
    found = list(WORD.finditer(text))
    row: list[int] = backbone.tokenize([text])[0].tolist()
    whole = content(row, empty)
    words: list[Word] = []
    start, first = None, whole.start
    for word, last in zip(found, _ends(backbone, text, found, row, whole, empty), strict=True):
        start = word.start() if start is None else start
        if last is not None:
            words.append(Word(text[start : word.end()], start, word.end(), first, last))
            start, first = None, last
    return tuple(words)


def _ends(
    backbone: Backbone, text: str, found: list[regex.Match[str]], row: list[int], whole: range, empty: list[int]
) -> Iterator[int | None]:
    """The token position after each word; None if a token extends into the next word."""
    last: int | None = whole.start
    for begin in range(0, len(found), _PREFIXES_AT_ONCE):
        some = found[begin : begin + _PREFIXES_AT_ONCE]
        if last == whole.stop:  # the model does not read the remaining words
            yield from [last] * len(some)
            continue
        for word, prefix in zip(some, backbone.tokenize([text[: word.end()] for word in some]).tolist(), strict=True):
            place = content(prefix, empty)
            fits = prefix[place.start : place.stop] == row[whole.start : whole.start + len(place)]
            last = whole.start + len(place) if fits else None
            yield whole.stop if word is found[-1] else last
