"""Distill the sentence encoder and its adapter into open_clip's own text transformer.

    python recipes/mini/distill.py --data DATA --work WORK

Expect: WORK/text.pt, the text half of the model; prints the mean cosine to the teacher on captions of the validation
splits (about 0.9), which are never distilled.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from model import FEATURE, Average, Model, load_model
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
from texts import Texts, captions, class_names, distill_texts
from torch import Tensor, nn

CONFIG = {
    "embed_dim": FEATURE,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "abs_attn",
        "timm_proj": "",
        "image_size": 448,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 192, "heads": 6, "layers": 6},
}


def build_clip(image_size: int) -> open_clip.CLIP:
    """The whole model, as open_clip builds it from the shipped configuration."""
    vision = {**CONFIG["vision_cfg"], "image_size": image_size}
    return open_clip.CLIP(embed_dim=FEATURE, vision_cfg=vision, text_cfg=CONFIG["text_cfg"])


class TextTower(nn.Module):
    """The text half of an open_clip model, on token rows cut to the longest in the batch (attention is causal)."""

    NAMES = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")

    def __init__(self) -> None:
        super().__init__()
        clip = build_clip(224)
        for name in self.NAMES:
            setattr(self, name, getattr(clip, name))
        self.register_buffer("attn_mask", clip.attn_mask, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Token rows (text, position) to unit features."""
        end = rows.argmax(1)
        longest = int(end.max()) + 1
        x = self.token_embedding(rows[:, :longest]) + self.positional_embedding[:longest]
        x = self.ln_final(self.transformer(x, attn_mask=self.attn_mask[:longest, :longest]))
        return F.normalize(x[torch.arange(len(x)), end] @ self.text_projection, dim=-1)


def batches(lengths: Tensor, size: int) -> list[Tensor]:
    """Random batches of texts of similar length, to reduce padding."""
    noisy = lengths + torch.rand(len(lengths)) * 3
    parts = list(noisy.argsort().split(size))
    return [parts[i] for i in torch.randperm(len(parts)).tolist()]


def distill_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine, plus cross-entropy that distinguishes the sentence from the others in the batch."""
    logit = 30 * student @ teacher.T
    target = (30 * teacher @ teacher.T).softmax(-1)
    return (1 - (student * teacher).sum(-1)).mean() * 2 + F.cross_entropy(logit, target) * 0.2


def nothing() -> list[str]:
    """Sentences without a name: CLIP Surgery subtracts their mean if there is only one text."""
    return list(dict.fromkeys(["", *(template("") for template in OPENAI_IMAGENET_TEMPLATES)]))


def teach(model: Model, texts: Texts, known: list[str], names: list[str]) -> tuple[list[str], Tensor]:
    """Texts and the teacher's features. The target of a sentence without a name is the mean of all names."""
    with torch.no_grad():
        features = model.text(texts(known))
        mean = F.normalize(model.text(texts([f"a photo of a {name}." for name in names])).mean(0), dim=-1)
    empty = nothing() * 3
    return known + empty, torch.cat([features, mean.expand(len(empty), -1)])


def encode(tower: TextTower, rows: Tensor) -> Tensor:
    """Features of many texts, without gradients."""
    order = rows.argmax(1).argsort()
    with torch.no_grad():
        found = torch.cat([tower(rows[part]) for part in order.split(512)])
    return found[order.argsort()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--teacher", default="pool-last")
    parser.add_argument("--name", default="text")
    parser.add_argument("--start", default="", help="start from this text.pt instead of random weights")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    teacher_model = load_model(args.work, args.size, args.teacher).eval()
    texts = Texts(args.work)
    known = [text for text in distill_texts(args.data) if text in texts.row]
    held_out = [text for text in captions(args.data, "val") if text in texts.row][:2000]
    tokenizer = open_clip.SimpleTokenizer(context_length=77)
    known, teacher = teach(teacher_model, texts, known, class_names(args.data))
    with torch.no_grad():
        held_teacher = teacher_model.text(texts(held_out))
    rows, held_rows = tokenizer(known), tokenizer(held_out)
    lengths = rows.argmax(1)
    print(f"{len(known)} texts, mean length {lengths.float().mean():.1f}", flush=True)

    tower = TextTower()
    if args.start:
        tower.load_state_dict(torch.load(args.work / f"{args.start}.pt", weights_only=True))
    optimizer = torch.optim.AdamW(tower.parameters(), lr=args.rate, weight_decay=0.01, betas=(0.9, 0.98))
    average = Average(tower, 0.99)
    total, step, started = args.epochs * math.ceil(len(rows) / args.batch_size), 0, time.time()
    for epoch in range(args.epochs):
        for index in batches(lengths, args.batch_size):
            rate = args.rate * min(1, (step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / total)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = distill_loss(tower(rows[index]), teacher[index])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optimizer.step()
            average.update(tower)
            step += 1
            if step % 100 == 0:
                print(f"step {step}/{total} {time.time() - started:.0f} s loss {loss.item():.3f}", flush=True)
        torch.save(average.state, args.work / f"{args.name}.pt")
        shadow = TextTower()
        shadow.load_state_dict(average.state)
        cosine = (encode(shadow, held_rows) * held_teacher).sum(-1).mean()
        print(
            f"epoch {epoch} {time.time() - started:.0f} s cosine on held-out captions {cosine:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
