"""The page of evaluations, and the images on it: every number, well formed, nothing from outside, the right pairs."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tiny
from eclip.cli import app
from eclip.datasets.caption_sources import read_pairs
from eclip.datasets.masks import MaskSet, read_masks
from eclip.datasets.pair import PairSet
from eclip.errors import ResultError
from eclip.evaluation.evaluate import evaluate
from eclip.evaluation.evaluation import Evaluation
from eclip.evaluation.examples import chosen
from eclip.evaluation.report.numbers import shown
from eclip.evaluation.report.page import page_of
from eclip.evaluation.report.report import report
from eclip.evaluation.report.svg import Series, lines, scatter
from eclip.evaluation.report.table import labels, ranked
from eclip.evaluation.report.text import verdicts
from eclip.evaluation.row import Row

STRANGE = '<b>&"x"</script>'
METHODS = ("itsm", "rclip", "gradcam", "occlusion")
VOIDS = {"meta", "img", "br", "input", "link", "path", "circle", "polyline"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images; all show a dog above, four of them something of a strange name below."""
    folder = tmp_path_factory.mktemp("pack")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for seed, (height, width) in enumerate([(30, 40), (40, 30), (24, 24), (33, 50), (30, 30), (200, 120)]):
        random = np.random.default_rng(seed)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"images/{seed}.png")
        mask = np.zeros((height, width), dtype=np.uint8)
        top = height // (2 + seed)
        mask[:top, seed:] = 1
        mask[top + 1 :, 7:] = 2 if seed < 4 else 0
        Image.fromarray(mask).save(folder / f"masks/{seed}.png")
    (folder / "classes.txt").write_text(f"1\tdog\n2\t{STRANGE}\n")
    return folder


@pytest.fixture(scope="module")
def masks(folder: Path) -> MaskSet:
    return read_masks(folder)


def run(masks: MaskSet, out: Path, **settings: Any) -> Evaluation:
    asked = {"methods": METHODS, "models": tiny.backbone("vit"), "batch_size": 4, **settings}
    return evaluate(masks, out=out, **asked)


