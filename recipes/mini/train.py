r"""Train the attention pool on cached tokens, together with the adapter of the sentence encoder.

    python recipes/mini/train.py --data DATA --work WORK --name pool
    python recipes/mini/train.py --data DATA --work WORK --last pool --name pool-last --epochs 12 --rate 6e-4 \
        --label-weight 0.4

Expect: WORK/pool.pt (pool, text adapter, scales of the losses; an exponential moving average), and every fifth epoch
the scores on the validation splits: at the end about 21 / 61 % recall at 1 / 10 on Flickr8k's, 70 % of its phrases
pointed at, 87 % on Caltech-101's. The second command trains the trunk's last part too: about 24 / 66, 75 and 89 %.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from images import Images, NameTexts, contrast, image_losses
from model import Average, Model, load_model
from names import COCO, MENTIONED, TEMPLATES
from scores import Validation
from texts import Texts, in_forms
from torch import Tensor, nn

PHRASES = ["{}", "a photo of a {}"]

LOSSES = ["name", "token", "mention", "label", "present", "where", "phrase"]
"""Those of `image_losses`, each with a weight."""


def encode(model: Model, texts: Texts, sentences: list[str]) -> Tensor:
    """Unit features of sentences, by the sentence encoder and the adapter."""
    return model.text(texts(sentences))


def name_texts(features: Callable[[list[str]], Tensor], images: Images) -> NameTexts:
    """Features of every name in a random template, and of a random synonym of every general word."""

    def encoded(names: list[str], templates: list[str]) -> Tensor:
        return features([random.choice(templates).format(name) for name in names])

    words = [random.choice(synonyms) for synonyms in images.words]
    coco = [random.choice(synonyms.split("|")) for synonyms in COCO]
    return NameTexts(
        encoded(images.names, TEMPLATES),
        encoded(words, TEMPLATES),
        encoded(coco, TEMPLATES),
        encoded(list(MENTIONED), PHRASES),
    )


def mixed_captions(rows: Tensor, texts: Texts) -> tuple[Tensor, Tensor]:
    """Two random captions (image, 2) of each image mixed, or one alone; and which images share a caption."""
    share = (torch.rand(len(rows), 1) * 1.5).clamp(max=1)
    mixed = share * texts.vectors[rows[:, 0]] + (1 - share) * texts.vectors[rows[:, 1]]
    same = (rows[:, :1] == rows[:, 0]) & ~torch.eye(len(rows), dtype=torch.bool)
    return F.normalize(mixed, dim=-1), same


def groups(model: nn.Module, decay: float, last_share: float) -> list[dict[str, Any]]:
    """For an optimizer: matrices decay, but not those of the last part of the trunk, which has a share of the rate."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    last = [weight for name, weight in named if "last." in name]
    decayed = [weight for name, weight in named if "last." not in name and weight.ndim > 1 and "pos" not in name]
    others = [weight for name, weight in named if "last." not in name and (weight.ndim <= 1 or "pos" in name)]
    return [
        {"params": decayed, "weight_decay": decay, "share": 1.0},
        {"params": others, "weight_decay": 0.0, "share": 1.0},
        {"params": last, "weight_decay": 0.0, "share": last_share},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--name", default="pool")
    parser.add_argument("--last", default="", help="continue this pool, and train the trunk's last part too")
    parser.add_argument("--looked-at", type=int, default=12, help="with --last, side of the square of tokens in a step")
    parser.add_argument("--last-share", type=float, default=0.5, help="of the rate, for the trunk's last part")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch-size", type=int, default=320)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.5)
    parser.add_argument("--drop", type=float, default=0.25, help="share of channels set to zero")
    parser.add_argument("--floor", type=float, default=0.3, help="weight of tokens about which the trunk is uncertain")
    parser.add_argument("--name-weight", type=float, default=0.5)
    parser.add_argument("--token-weight", type=float, default=0.3)
    parser.add_argument("--mention-weight", type=float, default=0.5)
    parser.add_argument("--label-weight", type=float, default=0.3)
    parser.add_argument("--present-weight", type=float, default=0.5)
    parser.add_argument("--where-weight", type=float, default=0.5)
    parser.add_argument("--phrase-weight", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    random.seed(args.seed)

    texts = Texts(args.work)
    kind = "tokens" if args.last else "reduced"
    images = Images(args.data, args.work, args.size, kind)
    validation = Validation(args.data, args.work, args.size, kind)
    caption_rows = {i: texts.rows(images.captions[i]) for i in images.captioned.tolist()}
    print(f"{len(images.captioned)} images with captions, {len(images.named)} with names", flush=True)
    model = load_model(args.work, args.size, args.last) if args.last else Model()
    optimizer = torch.optim.AdamW(groups(model, args.decay, args.last_share), lr=args.rate, betas=(0.9, 0.98))
    average = Average(model, 0.99)
    weights = {name: vars(args)[f"{name}_weight"] for name in LOSSES}
    per_epoch, step, started = len(images.captioned) // args.batch_size, 0, time.time()
    for epoch in range(args.epochs):
        model.train()
        sums: dict[str, float] = {}
        for index in images.captioned[torch.randperm(len(images.captioned))].split(args.batch_size)[:per_epoch]:
            fall = 0.02 + 0.49 * (1 + math.cos(math.pi * step / (per_epoch * args.epochs)))
            for group in optimizer.param_groups:
                group["lr"] = args.rate * group["share"] * min(1, (step + 1) / 50) * fall
            text = name_texts(partial(encode, model, texts), images)
            drawn = images.phrases.draw(index, each=2)
            asked = encode(model, texts, [random.choice(in_forms(phrase)) for phrase in drawn.texts])
            feature, losses = image_losses(
                model, images, index, text, drawn, asked,
                drop=args.drop, floor=args.floor, fine=step % 2 == 1, looked_at=args.looked_at if args.last else None,
            )  # fmt: skip
            own = [caption_rows[i] for i in index.tolist()]
            vectors, same = mixed_captions(torch.stack([r[torch.randint(len(r), (2,))] for r in own]), texts)
            loss_caption = contrast(feature, model.text(vectors), model.log_scale.exp(), same)
            loss = loss_caption + sum(weights[name] * value for name, value in losses.items())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update(model)
            step += 1
            for name, value in {"caption": loss_caption, **losses}.items():
                sums[name] = sums.get(name, 0.0) + value.item() / per_epoch
        line = " ".join(f"{name} {value:.3f}" for name, value in sums.items())
        line = f"epoch {epoch} {time.time() - started:.0f} s {line}"
        if epoch % 5 == 4 or epoch + 1 == args.epochs:
            torch.save(average.state, args.work / f"{args.name}.pt")
            shadow = copy.deepcopy(model).eval()
            shadow.load_state_dict(average.state)
            line += f" {validation(shadow, partial(encode, shadow, texts))[1]}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
