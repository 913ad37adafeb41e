"""The training images, their labels, and the losses that need no caption."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from features import CAPTIONED, VIEWS, build_trunk
from model import Last, Model
from names import COCO, MENTIONED, coco_labels, general_labels, mentioned
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from phrases import Drawn, Phrases, read_phrases
from reduce import KEPT
from texts import caltech_names
from torch import Tensor, nn

TRAIN = [*CAPTIONED, "coco-labels-train", "caltech101-train", "imagenet1k-one-each-all"]
"""Packs with captions first, then that with COCO's names, Caltech's, and ImageNet's image of each class in order."""


def load(work: Path, size: int, name: str, kind: str = "reduced") -> tuple[Tensor, list[list[str]]]:
    """Tokens of one split (image, token, channel), "reduced" or as stored ("tokens"), and the texts of each image."""
    folder = work / str(size) / name
    count = int((folder / "done.txt").read_text(encoding="utf-8"))
    tokens = torch.from_numpy(np.load(folder / f"{kind}.npy", mmap_mode="c")[:count])
    return tokens, json.loads((folder / "texts.json").read_text(encoding="utf-8"))[:count]


def trained_on(work: Path, name: str, count: int) -> list[int]:
    """Positions of the images of a split, without those that are test images too."""
    left_out = json.loads((work / "left_out.json").read_text(encoding="utf-8"))[name]
    return [place for place in range(count) if place not in set(left_out)]


