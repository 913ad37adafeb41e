"""Adversarial fine-tuning that holds the maps of words in place, as TGA-ZSR does, on a copy of `mini`.

    python recipes/relatives/robustness/robustness.py --data DATA --out robustness

Needs the pack caltech101 in DATA, and matplotlib. Copies are tuned on images of every second class and tested on those
of the others, by names of all classes. Expect four minutes on one core.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

import eclip
from eclip.backbones.encoding import encode_with_graph
from eclip.backbones.gradients import gradients
from eclip.datasets.packs import caltech101
from eclip.explanation.checkup import correlation

EPS, STEP, TRAIN_STEPS, TEST_STEPS, BATCH, RATE = 1 / 255, 1 / 255, 2, (1, 10), 16, 2e-5
KINDS = {  # attack, weights of attention refinement and attention-model constraint: those of the authors' code
    "untouched `mini` (control)": None,
    "fine-tuned, no attack (control)": (False, 0.0, 0.0),
    "adversarial images (TeCoA)": (True, 0.0, 0.0),
    "and losses of maps (TGA-ZSR)": (True, 0.08, 0.05),
}
COLUMNS = ("clean", "attacked, 1 step", "attacked, 10 steps", "map kept under attack", "map kept from `mini`")
DOG, SAID = Path(__file__).parents[3] / "docs" / "images" / "dog.jpg", "a photo of a dog"


def logits(seen: eclip.Encoding, text: Tensor) -> Tensor:
    return seen.backbone.logit_scale * F.normalize(seen.feature, dim=-1) @ text.T


def maps_of(seen: eclip.Encoding, text: Tensor) -> Tensor:
    """Cosines of the patches and the text of each image, (image, 1, row, col)."""
    return eclip.METHODS["maskclip"].function(seen, text).diagonal().permute(2, 0, 1)[:, None]


def attention(seen: eclip.Encoding, text: Tensor) -> Tensor:
    """The maps, each scaled to [0, 1] and enlarged to the pixels of the image, (image, pixel)."""
    maps = maps_of(seen, text)
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return F.interpolate((maps - low) / (high - low), seen.pixels.shape[2:], mode="bilinear").flatten(1)


def pgd(start: eclip.Encoding, pixels: Tensor, truth: Tensor, text: Tensor, steps: int, seed: int) -> Tensor:
    """Pixels within EPS of the given ones, changed along the sign of the gradient of the cross-entropy."""
    mean, std = (torch.tensor(one)[:, None, None] for one in (start.backbone.mean, start.backbone.std))
    low, high = (pixels - EPS / std).maximum(-mean / std), (pixels + EPS / std).minimum((1 - mean) / std)
    changed = low + (high - low) * torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed))
    for _ in range(steps):
        with gradients(start.backbone):
            leaf = changed.clone().requires_grad_()
            [slope] = torch.autograd.grad(F.cross_entropy(logits(encode_with_graph(start, leaf), text), truth), leaf)
        changed = torch.clamp(changed + STEP / std * slope.sign(), low, high)
    return changed


def tuned(first: eclip.Backbone, pixels: Tensor, labels: Tensor, text: Tensor, kind: tuple) -> eclip.Backbone:
    """A copy whose image tower has learned from each image once, in one of `KINDS`; the text tower is as it was."""
    own = copy.deepcopy(first)
    tower = own.model.visual.requires_grad_()
    start = eclip.encode(own, pixels[:1], keep=1)
    maps_of(start, text[:1])  # checks the block now, as it cannot be checked inside `gradients`
    optimizer = torch.optim.Adam(tower.parameters(), lr=RATE)
    for place, (clean, truth) in enumerate(zip(pixels.split(BATCH), labels.split(BATCH), strict=True)):
        images = pgd(start, clean, truth, text, TRAIN_STEPS, place) if kind[0] else clean
        optimizer.zero_grad()
        with gradients(own):
            loss = F.cross_entropy(logits(seen := encode_with_graph(start, images), text), truth)
            if any(kind[1:]):
                held = attention(eclip.encode(first, clean, keep=1), text[truth]).detach()
                for weight, one in zip(kind[1:], (seen, encode_with_graph(start, clean)), strict=True):
                    loss = loss + weight * (attention(one, text[truth]) - held).norm(dim=1).mean()
            loss.backward()
        optimizer.step()
    tower.requires_grad_(False)
    return own


def measured(own: eclip.Backbone, first: eclip.Backbone, pixels: Tensor, labels: Tensor, text: Tensor) -> np.ndarray:
    """Values of COLUMNS for each image, (image, 5): accuracies, then correlations of maps."""
    found, start = [], eclip.encode(own, pixels[:1], keep=1)
    for place, (clean, truth) in enumerate(zip(pixels.split(BATCH), labels.split(BATCH), strict=True)):
        changed = [pgd(start, clean, truth, text, steps, place) for steps in TEST_STEPS]
        seen = [eclip.encode(own, one, keep=1) for one in (clean, *changed)]
        right = [(logits(one, text).argmax(dim=1) == truth).float() for one in seen]
        maps, moved, original = (maps_of(one, text[truth]) for one in (seen[0], seen[-1], eclip.encode(first, clean)))
        found.append(torch.stack([*right, *(correlation(maps, one)[:, 0] for one in (moved, original))], dim=1))
    return torch.cat(found).detach().numpy()


def cells(values: np.ndarray) -> str:
    """Mean of each column in percent, with the half width of the 95 % interval, by bootstrap over images."""
    drawn = values[np.random.default_rng(0).integers(0, len(values), (2000, len(values)))].mean(axis=1)
    low, high = 100 * np.quantile(drawn, (0.025, 0.975), axis=0)
    return " | ".join(f"{m:.1f} ± {h:.1f}" for m, h in zip(100 * values.mean(axis=0), (high - low) / 2, strict=True))


def picture(models: dict[str, eclip.Backbone]) -> Figure:
    """The map of a dog by each model, before and after `eclip.attack` on that model."""
    page = Figure(figsize=(3.0 * len(models), 6.8), dpi=110, layout="constrained")
    for place, (name, own) in enumerate(models.items(), 1):
        attack = eclip.attack(DOG, SAID, model=own, eps=EPS)
        shown = eclip.explain(attack.pixels, SAID, method="maskclip", model=own, preprocessed=True, health=False)
        for row, what in enumerate((name, f"attacked, correlation {attack.moved('maskclip')['maskclip']:.2f}")):
            axes = page.add_subplot(2, len(models), row * len(models) + place)
            axes.imshow(shown.overlay(row, legend=False))
            axes.set(title=f"{what}\nscore {attack.scores[row, 0]:.2f}", xticks=[], yticks=[])
    return page


def sample(root: Path, split: str, parity: int, count: int, first: eclip.Backbone, size: int) -> tuple[Tensor, Tensor]:
    """Pixels and labels of images of every second class."""
    data = caltech101(root, split)
    listed = [(one, number) for one in data.items if (number := data.classes.index(one.captions[0])) % 2 == parity]
    order = np.random.default_rng(0).permutation(len(listed))[:count]
    chosen, labels = zip(*(listed[place] for place in order), strict=True)
    return torch.stack([first.preprocess(one.open(), size) for one in chosen]), torch.tensor(labels)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder of the pack caltech101")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the picture")
    for name, default in (("train", 192), ("limit", 48), ("size", 160)):  # images, images, pixels
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    first, root = eclip.load("mini"), args.data / "caltech101"
    text = eclip.encode_texts(first, [f"a photo of a {name}" for name in caltech101(root, "test").classes])
    shown, asked = (sample(root, *one, first, args.size) for one in (("train", 0, args.train), ("test", 1, args.limit)))
    print(f"| model | {' | '.join(COLUMNS)} |\n|---|---|---|---|---|---|")
    models, found = [], []
    for name, kind in KINDS.items():
        models.append(tuned(first, *shown, text, kind) if kind else first)
        found.append(measured(models[-1], first, *asked, text))
        print(f"| {name} | {cells(found[-1])} |", flush=True)
    print(f"| TGA-ZSR minus TeCoA, image by image | {cells(found[3] - found[2])} |\n\n{len(found[0])} images.")
    args.out.mkdir(parents=True, exist_ok=True)
    picture({"untouched": models[0], "TeCoA": models[2], "TGA-ZSR": models[3]}).savefig(args.out / "robustness.jpg")


if __name__ == "__main__":
    main()
