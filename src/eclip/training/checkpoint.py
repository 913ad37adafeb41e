"""The checkpoint of a run, written atomically, and the signals that interrupt a run."""

from __future__ import annotations

import pickle
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from eclip.errors import TrainingError
from eclip.files import replace_file
from eclip.training.config import CHECKPOINT, FREE, TrainConfig

Probe = tuple[float, ...]


def save(
    folder: Path, step: int, config: TrainConfig, data: str, probe: Probe, batch_size: int, state: dict[str, Any]
) -> None:
    """Replace the checkpoint of a run after this many steps.

    `data` is the digest of its pairs and of the maps of its guide, `state` the learner's.

    Raises:
        ResultError: it cannot be written.
    """
    kept = {"step": step, "config": config.plain(), "data": data, "probe": probe, "state": state}
    kept["batch_size"] = batch_size
    replace_file(folder / CHECKPOINT, lambda file: torch.save(kept, file))


def read(folder: Path, config: TrainConfig, data: str, probe: Probe) -> tuple[int, int | None, dict[str, Any]]:
    """The number of completed steps, the batch size (None: not recorded) and the state of the run in this folder.

    Raises:
        TrainingError: the checkpoint is missing, unreadable, or of another configuration, model or data set.
    """
    file = folder / CHECKPOINT
    if not file.is_file():
        raise TrainingError(f"there is nothing to resume: {str(file)!r} does not exist. Leave --resume out to start.")
    try:
        kept = torch.load(file, map_location="cpu", weights_only=True)
        step, before, its_data, its_probe, state = (kept[key] for key in ("step", "config", "data", "probe", "state"))
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise TrainingError(f"the checkpoint {str(file)!r} cannot be read ({type(error).__name__}).") from error
    now = config.plain()
    for key, value in before.items():
        if key not in FREE and value != now.get(key):
            raise TrainingError(
                f"the run in {str(folder)!r} has {key}={value!r}, but now it is {now.get(key)!r}: resume with the same "
                "value, or start in another folder."
            )
    if its_data != data:
        maps = " or the maps of the guide" if config.guide_options else ""
        raise TrainingError(
            f"the pairs{maps} have changed since the run in {str(folder)!r} was started: restore them, or start in "
            "another folder."
        )
    if its_probe != probe:
        raise TrainingError(f"the weights of {config.model!r} have changed since the run in {str(folder)!r} started.")
    return step, kept.get("batch_size"), state


class Interrupts:
    """A context in which Ctrl-C and SIGTERM are only recorded, so that the current step is finished and saved.

    A second Ctrl-C has its usual effect. Outside the main thread, signals are not changed.

    Args:
        again: whether a second signal has its usual effect; not under torchrun, which forwards signals that a terminal
            may already have sent to all processes, and kills any process that takes more than half a minute.

    Attributes:
        signal: the first signal received, or None.
    """

    def __init__(self, *, again: bool = True) -> None:
        self.again = again
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not None:  # one that was not installed by Python could not be restored
                    self._before[number] = signal.signal(number, self._mark)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _mark(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if self.again:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
