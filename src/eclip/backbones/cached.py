"""Features that are needed repeatedly, of texts or of fixed images: computed once, in memory and on disk.

On disk they are kept by a hash of the weights that made them, and by device and threads, which change rounding, so that
they are the same bits as without. Models that `load` made are few, and all of their states are kept; of the others,
which may be in training, the last few. Beyond `MOST_BYTES`, what was used longest ago is deleted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from eclip.backbones.host import named_weights, steady
from eclip.backbones.load import is_loaded
from eclip.backbones.state import image_state, text_state
from eclip.errors import ResultError
from eclip.files import cache_folder, hash_weights, prune, read_array, replace_file, shrink

if TYPE_CHECKING:
    from eclip.backbones.backbone import Backbone

MOST = 6
"""At most this many entries are cached in memory per model."""
MOST_STATES = 8
"""At most this many states of models that `load` did not make are kept on disk, for each kind of features."""
MOST_BYTES = 1 << 28
"""At most about this many bytes are kept on disk, for each kind of features."""
EVERY = 256
"""After so many files that were written, the size is looked at again."""
PATIENCE = 2.0
"""Seconds; what takes longer is announced."""
_log = logging.getLogger("eclip")
_lock = threading.Lock()


def cached(backbone: Backbone, name: str, make: Callable[[], Tensor], *, of_images: bool = False) -> Tensor:
    """The result of `make` under this name, recomputed when weights or modules of its side change or move.

    The side is the text side, or the image side if `of_images`.
    """
    named = named_weights(backbone.model)
    weights = [weight for key, weight in named if key.startswith(backbone.visual) == of_images]
    firsts = tuple(tuple(weight.detach().flatten()[:1].tolist()) for weight in weights)  # torch misses some writes
    side, state = ("image", image_state(backbone)) if of_images else ("text", text_state(backbone))
    memo, key = backbone.memo, (side, name, state, firsts)  # which keeps hooks alive, so that no other has their id
    with _lock:
        found = memo.get(key)
    if found is None:
        found = make()
        with _lock:
            stale = [one for one in memo if one[0] == side and one[2:] != key[2:]]
            for other in stale or list(memo)[: 1 - MOST]:
                memo.pop(other, None)
            memo[key] = found
    return found


class Kept:
    """Features on disk, one small file each, so that processes do not block or corrupt each other.

    Args:
        backbone: whose features they are.
        kind: the name of a folder in the cache folder.
        state: a hash of all that they depend on; None = they are computed each time and not written.
    """

    def __init__(self, backbone: Backbone, kind: str, state: str | None) -> None:
        self.device, self.known = backbone.weight.device, is_loaded(backbone)
        self.kind, self.written = cache_folder(kind), 0
        above = self.kind if self.known else self.kind / "unnamed"
        on = f"cpu{torch.get_num_threads()}" if self.device.type == "cpu" else self.device.type
        self.folder = None if state is None else above / f"{state}-{on}"

    def get(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The features in a file of this name; without one they are computed and written."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.npy"
        try:
            features = torch.from_numpy(read_array(path)).to(self.device)
            with suppress(OSError):
                os.utime(path)  # it was used now
            return features
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            _log.warning("%s cannot be read (%s); it is computed again", path, error)
        features = make()
        try:
            replace_file(path, lambda file: np.save(file, features.cpu().numpy()))
        except ResultError as error:
            _log.warning("features are not cached: %s", error)
        if not self.known:
            prune(self.folder.parent, MOST_STATES)
        if self.written % EVERY == 0:
            shrink(self.kind, MOST_BYTES)
        self.written += 1
        return features


def side_hash(backbone: Backbone, *probes: np.ndarray, of_images: bool = False) -> str:
    """Hash of every weight of a side, and of what it computes for a probe, which reflects all that weights do not."""
    with steady(backbone.model):  # some adapters reregister their weights
        weights = backbone.model.state_dict()
    own = [(key, value) for key, value in weights.items() if key.startswith(backbone.visual) == of_images]
    digest = hash_weights(own, before=str(backbone.weight.dtype).encode())
    for probe in probes:
        digest.update(probe.tobytes())
    return digest.hexdigest()[:24]


def rounded(features: Tensor) -> np.ndarray:
    """Features as a probe of `side_hash`: equal on different devices."""
    return np.round(features.double().cpu().numpy(), 4)


def announce(what: str, backbone: Backbone, part: Callable[[], object], parts: float) -> None:
    """Log how long a task of many equal parts will take, if it is long; one part is run to find out."""
    start = time.perf_counter()
    part()
    seconds = (time.perf_counter() - start) * parts
    if seconds > PATIENCE:
        _log.warning("encoding %s with %s, once: about %.0f s", what, backbone.name, seconds)
