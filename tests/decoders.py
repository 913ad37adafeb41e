"""Decoders that misbehave, for worker processes, which import this module: so nothing heavy here."""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from eclip.images import Place
from eclip.stream.decoding import Decoded


def misbehave(source: str, place: Place) -> Decoded:
    """Crash or hang if the name says so; otherwise one pixel with the size of the file's name."""
    if "crash" in source:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in source:
        time.sleep(600)
    if "odd" in source:
        raise RuntimeError("no such codec")
    if "exit" in source:
        os._exit(3)
    return Decoded(np.full((1, 1, 3), len(source), dtype=np.uint8), (1, 1))
