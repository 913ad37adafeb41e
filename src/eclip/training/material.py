"""What training reads of each pair: the rows of its photo, the guide on the same grid, the features of its captions.

Both encoders are frozen, so all of it can be computed once. `Cached` keeps it on disk, under keys of the model's
weights, the size and the data; `Streamed` computes it for every batch anew and needs no disk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from eclip.backbones.base import Backbone, encode
from eclip.datasets.captions import Pair, digest
from eclip.errors import DataError, ImageError, ResultError
from eclip.guides import GUIDES, Seen, on_grid
from eclip.head import head_rows
from eclip.text import encode_texts
from eclip.training.store import SHARD_BYTES, Store

PHOTOS_AT_ONCE = 16
CAPTIONS_IN_SHARD = 4096

Places = NDArray[np.int64]
Tell = Callable[[str, int, int, str], None]
"""Hears (what is done, how many are done, of how many, a word on it)."""


@dataclass(frozen=True)
class Batch:
    """Pairs as a head is trained on them.

    Attributes:
        rows: of each patch, see `eclip.head.head_rows`; half precision as kept on disk.
        guide: from 0 to 1 a patch, the largest 1.
        text: unit length.
        good: False where the photo could not be read.
    """

    rows: Float[Tensor, "pair patch channel"]
    guide: Float[Tensor, "pair patch"]
    text: Float[Tensor, "pair feature"]
    good: Bool[Tensor, " pair"]


@runtime_checkable
class Material(Protocol):
    """Where batches come from."""

    bad: dict[int, str]
    """Pairs whose photo cannot be read, as far as they are known, by place, with the reason."""

    def batch(self, photos: Places, owners: Places, captions: Places) -> Batch:
        """These photos, each with a caption: of which pair, and which of its own."""
        ...


@dataclass(frozen=True)
class Looking:
    """How pairs are looked at.

    Attributes:
        backbone: whose rows and text features are taken.
        channels: of a row.
        source: see `eclip.head.head_rows`.
        guide: a name of `GUIDES`.
        guide_options: its options.
        image_size: side in pixels that photos are squashed to; None = the model's own.
        workers: threads that read photos.
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
        """How many a photo has."""
        grid = self.backbone.grid_for((1, 1), self.image_size)
        return grid.row * grid.col

    def look(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, dict[int, str]]:
        """Rows (pair, patch, channel) and guide (pair, patch) in half precision, and which photos cannot be read, why.

        Of those, rows are zero and the guide is one.

        Raises:
            DataError: a row is too large for half precision, or not finite.
        """
        rows = torch.zeros(len(pairs), self.patches, self.channels, dtype=torch.float16)
        guide = torch.ones(len(pairs), self.patches, dtype=torch.float16)
        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            opened = list(pool.map(_opened, pairs))
        bad = {place: str(photo) for place, photo in enumerate(opened) if isinstance(photo, ImageError)}
        whole = {place: photo for place, photo in enumerate(opened) if not isinstance(photo, ImageError)}
        for start in range(0, len(whole), PHOTOS_AT_ONCE):
            part = list(whole)[start : start + PHOTOS_AT_ONCE]
            photos = [whole[place] for place in part]
            pixels = torch.stack([self.backbone.preprocess(photo, self.image_size) for photo in photos])
            encoding = encode(self.backbone, pixels, keep=max(1, GUIDES[self.guide].keep))
            rows[part] = head_rows(encoding, self.source).half().cpu()
            seen = Seen(photos, [pairs[place].key for place in part], encoding)
            maps = GUIDES[self.guide](seen, **self.guide_options)
            guide[part] = on_grid(maps, encoding.grid).flatten(1).half().cpu()
        if not bool(rows.isfinite().all()):
            raise DataError(f"rows of {self.backbone.name} are not finite in half precision, so it cannot be cached.")
        return rows, guide, bad

    def read(self, captions: list[str]) -> Float[Tensor, "text feature"]:
        """Unit features of captions, float32 on the CPU."""
        return encode_texts(self.backbone, captions).float().cpu()


def _opened(pair: Pair) -> Image.Image | ImageError:
    try:
        return pair.open()
    except ImageError as error:
        return error


class Streamed:
    """Batches computed anew each time, for data that no disk holds."""

    def __init__(self, looking: Looking, pairs: Sequence[Pair]) -> None:
        self.looking, self.pairs = looking, pairs
        self.bad: dict[int, str] = {}

    def batch(self, photos: Places, owners: Places, captions: Places) -> Batch:
        """These photos, each with a caption: of which pair, and which of its own."""
        rows, guide, bad = self.looking.look([self.pairs[photo] for photo in photos])
        self.bad |= {int(photos[index]): why for index, why in bad.items()}
        text = self.looking.read(
            [self.pairs[owner].captions[which] for owner, which in zip(owners, captions, strict=True)]
        )
        good = torch.tensor([index not in bad for index in range(len(photos))])
        return Batch(rows, guide, text, good)


