"""What is measured, and how: a task for each kind of rules in `eclip.evaluation.protocols`.

A task scores a batch of images, whose result is kept on disk, and makes rows of all results. To add one: a class of
rules in `protocols`, a file here with its task, a line in the dict. The dict imports no torch.
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
    """Scores batches, and makes rows of what they gave."""

    def score(self, items: Sequence[Any], start: int) -> BatchResult:
        """What a batch gives; `start` is the place of its first item in the data set."""

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """A row for each method and baseline."""


TASKS: dict[str, str] = {
    "localize": "LocalizeTask",
    "segment": "SegmentTask",
    "faithful": "FaithfulTask",
    "sanity": "SanityTask",
    "recognize": "RecognizeTask",
}
"""By the name of the rules' task: the class in the file of that name."""


def task_of(asked: EvaluationQuery) -> Task:
    """The task of a question."""
    name = asked.protocol.task
    made: Task = getattr(importlib.import_module(f"{__name__}.{name}"), TASKS[name])(asked)
    return made
