"""What training needs of each pair: the rows of its image, the guide on the same grid, the features of its captions.

Both encoders are frozen, so all of it can be computed once. `Cached` stores it on disk, keyed by the model's weights,
the image size and the data; `Streamed` computes it again for each batch and needs no disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from eclip.backbones.backbone import Backbone, eval_no_grad
from eclip.backbones.head import head_rows
from eclip.backbones.host import named_tensors
from eclip.backbones.hub_errors import free_space
from eclip.backbones.view import View
from eclip.datasets.caption_sources import Pair, digest
from eclip.errors import DataError, ImageError, ResultError, TextCutWarning
from eclip.files import hash_weights
from eclip.guides import GUIDES, Seen, on_grid
from eclip.texts.encode import encode_texts
from eclip.training.cache import Store

IMAGES_AT_ONCE = 16
IMAGES_IN_SHARD, BYTES_IN_SHARD = 512, 2**26
CAPTIONS_IN_SHARD = 4096
LAYOUT = 1
"""Version of the format on disk; changing it creates a new cache."""

Places = NDArray[np.int64]
Texts = Sequence[tuple[str, ...]]
"""The texts of each pair."""
OnProgress = Callable[[str, int, int, str], None]
"""Called with (phase, number done, total number, note)."""


@dataclass(frozen=True)
class Batch:
    """Pairs as inputs for training a head.

    Attributes:
        rows: of each patch, see `eclip.backbones.head.head_rows`; half precision as stored on disk.
        guide: weights of patches in [0, 1] with maximum 1.
        text: unit length.
        good: False if the image could not be read.
        number: index of the text among the words of the run; None for captions.
        false_negatives: words that must not count as negatives of each image; None for captions.
    """

    rows: Float[Tensor, "pair patch channel"]
    guide: Float[Tensor, "pair patch"]
    text: Float[Tensor, "pair feature"]
    good: Bool[Tensor, " pair"]
    number: Int[Tensor, " pair"] | None = None
    false_negatives: Bool[Tensor, "pair word"] | None = None


@dataclass(frozen=True)
class PairEncoder:
    """Encodes pairs with a frozen model: the rows and the guide of an image, the features of a caption.

    Attributes:
        backbone: computes rows and text features.
        channels: of a row.
        source: see `eclip.backbones.head.head_rows`.
        guide: a name in `GUIDES`.
        guide_options: its options.
        image_size: side in pixels of the square to which images are resized; None = the model's own.
        workers: threads that read images.
    """

    backbone: Backbone
    channels: int
    source: str
    guide: str = "none"
    guide_options: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    workers: int = 1

    @property
    def patches(self) -> int:
        """Number of patches per image."""
        grid = self.backbone.grid_for((1, 1), self.image_size)
        return grid.row * grid.col

    def encode_images(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, dict[int, str]]:
        """Rows (pair, patch, channel) and guide (pair, patch) in half precision, and unreadable images with reasons.

        For unreadable images, rows are zero and the guide is one.

        Raises:
            DataError: a row is too large for half precision, or not finite.
        """
        rows = torch.zeros(len(pairs), self.patches, self.channels, dtype=torch.float16, device="cpu")
        guide = torch.ones(len(pairs), self.patches, dtype=torch.float16, device="cpu")
        bad: dict[int, str] = {}
        for start, opened in self._opened(pairs):
            bad |= {start + place: str(image) for place, image in enumerate(opened) if isinstance(image, ImageError)}
            whole = {start + place: image for place, image in enumerate(opened) if not isinstance(image, ImageError)}
            if not whole:
                continue
            part, images = list(whole), list(whole.values())
            encoding = View(self.image_size).encode(self.backbone, images, max(1, GUIDES[self.guide].keep))
            with eval_no_grad(self.backbone.model):
                rows[part] = head_rows(encoding, self.source).half().cpu()
            seen = Seen(images, [pairs[place].key for place in part], encoding)
            maps = GUIDES[self.guide](seen, **self.guide_options)
            guide[part] = on_grid(maps, encoding.grid).flatten(1).half().cpu()
        if not bool(rows.isfinite().all()):
            raise DataError(f"rows of {self.backbone.name} exceed the range of half precision, which stores them.")
        return rows, guide, bad

    def encode_captions(self, captions: Sequence[str]) -> Float[Tensor, "text feature"]:
        """Unit features of captions, float32 on the CPU; a single warning counts those that are truncated."""
        once = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", TextCutWarning)
            features = encode_texts(self.backbone, list(once)).float().cpu()
        cut = [one for one in caught if issubclass(one.category, TextCutWarning)]
        for other in (one for one in caught if one not in cut):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        if cut:
            first = cut[0].message
            warnings.warn(
                f"{len(cut)} of {len(once)} texts are truncated. The first: {first}", TextCutWarning, stacklevel=2
            )
        return features[[once[caption] for caption in captions]]

    def _opened(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, list[Image.Image | ImageError]]]:
        """The first index and the images of each small batch of pairs, while threads open only the next batch."""
        spans = [range(len(pairs))[start : start + IMAGES_AT_ONCE] for start in range(0, len(pairs), IMAGES_AT_ONCE)]
        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            coming = [pool.submit(_image, pairs[place]) for place in spans[0]]
            for span, following in zip(spans, [*spans[1:], range(0)], strict=True):
                opened, coming = coming, [pool.submit(_image, pairs[place]) for place in following]
                yield span.start, [image.result() for image in opened]


def _image(pair: Pair) -> Image.Image | ImageError:
    try:
        return pair.open()
    except ImageError as error:
        return error


class Streamed:
    """Batches computed on demand, for data too large to cache on disk.

    Attributes:
        bad: pairs whose image cannot be read, as far as known, by index, with the reason.
    """

    def __init__(self, encoder: PairEncoder, pairs: Sequence[Pair], texts: Texts) -> None:
        self.encoder, self.pairs, self.texts = encoder, pairs, texts
        self.bad: dict[int, str] = {}

    def batch(self, images: Places, owners: Places, captions: Places) -> Batch:
        """The batch of these images, each with the text number `captions` of the pair `owners`."""
        rows, guide, bad = self.encoder.encode_images([self.pairs[image] for image in images])
        self.bad |= {int(images[index]): why for index, why in bad.items()}
        own = [self.texts[owner][which] for owner, which in zip(owners, captions, strict=True)]
        text = self.encoder.encode_captions(own)
        good = torch.tensor([index not in bad for index in range(len(images))], dtype=torch.bool, device="cpu")
        return Batch(rows, guide, text, good)


class Cached:
    """Batches from disk; `fill` computes what is missing.

    Rows, guides and texts have separate folders, each keyed by everything that its values depend on, such as all pairs,
    their files' sizes and times, the weights and the settings of modules: runs with different guides share the rows,
    runs that differ only in training share everything, and a run that uses only the first `count` pairs needs only
    their shards. A text of several pairs is stored once.

    Attributes:
        bad: used pairs whose image cannot be read, by index, with the reason; set by `note_bad`.
    """

    def __init__(
        self, encoder: PairEncoder, pairs: Sequence[Pair], texts: Texts, folder: Path, count: int | None = None
    ) -> None:
        self.encoder, self.pairs, self.said, self.folder = encoder, pairs, texts, folder
        self.count = len(pairs) if count is None else count
        backbone, patches, channels = encoder.backbone, encoder.patches, encoder.channels
        shard = min(IMAGES_IN_SHARD, max(1, BYTES_IN_SHARD // (2 * patches * channels)))
        files = dict.fromkeys(pair.place.file for pair in pairs)
        data = [LAYOUT, digest(pairs), [_changed(file) for file in files], shard]
        colors = [backbone.mean, backbone.std, backbone.interpolation]
        seen = [*data, _weights(backbone, image_side=True), colors, encoder.source, encoder.image_size]
        guide = [encoder.guide, state_of(encoder.guide_options)]
        self.rows = Store(folder / f"rows-{key_of(*seen)}", len(pairs), (patches, channels), np.float16, shard)
        self.guides = Store(folder / f"guides-{key_of(*seen, *guide)}", len(pairs), (patches,), np.float16, shard)
        self.number = {text: number for number, text in enumerate(dict.fromkeys(chain.from_iterable(texts)))}
        width = backbone.encode_text(["a"]).shape[1]
        ids = backbone.tokenize([*self.number][:CAPTIONS_IN_SHARD]).tolist()  # tokenizers may share all weights
        key = key_of(LAYOUT, [*self.number], ids, _weights(backbone, image_side=False))
        self.texts = Store(folder / f"texts-{key}", len(self.number), (width,), np.float32, CAPTIONS_IN_SHARD)
        self.used = len(set(chain.from_iterable(texts[: self.count])))
        self.image_stores = [self.rows] if encoder.guide == "none" else [self.rows, self.guides]
        self.bad: dict[int, str] = {}

    @property
    def bytes_missing(self) -> int:
        """The number of bytes that `fill` will write."""
        images = sum(store.bytes_missing(self.count) for store in self.image_stores)
        return images + self.texts.bytes_missing(self.used)

    def fill(self, on_progress: OnProgress, rank: int = 0, world: int = 1, *, retry: bool = True) -> None:
        """Compute what is missing, shard by shard; each of `world` processes computes its share.

        If `retry`, shards with images that could not be read, but can be now, are computed again.

        Raises:
            ResultError: the disk is too small or cannot be written.
        """
        if rank == 0 and (size := self.bytes_missing):
            if size > (free := free_space(self.folder)):
                raise ResultError(
                    f"the cache needs {size / 2**30:.1f} GiB in {str(self.folder)!r}, but only {free / 2**30:.1f} GiB "
                    "are free: set another folder with --cache DIR, or use --no-cache."
                )
            on_progress("cache", 0, 0, f"writing {size / 2**20:,.0f} MiB to {self.folder}")
        missing = {span.start: span for store in self.image_stores for span in store.missing(self.count)}
        again = {span.start: span for span in (self._mended() if retry else ())}
        missing |= again
        mine = [missing[start] for start in sorted(missing) if start // self.rows.shard % world == rank]
        total, done = sum(map(len, mine)), 0
        for span in mine:
            rows, guide, bad = self.encoder.encode_images(self.pairs[span.start : span.stop])
            found = {span.start + index: why for index, why in bad.items()}
            for store, values in zip(self.image_stores, (rows, guide), strict=False):
                if span.start in again or not store.has(span):
                    store.write(span.start, values.numpy(), found)
            done += len(span)
            on_progress("images", done, total, "")
        mine = [span for span in self.texts.missing(self.used) if span.start // self.texts.shard % world == rank]
        said, total, done = [*self.number], sum(map(len, mine)), 0
        for span in mine:
            self.texts.write(span.start, self.encoder.encode_captions(said[span.start : span.stop]).numpy())
            done += len(span)
            on_progress("captions", done, total, "")

    def _mended(self) -> set[range]:
        """The shards of used images that could not be read when these were made, but can be now."""
        self.note_bad()
        mended = (place for place in self.bad if not isinstance(_image(self.pairs[place]), ImageError))
        return {self.rows.span(place // self.rows.shard) for place in mended}

    def note_bad(self) -> None:
        """Set `bad`; call it when all processes have finished `fill`."""
        bad = chain.from_iterable(store.bad().items() for store in self.image_stores)  # each as its shards were made
        self.bad = {place: why for place, why in bad if place < self.count}

    def batch(self, images: Places, owners: Places, captions: Places) -> Batch:
        """The batch of these images, each with the text number `captions` of the pair `owners`."""
        good = torch.tensor([int(image) not in self.bad for image in images], dtype=torch.bool, device="cpu")
        said = [self.number[self.said[owner][which]] for owner, which in zip(owners, captions, strict=True)]
        rows, text = self.rows.take(images), self.texts.take(np.array(said, np.int64))
        guide = np.ones((len(images), self.encoder.patches), np.float16)
        if self.encoder.guide != "none":
            guide = self.guides.take(images)
        return Batch(torch.from_numpy(rows), torch.from_numpy(guide), torch.from_numpy(text), good)


PairData = Cached | Streamed
"""A source of batches."""


def _changed(file: str) -> int | None:
    """When a file was changed; None if that cannot be told."""
    with suppress(OSError):
        return os.stat(file).st_mtime_ns
    return None


def state_of(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a guide and, of a folder among them, also what it contains."""
    return {option: _state(value) for option, value in options.items()}


