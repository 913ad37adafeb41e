"""Do the concepts of an image occur in its captions? SpLiCE with `mini` against simpler methods, on Flickr8k.

    python benchmarks/concepts.py --data DATA

Expect: the tables of benchmarks/README.md. DATA contains the pack flickr8k. The penalty is chosen on the 1,000 images
of the validation split; the reported scores are on the 1,000 images of the test split.

A concept counts as mentioned if each of its words, or its plural, occurs in one of the image's five captions.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import eclip
from eclip.backbones.blocks import unit
from eclip.backbones.encoding import encode
from eclip.backbones.image_mean import mean_for
from eclip.discovery import splice
from eclip.texts.vocabulary import words_of

TOP = 10
RARE = 0.02  # mentioned for less than this share of the validation images
PENALTIES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
PLURALS = {"men": "man", "women": "woman", "children": "child", "feet": "foot", "leaves": "leaf", "geese": "goose"}


def read(folder: Path, split: str) -> Iterator[tuple[Image.Image, list[str]]]:
    """Images and their captions, in the order of the shards."""
    for shard in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(shard) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
        for name in sorted(name for name in files if name.endswith(".jpg")):
            yield Image.open(io.BytesIO(files[name])), files[name.replace(".jpg", ".txt")].decode().splitlines()


def features(backbone: eclip.Backbone, data: Path, split: str) -> tuple[torch.Tensor, list[list[str]]]:
    """Unit features of the split's images, and their captions."""
    rows, captions = [], []
    for image, said in read(data / "flickr8k", split):
        rows.append(unit(encode(backbone, backbone.preprocess(image)[None], keep=0).feature))
        captions.append(said)
    return torch.cat(rows), captions


def said(captions: list[str]) -> set[str]:
    """The words of the captions, and their possible singulars."""
    words = {word.strip(".,;:!?'\"()").lower() for caption in captions for word in caption.split()}
    singular = {word[:-1] for word in words if word.endswith("s")} | {
        word[:-2] for word in words if word.endswith("es")
    }
    return words | singular | {PLURALS[word] for word in words & PLURALS.keys()}


def score(weights: torch.Tensor, truth: np.ndarray, rare: np.ndarray) -> list[float]:
    """Share of images with a mentioned word in their top ten, the same for rare words, mean number, share of top 1."""
    best = weights.argsort(dim=1, descending=True, stable=True)[:, :TOP].numpy()
    hits = np.take_along_axis(truth, best, 1) & (np.take_along_axis(weights.numpy(), best, 1) > 0)
    return [
        100 * hits.any(1).mean(),
        100 * (hits & rare[best]).any(1).mean(),
        hits.sum(1).mean(),
        100 * hits[:, 0].mean(),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    words = words_of(None)
    backbone = eclip.load("mini")
    text = eclip.encode_texts(backbone, words, keep=True)
    dictionary, mean = splice.dictionary(text), mean_for(backbone, None, None, {})

    def asked(split: str) -> tuple[torch.Tensor, np.ndarray]:
        rows, captions = features(backbone, args.data, split)
        spoken = [said(one) for one in captions]
        return rows, np.array([[set(word.split()) <= image for word in words] for image in spoken])

    def show(name: str, weights: torch.Tensor, truth: np.ndarray, rest: str = "") -> None:
        any_, rare_, number, first = score(weights, truth, rare)
        print(f"| {name} | {any_:.1f} % | {rare_:.1f} % | {number:.2f} | {first:.1f} % |{rest}", flush=True)

    def solved(rows: torch.Tensor, l1: float) -> tuple[torch.Tensor, str]:
        weights = splice.solve(splice.center(rows, mean), dictionary, l1)
        close = (splice.rebuild(weights, dictionary, mean) * rows).sum(1).mean()
        return weights, f" {(weights > 0).sum(1).float().mean():.1f} | {close:.3f} |"

    rows, truth = asked("val")
    rare = truth.mean(0) < RARE
    print("validation\n| list | has a caption word | a rare one | of the ten | the first is one | in use | cosine |")
    for l1 in PENALTIES:
        weights, rest = solved(rows, l1)
        show(f"SpLiCE, l1 {l1}", weights, truth, rest)
    often = torch.from_numpy(truth.mean(0)).float().expand(len(truth), -1)
    print("test")
    rows, truth = asked("test")
    weights, rest = solved(rows, splice.L1)
    show(f"SpLiCE, l1 {splice.L1}", weights, truth, rest)
    print(f"{100 * (truth & rare).any(1).mean():.1f} % have a rare word of the vocabulary in their captions")
    show("cosine", 1 + rows @ text.T, truth)
    show("cosine, both centered", 1 + splice.center(rows, mean) @ dictionary.T, truth)
    show("the same ten for every image, most frequent in validation", 1 + often, truth)
    show("chance", torch.rand(truth.shape, generator=torch.Generator().manual_seed(7)), truth)


if __name__ == "__main__":
    main()