@pytest.fixture(scope="module")
def found(masks: MaskSet, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return run(masks, tmp_path_factory.mktemp("run"))


class Page(HTMLParser):
    """Reads a page, and fails where a tag is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag not in VOIDS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.cells[-1][-1] = " ".join(self.cells[-1][-1].split())

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if {"td", "th"} & set(self.open) and "small" not in self.open:
            self.cells[-1][-1] += data


def test_the_page_holds_every_number_of_the_table(found: Evaluation) -> None:
    page = Page(found.report())
    by_name = {line[1].split()[0]: line[2:] for line in page.cells if len(line) > 2}
    for row in found.results["rows"]:
        told = [cell for cell in by_name[row["method"]] if cell not in ("", "-") and not cell.startswith("→")]
        wanted = [shown(key, one["value"]) for key, one in row["numbers"].items()]
        assert sorted(told) == sorted(wanted), row["method"]
    titles = [tag[1].get("title") for tag in page.tags if tag[0] == "td"]
    low, high = (found.results["rows"][0]["numbers"]["auroc"][end] for end in ("low", "high"))
    assert f"{shown('auroc', low)} to {shown('auroc', high)}" in titles


def test_the_page_needs_nothing_from_outside_and_has_all_parts(found: Evaluation) -> None:
    text = found.report()
    page = Page(text)
    assert not re.search(r"https?:|@import|url\(|src=\"(?!data:image/jpeg)", text)
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object"} == set()
    heads = " ".join(page.words)
    for part in (
        "In plain words",
        "All numbers",
        "Over thresholds",
        "Against cost",
        "By class",
        "Best and worst images",
    ):
        assert part in heads
    assert "those with at least 1 % of the area" in heads and "20, from 0 to 0.95" in heads
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == len(found.results["examples"]) > 0 and all(one["alt"] for one in pictures)


def test_names_are_shown_as_they_are_and_never_run(found: Evaluation) -> None:
    text = found.report()
    assert STRANGE[:-9] not in text and text.count("</script") == 2, "one of data, one of code"
    page = Page(text)
    assert any(STRANGE in (attrs.get("alt") or "") for _, attrs in page.tags)
    data = next(json.loads(word) for word in page.words if word.startswith('{"columns"'))
    assert STRANGE in {one[0] for row in data["classes"] for one in row}
    assert [one[2] for one in data["classes"][0]] == [
        one["iou"] for one in found.results["rows"][0]["classes"].values()
    ]


def test_several_runs_stand_side_by_side_first(found: Evaluation, masks: MaskSet, tmp_path: Path) -> None:
    other = run(masks, tmp_path, protocol="surgery-explain", methods=["itsm", "surgery"], examples=0)
    page = Page(report([found.folder, tmp_path]))
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section" and "id" in attrs] == ["run0", "run1"]
    beside = {line[0]: line[1:] for line in page.cells if len(line) == 5}
    rows = [{row["method"]: row["numbers"] for row in one.results["rows"]} for one in (found, other)]
    wanted = [shown("miou", rows[0]["itsm"]["miou"]["value"]), shown("", rows[1]["itsm"]["class_miou"]["value"])]
    assert [beside["itsm"][0], beside["itsm"][2]] == wanted
    assert beside["gradcam"][2] == "-" and beside["surgery"][0] == "-"


@pytest.mark.parametrize("protocol", ["sanity-v1", "faithful-v1", "segment-v1"])
def test_other_tasks_have_their_page(masks: MaskSet, tmp_path: Path, protocol: str) -> None:
    second = "naclip" if protocol == "segment-v1" else "attention"
    other = run(masks, tmp_path, protocol=protocol, methods=["itsm", second], limit=2)
    text = other.report()
    page = Page(text)
    charts = [attrs for tag, attrs in page.tags if tag == "svg" and "deletion" in (attrs["aria-label"] or "").lower()]
    assert len(charts) == (6 if protocol == "faithful-v1" else 0)
    assert other.results["examples"] == []
    said = {mark: names for mark, names, _ in verdicts(other.results, labels(other.results), ranked(other.results))}
    if protocol == "sanity-v1":
        assert "attention" in said["▼"], "its map is the same for nonsense"
    if protocol == "segment-v1":
        data, [first, *_] = drawn(text), other.results["rows"]
        assert data["columns"] == ["iou"]
        assert data["classes"][0] == [["dog", first["classes"]["1"]["iou"]], [STRANGE, first["classes"]["2"]["iou"]]]
        assert 'value="msc"' not in text and 'value="pairs"' not in text, "nothing to sort by that is not there"


def drawn(text: str) -> dict[str, Any]:
    """What the page's script draws classes from."""
    found = re.search(r'class="data">(.*?)</script>', text)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_a_class_that_no_image_shows_has_no_overlap(masks: MaskSet, tmp_path: Path) -> None:
    items = [item for place, item in enumerate(masks.items) if place > 3]
    other = run(replace(masks, items=items), tmp_path, protocol="segment-v1", methods=["itsm"])
    assert ["dog", None] not in drawn(other.report())["classes"][0]
    assert [STRANGE, None] in drawn(other.report())["classes"][0]


def test_recognition_has_its_page(folder: Path, tmp_path: Path) -> None:
    names = ("a dog", "grass")
    for image in (folder / "images").iterdir():
        shutil.copy(image, tmp_path)
        (tmp_path / f"{image.stem}.txt").write_text(names[0])
    pairs, _ = read_pairs([str(tmp_path)])
    found = evaluate(
        PairSet("own", pairs, names, []), out=tmp_path / "run", models=tiny.backbone("vit"), protocol="recognize-v1"
    )
    page = Page(found.report())
    [row] = found.results["rows"]
    assert shown("accuracy_at_1", row["numbers"]["accuracy_at_1"]["value"]) in page.cells[1]
    assert drawn(found.report())["classes"] == [[]]


def test_a_report_embeds_no_file_of_elsewhere(found: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"mine")
    for place in (str(tmp_path / "secret.jpg"), "../secret.jpg", "results.json"):
        first = {**found.results["examples"][0], "file": place}
        spoiled = replace(found, results={**found.results, "examples": [first]})
        with pytest.raises(ResultError, match="is not a picture of this run"):
            page_of([spoiled])


def test_examples_are_the_best_and_worst_pairs(found: Evaluation) -> None:
    with (found.folder / "pairs.csv").open() as file:
        pairs = list(csv.DictReader(file))
    for method in METHODS:
        own = [one for one in pairs if one["method"] == method]
        best: list[tuple[str, str]] = []
        for one in sorted(own, key=lambda one: -float(one["iou"])):
            if one["image"] not in dict(best) and len(best) < 3:
                best.append((one["image"], one["class"]))
        worst: list[tuple[str, str]] = []
        for one in sorted(own, key=lambda one: float(one["iou"])):
            pair = (one["image"], one["class"])
            if one["image"] not in dict(worst) and len(worst) < 3 and pair not in best:
                worst.append(pair)
        drawn = [one for one in found.results["examples"] if one["method"] == method]
        got = {
            kind: [(one["image"], str(one["class"])) for one in drawn if one["kind"] == kind]
            for kind in ("best", "worst")
        }
        assert got == {"best": best, "worst": worst}, method
        for one in drawn:
            same = next(p for p in own if p["image"] == one["image"] and int(p["class"]) == one["class"])
            assert (float(same["iou"]), float(same["msc"])) == (one["iou"], one["msc"])
            assert one["name"] == ("dog" if one["class"] == 1 else STRANGE)


def test_pairs_are_chosen_by_hand() -> None:
    each = [(0, 1, 0.5), (0, 2, 0.9), (1, 1, 0.9), (2, 1, 0.1), (2, 2, 0.1)]
    row = Row("itsm", False, 5, 3, {}, {}, [{"image": p, "class": c, "iou": iou, "msc": 0.0} for p, c, iou in each])
    got = [(one.kind, one.pair["image"], one.pair["class"]) for one in chosen(row, 2, range(9))]
    assert got == [("best", 0, 2), ("best", 1, 1), ("worst", 2, 1), ("worst", 0, 1)]
    assert chosen(row, 0, range(9)) == []
    shared = [(one.kind, one.pair["image"], one.pair["class"]) for one in chosen(row, 2, [0, 0, 1])]
    assert shared == [("best", 0, 2), ("best", 2, 1), ("worst", 2, 2), ("worst", 0, 1)], "0 and 1 are one image"


def test_pictures_are_small_and_show_the_true_outline(found: Evaluation) -> None:
    for one in found.results["examples"]:
        data = (found.folder / one["file"]).read_bytes()
        picture = Image.open(io.BytesIO(data))
        assert picture.format == "JPEG" and picture.height <= 240 and len(data) < 40_000
        pixels = np.asarray(picture.convert("RGB")).astype(int)
        green = (pixels[..., 1] > pixels[..., 0] + 40) & (pixels[..., 1] > 140)
        assert green.sum() > 20, one


def test_a_stopped_drawing_goes_on_to_the_same_files(found: Evaluation, masks: MaskSet, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []

    def stop(what: str, done: int, total: int) -> None:
        heard.append((what, done, total))
        if what.startswith("examples") and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(masks, tmp_path, on_progress=stop)
    assert any("slow: occlusion" in what for what, _, _ in heard)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}
    assert before and not (tmp_path / "results.json").exists()
    again = run(masks, tmp_path)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "what is there is not drawn again"
    assert again.results["examples"] == found.results["examples"]
    files = {one["file"] for one in found.results["examples"]}
    there = (path for path in (tmp_path / "examples").rglob("*") if path.is_file())
    assert {str(path.relative_to(tmp_path)) for path in there} == files
    assert all((tmp_path / file).read_bytes() == (found.folder / file).read_bytes() for file in files)


def test_none_can_be_asked_for(masks: MaskSet, tmp_path: Path) -> None:
    none = run(masks, tmp_path, methods=["itsm"], examples=0)
    assert none.results["examples"] == [] and not (tmp_path / "examples").exists()
    assert "Best and worst images" not in none.report()


def test_the_command_is_told_where_there_is_one(
    found: Evaluation, folder: Path, tiny_name: str, tmp_path: Path
) -> None:
    assert found.results["command"] is None, "its data came from memory"
    asked = {"methods": ["itsm", "occlusion"], "models": tiny_name, "examples": 0}
    settings = {"root": folder, "every": 2, "limit": 2, "options": {"occlusion": {"window": 8}}}
    told = evaluate("folder", out=tmp_path / "one", **asked, **settings)
    command = told.results["command"]
    assert command and "--set occlusion.window=8" in command
    words = shlex.split(command)
    assert words[:3] == ["eclip", "eval", "folder"]
    done = CliRunner().invoke(app, [*words[1:], "--examples", "0", "-o", str(tmp_path / "two")])
    assert done.exit_code == 0, done.output
    other = Evaluation.load(tmp_path / "two")
    assert other.results["rows"] == told.results["rows"]
    assert command in "".join(Page(told.report()).words)


def test_command_line_writes_one_file_and_names_what_is_no_run(found: Evaluation, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(found.folder), "-o", str(out)])
    assert done.exit_code == 0 and f"-> {out}" in done.output
    assert out.read_text(encoding="utf-8") == found.report()
    titled = CliRunner().invoke(app, ["report", str(found.folder), "-o", str(out), "--title", "<b>Dogs & cats"])
    assert titled.exit_code == 0
    page = out.read_text(encoding="utf-8")
    assert "<title>&lt;b&gt;Dogs &amp; cats</title>" in page and "<b>Dogs" not in page
    assert '<h1 class="heading">&lt;b&gt;Dogs &amp; cats</h1>' in page and found.results["data"]["name"] in page
    for place, why in ((tmp_path, "no results.json"), (tmp_path / "nowhere", "it does not exist")):
        missing = CliRunner().invoke(app, ["report", str(found.folder), str(place), "-o", str(tmp_path / "no.html")])
        assert missing.exit_code == 1 and why in missing.output
    (tmp_path / "question.json").write_text("{}")
    with pytest.raises(ResultError, match="not finished; rerun its command to resume"):
        report(tmp_path)
    assert not (tmp_path / "no.html").exists()


