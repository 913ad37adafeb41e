"""Explanations: one forward pass, heat maps, masks, boxes and points, and files that load as they were saved."""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import importlib.util
import itertools
import json
import os
import pickle
import re
import shlex
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import eclip
import tiny
from eclip.backbones.backbone import Backbone
from eclip.cli import app
from eclip.errors import EqualTextsWarning, ImageError, OptionError, ResultError, TextError, UnknownNameError
from eclip.explanation.explanation import Explanation
from eclip.explanation.health import NUMBERS
from eclip.results.provenance import versions

TEXTS = ["a dog", "grass"]


@pytest.fixture(scope="module")
def backbone(tiny_name: str) -> Backbone:
    return eclip.load(tiny_name)


def _image(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def _by_hand(values: Any, size: tuple[int, int], **changes: Any) -> Explanation:
    maps = np.asarray(values, np.float32)[None, None]
    given: dict[str, Any] = {
        "maps": maps,
        "scores": np.array([[0.25]], np.float32),
        "texts": ("a dog",),
        "sources": ("image 0",),
        "sizes": (size,),
        "signed": False,
        "provenance": {"method": "itsm", "model": "none"},
        "images": (Image.new("RGB", size, "gray"),),
    }
    return Explanation(**{**given, **changes})


# --- the main path -----------------------------------------------------------


def test_explain_is_load_encode_and_method(backbone: Backbone, images: Path) -> None:
    answer = eclip.explain(images / "a.png", TEXTS, model=backbone, method="surgery", depth=2)
    with Image.open(images / "a.png") as picture:
        encoding = eclip.encode(backbone, backbone.preprocess(picture)[None])
    text = eclip.encode_texts(backbone, TEXTS)
    assert np.array_equal(answer.maps, eclip.METHODS["surgery"](encoding, text, depth=2).numpy())
    model = backbone.model
    image = model.encode_image(encoding.pixels, normalize=True)
    expected = image @ model.encode_text(backbone.tokenize(TEXTS), normalize=True).T
    np.testing.assert_allclose(answer.scores, expected.numpy(), atol=1e-6)
    assert answer.texts == tuple(TEXTS)
    assert answer.sources == (str(images / "a.png"),)
    assert answer.sizes == ((40, 30),)


def test_a_model_by_name_and_a_single_text(tiny_name: str) -> None:
    answer = eclip.explain(_image(), "a dog", model=tiny_name)
    assert answer.maps.shape == (1, 1, 4, 4)
    assert answer.sources == ("image 0",)


def test_several_methods_share_one_forward_pass(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = eclip.with_head(backbone, eclip.EclipHead.start(backbone))
    names = [name for name, method in eclip.METHODS.items() if method.kind != "perturbation"]
    own = {name: {"depth": 6} if "depth" in eclip.METHODS[name].options else {} for name in names}
    alone = {name: eclip.explain(_image(), TEXTS, model=backbone, method=name, **own[name]) for name in names}
    passes = []
    visual = backbone.model.visual
    handle = visual.conv1.register_forward_hook(lambda *_: passes.append(1))
    eclip.explain(_image(), TEXTS, model=backbone, method="itsm")  # with the hook, empty images are encoded again
    passes.clear()
    together = eclip.explain(_image(), TEXTS, model=backbone, method=names, depth=6)
    handle.remove()
    assert len(passes) == 1
    assert list(together) == names
    for name, answer in together.items():
        assert np.array_equal(answer.maps, alone[name].maps), name
        assert answer.provenance["method"] == name
    assert together["surgery"].provenance["options"] == {"depth": 6}
    assert together["itsm"].provenance["options"] == {}


def test_images_together_equal_images_alone(backbone: Backbone) -> None:
    both = eclip.explain([_image(0), _image(1, (16, 64))], TEXTS, model=backbone, method="itsm")
    for index, image in enumerate((_image(0), _image(1, (16, 64)))):
        alone = eclip.explain(image, TEXTS, model=backbone, method="itsm")
        np.testing.assert_allclose(both.maps[index], alone.maps[0], atol=1e-6)
        assert both.sizes[index] == image.size


def test_keep_explains_the_whole_image_in_its_shape(backbone: Backbone) -> None:
    image = _image(0, (80, 20))
    answer = eclip.explain(image, TEXTS, model=backbone, resize="keep")
    assert answer.maps.shape[2:] == (2, 8)
    assert answer.provenance["resize"] == "keep"
    assert answer.provenance["pixels"] == [16, 64]
    assert answer.heatmap().shape == (20, 80)
    with pytest.raises(ImageError, match=r"different grids \[\(2, 8\), \(4, 4\)\]"):
        eclip.explain([image, _image(0, (30, 30))], TEXTS, model=backbone, resize="keep")


def test_image_size_and_thin_images(backbone: Backbone) -> None:
    for size in [(1, 1), (1, 4000), (4000, 1)]:
        for resize in ("squash", "keep"):
            answer = eclip.explain(_image(0, size), TEXTS, model=backbone, resize=resize)
            assert np.isfinite(answer.maps).all()
            assert answer.heatmap().shape == (size[1], size[0])
            assert answer.strip().width > 0
    assert eclip.explain(_image(), "a dog", model=backbone, image_size=64).maps.shape[2:] == (8, 8)
    for wrong in (30, 0, -32):
        with pytest.raises(OptionError, match=f"multiple of the patch size 8 of .*got {wrong}"):
            eclip.explain(_image(), "a dog", model=backbone, image_size=wrong)


EQUALS = {
    "the same": (["a dog"] * 3, r"'a dog' \(3 times\)"),
    "case and spaces": (["A  Dog", "a dog", " a dog "], "'A  Dog', 'a dog' and ' a dog '"),
    "cut off": (
        [" ".join(["dog"] * 100 + [word]) for word in ("cat", "cow", "hen")],
        "'dog .* cat', 'dog .* cow' and 'dog .* hen'",
    ),
}


@pytest.mark.filterwarnings("ignore::eclip.errors.TextCutWarning")
@pytest.mark.parametrize(("texts", "named"), EQUALS.values(), ids=EQUALS)
def test_rounding_between_equal_texts_is_no_map(
    backbone: Backbone, texts: list[str], named: str, tmp_path: Path
) -> None:
    with pytest.warns(
        EqualTextsWarning, match=rf"cannot tell these texts apart: {named}\. They have the same text feature"
    ):
        answer = eclip.explain(_image(), texts, model=backbone, method="surgery")
    assert np.ptp(answer.maps) < 1e-6  # on some processors they cancel exactly
    answer.save(tmp_path)
    for one in (answer, Explanation.load(tmp_path)):
        assert one.flat is not None and one.health is not None and one.flat.all()
        for text in range(3):
            assert not one.heatmap(0, text).any()
            assert not one.mask(0, text).any()
            assert len(one.boxes(0, text)) == len(one.points(0, text)[0]) == 0
        assert "the map is flat" in one.health.summary()[0]
        assert np.isnan(one.health.sensitivity).all() and np.isnan(one.health.artefacts).all()
        colors = np.asarray(one.overlay(legend=False))
        gray = np.asarray(_by_hand(np.zeros((4, 4)), (40, 30), signed=True, images=(_image(),)).overlay(legend=False))
        assert np.array_equal(colors, gray), "the overlay shows no heat either"


@pytest.mark.parametrize("refine", [None, "lposs", "pamr"])
@pytest.mark.parametrize("method", [name for name, one in eclip.METHODS.items() if one.versus is not None])
@pytest.mark.long(every=5)
def test_a_text_against_itself_in_capitals_is_flat(backbone: Backbone, method: str, refine: str | None) -> None:
    headed = eclip.with_head(backbone, eclip.EclipHead.start(backbone))
    options = {"mask_count": 8} if method == "rise" else {}
    with pytest.warns(EqualTextsWarning, match="'a cat' and 'A CAT'"):
        answer = eclip.explain(
            _image(), ["a cat", "a dog"], model=headed, method=method, versus="A CAT", refine=refine, **options
        )
    assert answer.flat is not None and answer.flat.tolist() == [[True, False]]
    assert not answer.heatmap().any() and len(answer.boxes()) == 0
    assert answer.heatmap(0, 1).any()


def test_small_maps_are_no_rounding(backbone: Backbone) -> None:
    """Gradients times 1e-9, as in half precision, are drawn as they were."""
    answer = eclip.explain(_image(), TEXTS, model=backbone, method="gradcam")
    small = dataclasses.replace(answer, maps=answer.maps * np.float32(1e-9))
    assert answer.flat is not None and not answer.flat.any()
    np.testing.assert_allclose(small.heatmap(), answer.heatmap(), atol=1e-5)
    assert np.array_equal(small.boxes(), answer.boxes())


def test_texts_and_templates_may_be_generators(backbone: Backbone) -> None:
    listed = {"templates": ["a photo of a {}.", "{} outside"]}
    expected = eclip.explain(_image(), TEXTS, model=backbone, **listed)

    def given() -> dict[str, Any]:
        return {"templates": (one for one in listed["templates"]), "model": backbone}

    found = eclip.explain(_image(), (text for text in TEXTS), **given())
    [each] = eclip.explain_each([_image()], (text for text in TEXTS), **given())
    compared = eclip.compare(
        _image(), (text for text in TEXTS), methods=["surgery"], models=backbone, templates=given()["templates"]
    )
    for one in (found, each, *compared.explanations.values()):
        assert (one.texts, one.provenance["templates"]) == (expected.texts, expected.provenance["templates"])
        assert np.array_equal(one.maps, expected.maps)
    assert np.array_equal(each.health.sensitivity, expected.health.sensitivity)
    words = eclip.explain_words(_image(), (text for text in TEXTS), model=backbone)
    assert words.texts == tuple(TEXTS)
    one, other = (
        eclip.segment(_image(), classes, background=background, model=backbone, templates=templates)
        for classes, background, templates in [
            (TEXTS, ["sky"], listed["templates"]),
            ((text for text in TEXTS), (word for word in ["sky"]), (one for one in listed["templates"])),
        ]
    )
    assert one.classes == other.classes and np.array_equal(one.labels[0], other.labels[0])


@pytest.mark.parametrize("texts", [None, 3, b"a dog", {"a dog": 1}, ["a dog", None], np.array("a dog")])
@pytest.mark.usefixtures("shapes_unchecked")
def test_texts_that_are_none_are_refused_at_every_door(backbone: Backbone, texts: Any) -> None:
    doors: list[Any] = [
        lambda: eclip.explain(_image(), texts, model=backbone),
        lambda: next(iter(eclip.explain_each([_image()], texts, model=backbone))),
        lambda: eclip.compare(_image(), texts, models=backbone),
        lambda: eclip.explain_words(_image(), texts, model=backbone),
        lambda: eclip.encode_texts(backbone, texts),
    ]
    for door in doors:
        with pytest.raises(TextError, match=r"must be a (text or a list of texts|string).*, got "):
            door()
    for templates in (None, 3, ["a {}", None]):
        with pytest.raises(OptionError, match="template"):
            eclip.encode_texts(backbone, TEXTS, templates)


def test_nothing_of_the_caller_changes(backbone: Backbone) -> None:
    backbone = eclip.with_head(backbone, eclip.EclipHead.start(backbone))
    model = backbone.model
    random, image = torch.get_rng_state(), _image()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pixels = np.asarray(image).copy()
    eclip.explain(image, TEXTS, model=backbone, method=list(eclip.METHODS))["surgery"].strip()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "legard"}, UnknownNameError, "unknown method 'legard'"),
        ({"method": []}, OptionError, "no method"),
        ({"dept": 3}, OptionError, "no option 'dept'"),
        ({"method": "itsm", "depth": 3}, OptionError, "it belongs to gem, surgery, gradcam, chefer, legrad"),
        ({"depth": "abc"}, OptionError, "'depth' of 'surgery' must be a whole number, got 'abc'"),
        ({"depth": True}, OptionError, "must be a whole number, got True"),
        ({"depth": 0}, OptionError, "depth >= 1, got 0"),
        ({"features": 1}, OptionError, "must be true or false, got 1"),
        ({"reference": "a dog"}, OptionError, "must be a tensor or none, got 'a dog'"),
        ({"resize": "crop"}, OptionError, "got 'crop'"),
        ({"positions": "nearest"}, OptionError, "got 'nearest'"),
        ({"templates": "nne"}, UnknownNameError, "Did you mean 'none'"),
    ],
)
def test_wrong_settings_say_so(backbone: Backbone, settings: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        eclip.explain(_image(), TEXTS, model=backbone, **settings)


def test_wrong_images_and_texts_say_so(backbone: Backbone) -> None:
    with pytest.raises(ImageError, match="no image"):
        eclip.explain([], TEXTS, model=backbone)
    with pytest.raises(TextError, match="no text"):
        eclip.explain(_image(), [], model=backbone)
    with pytest.raises(ImageError, match=r"nothing\.jpg: no such file"):
        eclip.explain("nothing.jpg", TEXTS, model=backbone)


# --- many images -------------------------------------------------------------


def test_each_equals_one_by_one_in_order(backbone: Backbone) -> None:
    shapes = [(40, 30), (40, 30), (16, 64), (40, 30), (40, 30)]
    many = [_image(seed, shape) for seed, shape in enumerate(shapes)]
    answers = list(eclip.explain_each(many, TEXTS, model=backbone, resize="keep", batch_size=2, method="itsm"))
    assert [answer.sizes[0] for answer in answers] == shapes
    assert [answer.sources[0] for answer in answers] == [f"image {index}" for index in range(5)]
    for image, answer in zip(many, answers, strict=True):
        alone = eclip.explain(image, TEXTS, model=backbone, resize="keep", method="itsm")
        np.testing.assert_allclose(answer.maps, alone.maps, atol=1e-6)
        np.testing.assert_allclose(answer.scores, alone.scores, atol=1e-6)


def test_each_looks_ahead_two_batches_at_most(backbone: Backbone) -> None:
    taken = 0

    def endless() -> Iterator[Image.Image]:
        nonlocal taken
        for seed in itertools.count():
            taken += 1
            yield _image(seed)

    answers = eclip.explain_each(endless(), TEXTS, model=backbone, batch_size=3)
    for done in range(1, 8):
        next(answers)
        assert taken - done <= 2 * 3
    answers.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("eclip-read")]