def _state(value: Any) -> Any:
    if not isinstance(value, str | Path) or not Path(value).is_dir():
        return value
    files = ((file.name, file.stat()) for file in sorted(Path(value).iterdir()))
    return [str(value), *((name, state.st_size, state.st_mtime_ns) for name, state in files)]


def _weights(backbone: Backbone, *, image_side: bool) -> str:
    """Hash of the weights and buffers of the image side or of the text side, and of what else its modules say.

    That is their classes and settings, such as the number of heads, which change values but have no weights.
    """

    def is_own(name: str) -> bool:
        return name.startswith(backbone.visual) == image_side

    modules = ((name, module) for name, module in backbone.model.named_modules() if is_own(f"{name}."))
    said = [(name, type(module).__qualname__, _settings(module)) for name, module in modules]
    own = (one for one in named_tensors(backbone.model) if is_own(one[0]))
    return hash_weights(own, before=json.dumps(said).encode()).hexdigest()


def _settings(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that are numbers, strings, or tuples of these."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
    parts = {name: value if isinstance(value, tuple) else (value,) for name, value in own.items()}
    return {name: own[name] for name in own if all(isinstance(one, int | float | str) for one in parts[name])}


def key_of(*parts: Any) -> str:
    """16 hexadecimal digits that identify these JSON values."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]
