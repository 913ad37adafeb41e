"""Combine trunk, pool and text transformer into a model folder for open_clip, in half precision.

    python recipes/mini/export.py --work WORK --pool joint-pool --text settled-text --to src/eclip/backbones/assets/mini

Expect: open_clip_config.json and open_clip_model.safetensors (about 40 MiB), and the largest difference, after loading
it back with open_clip, from the model in full precision (some 1e-3 of unit length).
"""

from __future__ import annotations

import argparse
import copy
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from distill import CONFIG, TextTower, build_clip
from features import build_trunk, halves, read_pack
from model import load_model
from safetensors.torch import save_file
from timm.layers import AttentionPool2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def settle_values(pool: AttentionPool2d, tokens: Tensor, sharpness: float, evenness: float) -> None:
    """Choose the value coordinates in which v-v attention compares tokens; the model's output does not change.

    For each head, v -> g (v - m + c) with the output projection and its bias turned back is the same model, because
    attention rows sum to one. Methods that attend with v to v do see g, m and c. Without them a weak token looks at
    whichever token has the longest v. With m the mean and c the least-squares fit of -|v - m|^2 / 2 by a linear
    function of v - m, the logit of token i for token j becomes nearly -|v_i - v_j|^2 / 2: nearest first. `sharpness`
    sets g, `evenness` multiplies c.
    """
    heads, width = pool.num_heads, pool.head_dim
    weight, bias = pool.qkv.weight[2 * heads * width :], pool.qkv.bias[2 * heads * width :]
    values = (tokens @ weight.T + bias).view(-1, heads, width)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        mean = values[:, head].mean(0)
        v = values[:, head] - mean
        square = v.square().sum(1)
        covariance = v.T @ v / len(v) + 1e-3 * torch.eye(width)
        shift = torch.linalg.solve(covariance, v.T @ (square.mean() - square) / (2 * len(v))) * evenness
        gain = sharpness * (width / square.mean()).sqrt() * width**-0.25
        back = pool.proj.weight[:, part].clone()
        pool.proj.bias += back @ (mean - shift)
        pool.proj.weight[:, part] = back / gain
        weight[part] *= gain
        bias[part] = gain * (bias[part] - mean + shift)


def settle_norms(trunk: nn.Module) -> None:
    """Move the scale of each batch norm into the convolution before it, and its shift into its bias: same outputs.

    What remains of a norm adds its bias and nothing else, so `eclip.load` can leave it out without rounding a weight.
    """
    for parent in trunk.modules():
        for conv, norm in pairwise(parent.children()):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                whole = fuse_conv_bn_eval(copy.deepcopy(conv).double(), copy.deepcopy(norm).double())
                conv.weight.data = whole.weight.data.float()
                norm.weight.data.fill_(1)
                norm.bias.data = whole.bias.data.float()
                norm.running_mean.fill_(0)
                norm.running_var.fill_(1 - norm.eps)


def unfold(folded: nn.Module, settled: nn.Module) -> None:
    """Copy convolutions with folded norms into the same part of a trunk with settled norms, biases into the norms."""
    for path, parent in settled.named_modules():
        for (name, conv), (_, norm) in pairwise(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                own = folded.get_submodule(f"{path}.{name}" if path else name)
                conv.weight.data, norm.bias.data = own.weight.data.contiguous(), own.bias.data


def sample_tokens(work: Path, size: int) -> Tensor:
    """Tokens of some training images, in front of the trunk's last part."""
    tokens = np.load(work / str(size) / "flickr8k-train" / "tokens.npy", mmap_mode="r")
    return torch.from_numpy(tokens[::60].astype(np.float32))


@torch.no_grad()
def assemble(work: Path, size: int, pool: str, text: str, sharpness: float, evenness: float) -> open_clip.CLIP:
    """The whole model from its three trained parts."""
    clip = build_clip(size).eval()
    trunk = build_trunk()
    trunk.reset_classifier(0, global_pool="")
    settle_norms(trunk)
    clip.visual.trunk.load_state_dict(trunk.state_dict())
    model = load_model(work, size, pool)
    settle_values(model.image.pool, model.last(sample_tokens(work, size)).flatten(0, 1), sharpness, evenness)
    clip.visual.head.pool.load_state_dict(model.image.pool.state_dict())
    unfold(model.last.part, halves(clip.visual.trunk)[1])
    tower = TextTower()
    tower.load_state_dict(torch.load(work / f"{text}.pt", weights_only=True))
    missing, unexpected = clip.load_state_dict(tower.state_dict(), strict=False)
    assert not unexpected and all(name.startswith(("visual.", "logit_scale")) for name in missing)
    clip.logit_scale.data = model.log_scale.data.clone()
    return clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="also compare the features of some images")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--pool", default="pool")
    parser.add_argument("--text", default="text")
    parser.add_argument("--sharpness", type=float, default=2.0)
    parser.add_argument("--evenness", type=float, default=2.0)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()

    clip = assemble(args.work, args.size, args.pool, args.text, args.sharpness, args.evenness)
    state = {  # the variances of norms are one, less a small constant that half precision would round
        k: v.half() if v.is_floating_point() and not k.endswith("running_var") else v
        for k, v in clip.state_dict().items()
    }
    assert all(v.isfinite().all() for v in state.values())
    config = {
        "model_cfg": {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "image_size": args.size}},
        "preprocess_cfg": {
            "size": [args.size, args.size],
            "mode": "RGB",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
            "fill_color": 0,
        },
    }
    args.to.mkdir(parents=True, exist_ok=True)
    (args.to / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = args.to / "open_clip_model.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    print(f"{weights}: {weights.stat().st_size / 2**20:.2f} MiB, logit scale {clip.logit_scale.exp():.1f}")

    loaded, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{args.to}")
    loaded.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{args.to}")
    rows = tokenizer(["a photo of a dog", "two people on a sofa", "snow"])
    pixels = [torch.rand(3, args.size, args.size) * 2 - 1]
    if args.data:
        images = read_pack(args.data / "coco-captions", "val")
        pixels = [preprocess(next(images)[0]) for _ in range(8)]
    with torch.no_grad():
        for name, given in (("encode_image", torch.stack(pixels)), ("encode_text", rows)):
            kept, back = (F.normalize(getattr(m, name)(given), dim=-1) for m in (clip, loaded))
            print(f"{name}: largest difference after loading {(kept - back).abs().max():.1e}")
        other = 448 if args.size != 448 else 224
        print(f"runs at {other}:", tuple(loaded.encode_image(torch.zeros(1, 3, other, other)).shape))


if __name__ == "__main__":
    main()
