"""Which words of a text made the model match it to an image? `explain_words`, the main path for words."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eclip import render
from eclip.backbones.backbone import DEFAULT_POSITIONS, Backbone
from eclip.backbones.blocks import unit
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.devices import Device
from eclip.backbones.view import View
from eclip.images import ImageLike, at_least_one, name_of, open_image
from eclip.registry import plain_options
from eclip.results.indexing import Which, image_and_text, image_of
from eclip.results.provenance import made_by
from eclip.words import DEFAULT_WORD_METHOD, WordMethod, word_method
from eclip.words.query import WordQuery

_log = logging.getLogger("eclip")


@dataclass(frozen=True, eq=False)
class WordRelevance:
    """How much each word of each text contributes to the text's score with each image.

    Attributes:
        values: (image, word) float32 for each text, raw values of the method, summed over a word's tokens.
        words: of each text, in order.
        scores: (image, text) float32, cosine of the unaltered model in [-1, 1].
        texts: as given.
        sources: the path of each image, or "image 0" for one given in memory.
        signed: words can also lower the score.
        provenance: model, method, options, versions.
        images: the images themselves.
    """

    values: tuple[Float[np.ndarray, "image _word"], ...]
    words: tuple[tuple[str, ...], ...]
    scores: Float[np.ndarray, "image text"]
    texts: tuple[str, ...]
    sources: tuple[str, ...]
    signed: bool
    provenance: dict[str, Any]
    images: tuple[Image.Image, ...]

    def __repr__(self) -> str:
        return f"WordRelevance({len(self.sources)} images, {len(self.texts)} texts, {self.provenance['method']})"

    def shares(self, image: Which = 0, text: Which | None = None) -> Float[np.ndarray, " word"]:
        """Each word's share of all relevance in a text, in [-1, 1]; absolute values sum to 1.

        Args:
            image: which image: its number, path or file name; or a text alone, for the first image.
            text: which text: its number or the text itself; None = the first.

        Raises:
            OptionError: there is no such image or text, or several have that name.
        """
        image, text = image_and_text(image, text, self.sources, self.texts)
        return render.shares(self.values[text][image])

    def entries(self, image: Which = 0) -> list[dict[str, Any]]:
        """The JSON entry of an image: for each text its score, its words, their values and shares."""
        found, image = [], image_of(image, self.sources, self.texts)
        for text, (name, words, values) in enumerate(zip(self.texts, self.words, self.values, strict=True)):
            each = zip(words, values[image], render.shares(values[image]), strict=True)
            listed = [
                {"word": word, "value": float(f"{value:.6g}"), "share": round(float(share), 4)}
                for word, value, share in each
            ]
            found.append({"text": name, "score": round(float(self.scores[image, text]), 6), "words": listed})
        return found

    def html(self, image: Which = 0) -> str:
        """The texts as HTML, words on a color: amber raises the score, blue lowers it."""
        image = image_of(image, self.sources, self.texts)
        return "\n".join(
            f'<p><span class="score">{self.scores[image, text]:.3f}</span> '
            f"{render.page_words(words, self.values[text][image])}</p>"
            for text, words in enumerate(self.words)
        )

    def _repr_html_(self) -> str:
        titles = [f"<p><b>{escape(source)}</b></p>\n" if len(self.sources) > 1 else "" for source in self.sources]
        return "\n".join(title + self.html(image) for image, title in enumerate(titles))


def explain_words(
    image: ImageLike | Sequence[ImageLike],
    texts: str | Iterable[str],
    *,
    model: str | Backbone = DEFAULT_MODEL,
    method: str | WordMethod = DEFAULT_WORD_METHOD,
    image_size: SupportsIndex | None = None,
    resize: str = "squash",
    positions: str = DEFAULT_POSITIONS,
    device: Device | None = None,
    **options: Any,
) -> WordRelevance:
    """Which words of each text made the model match it to each image?

    Arguments that are not listed here, and the errors, are those of `eclip.explain`.

    - texts: one or more, used without a template.
    - method: "gradeclip", "chefer" or "leave_one_out", see `eclip.words.WORD_METHODS`.
    - options: options of the method.

    Warns:
        EqualTextsWarning: the model cannot distinguish some texts.
        TextCutWarning: a text is longer than the model reads; words beyond its limit have value 0.
    """
    word_method(method).check(options)
    query = WordQuery(texts, model=model, view=View(image_size, resize, positions), device=device)
    named = [(name_of(picture, index), open_image(picture)) for index, picture in enumerate(at_least_one(image))]
    return relevance(query, named, method, options)


def relevance(
    query: WordQuery, images: Sequence[tuple[str, Image.Image]], method: str | WordMethod, options: dict[str, Any]
) -> WordRelevance:
    """Run one forward pass over named images, or one per image if their grids differ; then the method."""
    backbone, view, pictures = query.backbone, query.view, [image for _, image in images]
    alike = len({view.grid(backbone, image) for image in pictures}) == 1
    batches = [pictures] if alike else [[image] for image in pictures]

    def forward() -> Tensor:
        return torch.cat([view.encode(backbone, batch, 0).feature for batch in batches])

    found = relevance_of(query, forward, [source for source, _ in images], method, options)
    return replace(found, images=tuple(pictures))


def relevance_of(
    query: WordQuery,
    forward: Callable[[], Float[Tensor, "image feature"]],
    sources: Sequence[str],
    method: str | WordMethod,
    options: dict[str, Any],
) -> WordRelevance:
    """Run the forward pass, which returns features of images, and then the method; the result has no images."""
    query.check_state()
    method, options = word_method(method), plain_options(options)
    start = time.perf_counter()
    feature = unit(forward())
    values = [one.cpu().numpy() for one in query.reading.by_word(method(query.reading, feature, **options))]
    with torch.autocast(feature.device.type, enabled=False):  # of the caller
        scores = (feature @ query.text.to(feature).T).float().cpu().numpy()
    told = "%s, %d images, %d texts: forward and relevance %.3f s"
    _log.info(told, method.name, len(sources), len(query.texts), time.perf_counter() - start)
    return WordRelevance(
        values=tuple(values),
        words=tuple(tuple(word.letters for word in words) for words in query.reading.words),
        scores=scores,
        texts=tuple(query.texts),
        sources=tuple(sources),
        signed=method.signed,
        provenance={**made_by(query.backbone), "method": method.name, "options": options, **query.view.settings},
        images=(),
    )