def test_each_names_bad_images_and_goes_on(backbone: Backbone, images: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    mixed = [images / "a.png", tmp_path / "bad.jpg", images / "b.jpg"]
    failures: list[tuple[str, str]] = []
    answers = list(eclip.explain_each(mixed, TEXTS, model=backbone, failures=failures))
    assert [answer.sources[0] for answer in answers] == [str(images / "a.png"), str(images / "b.jpg")]
    [(source, error)] = failures
    assert source == str(tmp_path / "bad.jpg")
    assert "is not a readable image" in error
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        list(eclip.explain_each(mixed, TEXTS, model=backbone))
    with pytest.raises(OptionError, match="batch_size must be a whole number, at least 1, got 0"):
        list(eclip.explain_each(mixed, TEXTS, model=backbone, batch_size=0))


# --- heat maps, masks, boxes, points, pictures --------------------------------


def test_heatmap_mask_boxes_and_points_by_hand() -> None:
    answer = _by_hand([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 3, 3], [0, 0, 3, 3]], (4, 4))  # the lower right quarter
    assert np.array_equal(answer.heatmap(), answer.maps[0, 0] / 3)
    expected = np.zeros((4, 4), bool)
    expected[2:, 2:] = True
    assert np.array_equal(answer.mask(), expected)
    assert answer.boxes().tolist() == [[2, 2, 4, 4]]
    places, labels = answer.points(k=1)
    assert labels.tolist() == [1, 0]
    assert places[0].tolist() == [3, 3]
    assert answer.mask(threshold=0.0).all()
    assert not _by_hand(np.full((4, 4), 7), (4, 4)).heatmap().any(), "a flat map is zeros"


