"""The recipe about gaze: its own loop gives the numbers of `eclip.evaluate`, and no map sees what it is scored on."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import eclip
import tiny
from eclip.datasets.packs import osie
from eclip.datasets.phrases import PhraseSet
from eclip.evaluation.protocols import Protocol
from eclip.evaluation.rules import Gaze
from eclip.metrics import saliency

FILE = Path(__file__).parents[1] / "recipes" / "relatives" / "gaze" / "gaze.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("relative_gaze", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path: Path) -> PhraseSet:
    """Five images, each with the fixations of two people, in the layout of the pack."""
    (tmp_path / "osie" / "images").mkdir(parents=True)
    random, rows = np.random.default_rng(0), []
    for seed in range(5):
        pixels = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "osie" / "images" / f"{seed}.png")
        people = [[[*place, 200] for place in random.random((4, 2)).tolist()] for _ in range(2)]
        rows.append(json.dumps({"name": f"{seed}.png", "fixations": people}))
    (tmp_path / "osie" / "fixations.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return osie(tmp_path / "osie", "all")


few = pytest.mark.filterwarnings("ignore:.*fewer than 10:eclip.errors.DataWarning", "ignore::eclip.errors.DataWarning")


@few
def test_the_loop_of_the_recipe_gives_the_numbers_of_evaluate(
    recipe: ModuleType, data: PhraseSet, tmp_path: Path
) -> None:
    backbone = tiny.kept("vit")
    rules = Protocol("gaze of a dog", "a dog", None, "squash", "none", Gaze(text="a dog", sigma=0.03, others=2))
    done = eclip.evaluate(data, out=tmp_path / "out", methods=recipe.ASKED, models=backbone, protocol=rules)
    rows = {row["method"]: row["numbers"] for row in done.results["rows"]}
    found = recipe.combined(data, backbone, "a dog", 2)
    for name, row in ((f"`{recipe.ASKED}`", recipe.ASKED), (recipe.CENTER, "centre")):
        wanted = [rows[row][key]["value"] for key in ("shuffled_auc", "nss")]
        assert found[name].shape == (5, 2) and found[name].mean(axis=0) == pytest.approx(wanted, abs=1e-5)
    lines = {line.name: line for line in recipe.products(found)}
    product = lines[f"`{recipe.ASKED}` times the Gaussian"].numbers
    assert product[2].value == pytest.approx(product[1].value - lines[recipe.CENTER].numbers[1].value)
    assert product[1].low < product[1].value < product[1].high
    assert lines[recipe.CENTER].control and lines[recipe.CENTER].numbers[2].value == 0


def test_the_density_leaves_out_the_image_and_its_negatives(recipe: ModuleType, data: PhraseSet) -> None:
    heat, blob, prior, product, other = recipe.maps_of(data, 1, [0, 3], tiny.kept("vit"), "a dog")
    points = [point for place in (2, 4) for point in data.items[place].phrases[0].yes]
    wanted = saliency.density(np.array(points), (30, 40))
    np.testing.assert_allclose(prior, wanted / wanted.max(), atol=1e-6)
    np.testing.assert_allclose(other, heat * prior, atol=1e-6)
    assert heat.min() == 0 and np.allclose(blob, blob[::-1, ::-1], atol=1e-5) and blob[15, 20] > 3 * blob[0, 0]
    assert (product <= heat.max()).all() and not np.allclose(product, heat)


@few
def test_texts_are_scored_under_copies_of_the_protocol(recipe: ModuleType, data: PhraseSet, tmp_path: Path) -> None:
    backbone, text = tiny.kept("vit"), eclip.PROTOCOLS["gaze-v1"].rules.text
    own = recipe.scored(data, tmp_path / "a", backbone, ["maskclip"], text)
    assert [line.name for line in own] == ["maskclip", "ones", "centre", "random", "bound"]
    assert [line.control for line in own] == [False, True, True, True, True]
    other = recipe.scored(replace(data, items=data.items[:2]), tmp_path / "b", backbone, ["maskclip"], "a cat")
    found = []
    for item in data.items[:2]:
        heat = eclip.explain(item.open(), "a cat", model=backbone, method="maskclip", health=False).heatmap()
        found.append(saliency.nss(heat, np.array(item.phrases[0].yes)))
    assert other[0].numbers[1].value == pytest.approx(np.mean(found), abs=1e-5)
    text_table = recipe.table(own, "method")
    assert "| (ones) | 0.500 [0.500, 0.500] | 0.000 [0.000, 0.000] |" in text_table
    recipe.chart(own, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as picture:
        assert 800 < picture.width <= 1200
