"""`eclip.evaluate`: its numbers against plain loops over `explain`; a resumed run against an uninterrupted one."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

import eclip
import tiny
from eclip.backbones.head import EclipHead
from eclip.cli import app
from eclip.datasets.caption_sources import read_pairs
from eclip.datasets.masks import VOID, Masked, MaskSet, present, read_masks
from eclip.datasets.pair import PairSet
from eclip.errors import DataError, DataWarning, EqualTextsWarning, ImageError, ModelError, OptionError, ResultError
from eclip.evaluation.evaluate import evaluate
from eclip.evaluation.evaluation import Evaluation
from eclip.evaluation.protocols import PROTOCOLS, Protocol
from eclip.evaluation.query import EvaluationQuery
from eclip.evaluation.report.table import labels, ranked
from eclip.evaluation.report.text import verdicts
from eclip.evaluation.rules import Faithful, Localize, Recognize, Segment
from eclip.evaluation.sanity import shuffled
from eclip.metrics.localization import Localization

ASKED = ("itsm", "rclip", "surgery", "attention", "gradcam", "occlusion")
SIZES = [(30, 40), (40, 30), (24, 24), (33, 50), (30, 30), (26, 31), (30, 40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images: five show dog above cat with a void line between, one grass alone, one nothing."""
    folder = tmp_path_factory.mktemp("pack")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for seed, (height, width) in enumerate(SIZES):
        random = np.random.default_rng(seed)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"images/{seed}.png")
        mask = np.zeros((height, width), dtype=np.uint8)
        if seed < 5:
            top = height // (2 + seed)
            mask[:top, seed:], mask[top], mask[top + 1 :, 7:] = 1, 255, 2
        mask[:] = 3 if seed == 5 else mask
        Image.fromarray(mask).save(folder / f"masks/{seed}.png")
    (folder / "classes.txt").write_text("1\tdog\n2\tcat\n3\tgrass\n")
    return folder


@pytest.fixture(scope="module")
def masks(folder: Path) -> MaskSet:
    return read_masks(folder)


@pytest.fixture(scope="module")
def found(masks: MaskSet, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    out = tmp_path_factory.mktemp("run")
    return evaluate(masks, out=out, methods=ASKED, models=tiny.backbone("vit"), batch_size=3)


def rows(found: Evaluation) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in found.results["rows"]}


def value(found: Evaluation, method: str, number: str) -> float:
    return rows(found)[method]["numbers"][number]["value"]


def untimed(found: Evaluation) -> str:
    return json.dumps({key: one for key, one in found.results.items() if key != "timing"}, sort_keys=True)


@pytest.mark.parametrize("method", ASKED)
@pytest.mark.long(every=5)
def test_numbers_are_those_of_explain_pair_by_pair(found: Evaluation, masks: MaskSet, method: str) -> None:
    prompts = [f"a photo of a {name}" for name in ("dog", "cat", "grass")]
    wanted, precisions, areas = Localization(), [], []
    for item in masks.items:
        answer = eclip.explain(item.image, prompts, model=tiny.backbone("vit"), method=method)
        mask = item.read()
        for one in present(mask):
            heat, known = answer.heatmap(0, one - 1), mask != VOID
            wanted.add(one, heat, mask == one, known & (mask != one))
            truth = (mask == one)[known]
            precisions.append(average_precision_score(truth, heat[known]))
            areas.append(roc_auc_score(truth, heat[known]) if not truth.all() else 0.5)
    record = wanted.record()
    row = rows(found)[method]
    assert row["pairs"] == 11 and row["images"] == 6
    for number, one in (("msc", record.msc), ("miou", record.miou), ("class_msc", record.class_msc)):
        assert row["numbers"][number]["value"] == pytest.approx(one, abs=2e-4), number
    assert row["numbers"]["class_miou"]["value"] == pytest.approx(record.class_miou, abs=2e-4)
    assert row["curve"] == pytest.approx(record.curve, abs=2e-3)
    assert row["numbers"]["average_precision"]["value"] == pytest.approx(np.mean(precisions), abs=2e-4)
    assert row["numbers"]["auroc"]["value"] == pytest.approx(np.mean(areas), abs=2e-4)
    assert row["classes"]["2"] == {
        "name": "cat",
        "pairs": 5,
        "msc": pytest.approx(record.classes[2].msc, abs=2e-4),
        "iou": pytest.approx(record.classes[2].iou, abs=2e-3),
    }


def test_baselines_stand_in_the_same_table(found: Evaluation, masks: MaskSet) -> None:
    assert [name for name, row in rows(found).items() if row["control"]] == ["ones", "centre", "random", "bound"]
    shares = [
        np.mean((mask == one)[mask != VOID]) for mask in (item.read() for item in masks.items) for one in present(mask)
    ]
    assert value(found, "ones", "miou") == pytest.approx(np.mean(shares), abs=1e-6)
    assert value(found, "ones", "msc") == 0 and value(found, "ones", "average_precision") == pytest.approx(
        np.mean(shares), abs=1e-6
    )
    best = max(value(found, name, "miou") for name in rows(found) if name != "bound")
    assert value(found, "bound", "miou") > best + 0.1


def test_rclip_is_itsm_upside_down_exactly(found: Evaluation) -> None:
    with (found.folder / "pairs.csv").open() as file:
        pairs = list(csv.DictReader(file))
    both = {
        name: {(p["image"], p["class"]): float(p["msc"]) for p in pairs if p["method"] == name}
        for name in ("itsm", "rclip")
    }
    assert both["itsm"].keys() == both["rclip"].keys() and len(both["itsm"]) == 11
    for pair, msc in both["itsm"].items():
        assert both["rclip"][pair] == pytest.approx(-msc, abs=2e-6)
    assert value(found, "rclip", "msc") == pytest.approx(-value(found, "itsm", "msc"), abs=1e-6)
    assert value(found, "rclip", "miou") == pytest.approx(value(found, "itsm", "flipped_miou"), abs=1e-3)


