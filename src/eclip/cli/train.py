"""`eclip train`: a head for the method eclip, from images with captions."""

from __future__ import annotations

import json
import os
import shlex
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.cli import options as cli_options
from eclip.cli.errors import report_errors, stop
from eclip.errors import OptionError
from eclip.guides import GUIDES, check_guide
from eclip.results.folder import check_no_other
from eclip.training.config import CHECKPOINT, FORMS, INSIDES, PRECISIONS, SOURCES, STARTS, TrainConfig, from_toml

if TYPE_CHECKING:
    from rich.progress import Progress

SCHEMA = "eclip.train/1"
KEPT = (CHECKPOINT, "eclip_head.safetensors")
"""Files of a run that are not written over without being asked."""
DEFAULTS = {field.name: field.default for field in fields(TrainConfig)}
DATA, HEAD, POOLING = "Images and captions", "The head", "Guide and pooling"
STEPS, CACHE, SCORES, RUN = "Steps", "Encoded images", "Scores", "The run"


def _flag(field: str, what: str, panel: str, *names: str, metavar: str | None = None) -> Any:
    """A flag for a field of `TrainConfig`; left out it is None, so that a file may say otherwise than the default."""
    default = DEFAULTS[field]
    shown = str(default) if isinstance(default, str | int | float) and not isinstance(default, bool) else False
    return typer.Option(*names, help=what, show_default=shown, rich_help_panel=panel, metavar=metavar)


