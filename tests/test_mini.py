"""The model in the package: it loads like any other, knows what it claims, and its maps lie where the things are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

PHOTOS = Path(__file__).parents[1] / "docs" / "photos"
NAMES = {"cat": "a cat", "dog": "a dog", "elephant": "an elephant", "horses": "a horse"}

BOXES = {  # left, top, right, bottom as shares of the photo, read off by eye
    "cat": (0.23, 0.22, 0.75, 0.62),
    "dog": (0.40, 0.35, 0.78, 1.00),
    "elephant": (0.00, 0.00, 0.60, 1.00),
    "horses": (0.36, 0.38, 0.76, 0.76),
}


def test_it_fits_the_package() -> None:
    from eclip.backbones.catalog import MINI

    assert sum(path.stat().st_size for path in MINI.iterdir()) < 41 * 2**20, "45 MiB, less what a head will take"


def test_each_photo_is_best_described_by_its_own_name() -> None:
    import eclip

    photos = [PHOTOS / f"{name}.jpg" for name in NAMES]
    scores = eclip.explain(photos, list(NAMES.values())).scores
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert scores.argmax(axis=0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_the_map_lies_on_the_thing(name: str) -> None:
    import eclip

    heat = eclip.explain(PHOTOS / f"{name}.jpg", list(NAMES.values())).heatmap(0, list(NAMES).index(name))
    height, width = heat.shape
    left, top, right, bottom = BOXES[name]
    inside = np.zeros_like(heat, dtype=bool)
    inside[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    assert inside[np.unravel_index(heat.argmax(), heat.shape)], "the peak lies on it"
    assert heat[inside].mean() - heat[~inside].mean() > 0.1
