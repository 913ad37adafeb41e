"""Train pool and text transformer together, after each was trained alone.

    python recipes/mini/joint.py --data DATA --work WORK --size 320 --pool pool --text text --name joint --epochs 6

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
import torch.nn.functional as F
from distill import TextTower, distill_loss, encode, teach
from images import Images, NameTexts, contrast, image_losses, load, recall
from model import Average, Model
from names import MENTIONED, TEMPLATES
from texts import Texts, caltech_names, class_names, distill_texts
from torch import Tensor, nn
from train import PHRASES


class Both(nn.Module):
    """Pool and text transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.image = Model()
        self.image.text.requires_grad_(False)
        self.text = TextTower()


@torch.no_grad()
def validate(state: dict[str, Tensor], work: Path, size: int, tokenizer, caltech: list[str]) -> tuple[float, str]:
    """Flickr8k's validation recall at 1 (to choose by) and a line of figures."""
    both = Both().eval()
    both.load_state_dict(state)
    tokens, captions = load(work, size, "flickr8k-val")
    image = F.normalize(torch.cat([both.image.image(part.float()) for part in tokens.split(250)]), dim=-1)
    owner = torch.tensor([i for i, own in enumerate(captions) for _ in own])
    at1, at10 = recall(image, encode(both.text, tokenizer([t for own in captions for t in own])), owner)
    tokens, own = load(work, size, "caltech101-val")
    image = F.normalize(torch.cat([both.image.image(part.float()) for part in tokens.split(250)]), dim=-1)
    answer = (image @ encode(both.text, tokenizer([f"a photo of a {name}." for name in caltech])).T).argmax(1)
    right = [caltech[a] == text[0] for a, text in zip(answer.tolist(), own, strict=True)]
    return at1, f"flickr8k-val R@1 {at1:.1f} R@10 {at10:.1f} caltech-val {100 * sum(right) / len(right):.1f}"


def save(state: dict[str, Tensor], work: Path, name: str) -> None:
    """Pool and text transformer into a file each, as train.py and distill.py write them."""
    for half, suffix in (("image.", "pool"), ("text.", "text")):
        part = {key[len(half) :]: value for key, value in state.items() if key.startswith(half)}
        torch.save(part, work / f"{name}-{suffix}.pt")


def name_places(sentences: list[str], data: Path) -> list[int]:
    """Indices of class names in templates among the sentences, those of Caltech-101 seven times."""
    called = {form.format(name) for name in class_names(data) for form in TEMPLATES}
    caltech = {form.format(name) for name in caltech_names(data) for form in TEMPLATES}
    places = [i for i, text in enumerate(sentences) if text in called]
    return places + 6 * [i for i in places if sentences[i] in caltech]


def name_texts(tower: TextTower, tokenizer: open_clip.SimpleTokenizer, images: Images) -> NameTexts:
    """Every name in one random template, every general word in a random synonym."""

    def encoded(names: list[str], template: str) -> Tensor:
        return encode(tower, tokenizer([template.format(name) for name in names]))

    sentence = random.choice(TEMPLATES)
    words = [random.choice(synonyms) for synonyms in images.words]
    mention = encoded(list(MENTIONED), random.choice(PHRASES))
    return NameTexts(encoded(images.names, sentence), encoded(words, sentence), mention)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--pool", default="pool")
    parser.add_argument("--text", default="text")
    parser.add_argument("--name", default="joint")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--batch-size", type=int, default=320)
    parser.add_argument("--name-weight", type=float, default=0.3)
    parser.add_argument("--token-weight", type=float, default=1.0)
    parser.add_argument("--mention-weight", type=float, default=0.2)
    parser.add_argument("--distill-weight", type=float, default=2.0)
    parser.add_argument("--floor", type=float, default=0.0)
    parser.add_argument("--drop", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    random.seed(args.seed)

    texts = Texts(args.work)
    tokenizer = open_clip.SimpleTokenizer(context_length=77)
    both = Both()
    both.image.load_state_dict(torch.load(args.work / f"{args.pool}.pt", weights_only=True))
    both.text.load_state_dict(torch.load(args.work / f"{args.text}.pt", weights_only=True))
    sentences, teacher = teach(both.image.eval(), texts, distill_texts(args.data), class_names(args.data))
    sentence_rows = tokenizer(sentences)
    often = torch.tensor(name_places(sentences, args.data))
    images = Images(args.data, args.work, args.size)
    caption_rows = {i: tokenizer(images.captions[i]) for i in images.captioned.tolist()}

    average = Average(both, 0.99)
    best, line = validate(average.state, args.work, args.size, tokenizer, images.caltech)
    print("start", line, flush=True)
    decayed = [p for n, p in both.named_parameters() if p.requires_grad and p.ndim > 1 and "pos" not in n]
    others = [p for n, p in both.named_parameters() if p.requires_grad and (p.ndim <= 1 or "pos" in n)]
    groups = [{"params": decayed, "weight_decay": 0.2}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98))
    weights = {
        "name": args.name_weight,
        "token": args.token_weight,
        "mention": args.mention_weight,
        "distill": args.distill_weight,
    }
    per_epoch, step, started = len(images.captioned) // args.batch_size, 0, time.time()
    for epoch in range(args.epochs):
        sums: dict[str, float] = {}
        for index in images.captioned[torch.randperm(len(images.captioned))].split(args.batch_size)[:per_epoch]:
            if step % 20 == 0:  # names move slowly: their features are renewed now and then, without gradients
                text = name_texts(both.text, tokenizer, images)
            fall = 0.02 + 0.49 * (1 + math.cos(math.pi * step / (per_epoch * args.epochs)))
            for group in optimizer.param_groups:
                group["lr"] = args.rate * min(1, (step + 1) / 20) * fall
            feature, losses = image_losses(
                both.image, images, index, text, drop=args.drop, floor=args.floor, fine=step % 2 == 1
            )
            own = [caption_rows[i] for i in index.tolist()]
            rows = torch.stack([r[torch.randint(len(r), ())] for r in own])
            same = (rows[:, None] == rows).all(-1) & ~torch.eye(len(rows), dtype=torch.bool)
            loss_caption = contrast(feature, both.text(rows), both.image.log_scale.exp(), same)
            some = torch.cat([torch.randint(len(sentences), (160,)), often[torch.randint(len(often), (96,))]])
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
        at1, line = validate(average.state, args.work, args.size, tokenizer, images.caltech)
        shown = " ".join(f"{name} {value:.3f}" for name, value in sums.items())
        print(f"epoch {epoch} {time.time() - started:.0f} s {shown} {line}", flush=True)
        save(average.state, args.work, f"{args.name}-last")
        if at1 >= best:
            best = at1
            save(average.state, args.work, args.name)


if __name__ == "__main__":
    main()
