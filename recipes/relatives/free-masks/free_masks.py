"""Train a small segmenter on label maps that `eclip.segment` makes for free: docs/relatives/free-masks.md.

    python recipes/relatives/free-masks/free_masks.py --data DATA --out FOLDER [--train IMAGES] [--limit IMAGES]

Needs the packs coco-labels, whose labels it does not read, and voc2012seg in DATA. The segmenter is three convolutions
on the frozen trunk of `mini`, a CNN, so another model needs such a trunk. Expect three minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import eclip
from eclip.datasets.masks import VOC_NAMES, VOID, read_masks
from eclip.datasets.packs import in_tars
from eclip.evaluation.protocols import STUFF
from eclip.explanation.health import LEAST_PRESENCE
from eclip.metrics.segmentation import confusion, segmentation_miou
from eclip.render.figure import Cell, Line, figure
from eclip.render.label_map import tinted

NAMES, SIDE, IGNORED, UNSURE = list(VOC_NAMES.values()), 28, -1, 0.3
EPOCHS, BATCH, RATE, DRAWS, WIDTH = 20, 8, 2e-3, 1000, 32
FILTERS = {"no filter": (False, False), "confidence": (True, False), "presence": (False, True), "both": (True, True)}


def teach(backbone: eclip.Backbone, images: Sequence[Image.Image]) -> list[eclip.Segmentation]:
    """Label maps of the classes of VOC, with words for the background."""
    return list(eclip.segment_each(images, NAMES, model=backbone, background=", ".join(STUFF), templates="single"))


def present(found: eclip.Segmentation) -> np.ndarray:
    """The label map, with classes that are probably not in the image as background."""
    labels = found.labels[0].copy()
    labels[np.isin(labels, np.flatnonzero(found.presence[0] < LEAST_PRESENCE))] = 0
    return labels


def lesson(found: eclip.Segmentation, sure: bool, there: bool) -> Tensor:
    """Labels (SIDE, SIDE), without the least confident pixels if `sure`, and with `present` classes only if `there`."""
    labels, confidence = (present(found) if there else found.labels[0]).astype(np.int64), found.confidences[0]
    labels[(confidence < np.quantile(confidence, UNSURE)) & sure] = IGNORED
    high, wide = labels.shape
    rows, cols = (((np.arange(SIDE) + 0.5) * side / SIDE).astype(int) for side in (high, wide))
    return torch.from_numpy(labels[rows[:, None], cols])


def trunk(backbone: eclip.Backbone, images: Sequence[Image.Image]) -> Tensor:
    """Features (image, depth, row, col) of the last stage of the CNN, divided by their length."""
    found = [eclip.encode(backbone, backbone.preprocess(image)[None], keep=0).trunk for image in images]
    return F.normalize(torch.cat(found), dim=1) * found[0].shape[1] ** 0.5


def segmenter(depth: int) -> nn.Module:
    """Three convolutions, the last two on twice as many rows and columns."""
    first, middle = nn.Conv2d(depth, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
    larger, last = nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(WIDTH, 1 + len(NAMES), 1)
    return nn.Sequential(first, larger, middle, nn.ReLU(), last)


def train(features: Tensor, labels: Tensor) -> nn.Module:
    """A segmenter that has learned these labels, by cross-entropy; half of the batches are mirrored."""
    torch.manual_seed(0)
    model = segmenter(features.shape[1])
    adam = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    for _ in range(EPOCHS):
        for some in torch.randperm(len(features)).split(BATCH):
            seen, asked = features[some], labels[some]
            if torch.rand(()) < 0.5:
                seen, asked = seen.flip(-1), asked.flip(-1)
            loss = F.cross_entropy(model(seen), asked, ignore_index=IGNORED)
            adam.zero_grad()
            loss.backward()
            adam.step()
    return model.eval()


def predict(model: nn.Module, features: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The label of each pixel, of an image with these features (1, depth, row, col)."""
    with torch.no_grad():
        return F.interpolate(model(features), size, mode="bilinear").argmax(dim=1)[0].numpy().astype(np.uint8)


def mious(counts: np.ndarray) -> np.ndarray:
    """The mIoU of confusion matrices (image, true, predicted), then those of `DRAWS` bootstrap draws of images."""
    drawn = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), DRAWS)
    drawn = [np.ones(len(counts), int), *drawn]
    return 100 * np.array([segmentation_miou(np.tensordot(one, counts, 1)) for one in drawn])


def said(values: np.ndarray) -> str:
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return f"{values[0]:.1f} ({low:.1f} to {high:.1f})"


def picture(found: list[eclip.Segmentation], maps: list[np.ndarray], path: Path) -> None:
    lines = []
    for one, student in zip(found, maps, strict=True):
        cells = [Cell(one.images[0], title="image")]
        for title, labels in {"teacher": one.labels[0], "student": student}.items():
            areas = np.bincount(labels.ravel(), minlength=1 + len(NAMES))[1:]
            names = ", ".join(NAMES[place] for place in np.argsort(-areas)[:3] if areas[place])
            cells.append(Cell(tinted(one.images[0], labels, len(NAMES)), title=title, caption=names))
        lines.append(Line(cells))
    figure(lines, width=6, dpi=150).savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=120, help="images to learn from")
    parser.add_argument("--limit", type=int, default=80, help="images of the test")
    args, backbone, found, models = parser.parse_args(), eclip.load("mini"), {}, {}
    images = [pair.open() for pair in in_tars(args.data / "coco-labels", "train").items[::36][: args.train]]
    taught, features = teach(backbone, images), trunk(backbone, images)
    items = read_masks(args.data / "voc2012seg", classes=VOC_NAMES, every=11).items[: args.limit]
    tests, truths = [item.open() for item in items], [item.read() for item in items]
    teacher, seen = teach(backbone, tests), trunk(backbone, tests)
    answers = {
        "all background (control)": [np.zeros_like(one.labels[0]) for one in teacher],
        "teacher": [one.labels[0] for one in teacher],
        "teacher, absent classes dropped": [present(one) for one in teacher],
    }
    for name, filters in FILTERS.items():
        model = models[name] = train(features, torch.stack([lesson(one, *filters) for one in taught]))
        answers[f"student, {name}"] = [predict(model, seen[i : i + 1], truth.shape) for i, truth in enumerate(truths)]
    args.out.mkdir(parents=True, exist_ok=True)
    for name, own in answers.items():
        pairs = zip(own, truths, strict=True)
        found[name] = mious(np.stack([confusion(one, truth, len(NAMES) + 1, void=VOID) for one, truth in pairs]))
    print(f"| {len(tests)} images, learned from {len(images)} | mIoU of VOC21 | minus teacher |\n|---|---|---|")
    for name, values in found.items():
        print(f"| {name} | {said(values)} | {said(values - found['teacher'])} |")
    shown = (Path(__file__).parents[3] / f"docs/images/{name}.jpg" for name in ("dog", "cat", "horses"))
    files = [Image.open(path).convert("RGB") for path in shown]
    maps = [predict(models["no filter"], trunk(backbone, [one]), one.size[::-1]) for one in files]
    picture(teach(backbone, files), maps, args.out / "free-masks.jpg")


if __name__ == "__main__":
    main()