def test_a_picture_that_is_gone_is_an_error(masks: MaskSet, tmp_path: Path) -> None:
    one = run(masks, tmp_path, methods=["itsm"], examples=1)
    (tmp_path / one.results["examples"][0]["file"]).unlink()
    with pytest.raises(ResultError, match="to draw it again"):
        one.report()


def test_a_run_in_the_home_folder_is_found(found: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(found.folder.parent))
    monkeypatch.setenv("USERPROFILE", str(found.folder.parent))
    place = f"~/{found.folder.name}"  # as `evaluate(out=)` takes it
    assert Evaluation.load(place).check(place) == [] and report(place) == found.report()


def test_a_notebook_shows_the_table(found: Evaluation) -> None:
    page = Page(found._repr_html_())
    assert len(page.cells) == 1 + len(found.results["rows"])
    best = found.results["rows"][ranked(found.results)[0]]["numbers"]["miou"]
    assert page.cells[1][1] == " ".join(
        (shown("miou", best["value"]), f"({shown('miou', best['low'])} to {shown('miou', best['high'])})")
    )


def result(numbers: dict[str, tuple[float, float, float]], flipped: float = 0.0) -> dict[str, Any]:
    """Results of methods, and of baselines, whose names are in capitals."""
    rows = []
    for name, (value, low, high) in numbers.items():
        ends = {
            "miou": {"value": value, "low": low, "high": high},
            "flipped_miou": {"value": flipped, "low": 0, "high": 1},
        }
        rows.append({"model": "m", "method": name.lower(), "control": name.isupper(), "numbers": ends})
    return {"protocol": {"task": "localize", "rules": {"headline": "miou"}}, "rows": rows}