def train(
    train_data: Annotated[
        list[str] | None,
        _flag(
            "train_data",
            "Tars of WebDataset, 'cc3m/{00000..00331}.tar', a table (.csv, .tsv) or a folder of images with a NAME.txt "
            "beside each or one captions.txt; may be given several times.",
            DATA,
            metavar="PATH",
        ),
    ] = None,
    limit: Annotated[int | None, _flag("limit", "So many pairs at most.", DATA)] = None,
    image_key: Annotated[str | None, _flag("image_key", "Column of images.", DATA, "--csv-image-key")] = None,
    caption_key: Annotated[str | None, _flag("caption_key", "Column of captions.", DATA, "--csv-caption-key")] = None,
    separator: Annotated[
        str | None, typer.Option("--csv-separator", help="A tab if left out; \\t is one.", rich_help_panel=DATA)
    ] = None,
    image_size: Annotated[int | None, _flag("image_size", "Side in pixels; the model's own if left out.", DATA)] = None,
    workers: Annotated[int | None, _flag("workers", "Threads that read images.", DATA)] = None,
    shuffle_captions: Annotated[
        bool | None, _flag("shuffle_captions", "Control: each image with another's captions, which must fail.", DATA)
    ] = None,
    model: Annotated[
        str | None, _flag("model", "Stays as it is; eclip models ls shows them.", HEAD, "--model", "-m")
    ] = None,
    source: Annotated[str | None, _flag("source", f"What the head reads: {' or '.join(SOURCES)}.", HEAD)] = None,
    init: Annotated[
        str | None, _flag("init", f"Where it starts: {' or '.join(STARTS)}; model is the model's own projection.", HEAD)
    ] = None,
    hidden: Annotated[int | None, _flag("hidden", "Width of a curved path beside the projection.", HEAD)] = None,
    text: Annotated[
        bool | None,
        _flag("text", "Train a projection of texts too.", HEAD, "--text-projection/--no-text-projection"),
    ] = None,
    guide: Annotated[
        str | None, _flag("guide", f"{', '.join(GUIDES)}; eclip guides ls explains them.", POOLING)
    ] = None,
    guide_set: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of the guide, e.g. tau=0.2.", rich_help_panel=POOLING),
    ] = None,
    form: Annotated[
        str | None,
        _flag("form", f"How patches are pooled: {', '.join(FORMS)}; the paper's is soft, with a guide.", POOLING),
    ] = None,
    texts: Annotated[
        str | None, _flag("texts", "captions as they are, or words: a prompt for each word they mention.", DATA)
    ] = None,
    near: Annotated[
        float | None, _flag("near", "With words: cosine from which two words are no negatives of each other.", DATA)
    ] = None,
    threshold: Annotated[
        str | None, _flag("threshold", f"Which patches are inside: {' or '.join(INSIDES)}.", POOLING)
    ] = None,
    epochs: Annotated[int | None, _flag("epochs", "How often each image is seen.", STEPS)] = None,
    batch_size: Annotated[int | None, _flag("batch_size", "Pairs in a step, of all processes together.", STEPS)] = None,
    lr: Annotated[float | None, _flag("lr", "Highest rate of AdamW; a cosine brings it to zero.", STEPS)] = None,
    wd: Annotated[float | None, _flag("wd", "Weight decay.", STEPS)] = None,
    warmup: Annotated[int | None, _flag("warmup", "Steps until the highest rate.", STEPS)] = None,
    learn_scale: Annotated[
        bool | None, _flag("learn_scale", "Train the factor from cosine to logit too; else the model's own.", STEPS)
    ] = None,
    precision: Annotated[str | None, _flag("precision", f"{' or '.join(PRECISIONS)}.", STEPS)] = None,
    accum_freq: Annotated[
        int | None, _flag("accum_freq", "Parts that a step is taken in, for less memory and the same result.", STEPS)
    ] = None,
    seed: Annotated[int | None, _flag("seed", "Of the order, the choice of captions, random weights.", STEPS)] = None,
    cache: Annotated[
        str | None, _flag("cache", "Where they are kept; the user's cache if left out.", CACHE, metavar="DIR")
    ] = None,
    stream: Annotated[
        bool | None, _flag("stream", "Keep nothing, encode anew in each epoch.", CACHE, "--no-cache")
    ] = None,
    masks: Annotated[
        str | None, _flag("masks", "Images with masks, on which each epoch's map is scored.", SCORES, metavar="DIR")
    ] = None,
    mask_count: Annotated[int | None, _flag("mask_count", "So many of them.", SCORES)] = None,
    out: Annotated[
        str | None,
        _flag("out", "Folder of the head, log, curve and checkpoint.", RUN, "--out", "-o", metavar="DIR"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file with fields of TrainConfig; flags win over it.", rich_help_panel=RUN),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it stopped.", rich_help_panel=RUN)] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew in a folder that holds a run.", rich_help_panel=RUN)
    ] = False,
    checkpoint_every: Annotated[int | None, _flag("checkpoint_every", "Steps between checkpoints.", RUN)] = None,
    device: Annotated[str | None, _flag("device", "cpu, cuda, cuda:N or auto.", RUN)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a record on stdout.", rich_help_panel=RUN)] = False,
) -> None:
    """Train the head of the method eclip on images with captions; the model itself stays as it is.

    A folder with captions:  eclip train --train-data flickr8k -o head

    On two GPUs:  torchrun --nproc-per-node 2 -m eclip train --train-data 'cc3m/{00000..00331}.tar' -o head
    """
    given = dict(locals())  # each flag has its field's name
    with report_errors():
        asked = _config({key: given[key] for key in DEFAULTS if key in given}, config, guide_set or [])
        _check_place(Path(asked.out), resume, overwrite)
        _run(asked, resume)
        if _leads():
            record = _record(asked)
            if as_json:
                typer.echo(json.dumps(record, ensure_ascii=False, allow_nan=False))
            if record["bad"]:
                typer.echo(f"bad pairs, left out: {record['bad']}, named in {record['files']['log']}", err=True)
            if record["without_words"]:
                typer.echo(f"pairs whose captions have no word of use, left out: {record['without_words']}", err=True)
            use = ["--method", "eclip", "--model", asked.model, "--head", asked.out]
            typer.echo(f'the head is in {asked.out}: eclip explain IMAGE -t "a dog" {shlex.join(use)}', err=True)


def _config(flags: dict[str, Any], file: Path | None, guide_set: list[str]) -> TrainConfig:
    """What was asked for, checked: flags before the file, the file before defaults."""
    said: dict[str, Any] = {"train_data": (), **({} if file is None else from_toml(file))}
    typed = {field: value for field, value in flags.items() if value not in (None, [])}
    if "train_data" in typed:
        typed["train_data"] = tuple(typed["train_data"])
    if "cache" in typed:
        if "stream" in typed:
            raise OptionError("--cache keeps what --no-cache does not: leave one of them out.")
        typed["stream"] = False
    if "separator" in typed:
        typed["separator"] = typed["separator"].replace("\\t", "\t")
    asked = {**said, **typed}
    name = asked.setdefault("guide", DEFAULTS["guide"])
    options = asked.pop("guide_options", {}) if name == said.get("guide", DEFAULTS["guide"]) else {}  # else another's
    if guide_set:  # a guide's options are those of its function, which imports torch
        check_guide(name, {})
        options = {**options, **cli_options.parse_options("--guide-set", guide_set, GUIDES[name].options)}
    config = TrainConfig(**{**asked, "guide_options": options})
    cli_options.check_model(config.model)
    config.check()
    return config


