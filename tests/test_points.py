"""Labels with points: Open Images' layout on a miniature, broken files, and the protocol "points-v1"."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import eclip
import tiny
from eclip import heatmap
from eclip.cli import app
from eclip.datasets import dataset
from eclip.datasets.phrases import Phrase, PhraseSet
from eclip.errors import DataError, DataWarning, LayoutError, OptionError
from eclip.evaluation.baselines import NAMES as BASELINES
from eclip.evaluation.baselines import centre
from eclip.evaluation.evaluate import evaluate
from eclip.evaluation.evaluation import Evaluation
from eclip.evaluation.points import PointsTask, at_points, grid_answers
from eclip.evaluation.protocols import PROTOCOLS
from eclip.evaluation.query import EvaluationQuery
from eclip.evaluation.rules import Points
from eclip.evaluation.store import BatchResult

HEADER = "ImageId,X,Y,Label,EstimatedYesNo,Source,YesVotes,NoVotes,UnsureVotes,TextLabel"
ROWS = (
    "00a1,0.25,0.5,/m/dog,yes,ih,1,0,0,",
    "00b2,0.1,0.1,/m/cat,yes,cr,5,1,0,",
    "00a1,0.75,0.5,/m/dog,no,ih,0,1,0,",
    "00a1,0.5,0.125,/m/dog,yes,ih,1,0,0,",
    "00a1,0.5,0.5,/m/dog,unsure,ih,0,0,1,",
    "00a1,1.0,0.0,/m/sky,yes,cr,3,0,0,",
    "00a1,0.0,1.0,/m/car,no,ih,0,1,0,",  # no point of the image is known to be on a car
    "00c3,0.5,0.5,/m/car,no,ih,0,1,0,",  # nothing is known to be in this image
)
NAMES = 'LabelName,DisplayName\n/m/dog,Dog\n/m/cat,Cat\n/m/sky,"Sky, cloud"\n/m/car,Car\n/m/cub,Cat\n'
DOG = Phrase("Dog", (), ("/m/dog",), yes=((0.25, 0.5), (0.5, 0.125)), no=((0.75, 0.5),))
SKY = Phrase("Sky, cloud", (), ("/m/sky",), yes=((1.0, 0.0),))
CAT = Phrase("Cat", (), ("/m/cat",), yes=((0.1, 0.1),))


def published(root: Path, *, rows: tuple[str, ...] = ROWS, header: str = HEADER, names: str = NAMES) -> Path:
    """The split validation, with three images."""
    (root / "validation").mkdir(parents=True, exist_ok=True)
    (root / "oidv7-val-annotations-point-labels.csv").write_text("\n".join((header, *rows)) + "\n")
    (root / "oidv7-class-descriptions.csv").write_text(names)
    for name in ("00a1", "00b2", "00c3"):
        Image.new("RGB", (40, 20), (90, 120, 30)).save(root / "validation" / f"{name}.jpg")
    return root


def points_of(root: Path, split: str | None = None) -> PhraseSet:
    found = dataset("openimages_points").read(root, split)
    assert isinstance(found, PhraseSet)
    assert pickle.loads(pickle.dumps(found)) == found  # it travels between processes
    return found


def test_labels_have_the_points_on_them_and_those_off_them(tmp_path: Path) -> None:
    found = points_of(published(tmp_path))
    assert found.name == "openimages_points validation" and found.bad == []
    assert [(item.name, item.phrases) for item in found.items] == [("00a1", (DOG, SKY)), ("00b2", (CAT,))]
    assert found.items[0].open().size == (40, 20)
    verified = dataset("openimages_points").verify(tmp_path, every=True)
    assert (verified.found, verified.decoded, verified.problems) == (2, 2, ())


def test_other_places_of_the_same_files(tmp_path: Path) -> None:
    wanted = points_of(published(tmp_path / "published")).items
    root = published(tmp_path / "moved")
    (root / "annotations").mkdir()
    for file in root.glob("*.csv"):
        file.rename(root / "annotations" / file.name)
    (root / "images").mkdir()
    (root / "validation").rename(root / "images" / "validation")
    assert [item.phrases for item in points_of(root).items] == [item.phrases for item in wanted]
    (root / "annotations" / "oidv7-val-annotations-point-labels.csv").rename(
        root / "annotations" / "oidv7-test-annotations-point-labels.csv"
    )
    (root / "images" / "validation").rename(root / "images" / "test")
    assert points_of(root, "test").items[0].image == root / "images" / "test" / "00a1.jpg"


def test_fiftyones_folders_may_hold_a_part_of_the_images(tmp_path: Path) -> None:
    root = published(tmp_path)
    for old, new in (
        ("oidv7-val-annotations-point-labels.csv", "labels/points.csv"),
        ("oidv7-class-descriptions.csv", "metadata/point_classes.csv"),
        ("validation", "data"),
    ):
        (root / "v7" / "validation" / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / "v7" / "validation" / new)
    (root / "v7" / "validation" / "data" / "00a1.jpg").unlink()
    for folder in (root / "v7", root / "v7" / "validation"):
        assert [(item.name, item.phrases) for item in points_of(folder).items] == [("00b2", (CAT,))]


def test_a_list_of_names_without_a_header_is_read_whole(tmp_path: Path) -> None:
    assert points_of(published(tmp_path, names=NAMES.partition("\n")[2])).items[0].phrases == (DOG, SKY)


def test_points_outside_of_the_image_are_left_out_and_counted(tmp_path: Path) -> None:
    published(tmp_path, rows=(*ROWS, "00b2,1.01,0.5,/m/cat,no,ih,0,1,0,", "00b2,0.5,-0.1,/m/cat,yes,ih,0,1,0,"))
    with pytest.warns(DataWarning, match=r"^2 points of .* the first is in line 10\.$"):
        assert points_of(tmp_path).items[1].phrases == (CAT,)


@pytest.mark.parametrize(
    ("last", "shown"),
    [
        ("00b2,0.1,left,/m/cat,yes,ih,1,0,0,", "left"),
        ("00b2,0.1,0.1,/m/cat,maybe,ih,1,0,0,", "maybe"),
        ("00b2,0.1,0.1,/m/c", "00b2,0.1,0.1,/m/c"),  # the file ends early
    ],
)
def test_a_row_in_another_format_is_named(tmp_path: Path, last: str, shown: str) -> None:
    with pytest.raises(DataError, match=rf"^line 10 of .*point-labels\.csv must have .*{shown}.*again\.$"):
        dataset("openimages_points").read(published(tmp_path, rows=(*ROWS, last)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda root: published(root, header="ImageID,Source,LabelName"), DataError, "no column ImageId, X, Y, Label"),
        (lambda root: (root / "oidv7-val-annotations-point-labels.csv").write_text(""), DataError, "no column ImageId"),
        (lambda root: published(root, names="/m/dog,Dog\n"), DataError, r"no name for /m/sky, a label of 00a1 in .*V7"),
        (lambda root: published(root, names="/m/dog\n"), DataError, "line 1 of .* must be a label such as"),
        (lambda root: published(root, names="id,name\nn02084071,dog\n"), DataError, "line 2 of .*n02084071"),
        (
            lambda root: (root / "oidv7-class-descriptions.csv").write_bytes(b"/m/dog,Caf\xe9\n"),
            DataError,
            "not a table of Open Images in UTF-8",
        ),
        (lambda root: published(root, rows=ROWS[-1:]), LayoutError, "no image of openimages_points"),
        (
            lambda root: (root / "oidv7-class-descriptions.csv").unlink(),
            LayoutError,
            r"oidv7-class-descriptions\.csv: no such file or folder\. Expected layout of openimages_points",
        ),
        (
            lambda root: (root / "validation").rename(root / "pictures"),
            LayoutError,
            r"validation: no such file or folder \(nor images/validation",
        ),
        (
            lambda root: (root / "validation" / "00b2.jpg").unlink(),
            LayoutError,
            r"00b2\.jpg: no such file; it should be the image of '00b2'",
        ),
    ],
)
def test_missing_and_broken_files_are_named(
    tmp_path: Path, change: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    change(published(tmp_path))
    with pytest.raises(error, match=message):
        dataset("openimages_points").read(tmp_path)


def test_the_digest_changes_with_points_and_their_answers(tmp_path: Path) -> None:
    whole = points_of(published(tmp_path)).digest()
    moved = points_of(published(tmp_path, rows=("00a1,0.26,0.5,/m/dog,yes,ih,1,0,0,", *ROWS[1:]))).digest()
    turned = points_of(published(tmp_path, rows=(*ROWS[:2], ROWS[2].replace("no", "yes"), *ROWS[3:]))).digest()
    assert len({whole, moved, turned}) == 3 and points_of(published(tmp_path)).digest() == whole


def test_the_heat_at_points_is_that_of_the_pixels_that_contain_them() -> None:
    heat = np.arange(8, dtype=np.float32).reshape(2, 4) / 8
    phrase = Phrase("a dog", (), yes=((0.0, 0.0), (1.0, 1.0), (0.3, 0.6)), no=((0.99, 0.0), (0.5, 0.5)))
    assert (8 * at_points(heat, phrase)).tolist() == [[0, 7, 5, 3, 6]]


def test_the_bound_is_the_share_of_answers_and_spreads_to_patches_without_points() -> None:
    phrase = Phrase("a dog", (), yes=((0.1, 0.1), (0.2, 0.3), (1.0, 0.9)), no=((0.1, 0.2), (0.9, 0.1), (0.2, 0.9)))
    assert grid_answers(phrase, (2, 2)) == pytest.approx(np.array([[2 / 3, 0], [0, 1]]))
    alone = Phrase("a dog", (), yes=((0.0, 0.5),), no=((0.9, 0.5),))
    assert grid_answers(alone, (1, 4)).tolist() == [[1, 1, 0, 0]]


METHODS = ("itsm", "surgery", "gradcam")
GRID = 5
"""Rows of a grid of points on each image of the evaluation."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of noise with a grid of 25 points each; what a label is on is a disk or a half of the image."""
    root, rows = tmp_path_factory.mktemp("openimages"), list[str]()
    (root / "validation").mkdir()
    middles = [(step + 0.5) / GRID for step in range(GRID)]
    for seed in range(5):
        values = np.random.default_rng(seed).integers(0, 256, (30 + seed, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(root / "validation" / f"{seed}.jpg")
        for x in middles:
            for y in middles:
                dog = (x - 0.3) ** 2 + (y - 0.4) ** 2 < 0.08
                rows.append(f"{seed},{x},{y},/m/dog,{'yes' if dog else 'no'},ih,1,0,0,")
                if seed < 2:
                    rows.append(f"{seed},{x},{y},/m/sky,{'yes' if y < 0.5 else 'unsure'},ih,1,0,0,")
                if seed == 1:
                    rows.append(f"{seed},{x},{y},/m/cat,{'yes' if x > 0.5 else 'no'},ih,1,0,0,")
                    rows.append(f"{seed},{x},{y},/m/cub,{'yes' if x < 0.2 else 'no'},ih,1,0,0,")  # of the same name
    (root / "oidv7-val-annotations-point-labels.csv").write_text("\n".join((HEADER, *rows)) + "\n")
    (root / "oidv7-class-descriptions.csv").write_text(NAMES)
    return root


@pytest.fixture(scope="module")
def found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return evaluate(
        "openimages_points",
        root=folder,
        out=tmp_path_factory.mktemp("run"),
        methods=METHODS,
        models=tiny.backbone("vit"),
        protocol="points-v1",
        batch_size=3,
    )  # two batches


def rows_of(found: Evaluation) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in found.results["rows"]}


def value(found: Evaluation, method: str, number: str) -> float | None:
    return rows_of(found)[method]["numbers"][number]["value"]


def by_hand(heat: np.ndarray[Any, Any], phrase: Phrase) -> tuple[int, int, float]:
    """Points in the intersection and the union at 0.5, and the AUROC, pair of points by pair of points."""
    height, width = heat.shape

    def reach(points: tuple[tuple[float, float], ...]) -> list[float]:
        return [float(heat[int(y * height), int(x * width)]) for x, y in points]

    yes, no = reach(phrase.yes), reach(phrase.no)
    hits = sum(one >= 0.5 for one in yes)
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in yes for b in no]
    return hits, len(yes) + sum(one >= 0.5 for one in no), float(np.mean(wins)) if wins else np.nan


