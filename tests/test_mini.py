"""The model in the package: it loads like any other, recognizes the examples, and its maps lie on their objects."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
NAMES = {"cat": "a cat", "dog": "a dog", "elephant": "an elephant", "horses": "a horse"}

BOXES = {  # left, top, right, bottom as shares of the image, read off by eye
    "cat": (0.23, 0.22, 0.75, 0.62),
    "dog": (0.40, 0.35, 0.78, 1.00),
    "elephant": (0.00, 0.00, 0.60, 1.00),
    "horses": (0.36, 0.38, 0.76, 0.76),
}


def test_it_fits_the_package() -> None:
    from eclip.backbones.catalog import MINI

    assert sum(path.stat().st_size for path in MINI.iterdir()) < 41 * 2**20, "45 MiB, less what a head will take"


def test_what_is_said_of_the_head_is_what_it_was_trained_with() -> None:
    """In the README and its table, `METHODS`, the model card, docs/eclip.md and the recipe."""
    from eclip.backbones.catalog import MINI
    from eclip.methods import METHODS
    from eclip.training.config import FREE, TrainConfig, from_toml

    trained = json.loads((MINI / "eclip_head.json").read_text())["trained"]
    form, guide = trained["form"], "no guide" if trained["guide"] == "none" else trained["guide"]
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/eclip.md"))
    card = (MINI / "MODEL_CARD.md").read_text(encoding="utf-8")
    claims = {
        "README.md": re.findall(r"`mini`'s head was trained [^.]+\.", " ".join(readme.split())),
        "the model card": re.findall(
            r"It was trained on Flickr8k's and COCO[^.]+\.toml`: [^.]+\.", " ".join(card.split())
        ),
        "docs/eclip.md": re.findall(r"(?:That of `mini`|It) was trained [^.]+\.", " ".join(page.split()))[:1],
        "its section": re.findall(r"on 7,002 images with captions [^)]+\)", " ".join(page.split()))[:1],
    }
    for place, found in claims.items():
        assert len(found) == 1, place
        assert f"`{form}`" in found[0] and guide in found[0], place
    assert form in METHODS["eclip"].summary and f"{trained['pairs']:,} images" in page
    assert f"{trained['texts']}, `{form}`, {guide}" in page and f"on {trained['texts']}," in card

    texts = [readme, page, card, METHODS["eclip"].summary, *(path.read_text() for path in (ROOT / "src").rglob("*.py"))]
    assert not [one for one in texts if re.search(r"trained\s+(with|by|through)\s+masked\s+max", one)], (
        "the form is ours"
    )
    recipe = TrainConfig(**from_toml(ROOT / "configs" / "eclip-mini.toml")).plain()
    assert {key: trained[key] for key in recipe if key in trained and key not in FREE} == {
        key: value for key, value in recipe.items() if key in trained and key not in FREE
    }
    assert [Path(name).name for name in recipe["train_data"]] == [Path(name).name for name in trained["train_data"]]


def test_each_image_is_best_described_by_its_own_name() -> None:
    import eclip

    images = [IMAGES / f"{name}.jpg" for name in NAMES]
    scores = eclip.explain(images, list(NAMES.values())).scores
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert scores.argmax(axis=0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_the_map_lies_on_the_thing(name: str) -> None:
    import eclip

    heat = eclip.explain(IMAGES / f"{name}.jpg", list(NAMES.values())).heatmap(0, list(NAMES).index(name))
    height, width = heat.shape
    left, top, right, bottom = BOXES[name]
    inside = np.zeros_like(heat, dtype=bool)
    inside[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    assert inside[np.unravel_index(heat.argmax(), heat.shape)], "the peak lies on it"
    assert heat[inside].mean() - heat[~inside].mean() > 0.1
