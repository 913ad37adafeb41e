"""Images read and resized by worker processes, which do not import torch; a crash or a hang costs one image only."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from pebble import ProcessExpired, ProcessPool
from PIL import Image

from eclip.backbones.fitting import Fitting
from eclip.errors import DataError, EclipError, ImageError
from eclip.images import Place, decode_image
from eclip.stream.sources import Item

PATIENCE = 60.0
"""Seconds after which an image counts as unreadable."""
MOST_TASKS = 5000
"""Images after which a worker process is replaced, so that what decoders leak is bounded."""


@dataclass(frozen=True)
class Decoded:
    """An image in the model's size.

    Attributes:
        pixels: 0 to 255.
        size: width and height of the upright image.
        image: the image itself, if it was asked for.
    """

    pixels: UInt8[np.ndarray, "height width 3"]
    size: tuple[int, int]
    image: Image.Image | None = None


@dataclass(frozen=True)
class Decoder:
    """What a worker does for each image.

    Attributes:
        fitting: from the image to an array of the model's size.
        image_size: as in `Fitting.resized`.
        resize: as in `Fitting.resized`.
        whole: also return the image.
    """

    fitting: Fitting
    image_size: int | None
    resize: str
    whole: bool = False

    def __call__(self, source: str, place: Place) -> Decoded:
        """Read, decode and resize an image.

        Raises:
            ImageError: it cannot be read.
        """
        image = decode_image(place.read(source), source)
        resized = self.fitting.resized(image, self.image_size, self.resize)
        return Decoded(resized, image.size, image if self.whole else None)


def default_workers() -> int:
    """How many processes decode images: half as many as there are cores, from 1 to 8."""
    return max(1, min(8, len(os.sched_getaffinity(0)) // 2 if hasattr(os, "sched_getaffinity") else 2))


class Reading:
    """Worker processes that decode images; a context manager.

    Args:
        decoder: what they do.
        workers: how many; 0 = a thread of this process, which a decoder that crashes or hangs takes down or blocks.
        timeout: seconds after which a worker is stopped and its image counts as unreadable.
    """

    def __init__(self, decoder: Decoder, workers: int, timeout: float = PATIENCE) -> None:
        self.decoder, self.workers, self.timeout = decoder, workers, timeout
        self._pool: Any = None

    def __enter__(self) -> Reading:
        if self.workers:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPool(self.workers, max_tasks=MOST_TASKS, initializer=_deaf, context=context)
        else:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="eclip-decode")
        return self

    def __exit__(self, *reason: object) -> None:
        if isinstance(self._pool, ThreadPoolExecutor):
            self._pool.shutdown(wait=True, cancel_futures=True)
        else:
            self._pool.stop()
            self._pool.join()

    def __call__(self, items: Iterable[Item], ahead: int) -> Iterator[tuple[Item, Decoded | ImageError]]:
        """Yield each item, in order, with its image or why it cannot be read; at most `ahead` are in memory."""
        waiting: deque[tuple[Item, Future[Decoded] | ImageError]] = deque()
        try:
            for item in items:
                waiting.append((item, ImageError(item.error) if item.error else self._submit(item)))
                if len(waiting) > ahead:
                    yield self._result(*waiting.popleft())
            while waiting:
                yield self._result(*waiting.popleft())
        finally:
            for _, future in waiting:
                if isinstance(future, Future):
                    future.cancel()

    def _submit(self, item: Item) -> Future[Decoded]:
        if isinstance(self._pool, ThreadPoolExecutor):
            return self._pool.submit(self.decoder, *item[:2])
        return self._pool.schedule(self.decoder, args=item[:2], timeout=self.timeout)

    def _result(self, item: Item, future: Future[Decoded] | ImageError) -> tuple[Item, Decoded | ImageError]:
        if isinstance(future, ImageError):
            return item, future
        try:
            return item, future.result()
        except ImageError as error:
            return item, error
        except TimeoutError:
            return item, ImageError(f"{item.source} was not decoded within {self.timeout:g} s; it is skipped.")
        except ProcessExpired as error:
            return item, ImageError(f"{item.source} crashed its decoder (exit code {error.exitcode}); it is skipped.")
        except MemoryError:
            return item, ImageError(f"{item.source} does not fit into memory; it is skipped.")
        except EclipError:  # a package for URLs is missing: of all images, not of this one
            raise
        except BrokenExecutor as error:
            raise DataError(
                "the processes that decode images have died. Run the same command again; if it happens again, with "
                "--workers 0 (Python: workers=0). A script that asks for workers needs `if __name__ == '__main__':`."
            ) from error
        except Exception as error:
            return item, ImageError(f"{item.source} cannot be read ({type(error).__name__}: {error}).")


def _deaf() -> None:
    """Leave Ctrl-C to the main process, which stops the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def batches(
    decoded: Iterable[tuple[Item, Decoded | ImageError]], size: int
) -> Iterator[list[tuple[Item, Decoded | ImageError]]]:
    """Lists of `size` consecutive images, whether they could be read or not; the last one may be shorter."""
    remaining = iter(decoded)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