@pytest.mark.parametrize("method", METHODS)
def test_numbers_are_those_of_explain_with_each_label_alone(found: Evaluation, folder: Path, method: str) -> None:
    ious, aurocs, sums = [], [], dict[tuple[str, ...], list[int]]()
    for item in points_of(folder).items:
        for phrase in item.phrases:
            answer = eclip.explain(
                item.image,
                [phrase.text],
                model=tiny.backbone("vit"),
                method=method,
                templates="a photo of a {}",
                health=False,
            )
            hits, union, auroc = by_hand(answer.heatmap(0, 0), phrase)
            ious.append(hits / union)
            aurocs.append(auroc)
            summed = sums.setdefault(phrase.types, [0, 0])
            summed[0], summed[1] = summed[0] + hits, summed[1] + union
    row = rows_of(found)[method]
    assert (row["pairs"], row["images"], row["labels"], row["points"]) == (9, 5, 4, {"yes": 65, "no": 130})
    assert value(found, method, "p_miou") == pytest.approx(np.mean(ious), abs=2e-6)
    assert value(found, method, "point_auroc") == pytest.approx(np.nanmean(aurocs), abs=2e-6)
    by_label = np.mean([hits / union for hits, union in sums.values()])
    assert value(found, method, "class_p_miou") == pytest.approx(by_label, abs=2e-6)


