"""Ablations of the head of `mini`: pooling, guide, texts, initialization, pairs; with baselines and several seeds.

    python recipes/eclip-mini/ablations.py --data DATA --out WORK/ablations.jsonl

Expect: a table of each group, of which docs/eclip.md has the forms (`--only forms`). Reported scores are on every third
image of voc2012seg and every second of coco80seg. The forms of pooling are compared with a learning rate of their own:
of `--rates`, that with the highest mIoU, averaged over both packs, with seed 0 on a quarter of the other images. All
other tables have the rate of `similarity_smooth` on words. Each run is a line in --out, and runs that are there are not
repeated.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import eclip
from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import cosine
from eclip.backbones.encoding import Encoding
from eclip.backbones.head import EclipHead, head_rows
from eclip.datasets.masks import VOC_NAMES, MaskSet, present, read_masks
from eclip.guides import GUIDES, Seen, on_grid
from eclip.metrics.localization import Localization
from eclip.training.config import TrainConfig
from eclip.training.run import Run, train
from eclip.training.validation import encoded, score_image

BASE: dict[str, Any] = {"texts": "words", "form": "similarity_smooth", "guide": "none", "wd": 0.0}
BASE |= {"warmup": 30, "epochs": 3, "device": "cpu"}
SPECTRAL = {"guide": "spectral"}
# fmt: off
GROUPS: dict[str, dict[str, dict[str, Any] | str]] = {
    "controls": {
        "no step (the start alone)": "start",
        "random head, no step": "random",
        "reference, 3 epochs": {},
        "shuffled texts": {"shuffle_captions": True},
        "spectral guide alone, whatever the text": "guide spectral",
        "centre guide alone": "guide centre",
    },
    "forms": {
        "`similarity_smooth`": {},
        "`similarity`": {"form": "similarity"},
        "`max`": {"form": "max"},
        "`mean`": {"form": "mean"},
        "`soft`, spectral": {"form": "soft", **SPECTRAL},
        "`exclusion`, spectral": {"form": "exclusion", **SPECTRAL},
        "`masked_mean`, spectral": {"form": "masked_mean", **SPECTRAL},
        "`similarity_smooth`, spectral": SPECTRAL,
        "`soft`, centre": {"form": "soft", "guide": "centre"},
    },
    "texts": {
        "words, `similarity_smooth`": {},
        "captions, `similarity_smooth`": {"texts": "captions"},
        "captions, `soft`, spectral": {"texts": "captions", "form": "soft", **SPECTRAL},
        "words, near words as negatives too": {"near": 1.0},
        "captions, `max`": {"texts": "captions", "form": "max"},
    },
    "head": {
        "value path, linear": {},
        "random start": {"init": "random"},
        "with a text projection": {"text": True},
        "with a nonlinear path of width 256": {"hidden": 256},
        "output tokens (ITSM's start)": {"source": "output"},
    },
    "losses": {
        "reference": {},
        "mixed patches, weight 0.1": {"mix": 0.1},
        "mixed patches, weight 1": {"mix": 1.0},
        "separated images, weight 0.1": {"separate": 0.1},
        "separated images, weight 1": {"separate": 1.0},
    },
    "pairs": {
        "1,000 pairs": {"limit": 1000, "epochs": 27},
        "2,000 pairs": {"limit": 2000, "epochs": 12},
        "4,000 pairs": {"limit": 4000, "epochs": 5},
        "all 6,962 pairs": {},
    },
}
# fmt: on
GROUPS["forms on phrases"] = {label: {**given, "phrases": True} for label, given in GROUPS["forms"].items()}
TUNED = ("forms", "forms on phrases")
"""Tables whose rows have a learning rate of their own."""
REFERENCE: dict[str, Any] = {}
"""The row whose learning rate all other tables have."""


class Scored:
    """A mask set whose rows are computed once, so that a head is scored in seconds."""

    def __init__(self, backbone: Backbone, masks: MaskSet, source: str) -> None:
        self.masks = masks
        self.text = eclip.encode_texts(backbone, list(masks.classes.values()), "a photo of a {}")
        self.columns = {number: column for column, number in enumerate(masks.classes)}
        parts = [(head_rows(one, source).half(), one.grid) for _, one in encoded(masks, backbone, keep=1)]
        self.rows, self.grid = torch.cat([rows for rows, _ in parts]), parts[0][1]
        self.shown = [item.read() for item in masks.items]

    def score(self, maps_of: Callable[[torch.Tensor], torch.Tensor]) -> tuple[float, float]:
        """Compute mSC and mIoU, in percent, of maps (image, text, row, col) computed from rows."""
        found = Localization()
        for start in range(0, len(self.rows), 64):
            maps = maps_of(self.rows[start : start + 64].float())
            for raw, mask in zip(maps, self.shown[start : start + 64], strict=True):
                numbers = present(mask)
                score_image(found, raw[[self.columns[number] for number in numbers]], numbers, mask)
        record = found.record()
        return 100 * record.msc, 100 * record.miou

    def of_head(self, head: EclipHead) -> tuple[float, float]:
        """Scores of a head's maps."""
        with torch.no_grad():
            text = head.project_text(self.text)
            return self.score(lambda rows: self._laid(cosine(head(rows), text)))

    def of_guide(self, backbone: Backbone, guide: str) -> tuple[float, float]:
        """Scores of a guide alone, with one map for all texts."""

        def maps(rows: torch.Tensor) -> torch.Tensor:
            return guided(backbone, rows, guide)[:, None].expand(-1, len(self.text), -1, -1)

        return self.score(maps)

    def _laid(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.transpose(1, 2).unflatten(2, tuple(self.grid))


def guided(backbone: Backbone, rows: torch.Tensor, guide: str) -> torch.Tensor:
    """A guide's maps from rows alone: rows of an attention pool are all that its block sees, except for their mean."""
    [block], grid = backbone.blocks, backbone.native
    x = torch.cat([rows.mean(dim=1, keepdim=True), rows], dim=1)
    with torch.no_grad():
        tokens = block.forward(x)
    blank = torch.zeros(len(rows), 3, *(side * backbone.patch_size for side in grid))
    encoding = Encoding(
        backbone=backbone,
        pixels=blank,
        inputs=(x,),
        last=tokens,
        entry=x,
        feature=backbone.pool(tokens),
        trunk=None,
        grid=grid,
        prefix=backbone.prefix,
        positions="bicubic_aa",
        blocks=backbone.blocks,
    )
    seen = Seen([Image.new("RGB", (8, 8))] * len(rows), ["image"] * len(rows), encoding)
    return on_grid(GUIDES[guide](seen), grid)


def fill_guide(run: Run) -> None:
    """Fill the cache with a guide's maps from the cached rows, which saves reading every image again."""
    cached = run.cached()
    for span in cached.guides.missing(cached.count):
        rows = torch.from_numpy(cached.rows.take(np.arange(span.start, span.stop))).float()
        cached.guides.write(span.start, guided(run.backbone, rows, run.config.guide).flatten(1).half().numpy())


def sources(data: Path) -> tuple[str, ...]:
    return str(data / "flickr8k/train-{000..005}.tar"), str(data / "coco-captions/train-000.tar")


def phrase_shards(data: Path, folder: Path) -> str:
    """Flickr8k's training shards with the phrases that have boxes in place of the captions, one a line; their names."""
    with gzip.open(data / "flickr8k-entities" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    own = {
        (record["shard"], record["key"]): list(
            dict.fromkeys(one["text"] for said in record["captions"] for one in said["phrases"] if one["boxes"])
        )
        for record in records
    }
    for shard in sorted((data / "flickr8k").glob("train-*.tar")):
        with tarfile.open(shard) as given, tarfile.open(folder / shard.name, "w") as made:
            for member in given.getmembers():
                key, _, ending = member.name.rpartition(".")
                content = given.extractfile(member).read()
                if not own.get((shard.name, key)):
                    continue
                if ending == "txt":
                    content = "\n".join(own[shard.name, key]).encode()
                    member.size = len(content)
                made.addfile(member, io.BytesIO(content))
    return str(folder / "train-{000..005}.tar")


def once(
    backbone: Backbone, sets: dict[str, Scored], given: dict[str, Any] | str, config: dict[str, Any]
) -> list[float]:
    """Scores (mSC, mIoU) on each mask set in turn, of one training run or of a baseline that needs none."""
    if isinstance(given, str) and given.startswith("guide "):
        scores = [one.of_guide(backbone, given.removeprefix("guide ")) for one in sets.values()]
    elif isinstance(given, str):
        init = "random" if given == "random" else "model"
        head = EclipHead.start(backbone, init=init, seed=config["seed"])
        scores = [one.of_head(head) for one in sets.values()]
    else:
        with tempfile.TemporaryDirectory() as out:
            settings = TrainConfig(**{**config, **given, "out": out})
            if settings.guide != "none":
                fill_guide(Run(settings, 0, 1, "cpu", lambda *_: None))
            head = train(settings)
        scores = [one.of_head(head) for one in sets.values()]
    return [value for pair in scores for value in pair]


def tuned(lines: list[dict[str, Any]], given: dict[str, Any]) -> dict[str, Any]:
    """The row with the learning rate at which seed 0 has the highest mIoU on the images for tuning."""
    found = [line for line in lines if line["seed"] == 0 and "lr" in line["given"]]
    found = [line for line in found if line["given"] == {**given, "lr": line["given"]["lr"]}]
    return max(found, key=lambda line: line["tuning"][1] + line["tuning"][3])["given"]


def rated(lines: list[dict[str, Any]], group: str, given: dict[str, Any] | str) -> dict[str, Any] | str:
    """The row as it is run, with the learning rate of its table."""
    if isinstance(given, str):
        return given
    return {**given, "lr": tuned(lines, given if group in TUNED else REFERENCE)["lr"]}


def table(lines: list[dict[str, Any]], group: str) -> str:
    """Mean and standard deviation over seeds, as Markdown; no deviation for a single run."""
    rates = group in TUNED
    rows = [f"| | {'rate | ' * rates}voc2012seg mSC | mIoU | coco80seg mSC | mIoU |", f"|---|{'---|' * (4 + rates)}"]
    for label, given in GROUPS[group].items():
        row = rated(lines, group, given)
        found = np.array([line["scores"] for line in lines if line["given"] == row])
        if len(found):
            cells = [f"{mean:.1f}" for mean in found.mean(axis=0)]
            if len(found) > 1:
                cells = [f"{cell} ± {sd:.1f}" for cell, sd in zip(cells, found.std(axis=0, ddof=1), strict=True)]
            cells = [f"{row['lr']:g}", *cells] if rates else cells
            rows.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(rows)


class Runs:
    """Runs each row and seed once, and keeps a line of each in a file.

    Args:
        data: folder of the packs.
        out: the file.
        model: name of the model.
        cache: folder of encoded pairs; None = the user's cache.
    """

    def __init__(self, data: Path, out: Path, model: str, cache: str | None) -> None:
        self.data, self.out, self.model, self.cache = data, out, model, cache
        self.lines = (
            [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.is_file() else []
        )
        self.backbone = eclip.load(model)
        self.sets: dict[str, dict[str, Scored]] = {}
        self.phrases = tempfile.TemporaryDirectory()
        self.shards = ""

    def __call__(self, label: str, given: dict[str, Any] | str, seed: int) -> None:
        """Train and score, unless the file has it, also if another table has the same run."""
        if any((line["given"], line["seed"]) == (given, seed) for line in self.lines):
            return
        config = {**BASE, "model": self.model, "train_data": sources(self.data), "cache": self.cache, "seed": seed}
        row = given
        if isinstance(given, dict) and given.get("phrases"):
            self.shards = self.shards or phrase_shards(self.data, Path(self.phrases.name))
            row = {key: value for key, value in given.items() if key != "phrases"}
            config |= {"train_data": (self.shards,), "texts": "captions"}
        source = "value" if isinstance(given, str) else given.get("source", "value")
        scores = once(self.backbone, self._scored(source), row, config)
        self.lines.append({"given": given, "seed": seed, "scores": scores[:4], "tuning": scores[4:]})
        with self.out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(self.lines[-1]) + "\n")
        print(label, given, seed, *(f"{value:.2f}" for value in scores), flush=True)

    def _scored(self, source: str) -> dict[str, Scored]:
        if source not in self.sets:
            voc, coco = self.data / "voc2012seg", self.data / "coco80seg"
            masks = {
                "voc2012seg": read_masks(voc, classes=VOC_NAMES, every=3),
                "coco80seg": read_masks(coco, every=2),
                "voc2012seg, tuning": read_masks(voc, classes=VOC_NAMES, every=6, first=1),
                "coco80seg, tuning": read_masks(coco, every=4, first=1),
            }
            self.sets[source] = {name: Scored(self.backbone, one, source) for name, one in masks.items()}
        return self.sets[source]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="one line per run; runs that are there are not repeated"
    )
    parser.add_argument("--model", default="mini", help="any name that eclip.load knows; one --out file for each model")
    parser.add_argument("--cache", help="folder of encoded pairs; default: the user's cache")
    parser.add_argument("--only", choices=list(GROUPS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", default="3e-5,1e-4,3e-4,1e-3", help="learning rates that are tried for each form")
    args = parser.parse_args()
    run = Runs(args.data, args.out, args.model, args.cache)
    for group in [args.only] if args.only else GROUPS:
        rows = GROUPS[group] if group in TUNED else {"reference": REFERENCE}
        for rate, (label, given) in product(map(float, args.rates.split(",")), rows.items()):
            run(label, {**given, "lr": rate}, 0)
        for label, given in GROUPS[group].items():
            row = rated(run.lines, group, given)
            alike = isinstance(row, str) and row != "random"  # the seed changes nothing
            for seed in range(1 if alike else args.seeds):
                run(label, row, seed)
        print(f"\n{group}\n\n{table(run.lines, group)}\n", flush=True)


if __name__ == "__main__":
    main()
