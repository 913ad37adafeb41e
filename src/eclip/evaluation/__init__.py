"""Evaluation tasks, one for each class in `eclip.evaluation.rules`.

A task scores batches of images, whose results are kept on disk, and computes rows from all results. To add one: a class
in `rules`, a file here with its task, a line in the dict. The dict does not import torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from eclip.evaluation.query import EvaluationQuery
    from eclip.evaluation.row import Row
    from eclip.evaluation.store import BatchResult


@runtime_checkable
class Task(Protocol):
    """Scores batches, and computes rows from their results."""

    def score(self, items: Sequence[Any], start: int) -> BatchResult:
        """Score a batch; `start` is the position of its first item in the data set."""

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute a row for each method and baseline.

        Raises:
            DataError: no image could be read, none shows a class, or a baseline is as good as the true masks.
        """


TASKS: dict[str, str] = {
    "localize": "LocalizeTask",
    "segment": "SegmentTask",
    "faithful": "FaithfulTask",
    "sanity": "SanityTask",
    "recognize": "RecognizeTask",
    "ground": "GroundTask",
    "points": "PointsTask",
    "gaze": "GazeTask",
    "absent": "AbsentTask",
    "words": "WordsTask",
    "contrast": "ContrastTask",
}
"""The class of each task, which is in the file of the task's name."""


def task_of(asked: EvaluationQuery) -> Task:
    """The task of a query."""
    name = asked.protocol.task
    made: Task = getattr(importlib.import_module(f"{__name__}.{name}"), TASKS[name])(asked)
    return made
