"""The training images, their labels, and the losses that need no caption."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from features import build_trunk
from model import Model
from names import MENTIONED, general_labels, mentioned
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from reduce import KEPT
from texts import caltech_names
from torch import Tensor, nn

TRAIN = ["flickr8k-train", "coco-captions-train", "caltech101-train", "imagenet1k-one-each-all"]
"""Captioned packs first, then Caltech's, then ImageNet's image of each class in the order of the classes."""


def load(work: Path, size: int, name: str) -> tuple[Tensor, list[list[str]]]:
    """Reduced tokens of one split (image, token, channel) and the texts of each image."""
    folder = work / str(size) / name
    count = int((folder / "done.txt").read_text(encoding="utf-8"))
    tokens = torch.from_numpy(np.load(folder / "reduced.npy", mmap_mode="c")[:count])
    return tokens, json.loads((folder / "texts.json").read_text(encoding="utf-8"))[:count]


def reduced_classifier(basis: dict[str, Tensor]) -> nn.Module:
    """The trunk's ImageNet classifier, for reduced tokens."""
    whole = build_trunk().classifier
    classifier = nn.Linear(KEPT, whole.out_features)
    classifier.weight.data = whole.weight @ basis["directions"] * basis["scale"]
    classifier.bias.data = whole.bias + whole.weight @ basis["mean"]
    return classifier.requires_grad_(False)


def random_keep(count: int, tokens: int) -> Tensor:
    """A random rectangle of the grid (at least 70 % of each side), less a random 20 % of its tokens."""
    side = math.isqrt(tokens)
    least = math.ceil(0.7 * side)
    height, width = torch.randint(least, side + 1, (2, count, 1))
    top = (torch.rand(count, 1) * (side - height + 1)).long()
    left = (torch.rand(count, 1) * (side - width + 1)).long()
    line = torch.arange(side)[None]
    rows = (line >= top) & (line < top + height)
    cols = (line >= left) & (line < left + width)
    keep = (rows[:, :, None] & cols[:, None]).flatten(1)
    return keep & (torch.rand(count, tokens) > 0.2)


def some_tokens(tokens: Tensor, each: int = 4) -> Tensor:
    """A few random tokens of each image, as (token, channel)."""
    place = torch.randint(tokens.shape[1], (len(tokens), each))
    return tokens[torch.arange(len(tokens))[:, None], place].flatten(0, 1)


