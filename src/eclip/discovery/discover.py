"""Concepts: what a model sees in an image without a text, and where.

An image's feature is decomposed into a few words of a vocabulary (SpLiCE, `eclip.discovery.splice`) or a few latents of
a sparse autoencoder (MSAE, `eclip.discovery.msae`); words are then mapped as in `explain`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eclip.backbones.backbone import DEFAULT_POSITIONS, Backbone, eval_no_grad
from eclip.backbones.blocks import cosine, unit
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.devices import Device
from eclip.backbones.encoding import Encoding
from eclip.backbones.image_mean import mean_for
from eclip.backbones.load import backbone_of
from eclip.backbones.view import View
from eclip.discovery import splice
from eclip.discovery.concepts import Concepts, concepts_command
from eclip.discovery.msae import Autoencoder, load_autoencoder
from eclip.errors import OptionError, ShapeError
from eclip.explanation.explanation import Explanation
from eclip.explanation.query import counted, in_words, since
from eclip.explanation.tensors import origin_of
from eclip.images import ImageLike, are_several, at_least_one, read_batches
from eclip.methods import METHODS, AnyMethod, check_methods, method_name, options_for
from eclip.methods.maskclip import patch_features
from eclip.registry import plain_options, whole
from eclip.results.command import was_named
from eclip.results.provenance import made_by, noted, repeatable
from eclip.texts.encode import encode_apart
from eclip.texts.templates import kept
from eclip.texts.vocabulary import words_of

_log = logging.getLogger("eclip")

COUNT, LATENTS, METHOD = 10, 64, "maskclip"
PATH = (str, Path, type(None))


@overload
def concepts(images: ImageLike, **settings: Any) -> Concepts: ...
@overload
def concepts(images: list[Any] | tuple[Any, ...], **settings: Any) -> list[Concepts]: ...
def concepts(images: ImageLike | Sequence[ImageLike], **settings: Any) -> Concepts | list[Concepts]:
    """Which concepts does the model see in each image, with which weights, and where?

    Args:
        images: a path, a PIL image, an array or a tensor, see `eclip.explain`; or several of them.
        settings: as in `concepts_each`: model, vocabulary, count, l1, method, image_mean, mean_from, msae and others;
            not `failures`.

    Returns:
        Concepts; for several images, a list of them.

    Raises:
        EclipError: invalid input; `eclip.errors` lists the classes.
    """
    if "failures" in settings:  # results would no longer line up with the images
        raise OptionError("eclip.concepts raises at the first failure; eclip.concepts_each collects failures.")
    found = list(concepts_each(at_least_one(images), **settings))
    return found if are_several(images) else found[0]


def concepts_each(
    images: ImageLike | Iterable[ImageLike],
    *,
    model: str | Backbone = DEFAULT_MODEL,
    vocabulary: str | Path | Iterable[str] | None = None,
    count: SupportsIndex = COUNT,
    l1: float | None = None,
    method: AnyMethod = METHOD,
    image_mean: str | Path | Tensor | np.ndarray | None = None,
    mean_from: str | Path | None = None,
    msae: str | Path | None = None,
    latents: SupportsIndex | None = None,
    image_size: SupportsIndex | None = None,
    resize: str = "squash",
    templates: str | Iterable[str] = "none",
    positions: str = DEFAULT_POSITIONS,
    device: Device | None = None,
    batch_size: SupportsIndex = 8,
    failures: list[tuple[str, str]] | None = None,
    **options: Any,
) -> Iterator[Concepts]:
    """Yield one Concepts per image, in order, for more images than fit into memory; the vocabulary is encoded once.

    Args:
        images: any iterable.
        model: a name for `eclip.load`, or a Backbone.
        vocabulary: a file with one word per line, or the words; None = the package's own, see
            `eclip.texts.vocabulary`. Its features are cached on disk. Words that are not in it cannot be found.
        count: at most this many concepts per image, those with the highest weights.
        l1: SpLiCE's penalty, above 0; larger values give fewer concepts. None = 0.25, the authors' value.
        method: of `eclip.METHODS`, for the maps.
        image_mean: the mean of the unit features of many images of any content, which SpLiCE subtracts: (feature,), or
            a .npy file of it. `mini` includes its own; any other model needs this or `mean_from`.
        mean_from: a folder of images, preferably hundreds, similar to yours, to compute the mean from.
        msae: a checkpoint of a sparse autoencoder, see `eclip.discovery.msae`. Its latents are the concepts, named
            after the nearest word; maps are the latents of patches. Cannot be combined with l1, method or a mean.
        latents: how many latents an image may use, with msae only; None = 64, or all if the checkpoint has fewer.
        image_size: see `eclip.explain`.
        resize: see `eclip.explain`; with "keep", consecutive images of one grid share a forward pass.
        templates: for the vocabulary, see `eclip.encode_texts`.
        positions: see `eclip.encode`.
        device: see `eclip.explain`.
        batch_size: images in one forward pass, at least 1.
        failures: unreadable images are added here as (source, error), and the others continue. None: they raise.
        options: options of the method.

    Raises:
        OptionError: a setting is outside its range, or the model has no image mean and none is given.
        MissingExtraError: scikit-learn, which SpLiCE needs, is not installed.
        EclipError: other invalid input; `eclip.errors` lists the classes.

    Warns:
        EqualTextsWarning: the model cannot distinguish some words of the vocabulary.
    """
    batch_size, count = whole(batch_size, "batch_size", least=1), whole(count, "count", least=1)
    most = None if latents is None else whole(latents, "latents", least=1)
    view = View(image_size, resize, positions)
    check_methods([method := method_name(method)])
    own = options_for(method, [method], options)
    if msae is None:
        l1 = plain_options({"l1": splice.L1 if l1 is None else l1})["l1"]
        splice.require_lasso(l1)  # before anything is loaded
        if latents is not None:
            raise OptionError(f"latents={latents} requires msae, a checkpoint of an autoencoder; set msae too.")
    elif not (image_mean is None and mean_from is None and method == METHOD and not own and l1 is None):
        raise OptionError("msae cannot be combined with l1, method, options, image_mean or mean_from; omit them.")
    words, backbone = words_of(vocabulary), backbone_of(model, device)
    if msae is None:
        by: Tensor | Autoencoder = mean_for(backbone, image_mean, mean_from, view.settings)
        made = {"l1": l1, "image_mean": _path(image_mean), "mean_from": _path(mean_from), "method": method}
    else:
        by = load_autoencoder(msae).to(backbone.weight.device)
        own_latents = len(by.latent_bias)
        if most is not None and most > own_latents:
            raise OptionError(f"latents must be at most {own_latents}, as many as {msae} has, got {most}.")
        made = {"msae": str(msae), "latents": min(LATENTS, own_latents) if most is None else most, "method": "msae"}
    provenance = {
        **made_by(backbone),
        "vocabulary": _path(vocabulary),
        "words": len(words),
        "count": count,
        **made,
        "options": own,
        "templates": kept(templates),
        **view.settings,
    }
    provenance["command"] = isinstance(vocabulary, PATH) and isinstance(image_mean, PATH)
    provenance["command"] &= method != "eclip" or not was_named(provenance["head"])
    query = ConceptQuery(backbone, words, view, provenance, by)
    for batch in read_batches(images, batch_size, failures, partial(view.grid, backbone)):
        yield from query.answer(batch)


class ConceptQuery:
    """Everything but the images, encoded once; `provenance` is shared by all answers."""

    def __init__(
        self,
        backbone: Backbone,
        words: tuple[str, ...],
        view: View,
        provenance: dict[str, Any],
        by: Tensor | Autoencoder,
    ) -> None:
        self.backbone, self.words, self.view, self.provenance = backbone, words, view, provenance
        self.text = encode_apart(backbone, words, provenance["templates"], keep=True)
        self.mean = by if isinstance(by, Tensor) else None
        self.autoencoder = by if isinstance(by, Autoencoder) else None
        width = self.text.shape[1]
        if self.mean is not None and tuple(self.mean.shape) != (width,):
            raise ShapeError(f"the image mean must be ({width},) for {backbone.name}, got {tuple(self.mean.shape)}.")
        self.keep: int | None = 1
        if self.autoencoder is not None:
            self.nearest = self.autoencoder.names(self.text)[0].tolist()
        else:
            self.method = METHODS[provenance["method"]]
            self.keep = self.method.keep_for(provenance["options"])
            self.dictionary = splice.dictionary(self.text)

    def answer(self, batch: Sequence[tuple[str, Image.Image]]) -> Iterator[Concepts]:
        """One Concepts per image, from one forward pass for all."""
        start = time.perf_counter()
        encoding = self.view.encode(self.backbone, [picture for _, picture in batch], self.keep)
        seconds = {"forward": since(start, self.backbone)}
        features = encoding.feature.to(self.text)
        with torch.autocast(features.device.type, enabled=False):  # of the caller
            weights, close, beyond = self._decompose(features)
        seconds["concepts"] = since(start, self.backbone) - seconds["forward"]
        _log.info("%s, %s: %s", self.provenance["method"], counted(len(batch), "image"), in_words(seconds))
        for image, (source, picture) in enumerate(batch):
            order = weights[image].argsort(descending=True, stable=True)[: self.provenance["count"]]
            best = [int(concept) for concept in order if weights[image, concept] > 0]
            texts, names = self._named(best)
            maps = self._maps(encoding, image, best)
            flat = None if self.autoencoder is not None else self.method.flat(maps, self.text[best]).cpu().numpy()
            explanation = Explanation(
                maps=maps.cpu().numpy(),
                scores=cosine(features[[image]], self.text[texts]).float().cpu().numpy(),
                texts=tuple(names),
                sources=(source,),
                sizes=(picture.size,),
                signed=self.autoencoder is None and self.method.signed,
                provenance=self._provenance(source, list(encoding.pixels.shape[2:])),
                images=(picture,),
                flat=flat,
                origin=origin_of(self.backbone.weight.device),
            )
            yield Concepts(
                explanation=explanation,
                weights=weights[image, best].float().cpu().numpy(),
                cosine=float(close[image]),
                beyond_mean=None if beyond is None else float(beyond[image]),
                used=int((weights[image] > 0).sum()),
                available=weights.shape[1],
            )

    def _decompose(
        self, features: Float[Tensor, "image feature"]
    ) -> tuple[Float[Tensor, "image concept"], Float[Tensor, " image"], Float[Tensor, " image"] | None]:
        """Weights of all concepts; and as in `Concepts`, the cosine of the reconstruction, and that beyond the mean."""
        if self.autoencoder is not None:
            weights, beyond = self.autoencoder.encode(features, self.provenance["latents"]), None
            again = self.autoencoder.decode(weights, features)
        else:
            assert self.mean is not None, "SpLiCE has a mean"
            targets = splice.center(features, self.mean)
            weights = splice.solve(targets, self.dictionary, self.provenance["l1"])
            again = splice.rebuild(weights, self.dictionary, self.mean)
            beyond = (unit(weights @ self.dictionary) * targets).sum(dim=1)
        return weights, (unit(again) * unit(features)).sum(dim=1), beyond

    def _named(self, best: list[int]) -> tuple[list[int], list[str]]:
        """The word of each concept, by index, and its name; latents that share a word have different numbers."""
        if self.autoencoder is None:
            return best, [self.words[concept] for concept in best]
        texts = [self.nearest[latent] for latent in best]
        return texts, [f"{self.words[text]} (latent {latent})" for text, latent in zip(texts, best, strict=True)]

    def _maps(self, encoding: Encoding, image: int, best: list[int]) -> Float[Tensor, "1 concept row col"]:
        if not best:
            return torch.zeros(1, 0, *encoding.grid, dtype=torch.float32, device=encoding.feature.device)
        one = encoding.only(image)
        if self.autoencoder is None:
            return self.method(one, self.text[best], **self.provenance["options"])
        with eval_no_grad(self.backbone.model):
            return one.on_grid(self.autoencoder.encode(patch_features(one).float())[..., best])

    def _provenance(self, source: str, pixels: list[int]) -> dict[str, Any]:
        provenance = {**self.provenance, "options": noted(self.provenance["options"]), "pixels": pixels}
        repeats = self.provenance["command"] and repeatable(self.backbone, [source], self.provenance["options"])
        return {**provenance, "command": concepts_command([source], provenance) if repeats else None}


def _path(given: object) -> str | None:
    return str(given) if isinstance(given, str | Path) else None
