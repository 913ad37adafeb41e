"""Keep the directions of token space with the most variance: 512 numbers per token in training instead of 1,280.

    python recipes/mini/reduce.py --work WORK --size 448

Expect: the share of variance kept, WORK/448/basis.pt and `reduced.npy` beside every `tokens.npy`. The pool trained on
reduced tokens is converted exactly to one on 1,280 channels (`model.Pool.full`), so none of this ships.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from features import as_tokens, build_trunk, halves, on_grid
from torch import Tensor, nn

KEPT = 512


def widened(tokens: np.ndarray, last: nn.Module) -> Tensor:
    """Stored tokens (image, token, 192) behind the trunk's last part (image, token, 1280)."""
    return as_tokens(last(on_grid(torch.from_numpy(tokens.astype(np.float32)))))


def fit(packs: list[np.ndarray], last: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Mean, directions and scales from a sample of training tokens.

    Reduced tokens are ((x - mean) @ directions) / scale. The scale is the square root of the standard deviation,
    half-way to whitening, times a constant that makes the mean square one.
    """
    parts = []
    for tokens in packs:
        index = torch.randperm(len(tokens), generator=generator)[:1000].sort().values.numpy()
        parts += [widened(tokens[some], last)[:, ::7].flatten(0, 1) for some in np.array_split(index, 10)]
    sample = torch.cat(parts)
    mean = sample.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((sample - mean).T))
    values, vectors = values.flip(0)[:KEPT], vectors.flip(1)[:, :KEPT].contiguous()
    total = sample.var(0).sum()
    print(f"{100 * values.sum() / total:.1f} % of the variance kept in {KEPT} of 1280 directions")
    scale = values.pow(0.25)
    return {"mean": mean, "directions": vectors, "scale": scale * (values / scale**2).mean().sqrt()}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=int, default=448)
    args = parser.parse_args()
    folder = args.work / str(args.size)
    last = halves(build_trunk())[1]
    packs = {path.parent.name: int(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/done.txt"))}
    tokens = {name: np.load(folder / name / "tokens.npy", mmap_mode="r")[:count] for name, count in packs.items()}
    if (folder / "basis.pt").exists():
        basis = torch.load(folder / "basis.pt", weights_only=True)
    else:
        train = [tokens[name] for name in packs if name.endswith(("train", "all"))]
        basis = fit(train, last, torch.Generator().manual_seed(7))
        torch.save(basis, folder / "basis.pt")
    matrix = basis["directions"] / basis["scale"]
    for name, count in packs.items():
        target = folder / name / "reduced.npy"
        if target.exists() and len(np.load(target, mmap_mode="r")) == count:
            continue
        found = [
            ((widened(tokens[name][start : start + 64], last) - basis["mean"]) @ matrix).half()
            for start in range(0, count, 64)
        ]
        np.save(target, torch.cat(found).numpy())
        print(name, count, flush=True)


if __name__ == "__main__":
    main()
