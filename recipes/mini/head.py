"""Train the head that ships with `mini`: single tokens again, with words, COCO's names and phrases with boxes.

    python recipes/mini/head.py --data DATA --work WORK --model local-dir:mini --to mini

Expect: eclip_head.safetensors and eclip_head.json in the folder of the model, in seven minutes on one core. The head is
a linear map that starts as the model's value path. Both towers stay frozen, and the losses are those of joint training
that look at single tokens, so the head is free of the task to make a good feature of the whole image too.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from distill import TextTower, encode
from images import Images, found_anywhere, label_losses, phrase_losses, some_tokens, token_loss
from model import Model, load_model
from names import MENTIONED
from texts import in_forms
from torch import Tensor, nn
from train import name_texts

import eclip
from eclip.backbones.head import EclipHead

RECIPE = "recipes/mini/head.py"
WEIGHTS = {"token": 1.0, "mention": 0.2, "present": 0.5, "where": 0.5, "phrase": 0.2}
"""As in joint training."""


class TextFeatures:
    """Unit features of texts by the text transformer, each encoded once."""

    def __init__(self, tower: TextTower) -> None:
        self.tower, self.known = tower, dict[str, Tensor]()
        self.tokenizer = open_clip.SimpleTokenizer(context_length=77)

    def __call__(self, texts: list[str]) -> Tensor:
        """Features (text, feature)."""
        new = list(dict.fromkeys(text for text in texts if text not in self.known))
        if new:
            self.known |= dict(zip(new, encode(self.tower, self.tokenizer(new)), strict=True))
        return torch.stack([self.known[text] for text in texts])


class ValuePath(nn.Module):
    """The head, where the losses expect the pool."""

    def __init__(self, head: EclipHead) -> None:
        super().__init__()
        self.head = head

    def value(self, tokens: Tensor) -> Tensor:
        """Features of tokens, as `Pool.value` gives them."""
        return self.head(tokens)


def token_losses(
    model: Model, images: Images, features: TextFeatures, index: Tensor, *, fine: bool, looked_at: int
) -> dict[str, Tensor]:
    """The losses of `image_losses` that look at single tokens, for these captioned images and others beside them."""
    side = math.isqrt(images.tokens.shape[1])
    text = name_texts(features, images)
    drawn = images.phrases.draw(index, each=2)
    asked = features([random.choice(in_forms(phrase)) for phrase in drawn.texts])
    labels = torch.randint(len(images.labelled), (len(index) // 2,))
    named = images.named[torch.randint(len(images.named), (len(index) // 3,))]
    square = torch.zeros(side, side, dtype=torch.bool)
    top, left = torch.randint(side - looked_at + 1, (2,)).tolist()
    square[top : top + looked_at, left : left + looked_at] = True
    places = square.flatten().nonzero()[:, 0]
    drawn = replace(drawn, inside=drawn.inside[..., places])
    tokens = {
        "captioned": images.views[drawn.view][index][:, places].float(),
        "labelled": images.tokens[images.labelled[labels]][:, places].float(),
        "named": images.tokens[named][:, places].float(),
    }
    with torch.no_grad():
        wide = {name: model.last(x) for name, x in tokens.items()}
        known = {name: images.classify.last(x[::4]) for name, x in tokens.items()}
    both = [some_tokens(known[name], x[::4], 16) for name, x in wide.items()]
    first, second = map(torch.cat, zip(*both, strict=True))
    losses = {"token": token_loss(model, images, first, second, text, floor=0.0, fine=fine)}
    value = F.normalize(model.image.value(wide["captioned"]), dim=-1)
    logit = model.mention_scale.exp() * found_anywhere(value, text.mentioned) + model.mention_bias
    losses["mention"] = F.binary_cross_entropy_with_logits(logit, images.is_mentioned[index]) * len(MENTIONED) / 10
    losses["where"], losses["phrase"] = phrase_losses(model, value, drawn, asked)
    labelled = F.normalize(model.image.value(wide["labelled"]), dim=-1)
    whole = torch.zeros(len(labels), labelled.shape[-1])
    losses["present"] = label_losses(model, whole, labelled, images.shown[labels], text.coco)[1]
    return losses


def scales(model: Model) -> Iterator[nn.Parameter]:
    """Scales and biases of these losses, which are trained along."""
    yield from (getattr(model, f"{name}_scale") for name in ("token", "mention", "label", "where", "phrase"))
    yield from (model.mention_bias, model.label_bias)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--pool", default="joint-pool")
    parser.add_argument("--text", default="settled-text")
    parser.add_argument("--model", default="mini", help="the exported model, by a name that eclip.load knows")
    parser.add_argument("--to", type=Path, required=True, help="folder of the head")
    parser.add_argument("--looked-at", type=int, default=12, help="side of the square of tokens in a step")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=320)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    random.seed(args.seed)

    head = EclipHead.start(eclip.load(args.model)).train().requires_grad_(True)
    model = load_model(args.work, args.size, args.pool).eval().requires_grad_(False)
    model.image = ValuePath(head)
    for scale in scales(model):
        scale.requires_grad_(True)
    tower = TextTower()
    tower.load_state_dict(torch.load(args.work / f"{args.text}.pt", weights_only=True))
    features = TextFeatures(tower.eval())
    images = Images(args.data, args.work, args.size, "tokens")
    weights = [*head.parameters(), *scales(model)]
    optimizer = torch.optim.AdamW(weights, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.0)
    average = {key: value.clone() for key, value in head.state_dict().items()}
    per_epoch, step, started = len(images.captioned) // args.batch_size, 0, time.time()
    for epoch in range(args.epochs):
        sums = dict.fromkeys(WEIGHTS, 0.0)
        for index in images.captioned[torch.randperm(len(images.captioned))].split(args.batch_size)[:per_epoch]:
            fall = 0.02 + 0.49 * (1 + math.cos(math.pi * step / (per_epoch * args.epochs)))
            for group in optimizer.param_groups:
                group["lr"] = args.rate * min(1, (step + 1) / 20) * fall
            losses = token_losses(model, images, features, index, fine=step % 2 == 1, looked_at=args.looked_at)
            loss = sum(WEIGHTS[name] * value for name, value in losses.items())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            step += 1
            for key, value in head.state_dict().items():
                average[key].lerp_(value, 1 - min(0.98, step / (step + 10)))
            for name, value in losses.items():
                sums[name] += value.item() / per_epoch
        shown = " ".join(f"{name} {value:.3f}" for name, value in sums.items())
        print(f"epoch {epoch} {time.time() - started:.0f} s {shown}", flush=True)
    head.load_state_dict(average)
    counts = {"captioned": len(images.captioned), "labelled": len(images.labelled), "named": len(images.named)}
    done = {key: getattr(args, key) for key in ("epochs", "rate", "batch_size", "seed")}
    head.config = replace(head.config, trained={"recipe": RECIPE, "losses": WEIGHTS, "images": counts, **done})
    head.save(args.to)


if __name__ == "__main__":
    main()
