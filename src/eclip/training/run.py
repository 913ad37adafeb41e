"""Train the head of ECLIP (Li et al. 2022, https://arxiv.org/abs/2209.07046) on images with captions.

Both encoders are frozen and run once; rows, guides and caption features are cached on disk. Only `EclipHead` is
trained: the rows of an image are pooled into a score for each text, and symmetric InfoNCE raises the score of its own
text. The paper uses masked max pooling, which we read as `form="soft"` with a guide; the default form is our own,
"similarity_smooth" without a guide. We do not know the paper's batch size, learning rate and number of epochs; the
defaults are our own, measured with the first `mini` (docs/eclip.md).

Under `torchrun`, each process handles its part of each batch, and all use all negatives; the head is the same for any
number of processes, up to rounding.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from eclip.backbones.head import EclipHead
from eclip.backbones.load import load
from eclip.datasets.caption_sources import Pair, digest, read_pairs
from eclip.datasets.masks import MaskSet, read_masks
from eclip.errors import DataError, TrainingError
from eclip.files import cache_folder, peak_mib
from eclip.results.folder import check_no_other
from eclip.results.provenance import made_by, versions
from eclip.training import checkpoint, distributed
from eclip.training import log as log_module
from eclip.training.config import CHECKPOINT, FREE, TrainConfig
from eclip.training.data import Cached, OnProgress, PairData, PairEncoder, Places, Streamed
from eclip.training.learner import Learner
from eclip.training.schedule import fitting, rate_at, steps_of, warn_of_little
from eclip.training.validation import Validation
from eclip.training.word_prompts import FalseNegatives, as_words

RING = 2**32
"""In place of an epoch in the seed of the ring of wrong partners, whose order is that of no epoch."""
DRAW_EVERY = 20.0
"""Seconds between two drawings of the curve, at least."""
BAD_SHARE, BAD_LEAST = 0.05, 200
"""A run stops if more than this share of pairs are bad, once at least this number has been examined."""


def train(config: TrainConfig, *, resume: bool = False, on_progress: OnProgress = lambda *_: None) -> EclipHead:
    """Train a head.

    Args:
        config: see `TrainConfig`.
        resume: continue the interrupted run in `config.out`; the head is bit for bit the same as without interruption
            (on the same machine, with as many threads and processes). False: start over; an existing run in
            `config.out` is replaced (`eclip train` refuses that without --overwrite).
        on_progress: called with the progress, see `OnProgress`.

    Returns:
        The head, which is also saved in `config.out`, next to `log.jsonl`, `curve.png` and `checkpoint.pt`.

    Raises:
        OptionError: an invalid field, or a batch larger than the number of pairs, not divisible by the processes, or
            too small for `mix`.
        DataError: pairs cannot be read, or more than 5 % of them are bad.
        ResultError: the folder contains results of another command, or the folder or the cache cannot be written.
        TrainingError: there is nothing to resume, the checkpoint is of another run, the loss is not finite, or another
            process of the run failed.
        KeyboardInterrupt: on Ctrl-C, after the checkpoint was written; SystemExit on SIGTERM.
        EclipError: the model, the guide or the masks cannot be used.
    """
    config.check()
    check_no_other(Path(config.out), "eclip train")
    log_module.check_plot()
    with distributed.joined(config.device) as (rank, world, device), torch.inference_mode(False), torch.enable_grad():
        return Run(config, rank, world, device, on_progress).go(resume)


class Run:
    """A process of a run."""

    def __init__(self, config: TrainConfig, rank: int, world: int, device: str, on_progress: OnProgress) -> None:
        self.config, self.rank, self.world = config, rank, world
        self.on_progress = on_progress if rank == 0 else lambda *_: None
        self.folder = Path(config.out)
        masks = None if config.masks is None else _some(read_masks(config.masks), config.mask_count)
        self.pairs, self.unusable, self.texts = drawn_pairs(config)
        self.count = min(len(self.pairs), config.limit or len(self.pairs))
        self.data = digest([replace(pair, captions=own) for pair, own in zip(self.pairs, self.texts, strict=True)])
        self.captions = np.array([len(own) for own in self.texts])
        self.silent = {place for place in range(self.count) if not self.texts[place]}
        known = self.count - len(self.silent)
        self.batch_size = fitting(known, world * config.accum_freq) if config.batch_size is None else config.batch_size
        self._steps_of(known)
        self.backbone = load(config.model, device=device)
        self.head = EclipHead.start(
            self.backbone, config.source, init=config.init, hidden=config.hidden, text=config.text, seed=config.seed
        )
        self.learner = Learner(self.head, self.backbone.logit_scale, config)
        self.validation: Validation | None = None
        if masks is not None and rank == 0:
            self.validation = Validation(masks, self.backbone, config.source, image_size=config.image_size)
        self.false_negatives: FalseNegatives | None = None
        self.noted: set[tuple[str, str]] = set()
        self._orders: dict[int, tuple[Places, Places, Places]] = {}
        self.drawn = time.perf_counter()

    def go(self, resume: bool) -> EclipHead:
        """Everything from the cache to the last step."""
        config, begin, first = self.config, time.perf_counter(), 0
        if resume:
            first, state = checkpoint.read(self.folder, config, self.data, self.head.config.probe)
            self.learner.load(state)
        log = log_module.Log(self.folder if self.rank == 0 else None, first)
        self.noted = {(event["key"], event["why"]) for event in log.kept if event["event"] == "bad"}
        if first == 0:
            if self.rank == 0:
                (self.folder / CHECKPOINT).unlink(missing_ok=True)  # from a run that this one replaces
            facts = {"pairs": self.count, "batch_size": self.batch_size, **made_by(self.backbone)}
            log.note("start", step=0, config=config.plain(), **facts)
            for key, why in self.unusable:
                log.note("bad", step=0, key=key, why=why)
        data = self._pair_data(log, first)
        left_out = self.silent | data.bad.keys()
        good = np.array([place for place in range(self.count) if place not in left_out])
        if self.silent and first == 0:
            log.note("without words", step=0, pairs=len(self.silent))
        steps = self._steps_of(len(good))
        if self.rank == 0:
            warn_of_little(steps, self.batch_size, len(good), config)
        if first > steps * config.epochs:
            raise TrainingError(f"the run in {config.out!r} has done {first / steps:.3g} epochs of {config.epochs}.")
        if first == 0:
            self._score(log, 0, 0)
        with checkpoint.Interrupts(again="LOCAL_RANK" not in os.environ) as interrupts:
            for step in range(first, steps * config.epochs):
                self._step(data, good, step, steps, log)
                done = step + 1
                if config.stream:
                    data.bad = distributed.everyones(data.bad)
                    self._note_bad(data, log, done, (done - first) * self.batch_size)
                if ends := done % steps == 0:
                    self._score(log, done // steps, done)
                    self._save(log, done // steps, done, begin)
                    self._draw(last=done == steps * config.epochs)
                stopping = distributed.largest(interrupts.signal or 0, self.learner.device)
                if (ends or stopping or done % config.checkpoint_every == 0) and self.rank == 0:
                    state = self.learner.state()
                    checkpoint.save(self.folder, done, config, self.data, self.head.config.probe, state)
                if stopping:
                    log.note("stopped", step=done, signal=signal.Signals(stopping).name)
                    self._draw(last=True)
                    distributed.wait(self.learner.device)  # until the checkpoint is complete
                    raise KeyboardInterrupt if stopping == signal.SIGINT else SystemExit(128 + stopping)
        self._describe(config.epochs)
        return self.head.eval().requires_grad_(False)

    def encoder(self) -> PairEncoder:
        """The encoder of this run's pairs."""
        config, channels = self.config, self.head.config.channels
        guide = config.guide, config.guide_options
        return PairEncoder(self.backbone, channels, config.source, *guide, config.image_size, config.workers)

    def cached(self) -> Cached:
        """The cache of this run, which may be incomplete."""
        folder = cache_folder("training") if self.config.cache is None else Path(self.config.cache)
        return Cached(self.encoder(), self.pairs, self.texts, folder, self.count)

    def _pair_data(self, log: log_module.Log, first: int) -> PairData:
        if self.config.texts == "words":
            self.false_negatives = FalseNegatives(self.texts, self.encoder().encode_captions, self.config.near)
        if self.config.stream:
            return Streamed(self.encoder(), self.pairs, self.texts)
        begin, cached = time.perf_counter(), self.cached()
        cached.fill(self.on_progress, self.rank, self.world)
        distributed.wait(self.learner.device)
        cached.note_bad()
        if first == 0:
            log.note("cached", step=0, seconds=round(time.perf_counter() - begin, 1), bad=len(cached.bad))
        self._note_bad(cached, log, 0, self.count)
        return cached

    def _steps_of(self, good: int) -> int:
        """The number of steps in an epoch of `good` pairs."""
        return steps_of(good, self.count, self.batch_size, self.world, self.config, worded=bool(self.silent))

    def _step(self, data: PairData, good: Places, step: int, steps: int, log: log_module.Log) -> None:
        config, begin = self.config, time.perf_counter()
        epoch, within = divmod(step, steps)
        images, owners, captions = self._order(epoch, good)
        size = self.batch_size // self.world
        start = within * self.batch_size + self.rank * size
        parts = []
        for at in np.array_split(np.arange(start, start + size), config.accum_freq):
            batch = data.batch(images[at], owners[at], captions[at])
            if self.false_negatives is not None:
                batch = self.false_negatives.add(batch, owners[at], captions[at])
            parts.append(batch)
        rate = rate_at(step, steps * config.epochs, config)
        try:
            loss = self.learner.step(parts, rate)
        except TrainingError as error:
            log.note("failed", step=step, why=str(error))
            raise TrainingError(
                f"{error} at step {step + 1}, which was not applied; the last checkpoint in {config.out!r} is intact. "
                f"Try a lower --lr than {config.lr}."
            ) from error
        log.note("step", step=step + 1, epoch=epoch + 1, loss=loss, lr=rate, seconds=time.perf_counter() - begin)
        self.on_progress("training", step + 1, steps * config.epochs, f"epoch {epoch + 1}  loss {loss:.3f}")

    def _note_bad(self, data: PairData, log: log_module.Log, step: int, looked: int) -> None:
        """Log each bad image once, and stop if there are too many among those examined."""
        bad = [(self.pairs[place].key, why) for place, why in sorted(data.bad.items())]
        for key, why in bad:
            if (key, why) not in self.noted:
                log.note("bad", step=step, key=key, why=why)
        self.noted.update(bad)
        _check_bad(bad, min(looked, self.count))

    def _order(self, epoch: int, good: Places) -> tuple[Places, Places, Places]:
        """Images of an epoch in order, whose captions each gets, and which of these."""
        if epoch not in self._orders:
            drawn = _drawn(self.config.seed, epoch)
            images = owners = good[drawn.permutation(len(good))]
            if self.config.shuffle_captions:  # each image has the same wrong partner in all epochs
                ring = good[_drawn(self.config.seed, RING).permutation(len(good))]
                partner = np.empty(self.count, np.int64)
                partner[ring] = np.roll(ring, 1)
                owners = partner[images]
            which = (drawn.random(len(owners)) * self.captions[owners]).astype(np.int64)
            self._orders = {epoch: (images, owners, which)}
        return self._orders[epoch]

    def _score(self, log: log_module.Log, epoch: int, step: int) -> None:
        """Score the current maps on the images with masks."""
        if self.validation is not None:
            record = self.validation.score(self.head)
            log.note("scores", step=step, epoch=epoch, msc=record.msc, miou=record.miou, threshold=record.threshold)
            self.on_progress(
                "scores", epoch, self.config.epochs, f"mSC {100 * record.msc:.1f}  mIoU {100 * record.miou:.1f}"
            )
        distributed.wait(self.learner.device)

    def _save(self, log: log_module.Log, epoch: int, step: int, begin: float) -> None:
        """Save the head after an epoch, with a record of its training."""
        self._describe(epoch)
        if self.rank == 0:
            seconds = round(time.perf_counter() - begin, 1)
            log.note("epoch", step=step, epoch=epoch, seconds=seconds, peak_mib=peak_mib())
            self.head.save(self.folder)

    def _draw(self, last: bool) -> None:
        """Draw the curve at the end, and meanwhile only now and then, since a short epoch takes less time."""
        if self.rank == 0 and (last or time.perf_counter() - self.drawn > DRAW_EVERY):
            log_module.draw(self.folder)
            self.drawn = time.perf_counter()

    def _describe(self, epoch: int) -> None:
        """Record what the head was trained on: files by name and parent folder, not by full path."""
        fields = {key: value for key, value in self.config.plain().items() if key not in FREE}
        names = ["/".join(Path(source).parts[-2:]) for source in self.config.train_data]
        done = {"epochs": self.config.epochs, "epochs_done": epoch, "pairs": self.count, "data": self.data}
        done["batch_size"] = self.batch_size
        self.head.config = replace(self.head.config, trained={"train_data": names, **fields, **done, **versions()})


