"""Vocabularies: the words that can describe an image, from a file, a list or the package."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from eclip.errors import OptionError
from eclip.texts.encode import check_texts

LEAST = 2  # a single word is its own mean, and subtracting that leaves zero


def words_of(vocabulary: str | Path | Iterable[str] | None) -> tuple[str, ...]:
    """The words of a vocabulary, each once, in order.

    Args:
        vocabulary: a UTF-8 file with one word or phrase per line, and comments from a `#` that starts a line or follows
            a space; or the words themselves; or None for the words of the package, about 1,400 nouns for visible
            things, whose file states their source.

    Raises:
        OptionError: it is none of these, the file cannot be read, or there are fewer than two words.
        TextError: a word is empty or not a string.
    """
    if vocabulary is None:
        lines, source = _lines(files("eclip.texts").joinpath("words.txt").read_text(encoding="utf-8")), "the package"
    elif isinstance(vocabulary, str | Path):
        source = f"the vocabulary file {str(vocabulary)!r}"
        try:
            lines = _lines(Path(vocabulary).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:  # ValueError: also a path with a null character
            is_text = isinstance(error, UnicodeDecodeError)
            reason = "it is not UTF-8" if is_text else getattr(error, "strerror", None) or str(error)
            raise OptionError(f"{source} cannot be read: {reason}. It must hold one word per line.") from error
    elif not isinstance(vocabulary, Iterable):
        raise OptionError(f"vocabulary must be a file of words or a list of them, got {vocabulary!r}.")
    else:
        lines, source = list(vocabulary), "the vocabulary"
    words = tuple(dict.fromkeys(check_texts(lines))) if lines else ()
    if len(words) < LEAST:
        raise OptionError(f"{source} must hold at least {LEAST} different words, got {len(words)}.")
    return words


def _lines(text: str) -> list[str]:
    lines = (re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip() for line in text.splitlines())
    return [line for line in lines if line]