def test_masks_take_otsu_or_a_number() -> None:
    answer = _by_hand([[0, 1], [2, 4]], (2, 2))
    assert answer.mask(threshold=0.5).tolist() == [[False, False], [True, True]]
    for wrong in (1.5, -0.1, float("nan"), "half"):
        with pytest.raises(OptionError, match="'otsu' or a number"):
            answer.mask(threshold=wrong)


def test_the_threshold_is_that_measured_for_the_model_and_the_method(backbone: Backbone, tmp_path: Path) -> None:
    measured = dataclasses.replace(backbone, levels={"maskclip": 0.75, "eclip": 0.25})

    def explained(method: str = "maskclip", **asked: Any) -> Explanation:
        return eclip.explain(_image(), "a dog", model=measured, method=method, **asked)

    answer = explained()
    heat = answer.heatmap()
    assert answer.level() == answer.provenance["level"] == 0.75
    assert np.array_equal(answer.mask(), heat >= 0.75) and len(answer.boxes())
    assert not np.array_equal(answer.mask(), answer.mask(threshold="otsu"))
    answer.save(tmp_path)
    assert Explanation.load(tmp_path).level() == 0.75
    assert explained(image_size=32).level() == 0.75, "the model's own size"
    others: tuple[dict[str, Any], ...] = (
        {"refine": "pamr"},
        {"versus": "grass"},
        {"image_size": 40},
        {"method": "gem"},
    )
    for asked in (*others, {"resize": "keep"}, {"method": "surgery", "depth": 2}):
        assert explained(**asked).provenance["level"] == "otsu", asked
    earlier = dataclasses.replace(answer, provenance={**answer.provenance, "level": "otsu"})
    del earlier.provenance["level"]
    assert np.array_equal(earlier.mask(), heat >= eclip.heatmap.otsu(heat))
    assert copy.deepcopy(measured).levels == measured.levels
    head = eclip.EclipHead.start(backbone)
    assert eclip.with_head(measured, head).levels == {"maskclip": 0.75}, "another head, another threshold"