@pytest.mark.long
def test_held_out_thresholds_come_from_the_other_half(found: Evaluation, masks: MaskSet) -> None:
    prompts = [f"a photo of a {name}" for name in ("dog", "cat", "grass")]
    halves: tuple[Localization, Localization] = (Localization(), Localization())
    for place, item in enumerate(masks.items):
        heat = eclip.explain(item.image, prompts, model=tiny.backbone("vit"), method="surgery")
        mask = item.read()
        for one in present(mask):
            halves[place % 2].add(one, heat.heatmap(0, one - 1), mask == one, (mask != one) & (mask != VOID))
    even, odd = (np.array(half.hits) / np.array(half.unions) for half in halves)
    wanted = even[:, odd.mean(0).argmax()].sum() + odd[:, even.mean(0).argmax()].sum()
    assert value(found, "surgery", "miou_held_out") == pytest.approx(wanted / 11, abs=2e-3)
    assert value(found, "surgery", "miou_held_out") <= value(found, "surgery", "miou")


def test_a_run_that_was_stopped_ends_with_the_same_numbers(found: Evaluation, masks: MaskSet, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(_: str, done: int, __: int) -> None:
        if done == 3:
            raise Stop

    settings: dict[str, Any] = {"methods": ASKED, "models": tiny.backbone("vit"), "batch_size": 3}
    with pytest.raises(Stop):
        evaluate(masks, out=tmp_path, on_progress=stop, **settings)
    assert not (tmp_path / "results.json").exists()
    [first] = sorted((tmp_path / "parts").rglob("*.npz"))
    before, heard = first.read_bytes(), []
    again = evaluate(masks, out=tmp_path, on_progress=lambda *told: heard.append(told), **settings)
    assert [one for one in heard if one[0] == "vit"] == [("vit", 3, 7), ("vit", 6, 7), ("vit", 7, 7)]
    assert first.read_bytes() == before and untimed(again) == untimed(found)
    for name in ("results.csv", "pairs.csv"):
        assert (tmp_path / name).read_bytes() == (found.folder / name).read_bytes()
    assert untimed(Evaluation.load(tmp_path)) == untimed(found)


def test_parts_of_a_run_are_the_whole(
    found: Evaluation, masks: MaskSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    same: dict[str, Any] = {"out": tmp_path, "methods": ASKED, "models": tiny.backbone("vit"), "batch_size": 3}
    same["on_progress"] = lambda _, done, total: seen.append((done, total))
    first = evaluate(masks, shard="1/2", **same)
    assert (first.missing, first.results["rows"], seen) == (2, [], [(0, 3), (3, 3)])
    assert "2 batches missing" in repr(first) and first._repr_html_() is None
    assert not (tmp_path / "results.json").exists()
    with pytest.raises(OptionError, match="overwrite would delete"):
        evaluate(masks, shard="0/2", overwrite=True, **same)
    with pytest.raises(OptionError, match="shard must be I/N"):
        evaluate(masks, shard="2/2", **same)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun does
    with pytest.raises(OptionError, match="leave --shard out"):
        evaluate(masks, shard="0/2", **same)
    seen.clear()
    whole = evaluate(masks, **same)
    assert whole.missing == 0 and untimed(whole) == untimed(found) and seen[:3] == [(0, 4), (3, 4), (4, 4)]
    assert Evaluation.load(tmp_path).results == json.loads(json.dumps(whole.results))
    alone = evaluate(masks, shard="0/1", **{**same, "out": tmp_path / "alone"})
    assert alone.missing == 0 and untimed(alone) == untimed(found), "all of it, in one of several processes"


def test_an_unreadable_image_is_no_missing_batch(folder: Path, tmp_path: Path) -> None:
    masks = broken(folder, tmp_path / "data", 60, [4])
    same: dict[str, Any] = {"out": tmp_path / "out", "methods": "itsm", "models": tiny.backbone("vit")}
    assert evaluate(masks, shard="0/3", **same).missing == 2  # of four
    assert evaluate(masks, shard="1/3", **same).missing == 1
    assert len(evaluate(masks, shard="2/3", **same).results["failures"]) == 1


def test_unreadable_images_of_all_parts_count_together(folder: Path, tmp_path: Path) -> None:
    masks = broken(folder, tmp_path / "data", 60, [4, 5, 20, 21])
    same: dict[str, Any] = {"out": tmp_path / "out", "methods": "itsm", "models": tiny.backbone("vit")}
    assert evaluate(masks, shard="0/2", **same).missing == 2
    with pytest.raises(DataError, match="4 of 60 images"):
        evaluate(masks, shard="1/2", **same)
    assert not (tmp_path / "out/results.json").exists()


def test_batches_change_rounding_alone(found: Evaluation, masks: MaskSet, tmp_path: Path) -> None:
    other = evaluate(masks, out=tmp_path, methods=ASKED, models=tiny.backbone("vit"), batch_size=7)
    for method in ASKED:
        for number in ("msc", "auroc", "average_precision", "energy"):
            assert value(other, method, number) == pytest.approx(value(found, method, number), abs=1e-4)
        assert value(other, method, "miou") == pytest.approx(value(found, method, "miou"), abs=5e-3)


def test_another_question_in_the_same_folder_is_refused(masks: MaskSet, tmp_path: Path) -> None:
    first = evaluate(masks, out=tmp_path, methods="itsm", models=tiny.backbone("vit"), limit=2)
    with pytest.raises(ResultError, match=r"methods.itsm was {}, now absent; methods.maskclip was .*--overwrite"):
        evaluate(masks, out=tmp_path, methods="maskclip", models=tiny.backbone("vit"), limit=2)
    other = evaluate(masks, out=tmp_path, methods="maskclip", models=tiny.backbone("vit"), limit=2, overwrite=True)
    assert "itsm" in rows(first) and "itsm" not in rows(other)


def test_methods_that_are_not_applicable_are_listed_and_the_rest_is_measured(masks: MaskSet, tmp_path: Path) -> None:
    found = evaluate(masks, out=tmp_path, methods=["rollout", "itsm"], models=tiny.backbone("resnet"), limit=2)
    assert [gap["method"] for gap in found.results["not_applicable"]] == ["rollout"]
    assert set(rows(found)) == {"itsm", "ones", "centre", "random", "bound"}


def broken(folder: Path, to: Path, count: int, bad: list[int]) -> MaskSet:
    """So many copies of the first image, some of which are no image."""
    for part in ("images", "masks"):
        (to / part).mkdir(parents=True)
    for place in range(count):
        image = b"no image" if place in bad else (folder / "images/0.png").read_bytes()
        (to / f"images/{place:02d}.png").write_bytes(image)
        (to / f"masks/{place:02d}.png").write_bytes((folder / "masks/0.png").read_bytes())
    (to / "classes.txt").write_text((folder / "classes.txt").read_text())
    return read_masks(to)


@pytest.mark.parametrize("protocol", ["explain-v1", "segment-v1", "absent-v1"])
def test_every_number_that_masks_show_needs_a_name(masks: MaskSet, tmp_path: Path, protocol: str) -> None:
    fewer = replace(masks, classes={1: "dog", 3: "grass"})
    with pytest.raises(DataError, match=r"0\.png shows \[2\], but the named classes are 1, 3"):
        evaluate(fewer, out=tmp_path, methods="itsm", models=tiny.backbone("vit"), protocol=protocol)


def test_broken_images_are_named_and_many_of_them_stop_the_run(folder: Path, tmp_path: Path) -> None:
    few = broken(folder, tmp_path / "few", 21, [4])
    found = evaluate(few, out=tmp_path / "a", methods="itsm", models=tiny.backbone("vit"))
    [failure] = found.results["failures"]
    assert failure["source"] == "04" and "04.png" in failure["error"]
    assert rows(found)["itsm"]["pairs"] == 40
    many = broken(folder, tmp_path / "many", 10, [4])
    with pytest.raises(DataError, match=r"1 of 10 images of many are unusable so far \(limit 5%\).*04"):
        evaluate(many, out=tmp_path / "b", methods="itsm", models=tiny.backbone("vit"))


@pytest.mark.long
def test_an_image_that_was_mended_is_measured_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    many = broken(folder, tmp_path / "many", 21, [4])
    asked: dict[str, Any] = {"methods": "itsm", "models": tiny.backbone("vit"), "batch_size": 4, "examples": 1}
    assert evaluate(many, out=tmp_path / "run", **asked).results["failures"]
    file = tmp_path / "many/images/04.png"
    file.write_bytes((folder / "images/0.png").read_bytes())  # its size in bytes is another now
    heard: list[int] = []
    on_progress = lambda what, done, _: None if "examples" in what else heard.append(done)  # noqa: E731
    again = evaluate(many, out=tmp_path / "run", on_progress=on_progress, **asked)
    assert heard == [17, 21] and again.results["failures"] == []
    assert untimed(again) == untimed(evaluate(many, out=tmp_path / "fresh", **asked))


def test_images_that_the_data_set_leaves_out_are_failures(tmp_path: Path) -> None:
    pairs, backbone = captioned(tmp_path / "pairs"), tiny.backbone("vit")
    asked: dict[str, Any] = {"models": backbone, "protocol": "recognize-v1", "limit": 3}
    few = PairSet("own", pairs.items * 20, None, [("lost.png", "it is cut off.")])
    found = evaluate(few, out=tmp_path / "few", **asked)
    assert found.results["failures"] == [{"source": "lost.png", "error": "it is cut off."}]
    captions = PairSet("own", pairs.items, None, [(pairs.items[0].key, "an empty caption.")] * 3)
    assert len(evaluate(captions, out=tmp_path / "captions", **asked).results["failures"]) == 1, "the image is there"
    many = PairSet("own", pairs.items, None, few.bad)
    with pytest.raises(DataError, match=r"1 of 4 images of own are unusable .* lost\.png: it is cut off"):
        evaluate(many, out=tmp_path / "many", **asked)


def test_several_masks_of_one_image_say_nothing_of_other_images(masks: MaskSet, tmp_path: Path) -> None:
    def other(place: int) -> Masked:
        return replace(masks.items[place], name=f"{place} again")

    asked: dict[str, Any] = {"methods": "itsm", "models": tiny.backbone("vit")}
    one = evaluate(MaskSet("one", masks.classes, (masks.items[0], other(0))), out=tmp_path / "one", **asked)
    row = rows(one)["itsm"]
    assert (one.results["data"]["images"], row["images"], row["pairs"]) == (1, 1, 4)
    assert row["numbers"]["miou"]["low"] is None and row["numbers"]["miou_held_out"]["value"] is None
    pair = MaskSet("two", masks.classes, (masks.items[0], masks.items[1]))
    twice = MaskSet("two", masks.classes, (masks.items[0], other(0), masks.items[1], other(1)))
    wanted = rows(evaluate(pair, out=tmp_path / "pair", **asked))["itsm"]["numbers"]
    numbers = rows(evaluate(twice, out=tmp_path / "twice", **asked))["itsm"]["numbers"]
    for key in ("miou", "miou_held_out", "msc", "class_miou"):
        assert numbers[key] == pytest.approx(wanted[key], abs=2e-6), "the interval is that of two images"


def test_fewer_images_than_published_are_told(folder: Path, tmp_path: Path) -> None:
    told = r"camvid has 84 images as published, but 7 were found: .* `eclip datasets verify camvid`"
    with pytest.warns(DataWarning, match=told):
        evaluate("camvid", root=folder, out=tmp_path, methods="itsm", models=tiny.backbone("vit"), limit=1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "expected an object with a list of rows"),
        ('{"protocol": "explain-v1", "rows": []}', "expected protocol and data to be objects"),
        ('{"rows": [{"model": "vit", "method": "itsm"}]}', "expected a model, a method and numbers in each row"),
        ('{"rows": [{"model": "vit", "method": "itsm", "numbers": {"miou": 0.3}}]}', "numbers such as"),
        ('{"rows": [1]}', "expected a model, a method and numbers in each row"),
        ('{"rows": [{"model": "vit", "method": "itsm", "numbers": {"miou": {"value": "a"}}}]}', "numbers such as"),
    ],
)
def test_files_of_another_form_are_refused(found: Evaluation, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "results.json").write_text(text)
    for ask in (found.check, Evaluation.load):
        with pytest.raises(ResultError, match=told):
            ask(tmp_path)


