"""The recipe about depth words: the formula by hand, and the two stand-ins for depth on drawn scenes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import tiny

FILE = Path(__file__).parents[1] / "recipes" / "relatives" / "depth-words" / "depth_words.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("relative_depth_words", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_depth_by_hand(recipe: ModuleType) -> None:
    """Cosines of two words, 1 m and 3 m: equal, and with odds of e squared."""
    cosines = torch.tensor([[[0.1, 0.3]], [[0.1, 0.1]]], dtype=torch.float64)
    found = recipe.depth(cosines, [1.0, 3.0], 10.0)
    far = 1 / (1 + np.exp(2))
    np.testing.assert_allclose(found, [[2.0, 1 * (1 - far) + 3 * far]])
    np.testing.assert_allclose(recipe.depth(cosines, [1.0, 3.0], 1e6), [[2.0, 1.0]])


def test_kinds_of_predictions(recipe: ModuleType) -> None:
    cosines = torch.zeros(9 + 7 * recipe.SETS, 2, 3, dtype=torch.float64)
    cosines[5, 0] = 0.5  # "far" in the upper row
    cosines[0, 1] = 0.5  # "giant" in the lower
    cosines[8, 0, 1] = 0.2
    found = recipe.predictions(cosines)
    np.testing.assert_allclose(found[recipe.OWN][0], [[2.75] * 3, [1.0] * 3])
    np.testing.assert_allclose(found["(bins reversed)"][0], [[1.5] * 3, [3.0] * 3])
    np.testing.assert_allclose(found['"far away" against "close up"'][0], [[0, 0.2, 0], [0, 0, 0]])
    np.testing.assert_allclose(found["(row)"][0], [[2] * 3, [1] * 3])
    assert len(found[recipe.OTHERS]) == recipe.SETS
    np.testing.assert_allclose(found[recipe.OTHERS][0], np.mean([*recipe.BINS.values()]))


def test_the_road_is_ordered_by_height(recipe: ModuleType) -> None:
    road = np.array([[0, 1, 0], [0, 1, 1], [1, 1, 1]], dtype=bool)
    rows = np.array([[3.0] * 3, [2.0] * 3, [1.0] * 3])
    assert recipe.ordered(rows, road) == pytest.approx(1) and recipe.ordered(-rows, road) == pytest.approx(-1)
    assert recipe.ordered(np.where(road, 5.0, rows), road) == 0  # constant on the road


def test_what_stands_lower_is_nearer(recipe: ModuleType) -> None:
    mask = np.zeros((80, 80), np.uint8)
    mask[10:30, 10:30] = 1  # a far car
    mask[40:70, 40:60] = 2  # a near pedestrian
    mask[60:80, 0:20] = 1  # cut by the border, so its bottom is unknown
    mask[35:36, 0:3] = 1  # too small
    regions = recipe.standing(mask, [1, 2])
    assert [bottom for bottom, _ in regions] == [30 / 80, 70 / 80]
    rows = np.arange(8, 0, -1.0)[:, None].repeat(8, axis=1)
    assert recipe.right(rows, regions) == [1.0] and recipe.right(-rows, regions) == [0.0]
    assert recipe.right(np.ones((8, 8)), regions) == [0.5] and recipe.right(rows, regions[:1]) == []


def test_the_recipe_runs_on_frames_of_two_videos(recipe: ModuleType, tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / "camvid" / part).mkdir(parents=True)
    random, names = np.random.default_rng(0), ["a_1", "a_2", "b_1"]
    for name in names:
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
            tmp_path / f"camvid/images/{name}.jpg"
        )
        mask = np.zeros((64, 64), np.uint8)
        mask[16:] = 4
        mask[20:30, 5:20], mask[40:60, 30:50] = 9, 10
        Image.fromarray(mask).save(tmp_path / f"camvid/masks/{name}.png")
    classes = "0\tbackground\n4\troad\n9\tcar\n10\tpedestrian"
    (tmp_path / "camvid" / "classes.txt").write_text(classes, encoding="utf-8")
    (tmp_path / "camvid" / "index.tsv").write_text("\n".join(["name", *names]), encoding="utf-8")
    backbone = tiny.kept("vit")
    found = recipe.measure(tmp_path / "camvid", backbone, 1)
    assert len(found) == 2 * len(recipe.predictions(torch.zeros(9 + 7 * recipe.SETS, 1, 1)))
    rows = found["itsm", recipe.OWN]
    assert len(rows) == 6 and rows[:, 0].tolist() == [0, 0, 0, 0, 1, 1]
    assert (found["itsm", "(row)"][:, 3] == 1).all()
    lines = recipe.table(found).splitlines()
    assert "| `itsm` | (row) | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] |" in lines
    recipe.picture([tmp_path / f"camvid/images/{name}.jpg" for name in names], backbone, tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.width == 1000