def test_a_threshold_holds_for_the_model_it_was_measured_with() -> None:
    measured = copy.deepcopy(tiny.backbone("vit")).with_levels({"maskclip": 0.75})

    def level(of: Backbone = measured) -> object:
        return eclip.explain(_image(), "a dog", model=of, method="maskclip", health=False).provenance["level"]

    assert level() == 0.75
    handle = measured.model.visual.ln_post.register_forward_hook(lambda *args: args[-1])
    assert level() == "otsu", "a hooked model"
    copied = copy.deepcopy(measured)
    handle.remove()
    assert level() == 0.75, "the hook is gone"
    assert level(copied) == "otsu", "a copy of the hooked one"
    again = copy.deepcopy(measured)
    measured.model.train()
    assert level() == 0.75, "modes change no map"
    measured.model.eval()
    with torch.no_grad():
        measured.model.token_embedding.weight.mul_(1.01)
    assert level() == "otsu", "a text side that was trained further"
    assert level(again) == 0.75, "the copy is as it was"
    again.model.double()
    assert level(again) == "otsu"


def test_signed_maps_diverge_around_zero() -> None:
    plain = _by_hand([[-1, 0], [0, 3]], (32, 32))
    signed = _by_hand([[-1, 0], [0, 3]], (32, 32), signed=True)
    assert np.array_equal(plain.heatmap(), signed.heatmap())
    assert signed.shown(0, 0).min() == pytest.approx(-1 / 3)
    assert signed.overlay(legend=False).tobytes() != plain.overlay(legend=False).tobytes()