def test_plain_words_follow_the_intervals_by_hand() -> None:
    numbers = {"a": (0.5, 0.45, 0.55), "b": (0.4, 0.29, 0.5), "c": (0.2, 0.1, 0.3)}
    controls = {"CENTRE": (0.25, 0.2, 0.3), "ONES": (0.2, 0.1, 0.44), "BOUND": (0.9, 0.8, 1.0)}
    results = result(numbers | controls, flipped=0.3)
    said = [(mark, names) for mark, names, _ in verdicts(results, labels(results), ranked(results))]
    level = ("≈", ["a", "b"])  # b reaches 0.5, a goes down to 0.45
    assert said == [("★", ["a"]), level, ("▲", ["a"]), ("≈", ["b"]), ("▼", ["c"]), ("⇅", ["c (30.0 against 20.0)"])]
    apart = result(numbers | controls | {"b": (0.4, 0.29, 0.44)})
    assert level not in [(mark, names) for mark, names, _ in verdicts(apart, labels(apart), ranked(apart))]
    tighter = result(numbers | controls | {"ONES": (0.2, 0.1, 0.46)})
    marks = [(mark, names) for mark, names, _ in verdicts(tighter, labels(tighter), ranked(tighter))]
    assert ("▲", []) in marks and ("≈", ["a", "b"]) in marks, "an interval overlaps that of a baseline"
    tasks = {"localize": "true mask", "ground": "true boxes", "gaze": "true fixations", "points": "true answers"}
    for task, wanted in tasks.items():
        results["protocol"]["task"] = task
        assert wanted in verdicts(results, labels(results), ranked(results))[0][2]


