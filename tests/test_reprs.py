"""What a notebook shows of each result: one line, a picture, or a table in which no text is markup."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eclip
import tiny
from eclip.datasets.pair import PairSet
from eclip.datasets.phrases import PhraseSet
from eclip.explanation.health import MOST_ROWS, NUMBERS, Health
from eclip.words.relevance import WordRelevance
from test_pages import Parsed, strange


def health(presence: list[list[float]], texts: tuple[str, ...], **more: object) -> Health:
    """With these presences; every other number is inconspicuous."""
    shown = np.array(presence, np.float32)
    usual = {"sensitivity": 0.5, "polarity": math.nan, "artefacts": 0.0, "emptiness": 0.25}
    numbers = {name: np.full_like(shown, value) for name, value in usual.items()}
    return Health(**numbers, presence=shown, texts=texts, **more)  # type: ignore[arg-type]


def test_health_is_one_line_and_a_table() -> None:
    one = health([[0.875, 0.5]], ("a dog", "a cat"))
    assert repr(one) == "Health(1 images, 2 texts, 1 of 2 maps with warnings)"
    parsed = Parsed(one._repr_html_())
    shown = [text.strip() for text in parsed.texts if text.strip()]
    assert shown[:7] == ["text", *NUMBERS, "warnings"]
    assert shown[7:] == [
        *("a dog", "0.50", "0.00", "0.88", "0.25"),  # polarity is not a number: its cell is empty
        *("a cat", "0.50", "0.00", "0.50", "0.25", "scores like unrelated words, so it is probably not in the image"),
    ]
    assert [tag for tag, _ in parsed.tags].count("td") == 2 * (len(NUMBERS) + 1)


def test_health_of_several_images_names_them_and_counts_what_it_leaves_out() -> None:
    many = health([[0.7, 0.8]] * 40, ("a", "b"), notes=("polarity was not computed",))
    assert repr(many) == "Health(40 images, 2 texts, 0 of 80 maps with warnings)"
    parsed = Parsed(many._repr_html_())
    assert [tag for tag, _ in parsed.tags].count("tr") == 1 + MOST_ROWS
    shown = [text.strip() for text in parsed.texts if text.strip()]
    assert shown[:2] == ["image", "text"] and shown[-3:-2] == ["0.25"]
    assert shown[-2:] == ["and 20 more rows", "polarity was not computed"]
    assert shown.count("29") == 2 and "30" not in shown, "two texts each"


def test_nothing_of_a_text_in_health_is_markup() -> None:
    parsed = Parsed(health([[0.5]], (strange("text"),), notes=(strange("note"),))._repr_html_())
    assert {tag for tag, _ in parsed.tags} == {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert strange("text") in parsed.texts and strange("note") in parsed.texts


def words(*sources: str) -> WordRelevance:
    return WordRelevance(
        values=(np.array([[0.5, -0.25]] * len(sources), np.float32),),
        words=((strange("word"), "dog"),),
        scores=np.full((len(sources), 1), 0.25, np.float32),
        texts=(f"{strange('word')} dog",),
        sources=sources,
        signed=True,
        provenance={"method": "gradeclip"},
        images=(Image.new("RGB", (4, 4)),) * len(sources),
    )


def test_words_show_each_text_on_its_colors_and_nothing_is_markup() -> None:
    parsed = Parsed(words("a.png")._repr_html_())
    assert [tag for tag, _ in parsed.tags] == ["p", "span", "span", "span"], "a single image needs no name"
    assert [text for text in parsed.texts if text.strip()] == ["0.250", strange("word"), "dog"]
    assert [attrs.get("title") for _, attrs in parsed.tags[2:]] == ["+66.7 %", "-33.3 %"]
    assert repr(words("a.png")) == "WordRelevance(1 images, 1 texts, gradeclip)"


def test_words_of_several_images_name_them() -> None:
    parsed = Parsed(words(strange("a.png"), "b.png")._repr_html_())
    assert {tag for tag, _ in parsed.tags} == {"p", "b", "span"}
    assert [one for one in parsed.texts if "png" in one] == [strange("a.png"), "b.png"]


@pytest.fixture(scope="module")
def five() -> list[Image.Image]:
    return [Image.new("RGB", (40, 30), (50 * shade, 90, 200 - 40 * shade)) for shade in range(5)]


def picture(made: bytes) -> Image.Image:
    return Image.open(io.BytesIO(made)).convert("RGB")


def test_an_explanation_shows_its_first_images(five: list[Image.Image]) -> None:
    found = eclip.explain(five, [strange("text"), "b"], model=tiny.kept("vit"), method="itsm", health=False)
    shown, strips = picture(found._repr_png_()), [found.strip(image) for image in range(4)]
    assert shown.height == sum(one.height for one in strips)
    top = 0
    for one in strips:
        assert shown.crop((0, top, one.width, top + one.height)).tobytes() == one.tobytes()
        top += one.height
    assert picture(found.only(4)._repr_png_()).tobytes() == found.strip(4).tobytes()


def test_a_segmentation_shows_its_first_images(five: list[Image.Image]) -> None:
    found = eclip.segment(five, [strange("class"), "b"], model=tiny.kept("vit"), health=False)
    shown, parts = picture(found._repr_png_()), [found.picture(image) for image in range(4)]
    assert shown.height == sum(one.height for one in parts)
    assert shown.crop((0, 0, *parts[0].size)).tobytes() == parts[0].tobytes()


def test_interactions_show_their_picture(five: list[Image.Image]) -> None:
    found = eclip.interactions(five[0], "a <b>dog</b>", model=tiny.kept("vit"), points=2)
    assert picture(found._repr_png_()).tobytes() == found.picture().tobytes()
    assert repr(found).startswith("Interactions(") and "'a <b>dog</b>', score" in repr(found)


def test_data_sets_and_maps_are_one_short_line(tmp_path: Path, five: list[Image.Image]) -> None:
    for folder in ("images", "masks", "run"):
        (tmp_path / folder).mkdir()
    for number in range(2):
        five[number].save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.eye(30, 40, dtype=np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    (tmp_path / "classes.txt").write_text("1\tdog\n")
    masks = eclip.DATASETS["folder"].read(tmp_path)
    assert repr(masks) == f"MaskSet({tmp_path.name!r}, 2 images, 1 classes)"
    assert repr(dataclasses.replace(masks, name="a\nb")) == r"MaskSet('a\nb', 2 images, 1 classes)"
    assert repr(PairSet("flickr8k test", (), None, [("a", "cut off")])) == (
        "PairSet('flickr8k test', 0 images with captions, 1 left out)"
    )
    assert repr(PairSet("names", (), ("dog", "cat"), [])) == "PairSet('names', 0 images with 2 classes, 0 left out)"
    assert repr(PhraseSet("refcoco val", (), [])) == "PhraseSet('refcoco val', 0 images, 0 left out)"
    texts = {"model": tiny.kept("vit"), "write": ["maps"], "health": False}
    eclip.explain_dataset(str(tmp_path / "images"), ["a dog"], tmp_path / "run", **texts)
    assert repr(eclip.MapDataset(tmp_path / "run")) == f"MapDataset(2 images, {str(tmp_path / 'run')!r})"