def test_notebooks_show_the_strip_and_repr_is_one_line() -> None:
    answer = _by_hand([[0, 1], [2, 4]], (32, 32))
    assert answer._repr_png_()[:4] == b"\x89PNG"
    assert repr(answer) == "Explanation(1 images, 1 texts, 2 x 2 grid, itsm on none)"


def test_pictures_of_a_thousand_texts_are_the_twenty_best(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).permutation(1000).astype(np.float32)[None] / 1000
    answer = _by_hand(
        [[0, 1], [2, 4]],
        (32, 32),
        maps=np.zeros((1, 1000, 2, 2), np.float32),
        scores=scores,
        texts=tuple(f"text {index}" for index in range(1000)),
    )
    assert [round(float(scores[0, text]), 3) for text in answer.best_texts()] == [(999 - i) / 1000 for i in range(20)]
    answer.save(tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 1 + 20 + 1, "the strip, twenty overlays, the copy of the image"
    assert Explanation.load(tmp_path).maps.shape == (1, 1000, 2, 2)


# --- files -------------------------------------------------------------------


def _assert_equal(one: Explanation, other: Explanation) -> None:
    assert np.array_equal(one.maps, other.maps)
    assert np.array_equal(one.scores, other.scores)
    for name in ("texts", "sources", "sizes", "signed"):
        assert getattr(one, name) == getattr(other, name), name
    assert json.loads(json.dumps(one.provenance)) == other.provenance
    for image, text in itertools.product(range(len(one.sources)), range(len(one.texts))):
        assert one.overlay(image, text).tobytes() == other.overlay(image, text).tobytes()


@pytest.mark.parametrize("kind", ["file", "picture", "array"])
def test_what_is_saved_comes_back(backbone: Backbone, images: Path, tmp_path: Path, kind: str) -> None:
    file = images / "b.jpg"
    with Image.open(file) as picture:
        source = {"file": file, "picture": picture.copy(), "array": np.asarray(picture)}[kind]
    with pytest.warns(EqualTextsWarning, match=r"'a dog' \(2 times\)\. They have"):
        answer = eclip.explain(source, [*TEXTS, "a dog"], model=backbone)
    assert answer.save(tmp_path / "deep" / "out") == tmp_path / "deep" / "out"
    loaded = Explanation.load(tmp_path / "deep" / "out")
    _assert_equal(answer, loaded)
    loaded.save(tmp_path / "again")
    _assert_equal(answer, Explanation.load(tmp_path / "again"))
    assert not list(tmp_path.rglob("*.part"))


def test_some_of_the_images_are_the_same_explanation_of_fewer(backbone: Backbone, images: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.png", "two.png", "three.png")]
    for seed, file in enumerate(files):
        _image(seed, (40 + 8 * seed, 30)).save(file)
    sources = tuple(map(str, files))
    whole = eclip.explain(files, TEXTS, model=backbone, method="gradcam", versus="the sea", refine="pamr")
    for asked, places in ((1, [1]), ([2, 0], [2, 0]), ("three.png", [2]), ([-1, "one.png"], [2, 0])):
        some = whole.only(asked)
        for name in ("maps", "scores", "flat"):
            assert np.array_equal(getattr(some, name), getattr(whole, name)[places])
        assert whole.health is not None and some.health is not None and some.health.notes == whole.health.notes
        for name in (*NUMBERS, "flat"):
            expected = getattr(whole.health, name)[places]
            assert np.array_equal(getattr(some.health, name), expected, equal_nan=expected.dtype.kind == "f")
        assert some.sources == tuple(sources[place] for place in places)
        assert some.sizes == tuple(whole.sizes[place] for place in places)
        assert some.images == tuple(whole.images[place] for place in places)
        assert [name for name in files if str(name) in shlex.split(some.provenance["command"])] == [
            files[place] for place in sorted(places)
        ]
        assert (some.texts, some.signed, some.seconds) == (whole.texts, whole.signed, whole.seconds)
        assert {**some.provenance, "command": whole.provenance["command"]} == whole.provenance
        for image, place in enumerate(places):
            assert np.array_equal(some.heatmap(image, 1), whole.heatmap(place, 1))
        again = Explanation.load(some.save(tmp_path / f"places {places}"))
        assert np.array_equal(again.maps, some.maps) and np.array_equal(again.scores, some.scores)
        assert (again.sources, again.sizes, again.provenance) == (some.sources, some.sizes, some.provenance)
        assert again.health is not None and np.array_equal(again.health.artefacts, some.health.artefacts)
    assert whole.only(range(3)).provenance == whole.provenance
    memory = eclip.explain([_image(0), _image(1)], TEXTS, model=backbone, health=False).only("image 1")
    assert memory.provenance["command"] is None and memory.health is None and memory.sources == ("image 1",)
    with pytest.raises(OptionError, match="there is no image 3"):
        whole.only([0, 3])


@pytest.mark.long
def test_images_of_one_name_do_not_overwrite_each_other(backbone: Backbone, tmp_path: Path) -> None:
    names = ["a/1.png", "b/1.png", "c/1.image.png", "c/1.0-a-dog.png", "c/manifest.png", "c/A.png", "d/a.png"]
    names += ["e/\u72d7 & (\U0001f415) '\".png", "e/--.png", "e/%s {} \\ $HOME.png", "e/" + "\u72d7" * 80 + ".png"]
    for seed, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        _image(seed).save(tmp_path / name)
    files = [tmp_path / name for name in names]
    answer = eclip.explain(files, ["a dog", "grass " * 30], model=backbone, method="itsm")
    answer.save(tmp_path / "out")
    _assert_equal(answer, Explanation.load(tmp_path / "out"))
    assert len(list((tmp_path / "out").iterdir())) == len(names) * 4 + 1  # arrays, strip, two overlays; manifest


def test_the_manifest_says_how(backbone: Backbone, images: Path, tmp_path: Path) -> None:
    eclip.explain(images / "a.png", TEXTS, model=backbone, templates="single", depth=3).save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["schema"] == "eclip.explain/1"
    assert manifest["texts"] == TEXTS
    assert manifest["failures"] == []
    [entry] = manifest["images"]
    assert entry["grid"] == entry["map"] == manifest["provenance"]["grid"] == [4, 4]
    assert set(entry["scores"]) == set(TEXTS)
    for file in (entry["files"]["npz"], entry["files"]["strip"], *entry["files"]["overlays"].values()):
        assert (tmp_path / file).is_file()
    provenance = manifest["provenance"]
    assert (provenance["model"], provenance["method"], provenance["options"]) == (
        backbone.name,
        "surgery",
        {"depth": 3},
    )
    assert (provenance["templates"], provenance["resize"], provenance["positions"]) == (
        "single",
        "squash",
        "bicubic_aa",
    )
    assert provenance["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_a_clone_that_is_not_installed_knows_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("eclip.results.provenance._version", lambda package: asked.append(package) or "1")
    assert list(versions())[:3] == ["python", "eclip", "torch"] and versions()["eclip"] == eclip.__version__
    assert "eclip" not in asked


def test_versions_name_what_some_results_need_if_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, module in (("transformers", "transformers"), ("scikit-learn", "sklearn")):
        monkeypatch.delitem(sys.modules, module, raising=False)
        assert package not in versions()
        assert module not in sys.modules
        if importlib.util.find_spec(module) is not None:
            monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
            assert versions()[package] == importlib.metadata.version(package)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "surgery", "depth": 2, "architecture": True, "features": False, "resnet": "released_vv"},
        {"method": "itsm", "resize": "keep", "image_size": 64, "positions": "bilinear"},
        {"templates": ["a {}", "the 'big' {}"]},
        {"templates": "imagenet80"},
    ],
)
def test_the_command_repeats_the_maps(backbone: Backbone, images: Path, tmp_path: Path, settings: Any) -> None:
    answer = eclip.explain(images / "b.jpg", ['a dog\'s "tail"', "-t"], model=backbone, **settings)
    command = shlex.split(answer.provenance["command"])
    assert command[0] == "eclip"
    done = CliRunner().invoke(app, [*command[1:], "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    again = Explanation.load(tmp_path)
    assert np.array_equal(again.maps, answer.maps)
    assert again.provenance == json.loads(json.dumps(answer.provenance))


def test_no_command_where_none_would_repeat_it(backbone: Backbone, tiny_name: str, images: Path) -> None:
    assert eclip.explain(_image(), "a dog", model=backbone).provenance["command"] is None, "no file"
    file = images / "a.png"
    assert eclip.explain(file, "a dog", model=tiny.backbone("vit")).provenance["command"] is None, "no model by name"
    reference = eclip.encode_texts(backbone, ["cat"])[0]
    assert eclip.explain(file, "a dog", model=backbone, reference=reference).provenance["command"] is None
    double = eclip.load(tiny_name, precision="float64")
    assert eclip.explain(file, "a dog", model=double).provenance["command"] is None


def test_formats_are_those_asked_for(tmp_path: Path) -> None:
    answer = _by_hand([[0, 1], [2, 4]], (32, 32))
    answer.save(tmp_path, ["npz"])
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz", ".png"}  # the copy of the image
    with pytest.raises(OptionError, match=r"formats must be among png, npz, json, .*, got pgn"):
        answer.save(tmp_path, ["pgn"])
    with pytest.raises(ResultError, match="with formats npz and json"):
        Explanation.load(tmp_path)


def test_an_image_beside_the_results_is_not_overwritten(backbone: Backbone, tmp_path: Path) -> None:
    _image().save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(OptionError, match="choose another folder"):
        eclip.explain(tmp_path / "a.png", "a dog", model=backbone).save(tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").write_text('{"schema": "other"}'),
        lambda folder: (folder / "image-0.npz").unlink(),
        lambda folder: (folder / "image-0.npz").write_bytes(b"PK nonsense"),
        lambda folder: (folder / "image-0.npz").write_bytes(b""),
        lambda folder: (folder / "image-0.npz").write_bytes((folder / "image-0.npz").read_bytes()[:200]),
    ],
)
def test_damaged_results_are_refused(tmp_path: Path, damage: Any) -> None:
    _by_hand([[0, 1], [2, 4]], (32, 32)).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ResultError, match=str(tmp_path)):
        Explanation.load(tmp_path)


