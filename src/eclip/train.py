"""Train the head of ECLIP (Li et al. 2022, https://arxiv.org/abs/2209.07046): photos with captions in, a head out.

Both encoders are frozen and run once; their rows, guides and caption features lie in a cache on disk. What is trained
is `EclipHead` alone: masked max pooling makes one vector of a photo's rows, and symmetric InfoNCE draws it to its
caption. The paper's batch size, rate and length are not known to us; the defaults are ours, measured with `mini`.

Under `torchrun` each process takes its part of every batch, and all see all negatives; one process and many give the
same head, to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from eclip.backbones.load import load
from eclip.datasets.captions import digest, read_pairs
from eclip.datasets.masks import read_masks
from eclip.head import EclipHead
from eclip.training import checkpoint, journal
from eclip.training.config import TrainConfig
from eclip.training.learning import Learner
from eclip.writer import made_by

Tell = Callable[[str, int, int, str], None]
"""Hears (what is done, how many are done, of how many, a word on it)."""
BAD_SHARE, BAD_LEAST = 0.05, 200
"""More bad pairs than this stop a run, once so many pairs have been looked at."""


def train(config: TrainConfig, *, resume: bool = False, tell: Tell = lambda *_: None) -> EclipHead:
    """Train a head.

    Args:
        config: see `TrainConfig`.
        resume: go on where the run in `config.out` was interrupted; the head is the same, bit for bit, as if it had
            not been (on one machine, with as many threads and processes).
        tell: hears of the progress.

    Returns:
        The head, which `config.out` holds too, next to `log.jsonl`, `curve.png` and `checkpoint.pt`.

    Raises:
        OptionError: a field of the configuration, also a batch too large for the pairs or uneven for the processes.
        DataError: pairs that cannot be read, or more than 5 % bad ones.
        TrainingError: nothing to resume, another run's checkpoint, or a loss that is not finite.
        KeyboardInterrupt: Ctrl-C, after the checkpoint was written; on SIGTERM it is SystemExit.
        EclipError: of the model, the guide, the cache, or the masks.
    """
    config.check()
    journal.check_plot()
    with _processes(config.device) as (rank, world, device):
        return _Run(config, rank, world, device, tell).go(resume)


class _Run:
    """One process of a run."""

    def __init__(self, config: TrainConfig, rank: int, world: int, device: str, tell: Tell) -> None:
        self.config, self.rank, self.world = config, rank, world
        self.tell = tell if rank == 0 else lambda *_: None
        self.folder = Path(config.out)
        self.masks = None if config.masks is None else _some(read_masks(config.masks), config.mask_count)
        self.pairs, self.unusable = read_pairs(
            config.train_data,
            image_key=config.image_key,
            caption_key=config.caption_key,
            separator=config.separator,
        )
        _check_bad(len(self.unusable), len(self.unusable) + len(self.pairs), self.unusable)
        self.pairs = self.pairs[: config.limit]
        self.backbone = load(config.model, device=device)
        self.head = EclipHead.start(
            self.backbone, config.source, init=config.init, hidden=config.hidden, text=config.text, seed=config.seed
        )
        self.learner = Learner(self.head, self.backbone.logit_scale, config)

    def go(self, resume: bool) -> EclipHead:
        """Everything from the cache to the last step."""
        data, begin, first = digest(self.pairs), time.perf_counter(), 0
        if resume:
            first, state = checkpoint.read(self.folder, self.config, data)
            self.learner.load(state)
        self.folder.mkdir(parents=True, exist_ok=True)
        log = journal.Journal(self.folder if self.rank == 0 else None, first)
        if not resume:
            log.note("start", step=0, config=asdict(self.config), pairs=len(self.pairs), **made_by(self.backbone))
            for key, why in self.unusable:
                log.note("bad", step=0, key=key, why=why)
        material = self._material(log)
        good = np.array([place for place in range(len(self.pairs)) if place not in material.bad])
        steps = self._steps(len(good))
        total = steps * self.config.epochs
        self._score(log, 0, 0)
        with checkpoint.Interrupts() as interrupts:
            for step in range(first, total):
                epoch, within = divmod(step, steps)
                if within == 0 or step == first:
                    order, captions = self._order(epoch, good)
                part = slice(within * self.config.batch_size, (within + 1) * self.config.batch_size)
                ...
        return self.head