def _check_place(folder: Path, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise OptionError("--resume goes on with a run, --overwrite begins anew: leave one of them out.")
    check_no_other(folder, "eclip train")
    held = [name for name in KEPT if (folder / name).exists()]
    if held and not (resume or overwrite):
        raise OptionError(
            f"the folder {str(folder)!r} holds a run already ({', '.join(held)}): --resume goes on with it, -o DIR "
            "begins elsewhere, --overwrite begins anew in its place."
        )


def _leads() -> bool:
    """Whether this is the process that speaks, of those that torchrun started."""
    return "LOCAL_RANK" not in os.environ or os.environ.get("RANK") == "0"


def _run(config: TrainConfig, resume: bool) -> None:
    from eclip.training.run import train as trained

    screen, kept = None, Path(config.out) / CHECKPOINT
    try:
        with cli_options.progressing() if _leads() else nullcontext() as progress:
            screen = None if progress is None else _Screen(progress, config)
            trained(config, resume=resume, **({} if screen is None else {"on_progress": screen}))
    except (KeyboardInterrupt, SystemExit) as stopped:
        code = stopped.code if isinstance(stopped, SystemExit) and isinstance(stopped.code, int) else 130
        if screen is None:
            raise typer.Exit(code) from None
        if kept.is_file() and (resume or screen.loss):
            stop(f"stopped; the checkpoint {kept} is kept: the same command with --resume goes on.", code)
        stop("stopped before a step was kept; the same command goes on with what is encoded already.", code)


class _Screen:
    """Hears of a run, and shows one bar a phase and one line an epoch."""

    def __init__(self, progress: Progress, config: TrainConfig) -> None:
        self.progress, self.config = progress, config
        self.phase, self.loss = "loading", ""
        self.bar = progress.add_task(self.phase, total=None)

    def __call__(self, what: str, done: int, total: int, word: str) -> None:
        if what == "cache":
            self._say(f"cache: {word}")
        elif what == "scores":
            self._epoch(done, word)
        else:
            if what != self.phase:
                self.progress.remove_task(self.bar)
                self.phase, self.bar = what, self.progress.add_task(what)
            self.progress.update(self.bar, completed=done, total=total, description=f"{what}  {word}".strip())
        if what == "training":
            self.loss = word.partition("  ")[2]
            if self.config.masks is None and done * self.config.epochs % total == 0:
                self._epoch(done * self.config.epochs // total, "")

    def _epoch(self, number: int, scores: str) -> None:
        self._say("  ".join(filter(None, (f"epoch {number} of {self.config.epochs}", self.loss, scores))))

    def _say(self, line: str) -> None:
        self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)  # above the bar


def _record(config: TrainConfig) -> dict[str, Any]:
    """What `--json` prints of a run.

    {"schema": "eclip.train/1", "model", "pairs", "bad", "without_words", "epochs", "steps", "seconds", "peak_mib",
     "loss": {"first", "last"}, "scores": null or {"first": {"epoch", "msc", "miou"}, "last": {...}},
     "files": {"head", "log", "curve", "checkpoint"}}

    Losses are those of one step each; seconds are those of the process that ended it, encoding included.
    """
    from eclip.training import log

    folder = Path(config.out)
    events: dict[str, list[dict[str, Any]]] = {}
    for event in log.events(folder / log.FILE):
        events.setdefault(event["event"], []).append(event)
    steps, last = events["step"], events["epoch"][-1]
    scores = [{key: one[key] for key in ("epoch", "msc", "miou")} for one in events.get("scores", ())]
    files = {"head": folder, "log": folder / log.FILE, "curve": folder / log.PICTURE}
    return {
        "schema": SCHEMA,
        "model": config.model,
        "pairs": events["start"][0]["pairs"],
        "bad": len({event["key"] for event in events.get("bad", ())}),
        "without_words": sum(event["pairs"] for event in events.get("without words", ())),
        "epochs": last["epoch"],
        "steps": steps[-1]["step"],
        "seconds": last["seconds"],
        "peak_mib": last["peak_mib"],
        "loss": {"first": steps[0]["loss"], "last": steps[-1]["loss"]},
        "scores": {"first": scores[0], "last": scores[-1]} if scores else None,
        "files": {key: str(file) for key, file in {**files, "checkpoint": folder / CHECKPOINT}.items()},
    }
