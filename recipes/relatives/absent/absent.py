"""Saying no: rules that tell names in an image from others, with and without a "no" side of the text encoder.

    python recipes/relatives/absent/absent.py --data DATA --out FOLDER

Needs the packs voc2012seg and coco80seg, on which rules are scored as by `absent-v1`, and flickr8k and coco-captions,
on whose train splits the "no" side learns from features of the frozen `mini`. Expect four minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

import eclip
from eclip.datasets import dataset
from eclip.datasets.masks import present
from eclip.explanation.checkup import Checkup
from eclip.metrics.rejection import false_positive_rate, known_auroc

TEMPLATES = ("a photo of a {}", "a photo of no {}", "a photo without a {}")
RULES = eclip.PROTOCOLS["absent-v1"].rules
RANK, STEPS, BATCH, REPLICATES = 16, 400, 256, 200
PACKS = {"voc2012seg": 2, "coco80seg": 1}


def refused(text: Tensor, side: list[Tensor]) -> Tensor:
    return F.normalize(text + text @ side[0] @ side[1] + side[2], dim=-1)


def negated(caption: str, rule: int) -> str:
    words = caption.rstrip(" .").lower()
    return f"a photo without {words}" if rule else f"no {words.removeprefix('a ').removeprefix('the ')}"


def opposite(images: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """CLIPN's two losses: an image has the "yes" of its own text and the "no" of others; both texts are far apart."""
    odds = RULES.scale * images @ (yes - no).T  # of yes, for image and text
    own = torch.eye(len(images), dtype=torch.bool)
    binary = F.softplus(-odds[own]).mean() + F.softplus(odds[~own]).mean()
    return (binary + 2 - ((yes - no).square().sum(dim=-1) + 1e-4).sqrt().mean()) / 2


def learned(images: Tensor, yes: Tensor, no: Tensor, steps: int = STEPS) -> list[Tensor]:
    """A "no" side, identity at first, that learns from features (image, feature) and (image, caption, feature)."""
    generator, width = torch.Generator().manual_seed(0), images.shape[1]
    down = torch.randn(width, RANK, generator=generator) / width**0.5
    side = [one.requires_grad_() for one in (down, torch.zeros(RANK, width), torch.zeros(width))]
    optimizer = torch.optim.AdamW(side, lr=1e-3, weight_decay=0.01)
    for _ in range(steps):
        rows = torch.randperm(len(images), generator=generator)[:BATCH]
        some = torch.randint(yes.shape[1], (len(rows),), generator=generator)
        optimizer.zero_grad()
        opposite(images[rows], yes[rows, some], refused(no[rows, some], side)).backward()
        optimizer.step()
    return [one.detach() for one in side]


def rules_of(data: dict[str, Tensor], sides: dict[str, list[Tensor]]) -> dict[str, np.ndarray]:
    """Confidences (image, name) of each rule; CLIPN's two are 1 - p_no, and that times the softmax."""
    cosines = (data["images"] @ data["yes"].T).double()
    shares, noise = (RULES.scale * cosines).softmax(dim=-1), np.random.default_rng(0).random(cosines.shape)
    found = {"score": cosines, "softmax": shares, "presence": data["presence"], "random": torch.from_numpy(noise)}
    for name, side in sides.items():
        refusals = data["images"] @ refused(data["yes" if "plain" in name else "no"], side).T
        found[f"competing, {name}"] = torch.sigmoid(RULES.scale * (cosines - refusals))
        found[f"agreeing, {name}"] = found[f"competing, {name}"] * shares
    return {name: one.double().numpy() for name, one in found.items()}


def scored(rules: dict[str, np.ndarray], shown: np.ndarray) -> dict[str, np.ndarray]:
    """AUROC and FPR95 of pairs, and AUROC over the best baseline, of each rule; as value, low and high over images."""
    drawn = np.random.default_rng(0).integers(0, len(shown), (REPLICATES, len(shown)))
    found = np.zeros((1 + REPLICATES, len(rules), 3))
    for replicate, rows in enumerate([np.arange(len(shown)), *drawn]):
        asked = shown[rows] >= 0  # classes on a few pixels are neither known nor unknown
        for column, values in enumerate(rules.values()):
            pairs = values[rows][asked], shown[rows][asked] == 1
            found[replicate, column, :2] = known_auroc(*pairs), false_positive_rate(*pairs)
    found[..., 2] = found[..., 0] - found[:, [found[0, :3, 0].argmax()], 0]
    return dict(zip(rules, np.stack([found[0], *np.percentile(found[1:], (2.5, 97.5), axis=0)], axis=1), strict=True))


