"""Where the work is done: in this process, or by Ray's actors. Each piece is done by `Worker.do` in all of them.

Under torchrun, each of its processes is an engine of its own with its share of the pieces.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eclip.backbones.backbone import Backbone
from eclip.errors import DataError, EclipError, MissingExtraError, OptionError
from eclip.registry import one_of, whole
from eclip.stream.job import Job, threads_of
from eclip.stream.plan import Piece, Plan
from eclip.stream.work import Worker

ENGINES = ("process", "ray")
ACTORS = 2
"""Ray actors on a cluster without GPUs, unless another number is asked for."""
Progress = Callable[[int, int | None], object]


def check_engine(engine: str, address: str | None, concurrency: int | None, *, named: bool = True) -> None:
    """Check that the engine is known, and that it has the other options; `named`: the model is given by its name.

    Raises:
        OptionError: it is unknown, or an option belongs to the other engine.
    """
    if one_of(engine, "engine", ENGINES) == "ray":
        if not named:
            raise OptionError("the engine 'ray' loads the model in its own processes: pass its name, not a Backbone.")
    elif address is not None or concurrency is not None:
        name = "--concurrency" if address is None else "--ray-address"
        raise OptionError(f"{name} belongs to the engine 'ray': add --engine ray (Python: engine='ray').")
    if concurrency is not None:
        whole(concurrency, "concurrency", least=1)


def run(
    job: Job,
    plan: Plan,
    pieces: Sequence[Piece],
    *,
    model: Backbone | None,
    engine: str,
    address: str | None,
    concurrency: int | None,
    overwrite: bool,
    on_progress: Progress,
) -> None:
    """Do all pieces that are not done yet; arguments are those of `explain_dataset`.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    total = None if plan.images is None else sum(piece.count for piece in pieces)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        on_progress(done, total)

    count(0)
    if engine == "ray":
        _with_ray(job, plan, pieces, address, concurrency, overwrite, count)
        return
    with Worker(job, plan, model, overwrite=overwrite) as worker:
        for piece in pieces:
            shard = worker.do(piece, count)
            if shard.was_done:
                count(shard.count() + len(shard.failed))


def _with_ray(
    job: Job,
    plan: Plan,
    pieces: Sequence[Piece],
    address: str | None,
    concurrency: int | None,
    overwrite: bool,
    count: Callable[[int], None],
) -> None:
    try:
        import ray
        from ray.data import ActorPoolStrategy
    except ImportError:
        raise MissingExtraError("the engine 'ray'", "ray", "ray") from None
    log, context = logging.getLogger("ray.data"), ray.data.DataContext.get_current()
    reports = "RAY_USAGE_STATS_ENABLED"
    before = log.level, context.enable_progress_bars, reports in os.environ
    os.environ.setdefault(reports, "0")  # Ray would report to its makers
    if started := not ray.is_initialized():
        local: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        ray.init(address=address, **quiet, **(local if address is None else {}))
    try:
        log.setLevel(logging.ERROR)
        context.enable_progress_bars = False
        gpus = int(ray.cluster_resources().get("GPU", 0))
        on_gpu = gpus > 0 and str(job.settings.get("device", "auto")) != "cpu"
        actors = concurrency or (gpus if on_gpu else ACTORS)
        needs: dict[str, Any] = {"num_cpus": job.threads or 1, "num_gpus": 1 if on_gpu else 0}
        if overwrite:
            plan = ray.get(ray.remote(**needs, max_retries=0)(_begin_anew).remote(job, plan))
        todo = ray.data.from_items([{"number": piece.number} for piece in pieces], override_num_blocks=len(pieces))
        done = todo.map_batches(
            Actor,
            fn_constructor_kwargs={"job": job, "plan": plan},
            batch_size=1,
            compute=ActorPoolStrategy(size=min(actors, len(pieces))),
            **needs,
        )
        for row in done.iter_rows():
            count(int(row["images"]))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        raise cause if isinstance(cause, EclipError) else DataError(f"Ray could not finish: {error}") from error
    finally:
        log.setLevel(before[0])
        context.enable_progress_bars = before[1]
        if started:
            ray.shutdown()
        if not before[2]:
            del os.environ[reports]


def _begin_anew(job: Job, plan: Plan) -> Plan:
    """Delete the results of an earlier run; a Worker does that once it has checked everything that is asked."""
    with Worker(dataclasses.replace(job, threads=job.threads or 1), plan, overwrite=True):
        return plan


class Actor:
    """A Worker in a process of Ray, which starts it again, and repeats its piece, if the process dies."""

    def __init__(self, job: Job, plan: Plan) -> None:
        known = job.threads or threads_of(job.out) or 1  # Ray itself would give each process a number of its own
        self.worker = Worker(dataclasses.replace(job, threads=known), plan)
        self.worker.__enter__()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the pieces of these numbers; returns how many images each has."""
        images = []
        for number in batch["number"]:
            shard = self.worker.do(self.worker.plan.pieces[int(number)])
            images.append(shard.count() + len(shard.failed))
        return {"number": batch["number"], "images": np.array(images)}
