"""Where a run stands, on disk, whole at any moment; and how a run is asked to stop."""

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


def save(folder: Path, step: int, config: TrainConfig, data: str, probe: Probe, state: dict[str, Any]) -> None:
    """Replace the checkpoint.

    Args:
        folder: of the run.
        step: how many steps are done.
        config: of the run.
        data: digest of its pairs.
        probe: of its model, see `HeadConfig`.
        state: of the head, the optimizer and what else is trained.

    Raises:
        ResultError: it cannot be written.
    """
    kept = {"step": step, "config": config.plain(), "data": data, "probe": probe, "state": state}
    replace_file(folder / CHECKPOINT, lambda file: torch.save(kept, file))


def read(folder: Path, config: TrainConfig, data: str, probe: Probe) -> tuple[int, dict[str, Any]]:
    """The steps done and the state of the run in this folder.

    Raises:
        TrainingError: there is none, it cannot be read, or it is one of another configuration, model or other data.
    """
    file = folder / CHECKPOINT
    if not file.is_file():
        raise TrainingError(f"there is nothing to resume: {str(file)!r} is missing. Leave --resume out to begin.")
    try:
        kept = torch.load(file, map_location="cpu", weights_only=True)
        step, before, its_data, its_probe, state = (kept[key] for key in ("step", "config", "data", "probe", "state"))
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise TrainingError(f"the checkpoint {str(file)!r} cannot be read ({type(error).__name__}).") from error
    now = config.plain()
    for key, value in before.items():
        if key not in FREE and value != now.get(key):
            raise TrainingError(
                f"the run in {str(folder)!r} has {key}={value!r}, and now it is {now.get(key)!r}: resume with the "
                "same, or begin in another folder."
            )
    if its_data != data:
        raise TrainingError(f"the run in {str(folder)!r} was begun on other pairs than are there now.")
    if its_probe != probe:
        raise TrainingError(f"the run in {str(folder)!r} was begun with other weights than {config.model!r} has now.")
    return step, state


class Interrupts:
    """While it is entered, Ctrl-C and SIGTERM only leave a mark, so that the step under way is finished and saved.

    A second Ctrl-C is one of the usual kind. In a thread other than the first nothing is changed.

    Args:
        again: whether a second signal counts; not under torchrun, which passes on those that the terminal may have sent
            to all processes already, and ends whoever takes more than half a minute.

    Attributes:
        signal: the one that came, or None.
    """

    def __init__(self, *, again: bool = True) -> None:
        self.again = again
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
        self.signal = self.signal or number
        if self.again:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
