"""Unusual COCO annotations: names in any script, wrong areas, outlines that cannot be painted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from eclip.cli import app
from eclip.datasets import DATASETS
from eclip.datasets.masks import VOID, MaskSet
from eclip.datasets.shapes import inside, unpacked, wrong_with
from eclip.errors import DataError, DataWarning

NAMES = {"latin": "café crème", "han": "犬", "emoji": "dog \N{DOG FACE}"}
SQUARE = [[1.0, 1, 4, 1, 4, 3, 1, 3]]
"""Two rows and three columns of an image of 4 x 6, from (1, 1) on."""


def coco(root: Path, *objects: dict[str, Any], names: tuple[str, ...] = ("dog",), files: tuple[str, ...] = ()) -> Path:
    """An image of 4 x 6 for each file and these objects in the first; what an annotation leaves out is filled in."""
    files = files or ("000000000007.jpg",)
    for name in files:
        (root / "val2017" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(root / "val2017" / name)
    whole = {
        "images": [{"id": one, "file_name": name, "height": 4, "width": 6} for one, name in enumerate(files, 7)],
        "annotations": [{"id": 50 + i, "image_id": 7, "category_id": 1} | one for i, one in enumerate(objects)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations/instances_val2017.json").write_text(json.dumps(whole), encoding="utf-8")
    return root / "annotations/instances_val2017.json"


def masks(root: Path) -> MaskSet:
    """The set, prepared anew."""
    shutil.rmtree(root / "eclip_masks", ignore_errors=True)
    DATASETS["coco2017"].prepare(root)
    found = DATASETS["coco2017"].read(root)
    assert isinstance(found, MaskSet)
    return found


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("written", ["escaped", "plain", "marked"])
def test_names_outside_ascii_are_the_same_however_they_are_written(tmp_path: Path, name: str, written: str) -> None:
    file = coco(tmp_path, {"segmentation": SQUARE}, names=(name,), files=(f"{name}.jpg",))
    text = json.dumps(json.loads(file.read_text(encoding="utf-8")), ensure_ascii=written == "escaped")
    file.write_text(text, encoding="utf-8-sig" if written == "marked" else "utf-8")
    found = masks(tmp_path)
    assert found.classes == {1: name} and found.items[0].name == name
    assert found.items[0].read().sum() == 6
    checked = CliRunner().invoke(app, ["datasets", "verify", "coco2017", "--root", str(tmp_path), "--json"])
    assert json.loads(checked.stdout)["decoded"] == 1


@pytest.mark.long
def test_a_terminal_without_utf8_gets_through_names_outside_ascii(tmp_path: Path) -> None:
    coco(tmp_path, {"segmentation": SQUARE}, {"segmentation": [[1, 1]]}, names=("犬",), files=("犬.jpg", "b.jpg"))
    plain = {key: one for key, one in os.environ.items() if not key.startswith(("LC_", "LANG"))}
    plain |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    asked = [sys.executable, "-m", "eclip", "datasets", "prepare", "coco2017", "--root", str(tmp_path)]
    done = subprocess.run(asked, env=plain, capture_output=True, check=False)
    said = done.stdout + done.stderr
    assert b"Traceback" not in said and b"annotation 51" in said, said.decode()
    assert b"PYTHONUTF8=1" in said and done.returncode == 1, "it names the way out"
    done = subprocess.run(asked, env=plain | {"PYTHONUTF8": "1"}, capture_output=True, check=True)
    found = DATASETS["coco2017"].read(tmp_path)
    assert done.stdout and isinstance(found, MaskSet) and [one.name for one in found.items] == ["犬", "b"]
    asked[4] = "verify"
    done = subprocess.run(asked, env=plain, capture_output=True, check=False)
    assert b"Traceback" not in done.stdout + done.stderr and b"PYTHONUTF8=1" in done.stdout and done.returncode == 1


@pytest.mark.parametrize(("encoding", "told"), [("latin-1", "0xe9 at byte"), ("cp1252", "0xe9"), ("utf-16", "UTF-16")])
def test_other_encodings_are_refused_and_not_guessed(tmp_path: Path, encoding: str, told: str) -> None:
    file = coco(tmp_path, {"segmentation": SQUARE}, names=("café",))
    file.write_text(json.dumps(json.loads(file.read_text()), ensure_ascii=False), encoding=encoding)
    with pytest.raises(DataError, match=rf"is not UTF-8 .*{told}.*: save it as UTF-8"):
        masks(tmp_path)


@pytest.mark.parametrize("name", ["half \ud83d of a letter", "  ", "a\u2028b\tc"])
def test_a_name_is_one_line_of_unicode_or_refused(tmp_path: Path, name: str) -> None:
    coco(tmp_path, {"segmentation": SQUARE}, names=(name,))
    if "\u2028" in name:
        assert masks(tmp_path).classes == {1: "a b c"}
    else:
        with pytest.raises(DataError, match=r"name .*(not valid Unicode|is empty)"):
            masks(tmp_path)


@pytest.mark.parametrize("areas", [(99, 1), (1, 99), (None, None)])
def test_objects_are_ordered_by_their_pixels_whatever_is_said_of_their_area(
    tmp_path: Path, areas: tuple[int | None, int | None]
) -> None:
    small: dict[str, Any] = {"category_id": 2, "segmentation": SQUARE}
    large: dict[str, Any] = {"segmentation": {"size": [4, 6], "counts": [0, 24]}}
    for one, area in zip((small, large), areas, strict=True):
        one |= {} if area is None else {"area": area}
    coco(tmp_path, small, large, names=("cup", "table"))
    wanted = np.ones((4, 6), dtype=int)
    wanted[1:3, 1:4] = 2
    assert masks(tmp_path).items[0].read().tolist() == wanted.tolist()


LOST: dict[str, tuple[Any, str]] = {
    "none": (None, "it has neither polygons nor run lengths"),
    "no list": ([], "it has neither polygons nor run lengths"),
    "two corners": ([[1, 2, 3, 4]], "a polygon has 4 numbers, but three corners need 6"),
    "empty polygon": ([[]], "a polygon is empty"),
    "half a corner": ([[1, 1, 3, 1, 3, 3, 2]], "a polygon has 7 numbers, so an x has no y"),
    "words": ([["1", "1", "3", "1", "3", "3"]], "a polygon is not a list of numbers"),
    "elsewhere": ([[7, 1, 9, 1, 9, 3]], "a polygon is outside of its 6 x 4 image"),
    "size turned": (
        {"size": [6, 4], "counts": [24]},
        r"its run lengths are for \(height, width\) = \[6, 4\], but its image",
    ),
    "no runs": ({"size": [4, 6]}, "its run lengths do not sum to the 24 pixels"),
    "too few runs": ({"size": [4, 6], "counts": [3, 3]}, "its run lengths do not sum to the 24 pixels"),
    "damaged text": ({"size": [4, 6], "counts": "!!"}, "its run lengths are damaged"),
    "cut text": ({"size": [4, 6], "counts": "o"}, "its run lengths are damaged"),
}


@pytest.mark.parametrize("what", LOST)
def test_what_cannot_be_painted_is_named_and_nothing_else_is_lost(tmp_path: Path, what: str) -> None:
    segmentation, why = LOST[what]
    coco(tmp_path, {"segmentation": SQUARE}, {"segmentation": segmentation}, names=("dog",))
    with pytest.warns(DataWarning, match=f"1 of 2 annotations of .* annotation 51 of 000000000007.jpg: {why}") as told:
        found = masks(tmp_path)
    assert len([one for one in told if one.category is DataWarning]) == 1
    assert found.items[0].read().sum() == 6


def test_a_part_that_cannot_be_painted_costs_no_other_part(tmp_path: Path) -> None:
    coco(tmp_path, {"segmentation": [[1, 2, 3, 4], *SQUARE, [9, 9, 10, 9, 10, 10]]})
    with pytest.warns(DataWarning, match=r"4 numbers.*; a polygon is outside .*, its other parts are used\."):
        assert masks(tmp_path).items[0].read().sum() == 6


def test_annotations_before_images_and_of_no_category_are_checked_too(tmp_path: Path) -> None:
    file = coco(tmp_path, {"segmentation": SQUARE}, {"segmentation": SQUARE, "category_id": 4}, {"segmentation": []})
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({key: whole[key] for key in ("annotations", "images", "categories")}))
    with pytest.warns(DataWarning, match=r"2 of 3 .* annotation 51 .*category 4 is not listed; annotation 52"):
        assert masks(tmp_path).items[0].read().sum() == 6


def test_boxes_without_outlines_are_no_masks(tmp_path: Path) -> None:
    coco(tmp_path, {"bbox": [0, 0, 2, 2]}, {"bbox": [0, 0, 2, 2], "segmentation": []})
    with pytest.raises(DataError, match=r"2 of 2 annotations .* no object is left .*: the file must contain outlines"):
        masks(tmp_path)


@pytest.mark.parametrize("crowd", [None, 0, False, "0"])
def test_only_a_crowd_is_a_crowd(tmp_path: Path, crowd: Any) -> None:
    coco(tmp_path, {"segmentation": SQUARE} | ({} if crowd is None else {"iscrowd": crowd}))
    assert masks(tmp_path).items[0].read().sum() == 6
    coco(tmp_path, {"segmentation": SQUARE, "iscrowd": 1})
    assert masks(tmp_path).items[0].read().sum() == 6 * VOID


@pytest.mark.parametrize("polygon", [[1, 1, 4, 1, 4, 3, 1, 3], [[[1, 1], [4, 1], [4, 3], [1, 3]]], SQUARE])
def test_polygons_are_painted_in_all_forms_in_which_they_are_written(polygon: Any) -> None:
    assert wrong_with(polygon, (4, 6)) == ("", True)
    assert inside(polygon, (4, 6)).sum() == 6


def test_a_polygon_is_cut_at_the_edges_of_its_image() -> None:
    assert wrong_with([[-5, -5, 3, -5, 3, 2, -5, 2]], (4, 6)) == ("", True)
    found = inside([[-5, -5, 3, -5, 3, 2, -5, 2]], (4, 6))
    assert found.sum() == 6 and found[:2, :3].all()


def test_run_lengths_are_those_of_pycocotools() -> None:
    from pycocotools import mask as tools

    random = np.random.default_rng(3)
    for share in (0.02, 0.5, 0.98):
        shape = random.random((37, 211)) < share
        packed = tools.encode(np.asfortranarray(shape.astype(np.uint8)))
        for counts in (packed["counts"], packed["counts"].decode(), unpacked(packed["counts"])):
            assert (inside({"size": [37, 211], "counts": counts}, (37, 211)) == shape).all()


def test_images_that_share_a_name_keep_their_own_masks(tmp_path: Path) -> None:
    files = ("a/1.jpg", "b/1.png", "2.PNG")
    coco(tmp_path, {"segmentation": SQUARE}, {"segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]], "image_id": 8}, files=files)
    found = masks(tmp_path).items
    assert [(one.name, int(one.read().sum())) for one in found] == [("a_1.jpg", 6), ("b_1.png", 1), ("2", 0)]
    assert [one.image for one in found] == [tmp_path / "val2017" / name for name in files]


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    coco(tmp_path, {"segmentation": SQUARE})
    Image.new("RGB", (5, 4)).save(tmp_path / "val2017/000000000007.jpg")
    item = masks(tmp_path).items[0]
    with pytest.raises(DataError, match=r"mask of '000000000007', .* has 6 x 4 pixels, but its image 5 x 4"):
        item.read()
