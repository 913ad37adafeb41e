"""Any tokenizer that a user passes, as the single function of a Backbone: texts -> token ids.

A transformers tokenizer is called as in the model's training; any other is a function whose output is read, checked
and padded or cut to the context length, so that no text's feature depends on the other texts in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from eclip.errors import ModelError, OptionError, TextError

PROBE = ("a", "a " * 16)
"""Two texts of different lengths: the first shows what a function pads with."""
LEAST_PROBE = 8
"""Shorter outputs for it do not show where padding is."""
Ids = Int64[Tensor, "text token"]


def of_transformers(tokenizer: Any) -> bool:
    """Whether it is a transformers tokenizer, determined without importing transformers."""
    return hasattr(tokenizer, "padding_side") and hasattr(tokenizer, "pad_token_id")


@dataclass(frozen=True)
class NoTokenizer:
    """Placeholder for a tokenizer that was not given and cannot be guessed: images can be encoded, texts cannot."""

    why: str

    def __call__(self, texts: list[str]) -> Ids:
        """Raise an OptionError that explains why."""
        raise OptionError(self.why)


@dataclass(frozen=True)
class Reader:
    """Token ids as a model reads them.

    Attributes:
        tokenizer: a function from texts to token ids, or a transformers tokenizer.
        context: number of tokens that the model was trained with.
        words: size of its vocabulary; None if unknown.
        padding: how the text side treats padding: "unseen" after the end token, "seen" by all tokens, or "masked".
        filler: the model's padding id, if known.
        most: the largest number of tokens that it can read; None = `context`.
    """

    tokenizer: Any
    context: int
    words: int | None
    padding: str
    filler: int | None
    most: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.tokenizer):
            raise OptionError(
                f"tokenizer must be a function from a list of texts to their token ids, got {self.tokenizer!r}: "
                "open_clip.get_tokenizer(...) and transformers' AutoTokenizer.from_pretrained(...) return one."
            )
        if not of_transformers(self.tokenizer):
            return
        if self.tokenizer.padding_side != "right":
            raise _left(f"the tokenizer pads on the {self.tokenizer.padding_side}")
        if self.tokenizer.pad_token_id is None:
            raise OptionError("the tokenizer has no padding token: set tokenizer.pad_token as in its training.")
        self._check_padding(self.tokenizer.pad_token_id)

    def __call__(self, texts: list[str]) -> Ids:
        """Token ids on the CPU, all rows of one length: the context, if the model was trained so.

        Raises:
            OptionError: the function's output cannot be read, or its padding id is unknown.
            ModelError: an id is not in the model's vocabulary, or the padding id is not the model's.
            TextError: a text has more tokens than the model can read.
        """
        with torch.device("cpu"):  # a default device set by the caller does not affect the tokenizer
            ids = self._tokenized(texts)
        least, most = int(ids.min()), int(ids.max())
        if least < 0:
            raise ModelError(f"the tokenizer returns the negative token id {least}; all ids must be 0 or more.")
        if self.words is not None and most >= self.words:
            raise ModelError(
                f"the tokenizer returns token id {most}, but the model's ids are below {self.words}: it belongs to "
                "another model. Pass the right one to wrap(model, tokenizer=...)."
            )
        return ids

    def _tokenized(self, texts: list[str]) -> Tensor:
        if of_transformers(self.tokenizer):
            options = {"padding": "max_length", "max_length": self.context, "truncation": True, "return_tensors": "pt"}
            return _read(self.tokenizer(self._lowered(texts), **options), texts)[0]
        self._check_padding(self._pads_with)
        ids, lengths = _read(self.tokenizer(list(texts)), texts)
        return self._fitted(ids, lengths, texts)

    def _check_padding(self, own: int | None) -> None:
        if self.padding == "masked" and own is not None and own != self.filler:
            raise ModelError(
                f"the tokenizer pads with id {own}, but the model's padding is {self.filler}: it belongs to another "
                "model, or pads differently. Pass the model's own tokenizer."
            )

    def _fitted(self, ids: Ids, lengths: list[int] | None, texts: Sequence[str]) -> Tensor:
        """Ids padded to the context, or cut to what the model can read if that removes only padding."""
        width, most = ids.shape[1], self.most or self.context
        if self.context <= width <= most and lengths is None:
            return ids
        filler = self._filler()
        for row, length in enumerate(lengths or ()):
            ids[row, length:] = filler
        if width < self.context:
            return F.pad(ids, (0, self.context - width), value=filler)
        over = (ids[:, most:] != filler).any(dim=1)
        if bool(over.any()):
            text = texts[int(over.int().argmax())]
            raise TextError(
                f"the text {text[:40]!r} has more tokens than the {most} that the model reads: shorten it, or let the "
                f"tokenizer truncate it as in training, for example truncation=True, max_length={self.context}."
            )
        return ids[:, :most].contiguous()

    def _filler(self) -> int:
        found = self.filler if self._pads_with is None else self._pads_with
        if found is None and self.padding == "unseen":
            found = 0  # it comes after the pooled token
        if found is None:
            raise OptionError(
                f"the model was trained with texts padded to {self.context} tokens, but this tokenizer's padding id is "
                f"unknown: let it pad to the full length, for example tokenizer(texts, padding='max_length', "
                f"max_length={self.context}, truncation=True, return_tensors='pt')."
            )
        return found

    @cached_property
    def _pads_with(self) -> int | None:
        """The id with which the function pads a short text next to a longer one; None if that cannot be determined."""
        try:
            ids, lengths = _read(self.tokenizer(list(PROBE)), PROBE)
        except Exception:  # such as of a function that knows only some texts; real texts are checked later
            return None
        short, long = ids.tolist()
        if lengths is not None or short == long or len(short) < LEAST_PROBE:
            return None
        if len(set(short[: len(short) // 2])) == 1 and short[-1] != short[-2] and short[0] != long[len(long) // 2]:
            raise _left(f"the tokenizer pads on the left ({', '.join(map(str, short[:4]))} ...)")
        return int(short[-1]) if short[-1] == short[-2] else None

    def _lowered(self, texts: list[str]) -> list[str]:
        """The texts in lower case if the tokenizer is configured so: GemmaTokenizer stores `do_lower_case` only."""
        if not (getattr(self.tokenizer, "init_kwargs", {}).get("do_lower_case") and self._minds_case):
            return texts
        from tokenizers.normalizers import Lowercase  # what transformers itself lowers with

        return [Lowercase().normalize_str(text) for text in texts]

    @cached_property
    def _minds_case(self) -> bool:
        upper, lower = self.tokenizer(["A DOG", "a dog"], add_special_tokens=False)["input_ids"]
        return list(upper) != list(lower)


def _left(what: str) -> OptionError:
    return OptionError(
        f"{what}, but the model was trained with padding on the right: set tokenizer.padding_side = 'right'."
    )


def _read(answer: Any, texts: Sequence[str]) -> tuple[Ids, list[int] | None]:
    """The rows of an output, and their lengths if these differ; shorter rows are filled with 0."""
    given = answer
    if isinstance(given, Mapping):
        given = given.get("input_ids")
        if given is None:
            raise _unreadable(
                f"a {type(answer).__name__} without 'input_ids', but with {sorted(map(str, answer))}", texts
            )
    elif hasattr(given, "input_ids"):
        given = given.input_ids
    if isinstance(given, list | tuple) or (isinstance(given, np.ndarray) and given.dtype == object):
        rows = [_whole(row.ids if hasattr(row, "ids") else row, texts) for row in given]
        if any(row.ndim != 1 for row in rows):
            shape = "token ids of one text alone" if all(row.ndim == 0 for row in rows) else "rows of rows"
            raise _unreadable(f"a list of {shape}", texts)
        lengths = [len(row) for row in rows]
        ids = pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0, dtype=torch.long, device="cpu")
        unlike = lengths if len(set(lengths)) > 1 else None
    else:
        ids, unlike = _whole(given, texts), None
    if ids.ndim != 2 or ids.shape[0] != len(texts) or ids.shape[1] == 0:
        raise _unreadable(f"ids of shape {tuple(ids.shape)}", texts)
    return ids, unlike


def _whole(given: Any, texts: Sequence[str]) -> Tensor:
    """Integers as a new int64 tensor on the CPU."""
    if not isinstance(given, Tensor):
        try:
            array = np.asarray(given)
        except ValueError:  # rows of rows of different lengths
            raise _unreadable("rows of rows", texts) from None
        if array.size == 0 and not isinstance(given, np.ndarray):
            array = array.astype(np.int64)  # an empty list has no type
        if array.dtype.kind not in "iu":
            kind = "None" if given is None else type(given).__name__
            raise _unreadable(f"{kind} of {array.dtype}" if array.dtype.kind in "fbc" else kind, texts)
        given = torch.from_numpy(array.astype(np.int64))
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise _unreadable(f"values of {given.dtype}", texts)
    return given.detach().to(device="cpu", dtype=torch.long, copy=True)


def _unreadable(what: str, texts: Sequence[str]) -> OptionError:
    count = len(texts)
    return OptionError(
        f"tokenizer must return integer token ids of shape ({count}, token) for {count} "
        f"{'texts' if count > 1 else 'text'}, got {what}: use a tensor, an array, lists or a dict with 'input_ids'."
    )
