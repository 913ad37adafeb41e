"""Maps of a person and of an object along a film, with and without smoothing: the table of docs/relatives/actions.md.

    python recipes/relatives/actions/actions.py --data DATA --out FOLDER [--limit SEQUENCES]

Needs the pack davis2016val in DATA, 15 sequences of 5 frames, and PyAV (extra `video`). It writes each sequence as a
film, explains it with `eclip.explain_video`, and draws a chart. Expect four minutes on one core.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import eclip
from eclip import heatmap
from eclip.datasets.masks import MaskSet, sides
from eclip.datasets.packs import davis2016val
from eclip.evaluation.baselines import centre
from eclip.metrics.localization import ious
from eclip.video.frames import write_film

RATE, SIGMAS, DRAWS, PERSON = 5, (0.0, 0.5, 1.0, 2.0), 2000, "a person"
PEOPLE = ("person", "rider", "surfer", "couple", "paraglider")  # in names of objects with people
OBJECT = {one: f"object, sigma {one:g}" if one else "object, frame by frame" for one in SIGMAS}
STILL, MEAN, CENTER, OTHER = "first map held still", "mean of all frames", "center (control)", f'"{PERSON}" (control)'
METRICS = "AUROC", "IoU", "flicker"
NAMES = (*OBJECT.values(), MEAN, STILL, CENTER, OTHER)


def films(data: MaskSet, folder: Path, limit: int | None) -> dict[str, tuple[Path, str, list[np.ndarray]]]:
    """A film of each sequence, the name of its object, and the masks of the frames; sides are made even."""
    found = {}
    for group in sorted({item.group for item in data.items})[:limit]:
        items = [item for item in data.items if item.group == group]
        masks = [item.read() for item in items]
        high, wide = (side // 2 * 2 for side in masks[0].shape)
        [number] = {int(one) for mask in masks for one in np.unique(mask) if one in data.classes}
        path = folder / f"{group}.mp4"
        write_film(path, (item.open() for item in items), RATE)
        found[group] = path, data.classes[number], [np.where(mask == number, 1, mask)[:high, :wide] for mask in masks]
    return found


def maps_of(path: Path, text: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Raw maps (frame, row, col) of each of `NAMES`, and the scores (frame, 2) of the object and of the person."""
    texts = list(dict.fromkeys([f"a {text}", PERSON]))  # one, if the object is a person
    found = {sigma: eclip.explain_video(path, texts, smooth=sigma / RATE, health=False) for sigma in SIGMAS}
    plain = found[0.0].maps
    maps = {OBJECT[sigma]: one.maps[:, 0] for sigma, one in found.items()}
    still = plain[:1, 0], plain[:, 0].mean(axis=0, keepdims=True), centre(plain.shape[2:], ())[None]
    maps |= {name: np.repeat(one, len(plain), axis=0) for name, one in zip((STILL, MEAN, CENTER), still, strict=True)}
    return {**maps, OTHER: plain[:, -1]}, found[0.0].scores[:, [0, -1]]


def normalized(maps: np.ndarray) -> np.ndarray:
    return heatmap.normalize(torch.from_numpy(maps)).numpy()


def flicker(values: np.ndarray) -> float:
    """The mean absolute change from one frame to the next."""
    return float(np.abs(np.diff(values.astype(float), axis=0)).mean())


def frame_scores(maps: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    """Of each frame, AUROC and the IoU at each threshold."""
    rows = []
    for one, mask in zip(normalized(maps), masks, strict=True):
        heat, (inside, outside) = heatmap.resize(torch.from_numpy(one), mask.shape).numpy(), sides(mask, 1)
        rows.append([eclip.METRICS["auroc"](heat, inside, outside), *ious(heat, inside, outside)])
    return np.array(rows)


def means(scores: dict[str, np.ndarray]) -> np.ndarray:
    """(video, 2): mean AUROC and IoU of the frames; the threshold is the best one for the other videos."""
    every = np.stack([one.mean(axis=0) for one in scores.values()])
    rest = (every.sum(axis=0) - every)[:, 1:].argmax(axis=1)
    return np.stack([every[:, 0], every[np.arange(len(every)), 1 + rest]], axis=1)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean and its 95 % interval, by bootstrap over videos."""
    drawn = values[np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
    return float(values.mean()), *map(float, np.quantile(drawn, (0.025, 0.975)))


def measure(data: MaskSet, folder: Path, limit: int | None) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Of each of `NAMES`, AUROC, IoU and flicker in percent (video, 3); changes of scores; which videos show people."""
    scores, moved, changes, people = defaultdict(dict), defaultdict(list), [], []
    for video, (path, text, masks) in films(data, folder, limit).items():
        maps, cosines = maps_of(path, text)
        for name in NAMES:
            scores[name][video] = frame_scores(maps[name], masks)
            moved[name].append(flicker(normalized(maps[name])))
        changes.append(100 * np.abs(np.diff(cosines, axis=0)).mean(axis=0))
        people.append(any(word in text for word in PEOPLE))
    found = {name: 100 * np.c_[means(scores[name]), moved[name]] for name in NAMES}
    return found, np.array(changes), np.array(people)


def table(found: dict[str, np.ndarray], people: np.ndarray) -> str:
    groups = {f"{len(people)} videos": people | True, f"{people.sum()} with people": people}
    groups = {name: kind for name, kind in groups.items() if kind.any()}
    heads = [f"{name}: {metric}" for name in groups for metric in METRICS]
    lines = [f"| map | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name, values in found.items():
        three = [interval(values[kind, metric]) for kind in groups.values() for metric in range(3)]
        lines.append(f"| {name} | {' | '.join(f'{mean:.1f} ± {(high - low) / 2:.1f}' for mean, low, high in three)} |")
    for one, other in ((OBJECT[1.0], OBJECT[0.0]), (OBJECT[0.0], CENTER), (OBJECT[0.0], OTHER)):
        less = zip(METRICS, map(interval, (found[one] - found[other]).T), strict=True)
        told = ", ".join(f"{name} {mean:.1f} ({low:.1f} to {high:.1f})" for name, (mean, low, high) in less)
        lines.append(f"\n{one}, minus {other}: {told}.")
    return "\n".join(lines)


def chart(found: dict[str, np.ndarray], path: Path) -> None:
    page = Figure(figsize=(7, 3.4), dpi=150, layout="constrained")
    for axes, metric, title in zip(page.subplots(1, 2, sharey=True), (1, 2), ("IoU, %", "flicker, %"), strict=True):
        for place, name in enumerate(reversed(found)):
            mean, low, high = interval(found[name][:, metric])
            axes.barh(place, mean, xerr=[[mean - low], [high - mean]], color="#8a8a94" if "(" in name else "#b0457a")
        axes.set_yticks(range(len(found)), list(reversed(found)))
        axes.set_xlabel(title)
    page.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None, help="sequences")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found, changes, people = measure(davis2016val(args.data / "davis2016val", "all"), args.out, args.limit)
    print(table(found, people))
    said = [f"{mean:.1f} ({low:.1f} to {high:.1f})" for mean, low, high in map(interval, changes.T)]
    print(
        f"Scores, in hundredths, change by {said[0]} for the object and {said[1]} for {PERSON!r} from frame to frame."
    )
    chart(found, args.out / "actions.png")


if __name__ == "__main__":
    main()
