"""Parts of the recipe of `mini` that decide what it is trained on: duplicates of test images, and tokens of phrases."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageOps

FOLDER = Path(__file__).parents[1] / "recipes" / "mini"


@pytest.fixture(scope="module")
def recipe() -> Iterator[dict[str, ModuleType]]:
    """Modules of the recipe by name; they are scripts beside each other, not a package."""
    names = {path.stem for path in FOLDER.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield {name: importlib.import_module(name) for name in ("duplicates", "features", "phrases", "texts")}
    for name in names & sys.modules.keys():
        del sys.modules[name]
    sys.modules.update(before)


def _scene(seed: int) -> Image.Image:
    """Soft blobs of gray, which a hash of low frequencies can distinguish."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    return Image.fromarray(values).resize((160, 120), Image.Resampling.BICUBIC)


def _matches(recipe: dict[str, ModuleType], trained: Image.Image, tested: Image.Image) -> bool:
    own = recipe["duplicates"]
    one, other = (
        own.thumbnails(iter([(image, None)]), mirrored=mirrored)
        for image, mirrored in ((trained, False), (tested, True))
    )
    pairs = [(0, crop) for crop in range(other.shape[1])]
    pairs += [(crop, place) for crop in range(1, one.shape[1]) for place in (0, one.shape[1])]
    hashes = own.perceptual_hash(one), own.perceptual_hash(other)
    units = own.standardized(one), own.standardized(other)
    return any(
        list(own.close(hashes[0][:, a], hashes[1][:, b])) and units[0][0, a] @ units[1][0, b] >= own.CORRELATION
        for a, b in pairs
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_test_image_is_found_whole_squashed_cropped_and_mirrored(recipe: dict[str, ModuleType], seed: int) -> None:
    image = _scene(seed)
    width, height = image.size
    center = image.crop((0.075 * width, 0.075 * height, 0.925 * width, 0.925 * height))  # 85 % of each side
    assert _matches(recipe, image, image)
    assert _matches(recipe, image.resize((192, 192)), image)
    assert _matches(recipe, ImageOps.mirror(image), image)
    assert _matches(recipe, center, image)
    assert _matches(recipe, image, center)
    assert _matches(recipe, ImageOps.mirror(center), image)
    assert not _matches(recipe, _scene(seed + 100), image)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        (((0.0, 0.0, 0.5, 1.0),), {0, 1, 4, 5, 8, 9, 12, 13}),
        (((0.0, 0.0, 0.3, 0.3),), {0}),  # less than half of the neighbors is covered
        (((0.0, 0.0, 0.4, 0.25),), {0, 1}),  # 60 % of the second
        (((0.55, 0.55, 0.6, 0.6),), {10}),  # smaller than half of a token: where it is
        (((0.0, 0.0, 0.25, 0.25), (0.75, 0.75, 1.0, 1.0)), {0, 15}),
        ((), set()),
    ],
)
def test_tokens_of_a_phrase_are_those_in_its_boxes(
    recipe: dict[str, ModuleType], boxes: tuple[tuple[float, ...], ...], expected: set[int]
) -> None:
    assert set(np.flatnonzero(recipe["phrases"].tokens_inside(boxes, 4))) == expected


@pytest.mark.parametrize("view", range(5))
@pytest.mark.parametrize("place", range(3))
def test_a_phrase_has_the_tokens_of_its_box_in_every_view(recipe: dict[str, ModuleType], view: int, place: int) -> None:
    """A white box is drawn into a black image: its tokens are those that are mostly white in the view."""
    width, height, box = 300, 200, (0.4, 0.3, 0.8, 0.6)
    pixels = np.zeros((height, width), np.uint8)
    pixels[60:120, 120:240] = 255
    seen = recipe["features"].crop_box(view, place)
    white = recipe["features"].squash(Image.fromarray(pixels), 64, seen)[0].reshape(8, 8, 8, 8).mean((1, 3)) / 2 + 0.5
    inside = recipe["phrases"].tokens_inside(recipe["phrases"].seen_in((box,), seen), 8).reshape(8, 8)
    assert inside.any() and white[inside].min() > 0.4 and white[~inside].max() < 0.6


def test_a_view_that_shows_less_than_half_of_a_box_does_not_show_the_phrase(recipe: dict[str, ModuleType]) -> None:
    seen_in = recipe["phrases"].seen_in
    boxes = ((0.0, 0.0, 0.2, 0.5), (0.5, 0.5, 0.9, 0.9), (0.95, 0.0, 1.0, 0.1))
    assert seen_in(boxes, (0.0, 0.0, 1.0, 1.0)) == boxes
    assert seen_in(boxes, (0.15, 0.2, 0.75, 0.8)) == ()  # 47 % of the second
    (kept,) = seen_in(boxes, (0.1, 0.1, 0.8, 0.9))
    assert kept == pytest.approx((4 / 7, 0.5, 1.0, 1.0))
    (mirrored,) = seen_in(boxes, (0.8, 0.1, 0.1, 0.9))
    assert mirrored == pytest.approx((0.0, 0.5, 3 / 7, 1.0))


def test_phrases_are_drawn_with_the_tokens_of_their_own_image(recipe: dict[str, ModuleType]) -> None:
    """Images that are left out have none, and images without phrases are not in the answer."""
    import torch

    module = recipe["phrases"]
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    phrases = [module.Phrase(text, image, (box,)) for text, image, box in
               [("a dog", 0, left), ("a ball", 0, right), ("a cat", 1, left), ("a tree", 3, right)]]  # fmt: skip
    own = module.Phrases(phrases, {0: 0, 3: 1}, 2)  # image 1 is left out
    drawn = own.draw(torch.tensor([1, 7, 0]), each=2)
    assert drawn.images.tolist() == [0, 2]
    assert drawn.texts[:2] == ["a tree", "a tree"] and sorted(drawn.texts[2:]) == ["a ball", "a dog"]
    sides = {"a tree": [1, 3], "a ball": [1, 3], "a dog": [0, 2]}
    inside = drawn.inside.flatten(0, 1)
    assert [inside[i].nonzero().flatten().tolist() for i in range(4)] == [sides[text] for text in drawn.texts]


def test_texts_resume_only_from_whole_parts_of_the_same_texts(
    recipe: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Encoder:
        def encode(self, texts: list[str], **given: object) -> np.ndarray:
            return np.array([[len(text)] for text in texts], float)

    def encoded(*texts: str) -> list[float]:
        return recipe["texts"].encoded(Encoder(), list(texts), tmp_path).ravel().tolist()

    assert encoded("a", "bc") == [1, 2] and encoded("abc", "d") == [3, 1] and encoded("a", "bc") == [1, 2]
    save = np.save

    def killed(file: Path, array: np.ndarray) -> None:
        save(file, array)
        file.write_bytes(file.read_bytes()[:40])
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        encoded("abcd")
    monkeypatch.setattr(np, "save", save)
    assert encoded("abcd") == [4]