def test_results_of_another_schema_are_refused(found: Evaluation, tmp_path: Path) -> None:
    assert found.check(found.folder) == [], "a folder stands for its results"
    (tmp_path / "results.json").write_text('{"schema": "eclip.eval/9", "protocol": {}, "data": {}, "rows": []}')
    with pytest.raises(ResultError, match=r"schema 'eclip\.eval/9' instead of 'eclip\.eval/1'"):
        Evaluation.load(tmp_path)


def test_check_holds_for_itself_and_names_what_moved(found: Evaluation, tmp_path: Path) -> None:
    assert found.check(found.folder / "results.json") == []
    stored = json.loads((found.folder / "results.json").read_text())
    numbers = stored["rows"][2]["numbers"]
    numbers["msc"]["value"] += 0.003
    numbers["miou"]["value"] += 0.003
    numbers["miou"]["tolerance"] = 0.01
    stored["rows"].append({"model": "vit", "method": "gem", "numbers": {}})
    stored["protocol"]["rules"]["least"] = 0.5
    file = tmp_path / "stored.json"
    file.write_text(json.dumps(stored))
    protocol, moved, absent = found.check(file)
    assert protocol.startswith("protocol rules:") and absent == "not measured: gem on vit"
    assert moved.startswith("surgery on vit: msc is ") and moved.endswith("± 0.002")
    assert found.check(file, tolerance=0.0031) == [protocol, absent]
    for wrong in ({"value": math.nan}, {"value": 0.3, "tolerance": math.nan}, {"value": 0.3, "tolerance": "x"}):
        file.write_text(json.dumps({"rows": [{"model": "vit", "method": "gem", "numbers": {"miou": wrong}}]}))
        with pytest.raises(ResultError, match="does not contain results"):
            found.check(file)
    with pytest.raises(OptionError, match="tolerance must be a number, 0 or more, got nan"):
        found.check(found.folder / "results.json", tolerance=math.nan)
    file.write_text('{"rows": []}')
    assert "no number to compare" in found.check(file)[0]


