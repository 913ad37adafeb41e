"""Score methods on a data set under a named protocol, in batches that survive interruption.

Start reading here: `evaluate` checks its arguments, scores the missing batches, and writes the tables.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsIndex

from eclip.backbones.backbone import Backbone
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.devices import Device
from eclip.backbones.load import backbone_of, is_loaded, load
from eclip.backbones.state import identity
from eclip.datasets import dataset
from eclip.datasets.masks import MaskSet
from eclip.datasets.pair import PairSet
from eclip.datasets.phrases import PhraseSet
from eclip.datasets.sets import AnySet, kind_of
from eclip.errors import DataError, DataWarning, OptionError
from eclip.evaluation import Task, task_of
from eclip.evaluation.checks import check_groups
from eclip.evaluation.evaluation import SCHEMA, Evaluation, Found, check_question, data_of, results_of, write_results
from eclip.evaluation.examples import OnProgress, draw_examples
from eclip.evaluation.localize import LocalizeTask
from eclip.evaluation.protocols import DEFAULT_PROTOCOL, PROTOCOLS, Protocol, protocol_of
from eclip.evaluation.query import EvaluationQuery
from eclip.evaluation.rules import OF_WORDS
from eclip.evaluation.scored import FAST, scored_methods, scored_options
from eclip.evaluation.store import ResultStore, open_run
from eclip.explanation.query import counted, in_words
from eclip.methods import AnyMethod
from eclip.refinements import check_refinement
from eclip.registry import check_options, whole, whole_or_none
from eclip.results.command import eval_command, was_named
from eclip.results.provenance import made_by, noted, versions
from eclip.results.share import own_device, shard_of
from eclip.words import WordMethod

_log = logging.getLogger("eclip")
HOME = Path(__file__).parents[1]
"""The whole package, whose code is part of the identity of a run."""
PASSING = ("transformers", "scikit-learn")
"""Packages whose versions are recorded only if they were imported, so they are not part of the identity of a run."""
MOST_FAILURES = 0.05
"""A larger share of unreadable images stops a run: its scores would not be comparable."""
WANTED = {
    "masks": "masks",
    "pairs": "captions or names",
    "phrases": "phrases and boxes",
    "points": "labels and points",
    "gaze": "fixations of the gaze",
}


def evaluate(
    data: str | AnySet,
    *,
    out: str | Path,
    methods: AnyMethod | WordMethod | Iterable[AnyMethod | WordMethod] = FAST,
    models: str | Backbone | Sequence[str | Backbone] = DEFAULT_MODEL,
    protocol: str | Protocol = DEFAULT_PROTOCOL,
    root: str | Path | None = None,
    split: str | None = None,
    every: SupportsIndex = 1,
    limit: SupportsIndex | None = None,
    head: str | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    refine: str | None = None,
    refine_options: dict[str, Any] | None = None,
    batch_size: SupportsIndex = 16,
    device: Device | None = None,
    overwrite: bool = False,
    examples: SupportsIndex = 3,
    expected: str | Path | None = None,
    shard: str | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> Evaluation:
    """Score methods on a data set.

    Measurements are stored in `out` batch by batch; the same call resumes after any interruption, and ends with the
    same numbers as an uninterrupted run (on one machine with the same number of threads). Several processes can share
    the batches; the one that finds all of them measured writes the tables.

    Args:
        data: a name of `eclip.DATASETS`, or a MaskSet, PairSet or PhraseSet.
        out: folder of the run: `results.json`, `results.csv`, `pairs.csv`, examples and the stored batches.
        methods: names, in a list or joined by commas, or values of `eclip.METHODS`; "fast" for all that need a single
            forward pass, "all" to include those that need many. Methods not applicable to a model are listed as such.
            Protocols of words ("words-v1", "crepe-v1") score `eclip.words.WORD_METHODS` instead.
        models: a name or a Backbone, as in `eclip.explain`, or several.
        protocol: a name of `eclip.PROTOCOLS`, or your own protocol.
        root: folder of the data set; None = its usual folder in `$ECLIP_DATA`.
        split: of the data set; None = its default.
        every: use every N-th image, at least 1.
        limit: of these, use at most this many; None = all.
        head: of the method "eclip", for a single model; see `eclip.load`.
        options: of methods by name, such as {"legrad": {"depth": 4}}.
        refine: a refinement of all maps, see `eclip.explain`.
        refine_options: see `eclip.explain`.
        batch_size: images per forward pass, at least 1.
        device: of models given by name, see `eclip.explain`.
        overwrite: replace a different run in the folder.
        examples: number of best and of worst images to draw for each method, in localization tasks. 0 = none.
        expected: file of stored numbers, as for `Evaluation.check`: its protocol and data must match this run, which is
            checked before anything is measured.
        shard: "I/N": only the I-th of N parts of the batches, from 0. Under torchrun, each process takes its own
            part; "0/1" is all of the work, as in a training script where only the first process calls this.
        on_progress: called with the model, the number of images done and the total, of this part.

    Raises:
        DataError: the set cannot be read, more than 5 % of its images are unreadable, none shows a class, or a baseline
            is as good as the true masks.
        ResultError: the folder contains a different run or cannot be written; or the stored numbers are those of a
            different protocol or data set.
        EclipError: other invalid input, with a subclass for each kind.

    Warns:
        DataWarning: the images form fewer than 10 groups, or most pairs have no pixel outside of their class.
    """
    counts = {"batch_size": batch_size, "every": every, "limit": limit, "examples": examples}
    check_options("evaluate", evaluate, counts)
    batch_size, every = whole(batch_size, "batch_size"), whole(every, "every")
    limit, examples = whole_or_none(limit, "limit"), whole(examples, "examples")
    rules = protocol_of(protocol)
    own = scored_options(scored_methods(methods, rules), options or {}, rules)
    refine_options = check_refinement(refine, refine_options)
    if refine is not None and isinstance(rules.rules, OF_WORDS):
        raise OptionError(f"refine={refine!r} sharpens maps, but {rules.name!r} scores words: leave refine out.")
    if examples < 0:
        raise OptionError(f"examples must be at least 0, got {examples}.")
    if batch_size < 1 or every < 1 or (limit is not None and limit < 1):
        raise OptionError(f"batch_size, every and limit must be at least 1, got {batch_size}, {every} and {limit}.")
    part = shard_of(shard)
    if overwrite and part[1] > 1:
        raise OptionError("overwrite would delete what other parts of the work wrote: delete the folder instead.")
    data_set, images, split = selected(data, rules, root=root, split=split, every=every, limit=limit)
    left_out = [] if isinstance(data_set, MaskSet) else data_set.bad
    used = {item.name for item in data_set.items} if left_out else set()
    lost = [(key, why) for key, why in dict(left_out).items() if key not in used]  # images, not some of their captions
    _check_failures(lost, len(data_set.items) + len(lost), data_set.name)
    told = {"name": images.name, "split": split, "every": every, "limit": limit}
    described = data_of(images, told)
    check_groups(images.name, described["images"], described["groups"])
    backbones = _backbones(models, device, head)
    if expected is not None:
        check_question(expected, {"protocol": rules.plain(), "data": described})
    question: dict[str, Any] = {
        "schema": SCHEMA,
        "data": {**told, "listed": _listed(images)},
        "protocol": {key: one for key, one in rules.plain().items() if key != "summary"},
        "methods": {name: noted(one) for name, one in own.items()},
        "refine": refine,
        "refine_options": noted(refine_options),
        "models": {one.name: _told(one) for one in backbones},
        "batch_size": batch_size,
        "versions": {name: one for name, one in versions().items() if name not in PASSING},
        "code": _code(),
    }
    asked = [EvaluationQuery(rules, images, one, own, refine, refine_options) for one in backbones]
    tasks = [task_of(one) for one in asked]  # raises for invalid queries before the folder is created
    folder = Path(out).expanduser()
    open_run(folder, question, overwrite=overwrite)
    stores = [
        _measure(one, task, folder, batch_size, part, on_progress) for one, task in zip(asked, tasks, strict=True)
    ]
    asked_for = {**question, "protocol": rules.plain(), "data": described}
    if part[1] > 1 and (missing := sum(len(store.unmeasured()) for store in stores)):
        return Evaluation({**results_of(asked_for, {}, []), "examples": [], "command": None}, folder, missing)
    found: Found = {}
    drawn: list[dict[str, Any]] = []
    for one, task, store in zip(asked, tasks, stores, strict=True):
        notes = store.notes()
        failures = [failure for note in notes for failure in note.failures]  # of all parts
        _check_failures(failures, len(images.items), images.name)
        found[one.backbone.name] = task.record(store), notes
        if isinstance(task, LocalizeTask):
            drawn += draw_examples(task, found[one.backbone.name][0], folder, examples, on_progress)
    repeat = None
    if isinstance(data, str) and PROTOCOLS.get(rules.name) == rules and all(is_loaded(one) for one in backbones):
        heads = [one["head"] for one in question["models"].values() if was_named(one["head"])]
        if not heads or len(backbones) == 1:  # --head is for a single model
            repeat = eval_command(data, root, question, *heads)
    measured = results_of(asked_for, found, left_out)
    results = {**measured, "examples": drawn, "command": repeat}
    write_results(folder, results, images, found)
    return Evaluation(results, folder)


def selected(
    data: str | AnySet, rules: Protocol, *, root: str | Path | None, split: str | None, every: int, limit: int | None
) -> tuple[AnySet, AnySet, str | None]:
    """The data set, the images of it that are scored, and its split; arguments and errors are those of `evaluate`."""
    if isinstance(data, str):
        split = dataset(data).checked(split)
        data_set = dataset(data).read(root, split)
        _warn_of_count(data_set, dataset(data).counts.get(split, ()), data)
    elif isinstance(data, MaskSet | PairSet | PhraseSet):
        data_set = data
    else:
        raise OptionError(
            f"data must be a name of eclip.DATASETS, a MaskSet, PairSet or PhraseSet, got {type(data).__name__}: for "
            'a folder of images and masks, pass "folder" and root=FOLDER.'
        )
    if (given := kind_of(data_set)) != rules.rules.data:
        fitting = [name for name, one in PROTOCOLS.items() if one.rules.data == given]
        raise OptionError(
            f"protocol {rules.name!r} needs data with {WANTED[rules.rules.data]}, but {data_set.name} has "
            f"{WANTED[given]}: use the protocol {' or '.join(fitting)}."
        )
    return data_set, _of(data_set, data_set.items[::every][:limit]), split


def _of(whole: AnySet, items: Any) -> AnySet:
    """The set, reduced to these items."""
    return replace(whole, items=items)


def _backbones(
    models: str | Backbone | Sequence[str | Backbone], device: Device | None, head: str | None
) -> list[Backbone]:
    several = isinstance(models, Iterable) and not isinstance(models, str | Backbone)
    listed = list(models) if several else [models]  # type: ignore[arg-type]  # `backbone_of` refuses others
    if not listed:
        raise OptionError("models is empty; `eclip models ls` lists models.")
    if head is not None:
        if len(listed) > 1 or not isinstance(listed[0], str):
            raise OptionError("head requires a single model, given by its name.")
        return [load(listed[0], device=own_device(device), head=head)]
    found = [backbone_of(one, own_device(device) if isinstance(one, str) else device) for one in listed]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise OptionError(f"models must have different names, got {', '.join(names)}.")
    return found


def _measure(
    asked: EvaluationQuery, task: Task, folder: Path, batch_size: int, part: tuple[int, int], on_progress: OnProgress
) -> ResultStore:
    """Score the missing batches of this part."""
    items, name = asked.data.items, asked.backbone.name
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    store = ResultStore(folder, name, [_of(asked.data, one).digest() for one in batches])
    missing = [number for number in store.missing() if number % part[1] == part[0]]
    total = sum(map(len, batches[part[0] :: part[1]]))
    done = total - sum(len(batches[number]) for number in missing)
    on_progress(name, done, total)
    failures: list[tuple[str, str]] = []
    for number in missing:
        result = task.score(batches[number], number * batch_size)
        store.write(number, result)
        _log.info("%s, %s: %s", name, counted(len(batches[number]), "image"), in_words(result.seconds))
        failures += result.failures
        _check_failures(failures, len(items), asked.data.name)
        done += len(batches[number])
        on_progress(name, done, total)
    return store


def _check_failures(failures: list[tuple[str, str]], count: int, name: str) -> None:
    """Raise a DataError if too many images are unreadable."""
    if len(failures) > MOST_FAILURES * count:
        source, why = failures[0]
        raise DataError(
            f"{len(failures)} of {count} images of {name} are unusable so far (limit {MOST_FAILURES:.0%}); scores "
            f"would not be comparable. The first is {source}: {why} Fix them, and rerun the same command to resume."
        )


def _warn_of_count(found: AnySet, published: Sequence[int], name: str) -> None:
    """Warn if the number of images differs from the published one: the folder may be wrong or incomplete."""
    if published and len(found.items) not in published:
        wanted = " or ".join(f"{count:,}" for count in published)
        warnings.warn(
            f"{found.name} has {wanted} images as published, but {len(found.items):,} were found: the folder may be "
            f"wrong or incomplete. `eclip datasets verify {name}` checks it.",
            DataWarning,
            stacklevel=3,
        )


def _listed(images: AnySet) -> str:
    """16 hexadecimal digits computed from the images' names and classes, not from files, which may be repaired."""
    if isinstance(images, MaskSet):
        told: list[Any] = [[*images.classes.items()], images.meaning, *(item.name for item in images.items)]
    elif isinstance(images, PairSet):
        told = [images.classes, *([os.path.basename(item.key), item.captions] for item in images.items)]
    else:
        told = [[item.name, [[one.text, one.where] for one in item.phrases]] for item in images.items]
    whole = hashlib.sha256()
    for one in told:
        whole.update(json.dumps(one).encode())
    return whole.hexdigest()[:16]


def _told(backbone: Backbone) -> dict[str, Any]:
    """The record of a model by which a run is recognized; versions are recorded separately, and any GPU will do."""
    told = {key: one for key, one in made_by(backbone).items() if key != "versions"}
    told["device"] = told["device"].partition(":")[0]
    colors = {"mean": backbone.mean, "std": backbone.std, "interpolation": backbone.interpolation}
    return {**told, **colors, **identity(backbone, backbone.head)}


def _code() -> str:
    """16 hexadecimal digits computed from the package's own code, which determines the numbers."""
    whole = hashlib.sha256()
    for path in sorted(HOME.rglob("*.py")):
        whole.update(str(path.relative_to(HOME)).encode() + path.read_bytes())
    return whole.hexdigest()[:16]
