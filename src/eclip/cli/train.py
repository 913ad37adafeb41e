"""`eclip train`: train a head for the method eclip on images with captions."""

from __future__ import annotations

import json
import os
import shlex
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.cli import dry, loop
from eclip.cli import options as cli_options
from eclip.cli.errors import stop
from eclip.errors import OptionError
from eclip.guides import GUIDES, check_guide
from eclip.results.folder import check_no_other
from eclip.training.config import CHECKPOINT, FORMS, INSIDES, PRECISIONS, SOURCES, STARTS, TrainConfig, from_toml

if TYPE_CHECKING:
    from rich.progress import Progress

SCHEMA = "eclip.train/1"
KEPT = (CHECKPOINT, "eclip_head.safetensors")
"""Files of a run that are overwritten only with --overwrite."""
DEFAULTS = {field.name: field.default for field in fields(TrainConfig)}
DATA, HEAD, POOLING = "Images and captions", "The head", "Guide and pooling"
HARDLY = 0.1
"""Percentage points; a smaller change of a score is none."""
STEPS, CACHE, SCORES, RUN = "Steps", "Encoded images", "Scores", "The run"


def _flag(field: str, what: str, panel: str, *names: str, metavar: str | None = None) -> Any:
    """A flag for a field of `TrainConfig`; None if omitted, so that a file can override the default."""
    default = DEFAULTS[field]
    shown = str(default) if isinstance(default, str | int | float) and not isinstance(default, bool) else False
    return typer.Option(*names, help=what, show_default=shown, rich_help_panel=panel, metavar=metavar)


