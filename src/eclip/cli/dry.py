"""`--dry-run`: what a command would do, without writing anything."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.errors import EclipError
from eclip.results.folder import SHARDS, check_no_other

if TYPE_CHECKING:
    from eclip.cli.many import Many
    from eclip.training.config import TrainConfig

SCHEMA = "eclip.dry-run/1"
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print how many images, texts and batches there are, and stop before any work."),
]


def batches(count: int, size: int) -> int:
    """How many batches of this size there are."""
    return -(-count // size)


def tell(told: dict[str, Any], failures: Sequence[tuple[str, str]], as_json: bool) -> None:
    """Print what would be done; exit code 1 if a source could not be found. None is not known before the work begins.

    The record in place of lines is {"schema", "command", ..., "failures": [{"source", "error"}, ...]}.
    """
    if as_json:
        lost = [{"source": source, "error": error} for source, error in failures]
        typer.echo(json.dumps({"schema": SCHEMA, **told, "failures": lost}, ensure_ascii=False))
    else:
        from eclip.render import printable

        typer.echo("dry run, nothing is written:")
        for name, value in told.items():
            shown = "not known in advance" if value is None else value
            if isinstance(value, list):
                shown = ", ".join(map(str, value))
            elif isinstance(value, int):
                shown = f"{value:,}"
            typer.echo(printable(f"  {name.replace('_', ' ')}: {shown}"))
    for _, error in failures:
        typer.echo(f"failed: {error}", err=True)
    if failures:
        raise typer.Exit(1)


def pictures(
    command: str, sources: list[str], texts: Sequence[str], out: Path, formats: Sequence[str], settings: dict[str, Any]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What `explain`, `segment` or `words` would do with images of files and folders, and sources that are missing."""
    from eclip.images import find_images

    images, failures = find_images(sources, out)
    check_no_other(out)
    size = settings["batch_size"]
    told = _asked(command, texts, settings)
    told |= {"images": len(images), "batch_size": size, "batches": batches(len(images), size)}
    return {**told, "formats": list(formats), "out": str(out)}, failures


def shards(
    command: str, sources: list[str], texts: Sequence[str], out: Path, many: Many, settings: dict[str, Any]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What a run on shards would do, as `pictures`; images of tars at URLs are not known before they are read."""
    from eclip.cli.options import words
    from eclip.results.share import shard_of
    from eclip.stream.engines import check_engine
    from eclip.stream.job import PIECE, Job
    from eclip.stream.sources import list_images
    from eclip.stream.tasks import TASKS

    check_no_other(out, SHARDS)
    size, piece = settings["batch_size"], PIECE if many.shard_size is None else many.shard_size
    wanted = words(many.write) if many.write is not None else TASKS[command].default
    own: dict[str, Any] = {name: str(one) for name in ("layout", "index") if (one := getattr(many, name)) is not None}
    own |= {name: one for name in ("workers", "timeout", "threads") if (one := getattr(many, name)) is not None}
    own |= {"batch_size": size, "shard_size": piece, "max_side": settings.get("max_side")}
    Job(tuple(sources), texts, out, settings, command, tuple(wanted), **own)  # its checks
    check_engine(many.engine or "process", many.ray_address, many.concurrency)
    part, parts = shard_of(many.shard)
    count, remote = 0, 0
    try:
        for item in list_images(sources, out):
            remote += item.is_remote_tar
            count += not item.is_remote_tar
    except EclipError as error:
        return _asked(command, texts, settings), [(", ".join(sources), str(error))]
    pieces = batches(count, piece) + remote
    known: dict[str, Any] = {"images": count, "batch_size": size, "batches": batches(count, size)}
    if remote:
        known = {"images": None, "tars_at_urls": remote, "batch_size": size, "batches": None}
    told = {**_asked(command, texts, settings), **known, "shard_size": piece, "shards": pieces}
    if parts > 1:
        told["shards_of_this_part"] = len(range(part, pieces, parts))
    told |= {"write": list(wanted), "out": str(out)}
    if (out / "run.json").is_file():
        told["continues"] = "an earlier run in this folder, if it asked the same"
    return told, []


def evaluation(data: str, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What `eval` would do: the data set is read, but no image and no model."""
    from eclip.datasets.masks import MaskSet
    from eclip.evaluation.evaluate import selected
    from eclip.evaluation.protocols import protocol_of
    from eclip.evaluation.scored import scored_methods
    from eclip.results.share import shard_of

    check_no_other(out, "eclip eval")
    part, parts = shard_of(settings["shard"])
    rules = protocol_of(settings["protocol"])
    chosen = {name: settings[name] for name in ("root", "split", "every", "limit")}
    images = selected(data, rules, **chosen)[1]
    size, count = settings["batch_size"], len(images.items)
    told: dict[str, Any] = {"command": "eclip eval", "data": images.name, "protocol": rules.name}
    told |= {"models": settings["models"], "methods": list(scored_methods(settings["methods"], rules))}
    told |= {"device": settings["device"], "images": count}
    told |= {"classes": len(images.classes)} if isinstance(images, MaskSet) else {}
    told |= {"batch_size": size, "batches_per_model": batches(count, size)}
    if parts > 1:
        told["batches_of_this_part"] = len(range(part, batches(count, size), parts))
    told["out"] = str(out)
    if (out / "question.json").is_file():
        told["continues"] = "an earlier run in this folder, if it asked the same"
    return told


def training(config: TrainConfig) -> dict[str, Any]:
    """What `train` would do: captions are read, but no image and no model."""
    from eclip.training.drawn import drawn_pairs
    from eclip.training.schedule import fitting, steps_of

    pairs, unusable, texts = drawn_pairs(config)
    count = min(len(pairs), config.limit or len(pairs))
    known = sum(bool(own) for own in texts[:count])
    world = int(os.environ.get("WORLD_SIZE", "1"))
    size = config.batch_size or fitting(known, world * config.accum_freq)
    steps = steps_of(known, count, size, world, config, worded=known < count)
    told: dict[str, Any] = {"command": "eclip train", "model": config.model, "device": config.device}
    told |= {"texts": config.texts, "guide": config.guide, "form": config.form}
    told |= {"pairs": known, "pairs_without_words": count - known, "unusable_pairs": len(unusable)}
    told |= {"batch_size": size, "steps_per_epoch": steps, "epochs": config.epochs}
    return {**told, "steps": steps * config.epochs, "out": config.out}


def _asked(command: str, texts: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    what = "classes" if command == "segment" else "texts"
    names = {name: settings[name] for name in ("model", "method", "device") if settings.get(name) is not None}
    return {"command": f"eclip {command}", **names, what: len(texts)}
