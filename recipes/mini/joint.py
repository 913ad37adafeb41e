"""Train the trunk's last part, pool and text transformer together, after pool and text were trained alone.

    python recipes/mini/joint.py --data DATA --work WORK --size 448 --pool pool-last --text text --name joint

Expect: WORK/joint-pool.pt and WORK/joint-text.pt, the averaged weights of the epoch that is best on Flickr8k's
validation captions, encoded by the text transformer.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import open_clip
import torch
from distill import TextTower, distill_loss, encode, teach
from features import build_trunk
from images import Images, contrast, image_losses
from model import Average, Last, Model, load_model
from names import TEMPLATES
from scores import Validation
from texts import Texts, caltech_names, class_names, distill_texts, in_forms
from torch import Tensor, nn
from train import LOSSES, groups, name_texts


class Both(nn.Module):
    """The trunk's last part with the pool, and the text transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.image = Model(Last(build_trunk()))
        self.image.text.requires_grad_(False)
        self.text = TextTower()


def validate(average: Average, validation: Validation, tokenizer: open_clip.SimpleTokenizer) -> tuple[float, str]:
    """See `Validation`, for the averaged weights."""
    both = Both().eval()
    both.load_state_dict(average.state)
    return validation(both.image, lambda texts: encode(both.text, tokenizer(texts)))


def save(state: dict[str, Tensor], work: Path, name: str) -> None:
    """Image side and text transformer into a file each, as train.py and distill.py write them."""
    for half, suffix in (("image.", "pool"), ("text.", "text")):
        part = {key[len(half) :]: value for key, value in state.items() if key.startswith(half)}
        torch.save(part, work / f"{name}-{suffix}.pt")


def name_places(sentences: list[str], data: Path) -> list[int]:
    """Indices of class names in templates among the sentences, those of Caltech-101 seven times."""
    called = {form.format(name) for name in class_names(data) for form in TEMPLATES}
    caltech = {form.format(name) for name in caltech_names(data) for form in TEMPLATES}
    places = [i for i, text in enumerate(sentences) if text in called]
    return places + 6 * [i for i in places if sentences[i] in caltech]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--pool", default="pool-last")
    parser.add_argument("--text", default="text")
    parser.add_argument("--name", default="joint")
    parser.add_argument("--looked-at", type=int, default=12, help="side of the square of tokens in a step")
    parser.add_argument("--last-share", type=float, default=0.5, help="of the rate, for the trunk's last part")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--batch-size", type=int, default=320)
    parser.add_argument("--name-weight", type=float, default=0.3)
    parser.add_argument("--token-weight", type=float, default=1.0)
    parser.add_argument("--mention-weight", type=float, default=0.2)
    parser.add_argument("--label-weight", type=float, default=0.4)
    parser.add_argument("--present-weight", type=float, default=0.5)
    parser.add_argument("--where-weight", type=float, default=0.5)
    parser.add_argument("--phrase-weight", type=float, default=0.2)
    parser.add_argument("--distill-weight", type=float, default=4.0)
    parser.add_argument("--floor", type=float, default=0.0)
    parser.add_argument("--drop", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    random.seed(args.seed)

    texts = Texts(args.work)
    tokenizer = open_clip.SimpleTokenizer(context_length=77)
    both = Both()
    both.image.load_state_dict(load_model(args.work, args.size, args.pool).state_dict())
    both.text.load_state_dict(torch.load(args.work / f"{args.text}.pt", weights_only=True))
    sentences, teacher = teach(both.image.eval(), texts, distill_texts(args.data), class_names(args.data))
    sentence_rows = tokenizer(sentences)
    often = torch.tensor(name_places(sentences, args.data))
    images = Images(args.data, args.work, args.size, "tokens")
    validation = Validation(args.data, args.work, args.size, "tokens")
    caption_rows = {i: tokenizer(images.captions[i]) for i in images.captioned.tolist()}

    average = Average(both, 0.99)
    best, line = validate(average, validation, tokenizer)
    print("start", line, flush=True)
    optimizer = torch.optim.AdamW(groups(both, 0.2, args.last_share), lr=args.rate, betas=(0.9, 0.98))
    weights = {name: vars(args)[f"{name}_weight"] for name in [*LOSSES, "distill"]}
    per_epoch, step, started = len(images.captioned) // args.batch_size, 0, time.time()
    for epoch in range(args.epochs):
        sums: dict[str, float] = {}
        for index in images.captioned[torch.randperm(len(images.captioned))].split(args.batch_size)[:per_epoch]:
            with torch.no_grad():  # names as the teacher has them; in the transformer some drift, see settle.py
                text = name_texts(lambda sentences: both.image.text(texts(sentences)), images)
            fall = 0.02 + 0.49 * (1 + math.cos(math.pi * step / (per_epoch * args.epochs)))
            for group in optimizer.param_groups:
                group["lr"] = args.rate * group["share"] * min(1, (step + 1) / 20) * fall
            drawn = images.phrases.draw(index, each=2)
            asked = both.text(tokenizer([random.choice(in_forms(phrase)) for phrase in drawn.texts]))
            feature, losses = image_losses(
                both.image, images, index, text, drawn, asked,
                drop=args.drop, floor=args.floor, fine=step % 2 == 1, looked_at=args.looked_at,
            )  # fmt: skip
            own = [caption_rows[i] for i in index.tolist()]
            rows = torch.stack([r[torch.randint(len(r), ())] for r in own])
            same = (rows[:, None] == rows).all(-1) & ~torch.eye(len(rows), dtype=torch.bool)
            loss_caption = contrast(feature, both.text(rows), both.image.log_scale.exp(), same)
            some = torch.cat([torch.randint(len(sentences), (128,)), often[torch.randint(len(often), (192,))]])
            losses["distill"] = distill_loss(both.text(sentence_rows[some]), teacher[some])
            loss = loss_caption + sum(weights[name] * value for name, value in losses.items())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(both.parameters(), 1.0)
            optimizer.step()
            average.update(both)
            step += 1
            for name, value in {"caption": loss_caption, **losses}.items():
                sums[name] = sums.get(name, 0.0) + value.item() / per_epoch
        at1, line = validate(average, validation, tokenizer)
        shown = " ".join(f"{name} {value:.3f}" for name, value in sums.items())
        print(f"epoch {epoch} {time.time() - started:.0f} s {shown} {line}", flush=True)
        save(average.state, args.work, f"{args.name}-last")
        if at1 >= best:
            best = at1
            save(average.state, args.work, args.name)


if __name__ == "__main__":
    main()
