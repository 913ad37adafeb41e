"""Where a run stands, on disk, whole at any moment; and how a run is asked to stop."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from eclip.errors import TrainingError
from eclip.training.config import CHECKPOINT, FREE, TrainConfig


def save(folder: Path, step: int, config: TrainConfig, data: str, state: dict[str, Any]) -> None:
    """Replace the checkpoint.

    Args:
        folder: of the run.
        step: how many steps are done.
        config: of the run.
        data: digest of its pairs.
        state: of the head, the optimizer and what else is trained.
    """
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as part:
        torch.save({"step": step, "config": asdict(config), "data": data, "state": state}, part)
    os.replace(part.name, folder / CHECKPOINT)


def read(folder: Path, config: TrainConfig, data: str) -> tuple[int, dict[str, Any]]:
    """The steps done and the state of the run in this folder.

    Raises:
        TrainingError: there is none, it cannot be read, or it is one of another configuration or other data.
    """
    file = folder / CHECKPOINT
    if not file.is_file():
        raise TrainingError(f"there is nothing to resume: {str(file)!r} is missing. Leave --resume out to begin.")
    try:
        kept = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise TrainingError(f"the checkpoint {str(file)!r} cannot be read ({type(error).__name__}).") from error
    now = asdict(config)
    for key, value in kept["config"].items():
        if key not in FREE and value != now.get(key):
            raise TrainingError(
                f"the run in {str(folder)!r} has {key}={value!r}, and now it is {now.get(key)!r}: resume with the "
                "same, or begin in another folder."
            )
    if kept["data"] != data:
        raise TrainingError(f"the run in {str(folder)!r} was begun on other pairs than are there now.")
    return int(kept["step"]), kept["state"]


class Interrupts:
    """While it is entered, Ctrl-C and SIGTERM only leave a mark, so that the step under way is finished and saved.

    A second Ctrl-C is one of the usual kind. In a thread other than the first nothing is changed.

    Attributes:
        signal: the one that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._mark)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _mark(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