def test_methods_differ_and_have_intervals(found: Evaluation) -> None:
    """Otherwise the comparison above would show little."""
    for number in ("p_miou", "point_auroc", "class_p_miou"):
        assert len({value(found, method, number) for method in METHODS}) == len(METHODS)
        for method in METHODS:
            one = rows_of(found)[method]["numbers"][number]
            assert one["low"] <= one["value"] <= one["high"] and one["low"] < one["high"]


def test_baselines_by_hand_and_differences_from_the_best_of_them(found: Evaluation, folder: Path) -> None:
    assert [name for name, row in rows_of(found).items() if row["control"]] == list(BASELINES)
    phrases = [one for item in points_of(folder).items for one in item.phrases]
    dogs = len(phrases[0].yes)
    assert [len(one.yes) for one in phrases] == [dogs, 10, dogs, 10, 10, 5, dogs, dogs, dogs] and dogs == 6
    # everything is inside: of 25 points, 6 are on the dog, 10 on the cat and 5 on its cub; none is off the sky
    assert value(found, "ones", "p_miou") == pytest.approx((5 * 6 / 25 + 2 * 1 + 10 / 25 + 5 / 25) / 9, abs=1e-6)
    assert value(found, "ones", "class_p_miou") == pytest.approx((6 / 25 + 1 + 10 / 25 + 5 / 25) / 4, abs=1e-6)
    assert value(found, "ones", "point_auroc") == 0.5
    asked = EvaluationQuery(PROTOCOLS["points-v1"], points_of(folder), tiny.backbone("vit"), {})
    centers = []
    for item in points_of(folder).items:
        grid = asked.view.grid(asked.backbone, item.open())
        heat = heatmap.resize(torch.from_numpy(centre(grid, ())), item.open().size[::-1]).numpy()
        centers += [by_hand(heat, phrase) for phrase in item.phrases]
    assert value(found, "centre", "p_miou") == pytest.approx(np.mean([a / b for a, b, _ in centers]), abs=2e-6)
    names = ("ones", "centre", "random")
    assert max(value(found, name, "p_miou") or 0 for name in names) < (value(found, "bound", "p_miou") or 0)
    best = max(value(found, name, "point_auroc") or 0 for name in names)
    assert 0.5 < best < 0.95 < (value(found, "bound", "point_auroc") or 0)
    for method in METHODS:
        over = (value(found, method, "point_auroc") or 0) - best
        assert value(found, method, "over_control") == pytest.approx(over, abs=2e-6)
    assert "over_control" not in rows_of(found)["centre"]["numbers"]
    assert list(rows_of(found)["itsm"]["numbers"]) == ["point_auroc", "over_control", "p_miou", "class_p_miou"]