def train(
    train_data: Annotated[
        list[str] | None,
        _flag(
            "train_data",
            "WebDataset tars such as 'cc3m/{00000..00331}.tar', a table (.csv, .tsv), or a folder of images with a "
            "NAME.txt next to each or one captions.txt. Repeatable.",
            DATA,
            metavar="PATH",
        ),
    ] = None,
    limit: Annotated[int | None, _flag("limit", "Use at most this many pairs.", DATA)] = None,
    image_key: Annotated[str | None, _flag("image_key", "CSV image column.", DATA, "--csv-image-key")] = None,
    caption_key: Annotated[str | None, _flag("caption_key", "CSV caption column.", DATA, "--csv-caption-key")] = None,
    separator: Annotated[
        str | None, typer.Option("--csv-separator", help="CSV separator, default tab (\\t).", rich_help_panel=DATA)
    ] = None,
    image_size: Annotated[int | None, _flag("image_size", "Side in pixels; default: the model's own.", DATA)] = None,
    workers: Annotated[int | None, _flag("workers", "Threads that read images.", DATA)] = None,
    shuffle_captions: Annotated[
        bool | None, _flag("shuffle_captions", "Control: captions of other images, which teach nothing.", DATA)
    ] = None,
    model: Annotated[
        str | None, _flag("model", "Frozen model; eclip models ls lists names.", HEAD, "--model", "-m")
    ] = None,
    source: Annotated[str | None, _flag("source", f"What the head reads: {' or '.join(SOURCES)}.", HEAD)] = None,
    init: Annotated[
        str | None, _flag("init", f"Initial weights: {' or '.join(STARTS)}; model is the model's own projection.", HEAD)
    ] = None,
    hidden: Annotated[int | None, _flag("hidden", "Width of a nonlinear branch; 0 for none.", HEAD)] = None,
    text: Annotated[
        bool | None, _flag("text", "Also train a projection of texts.", HEAD, "--text-projection/--no-text-projection")
    ] = None,
    guide: Annotated[
        str | None, _flag("guide", f"{', '.join(GUIDES)}; eclip guides ls describes them.", POOLING)
    ] = None,
    guide_set: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Guide option such as tau=0.2. Repeatable.", rich_help_panel=POOLING),
    ] = None,
    form: Annotated[
        str | None,
        _flag("form", f"How patches are pooled: {', '.join(FORMS)}; the paper uses soft with a guide.", POOLING),
    ] = None,
    texts: Annotated[
        str | None,
        _flag("texts", "captions, or words: a prompt for each word that captions mention.", DATA, "--train-texts"),
    ] = None,
    near: Annotated[
        float | None, _flag("near", "With words: cosine above which two words are not negatives.", DATA)
    ] = None,
    threshold: Annotated[
        str | None, _flag("threshold", f"How hard and exclusion forms select patches: {' or '.join(INSIDES)}.", POOLING)
    ] = None,
    epochs: Annotated[int | None, _flag("epochs", "Passes over all images.", STEPS)] = None,
    batch_size: Annotated[
        int | None,
        _flag("batch_size", "Pairs per step, over all processes; default: 256, or fewer for few pairs.", STEPS),
    ] = None,
    lr: Annotated[float | None, _flag("lr", "Peak learning rate of AdamW, with cosine decay.", STEPS)] = None,
    wd: Annotated[float | None, _flag("wd", "Weight decay.", STEPS)] = None,
    warmup: Annotated[int | None, _flag("warmup", "Steps of linear learning rate warm-up.", STEPS)] = None,
    learn_scale: Annotated[
        bool | None, _flag("learn_scale", "Also train the logit scale; otherwise the model's own is used.", STEPS)
    ] = None,
    precision: Annotated[str | None, _flag("precision", f"Of the head: {' or '.join(PRECISIONS)}.", STEPS)] = None,
    accum_freq: Annotated[
        int | None,
        _flag(
            "accum_freq",
            "Split each step into this many parts: less memory, and the same result without --mix and --separate.",
            STEPS,
        ),
    ] = None,
    mix: Annotated[
        float | None, _flag("mix", "Weight of a loss that tells from which of four images a patch is.", STEPS)
    ] = None,
    separate: Annotated[
        float | None, _flag("separate", "Weight of a loss that separates images with different texts.", STEPS)
    ] = None,
    seed: Annotated[int | None, _flag("seed", "For order, choice of captions and random weights.", STEPS)] = None,
    cache: Annotated[
        str | None, _flag("cache", "Folder of the cache; default: in the user's cache.", CACHE, metavar="DIR")
    ] = None,
    stream: Annotated[
        bool | None, _flag("stream", "Store nothing; encode again in each epoch.", CACHE, "--no-cache")
    ] = None,
    masks: Annotated[
        str | None, _flag("masks", "Images with masks on which to score maps after each epoch.", SCORES, metavar="DIR")
    ] = None,
    mask_count: Annotated[int | None, _flag("mask_count", "Number of these images to use.", SCORES)] = None,
    out: Annotated[
        str | None,
        _flag("out", "Output folder for head, log, curve and checkpoint.", RUN, "--out", "-o", metavar="DIR"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with fields of TrainConfig; flags override it.", rich_help_panel=RUN)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.", rich_help_panel=RUN)] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run in the folder.", rich_help_panel=RUN)
    ] = False,
    checkpoint_every: Annotated[int | None, _flag("checkpoint_every", "Steps between checkpoints.", RUN)] = None,
    device: Annotated[str | None, _flag("device", "cpu, cuda, cuda:N or auto.", RUN)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a record to stdout.", rich_help_panel=RUN)] = False,
    quiet: cli_options.Quiet = False,
    verbose: cli_options.Verbose = False,
    dry_run: dry.DryRun = False,
) -> None:
    """Train a head for the method eclip on images with captions; the model itself stays frozen.

    A folder with captions:  eclip train --train-data flickr8k -o head

    On two GPUs:  torchrun --nproc-per-node 2 -m eclip train --train-data 'cc3m/{00000..00331}.tar' -o head
    """
    given = dict(locals())  # each flag is named like its field
    asked = _config({key: given[key] for key in DEFAULTS if key in given}, config, guide_set or [])
    _check_place(Path(asked.out), resume, overwrite)
    if dry_run:
        if _leads():
            dry.tell(dry.training(asked), (), as_json)
        return
    _run(asked, resume)
    if _leads():
        record = _record(asked)
        if as_json:
            typer.echo(json.dumps(record, ensure_ascii=False, allow_nan=False))
        if record["bad"]:
            typer.echo(f"skipped {record['bad']} bad pairs, listed in {record['files']['log']}", err=True)
        if record["without_words"]:
            typer.echo(f"skipped {record['without_words']} pairs without known words in the captions", err=True)
        if cli_options.QUIET.get():
            return
        typer.echo(_verdict(record), err=True)
        use = ["--method", "eclip", "--model", asked.model, "--head", asked.out]
        typer.echo(f'saved the head in {asked.out}: eclip explain IMAGE -t "a dog" {shlex.join(use)}', err=True)


def _verdict(record: dict[str, Any]) -> str:
    """Whether training helped, in a sentence: what the masks say, or that only they could say it."""
    scores, loss = record["scores"], record["loss"]
    if loss["first"] is None:
        return "no step was left to do"
    if scores is None:
        lost = f"the loss went from {loss['first']:.3f} to {loss['last']:.3f}"
        return f"{lost}, which does not tell whether the maps are better: --masks DIR scores them before and after"
    first, last = scores["first"]["epoch"], scores["last"]["epoch"]
    if first == last:
        told = f"mSC {100 * scores['last']['msc']:.1f}, mIoU {100 * scores['last']['miou']:.1f}"
        return f"there is no score on these masks from before epoch {last} to compare with ({told})"
    since = "before" if first == 0 else f"after epoch {first}"
    change = {key: 100 * (scores["last"][key] - scores["first"][key]) for key in ("msc", "miou")}
    told = ", ".join(
        f"{name} {100 * scores['first'][key]:.1f} to {100 * scores['last'][key]:.1f}"
        for key, name in (("msc", "mSC"), ("miou", "mIoU"))
    )
    if all(abs(value) < HARDLY for value in change.values()):
        said = f"the maps are hardly different from {since}"
    elif min(change.values()) > -HARDLY:
        said = f"the maps are better than {since}"
    elif max(change.values()) < HARDLY:
        said = f"the maps are worse than {since}"
    else:
        gained, lost = ("contrast", "overlap") if change["msc"] > 0 else ("overlap", "contrast")
        said = f"the maps gained {gained} and lost {lost}, so they are not simply better"
    return f"{said} ({told})"


