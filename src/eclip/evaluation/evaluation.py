"""Results of an evaluation: the contents of its files, and the comparison with stored numbers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from eclip.datasets.masks import Masked, MaskSet
from eclip.datasets.pair import Pair
from eclip.datasets.phrases import Phrased
from eclip.datasets.sets import AnySet
from eclip.errors import OptionError, ResultError
from eclip.evaluation.report.table import plain_table
from eclip.evaluation.row import Row
from eclip.evaluation.store import PAIRS, RESULTS, TABLE, BatchResult
from eclip.files import peak_mib, replace_file

SCHEMA = "eclip.eval/1"
Found = dict[str, tuple[list[Row], list[BatchResult]]]
"""Rows and batch results of each model."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        results: the contents of `results.json`:

            {"schema": "eclip.eval/1", "data": {"name", "split", "every", "limit", "digest", "images",
             "groups", "classes": {number: name}}, "protocol": {all its rules}, "methods", "refine", "refine_options",
             "models", "batch_size", "versions", "command",
             "rows": [{"model", "method", "control", "pairs", "images", "groups",
                       "numbers": {name: {"value", "low", "high"}}, facts of the task ...}, ...],
             "not_applicable": [{"model", "method", "why"}], "failures": [{"source", "error"}],
             "examples": [{"model", "method", "kind": "best" or "worst", "image", "class", "name", "iou", "msc",
                           "file": of the folder}],
             "timing": {model: {"forward": seconds an image, "methods": {name: {"seconds", "cost"}}, ...}, "peak_mib"}}

            Numbers are fractions; "low" and "high" bound a 95 % bootstrap interval over groups of images; an image
            without a group is a group by itself. "cost" is the time of forward pass and method, divided by that of the
            forward pass. "command" is None if data, model or protocol has no name. Runs with the same settings differ
            only in "timing".
        folder: of the run.
        missing: how many batches of all models other processes have still to measure, see `shard` of `evaluate`;
            until there are none, there are no rows, and nothing is written.
    """

    results: dict[str, Any]
    folder: Path
    missing: int = 0

    def __repr__(self) -> str:
        data, rows = self.results["data"], self.results["rows"]
        size = f"{self.missing} batch{'es' * (self.missing > 1)} missing" if self.missing else f"{len(rows)} rows"
        return f"Evaluation({data['name']}, {data['images']} images, {size}, {self.results['protocol']['name']})"

    @staticmethod
    def load(folder: str | Path) -> Evaluation:
        """Load the results in a folder.

        Raises:
            ResultError: it contains no results, or they cannot be read.
        """
        file = Path(folder).expanduser() / RESULTS
        found = read_results(file)
        if found.get("schema") != SCHEMA or not {"protocol", "data"} <= found.keys():
            raise ResultError(
                f"{file} has schema {found.get('schema')!r} instead of {SCHEMA!r}: run the evaluation again."
            )
        return Evaluation(found, file.parent)

    def report(self) -> str:
        """One self-contained HTML page, see `eclip report`.

        Raises:
            ResultError: an example image that the results list is not in the folder.
        """
        from eclip.evaluation.report.page import page_of

        return page_of([self])

    def _repr_html_(self) -> str | None:
        """The table, for notebooks; None if there is none yet."""
        return None if self.missing else plain_table(self.results)

    def check(self, expected: str | Path, tolerance: float = 0.002) -> list[str]:
        """Differences from stored numbers, one line each; empty if all are within tolerance.

        Args:
            expected: a `results.json`, or a shorter file like it: only the "value" of "numbers" in "rows" is compared,
                and "tolerance" beside a value overrides the general one. "protocol" and "data" must be equal as far as
                the file contains them.
            tolerance: the largest permitted difference, as a fraction.

        Raises:
            ResultError: the file cannot be read, or a tolerance or value in it is not a finite number.
            OptionError: the tolerance is not 0 or more.
        """
        if not isinstance(tolerance, Real) or not 0 <= tolerance < math.inf:
            raise OptionError(f"tolerance must be a number, 0 or more, got {tolerance!r}.")
        wanted = read_results(Path(expected))
        missed = _unlike(self.results, wanted)
        rows = {(row["model"], row["method"]): row["numbers"] for row in self.results["rows"]}
        absent: list[str] = []
        compared = 0
        for row in wanted.get("rows", []):
            name = f"{row['method']} on {row['model']}"
            if (row["model"], row["method"]) not in rows:
                absent.append(name)
                continue
            for key, one in row["numbers"].items():
                got = rows[row["model"], row["method"]].get(key, {}).get("value")
                compared += 1
                value, most = one["value"], one.get("tolerance", tolerance)
                if (got is None) != (value is None) or (got is not None and not abs(got - value) <= most + 1e-9):
                    missed.append(f"{name}: {key} is {shown(got)}, expected {shown(value)} ± {most}")
        missed += [f"not measured: {', '.join(absent)}"] if absent else []
        return missed if compared else [*missed, f"{expected} contains no number to compare with"]


def check_question(expected: str | Path, asked: dict[str, Any]) -> None:
    """Check that stored numbers belong to this "protocol" and these "data", as far as their file tells.

    Raises:
        ResultError: they do not, or the file cannot be read.
    """
    if unlike := _unlike(asked, read_results(Path(expected))):
        raise ResultError(f"{expected} has a different protocol or data ({'; '.join(unlike)}): cannot compare numbers.")


def _unlike(asked: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Differences in protocol and data from a file of stored numbers."""
    return [
        f"{part} {key}: {shown(asked[part].get(key))}, expected {shown(value)}"
        for part in ("protocol", "data")
        for key, value in wanted.get(part, {}).items()
        if key != "summary" and asked[part].get(key) != value
    ]