def test_the_table_of_pairs_has_the_label_and_its_points(found: Evaluation) -> None:
    with (found.folder / "pairs.csv").open() as file:
        pairs = [row for row in csv.DictReader(file) if row["method"] == "itsm"]
    assert [(row["image"], row["name"], row["types"], row["yes"], row["no"]) for row in pairs[:5]] == [
        ("0", "Dog", "/m/dog", "6", "19"),
        ("0", "Sky, cloud", "/m/sky", "10", "0"),
        ("1", "Dog", "/m/dog", "6", "19"),
        ("1", "Sky, cloud", "/m/sky", "10", "0"),
        ("1", "Cat", "/m/cat", "10", "15"),
    ]
    known = [row["point_auroc"] for row in pairs]
    assert [one == "" for one in known] == [False, True, False, True, False, False, False, False, False]
    assert np.mean([float(one) for one in known if one]) == pytest.approx(value(found, "itsm", "point_auroc"), abs=1e-5)


def test_averages_over_pairs_and_over_labels_by_hand(folder: Path) -> None:
    """Eight of the pairs, in which one map contains known numbers of points; baselines get what is easy to tell."""
    asked = EvaluationQuery(PROTOCOLS["points-v1"], points_of(folder), tiny.backbone("vit"), {"itsm": {}})
    own = [(3, 6, 0.9), (5, 10, np.nan), (6, 12, 0.7), (10, 10, np.nan), (0, 10, 0.2), *[(2, 8, 0.5)] * 3]
    values = np.array([[one, (1, 10, 0.5), (1, 10, 0.5), (1, 10, 0.5), (9, 10, 1.0)] for one in own])
    arrays = {
        "names": np.array(["itsm", *BASELINES]),
        "images": np.array([0, 0, 1, 1, 1, 2, 3, 4]),
        "numbers": np.array([0, 1, 0, 1, 2, 0, 0, 0]),
        "values": values,
    }
    row = PointsTask(asked).record([BatchResult(arrays, {}, 5, {}, [])])[0]
    assert row.numbers["p_miou"].value == pytest.approx((0.5 + 0.5 + 0.5 + 1 + 0 + 3 * 0.25) / 8)
    assert row.numbers["class_p_miou"].value == pytest.approx((15 / 42 + 15 / 20 + 0 / 10) / 3)
    assert row.numbers["point_auroc"].value == pytest.approx((0.9 + 0.7 + 0.2 + 3 * 0.5) / 6)
    assert row.numbers["over_control"].value == pytest.approx(3.3 / 6 - 0.5)


