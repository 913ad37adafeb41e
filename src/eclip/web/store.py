"""Images in memory, by an id that cannot be guessed; forgotten when the memory is full or after a while."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from eclip.errors import ImageError
from eclip.images import open_image
from eclip.web.refusals import Refusal, gone
from eclip.web.settings import Limits

if TYPE_CHECKING:
    from torch import Tensor

    from eclip.backbones.encoding import Encoding

LONGEST_NAME = 120


@dataclass(eq=False)
class Held:
    """An image, and what was computed of it.

    Attributes:
        id: of the image.
        name: of its file, as the caller gave it; never used as a path.
        source: RGB and upright, or the file of the gallery that it is read from.
        encodings: by model, with the seconds of their forward pass.
        examples: features of its regions and of all of it, as examples, by model and box, with their provenance.
        used: when it was last asked for.
        stays: it belongs to the gallery and is not forgotten; its encodings are.
        stamp: of its file in the gallery, when it was encoded.
        thumbnail: a small JPEG of it, once it was asked for.
    """

    id: str
    name: str
    source: Image.Image | Path
    encodings: dict[str, tuple[Encoding, float]] = field(default_factory=dict)
    examples: dict[tuple[str, Any], tuple[Tensor, dict[str, Any]]] = field(default_factory=dict)
    used: float = 0.0
    stays: bool = False
    stamp: tuple[int, ...] = ()
    thumbnail: bytes = b""

    @property
    def image(self) -> Image.Image:
        """The image, RGB and upright.

        Raises:
            ImageError: its file in the gallery cannot be read.
        """
        if isinstance(self.source, Image.Image):
            return self.source
        try:
            return open_image(self.source)
        except ImageError as error:
            raise ImageError(str(error).replace(str(self.source), self.name)) from None  # without its folder

    def notice(self) -> None:
        """Forget what was computed of a file of the gallery that has changed."""
        if isinstance(self.source, Path):
            stamp: tuple[int, ...] = ()
            with suppress(OSError):
                now = os.stat(self.source)
                stamp = (now.st_mtime_ns, now.st_size, now.st_ino)
            if stamp != self.stamp:
                self.encodings.clear()
                self.examples.clear()
                self.stamp, self.thumbnail = stamp, b""

    @property
    def bytes(self) -> int:
        """Of memory, roughly."""
        pixels = 3 * self.source.width * self.source.height if isinstance(self.source, Image.Image) else 0
        return pixels + sum(size_of(encoding) for encoding, _ in list(self.encodings.values()))


class Store:
    """All images that are held; safe to use from several threads. The clock has seconds that only grow."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self.clock = limits, clock
        self._key, self._lock = secrets.token_bytes(32), threading.RLock()
        self._held: OrderedDict[str, Held] = OrderedDict()  # the one used longest ago is first

    def add(self, name: str, data: bytes, image: Image.Image) -> Held:
        """Hold an image, RGB and upright; the same file by the same name again gets the same id.

        Raises:
            Refusal: it is larger than the memory for all images.
        """
        size = 3 * image.width * image.height
        if size > self.limits.memory:
            message = f"the image takes {size >> 20} MiB, more than the {self.limits.memory >> 20} MiB for all images."
            raise Refusal(413, "TooLarge", message, "Downscale it first.")
        name = plain_name(name)
        digest = hmac.new(self._key, name.encode(errors="replace") + b"\0" + data, hashlib.sha256).hexdigest()[:32]
        with self._lock:
            held = self._held.get(digest) or Held(digest, name, image)
            self._held[digest] = held
            self._touch(held)
            self.sweep()
        return held

    def keep(self, id: str, name: str, file: Path) -> None:
        """Hold an image of the gallery for as long as the server runs."""
        with self._lock:
            self._held[id] = Held(id, name, file, stays=True)

    def get(self, id: str) -> Held:
        """The image with this id.

        Raises:
            Refusal: there is none.
        """
        with self._lock:
            self.sweep()
            held = self._held.get(id)
            if held is None:
                raise gone(id)
            held.notice()
            self._touch(held)
            return held

    def forget(self, id: str) -> None:
        """Forget an uploaded image.

        Raises:
            Refusal: there is none, or it belongs to the gallery.
        """
        with self._lock:
            if self.get(id).stays:
                raise Refusal(403, "Gallery", "images of the gallery cannot be removed.")
            del self._held[id]

    def sweep(self) -> None:
        """Forget what was not used for long; while there is too much, encodings, then images, the oldest first."""
        with self._lock:
            now = self.clock()
            for held in [one for one in self._held.values() if now - one.used > self.limits.idle]:
                self._drop(held)
            older = list(self._held.values())[:-1]  # the newest stays
            total = self.bytes
            for held in older:
                if total > self.limits.memory:
                    total -= held.bytes
                    held.encodings.clear()
                    total += held.bytes
            for held in older:
                if total > self.limits.memory:
                    total -= held.bytes
                    self._drop(held)

    @property
    def bytes(self) -> int:
        """Of memory, roughly."""
        with self._lock:
            return sum(one.bytes for one in self._held.values())

    def __len__(self) -> int:
        """Uploaded images."""
        with self._lock:
            return sum(not one.stays for one in self._held.values())

    def _touch(self, held: Held) -> None:
        held.used = self.clock()
        self._held.move_to_end(held.id)

    def _drop(self, held: Held) -> None:
        held.encodings.clear()
        if not held.stays:
            del self._held[held.id]


def size_of(encoding: Encoding) -> int:
    """Bytes of the tensors of an encoding."""
    some = [encoding.pixels, encoding.feature, *encoding.inputs, encoding.last, encoding.entry, encoding.trunk]
    for known in list(encoding.memo.values()):
        some += known if isinstance(known, tuple) else [known]
    each = {id(one): one.numel() * one.element_size() for one in some if one is not None}
    return sum(each.values())


def plain_name(name: str) -> str:
    """The last part of a file's name without control characters, shortened."""
    last = PurePosixPath(name.replace("\\", "/")).name
    plain = "".join(letter for letter in last if letter.isprintable()).strip()
    return plain[-LONGEST_NAME:] or "image"
