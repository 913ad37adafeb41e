"""Keep the directions of token space with the most variance: 512 numbers per token in training instead of 1,280.

    python recipes/mini/reduce.py --work WORK --size 320

Expect: the share of variance kept (74 %), WORK/320/basis.pt and `reduced.npy` beside every `tokens.npy`. The pool
trained on reduced tokens is converted exactly to one on 1,280 channels (`model.Pool.full`), so none of this ships.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

KEPT = 512


def fit(tokens: list[np.ndarray], generator: torch.Generator) -> dict[str, Tensor]:
    """Mean, directions and scales from a sample of training tokens.

    Reduced tokens are ((x - mean) @ directions) / scale. The scale is the square root of the standard deviation,
    half-way to whitening, times a constant that makes the mean square one.
    """
    parts = []
    for pack in tokens:
        index = torch.randperm(len(pack), generator=generator)[:1000].sort().values.numpy()
        parts.append(torch.from_numpy(pack[index][:, ::4].astype(np.float32)).flatten(0, 1))
    sample = torch.cat(parts)
    mean = sample.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((sample - mean).T))
    values, vectors = values.flip(0)[:KEPT], vectors.flip(1)[:, :KEPT].contiguous()
    total = sample.var(0).sum()
    print(f"{100 * values.sum() / total:.1f} % of the variance kept in {KEPT} of 1280 directions")
    scale = values.pow(0.25)
    return {"mean": mean, "directions": vectors, "scale": scale * (values / scale**2).mean().sqrt()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=int, default=320)
    args = parser.parse_args()
    folder = args.work / str(args.size)
    packs = [name for name in sorted(path.parent.name for path in folder.glob("*/done.txt")) if "voc" not in name]
    train = [np.load(folder / name / "tokens.npy", mmap_mode="r") for name in packs if name.endswith(("train", "all"))]
    if (folder / "basis.pt").exists():
        basis = torch.load(folder / "basis.pt", weights_only=True)
    else:
        basis = fit(train, torch.Generator().manual_seed(7))
        torch.save(basis, folder / "basis.pt")
    matrix = basis["directions"] / basis["scale"]
    for name in packs:
        tokens = np.load(folder / name / "tokens.npy", mmap_mode="r")[
            : int((folder / name / "done.txt").read_text(encoding="utf-8"))
        ]
        target = folder / name / "reduced.npy"
        if target.exists() and len(np.load(target, mmap_mode="r")) == len(tokens):
            continue
        found = [
            ((torch.from_numpy(tokens[start : start + 64].astype(np.float32)) - basis["mean"]) @ matrix).half()
            for start in range(0, len(tokens), 64)
        ]
        np.save(target, torch.cat(found).numpy())
        print(name, len(tokens), flush=True)


if __name__ == "__main__":
    main()