def contrast(image: Tensor, text: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE; pairs marked `same` (equal image or text, off the diagonal) are left out."""
    logit = scale * image @ text.T
    logit = logit.masked_fill(same, -1e4)
    target = torch.arange(len(image))
    return (F.cross_entropy(logit, target) + F.cross_entropy(logit.T, target)) / 2


def recall(image: Tensor, text: Tensor, owner: Tensor) -> tuple[float, float]:
    """Text-to-image recall at 1 and 10 in percent."""
    score = text @ image.T
    rank = (score > score.gather(1, owner[:, None])).sum(1)
    return 100 * (rank < 1).float().mean().item(), 100 * (rank < 10).float().mean().item()


class Images:
    """Tokens of all training images and what each image is known to show.

    Attributes:
        tokens: (image, token, channel), half precision.
        captions: the texts of each image; `captioned` are the images with captions, `named` those with a class name.
        names: ImageNet's 1,000 names, then Caltech's; `name_of` is each named image's place among them.
        words, coarse: the coarse label set, and the coarse label of each ImageNet class.
        is_mentioned: which of `MENTIONED` the captions name.
        classify: the trunk's classifier; `chance` is what it says of each whole image.
    """

    def __init__(self, data: Path, work: Path, size: int) -> None:
        packs = [load(work, size, name) for name in TRAIN]
        self.tokens = torch.cat([tokens for tokens, _ in packs])
        self.captions = [own for _, owns in packs for own in owns]
        counts = [len(tokens) for tokens, _ in packs]
        first_named = counts[0] + counts[1]
        self.captioned = torch.tensor([i for i in range(first_named) if len(self.captions[i]) > 1])
        self.named = torch.arange(first_named, sum(counts))
        self.caltech = caltech_names(data)
        self.names = list(IMAGENET_CLASSNAMES) + self.caltech
        of_caltech = [1000 + self.caltech.index(own[0]) for own in packs[2][1]]
        self.name_of = torch.tensor([-1] * first_named + of_caltech + list(range(counts[3])))
        self.words, coarse = general_labels()
        self.coarse = torch.tensor(coarse)
        self.is_mentioned = torch.tensor([mentioned(own) for own in self.captions], dtype=torch.float32)
        self.classify = reduced_classifier(torch.load(work / str(size) / "basis.pt", weights_only=True))
        parts = self.tokens.split(256)
        self.chance = torch.cat([self.classify(part.float().mean(1)).softmax(-1).half() for part in parts])


@dataclass(frozen=True)
class NameTexts:
    """Unit text features of `Images.names`, of one word of each of `Images.words`, and of `MENTIONED`."""

    names: Tensor
    words: Tensor
    mentioned: Tensor


def image_losses(
    model: Model, images: Images, index: Tensor, text: NameTexts, *, drop: float, floor: float, fine: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Features of captioned images, and three losses of them and of a third as many named images.

    Args:
        model: its pool and the scales of the losses are trained here.
        images: where tokens and labels come from.
        text: features of the names.
        index: captioned images.
        drop: share of channels set to zero.
        floor: weight of tokens about which the trunk's classifier is uncertain; added to its largest probability.
        fine: single tokens are compared in ImageNet's names rather than in general words.

    Returns:
        Unit features (image, feature), and by name: "name", which of 1,100 names a named image has and what the trunk's
        classifier says of a captioned one; "token", what it says of single tokens, read off their value path;
        "mention", that what captions mention is somewhere in the image and what none of them mentions nowhere.
    """
    pick = images.named[torch.randint(len(images.named), (len(index) // 3,))]
    x, named = images.tokens[index].float(), images.tokens[pick].float()
    flip, pool = random.random() < 0.5, model.image
    feature = F.normalize(pool(x, random_keep(len(x), x.shape[1]), flip, drop), dim=-1)
    named_feature = F.normalize(pool(named, random_keep(len(named), x.shape[1]), flip, drop), dim=-1)

    scale = model.name_scale.exp()
    guess = (scale * feature @ text.names[:1000].T).log_softmax(-1)
    loss_name = -(images.chance[index].float() * guess).sum(-1).mean()
    logit = scale * named_feature @ text.names.T
    loss_name = loss_name + F.cross_entropy(logit, images.name_of[pick], label_smoothing=0.1)

    flat = torch.cat([some_tokens(x), some_tokens(named)])
    chance = images.classify(flat).softmax(-1)
    weight = chance.amax(1) + floor
    if not fine:
        chance = torch.zeros(len(flat), len(images.words)).index_add_(1, images.coarse, chance)
    value = F.normalize(pool.value(flat), dim=-1)
    logit = model.token_scale.exp() * value @ (text.names[:1000] if fine else text.words).T
    loss_token = -(chance * logit.log_softmax(-1)).sum(-1)
    loss_token = (loss_token * weight).sum() / weight.sum()

    part = x[:, torch.randperm(x.shape[1])[: x.shape[1] // 2]]
    similarity = F.normalize(pool.value(part), dim=-1) @ text.mentioned.T  # image token name
    peak = (10 * similarity).logsumexp(1) / 10 - math.log(part.shape[1]) / 10
    logit = model.mention_scale.exp() * peak + model.mention_bias
    loss_mention = F.binary_cross_entropy_with_logits(logit, images.is_mentioned[index]) * len(MENTIONED) / 10
    return feature, {"name": loss_name, "token": loss_token, "mention": loss_mention}
