"""Captions as prompts for the words they mention, and which words are not negatives of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from eclip.datasets.pair import Pair, Place
from eclip.errors import DataError
from eclip.training import word_prompts
from eclip.training.data import Batch
from eclip.training.word_prompts import FalseNegatives, as_words


def said(*captions: str, images: int = 10) -> list[Pair]:
    """So many images with these captions."""
    return [Pair(f"{captions[0]} {number}", Place("nowhere.png", 0, 9), captions) for number in range(images)]


def found(*captions: str, images: int = 10) -> list[str]:
    """The words of an image with these captions, if there are so many of its kind."""
    pairs = [*said(*captions, images=images), *said("a zebra")]
    prompts = as_words(pairs)
    assert prompts[-1] == ("a photo of a zebra",) and len({own for own in prompts[:images]}) == 1
    return [prompt.removeprefix("a photo of a ") for prompt in prompts[0]]


# --- captions to words ---


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("Dogs!", ["dog"]),
        ("two boxes on benches", ["bench", "box"]),
        ("PONIES beneath skies", ["pony", "sky"]),
        ("three men, women and children", ["child", "man", "woman"]),
        ("people", ["person"]),
        ("geese with knives in their feet", ["foot", "goose", "knife"]),
        ("leaves on shelves", ["leaf", "shelf"]),
        ("tubes in the woods", ["tube", "woods"]),
        ("manes and clothes", ["clothes", "mane"]),
        ("a dogma of catalogs", []),
    ],
)
def test_words_are_found_in_the_plural_too(caption: str, wanted: list[str]) -> None:
    assert found(caption) == wanted


def test_two_words_may_be_one_term() -> None:
    assert "fire hydrant" in found("a yellow fire hydrant") and "fire hydrant" in found("Fire hydrants!")
    assert found("it is on fire") == ["fire"] and "fire hydrant" not in found("a fire near a hydrant")


def test_the_parts_of_a_term_are_not_asked_of_its_image() -> None:
    assert found("a hot dog on a bench") == ["bench", "hot dog"], "that is no dog"
    assert found("a hot dog", "hot dogs and a bench", "a dog on a bench") == ["hot dog", "bench"], "who knows"
    assert found("a hot dog", "a dog", "a dog") == ["dog"], "one caption of three names no term"
    pairs = [*said("a hot dog", images=9), *said("a dog", images=1)]
    assert as_words(pairs) == [("a photo of a dog",)] * 10, "nor is there one that nine images have"


def test_of_several_captions_two_must_have_a_word_and_those_of_most_come_first() -> None:
    assert found("a dog", "a cat", "two dogs", "some dog, a dog and a ball") == ["dog"], "a caption counts once"
    assert found("a ball", "a dog with a ball", "dogs, a cat", "a cat, a dog") == ["dog", "ball", "cat"]
    assert found("a dog on a bench") == ["bench", "dog"], "the only caption is enough"
    assert found("a dog", "a cat") == []


def test_words_that_fewer_than_ten_images_have_are_left_out() -> None:
    assert found("a dog on a bench", images=10) == ["bench", "dog"]
    assert found("a dog on a bench", images=9) == []
    pairs = [*said("a dog", images=4), *said("dogs and a cat", images=6), *said("a mood", images=1)]
    assert as_words(pairs) == [("a photo of a dog",)] * 10 + [()], "ten of all, in whatever captions"
    with pytest.raises(
        DataError, match=r"no vocabulary word .* in the captions of at least 10 images: .*--train-texts captions"
    ):
        as_words([*said("a dog", images=9), *said("a cat", images=9)])


def test_the_order_is_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though `forms` are a set, whose order changes from process to process."""
    pairs = said("people, manes, skies, tubes, woods and clothes", "people in clothes beneath skies", "tubes of woods")
    orders, forms = [], word_prompts.forms
    for backward in (False, True):
        monkeypatch.setattr(word_prompts, "forms", lambda word, way=backward: sorted(forms(word), reverse=way))
        orders.append(as_words(pairs))
    assert orders[0] == orders[1]
    assert [word.removeprefix("a photo of a ") for word in orders[0][0]] == [
        "clothes",
        "person",
        "sky",
        "tube",
        "woods",
    ]