def test_what_cannot_be_asked_is_refused(masks: MaskSet, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"'recognize-v1' needs .* has masks: use the protocol explain-v1 or surgery"):
        evaluate(masks, out=tmp_path, protocol="recognize-v1", models=tiny.backbone("vit"))
    with pytest.raises(OptionError, match="options has legrad, but the selected methods are"):
        evaluate(masks, out=tmp_path, methods="itsm", options={"legrad": {"depth": 2}})
    with pytest.raises(OptionError, match="at least 1, got 16, 0 and None"):
        evaluate(masks, out=tmp_path, every=0)
    for wrong, said in (
        ({"models": tiny.model("vit")}, "must be a name or a Backbone, got CLIP: convert it with eclip.wrap"),
        ({"data": tmp_path}, r'PairSet or PhraseSet, got PosixPath: .* pass "folder" and root=FOLDER'),
        ({"data": [], "protocol": "recognize-v1"}, "PairSet or PhraseSet, got list"),
    ):
        with pytest.raises(OptionError, match=said):
            evaluate(**{"data": masks, "out": tmp_path / "out", **wrong})
    assert not list(tmp_path.iterdir())


def test_a_home_folder_and_numpy_rules_are_taken(
    masks: MaskSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    rules = Localize(0.01, np.array([0.25, 0.5]), "miou")  # type: ignore[arg-type]
    protocol = replace(PROTOCOLS["explain-v1"], name="mine", rules=rules)
    found = evaluate(
        masks, out="~/run", methods="itsm", models=tiny.backbone("vit"), protocol=protocol, limit=1, examples=0
    )
    assert found.folder == tmp_path / "run" and (tmp_path / "run/results.json").is_file()
    assert json.dumps(Recognize(range(1, 4), 5).at) == "[1, 2, 3]"  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"tolerance must be a number, 0 or more, got '0.1'"):
        found.check(tmp_path / "run", tolerance="0.1")  # type: ignore[arg-type]


def test_sanity_tells_maps_that_do_not_listen(masks: MaskSet, tmp_path: Path) -> None:
    backbone = tiny.backbone("vit")
    before = {key: one.clone() for key, one in backbone.model.state_dict().items()}
    methods = ["attention", "itsm", "gradcam"]
    found = evaluate(masks, out=tmp_path, methods=methods, models=backbone, protocol="sanity-v1")
    assert value(found, "attention", "nonsense") == value(found, "attention", "other_class") == 1
    for method in ("itsm", "gradcam"):
        assert value(found, method, "nonsense") < 0.99 and value(found, method, "other_class") < 0.99
    for method in methods:
        assert abs(value(found, method, "random_weights")) < 0.6 < value(found, "attention", "nonsense")
    assert all((one == before[key]).all() for key, one in backbone.model.state_dict().items())


