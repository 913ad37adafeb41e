"""Tables and annotations of images and texts: one definition of a row, files that grow image by image."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import eclip
import tiny
from eclip.errors import MissingExtraError, OptionError, ResultError
from eclip.explanation.explanation import Explanation
from eclip.explanation.folder import ExplanationWriter
from eclip.explanation.health import LEAST_PRESENCE, LEAST_SURE, SENTENCES
from eclip.explanation.rows import Selection, rows_of
from eclip.results.table import COLUMNS, csv_rows
from test_cli import explain, run
from test_stream import rows as index_rows

TEXTS = ("a dog", 'grass, "wet"\nand\rgreen', "=SUM(A1)", "狗 🐕")


@pytest.fixture(scope="module")
def answer(images: Path) -> Explanation:
    """Two images and four odd texts, with a presence for every case: sure, unsure, absent, unknown."""
    found = eclip.explain([images / "a.png", images / "b.jpg"], TEXTS, model=tiny.kept("vit"), method="maskclip")
    assert found.health is not None
    presence = np.array([[0.95, 0.7, 0.2, np.nan], [0.0, 0.9, 0.6, 0.3]], np.float32)
    return replace(found, health=replace(found.health, presence=presence, emptiness=np.zeros_like(presence)))


def _csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _written(answer: Explanation, folder: Path, formats: list[str], **kept: Any) -> Path:
    with ExplanationWriter(folder, formats, selection=Selection(**kept)) as writer:
        writer.add(answer)
    return folder


def test_a_row_says_what_the_explanation_does(answer: Explanation) -> None:
    for image in range(2):
        for text, row in enumerate(rows_of(answer, image)):
            assert tuple(row) == COLUMNS
            mask, boxes = answer.mask(image, text), answer.boxes(image, text)
            assert (row["image"], row["text"]) == (answer.sources[image], TEXTS[text])
            assert row["score"] == pytest.approx(float(answer.scores[image, text]), abs=1e-6)
            assert [row[name] for name in ("x0", "y0", "x1", "y1")] == boxes[0].tolist()
            assert row["area"] == pytest.approx(mask.mean(), abs=1e-6)
            places, labels = answer.points(image, text)
            assert row["points"] == np.column_stack([places, labels]).tolist()
            assert row["found"] == {"": "yes"}.get(answer.doubt(image, text), "no") or row["presence"] is None
    found = [[row["found"] for row in rows_of(answer, image)] for image in range(2)]
    assert found == [["yes", "no", "no", None], ["no", "yes", "no", "no"]]
    assert (LEAST_PRESENCE, LEAST_SURE) == (0.6, 0.9), "docs/tables.md names them"
    assert [row["warnings"] for row in rows_of(answer)][:3] == ["", "", SENTENCES["presence"]]


def test_an_unknown_presence_is_neither_found_nor_doubted_in_an_empty_image_either(
    answer: Explanation, images: Path
) -> None:
    assert answer.health is not None
    empty = replace(answer, health=replace(answer.health, emptiness=np.ones_like(answer.scores)))
    assert [row["found"] for row in rows_of(empty)] == ["no", "no", "no", None]
    assert [bool(empty.doubt(0, text)) for text in range(4)] == [True, True, True, False]


def test_without_health_nothing_is_called_found(answer: Explanation) -> None:
    for row in rows_of(replace(answer, health=None)):
        assert (row["presence"], row["found"], row["warnings"]) == (None, None, "")


def test_a_flat_map_has_no_box_but_a_row(answer: Explanation, tmp_path: Path) -> None:
    flat = replace(answer, flat=np.ones_like(answer.scores, dtype=bool))
    [row, *_] = rows_of(flat)
    assert [row[name] for name in ("x0", "y1", "area", "points")] == [None, None, 0.0, []]
    assert _csv(_written(flat, tmp_path, ["csv"]) / "table.csv")[0]["x0"] == ""
    assert flat.to_coco()["annotations"] == []
    assert flat.to_label_studio()[0]["predictions"][0]["result"] == []


def test_odd_names_survive_csv(answer: Explanation, tmp_path: Path) -> None:
    odd = replace(answer, sources=('a, "b"\r\n<script>.png', "caf\udce9.jpg"))
    read = _csv(_written(odd, tmp_path, ["csv"]) / "table.csv")
    assert [row["text"] for row in read] == list(TEXTS) * 2, "also a formula: data are not changed"
    assert [row["image"] for row in read[::4]] == [odd.sources[0], "caf\\udce9.jpg"]
    assert json.loads(read[0]["points"]) == next(rows_of(odd))["points"]
    assert csv_rows([["\r", None, 1.5, "yes"]]) == b'"\r",,1.5,yes\r\n', "RFC 4180: a lone CR is quoted as well"


def test_pandas_reads_the_same_from_the_table_and_from_python(answer: Explanation, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = answer.to_pandas()
    read = pd.read_csv(
        _written(answer, tmp_path, ["csv"]) / "table.csv", dtype={name: "Int64" for name in COLUMNS[5:9]}
    )
    assert list(read.columns) == list(frame.columns) == list(COLUMNS)
    for name in ("image", "text", "score", "presence", "x0", "y1", "area"):
        pd.testing.assert_series_equal(read[name], frame[name], check_dtype=False)
    assert (frame[frame.found == "yes"].index == read[read.found == "yes"].index).all()


def test_missing_packages_name_themselves(answer: Explanation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MissingExtraError, match=r"^to_pandas needs the package pandas: pip install pandas\.$"):
        answer.to_pandas()
    with pytest.raises(MissingExtraError, match=r"^to_fiftyone needs the package fiftyone: pip install fiftyone\.$"):
        answer.to_fiftyone()


def _pairs(folder: Path) -> list[tuple[str, str]]:
    return [(Path(row["image"]).stem, row["text"]) for row in _csv(folder / "table.csv")]


def test_rows_are_kept_and_sorted(answer: Explanation, tmp_path: Path) -> None:
    dog, wet, formula, _other = TEXTS
    least = _written(answer, tmp_path / "least", ["csv"], min_presence=0.6)
    assert _pairs(least) == [("a", dog), ("a", wet), ("b", wet), ("b", formula)], "unknown presence is not kept"
    by = _written(answer, tmp_path / "by", ["csv"], sort="presence")
    assert [row["presence"] for row in _csv(by / "table.csv")] == ["0.95", "0.9", "0.7", "0.6", "0.3", "0.2", "0.0", ""]
    top = _written(answer, tmp_path / "top", ["csv"], sort="presence", top=1)
    assert _pairs(top) == [("a", dog), ("b", wet)]
    best = _written(answer, tmp_path / "best", ["csv"], top=2)
    for image, stem in enumerate("ab"):
        some = np.argsort(-answer.scores[image])[:2]
        assert [text for name, text in _pairs(best) if name == stem] == [TEXTS[text] for text in sorted(some)]
    zero = _written(answer, tmp_path / "zero", ["csv"], min_presence=0.0)
    assert len(_pairs(zero)) == 7, "a presence of 0 is known"
    for wrong, message in (({"sort": "name"}, "sort must be"), ({"top": 0}, "top must"), ({"min_presence": 2}, "0, 1")):
        with pytest.raises(OptionError, match=message):
            Selection(**wrong)


@pytest.mark.parametrize("sort", [None, "score"])
def test_an_interrupted_table_holds_the_images_that_were_done(
    answer: Explanation, tmp_path: Path, sort: str | None
) -> None:
    """Whole rows after each image, and after Ctrl-C in the middle of one."""
    with (
        pytest.raises(KeyboardInterrupt),
        ExplanationWriter(tmp_path, ["csv", "coco", "json"], selection=Selection(sort=sort)) as writer,
    ):
        writer.add(answer.only(0))
        assert len(_csv(tmp_path / "table.csv")) == 4, "rows are written as images are done"
        table = writer.exports._open[0]
        table._stream.write(b'"half a r')  # type: ignore[attr-defined]
        raise KeyboardInterrupt
    read = _csv(tmp_path / "table.csv")
    assert [row["image"] for row in read] == [answer.sources[0]] * 4 and all(
        row["warnings"] is not None for row in read
    )
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["exports"] == {"csv": "table.csv", "coco": "coco.json"}
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == len(manifest["images"]) == 1


def test_a_table_of_other_images_is_not_lost(answer: Explanation, tmp_path: Path) -> None:
    first = answer.save(tmp_path, ["csv"])
    before = (first / "table.csv").read_bytes()
    with pytest.raises(ResultError, match=r"table\.csv already exists, and no manifest says which images it is of"):
        answer.save(tmp_path, ["csv", "json"])
    assert (first / "table.csv").read_bytes() == before
    answer.save(tmp_path, ["csv", "json"], overwrite=True)
    answer.save(tmp_path, ["csv", "json"])
    answer.save(tmp_path, ["json"])
    assert not (tmp_path / "table.csv").exists(), "of an earlier run of the same images"


def test_nothing_changes_without_the_new_formats(answer: Explanation, tmp_path: Path) -> None:
    with ExplanationWriter(tmp_path) as writer:
        writer.add(answer)
    assert "exports" not in json.loads((tmp_path / "manifest.json").read_text())


# --- annotations ------------------------------------------------------------------------------------------------------


def test_coco_is_read_by_its_own_tools(answer: Explanation, tmp_path: Path) -> None:
    tools = pytest.importorskip("pycocotools.coco")
    told = answer.to_coco()
    assert json.loads((_written(answer, tmp_path, ["coco"]) / "coco.json").read_text(encoding="utf-8")) == told
    coco = tools.COCO(str(tmp_path / "coco.json"))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(TEXTS)
    for one in coco.loadAnns(coco.getAnnIds()):
        mask = answer.mask(one["image_id"] - 1, one["category_id"] - 1)
        assert np.array_equal(coco.annToMask(one).astype(bool), mask)
        left, top, width, height = one["bbox"]
        assert mask[top : top + height, left : left + width].sum() == mask.sum() == one["area"]
        assert one["score"] == pytest.approx(
            float(answer.scores[one["image_id"] - 1, one["category_id"] - 1]), abs=1e-6
        )
    assert len(coco.loadRes(told["annotations"]).anns) == len(told["annotations"]) == 8, "also as results"
    assert {one["id"] for one in told["annotations"]} == set(range(1, 9))
    some = [(one["image_id"], one["category_id"]) for one in answer.to_coco(min_presence=0.9)["annotations"]]
    assert some == [(1, 1), (2, 2)]


def test_label_studio_gets_rectangles_in_percent(answer: Explanation, tmp_path: Path) -> None:
    told = answer.to_label_studio()
    file = _written(answer, tmp_path, ["labelstudio"]) / "labelstudio.json"
    assert json.loads(file.read_text(encoding="utf-8")) == told
    for image, task in enumerate(told):
        assert task["data"] == {"image": answer.sources[image]}
        [prediction] = task["predictions"]
        boxes = [(text, box) for text in range(4) for box in answer.boxes(image, text).tolist()]
        assert len(boxes) == len(prediction["result"])
        for (text, box), one in zip(boxes, prediction["result"], strict=True):
            value, (width, height) = one["value"], answer.sizes[image]
            sides = [value[name] / 100 for name in ("x", "y", "width", "height")]
            assert value["rectanglelabels"] == [TEXTS[text]]
            corners = [
                sides[0] * width,
                sides[1] * height,
                (sides[0] + sides[2]) * width,
                (sides[1] + sides[3]) * height,
            ]
            assert corners == pytest.approx(box)
        assert len({one["id"] for one in prediction["result"]}) == len(boxes)
    assert answer.to_label_studio(prefix="/data/?d=")[0]["data"]["image"] == f"/data/?d={answer.sources[0]}"


def test_fiftyone_gets_its_own_classes(answer: Explanation) -> None:
    pytest.importorskip("fiftyone", reason="needs fiftyone, with its database")
    [sample, _] = answer.to_fiftyone()
    found = sample["eclip"].detections
    boxes = [box for text in range(4) for box in answer.boxes(0, text).tolist()]
    assert len(found) == len(boxes)
    width, height = answer.sizes[0]
    for one, (left, top, right, bottom) in zip(found, boxes, strict=True):
        wanted = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        assert list(one.bounding_box) == pytest.approx(wanted)
        assert one.mask.shape == (bottom - top, right - left)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_table_alone(tiny_name: str, images: Path, tmp_path: Path) -> None:
    words = (images, "-t", "a dog", "-t", "grass")
    done = explain(*words, "--format", "csv", "--sort", "area", model=tiny_name, out=tmp_path)
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'table.csv'}\n" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv"}
    areas = [float(row["area"]) for row in _csv(tmp_path / "table.csv")]
    assert areas == sorted(areas, reverse=True) and len(areas) == 4
    again = explain(*words, "--format", "csv", model=tiny_name, out=tmp_path)
    assert again.exit_code == 1 and "--overwrite" in again.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--sort score", "--sort is for tables, annotations and galleries: add --format csv"),
        ("--format csv --min-presence 1.5", "--min-presence must be a number in [0, 1], got 1.5"),
        ("--format csv --min-presence 0.5 --no-health", "--min-presence needs the health checks"),
        ("--format html --sort presence --versus cat", "--sort presence needs the health checks"),
        ("--format csv --min-presence 0.5 --like IMAGE", "or to examples alone (--like)"),
        ("--format png,jpg", "png and jpg are formats of the same pictures"),
        ("--format parquet,json", "use --format parquet alone"),
        ("--format parquet --top 3", "--top does not apply to shards, which --format parquet asks for: sort"),
        ("--format csv --write maps", "--write table puts a table into their index"),
        ("--max-side 100", "256"),
        ("--format csv --max-side 300", "--max-side is for pictures: add --format png, jpg or html"),
        ("--write maps --max-side 300", "max_side is for pictures"),
    ],
)
def test_options_that_do_not_fit_say_so(more: str, message: str, images: Path, tiny_name: str, tmp_path: Path) -> None:
    texts = () if "--like" in more else ("-t", "a dog")
    words = more.replace("IMAGE", str(images / "b.jpg")).split()
    done = explain(images / "a.png", *texts, *words, model=tiny_name, out=tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_many_images_are_a_reason_in_words(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eclip.cli.many.MOST_PICTURED", 1)
    done = explain(images, "-t", "a dog", "--sort", "score", model="mini", out=tmp_path / "out")
    assert done.exit_code == 2 and "to shards, as which more than 1 images are written: sort and" in done.stderr


def test_parquet_is_the_index_of_shards_with_the_same_rows(tiny_name: str, images: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    words = (images, "-t", "a dog", "-t", "grass", "--method", "maskclip")
    assert explain(*words, "--format", "csv", model=tiny_name, out=tmp_path / "table").exit_code == 0
    done = explain(*words, "--format", "parquet", "--workers", 0, model=tiny_name, out=tmp_path / "shards")
    assert done.exit_code == 0, done.output
    [part] = (tmp_path / "shards" / "index").iterdir()
    read = pq.read_table(part).to_pylist()
    for row, wanted in zip(read, _csv(tmp_path / "table" / "table.csv"), strict=True):
        for name in ("image", "text", "found", "warnings"):
            assert (row[name] or "") == wanted[name]
        for name in ("score", "presence", "area", "x0", "y0", "x1", "y1"):
            assert row[name] == pytest.approx(float(wanted[name]), abs=2e-4)
        assert row["points"] == json.loads(wanted["points"])
    assert json.loads((tmp_path / "shards" / "run.json").read_text())["write"] == ["table"]


def test_the_command_repeats_what_was_selected(images: Path, tiny_name: str, tmp_path: Path) -> None:
    words = ("-t", "a dog", "-t", "grass", "-t", "sky", "--format", "csv,json")
    done = explain(images, *words, "--sort", "score", "--top", 1, model=tiny_name, out=tmp_path / "one")
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["provenance"]["selection"] == {"format": "csv,json", "sort": "score", "top": 1}
    command = shlex.split(manifest["provenance"]["command"])
    assert command[-6:] == ["--format", "csv,json", "--sort", "score", "--top", "1"]
    done = run(*command[1:], "-o", tmp_path / "two")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "two" / "table.csv").read_bytes() == (tmp_path / "one" / "table.csv").read_bytes()
    done = explain(images, *words, model=tiny_name, out=tmp_path / "one")
    assert "replacing the results of an earlier run" in done.stderr


def test_the_index_has_all_columns_without_health_too(images: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": tiny.kept("vit"), "method": "maskclip", "workers": 0, "health": False}
    eclip.explain_dataset(images, ["a dog"], tmp_path / "a", write=["table", "boxes"], **given)
    for row in index_rows(tmp_path / "a"):
        assert set(COLUMNS) <= row.keys() and row["presence"] is None
        assert row["boxes"][0] == [row[name] for name in ("x0", "y0", "x1", "y1")]
    pytest.importorskip("pyarrow")
    eclip.explain_dataset(images, ["a dog"], tmp_path / "b", write=["table"], index="parquet", **given)


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(900, 600), (500, 1400), (2000, 3), (40, 30), (1, 1)])
def test_pictures_stay_within_their_side(answer: Explanation, size: tuple[int, int]) -> None:
    picture = Image.effect_noise(size, 60).convert("RGB")
    other = replace(answer, images=(picture, picture), sizes=(size, size))
    for side in (256, 300, 777):
        assert max(other.overlay(0, 1, max_side=side).size) <= side
        assert max(other.strip(0, max_side=side).size) <= side
    drawn = other.overlay(0, 0, legend=False, max_side=300)
    scale = min(1, 300 / max(size))
    assert drawn.size == tuple(max(1, round(side * scale)) for side in size)
    assert other.overlay(0, 0).tobytes() == other.overlay(0, 0, max_side=5000).tobytes(), "not enlarged"


def test_jpeg_pictures_are_listed_and_known_as_ours(answer: Explanation, tmp_path: Path) -> None:
    answer.save(tmp_path, ["jpg", "json"], max_side=256)
    listed = json.loads((tmp_path / "manifest.json").read_text())["images"][0]["files"]
    for name in (listed["strip"], *listed["overlays"].values()):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "JPEG" and max(picture.size) <= 256
    answer.save(tmp_path, ["jpg"])
    answer.save(tmp_path, ["jpg"])
    assert {path.suffix for path in tmp_path.iterdir()} == {".jpg"} and len(list(tmp_path.iterdir())) == 10
    with pytest.raises(OptionError, match="max_side must be a whole number of pixels, at least 256, got 20"):
        answer.save(tmp_path, ["jpg"], max_side=20)


def test_overlays_in_shards_have_the_side_asked_for(images: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": tiny.kept("vit"), "method": "maskclip", "workers": 0, "write": ["overlays"]}
    big = tmp_path / "images"
    big.mkdir()
    Image.effect_noise((800, 600), 60).save(big / "big.png")
    for name, side in (("plain", None), ("small", 300)):
        eclip.explain_dataset(big, ["a dog"], tmp_path / name, layout="folder", max_side=side, **given)
        [overlay] = (tmp_path / name / "shards").rglob("*.png")
        with Image.open(overlay) as picture:
            assert max(picture.size) == (side or 800)
        assert json.loads((tmp_path / name / "run.json").read_text()).get("max_side") == side