def _config(flags: dict[str, Any], file: Path | None, guide_set: list[str]) -> TrainConfig:
    """The checked configuration: flags override the file, which overrides defaults."""
    said: dict[str, Any] = {"train_data": (), **({} if file is None else from_toml(file))}
    typed = {field: value for field, value in flags.items() if value not in (None, [])}
    if "train_data" in typed:
        typed["train_data"] = tuple(typed["train_data"])
    if "cache" in typed:
        if "stream" in typed:
            raise OptionError("--cache and --no-cache exclude each other: leave one of them out.")
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
        raise OptionError("--resume and --overwrite exclude each other: leave one of them out.")
    check_no_other(folder, "eclip train")
    if not resume:
        from eclip.training.log import check_replaceable

        check_replaceable(folder)
    held = [name for name in KEPT if (folder / name).exists()]
    if held and not (resume or overwrite):
        raise OptionError(
            f"the folder {str(folder)!r} already contains a run ({', '.join(held)}): continue it with --resume, "
            "replace it with --overwrite, or choose another folder with -o DIR."
        )


def _leads() -> bool:
    """Whether this process prints, of those that torchrun started."""
    return "LOCAL_RANK" not in os.environ or os.environ.get("RANK") == "0"


def _run(config: TrainConfig, resume: bool) -> None:
    from eclip.training.run import train as trained

    screen, kept = None, Path(config.out) / CHECKPOINT
    try:
        with loop.progressing() if _leads() else nullcontext() as progress:
            screen = None if progress is None else _Screen(progress, config)
            trained(config, resume=resume, **({} if screen is None else {"on_progress": screen}))
    except (KeyboardInterrupt, SystemExit) as stopped:
        code = stopped.code if isinstance(stopped, SystemExit) and isinstance(stopped.code, int) else 130
        if screen is None:
            raise typer.Exit(code) from None
        if kept.is_file() and (resume or screen.loss):
            stop(f"stopped; the checkpoint is {kept}: repeat the command with --resume to continue.", code)
        stop("stopped before the first checkpoint; repeat the command to continue with the encoded images.", code)


class _Screen:
    """Shows the progress of a run: one bar per phase and one line per epoch."""

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
        if not cli_options.QUIET.get():
            self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)  # above the bar


def _record(config: TrainConfig) -> dict[str, Any]:
    """The record of a run that `--json` prints.

    {"schema": "eclip.train/1", "model", "pairs", "bad", "without_words", "epochs", "steps", "seconds", "peak_mib",
     "loss": {"first", "last"}, "scores": null or {"first": {"epoch", "msc", "miou"}, "last": {...}},
     "files": {"head", "log", "curve", "checkpoint"}}

    Losses are those of single steps; seconds are those of the process that finished the run, including encoding. Scores
    are those on the masks that were used last. What only a log that was lost could tell is null.
    """
    from eclip.training import log

    folder = Path(config.out)
    events: dict[str, list[dict[str, Any]]] = {}
    for event in log.events(folder / log.FILE):
        events.setdefault(event["event"], []).append(event)
    steps, last = events.get("step", [{}]), events.get("epoch", [{}])[-1]
    scored = log.comparable(events.get("scores", ()))
    scores = [{key: one[key] for key in ("epoch", "msc", "miou")} for one in scored]
    files = {"head": folder, "log": folder / log.FILE, "curve": folder / log.PICTURE, "checkpoint": folder / CHECKPOINT}
    return {
        "schema": SCHEMA,
        "model": config.model,
        "pairs": events["start"][0]["pairs"],
        "bad": len({event["key"] for event in events.get("bad", ())}),
        "without_words": sum(event["pairs"] for event in events.get("without words", ())),
        "epochs": last.get("epoch"),
        "steps": steps[-1].get("step"),
        "seconds": last.get("seconds"),
        "peak_mib": last.get("peak_mib"),
        "loss": {"first": steps[0].get("loss"), "last": steps[-1].get("loss")},
        "scores": {"first": scores[0], "last": scores[-1]} if scores else None,
        "files": {key: str(file) for key, file in files.items()},
    }