def tested(backbone: eclip.Backbone, root: Path, every: int) -> dict[str, Tensor]:
    data, rows = dataset(root.name).read(root, "all"), []  # of "shown": 1, on a few pixels -1, absent 0
    yes, *more = (eclip.encode_texts(backbone, data.classes.values(), one) for one in TEMPLATES)
    checkup = Checkup(backbone, list(data.classes.values()), yes, TEMPLATES[0], only_presence=True)
    for item in data.items[::every]:
        encoding, mask = eclip.encode(backbone, backbone.preprocess(item.open())[None], 0), item.read()
        much, some = present(mask, RULES.least), set(np.unique(mask).tolist())
        state = [int(one in much) or -int(one in some) for one in data.classes]
        rows.append((F.normalize(encoding.feature, dim=-1), checkup.presence(encoding), torch.tensor([state])))
    images, there, shown = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return {"images": images, "presence": there, "shown": shown, "yes": yes, "no": F.normalize(sum(more), dim=-1)}


def taught(backbone: eclip.Backbone, root: Path, count: int) -> list[Tensor]:
    """Features of images (image, feature), and of their first two captions, also negated, each (image, 2, feature)."""
    parts = [dataset(name).read(root / name.replace("_", "-"), "train") for name in ("flickr8k", "coco_captions")]
    items = [item for part in parts for item in part.items[:count]]
    images = [eclip.encode(backbone, backbone.preprocess(item.open())[None], 0).feature for item in items]
    captions = [(item.captions[rule], rule) for item in items for rule in (0, 1)]
    both = [one for one, _ in captions], [negated(*one) for one in captions]
    texts = [eclip.encode_texts(backbone, one).unflatten(0, (-1, 2)) for one in both]
    return [F.normalize(torch.cat(images), dim=-1), *texts]


def chart(results: dict[str, dict[str, np.ndarray]], file: Path) -> None:
    axes = (figure := Figure(figsize=(8.6, 3.2))).subplots(1, 2, sharey=True)
    for axis, (name, lines) in zip(axes, results.items(), strict=True):
        shown = [rule for rule in lines if rule != "random"]
        value, low, high = 100 * np.stack([lines[rule] for rule in shown])[..., 0].T
        axis.errorbar(value, range(len(shown)), xerr=(value - low, high - value), fmt="o", color="#1f5fa8")
        axis.set(yticks=range(len(shown)), yticklabels=shown, xlabel=f"AUROC of pairs, {name} (chance: 50)")
    axes[0].invert_yaxis()
    figure.savefig(file, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=2, help="of coco80seg; half as many are taken of voc2012seg")
    parser.add_argument("--train", type=int, default=500, help="images of each of the two training sets")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    backbone = eclip.load("mini")
    kept = {name: tested(backbone, args.data / name, args.every * step) for name, step in PACKS.items()}
    images, yes, no = taught(backbone, args.data, args.train)
    sides = {"untrained": learned(images, yes, no, 0), "trained": learned(images, yes, no)}
    sides["trained, plain"] = learned(images, yes, yes)
    results = {name: scored(rules_of(kept[name], sides), kept[name]["shown"].numpy()) for name in PACKS}
    for name, lines in results.items():
        absent, known = ((kept[name]["shown"] == one).sum() for one in (0, 1))
        print(f"\n| {known} known and {absent} absent pairs of {name} | AUROC | FPR95 | over the best |\n{'|---' * 4}|")
        for rule, values in lines.items():
            cells = ("{:.1f} [{:.1f}, {:.1f}]".format(*(100 * one)) for one in values.T)
            print(f"| {rule} | " + " | ".join(cells) + " |")
    chart(results, args.out / "absent.png")


if __name__ == "__main__":
    main()
