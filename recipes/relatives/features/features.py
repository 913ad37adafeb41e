"""Features behind robustness, as Crabbe et al. look for them: outliers, privileged directions, concepts, of `mini`.

    python recipes/relatives/features/features.py --data DATA --out features

Needs the pack caltech101 in DATA, and matplotlib. The control is the same model with the weights of its image tower
shuffled; for directions, random ones. Expect three minutes on one core.
"""

from __future__ import annotations

import argparse
import copy
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from numpy.typing import NDArray

import eclip
from eclip.datasets.packs import caltech101
from eclip.evaluation.sanity import shuffled
from eclip.texts.vocabulary import words_of

Array = NDArray[np.float64]
BATCH, DRAWS, PRUNED = 8, 20, (1, 2, 5, 10, 20, 40, 60, 80, 95)
KINDS = {"top": "the most important", "random": "random ones (control)", "least": "the least important"}


def activations(backbone: eclip.Backbone, pixels: torch.Tensor) -> dict[str, Array]:
    """Outputs of stages of a copy of the image tower, averaged over positions, and the feature: (image, channel)."""
    visual = copy.deepcopy(backbone.model.visual)
    stages = {f"stage {number}": stage for number, stage in enumerate(visual.trunk.blocks, 1)}
    stages["last map"] = visual.trunk
    found: dict[str, list[torch.Tensor]] = {name: [] for name in (*stages, "feature")}
    for name, stage in stages.items():
        stage.register_forward_hook(lambda _, given, out, kept=found[name]: kept.append(out.flatten(2).mean(dim=2)))
    with torch.inference_mode():
        for some in pixels.split(BATCH):
            found["feature"].append(F.normalize(visual(some), dim=-1))
    return {name: torch.cat(parts).double().numpy() for name, parts in found.items()}


def kurtosis(values: Array) -> Array:
    """Fourth standardized moment over the channels of each image, (image,); 3 for a normal distribution."""
    centered = values - values.mean(axis=1, keepdims=True)
    return (centered**4).mean(axis=1) / (centered**2).mean(axis=1) ** 2


def privileged(head: Array, features: Array) -> tuple[Array, Array]:
    """Right singular vectors of the head, (direction, feature), the most important first, and their importances.

    Importance is the singular value times the mean size of the projection of a feature.
    """
    _, sizes, directions = np.linalg.svd(head, full_matrices=False)
    importance = sizes * np.abs(features @ directions.T).mean(axis=0)
    order = np.argsort(-importance)
    return directions[order], importance[order]


def right(features: Array, head: Array, labels: NDArray[np.int64], without: Array) -> Array:
    """Whether the best class is the true one, (image,), after orthonormal directions were taken out of the features."""
    return ((features - features @ without.T @ without) @ head.T).argmax(axis=1) == labels


def pruned(features: Array, head: Array, labels: NDArray[np.int64]) -> dict[str, Array]:
    """Accuracy of each image by kind of direction, (count, image), for each of `PRUNED`; random ones are averaged."""
    directions, generator = privileged(head, features)[0], np.random.default_rng(0)
    orders = [generator.permutation(len(directions)) for _ in range(DRAWS)]
    found: dict[str, list[Array]] = {kind: [] for kind in KINDS}
    for count in PRUNED:
        found["top"].append(right(features, head, labels, directions[:count]))
        found["least"].append(right(features, head, labels, directions[len(directions) - count :]))
        drawn = [right(features, head, labels, directions[order[:count]]) for order in orders]
        found["random"].append(np.mean(drawn, axis=0))
    return {kind: np.array(rows, dtype=float) for kind, rows in found.items()}


def concepts(directions: Array, words: Array) -> tuple[int, float]:
    """How many words are the nearest to some direction, whatever its sign, and the mean cosine with the nearest."""
    cosines = np.abs(directions @ words.T)
    return len(set(cosines.argmax(axis=1))), float(cosines.max(axis=1).mean())


