"""Masks from class names: to which of these classes does each pixel of an image belong?

The protocol of open-vocabulary segmentation without training (SCLIP, Wang et al. 2024,
https://arxiv.org/abs/2312.01597; ClearCLIP; NACLIP): each word's map is resized to the image, and the largest wins.
`eclip.segmentation.labels` lists our differences.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eclip.backbones.backbone import DEFAULT_POSITIONS, Backbone
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.devices import Device
from eclip.backbones.encoding import Encoding, encode
from eclip.backbones.load import backbone_of
from eclip.backbones.view import View
from eclip.errors import OptionError
from eclip.explanation.query import Named, Query, counted, in_words
from eclip.images import ImageLike, at_least_one, read_batches
from eclip.methods import AnyMethod, check_between_texts, default_method, method_name, options_for
from eclip.registry import check_options, plain_options, whole, whole_or_none
from eclip.segmentation.classes import Classes, class_words, name_of
from eclip.segmentation.labels import Piece, check_cuts, label_pixels, pieces_of
from eclip.segmentation.segmentation import Segmentation, segment_command
from eclip.segmentation.windows import check_windows

_log = logging.getLogger("eclip")

OF_CNNS, OF_POOLS, ELSEWHERE = "itsm", "maskclip", "naclip"
"""Default methods of models without a head: for the attention pool of `mini`, the best of those that also work with
background and on streets (docs/segment.md); for transformers, the best in the papers."""
TEMPLATES = "imagenet80"
SCALE = 40.0


def segment(image: ImageLike | Sequence[ImageLike], classes: Classes, **settings: Any) -> Segmentation:
    """Assign each pixel of each image to one of these classes.

    Args:
        image: a path, a PIL image, an array, a tensor, or several of them, see `eclip.explain`.
        classes: see `segment_each`.
        settings: see `segment_each`: model, method, background, window, refine and others; not `failures`.
    """
    images = at_least_one(image)
    if "failures" in settings:  # results would no longer line up with the images
        raise OptionError("eclip.segment raises at the first failure; eclip.segment_each collects failures.")
    found = list(segment_each(images, classes, **settings))
    sources, provenance = tuple(one.sources[0] for one in found), found[0].provenance
    by_name = all(one.provenance["command"] is not None for one in found)
    return Segmentation(
        labels=tuple(one.labels[0] for one in found),
        confidences=tuple(one.confidences[0] for one in found),
        classes=found[0].classes,
        sources=sources,
        provenance={**provenance, "command": segment_command(sources, provenance) if by_name else None},
        images=tuple(one.images[0] for one in found),
        presence=None if found[0].presence is None else tuple(one.presence[0] for one in found if one.presence),
    )


def segment_each(
    images: ImageLike | Iterable[ImageLike],
    classes: Classes,
    *,
    batch_size: SupportsIndex = 8,
    failures: list[tuple[str, str]] | None = None,
    model: str | Backbone = DEFAULT_MODEL,
    method: AnyMethod | None = None,
    background: str | Iterable[str] = (),
    templates: str | Iterable[str] = TEMPLATES,
    image_size: SupportsIndex | None = None,
    resize: str = "squash",
    window: SupportsIndex | None = None,
    stride: SupportsIndex | None = None,
    positions: str = DEFAULT_POSITIONS,
    scale: float = SCALE,
    prob_threshold: float | None = None,
    area_threshold: float | None = None,
    refine: str | None = None,
    refine_options: dict[str, Any] | None = None,
    device: Device | None = None,
    health: bool = True,
    **options: Any,
) -> Iterator[Segmentation]:
    """Yield one Segmentation per image, in order, for more images than fit into memory; words are encoded once.

    Args:
        images: any iterable; at most two batches are in memory, the second read ahead while the model runs.
        classes: one name per class, followed by synonyms after commas ("person, man, woman": the class takes the
            maximum of their maps); or a dict from names to words, which are then used instead of the name.
        batch_size: images, or windows of an image, in one forward pass, at least 1.
        failures: unreadable images are added here as (source, error), and the others continue. None: they raise.
        model: a name for `eclip.load`, or a Backbone from `load` or `wrap`.
        method: of kind "similarity" or "decomposition", whose maps share one scale over texts; None = "eclip" for a
            model with a trained head, such as "mini"; without one, "maskclip" for an attention pool, otherwise
            "naclip". For `surgery`, the mean that its feature half subtracts is the same for all texts and changes no
            label; its weights differ by text and do.
        background: words for the class "background", label 0, such as "sky, wall, grass". Without them and without
            prob_threshold, each pixel gets one of the classes: the papers' "without background".
        templates: prompt templates, see `eclip.encode_texts`.
        image_size: side of the model's input in pixels, None = the model's own. With windows, the pixels that the
            image's shorter side counts as, None = 1.5 windows; the aspect ratio is then kept, and `resize` is ignored.
        resize: "squash" (a square) or "keep" (the image's aspect ratio, about as many patches).
        window: side of square sliding windows in such pixels, a multiple of the patch size; the model sees each as a
            separate image, and maps are averaged where windows overlap. None = the whole image at once.
        stride: step between windows in such pixels, None = half a window.
        positions: how position embeddings are resized, see `eclip.encode`.
        scale: factor of the maps in the softmax over classes, 0.001 to 1,000,000; the papers use 40 to 65. Changes no
            label by itself.
        prob_threshold: a pixel whose largest share of the softmax is below it becomes background, 0 to 1.
        area_threshold: a class with at most this share of all pixels that are not background is removed, 0 to 1.
        refine: a name of `eclip.REFINEMENTS`, for each map of each window (SCLIP: for the image, after the windows).
        refine_options: options of the refinement.
        device: where to put a model given by name, see `eclip.load`; None = the CPU. A Backbone stays where it is.
        health: also compute whether each class is in the image at all, see `Segmentation.presence`. No label changes.
        options: options of the method, see `eclip.METHODS[name].options`.

    Raises:
        EclipError: invalid input; `eclip.errors` lists the classes.
    """
    query = ClassQuery(
        classes,
        batch_size=batch_size,
        model=model,
        method=method,
        background=background,
        templates=templates,
        image_size=image_size,
        resize=resize,
        window=window,
        stride=stride,
        positions=positions,
        scale=scale,
        prob_threshold=prob_threshold,
        area_threshold=area_threshold,
        refine=refine,
        refine_options=refine_options,
        device=device,
        health=health,
        **options,
    )
    for batch in read_batches(images, query.batch_size if query.windows is None else 1, failures, query.maps.grid):
        yield from query.answer(batch)


class ClassQuery:
    """A Query for classes, whose maps become one label per pixel; arguments and errors are those of `segment_each`.

    Attributes:
        words: classes and background.
        maps: the query for the maps of all words.
        method: of the maps.
        windows: window, stride and side, see `eclip.segmentation.windows`; None for whole images.
        cuts: scale and thresholds, see `label_pixels`.
        view: the settings given, for the provenance; the model sees windows squashed.
        batch_size: images, or windows of an image, in one forward pass.
    """

    def __init__(
        self,
        classes: Classes,
        *,
        batch_size: SupportsIndex = 8,
        model: str | Backbone = DEFAULT_MODEL,
        method: AnyMethod | None = None,
        background: str | Iterable[str] = (),
        templates: str | Iterable[str] = TEMPLATES,
        image_size: SupportsIndex | None = None,
        resize: str = "squash",
        window: SupportsIndex | None = None,
        stride: SupportsIndex | None = None,
        positions: str = DEFAULT_POSITIONS,
        scale: float = SCALE,
        prob_threshold: float | None = None,
        area_threshold: float | None = None,
        refine: str | None = None,
        refine_options: dict[str, Any] | None = None,
        device: Device | None = None,
        health: bool = True,
        **options: Any,
    ) -> None:
        method = None if method is None else method_name(method)
        sides = {"window": window, "stride": stride, "image_size": image_size, "batch_size": batch_size}
        shares: dict[str, Any] = {"scale": scale, "prob_threshold": prob_threshold, "area_threshold": area_threshold}
        check_options("segment", segment_each, {**sides, **shares})
        window, stride = whole_or_none(window, "window"), whole_or_none(stride, "stride")
        image_size, batch_size = whole_or_none(image_size, "image_size"), whole(batch_size, "batch_size", least=1)
        self.cuts = plain_options(shares)
        check_cuts(**self.cuts)
        self.words = class_words(classes, background, thresholded=prob_threshold is not None)
        if method is not None:
            check_between_texts(method)
        slid = check_windows(window, stride, image_size)
        backbone = backbone_of(model, device)
        if method is None:
            last = backbone.blocks[-1:]
            without = OF_CNNS if not last else ELSEWHERE if last[0].residual else OF_POOLS
            method = default_method(backbone.head is not None, without)
        if window is not None and window % backbone.patch_size:
            raise OptionError(
                f"window must be a multiple of {backbone.patch_size}, the patch size of {backbone.name}, got {window}."
            )
        self.view = View(image_size, resize, positions)
        own = {method: options_for(method, [method], options)}
        more: dict[str, Any] = {"templates": templates, "refine": refine, "refine_options": refine_options}
        more["health"] = "presence" if health else False
        seen = self.view if window is None else View(window, positions=positions)
        self.maps = Query(self.words.texts, model=backbone, methods=own, view=seen, **more)
        self.windows = None if window is None or slid is None else (window, *slid)
        self.method, self.batch_size = method, batch_size

    def answer(self, batch: Sequence[Named]) -> Iterator[Segmentation]:
        """The segmentation of each image of a batch; without windows, all have one grid."""
        there: dict[int, Tensor] = {}
        maps_of = partial(self._maps, there)
        pieces = pieces_of([image for _, image in batch], self.windows, self.batch_size, maps_of)[self.method]
        for place, ((source, image), own) in enumerate(zip(batch, pieces, strict=True)):
            yield self._labeled(source, image.size, own, there.get(place), (image,))

    def answer_pixels(
        self,
        pixels: Float[Tensor, "image 3 height width"],
        named: Sequence[tuple[str, tuple[Image.Image, ...], tuple[int, int]]],
    ) -> Iterator[Segmentation]:
        """As `answer`, for preprocessed images without windows: their names, the images if there are, and sizes."""
        query, there = self.maps, dict[int, Tensor]()
        forward = partial(encode, query.backbone, pixels, query.keep, query.view.positions)
        maps = self._timed(forward, there, range(len(named)))
        for place, (source, image, size) in enumerate(named):
            yield self._labeled(source, size, [Piece((0, 0, *size), maps[place])], there.get(place), image)

    def _labeled(
        self,
        source: str,
        size: tuple[int, int],
        pieces: Sequence[Piece],
        there: Float[Tensor, " text"] | None,
        image: tuple[Image.Image, ...],
    ) -> Segmentation:
        labels, shares = label_pixels(pieces, size[::-1], self.words.places, **self.cuts)
        presence = None
        if there is not None:  # of each class, that of its best word; of the background, which is anything else, NaN
            found = np.full(len(self.words.names), np.nan, dtype=np.float32)
            for label, texts in self.words.places.items():
                found[label] = float(there[list(texts)].max()) if label else np.nan
            presence = (found,)
        return Segmentation((labels,), (shares,), self.words.names, (source,), self.provenance(source), image, presence)

    def _maps(
        self, there: dict[int, Tensor], images: list[Image.Image], places: list[int]
    ) -> dict[str, Float[Tensor, "image text row col"]]:
        query = self.maps
        forward = partial(query.view.encode, query.backbone, images, query.keep)
        return {self.method: self._timed(forward, there, places)}

    def _timed(
        self, forward: Callable[[], Encoding], there: dict[int, Tensor], places: Sequence[int]
    ) -> Float[Tensor, "image text row col"]:
        encoding, first = self.maps.timed(forward)
        maps, own = self.maps.timed(partial(self._of, encoding, there, places))
        seconds, what = {"forward": first, "maps": own}, "image" if self.windows is None else "window"
        _log.info("%s, %s: %s", self.method, counted(len(places), what), in_words(seconds))
        return maps

    def _of(
        self, encoding: Encoding, there: dict[int, Tensor], places: Sequence[int]
    ) -> Float[Tensor, "image text row col"]:
        """Maps of crops; `there` collects the presence of each word, in any crop of an image."""
        query = self.maps
        query.check_state()
        if query.checkup is not None:
            for place, own in zip(places, query.checkup.presence(encoding).cpu(), strict=True):
                there[place] = torch.maximum(there[place], own) if place in there else own
        return query.refined(query.raw(self.method, encoding), encoding).cpu()

    def settings(self) -> dict[str, Any]:
        """The part of the provenance that does not depend on the images."""
        background, *words = self.words.words
        window, stride, side = self.windows or (None, None, self.view.image_size)
        provenance = {
            **self.maps.settings(self.method),
            "resize": self.view.resize,
            "image_size": side,
            "window": window,
            "stride": stride,
            "words": {name: list(map(name_of, own)) for name, own in zip(self.words.names[1:], words, strict=True)},
            "background": list(map(name_of, background)),
            **self.cuts,
        }
        del provenance["versus"]
        return provenance

    def provenance(self, source: str) -> dict[str, Any]:
        """The record that repeats an answer, see `Segmentation.provenance`."""
        provenance = self.settings()
        return {
            **provenance,
            "command": segment_command([source], provenance) if self.maps.repeats(self.method, [source]) else None,
        }