def test_a_file_that_changed_is_not_the_image_that_was_explained(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    pictures = [_image(seed) for seed in range(2)]
    for picture, folder in zip(pictures, (tmp_path, tmp_path / "other"), strict=True):
        picture.save(folder / "a.png")
    answer = eclip.explain("a.png", "a dog", model=backbone, health=False)

    def held(of: Explanation, out: str) -> str:
        manifest = json.loads((of.save(out, overwrite=True) / "manifest.json").read_text())
        assert Explanation.load(out).image().tobytes() == pictures[0].tobytes()
        return str(manifest["images"][0]["files"]["image"])

    assert held(answer, "out") == str(tmp_path / "a.png")
    assert held(Explanation.load("out"), "again") == str(tmp_path / "a.png")
    assert held(pickle.loads(pickle.dumps(answer)), "out") == str(tmp_path / "a.png")
    loaded = Explanation.load("out")
    monkeypatch.chdir(tmp_path / "other")
    assert loaded.image().tobytes() == pictures[0].tobytes(), "its file is found from anywhere"
    assert held(answer, "out") == "a.image.png", "not the file of that name in another folder"
    answer.save("out")
    copied = Explanation.load("out")
    assert held(copied, "again") == "a.image.png"
    monkeypatch.chdir(tmp_path)
    pictures[1].save("a.png")
    os.utime("a.png", ns=(1, 1))
    assert held(answer, "new") == "a.image.png", "the file holds another image by now"
    assert held(pickle.loads(pickle.dumps(answer)), "new") == "a.image.png"
    answer.save("new")


def test_an_image_in_memory_is_no_file_of_its_name(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _image(1).save("image 0", "png")
    answer = eclip.explain(_image(), "a dog", model=backbone, health=False)
    assert answer.sources == ("image 0",) and answer.provenance["command"] is None
    answer.save("out")
    answer.save("out")
    assert Explanation.load("out").image().tobytes() == _image().tobytes()
    file = eclip.explain("image 0", "a dog", model=backbone, health=False)
    assert file.sources == ("./image 0",) and "'./image 0'" in file.provenance["command"]
    assert file.only("image 0").sources == file.sources
    file.save("file")
    assert Explanation.load("file").image().tobytes() == _image(1).tobytes()


def test_what_is_not_a_number_is_told_where_it_enters(backbone: Backbone, shapes_unchecked: None) -> None:
    answer: Any = eclip.explain(_image(), ["a dog", "a cat"], model=backbone, method="maskclip")
    for ask, message in (
        (lambda: answer.points(0, 0, "5"), "whole number k >= 0 or None, got '5'"),
        (lambda: answer.boxes(0, 0, min_area="x"), "min_area must be None or a share of the image, 0 to 1, got 'x'"),
        (lambda: answer.overlay(alpha=None), "alpha must be between 0 and 1, got None"),
        (lambda: answer.to_coco(min_presence="x"), "min_presence must be a number in [0, 1], got 'x'"),
        (lambda: answer.only([]), "at least one image is needed"),
    ):
        with pytest.raises(OptionError, match=re.escape(message)):
            ask()
    assert answer.health.only(np.int64(0)).texts == answer.texts
    for shape in ((3, 8, 8), (2, 3, 8, 8)):
        for sparse in (torch.ones(shape).to_sparse(), torch.ones(shape).to_sparse_coo()):
            with pytest.raises(ImageError, match=r"the tensor is sparse: pass tensor\.to_dense\(\)"):
                eclip.explain(sparse, "a dog", model=backbone)
    with pytest.raises(ImageError, match="the tensor is sparse"):
        eclip.explain(torch.ones(1, 3, 32, 32).to_sparse(), "a dog", model=backbone, preprocessed=True)


@pytest.mark.parametrize("method", ["attention", "maskclip"])
def test_no_two_results_share_memory(backbone: Backbone, method: str) -> None:
    answer = eclip.explain(_image(), ["a dog", "a cat"], model=backbone, method=method)
    assert answer.health is not None and answer.flat is not None and answer.health.flat is not None
    arrays = [answer.maps[0, 0], answer.maps[0, 1], answer.flat, answer.health.flat]
    for name in NUMBERS:
        own = getattr(answer.health, name)
        arrays += [own[:, 0], own[:, 1]]
    for one, other in itertools.combinations(arrays, 2):
        assert not np.shares_memory(one, other)


def test_equal_texts_leave_no_files_behind(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.warns(EqualTextsWarning):
        eclip.explain(_image(), ["a dog", "a dog"], model=backbone, health=False).save(tmp_path)
    assert len(list(tmp_path.glob("*dog*"))) == 2
    eclip.explain(_image(), "a cat", model=backbone, health=False).save(tmp_path)
    assert not list(tmp_path.glob("*dog*"))


def test_drawing_on_an_image_changes_no_picture() -> None:
    answer = _by_hand([[0, 1], [2, 4]], (32, 32))
    before = answer.overlay().tobytes(), answer.strip().tobytes()
    answer.image().paste((255, 0, 0), (0, 0, 32, 32))
    assert (answer.overlay().tobytes(), answer.strip().tobytes()) == before


def test_an_image_that_is_gone_leaves_the_maps(backbone: Backbone, tmp_path: Path) -> None:
    _image().save(tmp_path / "gone.png")
    answer = eclip.explain(tmp_path / "gone.png", "a dog", model=backbone)
    answer.save(tmp_path / "out")
    (tmp_path / "gone.png").unlink()
    loaded = Explanation.load(tmp_path / "out")
    assert np.array_equal(loaded.heatmap(), answer.heatmap())
    with pytest.raises(ResultError, match=r"cannot reopen the image of this explanation: .*gone\.png: no such file"):
        loaded.overlay()


def test_doors_say_what_they_want(tiny_name: str, images: Path) -> None:
    from eclip.backbones.load import (
        backbone_of,
    )  # explain itself has its types checked in tests, and other words for it

    backbone = tiny.backbone("vit")
    with pytest.raises(OptionError, match=r"model must be a name or a Backbone, got CLIP: convert it with eclip\.wrap"):
        backbone_of(backbone.model, None)
    with pytest.raises(OptionError, match=r"device='cuda:7' requires a model name; this Backbone is on cpu"):
        eclip.explain(images / "a.png", "a dog", model=backbone, device="cuda:7")


def test_options_may_be_numbers_of_numpy_and_are_saved_as_ours(backbone: Backbone, tmp_path: Path) -> None:
    answer = eclip.explain(_image(), TEXTS, model=backbone, depth=np.int64(2))
    assert np.array_equal(answer.maps, eclip.explain(_image(), TEXTS, model=backbone, depth=2).maps)
    answer.save(tmp_path)
    assert eclip.Explanation.load(tmp_path).provenance["options"] == {"depth": 2}