class Cached:
    """Batches from disk; `fill` computes what is not there yet.

    Rows, guides and captions lie in three folders, each under a key of all that its numbers depend on: runs with
    another guide share the rows, and runs that differ in training alone share everything.
    """

    def __init__(self, looking: Looking, pairs: Sequence[Pair], folder: Path) -> None:
        self.looking, self.pairs, self.folder = looking, pairs, folder
        backbone, patches = looking.backbone, looking.patches
        image = _weights(backbone, image_side=True)
        data = digest(pairs)
        seen = [image, data, looking.source, looking.image_size, list(backbone.mean), backbone.interpolation]
        shard = max(1, SHARD_BYTES // (2 * patches * looking.channels))
        self.captions = [caption for pair in pairs for caption in pair.captions]
        self.first = np.cumsum([0, *(len(pair.captions) for pair in pairs)])
        self.rows = Store(folder / f"rows-{_key(*seen)}", len(pairs), (patches, looking.channels), np.float16, shard)
        guide = [looking.guide, looking.guide_options]
        self.guides = Store(folder / f"guides-{_key(*seen, *guide)}", len(pairs), (patches,), np.float16, shard)
        width = backbone.encode_text(["a"]).shape[1]
        texts = _key(_weights(backbone, image_side=False), self.captions)
        self.texts = Store(folder / f"texts-{texts}", len(self.captions), (width,), np.float32, CAPTIONS_IN_SHARD)
        self.photo_stores = [self.rows] if looking.guide == "none" else [self.rows, self.guides]
        self.bad: dict[int, str] = {}

    @property
    def bytes_missing(self) -> int:
        """What `fill` will write."""
        return sum(store.bytes_missing() for store in (*self.photo_stores, self.texts))

    def fill(self, tell: Tell, rank: int = 0, world: int = 1) -> None:
        """Compute what is not there, shard by shard; each of `world` processes takes its own.

        Raises:
            ResultError: the disk has no room for it.
        """
        if rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.bytes_missing > (free := shutil.disk_usage(self.folder).free):
                raise ResultError(
                    f"the cache needs {self.bytes_missing / 2**30:.1f} GiB in {str(self.folder)!r}, where "
                    f"{free / 2**30:.1f} GiB are free: --cache DIR puts it elsewhere, --no-cache does without."
                )
        missing = {span.start: span for store in self.photo_stores for span in store.missing()}
        mine = [missing[start] for start in sorted(missing) if start // self.rows.shard % world == rank]
        total, done = sum(map(len, mine)), 0
        for span in mine:
            rows, guide, bad = self.looking.look([self.pairs[place] for place in span])
            found = {span.start + index: why for index, why in bad.items()}
            for store, values in zip(self.photo_stores, (rows, guide), strict=False):
                if span in store.missing():
                    store.write(span.start, values.numpy(), found)
            done += len(span)
            tell("photos", done, total, "")
        mine = [span for span in self.texts.missing() if span.start // self.texts.shard % world == rank]
        total, done = sum(map(len, mine)), 0
        for span in mine:
            self.texts.write(span.start, self.looking.read(self.captions[span.start : span.stop]).numpy())
            done += len(span)
            tell("captions", done, total, "")

    def note_bad(self) -> None:
        """Know which photos cannot be read; to be called when all processes have filled."""
        self.bad = self.rows.bad()

    def batch(self, photos: Places, owners: Places, captions: Places) -> Batch:
        """These photos, each with a caption: of which pair, and which of its own."""
        good = torch.tensor([int(photo) not in self.bad for photo in photos])
        rows, text = self.rows.take(photos), self.texts.take(self.first[owners] + captions)
        guide = np.ones((len(photos), self.looking.patches), np.float16)
        if self.looking.guide != "none":
            guide = self.guides.take(photos)
        return Batch(torch.from_numpy(rows), torch.from_numpy(guide), torch.from_numpy(text), good)


def _weights(backbone: Backbone, *, image_side: bool) -> str:
    """Hash of the weights of one side, whatever the device."""
    hashed = hashlib.sha256()
    for name, value in backbone.model.state_dict().items():
        if name.startswith(backbone.visual) == image_side:
            hashed.update(name.encode())
            hashed.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]
