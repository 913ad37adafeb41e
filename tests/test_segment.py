"""`eclip.segment`: labels by hand, windows, words, what is left on disk, and the command."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import eclip
import tiny
from eclip import cli, heatmap
from eclip.errors import EclipError, ImageError, OptionError, ResultError, TextError, UnknownNameError
from eclip.render.label_map import indexed, palette, tinted
from eclip.results.coco import coco_mask, runs
from eclip.segmentation.classes import class_words
from eclip.segmentation.labels import Piece, label_pixels
from eclip.segmentation.segmentation import SegmentWriter
from eclip.segmentation.windows import check_windows, windows

IMAGES = Path(__file__).parents[1] / "docs" / "images"


# --- words ---


def test_names_synonyms_and_background() -> None:
    words = class_words(["dog", "person, man,  young woman"], "sky, wall")
    assert words.names == ("background", "dog", "person")
    assert words.texts == ["sky", "wall", "dog", "person", "man", "young woman"]
    assert words.places == {0: range(0, 2), 1: range(2, 3), 2: range(3, 6)}
    bare = class_words({"thing": ["cup", "bowl"], "dog": "dog, puppy"})
    assert (bare.names, bare.texts) == (("background", "thing", "dog"), ["cup", "bowl", "dog", "puppy"])
    assert class_words({"a\n  dog ": "dog", "cat": "cat"}).names[1:] == ("a dog", "cat")
    for wall in (np.array(["sky", "wall"]), iter(["sky", "wall"])):
        assert class_words(["dog", "cat"], wall).texts == ["sky", "wall", "dog", "cat"]
    for none in ("", (), [], np.array([], str), iter([]), None):
        assert class_words(["dog", "cat"], none).texts == ["dog", "cat"]
    assert bare.places == {1: range(0, 2), 2: range(2, 4)}, "a background without words is no class"


@pytest.mark.parametrize(
    ("classes", "background", "error", "says"),
    [
        ([], (), TextError, "no class"),
        ("dog", (), OptionError, "must be a list"),
        (["dog", " "], (), TextError, "empty"),
        (["dog", "cat,"], (), TextError, "empty"),
        (["dog", 3], (), TextError, "class 3"),
        (["dog", ["cat", 3]], (), TextError, "got int"),
        ({"dog": [], "cat": "cat"}, (), TextError, "class 'dog' has no words"),
        (["dog", [], "cat"], (), TextError, r"class \[\] has no words"),
        (["dog", "cat"], 0, TextError, "words of background must be a string or a list of them, got int"),
        (["dog", "cat"], False, TextError, "got bool"),
        (["dog", "cat"], [0], TextError, "a word of background must be a string, got int"),
        (["dog", "cat"], {}, TextError, "got dict"),
        ({" \n": "dog", "cat": "cat"}, (), TextError, "the name of a class is empty"),
        ({"dog": ["dog, puppy"], "cat": "cat"}, (), TextError, "comma"),
        (["dog", "Dog"], (), OptionError, "the class 'Dog' is given twice"),
        (["dog", "cat, dog"], (), OptionError, "the word 'dog' is given twice"),
        (["dog", "sky"], "grass, sky", OptionError, "the word 'sky' is given twice"),
        (["dog", "Background"], (), OptionError, "reserved for label 0"),
        (["dog"], (), OptionError, "would take every pixel"),
    ],
)
def test_words_that_cannot_be_classes(classes: Any, background: Any, error: type[EclipError], says: str) -> None:
    with pytest.raises(error, match=says):
        class_words(classes, background)


# --- labels ---


def _whole(maps: list[Any], size: tuple[int, int] = (2, 2)) -> list[Piece]:
    return [Piece((0, 0, size[1], size[0]), torch.tensor(maps))]


def test_largest_class_softmax_and_threshold_by_hand() -> None:
    # text 0 is class 1; texts 1 and 2 are class 2, of which the larger counts
    maps = [[[1.0, 0.0], [0.0, 0.5]], [[0.0, 2.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, 0.25]]]
    places = {1: [0], 2: [1, 2]}
    labels, shares = label_pixels(_whole(maps), (2, 2), places, scale=2.0)
    np.testing.assert_array_equal(labels, [[1, 2], [1, 1]])  # equals: the first
    assert labels.dtype == np.uint8
    # logits ahead by 0.5, 2, 0, 0.25, times 2
    wanted = 1 / (1 + np.exp(-2 * np.array([[0.5, 2.0], [0.0, 0.25]])))
    np.testing.assert_allclose(shares, wanted, rtol=1e-6)
    cut, same = label_pixels(_whole(maps), (2, 2), places, scale=2.0, prob_threshold=0.7)
    np.testing.assert_array_equal(cut, [[1, 2], [0, 0]])  # 0.73, 0.98, 0.5, 0.62
    np.testing.assert_array_equal(same, shares)


def test_background_is_the_largest_of_its_words() -> None:
    maps = [[[0.0, 3.0]], [[2.0, 0.0]], [[1.0, 1.0]]]
    labels, _ = label_pixels(_whole(maps, (1, 2)), (1, 2), {0: [0, 1], 1: [2]}, scale=1.0)
    np.testing.assert_array_equal(labels, [[0, 0]])
    labels, _ = label_pixels(_whole(maps, (1, 2)), (1, 2), {0: [0], 1: [2]}, scale=1.0)
    np.testing.assert_array_equal(labels, [[1, 0]])


def test_small_classes_give_way_to_the_next_in_line() -> None:
    # class 1 has two pixels of four, classes 2 and 3 one each; the next in line are 1 and 2
    maps = [[[9.0, 9.0], [2.0, 0.0]], [[0.0, 0.0], [3.0, 1.0]], [[0.0, 0.0], [0.0, 2.0]]]
    places = {1: [0], 2: [1], 3: [2]}
    plain, shares = label_pixels(_whole(maps), (2, 2), places, scale=1.0)
    np.testing.assert_array_equal(plain, [[1, 1], [2, 3]])
    for least, wanted in ((0.24, [[1, 1], [2, 3]]), (0.25, [[1, 1], [1, 1]]), (0.5, [[0, 0], [0, 0]])):
        labels, _ = label_pixels(_whole(maps), (2, 2), places, scale=1.0, area_threshold=least)
        np.testing.assert_array_equal(labels, wanted)
    _, less = label_pixels(_whole(maps), (2, 2), places, scale=1.0, area_threshold=0.25)
    # the softmax stays over all classes: where 1 takes over from 3, its share is that of its own logit
    assert less[1, 1] == pytest.approx(1 / (1 + np.e + np.e**2), rel=1e-6)
    assert shares[1, 1] == pytest.approx(np.e**2 / (1 + np.e + np.e**2), rel=1e-6)
    _, none = label_pixels(_whole(maps), (2, 2), places, scale=1.0, area_threshold=0.5)
    np.testing.assert_array_equal(none, shares)  # where no class is left, that of the class that lost the pixel


def test_logits_are_resized_before_the_softmax() -> None:
    maps = [[[0.0, 10.0]], [[4.0, 0.0]]]
    labels, shares = label_pixels(_whole(maps, (1, 8)), (1, 8), {1: [0], 2: [1]}, scale=1.0)
    logits = np.stack([np.interp((np.arange(8) + 0.5) / 4 - 0.5, [0, 1], row[0]) for row in maps])
    np.testing.assert_array_equal(labels[0], 1 + logits.argmax(axis=0))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=0)
    np.testing.assert_allclose(shares[0], softmax.max(axis=0), rtol=1e-5)


def test_overlapping_windows_are_averaged_by_their_count() -> None:
    pieces = [
        Piece((0, 0, 2, 1), torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]])),
        Piece((1, 0, 3, 1), torch.tensor([[[0.0, 0.0]], [[4.0, 0.5]]])),
    ]
    labels, shares = label_pixels(pieces, (1, 3), {1: [0], 2: [1]}, scale=1.0)
    # logits: 1 and 0; (1 + 0) / 2 and (0 + 4) / 2; 0 and 0.5
    np.testing.assert_array_equal(labels, [[1, 2, 2]])
    np.testing.assert_allclose(shares, [1 / (1 + np.exp([-1.0, -1.5, -0.5]))], rtol=1e-6)


def test_many_classes_need_wider_labels() -> None:
    maps = torch.zeros(300, 1, 1)
    maps[299] = 1
    labels, _ = label_pixels([Piece((0, 0, 1, 1), maps)], (1, 1), {i + 1: [i] for i in range(300)}, scale=40.0)
    assert labels.dtype == np.uint16
    assert labels[0, 0] == 300
    picture = indexed(labels, 300)
    assert picture.mode.startswith("I;16")
    assert np.array(picture)[0, 0] == 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", 0.0),
        ("scale", np.inf),
        ("scale", np.nan),
        ("scale", 1e39),  # infinite in float32
        ("scale", 1e-300),  # zero
        ("scale", 1e-3 / 2),
        ("scale", 1e6 * 2),
        ("prob_threshold", 1.1),
        ("area_threshold", -0.1),
    ],
)
def test_cuts_outside_their_range(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"{name} must be"):
        label_pixels(_whole([[[0.0]]], (1, 1)), (1, 1), {1: [0]}, **{"scale": 1.0, name: value})


# --- windows ---


def test_windows_by_hand() -> None:
    # 336 x 448 as the papers have it: windows of 224 every 112 px, two down and three across
    assert windows((448, 336), 224, 112, 336) == [
        (left, top, left + 224, top + 224) for top in (0, 112) for left in (0, 112, 224)
    ]
    # the same image in half as many pixels of its own, and a last column that is shifted inward
    assert windows((224, 168), 224, 112, 336)[:3] == [(0, 0, 112, 112), (56, 0, 168, 112), (112, 0, 224, 112)]
    assert [box[0] for box in windows((400, 336), 224, 112, 336)[:3]] == [0, 112, 176]
    assert windows((50, 50), 64, 32, 64) == [(0, 0, 50, 50)]


@pytest.mark.parametrize("size", [(7, 5), (1, 1), (1, 40), (500, 333), (37, 300)])
@pytest.mark.parametrize("asked", [(32, 16, 48), (32, 32, 96), (32, 5, 33), (64, 64, 64)])
def test_windows_cover_the_image(size: tuple[int, int], asked: tuple[int, int, int]) -> None:
    count = np.zeros(size[::-1], int)
    for left, top, right, bottom in windows(size, *asked):
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        count[top:bottom, left:right] += 1
    assert count.min() >= 1


def test_windows_have_defaults_and_ranges() -> None:
    assert check_windows(None, None, 448) is None
    assert check_windows(224, None, None) == (112, 336)
    for given, says in (
        ((None, 5, None), "set window too"),
        ((0, None, None), "window must be at least 1"),
        ((64, 65, None), "stride must be between 1 and window=64"),
        ((64, 0, None), "stride"),
        ((64, None, 63), "at least window=64, got 63"),
    ):
        with pytest.raises(OptionError, match=says):
            check_windows(*given)


def _image(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def test_one_window_of_the_images_size_equals_no_windows() -> None:
    backbone, image = tiny.backbone("vit"), _image(50, 50)
    asked: dict[str, Any] = {"model": backbone, "templates": "none", "method": "maskclip"}
    plain = eclip.segment(image, ["dog", "cat", "sky"], **asked)
    slid = eclip.segment(image, ["dog", "cat", "sky"], window=32, image_size=32, **asked)
    np.testing.assert_array_equal(plain.labels[0], slid.labels[0])
    np.testing.assert_array_equal(plain.confidences[0], slid.confidences[0])


def test_windows_are_images_of_their_own_and_batches_change_nothing() -> None:
    backbone, image = tiny.backbone("vit"), _image(96, 64)
    asked: dict[str, Any] = {"model": backbone, "templates": "none", "method": "maskclip", "window": 32}
    names = ["dog", "cat", "sky"]
    found = eclip.segment(image, names, image_size=64, stride=32, **asked)
    assert (found.provenance["window"], found.provenance["stride"], found.provenance["image_size"]) == (32, 32, 64)
    for left, top in ((0, 0), (64, 32)):  # without overlap each window is the segmentation of its cut
        cut = eclip.segment(image.crop((left, top, left + 32, top + 32)), names, model=backbone, templates="none",
                            method="maskclip")  # fmt: skip
        part = found.confidences[0][top : top + 32, left : left + 32]
        np.testing.assert_allclose(part, cut.confidences[0], atol=1e-5)
    small = eclip.segment(image, names, image_size=64, stride=32, batch_size=1, **asked)
    np.testing.assert_allclose(small.confidences[0], found.confidences[0], atol=1e-5)


# --- the whole path ---


def test_labels_are_those_of_explain() -> None:
    backbone, images = tiny.backbone("vit"), [_image(40, 30), _image(30, 44, seed=1)]
    found = eclip.segment(
        images, ["dog, puppy", "cat"], model=backbone, background="sky", method="maskclip", templates="single"
    )
    texts = ["sky", "dog", "puppy", "cat"]
    maps = eclip.explain(images, texts, model=backbone, method="maskclip", templates="single").maps
    for image, picture in enumerate(images):
        sky, dog, puppy, cat = heatmap.resize(torch.from_numpy(maps[image]), picture.size[::-1]).numpy()
        logits = np.stack([sky, np.maximum(dog, puppy), cat])
        np.testing.assert_array_equal(found.labels[image], logits.argmax(axis=0))
        softmax = np.exp(40 * logits - (40 * logits).max(axis=0))
        np.testing.assert_allclose(found.confidences[image], (softmax / softmax.sum(0)).max(axis=0), rtol=1e-4)
    assert found.classes == ("background", "dog", "cat")
    assert found.provenance["words"] == {"dog": ["dog", "puppy"], "cat": ["cat"]}
    assert found.provenance["command"] is None, "images in memory cannot be named in a shell"
    assert repr(found) == "Segmentation(2 images, 2 classes, maskclip on vit)"


@pytest.mark.parametrize("refine", ["pamr", "lposs"])
def test_refined_maps_are_labeled(refine: str) -> None:
    backbone, image = tiny.backbone("vit"), _image(40, 30)
    asked: dict[str, Any] = {"model": backbone, "method": "maskclip", "templates": "none", "refine": refine}
    found = eclip.segment(image, ["dog", "cat"], **asked)
    maps = heatmap.resize(torch.from_numpy(eclip.explain(image, ["dog", "cat"], **asked).maps[0]), (30, 40)).numpy()
    np.testing.assert_array_equal(found.labels[0], 1 + maps.argmax(axis=0))


def test_default_method_follows_the_model() -> None:
    image = _image(40, 30)
    bare = eclip.wrap(tiny.model("vit"), tokenizer=tiny._tokenizer(), mean=tiny.MEAN, std=tiny.STD, name="bare")
    assert eclip.segment(image, ["dog", "cat"], model=bare, templates="none").provenance["method"] == "naclip"
    headed = eclip.with_head(bare, eclip.EclipHead.start(bare))
    assert eclip.segment(image, ["dog", "cat"], model=headed, templates="none").provenance["method"] == "eclip"
    pool = eclip.wrap(tiny.model("resnet"), tokenizer=tiny._tokenizer(), mean=tiny.MEAN, std=tiny.STD, name="pool")
    assert eclip.segment(image, ["dog", "cat"], model=pool, templates="none").provenance["method"] == "maskclip"


def test_surgery_subtracts_nothing_that_moves_a_label_but_its_weights() -> None:
    backbone, image = tiny.backbone("vit"), _image(40, 30)
    names = ["dog", "cat", "sky"]
    asked: dict[str, Any] = {"model": backbone, "method": "surgery", "templates": "none"}
    plain = eclip.explain(image, names, features=False, **asked)
    weights = np.exp(2 * plain.scores[0])
    weighted = plain.maps[0] * (weights / weights.mean())[:, None, None]  # without the mean over texts
    logits = heatmap.resize(torch.from_numpy(weighted), (30, 40)).numpy()
    found = eclip.segment(image, names, **asked).labels[0]
    np.testing.assert_array_equal(found, 1 + logits.argmax(axis=0))
    assert (found != eclip.segment(image, names, features=False, **asked).labels[0]).any()


def test_model_and_random_state_are_untouched() -> None:
    backbone = tiny.backbone("vit")
    backbone.model.train()
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    state = torch.random.get_rng_state()
    eclip.segment(_image(40, 30), ["dog", "cat"], model=backbone, templates="none", window=32, refine="pamr")
    assert torch.equal(state, torch.random.get_rng_state())
    assert backbone.model.training
    for key, value in backbone.model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_images_stream_and_broken_ones_are_told() -> None:
    backbone = tiny.backbone("vit")
    taken = []

    def many() -> Any:
        for number in range(40):
            taken.append(number)
            yield "nowhere.jpg" if number == 1 else _image(40, 30, number)

    failures: list[tuple[str, str]] = []
    asked: dict[str, Any] = {"model": backbone, "templates": "none", "batch_size": 2}
    stream = eclip.segment_each(many(), ["dog", "cat"], failures=failures, **asked)
    first = next(stream)
    assert len(taken) <= 7
    assert [one.sources[0] for one in [first, *stream]] == [f"image {i}" for i in range(40) if i != 1]
    assert failures == [("nowhere.jpg", "nowhere.jpg: no such file.")]
    with pytest.raises(ImageError, match="no such file"):
        list(eclip.segment_each(["nowhere.jpg"], ["dog", "cat"], **asked))


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"method": "legrad"}, OptionError, "'legrad' cannot tell which of two texts"),
        ({"method": "atention"}, UnknownNameError, "Did you mean 'attention'"),
        ({"window": 30}, OptionError, "window must be a multiple of 8, the patch size of vit, got 30"),
        ({"image_size": 30}, OptionError, "multiple of the patch size"),
        ({"resize": "crop"}, OptionError, "resize must be"),
        ({"failures": []}, OptionError, "segment_each"),
        ({"batch_size": 0}, OptionError, "batch_size must be a whole number, at least 1"),
        ({"scale": -1.0}, OptionError, "scale must be between 0.001 and 1,000,000, such as 40, got -1.0"),
        ({"depht": 2, "method": "gem"}, OptionError, "no option 'depht'"),
        ({"refine": "pmar"}, UnknownNameError, "Did you mean 'pamr'"),
    ],
)
def test_what_cannot_be_asked(settings: dict[str, Any], error: type[EclipError], says: str) -> None:
    with pytest.raises(error, match=says):
        eclip.segment(_image(40, 30), ["dog", "cat"], model=tiny.backbone("vit"), **settings)
    with pytest.raises(ImageError, match="no image"):
        eclip.segment([], ["dog", "cat"])


@pytest.mark.parametrize("family", ["vit", "resnet", "siglip", "timm abs_attn", "vit, average pool"])
def test_every_kind_of_tower_segments(family: str) -> None:
    asked: dict[str, Any] = {"model": tiny.backbone(family), "templates": "none"}
    found = eclip.segment(_image(40, 30), ["dog", "cat", "sky"], **asked)
    maps = eclip.explain(_image(40, 30), ["dog", "cat", "sky"], method=found.provenance["method"], **asked).maps[0]
    logits = heatmap.resize(torch.from_numpy(maps), (30, 40)).numpy()
    np.testing.assert_array_equal(found.labels[0], 1 + logits.argmax(axis=0))


# --- what people take from it ---


def _by_hand(labels: Any, names: tuple[str, ...] = ("background", "dog", "cat")) -> eclip.Segmentation:
    array = np.array(labels, np.uint8)
    image = Image.new("RGB", array.shape[::-1], (90, 120, 30))
    provenance = {"model": "mini", "method": "eclip", "refine": None, "words": {}, "command": None}
    return eclip.Segmentation(
        (array,), (np.full(array.shape, 0.5, np.float32),), names, ("image 0",), provenance, (image,)
    )


def test_areas_masks_and_boxes_by_hand() -> None:
    found = _by_hand([[0, 1, 1, 0, 1], [0, 1, 1, 0, 0]])
    assert found.areas() == {"background": 0.5, "dog": 0.5}
    np.testing.assert_array_equal(found.mask(0, "cat"), np.zeros((2, 5), bool))
    with pytest.raises(OptionError, match="no class 'cow'; there are background, dog, cat"):
        found.mask(0, "cow")
    boxes = found.boxes()
    assert list(boxes) == ["dog"]
    np.testing.assert_array_equal(boxes["dog"], [[1, 0, 3, 2], [4, 0, 5, 1]])
    assert len(found.boxes(min_area=0.2)["dog"]) == 1


def test_overlay_shows_the_class_and_its_border() -> None:
    found = _by_hand(np.repeat([[0] * 6 + [2] * 6], 10, axis=0))
    bare = np.array(found.overlay(legend=False))
    assert bare.shape == (10, 12, 3)
    assert len(set(bare[5, 0].tolist())) == 1, "background stays gray"
    color = palette(2)[2].astype(int)
    gray = np.array(found.images[0].convert("L"))[0, 0]
    np.testing.assert_allclose(bare[5, 9], 0.45 * gray + 0.55 * color, atol=1)
    assert bare[5, 6].min() > 200, "the line between the two"
    np.testing.assert_array_equal(np.array(tinted(found.images[0], found.labels[0], 2)), bare)
    whole = np.array(found.overlay())
    assert (whole == color).all(axis=2).sum() > 50, "the square of the legend has the class's own color"
    assert found.picture().width > found.overlay().width + 200


def test_absent_classes_are_faint_and_named_in_the_legend() -> None:
    labels = np.repeat([[0] * 4 + [1] * 4 + [2] * 4], 10, axis=0)
    plain = _by_hand(labels)
    doubted = replace(plain, presence=(np.array([np.nan, 0.59, 0.9], np.float32),))
    assert plain.absent() == [] and doubted.absent() == ["dog"]
    unsure = replace(plain, presence=(np.array([np.nan, 0.6, 0.89], np.float32),))
    assert unsure.absent() == []
    assert unsure.doubts() == dict.fromkeys(plain.classes[1:], "may not be in the image")
    assert replace(doubted, labels=(np.where(labels == 1, 0, labels).astype(np.uint8),)).absent() == [], "no pixels"
    before, after = (np.array(one.overlay(legend=False)).astype(int)[5] for one in (plain, doubted))
    color, gray = palette(2).astype(int), np.array(plain.images[0].convert("L"))[0, 0]
    np.testing.assert_allclose(after[6], (1 - 0.3 * 0.55) * gray + 0.3 * 0.55 * color[1], atol=1)
    np.testing.assert_array_equal(after[9], before[9])
    np.testing.assert_allclose(
        np.array(unsure.overlay(legend=False)).astype(int)[5, 6],
        (1 - 0.6 * 0.55) * gray + 0.6 * 0.55 * color[1],
        atol=1,
    )
    amber = [
        ((np.array(one.overlay()).astype(int) - (232, 176, 96)) ** 2).sum(axis=2).min() for one in (plain, doubted)
    ]
    assert amber[1] < 100 < amber[0], "letters below the name, in the color of doubt"


@pytest.mark.long
def test_classes_that_are_not_in_the_image_are_told_and_no_label_changes() -> None:
    classes = ["elephant", "person, man", "pizza"]
    found = eclip.segment(str(IMAGES / "elephant.jpg"), classes, templates="single")
    plain = eclip.segment(str(IMAGES / "elephant.jpg"), classes, templates="single", health=False)
    np.testing.assert_array_equal(found.labels[0], plain.labels[0])
    assert plain.presence is None and plain.absent() == [] and plain.provenance["health"] is None
    assert found.presence is not None
    background, elephant, man, pizza = found.presence[0]
    assert np.isnan(background) and min(elephant, man) > 0.8 and pizza < 0.6
    explained = eclip.explain(str(IMAGES / "elephant.jpg"), ["elephant", "person", "man", "pizza"], templates="single")
    assert explained.health is not None
    alone = explained.health.presence[0]
    np.testing.assert_allclose(found.presence[0][1:], [alone[0], max(alone[1:3]), alone[3]], atol=0.01)
    slid = eclip.segment(
        str(IMAGES / "elephant.jpg"), classes, templates="single", window=448, stride=448, image_size=896
    )
    assert slid.presence is not None and slid.presence[0].shape == (4,)
    both = eclip.segment([str(IMAGES / "elephant.jpg"), str(IMAGES / "dog.jpg")], classes, templates="single")
    assert both.presence is not None
    np.testing.assert_allclose(both.presence[0], found.presence[0], atol=0.01)
    assert both.presence[1][1] < both.presence[0][1], "no elephant beside the dog"


def test_runs_by_hand() -> None:
    # columns: (0, 1), (1, 1), (0, 0)
    mask = np.array([[False, True, False], [True, True, False]])
    assert runs(mask) == [1, 3, 2]
    assert runs(~mask) == [0, 1, 3, 2]
    assert coco_mask(mask) == {"segmentation": {"counts": [1, 3, 2], "size": [2, 3]}, "bbox": [0, 0, 2, 2], "area": 3}


def _decoded(coco: Any, annotation: dict[str, Any]) -> np.ndarray:
    return coco.annToMask(annotation).astype(bool)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize("instances", [False, True])
def test_coco_reads_the_masks_back(tmp_path: Path, instances: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    labels = np.random.default_rng(0).integers(0, 3, (12, 9))
    first, second = _by_hand(labels), _by_hand([[2, 0, 2], [2, 0, 2]])
    both = eclip.Segmentation(
        first.labels + second.labels,
        first.confidences + second.confidences,
        first.classes,
        ("image 0", "image 1"),
        first.provenance,
        first.images + second.images,
    )
    both.save(tmp_path, instances=instances)
    coco = COCO(tmp_path / "coco.json")
    capsys.readouterr()  # it prints while it reads
    assert {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())} == {1: "dog", 2: "cat"}
    for number, array in enumerate(both.labels, 1):
        for label in (1, 2):
            found = coco.loadAnns(coco.getAnnIds(imgIds=[number], catIds=[label]))
            masks = [_decoded(coco, one) for one in found]
            if masks:
                np.testing.assert_array_equal(np.sum(masks, axis=0), array == label)  # together all, none twice
            else:
                assert not (array == label).any()
            for one, mask in zip(found, masks, strict=True):
                assert one["area"] == mask.sum()
                box = [float(side) for side in one["bbox"]]
                left, top, right, bottom = heatmap.boxes(mask)[0] if instances else (box[0], box[1], *np.add(*np.split(
                    np.array(box), 2)))  # fmt: skip
                assert box == [left, top, right - left, bottom - top]
    assert len(coco.getAnnIds(imgIds=[2])) == (2 if instances else 1)


def test_saved_files_hold_the_labels(tmp_path: Path) -> None:
    found = _by_hand([[0, 1, 2], [2, 2, 1]])
    folder = found.save(tmp_path / "out")
    with Image.open(folder / "image-0.labels.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.array(picture), found.labels[0])
        np.testing.assert_array_equal(np.array(picture.convert("RGB")), palette(2)[found.labels[0]])
    with np.load(folder / "image-0.npz") as arrays:
        np.testing.assert_array_equal(arrays["labels"], found.labels[0])
        np.testing.assert_array_equal(arrays["confidence"], found.confidences[0])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["classes"] == ["background", "dog", "cat"]
    [entry] = manifest["images"]
    assert entry["areas"] == {"cat": 0.5, "dog": 0.333333, "background": 0.166667}
    assert entry["confidence"] == {"cat": 0.5, "dog": 0.5, "background": 0.5}
    names = {"image-0.labels.png", "image-0.npz", "image-0.image.png", "image-0.png", "manifest.json", "coco.json"}
    assert {path.name for path in folder.iterdir()} == names
    few = found.save(tmp_path / "few", ["npz"])
    assert {path.name for path in few.iterdir()} == {"image-0.npz", "image-0.image.png"}


def test_the_manifest_is_there_whatever_happens_to_the_annotations(tmp_path: Path) -> None:
    found = _by_hand([[0, 1, 2], [2, 2, 1]])
    (tmp_path / "coco.json").mkdir()  # which no file can replace
    with pytest.raises(ResultError, match=r"coco\.json' cannot be written"):
        found.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert len(manifest["images"]) == 1 and manifest["coco"] is None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_half_an_annotation_is_none(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _by_hand([[0, 1, 2], [2, 2, 1]])
    writer = SegmentWriter(tmp_path)

    def half(lines: list[bytes]) -> None:
        writer._annotations._file.write(lines[0][:20])
        raise error

    with pytest.raises(ResultError if isinstance(error, OSError) else KeyboardInterrupt), writer:
        writer.add(found)
        monkeypatch.setattr(writer._annotations._file, "writelines", half)
        writer.add(found)
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert [one["id"] for one in coco["images"]] == [1, 2]
    assert [one["image_id"] for one in coco["annotations"]] == [1, 1]
    assert len(json.loads((tmp_path / "manifest.json").read_text())["images"]) == 2


def test_saved_commands_repeat_what_was_asked(tiny_name: str, images: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": tiny_name, "templates": "none", "scale": 234567.25, "method": "maskclip"}
    found = eclip.segment(str(images / "a.png"), ["dog", "cat"], **asked)
    found.save(tmp_path, ["json"], instances=True)
    command = shlex.split(json.loads((tmp_path / "manifest.json").read_text())["provenance"]["command"])
    assert "--instances" in command and command[command.index("--logit-scale") + 1] == "234567.25"
    assert "--instances" not in found.provenance["command"]


# --- the command ---


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["segment", *(str(word) for word in words)])


def test_mini_finds_the_man_beside_the_elephant(tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("elephant\nperson, man\n\n")
    classes.write_text("pizza\nsushi\n")  # so every pixel is one of them
    warned = run(IMAGES / "elephant.jpg", "--classes", classes, "--template", "single", "-o", tmp_path / "pizza")
    assert warned.exit_code == 0 and ": probably not in the image" in warned.stderr
    manifest = json.loads((tmp_path / "pizza" / "manifest.json").read_text())
    assert max(manifest["images"][0]["presence"].values()) < 0.6
    hushed = run(IMAGES / "elephant.jpg", "--classes", classes, "--template", "single", "-o", tmp_path / "pizza", "-q")
    assert (hushed.exit_code, hushed.output) == (0, "") and json.loads(
        (tmp_path / "pizza" / "manifest.json").read_text()
    ) == manifest
    quiet = run(IMAGES / "elephant.jpg", "--classes", classes, "--no-health", "-o", tmp_path / "quiet", "--json")
    printed = json.loads(quiet.stdout)
    assert printed["images"][0]["presence"] is None and "--no-health" in printed["provenance"]["command"]
    classes.write_text("elephant\nperson, man\n\n")
    done = run(IMAGES / "elephant.jpg", "--classes", classes, "--background", "wall", "--template", "single", "-o",
               tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    line = done.stdout.splitlines()[0]
    assert line.startswith(f"{IMAGES / 'elephant.jpg'}: elephant ")
    assert line.endswith(f"-> {tmp_path / 'out' / 'elephant.png'}")
    assert done.stderr.startswith(f"1 segmented in {tmp_path / 'out'}\n")
    with Image.open(tmp_path / "out" / "elephant.labels.png") as picture:
        labels = np.array(picture)
    assert labels[30:120, 200:240].mean() > 1.9, "the man's head"
    assert np.mean(labels[120:180, 60:160] == 1) > 0.9, "the elephant's eye"


def test_json_is_the_manifest_and_its_command_repeats_it(tiny_name: str, images: Path, tmp_path: Path) -> None:
    asked = [images, "-c", "dog, puppy", "-c", "cat", "--background", "sky, wall", "-m", tiny_name, "--json"]
    more = ["--method", "gem", "--set", "depth=3", "--window", "16", "--stride", "16", "--image-size", "32",
            "--logit-scale", "55.5", "--prob-threshold", "0.2", "--area-threshold", "0.01", "--template", "single",
            "--refine", "pamr",
            "--refine-set", "steps=2", "--instances"]  # fmt: skip
    first = run(*asked, *more, "-o", tmp_path / "one")
    assert first.exit_code == 0, first.output
    manifest = json.loads(first.stdout)
    assert manifest == json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["provenance"]["refine_options"] == {"steps": 2}
    assert manifest["provenance"]["instances"] is True
    again = run(*shlex.split(manifest["provenance"]["command"])[2:], "-o", tmp_path / "two", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == manifest
    for name in ("coco.json", "a.labels.png", "b.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_classes_of_a_data_set_are_no_list_of_names(images: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("dog\n2\tcat\n")
    done = run(images / "a.png", "--classes", tmp_path / "classes.txt", "-o", tmp_path / "out")
    assert done.exit_code == 2 and r"a number and a tab in '2\tcat'" in done.stderr and "cut -f2" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_broken_image_is_told_and_the_rest_is_done(tiny_name: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    done = run(tmp_path / "bad.jpg", images / "a.png", "-c", "dog", "-c", "cat", "-m", tiny_name, "--template", "none",
               "-o", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 1
    assert "is not a readable image" in done.stderr
    assert "1 of 2 failed." in done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [Path(one["source"]).name for one in manifest["failures"]] == ["bad.jpg"]
    assert [
        Path(one["file_name"]).name for one in json.loads((tmp_path / "out" / "coco.json").read_text())["images"]
    ] == ["a.png"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no class was given"),
        (["-c", "dog"], "would take every pixel"),
        (["-c", "dog", "-c", "cat", "--method", "legrad"], "cannot tell which of two texts"),
        (["-c", "dog", "-c", "cat", "--stride", "3"], "set window too"),
        (["-c", "dog", "-c", "cat", "--set", "depth=2"], "--method"),
        (["-c", "dog", "-c", "cat", "--classes", "nowhere.txt"], "classes file"),
        (["-c", "dog", "-c", "cat", "--logit-scale", "1e39"], "--logit-scale"),
        (["-c", "dog", "-c", "cat", "--format", "svg"], "formats must be among"),
    ],
)
def test_wrong_usage(words: list[str], says: str, images: Path, tmp_path: Path) -> None:
    done = run(images / "a.png", *words, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert says in done.stderr


def test_wrong_names_and_help_load_no_torch() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from eclip import cli\n"
        "for words in (['--help'], ['x', '-c', 'dog', '-c', 'cat', '--method', 'lregrad'], ['x', '-c', 'dog']):\n"
        "    CliRunner().invoke(cli.app, ['segment', *words])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
