"""Many images, as a generator (`explain_stream`) or into folders of shards (`explain_dataset` and its like)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from eclip.backbones.backbone import Backbone
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.load import backbone_of
from eclip.errors import ImageError, OptionError
from eclip.explanation.explain import query_of
from eclip.explanation.explanation import Explanation
from eclip.files import SHARDED, lock
from eclip.registry import whole
from eclip.results.share import shard_of
from eclip.segmentation.classes import Classes, class_words
from eclip.stream.decoding import PATIENCE, Reading, batches
from eclip.stream.engines import check_engine, run
from eclip.stream.index import INDEXES
from eclip.stream.job import PIECE, RUN, Job, begin
from eclip.stream.plan import LISTING, Plan, in_remote_tar
from eclip.stream.records import DEFAULT, LABEL_DEFAULT, WORD_CONTENTS
from eclip.stream.shards import LAYOUTS, read_failures
from eclip.stream.sources import Item, list_images
from eclip.stream.tasks import decoder_of, explained
from eclip.stream.work import shard_for
from eclip.texts.encode import check_texts
from eclip.texts.like import Like
from eclip.texts.queries import check_queries
from eclip.words import DEFAULT_WORD_METHOD, WordMethod, word_method

Sources = str | Path | Sequence[str | Path]


def explain_stream(
    source: Sources,
    texts: str | Like | Iterable[str | Like],
    *,
    batch_size: int = 8,
    failures: list[tuple[str, str]] | None = None,
    workers: int = 0,
    timeout: float = PATIENCE,
    images: bool = True,
    **settings: Any,
) -> Iterator[Explanation]:
    """Yield one Explanation per image of folders, tables, tars or URLs, in order and in bounded memory.

    Args:
        source: images, folders, glob patterns, tables (CSV, TSV or JSON lines with a column "image"), uncompressed
            tars, and URLs that fsspec opens; or a list of these. Braces expand: "train-{000..127}.tar".
        texts: as in `explain`; encoded once.
        batch_size: images in one forward pass, at least 1.
        failures: images that cannot be read are added here as (source, error), and the others continue. None: raise.
        workers: processes that decode images ahead; 0 = a thread. A script that asks for processes needs
            `if __name__ == "__main__":`, as for everything that Python spawns.
        timeout: seconds after which an image counts as unreadable; needs workers.
        images: keep each image for pictures; without, it is read again when it is needed, except from tars at URLs.
        settings: all other arguments of `explain`, such as model, method, resize, health and the method's options.

    Raises:
        DataError: a source does not exist or contains no image.
        EclipError: as in `explain`.
    """
    query = query_of(texts, **settings)
    batch_size, workers = whole(batch_size, "batch_size", least=1), whole(workers, "workers", least=0)
    ahead = 2 * batch_size
    with ExitStack() as tars, Reading(decoder_of(query, whole=images), workers, timeout) as reading:
        for batch in batches(reading(_fetched(list_images(_listed(source)), ahead, tars), ahead), batch_size):
            for item, result in batch:
                if isinstance(result, ImageError):
                    if failures is None:
                        raise result
                    failures.append((item.source, str(result)))
            found: dict[int, Explanation] = {}
            for places, explanation in explained(query, batch):
                for image, place in enumerate(places):
                    own, shape = [batch[place][0].source], explanation.provenance["pixels"]
                    provenance = query.provenance(explanation.provenance["method"], own, shape)
                    found[place] = replace(explanation.only(image), provenance=provenance)
            yield from (found[place] for place in sorted(found))


def _listed(source: Sources) -> list[str | Path]:
    sources = list(source) if isinstance(source, Iterable) and not isinstance(source, str) else [source]
    for one in sources:
        if not isinstance(one, str | Path):
            raise OptionError(
                f"source must be paths or URLs, got {type(one).__name__}; for images in memory, use eclip.explain_each "
                "or eclip.segment_each."
            )
    return sources


def _fetched(items: Iterable[Item], ahead: int, tars: ExitStack) -> Iterator[Item]:
    """Items with the images of tars at URLs; a tar is deleted once `ahead` more images were asked for, or by `tars`."""
    older: deque[tuple[int, ExitStack]] = deque()
    count = 0
    for item in items:
        images: Iterable[Item] = [item]
        if item.is_remote_tar:
            own = tars.enter_context(ExitStack())
            images = in_remote_tar(item, own)
        for image in images:
            yield image
            count += 1
            while older and older[0][0] + ahead < count:
                older.popleft()[1].close()
        if item.is_remote_tar:
            older.append((count, own))


@dataclass(frozen=True)
class Written:
    """What a run wrote.

    Attributes:
        folder: where.
        images: how many images its finished shards hold.
        failures: how many images of these shards failed; `failed` yields them.
        missing: how many shards of the whole work are not finished, as other processes may still write them.
    """

    folder: Path
    images: int
    failures: int
    missing: int

    def failed(self) -> Iterator[tuple[str, str]]:
        """The images that failed, in order: (source, error)."""
        return ((one["source"], one["error"]) for one in read_failures(self.folder))


def explain_dataset(
    source: Sources,
    texts: str | Like | Iterable[str | Like],
    out: str | Path,
    *,
    model: str | Backbone = DEFAULT_MODEL,
    write: Sequence[str] = DEFAULT,
    layout: str = LAYOUTS[0],
    index: str = INDEXES[0],
    shard: str | None = None,
    engine: str = "process",
    ray_address: str | None = None,
    concurrency: int | None = None,
    overwrite: bool = False,
    batch_size: int = 8,
    shard_size: int = PIECE,
    threads: int | None = None,
    workers: int = 0,
    timeout: float = PATIENCE,
    max_side: int | None = None,
    on_progress: Callable[[int, int | None], object] = lambda done, total: None,
    **settings: Any,
) -> Written:
    """Explain any number of images into shards with an index, in bounded memory; the same call again continues.

    The folder gets "run.json" (what was asked), "images.jsonl" (the images), "shards" with a tar or folder for each
    `shard_size` images, "index" with their rows, one for each image and text, and "failures". Results do not depend on
    how often a run was killed, nor on how many processes shared the work.

    Args:
        source: as in `explain_stream`.
        texts: as in `explain`.
        out: the folder.
        model: a name, or a Backbone if the engine is "process".
        write: what to write besides scores and health numbers: any of "maps", "masks", "boxes", "points", "overlays";
            "table" adds the columns of `Explanation.to_pandas` to the index.
        layout: "tar" or "folder", for each shard.
        index: "jsonl" or "parquet".
        shard: "I/N": only the I-th of N parts of the work, from 0. Under torchrun, each process takes its own
            part; "0/1" is all of the work, as in a training script where only the first process calls this.
        engine: "process" (this one) or "ray".
        ray_address: of a Ray cluster; None = a local one.
        concurrency: Ray actors that explain at the same time; None = one for each GPU, or two without.
        overwrite: replace the results of another run; only for a whole run.
        batch_size: images in one forward pass. Another number gives other rounding errors, so it belongs to the run.
        shard_size: images in a shard, a multiple of batch_size.
        threads: of torch on a CPU; None = as many as torch uses, or as the run to be continued. Another number gives
            other rounding errors.
        workers: processes that decode images; 0 = a thread. A script that asks for processes needs
            `if __name__ == "__main__":`.
        timeout: seconds after which an image counts as unreadable; needs workers.
        max_side: longer side of overlays in pixels, at least 256; None = as the image.
        on_progress: called with the number of images done and, if it is known, of all images.
        settings: all other arguments of `explain`; also precision and head, as in `load`.

    Raises:
        DataError: a source does not exist or contains no image.
        ResultError: the folder contains something else, cannot be written, or the images have changed meanwhile.
        EclipError: as in `explain`.
    """
    return _dataset(
        "explain",
        source,
        tuple(check_queries(texts)),
        out,
        model=model,
        write=write,
        layout=layout,
        index=index,
        shard=shard,
        engine=engine,
        ray_address=ray_address,
        concurrency=concurrency,
        overwrite=overwrite,
        batch_size=batch_size,
        shard_size=shard_size,
        threads=threads,
        workers=workers,
        timeout=timeout,
        max_side=max_side,
        on_progress=on_progress,
        **settings,
    )


def segment_dataset(
    source: Sources, classes: Classes, out: str | Path, *, write: Sequence[str] = LABEL_DEFAULT, **settings: Any
) -> Written:
    """Segment any number of images into shards with an index, as `explain_dataset` explains them.

    The index has a row for each image and each class that has pixels there.

    Args:
        source: as in `explain_stream`.
        classes: as in `segment_each`.
        out: the folder.
        write: what to write besides areas, confidences and presence: any of "labels" (label maps), "confidences" (of
            each pixel), "masks", "boxes", "overlays".
        settings: all other arguments of `explain_dataset` and `segment_each`, such as shard, model and background.

    Raises:
        DataError, ResultError: as in `explain_dataset`.
        EclipError: as in `segment_each`.
    """
    thresholded = settings.get("prob_threshold") is not None
    found = class_words(classes, settings.get("background", ()), thresholded=thresholded)
    (_, *names), (background, *words) = found.names, found.words  # an iterator can be read only once
    settings["background"] = background
    return _dataset("segment", source, dict(zip(names, words, strict=True)), out, write=write, **settings)


def words_dataset(
    source: Sources,
    texts: str | Iterable[str],
    out: str | Path,
    *,
    method: str | WordMethod = DEFAULT_WORD_METHOD,
    **settings: Any,
) -> Written:
    """Write how much each word of each text matters to any number of images, as `explain_dataset` explains them.

    The index has a row for each image and each text: its score, and its words, each with its value and share.

    Args:
        source: as in `explain_stream`.
        texts: as in `explain_words`.
        out: the folder.
        method: as in `explain_words`.
        settings: all other arguments of `explain_dataset` but `write`, and of `explain_words`.

    Raises:
        DataError, ResultError: as in `explain_dataset`.
        EclipError: as in `explain_words`.
    """
    for name in ("head", "health", "write", "max_side"):
        if name in settings:
            raise OptionError(f"words_dataset has no option {name!r}: words have no maps. Leave it out.")
    settings |= {"method": word_method(method).name, "write": WORD_CONTENTS}
    return _dataset("words", source, tuple(check_texts(texts)), out, **settings)


def _dataset(
    task: str,
    source: Sources,
    texts: Any,
    out: str | Path,
    /,
    *,
    model: str | Backbone = DEFAULT_MODEL,
    shard: str | None = None,
    engine: str = "process",
    ray_address: str | None = None,
    concurrency: int | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int | None], object] = lambda done, total: None,
    **settings: Any,
) -> Written:
    if not isinstance(model, str):
        backbone_of(model, None)  # its check
    check_engine(engine, ray_address, concurrency, named=isinstance(model, str))
    folder, part = Path(out).absolute() if engine == "ray" else Path(out), shard_of(shard)
    name = model if isinstance(model, str) else model.name
    names = {field.name for field in fields(Job)} - {"task"}
    own = {name: settings.pop(name) for name in names & settings.keys()}
    job = Job(
        sources=tuple(map(str, _listed(source))),
        texts=texts,
        out=folder,
        settings={**settings, "model": name},
        task=task,
        **own,
    )
    if overwrite and part[1] > 1:
        raise OptionError("overwrite would delete what other parts of the work wrote: delete the folder instead.")
    begin(folder)
    release = lock(folder, shared=part[1] > 1)
    plan = None
    try:
        if part[1] == 1 and not any((folder / one).exists() for one in (RUN, *SHARDED)):
            (folder / LISTING).unlink(missing_ok=True)  # of a run that has no results
        plan = Plan.make(list_images(job.sources, folder), folder, job.shard_size, anew=overwrite)
        plan.root = os.getcwd() if engine == "ray" else ""  # its processes may run in another folder
        pieces = plan.pieces[part[0] :: part[1]]
        run(
            job,
            plan,
            pieces,
            model=None if isinstance(model, str) else model,
            engine=engine,
            address=ray_address,
            concurrency=concurrency,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    finally:
        if plan is not None and overwrite and plan.file.name != LISTING:
            plan.file.unlink(missing_ok=True)  # of a run that was refused
        release()
    good = bad = missing = 0
    for piece in plan.pieces:
        output = shard_for(job, piece)
        missing += not output.was_done
        good += output.count() if output.was_done else 0
        bad += len(output.failed)
    return Written(folder, good, bad, missing)
