"""Every number of docs/results.md: all methods and baselines with `mini`, on packs with masks, phrases and captions.

    python recipes/results/results.py --data DATA --runs RUNS --out docs/results.md

Expect: about two hours on two cores, half of them for methods with many passes, which run on a few images. Results
in RUNS are not measured again, so it can be stopped at any time. Nothing is selected here by the scores; the reference
numbers for --check are written to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import eclip
from eclip.methods import METHODS

FAST = [name for name, method in METHODS.items() if method.kind != "perturbation"]
SLOW = [name for name, method in METHODS.items() if method.kind == "perturbation"]
PACKS: dict[str, int | None] = {"voc2012seg": 50, "coco80seg": None, "davis2016val": None, "camvid": None}
"""Packs; methods with many passes run on every N-th image of the largest one."""
COLUMNS = {
    "msc": "mSC",
    "miou": "mIoU",
    "over_control": "over control",
    "miou_held_out": "held out",
    "flipped_miou": "flipped",
    "class_miou": "class mIoU",
    "average_precision": "AP",
    "auroc": "AUROC",
    "pointing_game": "pointing",
    "energy": "energy",
    "box_iou": "box",
}


SANE = [f"{key}{end}" for key in ("nonsense", "other_class", "random_weights") for end in ("_size", "")]
"""Each rank correlation: its mean absolute value, and its signed mean."""


@dataclass(frozen=True)
class Job:
    """A run: its folder, which starts with the name of the data set; the folder of the data, and arguments."""

    name: str
    pack: str
    asked: dict[str, Any]


def jobs() -> list[Job]:
    made = [Job(f"{pack}-fast", pack, {"methods": FAST}) for pack in PACKS]
    made += [Job(f"{pack}-slow", pack, {"methods": SLOW, "every": every}) for pack, every in PACKS.items() if every]
    sane = {"methods": FAST, "protocol": "sanity-v1"}
    made += [Job(f"{pack}-sanity", pack, {**sane, "every": 10}) for pack in ("voc2012seg", "coco80seg")]
    faithful = {"methods": FAITHFUL, "protocol": "faithful-v1", "every": 25}
    made += [Job("voc2012seg-faithful", "voc2012seg", faithful)]
    segments = {"methods": LABELS, "protocol": "segment-v1"}
    made += [Job(f"{pack}-segment", pack, segments) for pack in ("voc2012seg", "camvid")]
    made.append(Job("flickr8k_entities-phrases", "flickr8k-entities", {"methods": FAST, "protocol": "pointing-v1"}))
    words = {"methods": "all", "protocol": "words-v1", "every": 5}
    made.append(Job("flickr8k-words", "flickr8k", words))
    crepe = {"methods": "all", "protocol": "crepe-v1"}
    return [*made, Job("sugar_crepe_pack-contrast", "sugar-crepe", crepe)]


HEADLINES = {"phrases": "pointing", "words": "word_gap", "contrast": "found"}
"""Of the tables with many numbers, that which sorts them."""
FAITHFUL = ["eclip", "maskclip", "gem", "surgery", "itsm", "gradcam", "decompose"]
LABELS = ["eclip", "maskclip", "sclip", "clearclip", "naclip", "gem", "surgery"]


def measure(data: Path, runs: Path, only: str | None) -> dict[str, dict[str, Any]]:
    """Run the jobs, and return their results by name."""
    found = {}
    for job in jobs():
        if only is not None and only not in job.name:
            continue

        def on_progress(_: str, done: int, total: int, name: str = job.name) -> None:
            print(f"\r{name}: {done} of {total}", end="", flush=True)

        asked = {"models": "mini", "examples": 0, **job.asked}
        found[job.name] = eclip.evaluate(
            job.name.rpartition("-")[0], root=data / job.pack, out=runs / job.name, on_progress=on_progress, **asked
        ).results
        print()
    return found


def cell(number: dict[str, float | None] | None, interval: bool = False) -> str:
    if number is None or number["value"] is None:
        return "-"
    text = f"{100 * number['value']:.1f}"
    return f"{text} ({100 * number['low']:.1f} to {100 * number['high']:.1f})" if interval else text


def row(one: dict[str, Any], label: str, columns: list[str], headline: str) -> str:
    cells = [cell(one["numbers"].get(key), key == headline) for key in columns]
    return f"| {label} | {' | '.join(cells)} |"


def localization(found: dict[str, dict[str, Any]], pack: str) -> str:
    """The table of a pack, best first."""
    fast, slow = found[f"{pack}-fast"], found.get(f"{pack}-slow")
    rows = [(one, f"({one['method']})" if one["control"] else f"`{one['method']}`") for one in fast["rows"]]
    rows += [(one, f"`{one['method']}` *") for one in (slow["rows"] if slow else []) if not one["control"]]
    rows.sort(key=lambda pair: -pair[0]["numbers"]["miou"]["value"])
    columns = list(COLUMNS)
    lines = [f"| method | {' | '.join(COLUMNS.values())} |", f"|---{'|---' * len(columns)}|"]
    lines += [row(one, label, columns, "miou") for one, label in rows]
    return "\n".join([*lines, "", note(fast, slow)])


def note(fast: dict[str, Any], slow: dict[str, Any] | None) -> str:
    """The note below a table: how many images, groups if there are any, pairs and flat maps; images of starred rows."""
    images, groups = fast["data"]["images"], fast["data"]["groups"]
    grouped = f" of {groups} videos" if groups < images else ""
    starred = f"; *: {slow['data']['images']} images of these" if slow else ""
    told = f"{images} images{grouped}, {fast['rows'][0]['pairs']} pairs{starred}."
    flat = ", ".join(f"`{one['method']}` {one['flat']}" for one in fast["rows"] if one["flat"])
    return f"{told} Flat maps: {flat}." if flat else told


def winners(found: dict[str, dict[str, Any]]) -> str:
    """The best methods on each pack, and those that do not beat every baseline beyond the interval."""
    lines = [
        "| | best by mIoU | best by mSC | best by AP | not above the best control, beyond the interval |",
        "|---|---|---|---|---|",
    ]
    for pack in PACKS:
        rows = found[f"{pack}-fast"]["rows"]
        own = [one for one in rows if not one["control"]]
        best = []
        for key in ("miou", "msc", "average_precision"):
            first = max(own, key=lambda one: one["numbers"][key]["value"])
            best.append(f"`{first['method']}` {cell(first['numbers'][key])}")
        below = [f"`{one['method']}`" for one in own if one["numbers"]["over_control"]["low"] <= 0]
        lines.append(f"| {pack} | {' | '.join(best)} | {', '.join(below)} |")
    return "\n".join(lines)


def table(result: dict[str, Any], columns: list[str], headline: str | None = None) -> str:
    """The table of another task: numbers with intervals; with a headline, it alone has them and sorts the rows.

    That of sanity also has the number of pairs with a flat map.
    """
    flat = result["protocol"]["task"] == "sanity"
    lines = [f"| method | {' | '.join([*columns, *(['flat'] if flat else [])])} |"]
    lines.append(f"|---{'|---' * (len(columns) + flat)}|")
    rows = [(one, one["numbers"]) for one in result["rows"]]
    if headline is not None:
        rows.sort(key=lambda pair: -pair[1][headline]["value"] if headline in pair[1] else -2)
    for one, numbers in rows:  # the accuracy of the model itself is in the columns of how often a method finds a word
        label = f"({one['method']})" if one["control"] or headline not in (None, *numbers) else f"`{one['method']}`"
        found = [numbers.get(key, numbers.get(key.replace("found", "accuracy"))) for key in columns]
        cells = [cell(number, headline in (None, key)) for number, key in zip(found, columns, strict=True)]
        cells += [f"{one['flat']} of {one['pairs']}"] if flat else []
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def stored(result: dict[str, Any]) -> dict[str, Any]:
    """The reference numbers for `eclip eval --check`."""
    keys = ("msc", "miou", "class_miou", "average_precision")
    return {
        "schema": result["schema"],
        "protocol": result["protocol"],
        "data": {key: result["data"][key] for key in ("digest", "images", "groups")},
        "rows": [
            {
                "model": one["model"],
                "method": one["method"],
                "numbers": {key: {"value": one["numbers"][key]["value"]} for key in keys},
            }
            for one in result["rows"]
        ],
    }


def write(found: dict[str, dict[str, Any]], out: Path) -> None:
    """Write the tables into the page, and the reference numbers into benchmarks/results/."""
    whole = [pack for pack in PACKS if f"{pack}-fast" in found and (not PACKS[pack] or f"{pack}-slow" in found)]
    blocks = {f"localize {pack}": localization(found, pack) for pack in whole}
    if all(f"{pack}-fast" in found for pack in PACKS):
        blocks["winners"] = winners(found)
    for name, result in found.items():
        pack, _, task = name.rpartition("-")
        if task not in ("fast", "slow"):
            keys = dict.fromkeys(key for one in result["rows"] for key in one["numbers"])
            columns = SANE if task == "sanity" else [key for key in keys if "accuracy" not in key or task == "segment"]
            blocks[f"{task} {pack}"] = table(result, columns, HEADLINES.get(task))
        elif task == "fast":
            file = Path("benchmarks/results") / f"{pack}-{result['protocol']['name']}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(stored(result), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = out.read_text(encoding="utf-8")
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        if not after:
            raise SystemExit(f"{out} has no place for {name}: add {start} and {end}.")
        text = f"{before}{start}\n\n{block}\n\n{end}{after}"
    out.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--only", help="only jobs whose name contains this, and their tables")
    parser.add_argument("--out", type=Path, help="docs/results.md, in which the text between marks is replaced")
    args = parser.parse_args()
    found = measure(args.data, args.runs, args.only)
    if args.out is not None:
        write(found, args.out)


if __name__ == "__main__":
    main()
