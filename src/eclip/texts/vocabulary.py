"""Vocabularies: the words that images are named with, and their features, which are kept on disk."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from eclip.errors import OptionError
from eclip.texts.encode import check_texts

LEAST = 2  # a word alone is its own mean, which leaves nothing of it


def words_of(vocabulary: str | Path | Iterable[str] | None) -> tuple[str, ...]:
    """The words of a vocabulary, each once, in order.

    Args:
        vocabulary: a file with one word (or phrase) a line, `#` before comments, UTF-8; or the words themselves; None
            for those of the package: some 1,400 nouns for what can be seen, whose file says where they come from.

    Raises:
        OptionError: it is neither, the file cannot be read, or there are fewer than two words.
        TextError: a word is empty or no text.
    """
    if vocabulary is None:
        lines, source = _lines(files("eclip.texts").joinpath("words.txt").read_text(encoding="utf-8")), "the package"
    elif isinstance(vocabulary, str | Path):
        source = f"the vocabulary file {str(vocabulary)!r}"
        try:
            lines = _lines(Path(vocabulary).read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise OptionError(f"{source} cannot be read: {reason}. It holds one word a line.") from error
    elif not isinstance(vocabulary, Iterable):
        raise OptionError(f"vocabulary must be a file of words or a list of them, got {vocabulary!r}.")
    else:
        lines, source = list(vocabulary), "the vocabulary"
    words = tuple(dict.fromkeys(check_texts(lines))) if lines else ()
    if len(words) < LEAST:
        raise OptionError(f"{source} must hold {LEAST} different words or more, got {len(words)}.")
    return words


def _lines(text: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]