def test_flat_maps_are_counted_and_told(masks: MaskSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, first = EvaluationQuery.maps, []

    def maps(self: EvaluationQuery, *asked: Any, **named: Any) -> Any:
        found = given(self, *asked, **named)
        if not first:
            first.append(found[0].clone())
            found[0][:] = 0.25
        return found

    monkeypatch.setattr(EvaluationQuery, "maps", maps)
    found = evaluate(masks, out=tmp_path, methods="itsm", models=tiny.backbone("vit"))
    assert rows(found)["itsm"]["flat"] == len(first[0]) > 0 and rows(found)["ones"]["flat"] == 0
    said = {text: names for _, names, text in verdicts(found.results, labels(found.results), ranked(found.results))}
    [names] = [names for text, names in said.items() if "flat maps" in text]
    assert names == [f"itsm ({len(first[0])} of {rows(found)['itsm']['pairs']} pairs)"]


def test_maps_of_rounding_alone_are_flat_as_in_explain(masks: MaskSet, tmp_path: Path) -> None:
    named = replace(masks, classes={1: "dog", 2: "Dog", 3: "DOG"})
    asked: dict[str, Any] = {"methods": "surgery", "models": tiny.backbone("vit")}
    with pytest.warns(EqualTextsWarning):
        found = evaluate(named, out=tmp_path / "explain", **asked)
        checked = evaluate(named, out=tmp_path / "sanity", protocol="sanity-v1", **asked)
    assert rows(found)["surgery"]["flat"] == 11 == rows(checked)["surgery"]["flat"]
    assert value(found, "surgery", "auroc") == pytest.approx(0.5)


def test_shuffling_takes_all_that_is_learned_from_image_tower_and_head() -> None:
    for kind in ("vit", "resnet"):
        backbone = tiny.backbone(kind)
        backbone = eclip.with_head(backbone, EclipHead.start(backbone, text=True, hidden=8))
        before = {name: one.clone() for name, one in backbone.model.state_dict().items()}
        strange = shuffled(backbone)
        for one, other in ((backbone.model, strange.model), (backbone.head, strange.head)):
            assert one is not None and other is not None
            for (name, own), (_, made) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
                assert (own.flatten().sort().values == made.flatten().sort().values).all(), "the same numbers"
                learned = one is backbone.head or (name.startswith("visual.") and "num_batches" not in name)
                if own.numel() > 7 and own.unique().numel() > 1:
                    assert bool((own != made).any()) == learned, name
        assert all((one == before[name]).all() for name, one in backbone.model.state_dict().items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch.ao
def test_integers_cannot_be_shuffled(masks: MaskSet, tmp_path: Path) -> None:
    backbone = tiny.backbone("vit")
    torch.ao.quantization.quantize_dynamic(backbone.model.visual, {torch.nn.Linear}, inplace=True)
    with pytest.raises(ModelError, match="image tower is quantized"):
        evaluate(masks, out=tmp_path / "out", methods="itsm", models=backbone, protocol="sanity-v1")
    assert not (tmp_path / "out").exists()


class _Recorder:
    """A hook that cannot be copied: it holds a lock and an activation, which it also leaves on the module."""

    def __init__(self) -> None:
        self.lock, self.seen = threading.Lock(), None

    def __call__(self, module: Any, _: Any, output: torch.Tensor) -> None:
        module.seen = self.seen = output


def test_shuffling_takes_models_with_hooks_that_cannot_be_copied() -> None:
    backbone = tiny.backbone("vit")
    backbone.model.visual.transformer.resblocks[2].register_forward_hook(hook := _Recorder())
    backbone.model.encode_image(tiny.pixels(backbone))
    before = hook.seen
    strange = shuffled(backbone)
    assert strange.model.visual.transformer.resblocks[2].seen.equal(before) and hook.seen is not None
    wanted = shuffled(tiny.backbone("vit")).model.visual.state_dict()
    assert all(one.equal(wanted[name]) for name, one in strange.model.visual.state_dict().items())


def test_faithful_curves_run_between_image_and_fill(masks: MaskSet, tmp_path: Path) -> None:
    backbone = tiny.backbone("vit")
    rules = Protocol("p", "s", None, "squash", "a photo of a {}", Faithful(0.01, ("zero", "noise"), 4, 1.0))
    found = evaluate(masks, out=tmp_path, methods=["occlusion"], models=backbone, protocol=rules, limit=2)
    assert list(rows(found)) == ["occlusion", "centre", "random", "bound"], "single pixels in random order say little"
    row = rows(found)["occlusion"]
    assert row["shares"] == [0, 0.25, 0.5, 0.75, 1]
    text = eclip.encode_texts(backbone, ["dog", "cat", "grass"], "a photo of a {}")
    images = [item.open() for item in masks.items[:2]]
    scores = eclip.explain(images, ["dog", "cat"], model=backbone, templates="a photo of a {}").scores
    curves = row["curves"]
    assert curves["deletion_zero_score"][0] == pytest.approx(scores.mean(), abs=1e-5)
    assert curves["insertion_zero_score"][-1] == pytest.approx(scores.mean(), abs=1e-5)
    black = torch.stack([backbone.preprocess(Image.new("RGB", (8, 8)))])
    alone = eclip.encode(backbone, black, keep=0).feature
    empty = torch.nn.functional.cosine_similarity(alone, text[:2]).mean().item()
    assert curves["deletion_zero_score"][-1] == curves["insertion_zero_score"][0] == pytest.approx(empty, abs=1e-5)
    shape = np.array(curves["deletion_zero_score"])
    assert value(found, "occlusion", "deletion_zero_score") == pytest.approx(
        ((shape[1:] + shape[:-1]) / 8).sum(), abs=1e-5
    )
    assert set(curves) == {
        f"{way}_{fill}_{score}"
        for way in ("deletion", "insertion")
        for fill in ("zero", "noise")
        for score in ("score", "accuracy")
    }


@pytest.mark.parametrize("background", [(), ("sky", "wall")])
def test_label_maps_are_those_of_segment(masks: MaskSet, tmp_path: Path, background: tuple[str, ...]) -> None:
    backbone = tiny.backbone("vit")
    rules = Segment(background, scale=40.0, prob_threshold=None, window=16, stride=8)
    protocol = Protocol("p", "s", 24, "keep", "a {}", rules)
    methods = ["maskclip", "gradcam"]
    found = evaluate(masks, out=tmp_path, methods=methods, models=backbone, protocol=protocol, batch_size=2)
    assert [gap["method"] for gap in found.results["not_applicable"]] == ["gradcam"]
    total = np.zeros((4, 4), int)
    for item in masks.items:
        asked: dict[str, Any] = {"method": "maskclip", "background": background, "templates": "a {}", "image_size": 24}
        answer = eclip.segment(item.open(), ["dog", "cat", "grass"], model=backbone, window=16, stride=8, **asked)
        truth = item.read()
        known = (truth != VOID) & ((truth > 0) | bool(background))
        np.add.at(total, (truth[known], answer.labels[0][known]), 1)
    hits = total.diagonal()
    shown = total.sum(1) > 0
    ious = hits[shown] / (total.sum(0) + total.sum(1) - hits)[shown]
    assert value(found, "maskclip", "segmentation_miou") == pytest.approx(ious.mean(), abs=1e-5)
    assert value(found, "maskclip", "pixel_accuracy") == pytest.approx(hits.sum() / total.sum(), abs=1e-6)
    assert set(rows(found)) == {"maskclip", "random", "bound"}
    assert value(found, "bound", "pixel_accuracy") > 0.75 > value(found, "random", "pixel_accuracy")


@pytest.mark.parametrize("protocol", ["segment-v1", "explain-v1"])
def test_classes_that_the_model_cannot_tell_apart_are_told(masks: MaskSet, tmp_path: Path, protocol: str) -> None:
    named = replace(masks, classes={1: "Dog", 2: "dog", 3: "grass"})
    asked: dict[str, Any] = {"methods": "maskclip", "models": tiny.backbone("vit"), "limit": 3, "examples": 0}
    with pytest.warns(EqualTextsWarning, match="cannot tell these texts apart: 'Dog' and 'dog'"):
        evaluate(named, out=tmp_path, protocol=protocol, **asked)


def captioned(folder: Path) -> PairSet:
    folder.mkdir()
    for seed, words in enumerate(("a dog\na cat", "grass", "the sea\na boat\nsand")):
        values = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{seed}.png")
        (folder / f"{seed}.txt").write_text(words)
    pairs, bad = read_pairs([str(folder)])
    return PairSet("own", pairs, None, bad)


def test_recall_of_captions_is_that_of_the_features(tmp_path: Path) -> None:
    backbone, pairs = tiny.backbone("vit"), captioned(tmp_path / "pairs")
    found = evaluate(pairs, out=tmp_path / "run", models=backbone, protocol="recognize-v1", batch_size=2)
    texts = [caption for pair in pairs.items for caption in pair.captions]
    scores = eclip.explain([p.open() for p in pairs.items], texts, model=backbone).scores
    owner = np.array([0, 0, 1, 2, 2, 2])
    first_image = scores.argmax(axis=0) == owner
    first_text = owner[scores.argmax(axis=1)] == np.arange(3)
    row = rows(found)["model"]
    assert row["numbers"]["image_recall_at_1"]["value"] == pytest.approx(first_image.mean(), abs=1e-6)
    assert row["numbers"]["text_recall_at_1"]["value"] == pytest.approx(first_text.mean(), abs=1e-6)
    places = np.array([1 + (row_ >= row_[owner == image].max()).sum() - 1 for image, row_ in enumerate(scores)])
    assert row["numbers"]["text_recall_at_5"]["value"] == pytest.approx((places <= 5).mean())
    assert "image_recall_at_5" not in row["numbers"], "three images have no fifth rank"


def test_items_that_share_an_image_are_one_candidate(tmp_path: Path) -> None:
    backbone, pairs = tiny.backbone("vit"), captioned(tmp_path / "pairs")
    apart = [replace(item, captions=(caption,)) for item in pairs.items for caption in item.captions]
    wanted, found = (
        evaluate(PairSet("own", items, None, []), out=tmp_path / name, models=backbone, protocol="recognize-v1")
        for name, items in (("whole", pairs.items), ("apart", apart))
    )
    one, other = rows(wanted)["model"], rows(found)["model"]
    assert found.results["data"]["groups"] == 3, "nor are they independent"
    assert one["images"] == other["images"] == 3 and one["pairs"] == other["pairs"] == 6
    for key, number in one["numbers"].items():
        assert other["numbers"][key]["value"] == pytest.approx(number["value"], abs=1e-6), key


def test_a_name_that_is_no_class_is_said(tmp_path: Path) -> None:
    pairs = captioned(tmp_path / "pairs")
    with pytest.raises(DataError, match=r"has the class 'grass', which is not among the 2 classes"):
        named = PairSet("own", pairs.items, ("a dog", "the sea"), [])
        evaluate(named, out=tmp_path / "run", models=tiny.backbone("vit"), protocol="recognize-v1")


@pytest.mark.parametrize("protocol", ["absent-v1", "sanity-v1", "ovseg-argmax-background"])
def test_masks_of_single_texts_do_not_say_what_is_absent(protocol: str, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "green").save(tmp_path / "a.png")
    for name, box in (("dog", (0, 0, 20, 20)), ("cat", (20, 10, 40, 30))):
        mask = Image.new("L", (40, 30))
        mask.paste(255, box)
        mask.save(tmp_path / f"{name}.png")
    rows_ = ["image,text,mask", "a.png,dog,dog.png", "a.png,cat,cat.png"]
    (tmp_path / "table.csv").write_text("\n".join(rows_), encoding="utf-8")
    with pytest.raises(OptionError, match="needs to know what an image does not show"):
        evaluate("table", root=tmp_path, out=tmp_path / "run", models=tiny.backbone("vit"), protocol=protocol)


@pytest.mark.parametrize("more", [(), ("grass", "a dog")], ids=["once", "twice"])
def test_accuracy_of_names_is_that_of_the_scores(tmp_path: Path, more: tuple[str, ...]) -> None:
    backbone, pairs = tiny.backbone("vit"), captioned(tmp_path / "pairs")
    names = ("a dog", "grass", "the sea", "a tree")
    items = [replace(pair, captions=(name,)) for pair, name in zip(pairs.items, names, strict=False)]
    named = PairSet("own", items, names + more, [])
    found = evaluate(named, out=tmp_path / "run", models=backbone, protocol="recognize-v1")
    scores = eclip.explain([p.open() for p in pairs.items], list(names), model=backbone).scores
    wanted = (scores.argmax(axis=1) == np.arange(3)).mean()
    assert value(found, "model", "accuracy_at_1") == pytest.approx(wanted, abs=1e-6)


def test_every_protocol_says_what_it_does() -> None:
    for name, protocol in PROTOCOLS.items():
        plain = json.loads(json.dumps(protocol.plain()))
        assert plain["name"] == name and plain["task"] == protocol.task and plain["rules"]
    assert isinstance(PROTOCOLS["explain-v1"].rules, Localize)
    with pytest.raises(eclip.EclipError, match="Did you mean 'explain-v1'"):
        evaluate("voc2012", out="x", protocol="explain-v2")


def eval_command(folder: Path, model: str, out: Path) -> list[str]:
    asked = ["--root", str(folder), "--models", model, "--methods", "itsm,surgery", "--batch-size", "1", "-o", str(out)]
    return ["eval", "folder", *asked]


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_results(folder: Path, tiny_name: str, tmp_path: Path) -> None:
    many = tmp_path / "many"
    broken(folder, many, 24, [])
    command = [sys.executable, "-m", "eclip", *eval_command(many, tiny_name, tmp_path / "a")]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "a").rglob("*.npz"))) < 3 and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "a/results.json").exists(), "it was killed before its end"
    done = len(list((tmp_path / "a").rglob("*.npz")))
    assert 3 <= done < 24
    for out in ("a", "b"):
        ended = CliRunner().invoke(app, eval_command(many, tiny_name, tmp_path / out))
        assert ended.exit_code == 0, ended.output
    assert untimed(Evaluation.load(tmp_path / "a")) == untimed(Evaluation.load(tmp_path / "b"))


