"""Train the head of ECLIP (Li et al. 2022, https://arxiv.org/abs/2209.07046) on images with captions.

Both encoders are frozen and run once; rows, guides and caption features are cached on disk. Only `EclipHead` is
trained: the rows of an image are pooled into a score for each text, and symmetric InfoNCE raises the score of its own
text. The paper uses masked max pooling, which we read as `form="soft"` with a guide; the default form is our own,
"similarity_smooth" without a guide. We do not know the paper's batch size, learning rate and number of epochs; the
defaults are our own, measured with the first `mini` (docs/eclip.md).

Under `torchrun`, each process handles its part of each batch, and all use all negatives. For the same `batch_size`, the
head is the same for any number of processes, up to rounding; but without a `batch_size`, it is made divisible by them,
and `mix` and `separate` see the part of one process.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from eclip.backbones.head import CONFIG, WEIGHTS, EclipHead
from eclip.backbones.load import load
from eclip.datasets.caption_sources import digest
from eclip.datasets.masks import MaskSet, read_masks
from eclip.errors import DataError, TrainingError
from eclip.files import cache_folder, lock, peak_mib
from eclip.registry import check_kind
from eclip.results.folder import check_no_other
from eclip.results.provenance import made_by, versions
from eclip.training import checkpoint, distributed
from eclip.training import log as log_module
from eclip.training.config import CHECKPOINT, FREE, TrainConfig
from eclip.training.data import Cached, OnProgress, PairData, PairEncoder, Places, Streamed, key_of, state_of
from eclip.training.drawn import check_bad, drawn, drawn_pairs, told
from eclip.training.learner import Learner
from eclip.training.schedule import fitting, rate_at, steps_of, warn_of_little
from eclip.training.validation import Validation
from eclip.training.word_prompts import FalseNegatives

RING = 2**32
"""In place of an epoch in the seed of the ring of wrong partners, whose order is that of no epoch."""
DRAW_EVERY = 20.0
"""Seconds between two drawings of the curve, at least."""
_log = logging.getLogger("eclip")


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
        DataError: pairs cannot be read, more than 5 % of them are bad, or their texts leave nothing to contrast.
        ResultError: the folder contains results of another command, or files that a run would replace and that are
            not known to be of one; another run is writing to it; or the folder or the cache cannot be written.
        TrainingError: there is nothing to resume, the checkpoint is of another run, the loss is not finite, or another
            process of the run failed.
        KeyboardInterrupt: on Ctrl-C, after the checkpoint was written; SystemExit on SIGTERM.
        EclipError: the model, the guide or the masks cannot be used.
    """
    check_kind(config, TrainConfig, "config", "eclip.TrainConfig(train_data=...) makes it")
    config.check()
    check_no_other(Path(config.out), "eclip train")
    if not resume:
        log_module.check_replaceable(Path(config.out))
    log_module.check_plot()
    with (
        distributed.joined(config.device) as (rank, world, device),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False, cache_enabled=False),  # of the caller
        torch.autocast("cuda", enabled=False, cache_enabled=False),
    ):
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
        guide = state_of(config.guide_options)
        self.seen = self.data if guide == config.guide_options else f"{self.data}-{key_of(guide)}"
        self.captions = np.array([len(own) for own in self.texts])
        self.silent = {place for place in range(self.count) if not self.texts[place]}
        known = self.count - len(self.silent)
        self.batch_size = config.batch_size or fitting(known, world * config.accum_freq)
        self._steps_of(known)
        self.backbone = load(config.model, device=device)
        self.head = EclipHead.start(
            self.backbone, config.source, init=config.init, hidden=config.hidden, text=config.text, seed=config.seed
        )
        self.learner = Learner(self.head, self.backbone.logit_scale, config)
        self.validation: Validation | None = None
        if masks is not None and rank == 0:
            self.validation = Validation(masks, self.backbone, config.source, image_size=config.image_size)
        self.mask_set = "" if self.validation is None else self.validation.masks.digest()
        self.false_negatives: FalseNegatives | None = None
        if config.texts == "words":
            self.false_negatives = FalseNegatives(self.texts, self.encoder().encode_captions, config.near)
        self._check_contrast()
        self.noted: set[tuple[str, str]] = set()
        self._orders: dict[int, tuple[Places, Places, Places]] = {}
        self.drawn = time.perf_counter()

    def go(self, resume: bool) -> EclipHead:
        """Everything from the cache to the last step, while no other run can write to the folder."""
        self.encoder().encode_images(self.pairs[:1])  # checks the size and the guide, before anything is replaced
        with ExitStack() as held:
            if self.rank == 0:
                if not resume:
                    with suppress(OSError):  # the log says it
                        self.folder.mkdir(parents=True, exist_ok=True)
                held.callback(lock(self.folder))
            return self._go(resume)

    def _go(self, resume: bool) -> EclipHead:
        config, begin, first = self.config, time.perf_counter(), 0
        if resume:
            first, size, state = checkpoint.read(self.folder, config, self.seen, self.head.config.probe)
            self.batch_size = size or self.batch_size
            self.learner.load(state)
        log = log_module.Log(self.folder if self.rank == 0 else None, first)
        self.noted = {(event["key"], event["why"]) for event in log.kept if event["event"] == "bad"}
        for name in (CHECKPOINT, CONFIG, WEIGHTS, log_module.PICTURE):  # from a run that this one replaces
            if self.rank == 0 and not resume:
                (self.folder / name).unlink(missing_ok=True)
        if not log.kept:
            facts = {"pairs": self.count, "batch_size": self.batch_size, **made_by(self.backbone)}
            log.note("start", step=first, config=config.plain(), **facts)
            for key, why in self.unusable:
                log.note("bad", step=first, key=key, why=why)
        data = self._pair_data(log, first)
        left_out = self.silent | data.bad.keys()
        good = np.array([place for place in range(self.count) if place not in left_out])
        if self.silent and not log.kept:
            log.note("without words", step=first, pairs=len(self.silent))
        if not len(good):
            why = self._told(data, min(data.bad))
            file = self.folder / log_module.FILE
            raise DataError(f"none of the {self.count} pairs is usable. The first: {why} All are listed in {file}.")
        if config.batch_size is None and len(good) < self.batch_size:
            self.batch_size = fitting(len(good), self.world * config.accum_freq)
            log.note("smaller batch", step=0, batch_size=self.batch_size)
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
                stopping = distributed.largest(interrupts.signal or 0, self.learner.device)
                if (ends or stopping or done % config.checkpoint_every == 0) and self.rank == 0:
                    state = self.learner.state()
                    kept = self.seen, self.head.config.probe, self.batch_size
                    checkpoint.save(self.folder, done, config, *kept, state)
                if ends:
                    self._draw(last=done == steps * config.epochs)
                if stopping:
                    log.note("stopped", step=done, signal=signal.Signals(stopping).name)
                    self._draw(last=True)
                    distributed.wait(self.learner.device)  # until the checkpoint is complete
                    raise KeyboardInterrupt if stopping == signal.SIGINT else SystemExit(128 + stopping)
        self._describe(config.epochs)
        if self.rank == 0 and not all((self.folder / name).is_file() for name in (CONFIG, WEIGHTS)):
            self.head.save(self.folder)  # of a finished run that lost it
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
        if self.config.stream:
            return Streamed(self.encoder(), self.pairs, self.texts)
        begin, cached = time.perf_counter(), self.cached()
        cached.fill(self.on_progress, self.rank, self.world, retry=first == 0)
        distributed.wait(self.learner.device)
        cached.note_bad()
        if first == 0:
            log.note("cached", step=0, seconds=round(time.perf_counter() - begin, 1), bad=len(cached.bad))
        self._note_bad(cached, log, 0, self.count)
        return cached

    def _check_contrast(self) -> None:
        """Refuse texts of which none is a negative of any image."""
        texts = self.texts[: self.count]
        said = {text for own in texts for text in own}
        if len(said) < 2 or not (self.false_negatives is None or self.false_negatives.leave_any(texts)):
            advice = "" if self.false_negatives is None else f", or set a higher --near than {self.config.near}"
            raise DataError(
                f"there is nothing to contrast, because every text, such as {min(said)!r}, counts as true of every "
                f"image: train on pairs that mention different things{advice}."
            )

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
        if config.stream and not distributed.largest(int(any(part.good.any() for part in parts)), self.learner.device):
            first = self._told(data, int(images[start]))
            raise DataError(f"none of the images of step {step + 1} can be read. The first: {first}")
        rate = rate_at(step, steps * config.epochs, config)
        try:
            loss = self.learner.step(parts, rate)
        except TrainingError as error:
            log.note("failed", step=step, why=str(error))
            is_kept = (self.folder / CHECKPOINT).is_file()
            kept = f"the last checkpoint in {config.out!r} is intact" if is_kept else "there is no checkpoint yet"
            raise TrainingError(
                f"{error} at step {step + 1}, which was not applied; {kept}. Try a lower --lr than {config.lr}."
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
        check_bad(bad, min(looked, self.count))

    def _told(self, data: PairData, place: int) -> str:
        return told(self.pairs[place].key, data.bad[place])

    def _order(self, epoch: int, good: Places) -> tuple[Places, Places, Places]:
        """Images of an epoch in order, whose captions each gets, and which of these."""
        if epoch not in self._orders:
            order = drawn(self.config.seed, epoch)
            images = owners = good[order.permutation(len(good))]
            if self.config.shuffle_captions:  # each image has the same wrong partner in all epochs
                ring = good[drawn(self.config.seed, RING).permutation(len(good))]
                partner = np.empty(self.count, np.int64)
                partner[ring] = np.roll(ring, 1)
                owners = partner[images]
            which = (order.random(len(owners)) * self.captions[owners]).astype(np.int64)
            self._orders = {epoch: (images, owners, which)}
        return self._orders[epoch]

    def _score(self, log: log_module.Log, epoch: int, step: int) -> None:
        """Score the current maps on the images with masks."""
        if self.validation is not None:
            record = self.validation.score(self.head)
            facts = {"msc": record.msc, "miou": record.miou, "threshold": record.threshold, "masks": self.mask_set}
            log.note("scores", step=step, epoch=epoch, **facts)
            self.on_progress(
                "scores", epoch, self.config.epochs, f"mSC {100 * record.msc:.1f}  mIoU {100 * record.miou:.1f}"
            )
        distributed.wait(self.learner.device)

    def _save(self, log: log_module.Log, epoch: int, step: int, begin: float) -> None:
        """Save the head after an epoch, with a record of its training."""
        self._describe(epoch)
        if self.rank == 0:
            seconds = round(time.perf_counter() - begin, 3)
            log.note("epoch", step=step, epoch=epoch, seconds=seconds, peak_mib=peak_mib())
            self.head.save(self.folder)

    def _draw(self, last: bool) -> None:
        """Draw the curve at the end, and meanwhile only now and then, since a short epoch takes less time."""
        if self.rank == 0 and (last or time.perf_counter() - self.drawn > DRAW_EVERY):
            try:
                log_module.draw(self.folder)
            except Exception as error:  # of matplotlib, its configuration or the folder; the run does not need it
                _log.warning("the curve of the run cannot be drawn: %s: %s", type(error).__name__, error)
            self.drawn = time.perf_counter()

    def _describe(self, epoch: int) -> None:
        """Record what the head was trained on: files by name and parent folder, not by full path."""
        fields = {key: value for key, value in self.config.plain().items() if key not in FREE}
        names = ["/".join(Path(source).parts[-2:]) for source in self.config.train_data]
        done = {"epochs": self.config.epochs, "epochs_done": epoch, "pairs": self.count, "data": self.data}
        done["batch_size"] = self.batch_size
        self.head.config = replace(self.head.config, trained={"train_data": names, **fields, **done, **versions()})


def _some(masks: MaskSet, count: int) -> MaskSet:
    places = np.unique(np.linspace(0, len(masks.items) - 1, min(count, len(masks.items))).round().astype(int))
    return replace(masks, items=tuple(masks.items[place] for place in places))
