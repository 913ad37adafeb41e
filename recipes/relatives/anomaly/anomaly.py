"""Find defects from 1, 2 or 4 normal images, by patch memory, by words and by both: docs/relatives/anomaly.md.

    python recipes/relatives/anomaly/anomaly.py --out FOLDER [--data IMAGES | --root MVTEC --category screw]

It draws defects on crops of --data (docs/images), or reads MVTec AD or VisA from --root. Four minutes on one core.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

import eclip
from eclip import heatmap
from eclip.backbones.patches import patch_features
from eclip.datasets.anomalies import read_anomalies
from eclip.methods.maskclip import patch_features as in_text_space
from eclip.render.figure import Cell, Line, figure

STATES = ("{}", "flawless {}", "perfect {}", "{} without defect"), ("damaged {}", "broken {}", "{} with defect")
NORMAL, DAMAGED = ([f"a photo of a {state}." for state in states] for states in STATES)
SHOTS, SIZE, SIDE, TAU, MARGIN, STEPS, DRAWS = (1, 2, 4), 224, 56, 0.04, 0.1, 60, 40
NAMES = ("random (control)", "color (control)", "memory", "words", "words + memory", "learned", "learned + memory")
FREE = (NAMES[0], "words")  # these see no normal image
KINDS = {"scratch": ("silver", 1.0), "hole": ("black", 0.9), "stain": ("sienna", 0.5), "patch": ("black", 0.0)}


def sample(source: Image.Image, random: np.random.Generator) -> Image.Image:
    """A normal image: a slightly shifted crop, darker or brighter, with noise."""
    box = tuple((random.uniform(0, 0.06, 2)[[0, 1, 0, 1]] + [0, 0, 0.94, 0.94]) * (source.size * 2))
    pixels = np.asarray(source.resize((SIZE, SIZE), box=box)) * random.uniform(0.9, 1.1)
    return Image.fromarray((pixels + random.normal(0, 4, (SIZE, SIZE, 1))).clip(0, 255).astype(np.uint8))


def spoil(image: Image.Image, kind: str, random: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """The image with a defect, and its mask; a patch is from elsewhere in the image."""
    (x, y), wide, high = random.uniform(55, 170, 2), *((45, 2.5) if kind == "scratch" else random.uniform(12, 26, 2))
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).ellipse((x - wide, y - high, x + wide, y + high), 255)
    mask = mask.rotate(random.uniform(0, 180), center=(x, y))
    under = Image.fromarray(np.roll(np.asarray(image), random.integers(60, 160, 2) * (kind == "patch"), (0, 1)))
    over = Image.blend(under, Image.new("RGB", image.size, KINDS[kind][0]), KINDS[kind][1])
    return Image.composite(over, image, mask), mask


def write(root: Path, sources: dict[str, Image.Image], each: int) -> None:
    """Categories in the layout of MVTec AD, with `each` test images of every defect and four times as many without."""
    for number, (name, source) in enumerate(sources.items()):
        random = np.random.default_rng(number)
        for part in ("train/good", "test/good", *(f"test/{kind}" for kind in KINDS)):
            folder, masks = root / name / part, root / name / "ground_truth" / Path(part).name
            folder.mkdir(parents=True, exist_ok=True)
            for place in range({"train/good": max(SHOTS), "test/good": 4 * each}.get(part, each)):
                image = sample(source, random)
                if masks.name != "good":
                    masks.mkdir(parents=True, exist_ok=True)
                    image, mask = spoil(image, masks.name, random)
                    mask.save(masks / f"{place:03}_mask.png")
                image.save(folder / f"{place:03}.png")


def features(backbone: eclip.Backbone, images: list[Image.Image]) -> list[Tensor]:
    """Unit values of patches, patches in the space of texts, image features; and the mean color of each patch."""
    rows = []
    for image in images:
        encoding = eclip.encode(backbone, backbone.preprocess(image)[None], keep=1)
        found = patch_features(encoding, "values", "anomaly"), in_text_space(encoding), encoding.feature
        cells = np.asarray(image.resize(encoding.grid[::-1], Image.Resampling.BOX), np.float32) / 255
        rows.append((*(F.normalize(one, dim=-1) for one in found), torch.from_numpy(cells).flatten(0, 1)[None]))
    return [torch.cat(part).detach() for part in zip(*rows, strict=True)]


def learn(prompts: Tensor, normal: Tensor) -> Tensor:
    """Prototypes moved by features of normal images: contrast, margin, and damage that stays near its words."""
    shift = torch.zeros_like(prompts, requires_grad=True)
    adam = torch.optim.Adam([shift], lr=0.01)
    for _ in range(STEPS):
        adam.zero_grad()
        moved = F.normalize(prompts + shift, dim=-1)
        contrast = F.cross_entropy(normal @ moved.T / TAU, torch.zeros(len(normal), dtype=torch.long))
        far = (normal[:, None] - moved).norm(dim=-1)
        margin, aligned = F.relu(far[:, 0] - far[:, 1] + MARGIN).mean(), (moved[1] - prompts[1]).square().sum()
        (contrast + margin + aligned).backward()
        adam.step()
    return F.normalize(prompts + shift, dim=-1).detach()


def answers(prompts: Tensor, normal: list[Tensor], test: list[Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each of `NAMES`, a map (image, row, col) and a score (image), higher where something is wrong."""
    (values, seen, whole, color), side = test, round(test[0].shape[1] ** 0.5)
    memory = 1 - (values @ normal[0].flatten(0, 1).T).amax(dim=-1)
    noise = torch.rand(memory.shape, generator=torch.Generator().manual_seed(int(1e6 * color.mean()) + len(normal[0])))
    found = [(one, one.amax(dim=1)) for one in (noise, (color - normal[3].mean(dim=(0, 1))).norm(dim=-1), memory)]
    for by in (prompts, learn(prompts, torch.cat([normal[1].flatten(0, 1), normal[2]]))):
        alone = [(one @ by.T / TAU).softmax(dim=-1)[..., 1] for one in (seen, whole)]
        both = [1 / (1 / one + 1 / other.clamp(min=1e-6)) for one, other in zip(alone, found[2], strict=True)]
        found += [tuple(alone), tuple(both)]
    return [(one.unflatten(1, (side, side)).numpy(), score.numpy()) for one, score in found]


