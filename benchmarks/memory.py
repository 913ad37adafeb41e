"""Memory of `eclip explain` over many images: does it stay the same? Writes a plot and a JSON file.

    python benchmarks/memory.py --images DIR --json benchmarks/memory.json --plot docs/memory.png

The images of DIR, repeated, form a table of 20,000 lines. The command runs in a process of its own, and every two
seconds the resident memory of that process and of its workers is added up. The images are small for the model (96
pixels instead of 448), so that the run takes ten minutes on one idle core; the size changes the level, not the trend.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import psutil

from eclip.stream.sources import list_images

INTERVAL = 2.0
"""Seconds between two samples."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--json", type=Path, default=Path("memory.json"))
    parser.add_argument("--plot", type=Path, default=Path("memory.png"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table, out = Path(folder) / "images.csv", Path(folder) / "out"
        found = [str(Path(item.source).resolve()) for item in list_images([args.images])]
        table.write_text(
            "\n".join(["image", *itertools.islice(itertools.cycle(found), args.count)]) + "\n", encoding="utf-8"
        )
        words = [sys.executable, "-m", "eclip", "explain", str(table), "-t", "a dog", "-t", "a person", "-o", str(out)]
        words += ["--image-size", str(args.image_size), "--threads", "1", "--workers", "1"]
        samples = _watch(subprocess.Popen(words), out, args.count)
    early = max(one["mib"] for one in samples if one["images"] <= args.count // 10)
    peak = max(one["mib"] for one in samples)
    seconds = samples[-1]["seconds"]
    print(f"peak of {args.count // 10:,} images {early:.0f} MiB, of {args.count:,} {peak:.0f}: {peak / early:.3f}")
    print(f"{args.count / seconds:.1f} images/s, {samples[-1]['cpu'] / seconds:.2f} cores busy")
    told = {
        "count": args.count,
        "image_size": args.image_size,
        "peak_of_a_tenth": early,
        "peak": peak,
        "samples": samples,
    }
    args.json.write_text(json.dumps(told) + "\n", encoding="utf-8")
    _plot(samples, args.plot)


def _watch(process: subprocess.Popen[bytes], out: Path, count: int) -> list[dict[str, float]]:
    """Samples until the process ends."""
    start, samples, main = time.monotonic(), list[dict[str, float]](), psutil.Process(process.pid)
    while process.poll() is None:
        try:
            every = [main, *main.children(recursive=True)]
            mib = sum(one.memory_info().rss for one in every) / 2**20
            cpu = sum(sum(one.cpu_times()[:2]) for one in every)
        except psutil.Error:  # it has just ended
            continue
        images = min(count, 512 * len(list((out / "index").glob("*")))) if out.exists() else 0
        samples.append(
            {"seconds": round(time.monotonic() - start, 1), "images": images, "mib": round(mib, 1), "cpu": cpu}
        )
        time.sleep(INTERVAL)
    if process.returncode:
        raise SystemExit(process.returncode)
    return samples


def _plot(samples: list[dict[str, float]], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
    axes.plot([one["images"] for one in samples], [one["mib"] for one in samples], color="#1f5fa8")
    axes.set(xlabel="images", ylabel="resident memory, MiB", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