def shown(value: Any) -> str:
    """A value as text for a message."""
    return f"{value:.4f}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def data_of(images: AnySet, told: dict[str, Any]) -> dict[str, Any]:
    """The "data" of `results.json`: the given description, and what the data are."""
    classes = images.classes.items() if isinstance(images, MaskSet) else ()
    count, groups = len(set(images.image_numbers())), len(set(images.group_numbers()))
    names = {str(number): name for number, name in classes}
    return {**told, "digest": images.digest(), "images": count, "groups": groups, "classes": names}


def results_of(question: dict[str, Any], found: Found, left_out: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The contents of `results.json`, see `Evaluation.results`.

    `question` has all settings of the run, with `data_of` as "data"; `left_out`, as (image, reason), what the data set
    itself leaves out.
    """
    rows: list[dict[str, Any]] = []
    not_applicable: dict[tuple[str, str], str] = {}
    failures = dict(left_out)
    timing: dict[str, Any] = {}
    for model, (own, batches) in found.items():
        for row in own:
            numbers = {key: one.plain() for key, one in row.numbers.items()}
            counts = {"control": row.baseline, "pairs": row.pairs, "images": row.images, "groups": row.groups}
            rows.append({"model": model, "method": row.method, **counts, "numbers": numbers, **row.facts})
        not_applicable |= {(model, name): why for batch in batches for name, why in batch.not_applicable.items()}
        failures |= {name: why for batch in batches for name, why in batch.failures}
        timing[model] = _timing(batches)
    return {
        **question,
        "rows": rows,
        "not_applicable": [
            {"model": model, "method": name, "why": why} for (model, name), why in not_applicable.items()
        ],
        "failures": [{"source": source, "error": why} for source, why in failures.items()],
        "timing": {**timing, "peak_mib": peak_mib()},
    }


def _timing(results: Sequence[BatchResult]) -> dict[str, Any]:
    """Seconds per image, and costs relative to the forward pass."""
    images = sum(one.images for one in results) or 1
    seconds: dict[str, float] = {}
    for one in results:
        for name, spent in one.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + spent
    forward = seconds.pop("forward", 0.0)
    costs = {
        name: {"seconds": round(spent / images, 6), "cost": round(1 + spent / forward, 3) if forward else None}
        for name, spent in seconds.items()
    }
    return {"images": images, "forward": round(forward / images, 6), "methods": costs}


def write_results(folder: Path, results: dict[str, Any], images: AnySet, found: Found) -> None:
    """Write the three files.

    Raises:
        ResultError: the folder cannot be written.
    """
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    table, pairs = io.StringIO(), io.StringIO()
    numbers = dict.fromkeys(key for row in results["rows"] for key in row["numbers"])
    columns = [(key, end) for key in numbers for end in ("value", "low", "high")]
    head = [key if end == "value" else f"{key}_{end}" for key, end in columns]
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["data", "protocol", "model", "method", "control", "pairs", "images", "groups", *head])
    for row in results["rows"]:
        values = [row["numbers"].get(key, {}).get(end) for key, end in columns]
        ids = [results["data"]["name"], results["protocol"]["name"], row["model"], row["method"]]
        writer.writerow([*ids, int(row["control"]), row["pairs"], row["images"], row["groups"], *values])
    every = csv.writer(pairs, lineterminator="\n")
    measured = dict.fromkeys(key for rows, _ in found.values() for row in rows for one in row.each[:1] for key in one)
    fields = list(dict.fromkeys(["image", "class", "name", *measured]))
    if measured:
        every.writerow(["model", "method", *fields])
    for model, (rows, _) in found.items():
        for row in rows:
            for one in row.each:
                item = images.items[one["image"]]
                told = one | {"image": item.name, "name": _asked(images, item, one["class"])}
                values = [told.get(key, "") for key in fields]
                rounded = [round(value, 6) if isinstance(value, float) else value for value in values]
                every.writerow([model, row.method, *rounded])
    for name, content in ((TABLE, table.getvalue()), (PAIRS, pairs.getvalue()), (RESULTS, text)):
        replace_file(folder / name, content.encode(errors="backslashreplace"))


def _asked(images: AnySet, item: Masked | Pair | Phrased, number: int) -> str:
    """The text of a pair: the name of a class, or the phrase or caption with this number."""
    if isinstance(images, MaskSet):
        return images.classes[number]
    return item.phrases[number].text if isinstance(item, Phrased) else item.captions[number]  # type: ignore[union-attr]


def read_results(file: Path) -> dict[str, Any]:
    """Read a file of results, or that in the folder of a run.

    Raises:
        ResultError: it cannot be read, or contains no results.
    """
    file = file.expanduser()
    file = file / RESULTS if file.is_dir() else file
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"{file} cannot be read as results of `eclip eval`: {error}.") from error
    if wrong := _form(found):
        raise ResultError(f"{file} does not contain results of `eclip eval`: expected {wrong}; see `eclip.Evaluation`.")
    return found


def _form(found: Any) -> str:
    """What a file of results must have but this one lacks; "" if it is valid."""
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        return "an object with a list of rows"
    if not all(isinstance(found.get(part, {}), dict) for part in ("protocol", "data")):
        return "protocol and data to be objects"
    for row in found["rows"]:
        if not isinstance(row, dict) or not {"model", "method", "numbers"} <= row.keys():
            return "a model, a method and numbers in each row"
        numbers: list[Any] = list(row["numbers"].values()) if isinstance(row["numbers"], dict) else [None]
        if not all(isinstance(one, dict) and _is_number(one.get("value", ""), none=True) for one in numbers):
            return 'numbers such as {"miou": {"value": 0.3}}'
        if not all(_is_number(one.get("tolerance", 0.0)) and one.get("tolerance", 0.0) >= 0 for one in numbers):
            return "tolerances of 0 or more"
    return ""


def _is_number(value: Any, *, none: bool = False) -> bool:
    return (none and value is None) or (isinstance(value, int | float) and math.isfinite(value))
