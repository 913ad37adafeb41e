"""Texts as unit features, with prompt templates; ensembles and long lists are cached on disk.

Ensembles follow Radford et al. 2021 (https://arxiv.org/abs/2103.00020): each prompt's feature is normalized to unit
length, the features are averaged, and the mean is normalized again.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import unit
from eclip.backbones.cached import Kept, announce, rounded, side_hash
from eclip.backbones.host import is_all_plain, text_side
from eclip.backbones.state import PROBE
from eclip.errors import EqualTextsWarning, TextCutWarning, TextError
from eclip.registry import check_kind
from eclip.texts.templates import fill, resolve

_PROMPTS_AT_ONCE = 256
_FEW_PROMPTS = 4
"""Encoded to estimate how long many take."""
LEAST_KEPT = 256
"""A list of this many texts takes longer to encode than to find again on disk, where the weights have to be hashed."""
MOST_NAMED = 3
"""A warning names at most this many groups of equal texts."""


def encode_texts(
    backbone: Backbone, texts: Iterable[str], templates: str | Iterable[str] = "none", *, keep: bool = False
) -> Float[Tensor, "text feature"]:
    """Unit text features.

    Args:
        backbone: from `load` or `wrap`.
        texts: one or more. An empty text is allowed here, as the reference that CLIP Surgery subtracts.
        templates: "none" (the text as it is), "single" ("a photo of a {}."), "imagenet80", "surgery85", or sentences
            with one `{}` each. Several are averaged; such ensembles are cached on disk by weights, template and text.
        keep: cache the features of the whole list in one file, for a vocabulary that is used repeatedly.

    Returns:
        Rows of length one, on the backbone's device, float32 at least.

    Raises:
        TextError: no text.
        UnknownNameError: no template set of that name.
        OptionError: a template without its `{}`, or a model in place of the backbone that `eclip.wrap` makes of it.

    Warns:
        TextCutWarning: a text longer than the model reads, with the words that had no effect.
    """
    check_kind(backbone, Backbone, "backbone", "eclip.load and eclip.wrap return it")
    if isinstance(texts, str):
        raise TextError(f"texts must be a list of texts, got the single text {texts!r}: write [{texts!r}].")
    sentences = resolve(templates)
    texts = _listed(texts)
    for number, text in enumerate(texts, 1):
        _check_letters(text, f"text {number} of {len(texts)}")
    _warn_of_cuts(backbone, texts, sentences)
    return features_of(backbone, texts, sentences, keep=keep)


def features_of(
    backbone: Backbone, texts: list[str], sentences: tuple[str, ...], *, keep: bool = False
) -> Float[Tensor, "text feature"]:
    """As `encode_texts`, for one or more texts in resolved templates, without warnings about truncated texts."""
    if keep:
        return _Cache(backbone, sentences).get_list(texts)
    if len(sentences) == 1:
        return _prompts(backbone, [fill(sentences[0], text) for text in texts])
    cache = _Cache(backbone, sentences)
    return torch.stack([cache.get(text) for text in texts])


def are_worth_keeping(texts: Sequence[str], templates: str | Iterable[str]) -> bool:
    """Whether to pass `keep` for texts of a user: a long list in one template. Each text in several is kept anyway."""
    return len(texts) >= LEAST_KEPT and len(resolve(templates)) == 1


def check_texts(texts: str | Iterable[str]) -> list[str]:
    """One or more texts, none of them empty.

    Raises:
        TextError: there is none, or one is empty.
    """
    listed = [texts] if isinstance(texts, str) else _listed(texts)
    for number, text in enumerate(listed, 1):
        _check_letters(text, f"text {number} of {len(listed)}")
        if not text.strip():
            raise TextError(f"text {number} of {len(listed)} is empty: describe what to look for, such as 'a dog'.")
    return listed


def _listed(texts: Iterable[str]) -> list[str]:
    """The texts of a list, or of a generator, which can be read only once."""
    if isinstance(texts, bytes | Mapping) or not are_listed(texts):
        given = "None" if texts is None else type(texts).__name__
        raise TextError(f"texts must be a text or a list of texts, such as ['a dog', 'a cat'], got {given}.")
    listed = list(texts)
    if not listed:
        raise TextError("no text was given; pass at least one, such as 'a dog'.")
    return listed


def are_listed(texts: object) -> bool:
    """Whether it can be listed; an array without axes says that it can."""
    return isinstance(texts, Iterable) and getattr(texts, "ndim", 1) != 0


def _check_letters(text: object, which: str) -> None:
    if not isinstance(text, str):
        hint = (
            "; eclip.explain takes features too, as one torch tensor (text, feature)" if hasattr(text, "shape") else ""
        )
        raise TextError(f"{which} must be a string, got {type(text).__name__}{hint}.")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise TextError(f"{which} is not valid Unicode: {text!r}.")


def encode_apart(
    backbone: Backbone, texts: Iterable[str], templates: str | Iterable[str] = "none", *, keep: bool = False
) -> Float[Tensor, "text feature"]:
    """As `encode_texts`, for texts that are compared with each other: it warns of those the model cannot tell apart.

    These share one feature, bit for bit, so that no map is the rounding error between two of them.

    Warns:
        EqualTextsWarning: two or more texts have the same token ids in each template, for example because they differ
            only in case, spaces or punctuation, or after the last token that is read.
    """
    texts = _listed(texts)
    features = encode_texts(backbone, texts, templates, keep=keep)
    firsts = _firsts(backbone, texts, resolve(templates))
    _warn_of_equals(backbone, texts, firsts)
    return features[firsts]


def _firsts(backbone: Backbone, texts: Sequence[str], sentences: tuple[str, ...]) -> list[int]:
    """For each text, the index of the first one with the same token ids in each sentence."""
    groups = _groups(backbone, list(range(len(texts))), texts, sentences[0])
    for sentence in sentences[1:]:
        pairs = [group for group in groups if len(group) > 1]
        groups = [group for group in groups if len(group) == 1]
        groups += [part for group in pairs for part in _groups(backbone, group, texts, sentence)]
    firsts = {place: group[0] for group in groups for place in group}
    return [firsts[place] for place in range(len(texts))]


def _groups(backbone: Backbone, places: list[int], texts: Sequence[str], sentence: str) -> list[list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    for start in range(0, len(places), _PROMPTS_AT_ONCE):
        some = places[start : start + _PROMPTS_AT_ONCE]
        ids = backbone.tokenize([fill(sentence, texts[place]) for place in some]).tolist()
        for place, row in zip(some, ids, strict=True):
            found.setdefault(tuple(row), []).append(place)
    return list(found.values())


def _warn_of_equals(backbone: Backbone, texts: Sequence[str], firsts: list[int]) -> None:
    groups: dict[int, list[str]] = {}
    for text, first in zip(texts, firsts, strict=True):
        groups.setdefault(first, []).append(text)
    if named := [_listing(group) for group in groups.values() if len(group) > 1]:
        more = f" (and {len(named) - MOST_NAMED} more groups)" if len(named) > MOST_NAMED else ""
        warnings.warn(
            f"{backbone.name} cannot tell these texts apart: {'; '.join(named[:MOST_NAMED])}{more}. They have the "
            "same text feature, so results cannot distinguish them, and their difference is zero. Keep one per group.",
            EqualTextsWarning,
            stacklevel=4,
        )


def _listing(texts: list[str]) -> str:
    """'a', 'b' (2 times) and 'c'."""
    counts = Counter(texts)
    names = [f"{_short(text, 60)!r}{f' ({times} times)' if times > 1 else ''}" for text, times in counts.items()]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _prompts(backbone: Backbone, prompts: list[str]) -> Float[Tensor, "text feature"]:
    parts = [
        backbone.encode_text(prompts[start : start + _PROMPTS_AT_ONCE])
        for start in range(0, len(prompts), _PROMPTS_AT_ONCE)
    ]
    return unit(torch.cat(parts))


def _warn_of_cuts(backbone: Backbone, texts: list[str], sentences: tuple[str, ...]) -> None:
    longest = max(sentences, key=len)
    for text in texts:
        words = fill(longest, text).split()
        read = words_read(backbone, words)
        if read < len(words):
            lost = " ".join(words[read:])
            warnings.warn(
                f"{backbone.name} reads {read} of the {len(words)} words of {_short(' '.join(words), 40)!r} in full; "
                f"truncated, possibly mid-word: {_short(lost, 80)!r}",
                TextCutWarning,
                stacklevel=3,
            )


def read_in_full(backbone: Backbone, texts: list[str]) -> list[str]:
    """Texts without the words at the end that the model does not read in full, of which it warns as `encode_texts`."""
    _warn_of_cuts(backbone, texts, ("{}",))
    split = [(text, text.split()) for text in texts]
    reads = [words_read(backbone, words) for _, words in split]
    return [
        text if read in (0, len(words)) else " ".join(words[:read])
        for (text, words), read in zip(split, reads, strict=True)
    ]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def words_read(backbone: Backbone, words: list[str]) -> int:
    """How many of the first words of a text the model reads in full; the tokenizer truncates the others.

    Tokens do not span spaces, so the counts of the words add up; a space that is a token or part of one counts toward
    the word after it. A word that fills the whole context counts as truncated, since its length cannot be known.
    """
    context = backbone.tokenize([""]).shape[1]
    if len(" ".join(words).encode()) + 3 <= context:  # a byte is at most one token; two are the ends, one a first space
        return len(words)
    try:
        ids = backbone.tokenize(["", "a", "a " * context, words[0], *(f"a {word}" for word in words[1:])])
    except TextError:  # a tokenizer that does not truncate: its ids are read in full, or refused
        return len(words)
    padding = ids[0, -1]  # if the model pads with its end token, the end is not counted, which is harmless
    places = torch.arange(1, ids.shape[1] + 1, dtype=torch.long, device=ids.device)
    used = ((ids != padding) * places).amax(dim=1)  # the last place without padding
    marks, one, full, each = used[0], used[1], used[2], used[3:]
    before = torch.where(torch.arange(len(each), dtype=torch.long, device=ids.device) == 0, marks, one)
    tokens = each - before + (each == full) * full  # a truncated word has more tokens than fit
    return int((tokens.cumsum(dim=0) <= full - marks).sum())


class _Cache:
    """Unit features on disk, one file per ensemble or list, see `Kept`.

    Nothing is kept for a model whose text side has adapters, hooks or other parts that its weights do not identify.
    """

    def __init__(self, backbone: Backbone, sentences: tuple[str, ...]) -> None:
        self.backbone, self.sentences = backbone, sentences
        state = None
        if "encode_text" not in backbone.model.__dict__ and all(map(is_all_plain, text_side(backbone))):
            probe = unit(backbone.encode_text(PROBE))
            own = side_hash(backbone, backbone.tokenize(PROBE).numpy(), rounded(probe))
            state = f"{_digest(*sentences)[:16]}-{own}"
        self.kept = Kept(backbone, "texts", state)

    def get(self, text: str) -> Float[Tensor, " feature"]:
        return self.kept.get(self._read(text)[:40], lambda: self._make(text))

    def get_list(self, texts: list[str]) -> Float[Tensor, "text feature"]:
        def make() -> Tensor:
            prompts = [fill(sentence, text) for sentence in self.sentences for text in texts]
            count, few = len(prompts), prompts[:_FEW_PROMPTS]
            announce(f"{count:,} prompts", self.backbone, lambda: _prompts(self.backbone, few), count / len(few))
            alone = len(self.sentences) == 1
            return _prompts(self.backbone, prompts) if alone else torch.stack([self._make(text) for text in texts])

        return self.kept.get(f"list-{_digest(*map(self._read, texts))[:40]}", make)

    def _read(self, text: str) -> str:
        """A digest of a text and of its tokens: tokenizers that agree on the probe may differ elsewhere."""
        return _digest(text, self.backbone.tokenize([text]).cpu().numpy().tobytes().hex())

    def _make(self, text: str) -> Float[Tensor, " feature"]:
        prompts = [fill(sentence, text) for sentence in self.sentences]
        return unit(_prompts(self.backbone, prompts).mean(dim=0))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