def test_command_line_checks_shows_and_refuses(
    folder: Path, tiny_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["eval", *words])

    asked = ["folder", "--root", str(folder), "--models", tiny_name, "--methods", "itsm", "-o", str(tmp_path / "run")]
    shown = run(*asked)
    assert shown.exit_code == 0 and "(centre)" in shown.stdout and "mIoU" in shown.stdout
    narrow = CliRunner().invoke(app, ["eval", *asked], env={"FORCE_COLOR": "1", "COLUMNS": "80"})
    lines = re.sub(r"\x1b\[[0-9;]*m", "", narrow.stdout).splitlines()
    assert max(map(len, lines)) <= 80 < max(map(len, shown.stdout.splitlines())), "what does not fit is left out whole"
    assert "mIoU" in lines[0] and "class mSC" not in lines[0] and "class mSC; see results.csv" in narrow.stderr
    as_json = run(*asked, "--json")
    assert json.loads(as_json.stdout)["schema"] == "eclip.eval/1"
    stored = tmp_path / "stored.json"
    stored.write_text(as_json.stdout)
    held = run(*asked, "--check", str(stored))
    assert held.exit_code == 0 and "all numbers" in held.stderr
    parts = ["folder", "--root", str(folder), "--models", tiny_name, "--methods", "itsm", "-o", str(tmp_path / "parts")]
    parts += ["--batch-size", "3", "--shard"]
    assert "1 batch is left to the other parts" in run(*parts, "0/2", "--check", str(stored)).stderr
    assert json.loads(run(*parts, "0/2", "--json").stdout)["missing_batches"] == 1
    assert "(centre)" in run(*parts, "1/2").stdout
    run(*asked, "--verbose", "--overwrite", "--limit", "2", "--batch-size", "2")
    assert re.search(r"2 images: forward \d\.\d+ s, itsm \d\.\d+ s", caplog.text)
    assert run(*asked, "--overwrite").exit_code == 0
    quiet = run(*asked, "--check", str(stored), "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")
    assert json.loads(run(*asked, "-q", "--json").stdout) == json.loads(run(*asked, "--json").stdout)
    stored.write_text(as_json.stdout.replace('"least": 0.01', '"least": 0.02'))
    missed = run(*asked, "--check", str(stored))
    assert missed.exit_code == 1 and "stored.json has a different protocol or data (protocol rules" in missed.stderr
    for words, code, told in (
        (["vok2012"], 2, "unknown data set 'vok2012'"),
        (["folder", "--protocol", "explain"], 2, "unknown protocol 'explain'"),
        (["folder", "--methods", "gemm"], 2, "Did you mean 'gem'"),
        (["folder", "--root", str(tmp_path / "none")], 1, "no such folder"),
        (["folder", "--set", "depth=3"], 2, "METHOD.KEY=VALUE"),
        (["folder", "--root", str(folder), "--check", str(tmp_path / "lost.json")], 1, "lost.json cannot be read"),
    ):
        refused = run(*words, "-o", str(tmp_path / "other"))
        assert refused.exit_code == code and told in refused.stderr, refused.stderr
        assert not (tmp_path / "other").exists()


