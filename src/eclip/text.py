"""Texts as unit features, with prompt templates; ensembles are kept on disk.

Ensembles follow Radford et al. 2021 (https://arxiv.org/abs/2103.00020): each prompt's feature is made unit, then they are
averaged, and the mean is made unit again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.base import Backbone
from eclip.blocks import unit
from eclip.errors import TextCutWarning, TextError
from eclip.templates import fill, resolve

_log = logging.getLogger("eclip")
_PROMPTS_AT_ONCE = 256


def encode_texts(
    backbone: Backbone, texts: Sequence[str], templates: str | Sequence[str] = "none"
) -> Float[Tensor, "text feature"]:
    """Unit text features.

    Args:
        backbone: from `load` or `wrap`.
        texts: one or more. An empty text is allowed here, as the reference that CLIP Surgery subtracts.
        templates: "none" (the text as it is), "single" ("a photo of a {}."), "imagenet80", "surgery85", or sentences with
            one `{}` each. Several templates are averaged; such ensembles are cached on disk by weights, template and text.

    Returns:
        Rows of length one, on the backbone's device, float32 at least.

    Raises:
        TextError: no text.
        UnknownNameError: no template set of that name.
        OptionError: a template without its `{}`.

    Warns:
        TextCutWarning: a text longer than the model reads, with the words that had no effect.
    """
    if isinstance(texts, str):
        raise TextError(f"texts must be a list of texts, got the single text {texts!r}: write [{texts!r}].")
    sentences = resolve(templates)
    texts = list(texts)
    if not texts:
        raise TextError("no text was given: at least one is needed.")
    _warn_of_cuts(backbone, texts, sentences)
    if len(sentences) == 1:
        return _prompts(backbone, [fill(sentences[0], text) for text in texts])
    cache = _Cache(backbone, sentences)
    return torch.stack([cache.get(text) for text in texts])


def _prompts(backbone: Backbone, prompts: list[str]) -> Float[Tensor, "text feature"]:
    parts = [
        backbone.encode_text(prompts[start : start + _PROMPTS_AT_ONCE])
        for start in range(0, len(prompts), _PROMPTS_AT_ONCE)
    ]
    return unit(torch.cat(parts))


def _warn_of_cuts(backbone: Backbone, texts: list[str], sentences: tuple[str, ...]) -> None:
    longest = max(sentences, key=len)
    for text in texts:
        kept = words_read(backbone, fill(longest, text))
        words = fill(longest, text).split()
        if kept < len(words):
            lost = " ".join(words[kept:])
            shown = lost if len(lost) <= 80 else f"{lost[:40]} ... {lost[-36:]}"
            warnings.warn(
                f"{backbone.name} reads only the first {kept} of {len(words)} words of {text[:40]!r}...; "
                f"these had no effect: {shown}",
                TextCutWarning,
                stacklevel=3,
            )


def words_read(backbone: Backbone, text: str) -> int:
    """How many words of a text reach the model whole; the tokenizer cuts off the rest."""
    words = text.split()
    if len(words) < 8 and len(text) < 60:  # the shortest context in use, 16 tokens of SigLIP variants, holds these
        return len(words)
    whole = backbone.tokenize([text])[0]
    low, high = 0, len(words)  # the first `high` words tokenize like the whole text
    while low < high:
        middle = (low + high) // 2
        if torch.equal(backbone.tokenize([" ".join(words[:middle])])[0], whole):
            high = middle
        else:
            low = middle + 1
    if high == len(words):
        return high
    return high - 1 if _ends_inside(backbone, words, high) else high


def _ends_inside(backbone: Backbone, words: list[str], count: int) -> bool:
    """Whether the last word read lost some of its own tokens: a shorter piece of it gives the same ids."""
    if count == 0:
        return False
    head, last = words[: count - 1], words[count - 1]
    ids = backbone.tokenize([" ".join([*head, last])])[0]
    return torch.equal(backbone.tokenize([" ".join([*head, last + "zzzz"])])[0], ids)


class _Cache:
    """Unit ensembles on disk, one small file a text, so that processes never wait for or spoil one another."""

    def __init__(self, backbone: Backbone, sentences: tuple[str, ...]) -> None:
        self.backbone, self.sentences = backbone, sentences
        name = _digest(*sentences)[:16] + "-" + _fingerprint(backbone)[:24]
        self.folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eclip" / "texts" / name

    def get(self, text: str) -> Float[Tensor, " feature"]:
        path = self.folder / f"{_digest(text)[:40]}.npy"
        weight = self.backbone.weight
        try:
            return torch.from_numpy(np.load(path)).to(weight.device)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EOFError) as error:
            _log.warning("%s cannot be read (%s) and is made again", path, error)
        prompts = [fill(sentence, text) for sentence in self.sentences]
        feature = unit(_prompts(self.backbone, prompts).mean(dim=0))
        self._write(path, feature)
        return feature

    def _write(self, path: Path, feature: Tensor) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as part:
                np.save(part, feature.cpu().numpy())
            os.replace(part.name, path)
        except OSError as error:
            _log.warning("text features are not cached: %s", error)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _fingerprint(backbone: Backbone) -> str:
    """Hash of every weight and of the way the tokenizer cuts one sentence: another model never shares a cache entry."""
    digest = hashlib.sha256(str(backbone.weight.dtype).encode())
    for key, value in backbone.model.state_dict().items():
        if not key.startswith("visual."):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    digest.update(backbone.tokenize(["The 2 quick brown foxes jump, isn't it?"]).numpy().tobytes())
    return digest.hexdigest()