def test_lines_and_points_lie_where_their_numbers_are() -> None:
    one = Series(3, 1, "a & b", [(0.0, 0.0), (0.5, 1.0), (1.0, 0.5)])
    drawn = lines("t", [one], "x", "y")
    Page(drawn)
    # 386 wide from 42, 240 high from 12: 0 is at the bottom, 252
    assert 'points="42.0,252.0 235.0,12.0 428.0,132.0"' in drawn and "a &amp; b: highest 100.0 at 0.5" in drawn
    points = [
        Series(place, place + 1, f"m{place}", [(cost, 0.5)], 0.4, 0.6) for place, cost in enumerate((1.0, 10.0, 100.0))
    ]
    drawn = scatter("t", points, ("centre", 0.3), "y", percent=True)
    Page(drawn)
    across = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawn)]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.11), "costs are on a logarithmic axis"
    assert "m1: 50.0 at 10 forward passes" in drawn


@pytest.mark.parametrize("costs", [[103], [20], [30, 60], [5, 9], [1], [1.0, 1.4], [2000, 2500]])
def test_any_costs_have_round_ticks_between_them(costs: list[float]) -> None:
    series = [Series(place, place + 1, f"m{place}", [(float(cost), 0.5)]) for place, cost in enumerate(costs)]
    axis = re.findall(r'<text x="([\d.]+)" y="268" text-anchor="middle">([\d.]+)</text>', scatter(
        "t", series, None, "y", percent=True))  # fmt: skip
    assert 1 <= len(axis) <= 8
    assert all(42 <= float(x) <= 428 for x, _ in axis)
    ticks = [float(told) for _, told in axis]
    assert len(set(ticks)) == len(ticks) and min(ticks) < 1.2 * max(costs) and max(ticks) > min(costs) / 1.2