@pytest.mark.long
def test_command_line_tells_each_mismatch_and_each_broken_image(
    folder: Path, tiny_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["eval", "folder", "--models", tiny_name, "--examples", "0", *words])

    broken(folder, tmp_path / "few", 21, [4])
    own = ["--root", str(tmp_path / "few"), "-o", str(tmp_path / "run"), "--methods", "rollout,gradeclip,itsm"]
    shown = run(*own)
    assert shown.exit_code == 1 and f"failed: {tmp_path / 'few/images/04.png'} is not a readable image" in shown.stderr
    with monkeypatch.context() as patch:  # torchrun would stop the processes that try again to read it
        patch.setenv("RANK", "1")
        patch.setenv("WORLD_SIZE", "2")
        again = run(*own)
    assert again.exit_code == 0 and "04.png is not a readable image" in again.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())
    stored = tmp_path / "stored.json"
    [itsm] = [row for row in results["rows"] if row["method"] == "itsm"]
    value = itsm["numbers"]["msc"]["value"]
    itsm["numbers"]["msc"]["value"] = value + 0.003
    results["rows"].append({**itsm, "method": "gem"})
    stored.write_text(json.dumps(results))
    missed = run(*own, "--check", str(stored))
    assert missed.exit_code == 1
    assert f"check: itsm on {tiny_name}: msc is {value:.4f}, expected {value + 0.003:.4f} ± 0.002" in missed.stderr
    assert f"check: not measured: gem on {tiny_name}" in missed.stderr
    quiet = run(*own, "--check", str(stored), "--quiet")
    assert quiet.exit_code == 1 and quiet.stdout == "" and quiet.stderr.count("check: ") == 2
    assert "04.png is not a readable image" in quiet.stderr, "errors are printed"
    assert "all numbers match" not in missed.stderr
    assert run("--root", str(folder), "--methods", ",").exit_code == 2


