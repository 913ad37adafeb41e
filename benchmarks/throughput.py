"""Images a second of `explain_dataset`, files to shards, relative to a bare `encode_image` on preloaded tensors.

    python benchmarks/throughput.py --images DIR                                      # mini, eclip, two texts
    python benchmarks/throughput.py --images DIR --model ViT-B-16 --method surgery --texts 20
    python benchmarks/throughput.py --images DIR --write overlays
    python benchmarks/throughput.py --images DIR --processes 2                        # one thread each, as by torchrun
    python benchmarks/throughput.py --images DIR --profile                            # also where the time goes

Bare passes and stretches of the pipeline alternate in one run, with the same batch: each round is a bare pass over
`--stretch` batches in float32, then the pipeline over as many. The number is the median over rounds of the pipeline's
rate divided by the bare rate. Decoding, explaining and writing are all in it; loading the model and starting the worker
processes are not. "ViT-B-16" and other architectures of open_clip have random weights. With `--processes`, the rates of
processes that run at the same time are added up, and the bare passes, with all threads, come before and after.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import open_clip
import torch

import eclip
from eclip.stream.decoding import batches
from eclip.stream.job import Job, begin
from eclip.stream.plan import Plan
from eclip.stream.shards import Shard
from eclip.stream.sources import Item, list_images
from eclip.stream.work import Worker, shard_for

WORDS = (
    "a person", "a dog", "a cat", "grass", "the sky", "a car", "a tree", "a house", "water", "a horse",
    "a bird", "food", "a table", "a chair", "a street", "a boat", "a train", "a flower", "a ball", "a book",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", default="mini", help="mini, or an architecture of open_clip, random weights")
    parser.add_argument("--method", default="eclip")
    parser.add_argument("--texts", type=int, default=2)
    parser.add_argument("--write", default="maps,boxes")
    parser.add_argument("--bare", help="a model for the bare pass instead, such as local-dir:PATH of an earlier mini")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--no-health", action="store_true")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--stretch", type=int, default=2, help="batches of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    backbone, bare = _models(args.model, args.precision)
    bare = bare if args.bare is None else eclip.load(args.bare)
    pixels = torch.randn(args.batch_size, 3, *(side * bare.patch_size for side in bare.native))
    if args.processes > 1:
        _side_by_side(bare, pixels, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        out, texts = Path(folder) / "out", WORDS[: args.texts]
        settings = {"method": args.method, "model": backbone.name, "health": not args.no_health}
        more = {"write": tuple(args.write.split(",")), "batch_size": args.batch_size, "workers": args.workers}
        job = Job(sources=(str(args.images),), texts=texts, out=out, settings=settings, **more)  # type: ignore[arg-type]
        begin(out)
        files = list(list_images([args.images]))
        plan = Plan.make(files, out, job.shard_size)
        with Worker(job, plan, backbone) as worker, shard_for(job, plan.pieces[0]) as shard:
            _measure(worker, shard, itertools.cycle(files), bare, pixels, args)


def _measure(
    worker: Worker,
    shard: Shard,
    items: itertools.cycle[Item],
    bare: eclip.Backbone,
    pixels: torch.Tensor,
    args: argparse.Namespace,
) -> None:
    size, profile = args.batch_size, cProfile.Profile()
    ready = batches(worker.reading(items, 2 * size), size)
    position, bares, ours = 0, [], []
    for turn in range(args.rounds + 1):  # the first warms up
        start = time.perf_counter()
        for _ in range(0 if args.child else args.stretch):
            _bare(bare, pixels)
        middle = time.perf_counter()
        if args.profile and turn:
            profile.enable()
        for batch in itertools.islice(ready, args.stretch):
            shard.add(position, worker._records(batch))
            position += len(batch)
        profile.disable()
        bares.append(middle - start)
        ours.append(time.perf_counter() - middle)
    if args.child:
        print(len(ours[1:]) * args.stretch * size / sum(ours[1:]))
        return
    ratios = sorted(one / other for one, other in zip(bares[1:], ours[1:], strict=True))
    images = args.stretch * size
    print(
        f"{args.model}, {args.method}, {args.texts} texts, {args.write}, {args.precision}, batches of {size}, "
        f"{torch.get_num_threads()} threads, {args.workers} decoding: "
        f"{images / statistics.median(ours[1:]):.2f} images/s, bare {images / statistics.median(bares[1:]):.2f}: "
        f"ratio {statistics.median(ratios):.2f} ({ratios[len(ratios) // 4]:.2f} to {ratios[-1 - len(ratios) // 4]:.2f})"
    )
    if args.profile:
        pstats.Stats(profile).sort_stats("cumtime").print_stats("eclip|conv2d|linear|attention", 60)


def _bare(backbone: eclip.Backbone, pixels: torch.Tensor) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        backbone.model.encode_image(pixels)
    return time.perf_counter() - start


def _side_by_side(bare: eclip.Backbone, pixels: torch.Tensor, args: argparse.Namespace) -> None:
    """Rates of processes with one thread each, added up."""
    before = [_bare(bare, pixels) for _ in range(args.rounds + 1)][1:]
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *sys.argv, "--processes", "1", "--child", "--workers", "0"]
    children = [subprocess.Popen(words, env=own, stdout=subprocess.PIPE, text=True) for _ in range(args.processes)]
    rate = sum(float(child.communicate()[0].split()[-1]) for child in children)
    after = [_bare(bare, pixels) for _ in range(args.rounds + 1)][1:]
    plain = args.batch_size / statistics.median(before + after)
    print(
        f"{args.model}, {args.method}, {args.texts} texts, {args.write}, {args.precision}, "
        f"batches of {args.batch_size}, {args.processes} processes: {rate:.2f} images/s, bare {plain:.2f}: "
        f"ratio {rate / plain:.2f}"
    )


def _models(name: str, precision: str) -> tuple[eclip.Backbone, eclip.Backbone]:
    """The model in the asked precision, and in float32 for the bare pass."""
    if name == "mini":
        return eclip.load(name, precision=precision), eclip.load(name)
    found = []
    for kind in (getattr(torch, precision), torch.float32):
        torch.manual_seed(0)
        model = open_clip.create_model(name).eval().requires_grad_(False).to(kind)
        found.append(
            eclip.wrap(model, tokenizer=open_clip.get_tokenizer(name), mean=(0.5,) * 3, std=(0.5,) * 3, name=name)
        )
    return found[0], found[1]


if __name__ == "__main__":
    main()
