"""The main path, in one screen: photos and texts go in, an Explanation comes out.

Start reading here. `load` finds the model, `encode_texts` and `encode` run its two towers once, a method turns the Encoding
into raw maps, and `Explanation` shows them.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eclip.backbones.base import DEFAULT_POSITIONS, Backbone, Grid, encode
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.load import load
from eclip.blocks import cosine
from eclip.errors import ImageError, OptionError, TextError, UnknownNameError
from eclip.explanation import Explanation
from eclip.methods import METHODS, options_for
from eclip.photos import open_photo
from eclip.text import encode_texts

Photo = str | Path | Image.Image | np.ndarray[Any, Any]
DEFAULT_METHOD = "surgery"


@overload
def explain(
    image: Photo | Sequence[Photo], texts: str | Sequence[str], *, method: str = ..., **settings: Any
) -> Explanation: ...
@overload
def explain(
    image: Photo | Sequence[Photo], texts: str | Sequence[str], *, method: Sequence[str], **settings: Any
) -> dict[str, Explanation]: ...
def explain(
    image: Photo | Sequence[Photo],
    texts: str | Sequence[str],
    *,
    model: str | Backbone = DEFAULT_MODEL,
    method: str | Sequence[str] = DEFAULT_METHOD,
    image_size: int | None = None,
    resize: str = "squash",
    templates: str | Sequence[str] = "none",
    positions: str = DEFAULT_POSITIONS,
    device: str = "cpu",
    **options: Any,
) -> Explanation | dict[str, Explanation]:
    """Which part of each photo made the model match each text?

    Args:
        image: a path, a PIL picture, an array, or a list of them. The whole photo is explained, nothing is cropped.
        texts: one or more.
        model: a name for `eclip.load`, or a Backbone from `load` or `wrap`.
        method: a name of `eclip.METHODS`, or several, which share one forward pass.
        image_size: side in pixels; None = the model's own.
        resize: "squash" (a square, as in the paper) or "keep" (the photo's aspect ratio, about as many patches).
        templates: prompt templates, see `eclip.encode_texts`.
        positions: how position embeddings are resized, see `eclip.encode`.
        device: where a model given by name is put, see `eclip.load`.
        options: options of the method, see `eclip.METHODS[name].options`.

    Returns:
        An Explanation; for several methods a dict from their names.

    Raises:
        EclipError: bad input, of a class that says which: `eclip.errors` lists them.
    """
    photos = list(image) if isinstance(image, list | tuple) else [image]
    names = [method] if isinstance(method, str) else list(method)
    asked = _Question(texts, model, names, image_size, resize, templates, positions, device, options)
    opened = [open_photo(photo) for photo in photos]
    if not opened:
        raise ImageError("no photo was given: at least one is needed.")
    grids = {asked.grid(photo) for photo in opened}
    if len(grids) > 1:
        raise ImageError(
            f"photos of unlike shapes have maps of unlike grids {sorted(tuple(grid) for grid in grids)}: explain them one "
            'by one, use eclip.explain_each, or resize="squash".'
        )
    answers = asked.answer(opened, [_source(photo, index) for index, photo in enumerate(photos)])
    return answers[names[0]] if isinstance(method, str) else answers


def explain_each(
    images: Iterable[Photo],
    texts: str | Sequence[str],
    *,
    batch_size: int = 8,
    failures: list[tuple[str, str]] | None = None,
    model: str | Backbone = DEFAULT_MODEL,
    method: str = DEFAULT_METHOD,
    image_size: int | None = None,
    resize: str = "squash",
    templates: str | Sequence[str] = "none",
    positions: str = DEFAULT_POSITIONS,
    device: str = "cpu",
    **options: Any,
) -> Iterator[Explanation]:
    """One Explanation a photo, in order, for more photos than fit into memory; texts are encoded once.

    Args:
        images: any iterable; at most two batches of it are held at a time. Photos are read ahead while the model works.
        texts: as in `explain`, and so are the other settings.
        batch_size: photos in one forward pass, at least 1.
        failures: photos that cannot be read are added here as (source, error), and the rest goes on. None: they raise.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size must be at least 1, got {batch_size}.")
    asked = _Question(texts, model, [method], image_size, resize, templates, positions, device, options)
    batch: list[tuple[str, Image.Image]] = []
    for source, photo in _read_ahead(images, 2 * batch_size):
        if isinstance(photo, ImageError):
            if failures is None:
                raise photo
            failures.append((source, str(photo)))
            continue
        if batch and asked.grid(photo) != asked.grid(batch[0][1]):
            yield from _each(asked, method, batch)
            batch = []
        batch.append((source, photo))
        if len(batch) == batch_size:
            yield from _each(asked, method, batch)
            batch = []
    yield from _each(asked, method, batch)


class _Question:
    """Everything but the photos, checked and encoded once."""

    def __init__(
        self,
        texts: str | Sequence[str],
        model: str | Backbone,
        methods: list[str],
        image_size: int | None,
        resize: str,
        templates: str | Sequence[str],
        positions: str,
        device: str,
        options: dict[str, Any],
    ) -> None:
        self.texts = check_texts(texts)
        check_methods(methods)
        self.options = {name: options_for(name, methods, options) for name in methods}
        self.backbone = load(model, device=device) if isinstance(model, str) else model
        self.image_size, self.resize, self.positions = image_size, resize, positions
        self.templates = templates
        self.text = encode_texts(self.backbone, self.texts, templates)
        keeps = [METHODS[name].keep for name in methods]
        self.keep = None if None in keeps else max(keep for keep in keeps if keep is not None)

    def grid(self, photo: Image.Image) -> Grid:
        return self.backbone.grid_for(photo.size, self.image_size, self.resize)

    def answer(self, photos: list[Image.Image], sources: list[str]) -> dict[str, Explanation]:
        pixels = torch.stack([self.backbone.preprocess(photo, self.image_size, self.resize) for photo in photos])
        encoding = encode(self.backbone, pixels, keep=self.keep, positions=self.positions)
        scores = _numpy(cosine(encoding.feature, self.text))
        sizes = tuple(photo.size for photo in photos)
        return {
            name: Explanation(
                maps=_numpy(METHODS[name](encoding, self.text, **options)),
                scores=scores,
                texts=tuple(self.texts),
                sources=tuple(sources),
                sizes=sizes,
                signed=METHODS[name].signed,
                how=self.how(name, sources, pixels),
                photos=tuple(photos),
            )
            for name, options in self.options.items()
        }

    def how(self, method: str, sources: list[str], pixels: Tensor) -> dict[str, Any]:
        backbone = self.backbone
        shown = {key: value.tolist() if isinstance(value, Tensor) else value for key, value in self.options[method].items()}
        command = ["eclip", "explain", *sources]
        for text in self.texts:
            command += ["-t", text]
        command += ["--model", backbone.name, "--method", method, "--resize", self.resize]
        if self.image_size is not None:
            command += ["--image-size", str(self.image_size)]
        for template in [self.templates] if isinstance(self.templates, str) else self.templates:
            command += ["--template", template]
        for key, value in shown.items():
            command += ["--set", f"{key}={value}"]
        return {
            "model": backbone.name,
            "family": backbone.family,
            "method": method,
            "options": shown,
            "pixels": list(pixels.shape[2:]),
            "resize": self.resize,
            "templates": self.templates if isinstance(self.templates, str) else list(self.templates),
            "positions": self.positions,
            "device": str(backbone.weight.device),
            "precision": str(backbone.weight.dtype).removeprefix("torch."),
            "versions": versions(),
            "command": shlex.join(command) if all(Path(source).is_file() for source in sources) else None,
        }


def check_texts(texts: str | Sequence[str]) -> list[str]:
    """One or more texts, none of them empty.

    Raises:
        TextError: there is none, or one is empty.
    """
    listed = [texts] if isinstance(texts, str) else list(texts)
    if not listed:
        raise TextError("no text was given: at least one is needed, such as 'a dog'.")
    for number, text in enumerate(listed, 1):
        if not isinstance(text, str):
            raise TextError(f"text {number} of {len(listed)} must be a string, got {type(text).__name__}.")
        if not text.strip():
            raise TextError(f"text {number} of {len(listed)} is empty: write what to look for, such as 'a dog'.")
    return listed


def check_methods(names: Sequence[str]) -> None:
    """Every name is a method's.

    Raises:
        UnknownNameError: one is not.
        OptionError: there is none.
    """
    if not names:
        raise OptionError("no method was given; `eclip methods ls` shows them.")
    for name in names:
        if name not in METHODS:
            raise UnknownNameError("method", name, METHODS, "`eclip methods ls`")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("eclip", "torch", "torchvision", "open_clip_torch", "timm", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def _numpy(values: Float[Tensor, "..."]) -> Float[np.ndarray, "..."]:
    return values.float().cpu().numpy()


def _source(photo: Photo, index: int) -> str:
    return str(photo) if isinstance(photo, str | Path) else f"photo {index}"


def _each(asked: _Question, method: str, batch: list[tuple[str, Image.Image]]) -> Iterator[Explanation]:
    if not batch:
        return
    whole = asked.answer([photo for _, photo in batch], [source for source, _ in batch])[method]
    for index, (source, photo) in enumerate(batch):
        one = slice(index, index + 1)
        how = asked.how(method, [source], torch.empty(1, 3, *whole.how["pixels"]))
        yield Explanation(
            whole.maps[one], whole.scores[one], whole.texts, (source,), (photo.size,), whole.signed, how, (photo,)
        )


def _read_ahead(images: Iterable[Photo], count: int) -> Iterator[tuple[str, Image.Image | ImageError]]:
    def read(photo: Photo) -> Image.Image | ImageError:
        try:
            return open_photo(photo)
        except ImageError as error:
            return error

    waiting: deque[tuple[str, Future[Image.Image | ImageError]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="eclip-read") as pool:
        try:
            for index, photo in enumerate(images):
                waiting.append((_source(photo, index), pool.submit(read, photo)))
                if len(waiting) > count:
                    source, future = waiting.popleft()
                    yield source, future.result()
            while waiting:
                source, future = waiting.popleft()
                yield source, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