def test_models_whose_names_look_alike_are_measured_apart(masks: MaskSet, tmp_path: Path) -> None:
    def named(name: str, seed: int) -> eclip.Backbone:
        model = tiny.model("vit", seed)
        return eclip.wrap(model, tokenizer=tiny.backbone("vit").tokenize, mean=tiny.MEAN, std=tiny.STD, name=name)

    one, other = named("hf:m", 0), named("hf-m", 1)
    both = evaluate(masks, out=tmp_path / "both", methods="maskclip", models=[one, other], limit=3)
    alone = evaluate(masks, out=tmp_path / "alone", methods="maskclip", models=other, limit=3)
    found = {row["model"]: row["numbers"]["msc"] for row in both.results["rows"] if row["method"] == "maskclip"}
    assert found["hf-m"] == rows(alone)["maskclip"]["numbers"]["msc"] != found["hf:m"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_head_that_a_model_has_is_in_the_command(folder: Path, tiny_name: str, tmp_path: Path, count: int) -> None:
    EclipHead.start(eclip.load(tiny_name), init="random").save(tmp_path / "head")
    models = [eclip.load(tiny_name, head=tmp_path / "head"), tiny.backbone("vit")][:count]
    asked: dict[str, Any] = {"methods": "eclip", "limit": 1, "examples": 0, "out": tmp_path / "out", "models": models}
    command = evaluate("folder", root=folder, **asked).results["command"]
    assert command is None if count == 2 else f" --head={tmp_path / 'head'} " in command


def test_what_no_run_left_is_never_removed(masks: MaskSet, tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/own.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ResultError, match="contains examples, not written by eclip"):
            evaluate(masks, out=tmp_path, methods="itsm", models=tiny.backbone("vit"), overwrite=overwrite)
    assert (tmp_path / "examples/own.txt").read_text() == "mine"


def test_the_bound_of_a_thing_that_fills_the_image_is_all_of_it(found: Evaluation) -> None:
    assert rows(found)["bound"]["classes"]["3"]["iou"] == 1.0
    with (found.folder / "pairs.csv").open(encoding="utf-8") as file:
        pairs = [row for row in csv.DictReader(file) if row["name"] == "grass"]
    assert {row["method"]: float(row["iou"]) for row in pairs if row["method"] in ("ones", "bound")} == {
        "ones": 1.0,
        "bound": 1.0,
    }


def _gelu() -> eclip.Backbone:
    """The weights of "vit" in a model of another activation."""
    other = open_clip.CLIP(embed_dim=24, vision_cfg=dict(tiny.VIT), text_cfg=dict(tiny.TEXT)).eval()
    other.load_state_dict(tiny.model("vit").state_dict())
    return _named(other)


def _hooked() -> eclip.Backbone:
    model = tiny.model("vit")
    model.visual.transformer.resblocks[2].register_forward_hook(lambda *given: given[2] * 1.05)
    return _named(model)


def _named(model: Any, letters: Any = lambda text: text) -> eclip.Backbone:
    own = tiny.backbone("vit").tokenize
    return eclip.wrap(
        model, tokenizer=lambda texts: own(list(map(letters, texts))), mean=tiny.MEAN, std=tiny.STD, name="CLIP"
    )


@pytest.mark.parametrize(
    ("other", "told"),
    [(_gelu, "modules"), (_hooked, "modules"), (lambda: _named(tiny.model("vit"), lambda text: text[::-1]), "tokens")],
    ids=["gelu", "hook", "words"],
)
def test_a_model_that_computes_otherwise_is_another_question(
    other: Any, told: str, masks: MaskSet, tmp_path: Path
) -> None:
    """Same weights and name."""
    asked: dict[str, Any] = {"out": tmp_path, "methods": "itsm", "limit": 1}
    evaluate(masks, models=_named(tiny.model("vit")), **asked)
    evaluate(masks, models=_named(tiny.model("vit")), **asked)
    with pytest.raises(ResultError, match=rf"\(models.CLIP.{told} was [^;]*\): use another"):
        evaluate(masks, models=other(), **asked)


def test_values_of_another_meaning_are_another_question(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pack"
    shutil.copytree(folder, copy)
    for name in ("4", "5"):
        (copy / f"masks/{name}.png").unlink()
    asked: dict[str, Any] = {"out": tmp_path / "out", "methods": "itsm", "models": tiny.backbone("vit"), "limit": 4}
    with pytest.warns(DataWarning, match="left out"):
        evaluate(read_masks(copy), **asked)
        (copy / "classes.txt").write_text("dog\ncat\ngrass\n")
        with pytest.raises(ResultError, match=r"contains a run with different settings \(data.listed was"):
            evaluate(read_masks(copy), **asked)


def test_other_code_is_another_question(masks: MaskSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"out": tmp_path, "methods": "itsm", "models": tiny.backbone("vit"), "limit": 1}
    evaluate(masks, **asked)
    monkeypatch.setattr(sys.modules["eclip.evaluation.evaluate"], "_code", lambda: "other")
    with pytest.raises(ResultError, match=r'code was .*, now "other"'):
        evaluate(masks, **asked)


def test_the_code_of_a_run_is_that_of_the_whole_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["eclip.evaluation.evaluate"]
    before, copy = module._code(), tmp_path / "eclip"
    shutil.copytree(Path(eclip.__file__).parent, copy, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    monkeypatch.setattr(module, "HOME", copy)
    assert module._code() == before
    for name in ("methods/gem.py", "evaluation/localize.py", "__init__.py"):
        file, now = copy / name, module._code()
        data = file.read_bytes()
        file.write_bytes(data.replace(b" ", b"\t", 1))
        assert module._code() != now, name
        file.write_bytes(data)


def test_weights_are_named_without_asking_the_model() -> None:
    """Some adapters register their weights anew when they are asked for a `state_dict`."""
    module, backbone = sys.modules["eclip.evaluation.evaluate"], tiny.backbone("resnet")
    before = module._told(backbone)["weights"]
    backbone.model.__dict__["state_dict"] = None
    assert module._told(backbone)["weights"] == before
    running = next(one for name, one in backbone.model.named_buffers() if name.endswith("running_mean"))
    running += 1
    assert module._told(backbone)["weights"] != before, "what a normalization has counted is part of the model"


def test_images_that_failed_are_tried_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = broken(folder, tmp_path / "many", 21, [])
    asked: dict[str, Any] = {
        "out": tmp_path / "run",
        "methods": "itsm",
        "models": tiny.backbone("vit"),
        "batch_size": 4,
    }
    real = Masked.open

    def away(item: Masked) -> Image.Image:
        if item.name == "04":
            raise ImageError("04 is away.")
        return real(item)

    with monkeypatch.context() as patch:
        patch.setattr(Masked, "open", away)
        assert [one["source"] for one in evaluate(many, **asked).results["failures"]] == ["04"]
    heard: list[int] = []
    again = evaluate(many, on_progress=lambda _, done, __: heard.append(done), examples=0, **asked)
    assert again.results["failures"] == [] and rows(again)["itsm"]["pairs"] == 42
    assert heard == [17, 21], "the one batch alone"


def test_a_set_without_a_shown_class_in_a_batch_is_no_trouble(masks: MaskSet, tmp_path: Path) -> None:
    backbone = tiny.backbone("vit, average pool")
    last = MaskSet("last", masks.classes, masks.items[4:])
    asked: dict[str, Any] = {"models": backbone, "protocol": "sanity-v1", "batch_size": 1}
    found = evaluate(last, out=tmp_path / "a", methods=["gradeclip", "itsm"], **asked)
    assert set(rows(found)) | {gap["method"] for gap in found.results["not_applicable"]} == {"gradeclip", "itsm"}
    with pytest.raises(OptionError, match="none of rollout is applicable to resnet"):
        evaluate(masks, out=tmp_path / "b", methods="rollout", **{**asked, "models": tiny.backbone("resnet")})


def test_words_of_the_background_that_are_classes_are_left_out(masks: MaskSet, tmp_path: Path) -> None:
    odd = MaskSet("odd", {1: "dog, hound", 2: "sky", 3: "sky"}, masks.items[:2])
    rules = Protocol("p", "s", None, "squash", "a {}", Segment(("Sky", "wall"), 40.0, None, None, None))
    with pytest.warns(EqualTextsWarning, match=r"'sky' \(2 times\)"):
        found = evaluate(odd, out=tmp_path, methods="itsm", models=tiny.backbone("vit"), protocol=rules)
    assert [one["name"] for one in rows(found)["itsm"]["classes"].values()] == [
        "background",
        "dog, hound",
        "sky",
        "sky",
    ]