def drawn_pairs(config: TrainConfig) -> tuple[list[Pair], list[tuple[str, str]], list[tuple[str, ...]]]:
    """All pairs in a random order, those that cannot be used and why, and the texts of each pair.

    Raises:
        DataError: pairs cannot be read, or too many are bad.
    """
    pairs, unusable = read_pairs(
        config.train_data, image_key=config.image_key, caption_key=config.caption_key, separator=config.separator
    )
    _check_bad(unusable, len(unusable) + len(pairs))
    drawn = [pairs[place] for place in _drawn(0).permutation(len(pairs))]
    return drawn, unusable, as_words(drawn) if config.texts == "words" else [pair.captions for pair in drawn]


def _some(masks: MaskSet, count: int) -> MaskSet:
    places = np.unique(np.linspace(0, len(masks.items) - 1, min(count, len(masks.items))).round().astype(int))
    return replace(masks, items=tuple(masks.items[place] for place in places))


def _check_bad(bad: Sequence[tuple[str, str]], looked: int) -> None:
    if looked >= BAD_LEAST and len(bad) > BAD_SHARE * looked:
        some = " ".join(why if key in why else f"{key}: {why}" for key, why in bad[:3])
        raise DataError(
            f"{len(bad)} of {looked} pairs are bad, more than {BAD_SHARE:.0%}. The first: {some} "
            "Fix the data, or remove these pairs."
        )


def _drawn(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seeds)))
