"""Vocabularies: the words that photos are named with, and their features, which are kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from eclip.errors import OptionError
from eclip.text import check_texts

LEAST = 2  # a word alone is its own mean, which leaves nothing of it


def words_of(vocabulary: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    """The words of a vocabulary, each once, in order.

    Args:
        vocabulary: a file with one word (or phrase) a line, `#` before comments, UTF-8; or the words themselves; None for
            those of the package: some 1,400 nouns for what can be seen, whose file says where they come from.

    Raises:
        OptionError: the file cannot be read, or there are fewer than two words.
        TextError: a word is empty or no text.
    """
    if vocabulary is None:
        text, source = files("eclip").joinpath("assets/words.txt").read_text(encoding="utf-8"), "the package's file"
    elif isinstance(vocabulary, str | Path):
        source = f"the vocabulary file {str(vocabulary)!r}"
        try:
            text = Path(vocabulary).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise OptionError(f"{source} cannot be read: {reason}. It holds one word a line.") from error
    else:
        text, source = None, "the vocabulary"
    lines = list(vocabulary) if text is None else [line.partition("#")[0].strip() for line in text.splitlines()]
    words = tuple(dict.fromkeys(check_texts([line for line in lines if text is None or line] or ["none"])))
    if len(words) < LEAST:
        raise OptionError(f"{source} needs {LEAST} words or more, got {0 if not any(lines) else len(words)}.")
    return words