class Classifier(nn.Module):
    """The trunk's ImageNet classifier, for reduced tokens or, with its last part, for tokens as stored."""

    def __init__(self, basis: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        trunk = build_trunk()
        self.last: nn.Module = nn.Identity()
        self.linear = trunk.classifier
        if basis is None:
            self.last = Last(trunk)
        else:
            self.linear = nn.Linear(KEPT, trunk.classifier.out_features)
            self.linear.weight.data = trunk.classifier.weight @ basis["directions"] * basis["scale"]
            self.linear.bias.data = trunk.classifier.bias + trunk.classifier.weight @ basis["mean"]
        self.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (image, class) of whole images (image, token, channel)."""
        return self.linear(self.last(tokens).mean(1))


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


def some_tokens(first: Tensor, second: Tensor, each: int) -> tuple[Tensor, Tensor]:
    """A few random tokens of each image, as (token, channel), and the same ones of another description of them."""
    own, place = torch.arange(len(first))[:, None], torch.randint(first.shape[1], (len(first), each))
    return first[own, place].flatten(0, 1), second[own, place].flatten(0, 1)


def contrast(image: Tensor, text: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE; pairs marked `same` (equal image or text, off the diagonal) are left out."""
    logit = scale * image @ text.T
    logit = logit.masked_fill(same, -1e4)
    target = torch.arange(len(image))
    return (F.cross_entropy(logit, target) + F.cross_entropy(logit.T, target)) / 2


class Images:
    """Tokens of all training images and what each image is known to show.

    Attributes:
        tokens: (image, token, channel), half precision.
        views: tokens of the captioned packs' images in each of their views; the first is the whole image.
        captions: the texts of each image; `captioned` are the images with captions, `named` those with a class name.
        names: ImageNet's 1,000 names, then Caltech's; `name_of` is each named image's place among them.
        labelled: images of which it is known which of `COCO` they show and which not; `shown` (of these images, name).
        words, coarse: the coarse label set, and the coarse label of each ImageNet class.
        is_mentioned: which of `MENTIONED` the captions name.
        phrases: of captioned images, with the tokens that each describes.
        classify: the trunk's classifier; `chances` is what it says of each of the `views`.
    """

    def __init__(self, data: Path, work: Path, size: int, kind: str = "reduced") -> None:
        packs, places = [], []
        for name in TRAIN:
            tokens, texts = load(work, size, name, kind)
            places.append(trained_on(work, name, len(tokens)))
            packs.append((tokens[torch.tensor(places[-1])], [texts[place] for place in places[-1]]))
        self.tokens = torch.cat([tokens for tokens, _ in packs])
        self.views = [self.tokens[: sum(len(tokens) for tokens, _ in packs[:2])]]
        for view in range(1, VIEWS):
            crops = [load(work, size, f"{name}-{view}", kind)[0] for name in CAPTIONED]
            self.views.append(torch.cat([one[torch.tensor(own)] for one, own in zip(crops, places[:2], strict=True)]))
        self.captions = [own for _, owns in packs for own in owns]
        ends = np.cumsum([len(tokens) for tokens, _ in packs]).tolist()
        self.captioned = torch.tensor([i for i in range(ends[1]) if len(self.captions[i]) > 1])
        self.labelled = torch.arange(ends[1], ends[2])
        self.shown = torch.tensor([coco_labels(own) for own in packs[2][1]], dtype=torch.float32)
        self.named = torch.arange(ends[2], ends[4])
        self.caltech = caltech_names(data)
        self.names = list(IMAGENET_CLASSNAMES) + self.caltech
        of_caltech = [1000 + self.caltech.index(own[0]) for own in packs[3][1]]
        self.name_of = torch.tensor([-1] * ends[2] + of_caltech + places[4])
        self.words, coarse = general_labels()
        self.coarse = torch.tensor(coarse)
        self.is_mentioned = torch.tensor([mentioned(own) for own in self.captions[: ends[1]]], dtype=torch.float32)
        among = {place: number for number, place in enumerate(places[0])}
        self.phrases = Phrases(read_phrases(data, "train"), among, math.isqrt(self.tokens.shape[1]), len(self.views))
        basis = torch.load(work / str(size) / "basis.pt", weights_only=True) if kind == "reduced" else None
        self.classify = Classifier(basis)
        self.chances = [
            torch.cat([self.classify(part.float()).softmax(-1).half() for part in tokens.split(64)])
            for tokens in self.views
        ]


@dataclass(frozen=True)
class NameTexts:
    """Unit text features of `Images.names`, of one word of each of `Images.words` and of `COCO`, and of `MENTIONED`."""

    names: Tensor
    words: Tensor
    coco: Tensor
    mentioned: Tensor


def found_anywhere(value: Tensor, text: Tensor) -> Tensor:
    """The smooth maximum over tokens (image, token, feature) of the similarity with each text: (image, text)."""
    similarity = value @ text.T
    return ((10 * similarity).logsumexp(1) - math.log(value.shape[1])) / 10


def token_loss(
    model: Model, images: Images, known: Tensor, wide: Tensor, text: NameTexts, *, floor: float, fine: bool
) -> Tensor:
    """What the trunk's classifier says of single tokens (token, channel), read off their value path (`wide`)."""
    chance = images.classify.linear(known).softmax(-1)
    weight = chance.amax(1) + floor
    if not fine:
        chance = torch.zeros(len(known), len(images.words)).index_add_(1, images.coarse, chance)
    value = F.normalize(model.image.value(wide), dim=-1)
    logit = model.token_scale.exp() * value @ (text.names[:1000] if fine else text.words).T
    loss = -(chance * logit.log_softmax(-1)).sum(-1)
    return (loss * weight).sum() / weight.sum()


def label_losses(model: Model, feature: Tensor, value: Tensor, shown: Tensor, coco: Tensor) -> tuple[Tensor, Tensor]:
    """COCO's names: of the whole image, those it shows before the others; of its tokens, what is shown somewhere.

    Args:
        model: its scales.
        feature: of each image.
        value: of each token (image, token, feature).
        shown: which names each image shows.
        coco: text feature of each name.
    """
    logit = model.name_scale.exp() * feature @ coco.T
    whole = -(logit.log_softmax(-1) * shown).sum(-1) / shown.sum(-1).clamp(min=1)
    anywhere = model.label_scale.exp() * found_anywhere(value, coco) + model.label_bias
    return whole.mean(), F.binary_cross_entropy_with_logits(anywhere, shown) * len(COCO) / 10


def phrase_losses(model: Model, value: Tensor, drawn: Drawn, text: Tensor) -> tuple[Tensor, Tensor]:
    """Phrases with boxes: which tokens of its image a phrase describes, and which phrase describes given tokens.

    Args:
        model: its scales.
        value: of each token of the batch's images (image, token, feature).
        drawn: phrases of some of these images.
        text: unit text feature of each phrase.

    Returns:
        The negative logarithm of the share of a softmax over an image's tokens that lies inside the phrase's boxes; and
        symmetric InfoNCE between phrases and the mean of the tokens inside, without pairs of one image and equal texts.
    """
    own = value[drawn.images]  # image token feature
    asked = text.view(len(own), -1, text.shape[-1])  # image phrase feature
    logit = model.where_scale.exp() * asked @ own.transpose(1, 2)  # image phrase token
    seen = drawn.inside.any(-1)  # a small box may hold none of the tokens that this step looks at
    where = (logit.logsumexp(-1) - logit.masked_fill(~drawn.inside, -1e4).logsumexp(-1))[seen]
    text = text[seen.flatten()]
    share = drawn.inside.float() / drawn.inside.sum(-1, keepdim=True).clamp(min=1)
    inside = F.normalize((share @ own)[seen], dim=-1)
    number = torch.arange(len(own))[:, None].expand_as(seen)[seen]
    near = text.detach() @ text.detach().T > 0.9
    same = (near | (number[:, None] == number)) & ~torch.eye(len(text), dtype=torch.bool)
    return where.mean(), contrast(inside, text, model.phrase_scale.exp(), same)


def image_losses(
    model: Model,
    images: Images,
    index: Tensor,
    text: NameTexts,
    drawn: Drawn,
    phrase_text: Tensor,
    *,
    drop: float,
    floor: float,
    fine: bool,
    looked_at: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Features of captioned images, and losses of them, of a third as many named and half as many labelled images.

    Args:
        model: its pool and the scales of the losses are trained here.
        images: where tokens and labels come from.
        index: captioned images.
        text: features of the names.
        drawn: phrases of these images, and the view in which they are looked at.
        phrase_text: their text features.
        drop: share of channels set to zero.
        floor: weight of tokens about which the trunk's classifier is uncertain; added to its largest probability.
        fine: single tokens are compared in ImageNet's names rather than in general words.
        looked_at: side of a random square of the grid, the only tokens that are looked at; None = the whole grid.

    Returns:
        Unit features (image, feature), and by name: "name", which of 1,100 names a named image has, and what the
        trunk's classifier says of a captioned one; "token", what it says of single tokens, read off their value path;
        "mention", that what captions mention is somewhere in the image and what none of them mentions nowhere;
        "label", that a labelled image's names come first; "present", that what it shows is somewhere and what it does
        not show is nowhere; "where" and "phrase", see `phrase_losses`.
    """
    labels = torch.randint(len(images.labelled), (len(index) // 2,))
    picks = {
        "captioned": index,
        "labelled": images.labelled[labels],
        "named": images.named[torch.randint(len(images.named), (len(index) // 3,))],
    }
    flip, pool = random.random() < 0.5, model.image
    side = math.isqrt(images.tokens.shape[1])
    square = torch.zeros(side, side, dtype=torch.bool)
    top, left = torch.randint(side - (looked_at or side) + 1, (2,)).tolist()
    square[top : top + (looked_at or side), left : left + (looked_at or side)] = True
    places = square.flatten().nonzero()[:, 0]
    some, drawn = (side, places), replace(drawn, inside=drawn.inside[..., places])
    sources = {"captioned": images.views[drawn.view], "labelled": images.tokens, "named": images.tokens}
    tokens = {name: sources[name][pick][:, places].float() for name, pick in picks.items()}
    wide = {name: model.last(x) for name, x in tokens.items()}
    feature = {
        name: F.normalize(pool(x, random_keep(len(x), side**2)[:, places], flip, drop, some), dim=-1)
        for name, x in wide.items()
    }

    scale = model.name_scale.exp()
    guess = (scale * feature["captioned"] @ text.names[:1000].T).log_softmax(-1)
    loss_name = -(images.chances[drawn.view][index].float() * guess).sum(-1).mean()
    logit = scale * feature["named"] @ text.names.T
    loss_name = loss_name + F.cross_entropy(logit, images.name_of[picks["named"]], label_smoothing=0.1)

    part = 1 if isinstance(model.last, nn.Identity) else 4  # the trunk as it was is run for a quarter of the images
    with torch.no_grad():
        known = {name: images.classify.last(x[::part]) for name, x in tokens.items()}
    both = [some_tokens(known[name], x[::part], 4 * part) for name, x in wide.items()]
    loss_token = token_loss(model, images, *map(torch.cat, zip(*both, strict=True)), text, floor=floor, fine=fine)

    value = F.normalize(pool.value(wide["captioned"]), dim=-1)
    logit = model.mention_scale.exp() * found_anywhere(value, text.mentioned) + model.mention_bias
    loss_mention = F.binary_cross_entropy_with_logits(logit, images.is_mentioned[index]) * len(MENTIONED) / 10
    where, phrase = phrase_losses(model, value, drawn, phrase_text)
    half = wide["labelled"][:, torch.randperm(len(places))[: len(places) // 2]]
    label, present = label_losses(
        model, feature["labelled"], F.normalize(pool.value(half), dim=-1), images.shown[labels], text.coco
    )
    losses = {"name": loss_name, "token": loss_token, "mention": loss_mention}
    losses |= {"label": label, "present": present, "where": where, "phrase": phrase}
    return feature["captioned"], losses
