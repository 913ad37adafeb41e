"""Images and texts by number or by name, everywhere; anything else raises an error of one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eclip
from eclip.errors import EqualTextsWarning, OptionError
from eclip.explanation.explanation import Explanation
from eclip.results.indexing import image_and_text, image_of, number_of

TEXTS = ["a dog", "grass", "the sea"]


@pytest.fixture(scope="module")
def answer(tiny_name: str, images: Path) -> Explanation:
    found = eclip.explain([images / "a.png", images / "b.jpg"], TEXTS, model=tiny_name, method="itsm")
    return replace(found, maps=np.random.default_rng(0).random(found.maps.shape, np.float32))  # unlike enough


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return all(_same(left, right) for left, right in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other if isinstance(one, str | list | dict) else one.tobytes() == other.tobytes())


TAKEN: dict[str, Callable[..., Any]] = {
    name: getattr(Explanation, name) for name in ("heatmap", "overlay", "mask", "boxes", "points")
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_name_is_as_good_as_a_number(answer: Explanation, name: str) -> None:
    take = getattr(answer, name)
    right = take(1, 2)
    path = answer.sources[1]
    for image in (1, -1, np.int64(1), path, Path(path), "b.jpg"):
        for text in (2, -1, np.int32(2), "the sea"):
            assert _same(take(image, text), right), (image, text)
    assert not _same(take(0, 2), right) and not _same(take(1, 0), right)
    assert _same(take("the sea"), take(0, 2)) and _same(take(text="the sea"), take(0, 2))
    assert _same(take(), take(0, 0)) and _same(take("b.jpg"), take(1, 0))


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((2, 0), r"there is no image 2: there are 2 images, numbered 0 to 1\."),
        ((-3, 0), "there is no image -3"),
        ((0, 3), r"there is no text 3: there are 3 texts, numbered 0 to 2\."),
        ((True, 0), "image must be a number or a name, got True"),
        ((0, False), "text must be a number or a name, got False"),
        ((0, 1.0), "text must be a number or a name, got 1.0"),
        ((None, 0), "image must be a number or a name, got None"),
        (("a dgo",), r"there is no text 'a dgo'; there are a dog, grass, the sea\. Did you mean 'a dog'\?"),
        ((0, "A Dog"), "there is no text 'A Dog'; .*Did you mean 'a dog'"),
        ((0, "zebra"), r"there is no text 'zebra'; there are a dog, grass, the sea\.$"),
        (("a dog", 0), r"there is no image 'a dog': the image comes first, as in \(0, 'a dog'\)\."),
        (("c.png", 0), r"there is no image 'c\.png'; there are .*a\.png, .*b\.jpg\."),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    answer: Explanation, shapes_unchecked: Any, name: str, place: Any, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        getattr(answer, name)(*place)


def test_pictures_of_an_image_alone(answer: Explanation) -> None:
    for take in (answer.image, answer.strip, answer.best_texts):
        assert _same(take("b.jpg"), take(1)) and _same(take(-1), take(1))
        with pytest.raises(OptionError, match="there is no image 2: there are 2 images"):
            take(2)
        with pytest.raises(OptionError, match="'a dog' is not an image: use the number or the path of an image here"):
            take("a dog")
    assert answer.label("grass") == answer.label(1) == "grass"


def test_arrays_and_tensors_of_numbers_are_several(answer: Explanation) -> None:
    for last in (np.array([1]), torch.tensor([1]), np.flatnonzero([False, True])):
        assert answer.only(last).sources == answer.sources[1:]
    assert answer.health is not None and answer.health.only(np.array([1, 0])).presence.shape == (2, 3)
    with pytest.raises(OptionError, match="image must be a number or a name, got True"):
        answer.only(np.array([True, False]))


def test_health_takes_numbers_of_images_alone(answer: Explanation) -> None:
    assert answer.health is not None
    for ask in (answer.health.warnings, answer.health.reasons, answer.health.doubts, answer.health.only):
        with pytest.raises(
            OptionError, match=r"image must be a number here, as in warnings\(0, 'a dog'\), got 'a dog'"
        ):
            ask("a dog")
        with pytest.raises(OptionError, match="there is no image 2: there are 2 images"):
            ask(2)


def test_one_is_one_and_a_name_that_several_have_needs_a_number(tiny_name: str, images: Path) -> None:
    with pytest.warns(EqualTextsWarning, match=r"'a dog' \(2 times\)"):
        one = eclip.explain(images / "a.png", ["a dog", "grass", "a dog"], model=tiny_name, method="itsm")
    with pytest.raises(OptionError, match=r"there is no image 1: there is 1 image, number 0\."):
        one.heatmap(1, 0)
    with pytest.raises(OptionError, match=r"texts 0 and 2 are all named 'a dog': use the number\."):
        one.heatmap("a dog")
    assert one.mask("grass").shape == (30, 40)
    with pytest.raises(OptionError, match=r"images 0 and 1 are all named 'a\.png'"):
        image_of("a.png", ["x/a.png", "y/a.png"])
    assert image_of("y/a.png", ["x/a.png", "y/a.png"]) == 1
    with pytest.raises(OptionError, match="there are no texts"):
        number_of(0, (), "text")
    assert image_and_text("a dog", None, ["image 0"], ["a dog"]) == (0, 0)


def test_no_threshold_is_the_one_that_is_found(answer: Explanation) -> None:
    assert np.array_equal(answer.mask(threshold=None), answer.mask(threshold="otsu"))
    assert np.array_equal(answer.boxes(threshold=None), answer.boxes())
    for half in (np.float32(0.5), np.float64(0.5)):
        assert np.array_equal(answer.mask("grass", threshold=half), answer.heatmap("grass") >= 0.5)


@pytest.mark.parametrize("wrong", ["0.5", True, np.array([0.1, 0.2]), torch.zeros(2), 1.1, float("nan")])
def test_a_threshold_that_is_none_is_told(answer: Explanation, shapes_unchecked: Any, wrong: Any) -> None:
    with pytest.raises(OptionError, match="threshold must be 'otsu' or a number in"):
        answer.mask(threshold=wrong)


def test_health_by_name(answer: Explanation) -> None:
    health = answer.health
    assert health is not None
    told = [[health.warnings(image, text) for text in range(3)] for image in range(2)]
    assert any(map(any, told)), "there is something to tell apart"
    assert [[health.warnings(image - 2, text) for text in TEXTS] for image in range(2)] == told
    for ask in (health.summary, health.warnings):
        with pytest.raises(OptionError, match="there is no image 2: there are 2 images"):
            ask(2)
    with pytest.raises(OptionError, match=r"there is no text 'a dgo'; .*Did you mean 'a dog'"):
        health.warnings(0, "a dgo")


def test_classes_of_a_segmentation_by_name(tiny_name: str, images: Path) -> None:
    paths = [images / "a.png", images / "b.jpg"]
    found = eclip.segment(paths, ["dog", "grass"], model=tiny_name, templates="none")
    right = found.labels[1] == 2
    assert right.any() and not right.all()
    for image in (1, -1, "b.jpg", paths[1]):
        assert np.array_equal(found.mask(image, "grass"), right) and np.array_equal(found.mask(image, 2), right)
        assert found.areas(image) == found.areas(1) and found.picture(image).tobytes() == found.picture(1).tobytes()
        assert found.overlay(image, legend=False).tobytes() == found.overlay(1, legend=False).tobytes()
        assert found.boxes(image).keys() == found.boxes(1).keys()
    assert np.array_equal(found.mask("grass"), found.mask(0, "grass"))
    for wrong, message in (
        ((2, "dog"), "there is no image 2: there are 2 images"),
        (
            (0, "gras"),
            r"there is no class 'gras'; there are background, dog, grass\. Did you mean 'grass'\?",
        ),
        ((0, 3), "there is no class 3: there are 3 classes, numbered 0 to 2"),
        ((0,), r"mask needs the name of a class, such as mask\(0, 'grass'\)"),
    ):
        with pytest.raises(OptionError, match=message):
            found.mask(*wrong)
    for take in (found.areas, found.boxes, found.overlay, found.picture):
        with pytest.raises(OptionError, match="there is no image 2"):
            take(2)
        with pytest.raises(OptionError, match="'dog' is not an image"):
            take("dog")


def test_words_of_a_text_by_name(tiny_name: str, images: Path) -> None:
    paths = [images / "a.png", images / "b.jpg"]
    words = eclip.explain_words(paths, ["a big dog", "grass"], model=tiny_name)
    right = words.shares(1, 0)
    for image in (1, "b.jpg", paths[1]):
        assert np.array_equal(words.shares(image, "a big dog"), right)
        assert words.entries(image) == words.entries(1) and words.html(image) == words.html(1)
    assert np.array_equal(words.shares("a big dog"), words.shares(0, 0)) and words.shares("grass").shape == (1,)
    with pytest.raises(OptionError, match="there is no image 2: there are 2 images"):
        words.shares(2)
    with pytest.raises(OptionError, match=r"there is no text 'gras'; .*Did you mean 'grass'"):
        words.shares(0, "gras")
    for take in (words.entries, words.html):
        with pytest.raises(OptionError, match="there is no image 2"):
            take(2)


def test_what_is_loaded_again_has_its_names(answer: Explanation, tmp_path: Path) -> None:
    answer.save(tmp_path)
    again = Explanation.load(tmp_path)
    assert np.array_equal(again.heatmap("b.jpg", "grass"), answer.heatmap(1, 1))
