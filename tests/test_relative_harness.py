"""The recipe that finds worn things inside a person's box: which things count, boxes in pixels, scores by hand."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eclip
import tiny
from eclip.datasets.phrases import Phrase, Phrased

PATH = Path(__file__).parents[1] / "recipes" / "relatives" / "harness" / "harness.py"
SPEC = importlib.util.spec_from_file_location("relative_harness", PATH)
assert SPEC is not None and SPEC.loader is not None
recipe = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(recipe)

PERSON, LARGER = (0.2, 0.0, 0.6, 1.0), (0.0, 0.0, 0.9, 1.0)
HAT, COAT, FLAG = (0.3, 0.0, 0.5, 0.2), (0.2, 0.1, 0.6, 0.95), (0.7, 0.0, 0.8, 0.2)


@pytest.fixture
def items(tmp_path: Path) -> list[Phrased]:
    """Two images of 50 x 40 pixels; the hat is white, all else is gray."""
    pixels = np.full((40, 50, 3), 90, np.uint8)
    pixels[0:8, 15:25] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[:, ::-1]).save(tmp_path / "b.png")
    people = Phrase("two people", (LARGER, PERSON), ("people",))
    own = (
        people,
        Phrase("a hat", (HAT,), ("clothing",)),
        Phrase("a white hat", (HAT,), ("clothing",)),  # the same thing again
        Phrase("a coat", (COAT,), ("clothing",)),  # fills most of the smaller person, but not of the larger
        Phrase("a flag", (FLAG,), ("other",)),
        Phrase("two shoes", (HAT, FLAG), ("clothing",)),
    )
    mirrored = (
        Phrase("a man", ((0.4, 0.0, 0.8, 1.0),), ("people",)),
        Phrase("hat", ((0.5, 0, 0.7, 0.2),), ("clothing",)),
    )
    return [Phrased("a", tmp_path / "a.png", own), Phrased("b", tmp_path / "b.png", mirrored)]


def test_things_have_the_smallest_person_around_them(items: list[Phrased]) -> None:
    found = recipe.worn(items)
    assert [(one.image, one.text, one.person) for one in found] == [
        (0, "a hat", PERSON),
        (0, "a coat", LARGER),
        (1, "hat", (0.4, 0.0, 0.8, 1.0)),
    ]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0.0, 0.0, 1.0, 1.0), (0, 0, 50, 40)),
        ((0.25, 0.5, 0.51, 0.76), (12, 20, 26, 31)),
        ((1.0, 1.0, 1.0, 1.0), (49, 39, 50, 40)),
        ((0.5, 0.5, 0.5, 0.5), (25, 20, 26, 21)),
    ],
)
def test_boxes_in_pixels(box: tuple[float, ...], expected: tuple[int, ...]) -> None:
    assert recipe.in_pixels(box, (50, 40)) == expected


def test_maps_are_those_of_the_image_and_of_the_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    explain: Callable[..., eclip.Explanation] = eclip.explain
    backbone = tiny.kept("vit")
    monkeypatch.setattr(
        eclip, "explain", lambda image, text, **given: explain(image, text, model=backbone, method="maskclip", **given)
    )
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    whole, crop, both, person = recipe.maps_of(image, "a hat", (10, 5, 40, 35))
    heat = eclip.explain(image, "a hat", health=False).heatmap()[5:35, 10:40]
    assert whole == pytest.approx((heat - heat.min()) / (heat.max() - heat.min()), abs=1e-6)
    own = eclip.explain(image.crop((10, 5, 40, 35)), "a hat", health=False).heatmap()
    assert crop == pytest.approx((own - own.min()) / (own.max() - own.min()), abs=1e-5)
    assert both == pytest.approx((whole + own - (whole + own).min()) / np.ptp(whole + own), abs=1e-4)
    assert np.abs(person - crop).max() > 0.01


def test_scores_by_hand(items: list[Phrased], monkeypatch: pytest.MonkeyPatch) -> None:
    """The map is the brightness, so that it finds the hats and nothing else; the control is dark there."""

    def bright(image: Image.Image, text: str, person: tuple[int, int, int, int]) -> list[np.ndarray]:
        heat = recipe.stretched(np.asarray(image.crop(person).convert("L"), float))
        return [heat, heat, heat, 1 - heat]

    monkeypatch.setattr(recipe, "maps_of", bright)
    things, scores = recipe.measure(items)
    assert scores.shape == (3, len(recipe.NAMES), 2)
    assert scores[[0, 2], 0].tolist() == [[1, 1], [1, 1]]  # both hats: pointing game and IoU of boxes
    assert scores[0, 3, 0] == 0
    assert scores[0, 4, 0] == 0 and scores[1, 4, 0] == 1  # the center of the box is on the coat, not on the hat
    assert scores[2, 5].tolist()[0] > 0  # the hat of the other image is at the same place
    rows = recipe.table(things, scores).splitlines()
    assert len(rows) == 2 + len(recipe.NAMES) + len(recipe.MORE) and "all 3 things" in rows[0]
    assert rows[-2].split("|")[2].strip() == "0.0 ± 0.0"


def test_the_interval_resamples_images() -> None:
    assert recipe.interval(np.array([1.0, 1.0, 1.0]), np.array([0, 1, 2])) == "100.0 ± 0.0"
    together = recipe.interval(np.array([0.0, 1.0] * 20), np.repeat(np.arange(20), 2))  # each image has one of both
    apart = recipe.interval(np.array([0.0] * 20 + [1.0] * 20), np.repeat(np.arange(20), 2))
    assert together == "50.0 ± 0.0" and apart.startswith("50.0 ± 2")