def rated(maps: np.ndarray, scores: np.ndarray, masks: np.ndarray, seed: int = 0) -> np.ndarray:
    """AUROC of images, AUROC of pixels, and PRO, in percent; the same of `DRAWS` bootstrap draws below."""
    heat, auroc = heatmap.resize(torch.from_numpy(maps), (SIDE, SIDE)).numpy(), eclip.METRICS["known_auroc"]
    bad, rows = masks.any(axis=(1, 2)), []
    for own in [np.arange(len(bad)), *np.random.default_rng(seed).integers(0, len(bad), (DRAWS, len(bad)))]:
        overlap = eclip.METRICS["region_overlap"](list(heat[own]), list(masks[own]))
        rows.append([auroc(scores[own], bad[own]), auroc(heat[own].ravel(), masks[own].ravel()), overlap])
    return 100 * np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "docs" / "images")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--category")
    parser.add_argument("--limit", type=int, default=5, help="images of each kind of defect that is drawn")
    args, backbone, found, lines = parser.parse_args(), eclip.load("mini"), {}, []
    sources = {path.stem: Image.open(path).convert("RGB") for path in sorted(args.data.glob("*.jpg"))[:4]}
    if args.root is None:
        write(args.out / "drawn", sources, args.limit)
    for category in [args.category] if args.category else sources:
        data = read_anomalies(args.root or args.out / "drawn", category)
        tests, masks = [one.open() for one in data.test], [Image.fromarray(one.read()) for one in data.test]
        fewer = np.stack([np.asarray(one.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)) > 0 for one in masks])
        prompts = torch.cat([eclip.encode_texts(backbone, [category], own) for own in (NORMAL, DAMAGED)])
        known = [Image.open(path).convert("RGB") for path in data.normal[: max(SHOTS)]]
        normal, test = features(backbone, known), features(backbone, tests)
        for shots in SHOTS:
            answer = answers(prompts, [one[:shots] for one in normal], test)
            for name, (maps, scores) in zip(NAMES, answer, strict=True):
                found.setdefault((name, shots * (name not in FREE)), []).append(rated(maps, scores, fewer, len(lines)))
        place = int(np.flatnonzero(fewer.any(axis=(1, 2)))[len(lines) * args.limit])  # one of each kind
        drawn = [heatmap.normalize(torch.from_numpy(maps[place])).numpy() for maps, _ in answer[2:]]
        maps = [Cell(tests[place], heat, title=name) for name, heat in zip(NAMES[2:], drawn, strict=True)]
        lines.append(Line([Cell(tests[place], title=category), Cell(masks[place].convert("RGB"), title="mask"), *maps]))
    print("| method | k | image AUROC | pixel AUROC | PRO |\n|---|---|---|---|---|")
    for (name, shots), every in sorted(found.items(), key=lambda one: NAMES.index(one[0][0])):
        rows = np.mean(every, axis=0)  # over categories
        cells = [f"{mean:.1f} ± {half:.1f}" for mean, half in zip(rows[0], 1.96 * rows[1:].std(axis=0), strict=True)]
        print(f"| {name} | {shots} | {' | '.join(cells)} |")
    figure(lines, dpi=160).savefig(args.out / "anomaly.jpg")


if __name__ == "__main__":
    main()
