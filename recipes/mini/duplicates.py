"""Find training images that are also test images, whole, cropped or mirrored, so that training leaves them out.

    python recipes/mini/duplicates.py --data DATA --work WORK

Expect: a line for each pair found, and WORK/left_out.json with the positions of these training images in their splits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from features import read_pack
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.fft import dctn

TRAINED = [("flickr8k", "train"), ("coco-captions", "train"), ("coco-labels", "train"), ("caltech101", "train")]
TRAINED += [("imagenet1k-one-each", "all")]
TESTED = [("flickr8k", "test"), ("caltech101", "test")]
MASKS = ["voc2012seg", "coco80seg", "davis2016val", "camvid"]

SIDE = 32
"""Thumbnails are squares of this many pixels: some packs squashed their images, so proportions cannot be compared."""

BITS = 10
"""Hashes of 64 bits that differ in more are of different images."""

CORRELATION = 0.9
"""The same for thumbnails, whose pixels are correlated: the hash proposes, this decides."""


def mask_images(folder: Path) -> Iterator[tuple[Image.Image, str]]:
    """Images of a pack with pixel masks, and their names."""
    for path in sorted((folder / "images").rglob("*.jpg")):
        yield Image.open(path), path.relative_to(folder).as_posix()


def crops(image: Image.Image) -> list[Image.Image]:
    """The whole image, then its center and four corners at 85 % and at 70 % of each side, as gray thumbnails."""
    gray = image.convert("L").resize((4 * SIDE, 4 * SIDE), Image.Resampling.BOX)
    found = [gray]
    for share in (0.85, 0.7):
        rest = (1 - share) * gray.width
        for x, y in ((rest / 2, rest / 2), (0, 0), (rest, 0), (0, rest), (rest, rest)):
            found.append(gray.crop((round(x), round(y), round(x + gray.width - rest), round(y + gray.width - rest))))
    return [one.resize((SIDE, SIDE), Image.Resampling.BOX) for one in found]


def perceptual_hash(thumbnails: NDArray[np.float32]) -> NDArray[np.uint64]:
    """64 bits a thumbnail (..., row, col): which of its lowest frequencies are above their median."""
    low = dctn(thumbnails, axes=(-2, -1), norm="ortho")[..., :8, :8].reshape(*thumbnails.shape[:-2], 64)
    above = low > np.median(low[..., 1:], axis=-1, keepdims=True)
    return np.packbits(above, axis=-1).view(np.uint64)[..., 0]


def standardized(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
    """Thumbnails as unit vectors of mean zero: their product is the correlation."""
    flat = thumbnails.reshape(*thumbnails.shape[:-2], -1)
    flat = flat - flat.mean(-1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=-1, keepdims=True).clip(1e-6)


def thumbnails(images: Iterator[tuple[Image.Image, object]], mirrored: bool) -> NDArray[np.float32]:
    """Thumbnails (image, crop, row, col); after the crops those of the mirrored image, if asked for."""
    found = []
    for image, _ in images:
        own = crops(image)
        own += crops(ImageOps.mirror(image)) if mirrored else []
        found.append(np.stack([np.asarray(one, dtype=np.float32) for one in own]))
    return np.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()

    sets = {f"{pack}-{split}": lambda p=pack, s=split: read_pack(args.data / p, s) for pack, split in TESTED}
    sets |= {pack: lambda p=pack: mask_images(args.data / p) for pack in MASKS}
    tested = np.concatenate([thumbnails(read(), mirrored=True) for read in sets.values()])
    names = [f"{name} {i}" for name, read in sets.items() for i, _ in enumerate(read())]
    hashes, units = perceptual_hash(tested), standardized(tested)
    print(f"{len(names)} test images", flush=True)

    left_out = {}
    for pack, split in TRAINED:
        own = thumbnails(read_pack(args.data / pack, split), mirrored=False)
        own_hashes, own_units, out = perceptual_hash(own), standardized(own), set()
        whole = own.shape[1]
        for crop in range(tested.shape[1]):  # a whole training image against each part of a test image
            for i, j in close(own_hashes[:, 0], hashes[:, crop]):
                out |= report(f"{pack}-{split}", i, names[j], crop, own_units[i, 0] @ units[j, crop])
        for crop in range(1, whole):  # each part of a training image against a whole test image, and mirrored
            for other in (0, whole):
                for i, j in close(own_hashes[:, crop], hashes[:, other]):
                    out |= report(f"{pack}-{split}", i, names[j], crop, own_units[i, crop] @ units[j, other])
        left_out[f"{pack}-{split}"] = sorted(out)
        print(f"{pack}-{split}: {len(own)} images, {len(out)} left out", flush=True)
    (args.work / "left_out.json").write_text(json.dumps(left_out), encoding="utf-8")


def close(ones: NDArray[np.uint64], others: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Pairs of positions whose hashes differ in at most `BITS` bits."""
    for start in range(0, len(ones), 1024):
        differing = np.bitwise_count(ones[start : start + 1024, None] ^ others[None])
        for i, j in np.argwhere(differing <= BITS):
            yield start + int(i), int(j)


def report(name: str, place: int, test: str, crop: int, correlation: float) -> set[int]:
    """The training image's position if the pair is one image; prints the pair."""
    if correlation < CORRELATION:
        return set()
    print(f"{name} {place} = {test} (crop {crop}, correlation {correlation:.3f})", flush=True)
    return {place}


if __name__ == "__main__":
    main()