def interval(values: Array) -> tuple[float, float, float]:
    """Mean with its 95 % interval, by bootstrap over images."""
    drawn = values[np.random.default_rng(0).integers(0, len(values), (2000, len(values)))].mean(axis=1)
    return float(values.mean()), *map(float, np.quantile(drawn, (0.025, 0.975)))


def cell(values: Array) -> str:
    return "{:.1f} ({:.1f} to {:.1f})".format(*interval(values))


def chart(by_layer: dict[str, dict[str, Array]], accuracies: dict[str, Array], whole: float) -> Figure:
    page = Figure(figsize=(11, 4.6), dpi=100, layout="constrained")
    one, other = page.subplots(1, 2)
    for name, layers in by_layer.items():
        middle, low, high = np.array([interval(kurtosis(values)) for values in layers.values()]).T
        one.errorbar(list(layers), middle, (middle - low, high - middle), marker="o", capsize=3, label=name)
    one.axhline(3, color="gray", linestyle=":", label="normal distribution")
    one.set(ylabel="kurtosis", title="Outliers among the channels, by layer")
    one.tick_params(axis="x", rotation=45)
    for kind, rows in accuracies.items():
        middle, low, high = 100 * np.array([interval(row) for row in rows]).T
        other.plot(PRUNED, middle, marker="o", label=KINDS[kind])
        other.fill_between(PRUNED, low, high, alpha=0.15)
    other.axhline(100 * whole, color="gray", linestyle=":", label="nothing pruned")
    other.set(xlabel="directions pruned", ylabel="accuracy (%)", title="Zero-shot accuracy without some directions")
    one.legend(), other.legend()
    return page


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder of the pack caltech101")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the chart")
    parser.add_argument("--limit", type=int, default=200, help="images")
    args = parser.parse_args()
    data, backbone = caltech101(args.data / "caltech101", "test"), eclip.load("mini")
    items = random.Random(0).sample(list(data.items), min(args.limit, len(data.items)))
    labels = np.array([data.classes.index(item.captions[0]) for item in items])
    pixels = torch.stack([backbone.preprocess(item.open()) for item in items])
    head = eclip.encode_texts(backbone, [f"a photo of a {name}" for name in data.classes]).double().numpy()
    words = eclip.encode_texts(backbone, words_of(None), keep=True).double()
    words = F.normalize(words - words.mean(dim=0), dim=-1).numpy()
    by_layer = {name: activations(own, pixels) for name, own in (("mini", backbone), ("shuffled", shuffled(backbone)))}
    print("| kurtosis | `mini` | shuffled weights (control) |\n|---|---|---|")
    for name, values in by_layer["mini"].items():
        print(f"| {name} | {cell(kurtosis(values))} | {cell(kurtosis(by_layer['shuffled'][name]))} |")
    features = by_layer["mini"]["feature"]
    directions, importance = privileged(head, features)
    accuracies, whole = pruned(features, head, labels), right(features, head, labels, directions[:0])
    print(f"\nThe first direction has {100 * importance[0] / importance.sum():.0f} % of the importance of all.")
    print(f"\n| directions pruned | {' | '.join(KINDS.values())} |\n|---|---|---|---|\n| 0 | {cell(100 * whole)} | | |")
    for place, count in enumerate(PRUNED):
        print(f"| {count} | {' | '.join(cell(100 * accuracies[kind][place]) for kind in KINDS)} |")
    turns = [np.linalg.qr(one)[0].T for one in np.random.default_rng(0).normal(size=(DRAWS, *head.T.shape))]
    print("\n| directions | unique words | mean cosine with the nearest word |\n|---|---|---|")
    for name, several in (("privileged", [directions]), ("random (control), of 20 draws", turns)):
        low, high = np.quantile([concepts(one, words) for one in several], (0.025, 0.975), axis=0)
        print(f"| {len(head)} {name} | {low[0]:.0f} to {high[0]:.0f} | {low[1]:.3f} to {high[1]:.3f} |")
    args.out.mkdir(parents=True, exist_ok=True)
    chart(by_layer, accuracies, float(whole.mean())).savefig(args.out / "features.jpg", pil_kwargs={"quality": 85})


if __name__ == "__main__":
    main()