def test_it_resumes_and_is_checked_against_its_own_numbers(found: Evaluation, folder: Path) -> None:
    next((found.folder / "parts").rglob("000001.npz")).unlink()
    again = evaluate(
        "openimages_points",
        root=folder,
        out=found.folder,
        methods=METHODS,
        models=tiny.backbone("vit"),
        protocol="points-v1",
        batch_size=3,
        expected=found.folder / "results.json",
    )
    assert json.dumps(again.results["rows"]) == json.dumps(found.results["rows"])
    assert again.check(found.folder / "results.json") == []


def test_the_report_reads_in_words(found: Evaluation) -> None:
    page = found.report()
    assert PROTOCOLS["points-v1"].summary in page and "0.5 of the map, whose smallest value is 0" in page
    assert "the share that are both, averaged over pairs" in page and "the true answers on the patch grid" in page


def test_the_command_line_evaluates_and_checks(folder: Path, tmp_path: Path) -> None:
    asked = ["eval", "openimages_points", "--root", str(folder), "--protocol", "points-v1", "--methods", "itsm"]
    run = CliRunner().invoke(app, [*asked, "--limit", "2", "-o", str(tmp_path / "run")])
    assert run.exit_code == 0 and "p-mIoU" in run.output and "(bound)" in run.output, run.output
    same = [*asked, "--limit", "2", "-o", str(tmp_path / "again"), "--check", str(tmp_path / "run")]
    assert CliRunner().invoke(app, same).exit_code == 0
    other = CliRunner().invoke(app, [*same, "--limit", "1", "--overwrite"])
    assert other.exit_code != 0 and "different protocol or data" in other.output


@pytest.mark.parametrize("protocol", ["explain-v1", "pointing-v1"])
def test_other_protocols_are_refused_with_the_one_that_fits(folder: Path, tmp_path: Path, protocol: str) -> None:
    with pytest.raises(OptionError, match=r"has labels and points: use the protocol points-v1\."):
        evaluate(points_of(folder), out=tmp_path, methods="itsm", models=tiny.backbone("vit"), protocol=protocol)
    assert not list(tmp_path.iterdir())


def test_labels_that_no_point_is_off_cannot_tell_maps_apart(folder: Path, tmp_path: Path) -> None:
    whole = points_of(folder)
    on = [replace(item, phrases=tuple(replace(one, no=()) for one in item.phrases)) for item in whole.items]
    with pytest.raises(DataError, match=r"'ones'.*scores 50\.0.*Too few points are off their label"):
        evaluate(
            replace(whole, items=on), out=tmp_path, methods="itsm", models=tiny.backbone("vit"), protocol="points-v1"
        )


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"threshold": 1.5}, {"threshold": 0.5, "headline": "miou"}])
def test_rules_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Points(**wrong)
