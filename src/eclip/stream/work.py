"""The work: one model that explains pieces of a plan, whichever process it is in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from eclip.backbones.backbone import Backbone
from eclip.backbones.load import load
from eclip.errors import ImageError
from eclip.explanation.explain import query_of
from eclip.stream.decoding import Decoded, Decoder, Reading, batches
from eclip.stream.job import Job, clear, settle, threads_of
from eclip.stream.plan import Piece, Plan
from eclip.stream.records import Record, columns_of, record
from eclip.stream.shards import FinishedMeanwhile, Shard
from eclip.stream.sources import Item

if TYPE_CHECKING:
    from eclip.explanation.explanation import Explanation
    from eclip.explanation.query import Query

Result = tuple[Item, Decoded | ImageError]


class Worker:
    """A loaded model with encoded texts and processes that decode images; a context manager.

    Args:
        job: what is asked.
        plan: its pieces.
        model: a Backbone that is used instead of the job's model.
        overwrite: delete the results of an earlier run, once everything that was asked has been checked.
    """

    def __init__(self, job: Job, plan: Plan, model: Backbone | None = None, *, overwrite: bool = False) -> None:
        self.job, self.plan = job, plan
        self._threads = threads(job.threads or (None if overwrite else threads_of(job.out)))
        self._threads.__enter__()
        try:
            settings = dict(job.settings)
            if model is None:
                chosen = {name: settings.pop(name) for name in ("device", "precision", "head") if name in settings}
                chosen["device"] = own_device(chosen.get("device"))
                settings["model"] = load(settings["model"], **chosen)
            else:
                settings["model"] = model
            self.query = query_of(job.texts, **settings)
            if overwrite:
                clear(job.out)
            settle(job.out, job.asked(self.query, plan.images, torch.get_num_threads()))
            self.reading = Reading(decoder_of(self.query, whole="overlays" in job.write), job.workers, job.timeout)
        except BaseException:
            self._threads.__exit__(None, None, None)
            raise

    def __enter__(self) -> Worker:
        self.reading.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        try:
            self.reading.__exit__(*reason)
        finally:
            self._threads.__exit__(None, None, None)

    def do(self, piece: Piece, on_images: Callable[[int], object] = lambda count: None) -> Shard:
        """Explain a piece and write its shard, or what is missing of it; returns the shard.

        Args:
            piece: of the plan.
            on_images: called with the number of images that were done since the last call.
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

    def _records(self, batch: Sequence[Result]) -> list[Record | tuple[str, str]]:
        found: list[Record | tuple[str, str]] = [("", "")] * len(batch)
        for places, explanation in explained(self.query, batch):
            for image, place in enumerate(places):
                found[place] = record(explanation, image, self.job.write, self.job.max_side)
        for place, (item, result) in enumerate(batch):
            if isinstance(result, ImageError):
                found[place] = (item.source, str(result))
        return found


def shard_for(job: Job, piece: Piece) -> Shard:
    """The output of a piece."""
    columns = columns_of(job.write, health=bool(job.settings.get("health", True)))
    return Shard(job.out, piece.number, job.layout, job.index, job.batch_size, columns)


def own_device(device: Any) -> Any:
    """The device of this process: under torchrun, the GPU with its number."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or str(device) not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{rank}"


def decoder_of(query: Query, *, whole: bool) -> Decoder:
    """What worker processes do for the images of a query; `whole` if they also return the image."""
    view, fitting = query.view, query.backbone.fitting
    size = None if view.image_size is None else int(view.image_size)
    return Decoder(fitting, size, view.resize, whole)


def explained(query: Query, batch: Sequence[Result]) -> Iterator[tuple[list[int], Explanation]]:
    """Yield the explanations of a batch, one for each grid, with the places of its images in the batch."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, (_, result) in enumerate(batch):
        if isinstance(result, Decoded):
            by_shape.setdefault(result.pixels.shape, []).append(place)
    for places in by_shape.values():
        named: list[Any] = []
        arrays = []
        for place in places:
            item, result = batch[place]
            assert isinstance(result, Decoded)
            named.append((item.source, item.place if result.image is None else result.image, result.size))
            arrays.append(result.pixels)
        stacked = torch.from_numpy(np.stack(arrays)).to(query.backbone.weight.device)
        [explanation] = query.answer_pixels(query.backbone.preprocess.normalized(stacked), named).values()
        yield places, explanation


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
