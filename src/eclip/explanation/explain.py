"""The main path, in one screen: images and texts go in, an Explanation comes out.

Start reading here. `load` finds the model, `encode_texts` and `encode` run its two towers once, a method turns the
Encoding into raw maps, and `Explanation` shows them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eclip.backbones.backbone import DEFAULT_POSITIONS, Backbone, Grid
from eclip.backbones.blocks import cosine
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.devices import Device
from eclip.backbones.encoding import encode
from eclip.backbones.load import backbone_of, is_loaded
from eclip.errors import ImageError, NotApplicableError, TextError
from eclip.explanation.explanation import Explanation
from eclip.explanation.health import KEEP, Checkup, notes
from eclip.images import ImageLike, at_least_one, name_of, open_image, read_batches
from eclip.methods import METHODS, AnyMethod, check_methods, default_method, one_or_more, options_for
from eclip.refinements import REFINEMENTS, check_refinement
from eclip.registry import whole, whole_or_none
from eclip.results.command import command
from eclip.results.provenance import made_by, noted
from eclip.texts.encode import check_texts, encode_apart
from eclip.texts.templates import kept


@overload
def explain(
    image: ImageLike | Sequence[ImageLike],
    texts: str | Iterable[str],
    *,
    method: AnyMethod | None = ...,
    **settings: Any,
) -> Explanation: ...
@overload
def explain(
    image: ImageLike | Sequence[ImageLike], texts: str | Iterable[str], *, method: Sequence[AnyMethod], **settings: Any
) -> dict[str, Explanation]: ...
def explain(
    image: ImageLike | Sequence[ImageLike],
    texts: str | Iterable[str],
    *,
    model: str | Backbone = DEFAULT_MODEL,
    method: AnyMethod | Sequence[AnyMethod] | None = None,
    image_size: SupportsIndex | None = None,
    resize: str = "squash",
    templates: str | Iterable[str] = "none",
    positions: str = DEFAULT_POSITIONS,
    versus: str | None = None,
    device: Device | None = None,
    refine: str | None = None,
    refine_options: dict[str, Any] | None = None,
    health: bool = True,
    not_applicable: dict[str, str] | None = None,
    **options: Any,
) -> Explanation | dict[str, Explanation]:
    """Which part of each image made the model match each text?

    Args:
        image: a path, a PIL picture, a NumPy array (height, width, channel) or a torch tensor (channel, height, width),
            uint8 or in [0, 1], not normalized; or a list or batch of them. The whole image is explained, not a crop.
        texts: one or more.
        model: a name for `eclip.load`, or a Backbone from `load` or `wrap`.
        method: a name or value of `eclip.METHODS`, or several, which share one forward pass; None = "eclip" for a model
            with a trained head, as "mini" has, else "surgery".
        image_size: side in pixels; None = the model's own.
        resize: "squash" (a square, as in the paper) or "keep" (the image's aspect ratio, about as many patches).
        templates: prompt templates, see `eclip.encode_texts`.
        positions: how position embeddings are resized, see `eclip.encode`.
        versus: a text to explain each text against: maps and scores become those of the difference, why A and not B.
        device: where a model given by name is put, see `eclip.load`; None = the CPU. A Backbone stays where it is.
        refine: a name of `eclip.REFINEMENTS`, which draws maps to what the image shows, some on the model's pixels.
        refine_options: of the refinement, see `eclip.REFINEMENTS[name].options`.
        health: ask of each map whether it can be trusted, see `eclip.explanation.health`. The maps stay as they are.
        not_applicable: of several methods, those that are not applicable to this model are added here,
            with the reason, and the rest goes on. None: they raise.
        options: options of the method, see `eclip.METHODS[name].options`.

    Returns:
        An Explanation; for several methods a dict from their names.

    Raises:
        EclipError: bad input, of a class that says which: `eclip.errors` lists them.
    """
    images = at_least_one(image)
    texts = check_texts(texts)
    if method is None:
        model, device, method = _by_head(model, device)
    names, alone = one_or_more(method)
    own = _own(names, options)
    settings = (image_size, resize, templates, positions, versus, device, refine, refine_options, health)
    asked = Question(texts, model, own, *settings)
    opened = [open_image(picture) for picture in images]
    grids = {asked.grid(picture) for picture in opened}
    if len(grids) > 1:
        raise ImageError(
            f"images of unlike shapes have maps of unlike grids {sorted(tuple(grid) for grid in grids)}: use "
            'eclip.explain_each, or resize="squash".'
        )
    sources = [name_of(picture, index) for index, picture in enumerate(images)]
    if alone:
        return asked.answer(opened, sources)[names[0]]
    return asked.answer(opened, sources, not_applicable)


def explain_each(
    images: ImageLike | Iterable[ImageLike],
    texts: str | Iterable[str],
    *,
    batch_size: SupportsIndex = 8,
    failures: list[tuple[str, str]] | None = None,
    model: str | Backbone = DEFAULT_MODEL,
    method: AnyMethod | None = None,
    image_size: SupportsIndex | None = None,
    resize: str = "squash",
    templates: str | Iterable[str] = "none",
    positions: str = DEFAULT_POSITIONS,
    versus: str | None = None,
    device: Device | None = None,
    refine: str | None = None,
    refine_options: dict[str, Any] | None = None,
    health: bool = True,
    **options: Any,
) -> Iterator[Explanation]:
    """One Explanation an image, in order, for more images than fit into memory; texts are encoded once.

    Args:
        images: any iterable; at most two batches of it are held at a time, read ahead while the model works.
        texts: as in `explain`.
        batch_size: images in one forward pass, at least 1.
        failures: images that cannot be read are added here as (source, error), and the rest goes on. None: they raise.
        model: as in `explain`, and so are the rest.
        method: one name; None as in `explain`.
        image_size: see `explain`.
        resize: see `explain`; with "keep", images of one grid in a row share a forward pass.
        templates: see `explain`.
        positions: see `explain`.
        versus: see `explain`.
        device: see `explain`.
        refine: see `explain`.
        refine_options: see `explain`.
        health: see `explain`.
        options: see `explain`.
    """
    batch_size, texts = whole(batch_size, "batch_size", least=1), check_texts(texts)
    if method is None:
        model, device, method = _by_head(model, device)
    [name], _ = one_or_more(method, alone=True)
    own = _own([name], options)
    settings = (image_size, resize, templates, positions, versus, device, refine, refine_options, health)
    asked = Question(texts, model, own, *settings)
    for batch in read_batches(images, batch_size, failures, asked.grid):
        yield from _each(asked, name, batch)


class Question:
    """Everything but the images, checked and encoded once; `options` are those of each method by its name."""

    def __init__(
        self,
        texts: str | Iterable[str],
        model: str | Backbone,
        options: dict[str, dict[str, Any]],
        image_size: SupportsIndex | None,
        resize: str,
        templates: str | Iterable[str],
        positions: str,
        versus: str | None,
        device: Device | None,
        refine: str | None = None,
        refine_options: dict[str, Any] | None = None,
        health: bool = False,
    ) -> None:
        self.texts, self.options = check_texts(texts), options
        check_methods(options, versus=versus is not None)
        self.refine, self.refine_options = refine, check_refinement(refine, refine_options)
        self.backbone = backbone_of(model, device)
        self.image_size, self.resize, self.positions = whole_or_none(image_size, "image_size"), resize, positions
        self.templates = templates = kept(templates)
        self.versus = versus
        if versus is not None and not isinstance(versus, str):
            raise TextError(f"versus must be one text, got {versus!r}.")
        asked = self.texts if versus is None or versus in self.texts else [*self.texts, *check_texts(versus)]
        features = encode_apart(self.backbone, asked, templates)  # held against itself, a text gives zeros to the bit
        self.text = features[: len(self.texts)]
        if versus is not None:
            self.versus_text = features[[asked.index(versus)]]
        keeps = [METHODS[name].keep_for(own) for name, own in options.items()]
        keeps += ([] if refine is None else [REFINEMENTS[refine].keep]) + ([KEEP] if health else [])
        self.checkup = (
            Checkup(self.backbone, self.texts, self.text, templates, versus=versus is not None) if health else None
        )
        self.keep = None if None in keeps else max(keep for keep in keeps if keep is not None)

    def grid(self, image: Image.Image) -> Grid:
        """The patch grid that the image will have."""
        return self.backbone.grid_for(image.size, self.image_size, self.resize)

    def answer(
        self,
        images: list[Image.Image],
        sources: list[str],
        not_applicable: dict[str, str] | None = None,
        on_method: Callable[[str], None] | None = None,
    ) -> dict[str, Explanation]:
        """One forward pass, each method, the refinement of its maps; `begun` hears a method's name before it runs."""
        pixels = torch.stack([self.backbone.preprocess(image, self.image_size, self.resize) for image in images])
        encoding, forward = self.timed(lambda: encode(self.backbone, pixels, self.keep, self.positions))
        apart = self.text if self.versus is None else self.text - self.versus_text
        scores = _numpy(cosine(encoding.feature, apart).float())
        sizes = tuple(image.size for image in images)
        answers = {}
        for name, options in self.options.items():
            method = METHODS[name]
            if on_method is not None:
                on_method(name)
            run = method if self.versus is None else partial(method.difference, versus=self.versus_text)
            ask = partial(run, encoding, **options)
            try:
                maps, own = self.timed(partial(ask, self.text))
            except NotApplicableError as error:  # of a refinement it is no gap of the method: the same for all
                if not_applicable is None:
                    raise
                not_applicable[name] = error.why
                continue
            seconds = {"forward": forward, "method": own}
            flat, health = method.flat(maps, apart), None
            if self.checkup is not None:
                asking = partial(self.checkup, method, encoding, maps, ask, options, flat)
                health, seconds["health"] = self.timed(asking)
            if self.refine is not None:
                step = partial(REFINEMENTS[self.refine], maps, encoding, **self.refine_options)
                maps, seconds["refine"] = self.timed(step)
            answers[name] = Explanation(
                maps=_numpy(maps),
                scores=scores,
                texts=tuple(self.texts),
                sources=tuple(sources),
                sizes=sizes,
                signed=method.signed or self.versus is not None,
                provenance=self.provenance(name, sources, list(pixels.shape[2:])),
                images=tuple(images),
                seconds=seconds,
                health=health,
                flat=_numpy(flat),
            )
        return answers

    def timed(self, task: Callable[[], Any]) -> tuple[Any, float]:
        """The result of a task and the seconds that it took."""
        start = time.perf_counter()
        result = task()
        if self.backbone.weight.is_cuda:
            torch.cuda.synchronize(self.backbone.weight.device)
        return result, time.perf_counter() - start

    def provenance(self, method: str, sources: list[str], pixels: list[int]) -> dict[str, Any]:
        """What repeats an answer, as `Explanation.provenance`."""
        backbone, options = self.backbone, self.options[method]
        provenance = {
            **made_by(backbone),
            "method": method,
            "options": noted(options),
            "refine": self.refine,
            "refine_options": noted(self.refine_options),
            "image_size": self.image_size,
            "pixels": pixels,
            "grid": [side // backbone.patch_size for side in pixels],
            "resize": self.resize,
            "templates": self.templates if isinstance(self.templates, str) else list(self.templates),
            "positions": self.positions,
            "versus": self.versus,
            "health": None if self.checkup is None else list(notes(METHODS[method], versus=self.versus is not None)),
        }
        tensors = any(isinstance(value, Tensor) for value in [*options.values(), *self.refine_options.values()])
        by_name = is_loaded(backbone) and not tensors and all(Path(source).is_file() for source in sources)
        return {**provenance, "command": command(sources, self.texts, provenance) if by_name else None}


def _by_head(model: str | Backbone, device: Device | None) -> tuple[Backbone, None, str]:
    """The model, where it is, and the method that is asked of it by default."""
    backbone = backbone_of(model, device)
    return backbone, None, default_method(backbone.head is not None)


def _own(names: Sequence[str], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    check_methods(names)
    return {name: options_for(name, list(names), options) for name in names}


def _numpy(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()


def _each(asked: Question, method: str, batch: list[tuple[str, Image.Image]]) -> Iterator[Explanation]:
    sources, images = [source for source, _ in batch], [image for _, image in batch]
    whole = asked.answer(images, sources)[method]
    for index in range(len(batch)):
        one = slice(index, index + 1)
        yield replace(
            whole,
            maps=whole.maps[one],
            scores=whole.scores[one],
            sources=whole.sources[one],
            sizes=whole.sizes[one],
            images=whole.images[one],
            provenance=asked.provenance(method, sources[one], whole.provenance["pixels"]),
            health=None if whole.health is None else whole.health.only(index),
            flat=None if whole.flat is None else whole.flat[one],
        )
