"""Worker: one thread that holds the models and answers requests, a turn for each caller."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

from eclip.backbones.masking import PAUSE
from eclip.web.refusals import busy, closing, too_slow

Check = Callable[[], None]
"""Raises if nobody waits for the answer anymore, or if it takes too long."""
Need = tuple[str, str]
"""The id of an image and the name of a model that has to encode it."""
LOOK_AHEAD = 8
"""Waiting requests whose images are encoded in the same forward pass."""


@dataclass(eq=False)
class Job:
    """A request that waits for its turn.

    Attributes:
        task: computes the answer; it calls what it gets from time to time, which raises if it should stop.
        needs: images that have to be encoded first.
        since: when it was asked.
        future: of the answer.
        stopped: nobody waits for it.
    """

    task: Callable[[Check], Any]
    needs: Sequence[Need]
    since: float
    future: Future[Any] = field(default_factory=Future)
    stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Leave the queue, or stop at the next check."""
        self.stopped.set()
        self.future.cancel()


class Worker:
    """Runs one job at a time; callers take turns, whatever the number of jobs that each has waiting.

    Args:
        prepare: encodes images that are not encoded yet: those that a job needs, and those that waiting jobs need.
        waiting: jobs that may wait; of these, a single caller can have three quarters.
        seconds: a job is given up when this much time has passed since it was asked.
    """

    def __init__(self, prepare: Callable[[Sequence[Need], Sequence[Need]], None], waiting: int, seconds: float) -> None:
        self.prepare, self.waiting, self.seconds = prepare, waiting, seconds
        self._queues: OrderedDict[str, deque[Job]] = OrderedDict()  # by caller; the next one's is first
        self._turn = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="eclip-worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Refuse new jobs, cancel those that wait, and end after the current one."""
        with self._turn:
            self._open = False
            for queue in self._queues.values():
                for job in queue:
                    job.stop()
            self._queues.clear()
            self._turn.notify()

    def submit(self, caller: str, task: Callable[[Check], Any], needs: Sequence[Need] = ()) -> Job:
        """Queue a job, which takes a turn of the caller's; the arguments are those of `Job`.

        Raises:
            Refusal: too many jobs wait, or too many of this caller, or it is closed.
        """
        job = Job(task, needs, time.monotonic())
        with self._turn:
            own = deque(one for one in self._queues.get(caller, ()) if not one.future.cancelled())
            if not self._open:
                raise closing()
            if len(self) >= self.waiting or len(own) >= max(1, 3 * self.waiting // 4):
                raise busy()
            own.append(job)
            self._queues[caller] = own  # keeps its place in line
            self._turn.notify()
        return job

    def __len__(self) -> int:
        """Jobs that wait."""
        with self._turn:
            return sum(not job.future.cancelled() for queue in self._queues.values() for job in queue)

    def _next(self) -> tuple[Job, list[Need]] | None:
        """The job whose turn it is, and what others need; waits for one. None = closed."""
        with self._turn:
            while self._open:
                if self._queues:
                    caller, queue = self._queues.popitem(last=False)
                    job = queue.popleft()
                    if queue:
                        self._queues[caller] = queue  # last in line
                    if job.future.set_running_or_notify_cancel():
                        firsts = [one for others in self._queues.values() for one in list(others)[:LOOK_AHEAD]]
                        live = [one for one in firsts if not one.future.cancelled()][:LOOK_AHEAD]
                        return job, [need for one in live for need in one.needs]
                    continue
                self._turn.wait()
        return None

    def _run(self) -> None:
        while (found := self._next()) is not None:
            job, others = found

            def check(job: Job = job) -> None:
                if job.stopped.is_set():
                    raise CancelledError
                if time.monotonic() - job.since > self.seconds:
                    raise too_slow(self.seconds)

            token = PAUSE.set(check)
            try:
                check()
                if job.needs:
                    self.prepare(job.needs, others)
                job.future.set_result(job.task(check))
            except BaseException as error:  # the caller gets it, and the thread lives on
                job.future.set_exception(error)
            finally:
                PAUSE.reset(token)
                del job, found
