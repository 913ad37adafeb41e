"""The work: one model that does pieces of a plan, whichever process it is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from PIL import Image

from eclip.backbones.backbone import Backbone
from eclip.backbones.load import load
from eclip.errors import ImageError
from eclip.images import Place
from eclip.results.share import own_device
from eclip.stream.decoding import Decoded, Reading, batches
from eclip.stream.job import Job, clear, settle, threads_of
from eclip.stream.plan import Piece, Plan
from eclip.stream.records import Record
from eclip.stream.shards import FinishedMeanwhile, Shard
from eclip.stream.sources import Item
from eclip.stream.tasks import TASKS, Result


class Worker:
    """A loaded model with encoded texts or classes and processes that decode images; a context manager.

    Args:
        job: what is asked.
        plan: its pieces.
        model: a Backbone that is used instead of the job's model.
        overwrite: delete the results of an earlier run, once everything that was asked has been checked.
    """

    def __init__(self, job: Job, plan: Plan, model: Backbone | None = None, *, overwrite: bool = False) -> None:
        self.job, self.plan = job, plan
        with ExitStack() as stack:
            stack.enter_context(threads(job.threads or (None if overwrite else threads_of(job.out))))
            settings = dict(job.settings)
            if model is None:
                chosen = {name: settings.pop(name) for name in ("device", "precision", "head") if name in settings}
                chosen["device"] = own_device(chosen.get("device"))
                settings["model"] = load(settings["model"], **chosen)
            else:
                settings["model"] = model
            self.task = TASKS[job.task](job, settings)
            asked = job.asked(self.task, plan.images, torch.get_num_threads())
            if overwrite:
                self._try()
                clear(job.out)
                plan.settle()
            settle(job.out, asked)
            self.reading = Reading(self.task.decoder, job.workers, job.timeout)
            self._opened = stack.pop_all()

    def __enter__(self) -> Worker:
        self._opened.enter_context(self.reading)
        return self

    def __exit__(self, *reason: object) -> None:
        self._opened.close()

    def do(self, piece: Piece, on_images: Callable[[int], object] = lambda count: None) -> Shard:
        """Do a piece and write its shard, or what is missing of it; returns the shard.

        `on_images` is called with the number of images that were done since the last call.
        """
        job = self.job
        shard = shard_for(job, piece)
        if shard.was_done:
            return shard
        try:
            with shard, self.plan.items(piece, shard.start) as items:
                on_images(position := shard.start)
                for batch in batches(self.reading(items, 2 * job.batch_size), job.batch_size):
                    shard.add(position, self._records(batch))
                    position += len(batch)
                    on_images(len(batch))
                shard.finish()
        except FinishedMeanwhile:
            shard = shard_for(job, piece)
        return shard

    def _try(self) -> None:
        """Do a gradient, since options out of range and methods that do not apply may show only with an image."""
        image, decoder = Image.linear_gradient("L").convert("RGB"), self.task.decoder
        pixels = decoder.fitting.resized(image, decoder.image_size, decoder.resize)
        list(self.task.records([(Item("gradient", Place("", 0, 0)), Decoded(pixels, image.size, image))]))

    def _records(self, batch: list[Result]) -> list[Record | tuple[str, str]]:
        found: list[Record | tuple[str, str]] = [("", "")] * len(batch)
        for place, one in self.task.records(batch):
            found[place] = one
        for place, (item, result) in enumerate(batch):
            if isinstance(result, ImageError):
                found[place] = (item.source, str(result))
        return found


def shard_for(job: Job, piece: Piece) -> Shard:
    """The output of a piece."""
    task = TASKS[job.task]
    columns = task.columns(job.write, health=bool(job.settings.get("health", True)))
    return Shard(job.out, piece.number, job.layout, job.index, job.batch_size, columns, task.entries)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use this many threads, then as many as before; None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
