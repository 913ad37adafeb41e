"""Classes as users write them, checked and turned into texts for a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Protocol

from eclip.errors import OptionError, TextError

BACKGROUND = "background"
"""The name of label 0."""


class Example(Protocol):
    """An `eclip.Like`, whose import would load torch."""

    @property
    def name(self) -> str:
        """What results call it."""


Word = str | Example
Classes = Iterable[Word | Iterable[Word]] | Mapping[str, Word | Iterable[Word]]
"""One name per class, synonyms as a list or joined by commas; or a dict from names to their words. An example made by
`eclip.like` takes the place of a word."""


@dataclass(frozen=True)
class ClassWords:
    """Names and words of classes.

    Attributes:
        names: of each label: "background", then the classes.
        words: of each label; empty for a background without words.
    """

    names: tuple[str, ...]
    words: tuple[tuple[Word, ...], ...]

    @property
    def texts(self) -> list[Any]:
        """All words in order, as queries for a model."""
        return [word for words in self.words for word in words]

    @property
    def places(self) -> dict[int, range]:
        """The places of each label's words in `texts`; labels without words are left out."""
        found, at = {}, 0
        for label, words in enumerate(self.words):
            if words:
                found[label] = range(at, at + len(words))
            at += len(words)
        return found


def class_words(classes: Any, background: Any = (), *, thresholded: bool = False) -> ClassWords:
    """The classes and the background, checked.

    Args:
        classes: as `Classes`: "dog" is a class of that name; "person, man, woman" is the class "person", found by any
            of the three; {"person": ["man", "woman"]} is the class "person", found by either.
        background: words for the background, as a list or joined by commas; may be empty.
        thresholded: whether a threshold can make pixels background, see `eclip.segment`.
    """
    if isinstance(classes, str | bytes | Set) or not isinstance(classes, Iterable):
        raise OptionError(f"classes must be a list of names such as ['dog', 'cat'], or a dict, got {classes!r}.")
    listed: list[tuple[str, tuple[Word, ...]]]
    if isinstance(classes, Mapping):
        listed = [(" ".join(str(name).split()), _some(words, f"class {name!r}")) for name, words in classes.items()]
    else:
        listed = [(name_of(words[0]), words) for words in (_some(line, f"class {line!r}") for line in classes)]
    if not all(name for name, _ in listed):
        raise TextError("the name of a class is empty. Write a name, such as 'dog'.")
    if not listed:
        raise TextError("no class was given. Give at least one, such as ['dog', 'cat'].")
    none = background is None or (isinstance(background, str) and not background)
    behind = () if none else tuple(_words(background, BACKGROUND))
    names = (BACKGROUND, *(name for name, _ in listed))
    groups = (behind, *(words for _, words in listed))
    for what, each in (("class", names), ("word", [name_of(word) for group in groups for word in group])):
        seen = set()
        for one in each:
            if one.casefold() in seen and one.casefold() == BACKGROUND and what == "class":
                raise OptionError("'background' is reserved for label 0. Give its words as background instead.")
            if one.casefold() in seen:
                raise OptionError(f"the {what} {one!r} is given twice, but a pixel belongs to one class. Remove one.")
            seen.add(one.casefold())
    if len(listed) == 1 and not behind:
        more = " A threshold does not help: the confidence of a single class is always 1." if thresholded else ""
        raise OptionError(
            f"the only class {names[1]!r} would take every pixel. Add another class, or words for the background."
            + more
        )
    return ClassWords(names, groups)


def name_of(word: Word) -> str:
    """What results call a word or an example."""
    return word if isinstance(word, str) else word.name


def _is_example(given: Any) -> bool:
    if isinstance(given, str | list | tuple):  # without torch, which the import needs
        return False
    from eclip.texts.like import Like

    return isinstance(given, Like)


def _some(given: Any, owner: str) -> tuple[Word, ...]:
    words = tuple(_words(given, owner))
    if not words:
        raise TextError(f"{owner} has no words. Write what to look for, such as ['dog'].")
    return words


def _words(given: Any, owner: str) -> Iterator[Word]:
    if _is_example(given):
        yield given
        return
    if isinstance(given, bytes | Mapping) or not isinstance(given, Iterable):
        raise TextError(f"words of {owner} must be a string or a list of them, got {type(given).__name__}.")
    for part in given.split(",") if isinstance(given, str) else given:
        if _is_example(part):
            yield part
            continue
        if not isinstance(part, str):
            raise TextError(f"a word of {owner} must be a string, got {type(part).__name__}.")
        if not part.strip():
            raise TextError(f"a word of {owner} is empty. Write what to look for, such as 'dog'.")
        if "," in part:
            raise TextError(f"a word of {owner} contains a comma, which separates words: {part!r}.")
        yield " ".join(part.split())