# --- aside ---

ANGLES = {"dog": 0, "puppy": 20, "cat": 120, "car": 240, "bus": 265}
TEXTS = [("dog",), ("cat", "car"), (), ("puppy",), ("bus", "cat")]


def read(texts: Sequence[str]) -> torch.Tensor:
    """A circle far from the origin, where all of them are near."""
    angles = torch.tensor([math.radians(ANGLES[text]) for text in texts])
    return torch.stack([9 + angles.cos(), 5 + angles.sin()], dim=1)


def wanted_near(one: str, other: str, near: float) -> bool:
    center = np.mean([(math.cos(math.radians(at)), math.sin(math.radians(at))) for at in ANGLES.values()], axis=0)
    first, second = (
        np.array([math.cos(math.radians(at)), math.sin(math.radians(at))]) - center
        for at in (ANGLES[one], ANGLES[other])
    )
    return one == other or first @ second / math.hypot(*first) / math.hypot(*second) > near


def batch(pairs: int) -> Batch:
    good = torch.ones(pairs, dtype=torch.bool)
    return Batch(torch.ones(pairs, 2, 3).half(), torch.ones(pairs, 2).half(), torch.ones(pairs, 4), good)


def near_of(aside: FalseNegatives, owner: int) -> set[str]:
    names = {number: word for word, number in aside.number.items()}
    row = aside.add(batch(1), np.array([owner]), np.array([0])).false_negatives
    assert row is not None and row.shape == (1, len(names))
    return {names[number] for number in row[0].nonzero()[:, 0].tolist()}


@pytest.mark.parametrize("near", [-0.9, 0.0, 0.5, 0.93, 0.99])
def test_false_negatives_are_an_images_own_words_and_those_near_them(near: float) -> None:
    aside = FalseNegatives(TEXTS, read, near)
    for owner in (0, 1, 3, 4):
        assert near_of(aside, owner) == {
            word for word in ANGLES for own in TEXTS[owner] if wanted_near(own, word, near)
        }


def test_parts_of_a_term_are_false_negatives_of_its_image_alone() -> None:
    prompts = [(f"a photo of a {word}",) for word in ("hot dog", "dog", "cat", "dogma")]
    aside = FalseNegatives(prompts, lambda texts: torch.eye(len(texts)), 0.5)
    own = [{word.removeprefix("a photo of a ") for word in near_of(aside, owner)} for owner in range(4)]
    assert own == [{"hot dog", "dog"}, {"dog"}, {"cat"}, {"dogma"}]


def test_near_decides_which_words_are_false_negatives() -> None:
    assert near_of(FalseNegatives(TEXTS, read, 0.5), 0) == {"dog", "puppy"}
    assert near_of(FalseNegatives(TEXTS, read, 0.5), 1) == {"cat", "car", "bus"}
    for owner in (0, 1, 3, 4):
        assert near_of(FalseNegatives(TEXTS, read, 1.0), owner) == set(TEXTS[owner]), "own words alone"
        assert near_of(FalseNegatives(TEXTS, read, -1.0), owner) == set(ANGLES)
    assert near_of(FalseNegatives([("dog",)], read, 0.5), 0) == {"dog"}, "a word alone is its own mean"


def test_a_batch_is_told_its_words_and_those_of_its_owners() -> None:
    aside, before = FalseNegatives(TEXTS, read, 1.0), batch(4)
    assert list(aside.number) == sorted(ANGLES)
    after = aside.add(before, np.array([4, 1, 0, 4]), np.array([1, 1, 0, 0]))
    assert after.number is not None and after.false_negatives is not None
    assert after.number.tolist() == [aside.number[word] for word in ("cat", "car", "dog", "bus")]
    order = sorted(ANGLES)  # bus car cat dog puppy
    assert [[order[n] for n in row.nonzero()[:, 0]] for row in after.false_negatives] == [
        ["bus", "cat"],
        ["car", "cat"],
        ["dog"],
        ["bus", "cat"],
    ]
    assert all(getattr(after, name) is getattr(before, name) for name in ("rows", "guide", "text", "good"))
