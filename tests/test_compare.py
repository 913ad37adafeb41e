"""eclip.compare: many methods and models on one image, methods that are not applicable, costs, files."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

import eclip
import tiny
from eclip import compare as public
from eclip import render
from eclip.backbones.view import View
from eclip.errors import EclipError, ImageError, OptionError, TextError, UnknownNameError
from eclip.explanation.compare import RUNS, ComparisonQuery
from eclip.explanation.comparison import Comparison
from eclip.explanation.emptiness import empty_features
from eclip.explanation.explanation import Explanation
from eclip.explanation.health import Health
from eclip.heatmap import normalize, otsu, resize
from eclip.images import open_image
from eclip.methods import METHODS

FAST = [name for name, method in METHODS.items() if method.kind != "perturbation"]
TEXTS = ["a dog", "grass", "the sea"]


@pytest.fixture
def image(images: Path) -> Path:
    return images / "a.png"


def contest(backbones: Any, methods: Any = FAST, texts: Any = TEXTS) -> ComparisonQuery:
    return ComparisonQuery(texts, methods=methods, models=backbones, view=View())


def test_maps_and_scores_are_those_of_explain(image: Path) -> None:
    vit = tiny.backbone("vit")
    both = public(image, TEXTS, methods=FAST, models=vit)
    assert list(both.explanations) == [("vit", name) for name in FAST]
    for name in FAST:
        alone = eclip.explain(image, TEXTS, model=vit, method=name)
        np.testing.assert_allclose(both.explanations["vit", name].maps, alone.maps, rtol=1e-4, atol=1e-6)
        assert np.array_equal(both.explanations["vit", name].scores, alone.scores)


def test_an_image_is_encoded_once_a_model_whatever_is_asked_and_before_the_first_to_measure(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eclip.explanation.compare.ENOUGH", 1000.0)
    passes: dict[str, int] = {}
    backbones = [tiny.backbone("vit"), tiny.backbone("siglip")]
    for backbone, stem in zip(backbones, ("conv1", "trunk.patch_embed.proj"), strict=True):
        passes[backbone.name] = 0

        def count(*_: Any, name: str = backbone.name) -> None:
            passes[name] += 1

        backbone.model.visual.get_submodule(stem).register_forward_hook(count)
        empty_features(backbone, View())  # once for each state of a model, for the presence
        passes[backbone.name] = 0
    asked = contest(backbones, texts=[*TEXTS, "sand", "a cat"])
    picture = open_image(image)
    for done in (RUNS + 1, RUNS + 2, RUNS + 3):
        asked.answer(picture, "image 0")
        assert passes == {"vit": done, "siglip": done}
    public(image, TEXTS, methods=FAST, models=backbones)
    assert passes == {"vit": 2 * RUNS + 4, "siglip": 2 * RUNS + 4}


def test_methods_are_named_before_they_run_in_the_order_asked(image: Path) -> None:
    asked = contest([tiny.backbone("vit"), tiny.backbone("siglip")], ["legrad", "itsm"])
    heard: list[tuple[str, str]] = []
    answer = asked.answer(open_image(image), "x", lambda model, method: heard.append((model, method)))
    expected = [("vit", "legrad"), ("vit", "itsm"), ("siglip", "legrad"), ("siglip", "itsm")]
    assert heard == list(answer.pairs) == list(answer.explanations) == expected


# --- methods that are not applicable ------------------------------------------


def test_a_method_that_is_not_applicable_to_one_model_is_listed_for_it_alone(image: Path) -> None:
    backbones = [tiny.backbone("timm abs_attn"), tiny.backbone("vit")]
    answer = public(image, TEXTS, methods=["itsm", "rollout"], models=backbones)
    assert list(answer.not_applicable) == [("timm abs_attn", "rollout")]
    assert "has a single attention layer" in answer.not_applicable["timm abs_attn", "rollout"]
    assert list(answer.explanations) == [("timm abs_attn", "itsm"), ("vit", "itsm"), ("vit", "rollout")]
    assert answer.pairs[1] == ("timm abs_attn", "rollout"), "a method that is not applicable keeps its place"
    assert repr(answer).endswith("a.png, 3 texts, 3 maps, 1 not applicable, on timm abs_attn, vit)")


def test_a_comparison_to_which_no_method_is_applicable_is_a_result(image: Path, tmp_path: Path) -> None:
    answer = public(image, TEXTS, methods="rollout", models=tiny.backbone("timm abs_attn"))
    assert not answer.explanations and not answer.costs
    answer.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["images"][0]["maps"] == []
    assert [gap["method"] for gap in manifest["images"][0]["not_applicable"]] == ["rollout"]
    with Image.open(tmp_path / "a.compare.png") as picture:
        assert same(picture, answer.picture())


def test_versus_explains_differences_and_lists_those_that_cannot(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: METHODS[name] for name in ("itsm", "surgery", "attention", "legrad", "gscorecam")}
    monkeypatch.setattr(import_module("eclip.explanation.compare"), "METHODS", kept)
    vit = tiny.backbone("vit")
    answer = public(image, ["a dog", "a wolf"], methods="all", models=vit, versus="a wolf")
    assert list(answer.explanations) == [("vit", "itsm"), ("vit", "surgery"), ("vit", "legrad")]
    assert list(answer.not_applicable) == [("vit", "attention"), ("vit", "gscorecam")]
    assert answer.not_applicable["vit", "attention"].startswith("ignores the text")
    assert answer.not_applicable["vit", "gscorecam"].startswith("cannot explain the difference between two texts")
    plain = eclip.explain(image, ["a dog", "a wolf"], model=vit, method="itsm")
    held = answer.explanations["vit", "itsm"]
    np.testing.assert_allclose(held.maps[0, 0], plain.maps[0, 0] - plain.maps[0, 1], atol=1e-6)
    np.testing.assert_allclose(held.scores[0], [plain.scores[0, 0] - plain.scores[0, 1], 0], atol=1e-6)
    for explanation in answer.explanations.values():
        assert not explanation.maps[0, 1].any(), "a text held against itself gives zeros, not colored rounding"
        assert explanation.scores[0, 1] == 0
    with pytest.raises(OptionError, match="'attention' cannot explain the difference"):
        public(image, "a dog", methods=["itsm", "attention"], models=vit, versus="a wolf")


def test_options_are_those_of_one_method(image: Path) -> None:
    vit = tiny.backbone("vit")
    methods = ["surgery", "legrad"]
    deep = public(image, TEXTS, methods=methods, models=vit, options={"legrad": {"depth": 7}})
    plain = public(image, TEXTS, methods=methods, models=vit)
    alone = eclip.explain(image, TEXTS, method="legrad", model=vit, depth=7)
    np.testing.assert_allclose(deep.explanations["vit", "legrad"].maps, alone.maps, rtol=1e-4, atol=1e-6)
    assert not np.allclose(plain.explanations["vit", "legrad"].maps, alone.maps, rtol=1e-2)
    assert np.array_equal(deep.explanations["vit", "surgery"].maps, plain.explanations["vit", "surgery"].maps)
    assert (deep.provenance["options"], plain.provenance["options"]) == ({"legrad": {"depth": 7}}, {})


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"methods": "legard"}, UnknownNameError, "Did you mean 'legrad'"),
        ({"methods": []}, OptionError, "no method was given"),
        ({"methods": 3}, OptionError, "method must be a name in eclip.METHODS, .* got 3"),
        ({"methods": ["all", "rise"]}, OptionError, "'all' cannot be combined with other methods, got all, rise"),
        ({"models": []}, OptionError, "no model was given"),
        ({"models": "minni"}, UnknownNameError, "Did you mean 'mini'"),
        ({"options": {"rise": {}}}, OptionError, "got options for 'rise', but the methods are itsm, surgery"),
        ({"options": {"itsm": {"depth": 2}}}, OptionError, "'itsm' has no option 'depth': it belongs to gem, surgery"),
        ({"texts": []}, TextError, "no text"),
        ({"versus": " "}, TextError, "empty"),
        ({"image": "nowhere.jpg"}, ImageError, "no such file"),
        ({"device": "cpu"}, OptionError, "requires a model name"),
        ({"image_size": 33}, OptionError, "multiple of the patch size 8"),
    ],
)
def test_wrong_questions_say_so(image: Path, settings: dict[str, Any], error: type[EclipError], message: str) -> None:
    given = {"image": image, "texts": TEXTS, "methods": ["itsm", "surgery"], "models": tiny.backbone("vit")} | settings
    with pytest.raises(error, match=message):
        public(given.pop("image"), given.pop("texts"), **given)


def test_models_of_one_name_are_refused(image: Path) -> None:
    backbones = [tiny.backbone("vit"), tiny.backbone("vit")]
    with pytest.raises(OptionError, match="two models have the name 'vit'"):
        public(image, TEXTS, methods="itsm", models=backbones)
    public(image, TEXTS, methods="itsm", models=[backbones[0], backbones[0]])  # the same one twice is one


# --- what is made of it ------------------------------------------------------


def doubtful(given: list[float], texts: tuple[str, ...]) -> Health:
    """The health of one image where only presence is known."""
    presence = np.array([given], np.float32)
    unknown = np.full_like(presence, np.nan)
    return Health(unknown, unknown, unknown, presence, np.zeros_like(presence), texts)


def by_hand(
    maps: dict[str, list[Any]], *, versus: str | None = None, seconds: Any = None, presence: list[float] | None = None
) -> Comparison:
    """A comparison on a gray image by a model "m", from raw maps (text row col) of methods."""
    texts = tuple(f"text {index}" for index in range(len(next(iter(maps.values())))))
    gray = Image.new("RGB", (300, 200), (140, 140, 140))
    explanations = {
        ("m", method): Explanation(
            maps=np.array([values], np.float32),
            scores=np.array([[0.3 - 0.1 * index for index in range(len(texts))]], np.float32),
            texts=texts,
            sources=("image 0",),
            sizes=(gray.size,),
            signed=False,
            provenance={"method": method, "model": "m", "versus": versus, "refine": None, "grid": [2, 2]},
            images=(gray,),
            seconds=seconds or {"forward": 2.0, "method": 0.5, "health": 9.0},
            health=None if presence is None else doubtful(presence, texts),
        )
        for method, values in maps.items()
    }
    provenance = {"versus": versus, "command": None}
    return Comparison(gray, "image 0", texts, tuple(explanations), explanations, {}, provenance)


def test_cost_is_forward_and_method_over_forward() -> None:
    assert by_hand({"itsm": [[[0, 1]]]}).costs == {("m", "itsm"): 1.25}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [((0.002, 0.0004), "2.4 ms · 1.20x"), ((0.1, 2.4), "2.5 s · 25.0x"), ((0.01, 119.99), "120 s · 12,000x")],
)
def test_cost_is_written_in_three_digits(seconds: tuple[float, float], words: str) -> None:
    answer = by_hand({"itsm": [[[0, 1]]]}, seconds=dict(zip(("forward", "method"), seconds, strict=True)))
    assert answer._section("m").rows[0].cost == words


def panel(picture: Image.Image, text: int) -> Image.Image:
    """The panel of the first row: 220 x 147 pixels, beside a label as wide as the image, below a header as high."""
    left, top = 32 + 220 + 24 + text * 228, 32 + 147 + 16
    return picture.crop((left, top, left + 220, top + 147))


def drawn(values: list[Any], raw: list[Any], *, signed: bool = False) -> Image.Image:
    """The values in color, and a line around the mask of the raw map on the whole image."""
    heat = normalize(torch.tensor(raw, dtype=torch.float32))
    edge: dict[str, Any] = {"heat": heat.numpy(), "level": otsu(resize(heat, (200, 300)).numpy())}
    small = Image.new("RGB", (220, 147), (140, 140, 140))
    return render.overlay(small, np.array(values, np.float32), signed=signed, legend=False, **edge)


def same(first: Image.Image, second: Image.Image) -> bool:
    return ImageChops.difference(first, second).getbbox() is None


def test_scale_is_that_of_each_map_or_of_the_row() -> None:
    answer = by_hand({"itsm": [[[1, 2]], [[1, 5]]]})
    of_map, of_row = answer.picture(), answer.picture("row")
    for text, raw, in_row in ((0, [[1, 2]], [[0, 0.25]]), (1, [[1, 5]], [[0, 1]])):
        assert same(panel(of_map, text), drawn([[0, 1]], raw)) and same(panel(of_row, text), drawn(in_row, raw))
    assert not same(panel(of_map, 0), panel(of_row, 0))
    with pytest.raises(OptionError, match="scale must be one of map, row, got 'image'"):
        answer.picture("image")


def test_comparisons_of_signed_methods_show_positive_values_alone() -> None:
    """As in explain, zero is gray; there the other side is blue, here one scale serves all methods."""
    answer = by_hand({"surgery": [[[-8, 2]], [[1, 4]]]})
    assert same(panel(answer.picture(), 0), drawn([[0, 1]], [[-8, 2]]))
    assert same(panel(answer.picture(), 1), drawn([[0.25, 1]], [[1, 4]]))
    assert same(panel(answer.picture("row"), 0), drawn([[0, 0.5]], [[-8, 2]]))
    none = by_hand({"surgery": [[[-8, -2]]]}).picture()
    assert same(panel(none, 0), drawn([[0, 0]], [[-8, -2]])), "no value is positive"


def test_versus_draws_around_zero() -> None:
    answer = by_hand({"itsm": [[[-1, 2]], [[0, 4]]]}, versus="a wolf")
    assert same(panel(answer.picture(), 0), drawn([[-0.5, 1]], [[-1, 2]], signed=True))
    assert same(panel(answer.picture("row"), 0), drawn([[-0.25, 0.5]], [[-1, 2]], signed=True))


def test_the_maps_of_absent_texts_are_faint_and_the_picture_says_why() -> None:
    maps = {"itsm": [[[0, 1]]] * 3}
    plain, doubted = by_hand(maps).picture(), by_hand(maps, presence=[0.9, 0.89, 0.59]).picture()
    assert np.asarray(doubted).shape == np.asarray(plain).shape, "the words have room beside the image"
    assert same(panel(doubted, 0), panel(plain, 0)), "0.9 is no doubt"
    colors = [np.ptp(np.asarray(panel(doubted, place)).astype(float), axis=2).max() for place in range(3)]
    assert 0 < colors[2] < 0.4 * colors[0] < 0.5 * colors[0] < colors[1] < 0.8 * colors[0], "less color"
    heads = [np.asarray(doubted).astype(int)[:195, left : left + 220] for left in (276, 276 + 228, 276 + 456)]
    present, unsure, absent = ((head[..., 0] - head[..., 2]).max() for head in heads)
    assert min(unsure, absent) > 100 > 50 > present, "amber letters above the doubtful texts alone"


def test_the_line_below_a_doubtful_text_is_whole_in_a_narrow_column() -> None:
    """The columns of an upright image are too narrow for it, so it takes two lines."""
    row = render.Row("itsm", "similarity", maps=np.array([[[0, 1]]] * 2, np.float32))
    sections = [render.Section("m", "", np.zeros(2, np.float32), (row,), ["", doubt]) for doubt in ("", render.ABSENT)]
    heights = {}
    for size in ((300, 200), (200, 300)):
        gray = Image.new("RGB", size, (140, 140, 140))
        pictures = [render.grid(gray, [section, section], texts=["a dog", "a cat"]) for section in sections]
        heights[size] = pictures[1].height - pictures[0].height
    assert heights[200, 300] == 2 * heights[300, 200] > 0, "the second section has no image beside it"


def test_doubts_are_told_by_presence_and_emptiness() -> None:
    """Below 0.6 a text is probably absent, below 0.9 it may be, and in an empty image it is; NaN says nothing."""
    health = doubtful([0.59, 0.6, 0.89, 0.9, np.nan], tuple("abcde"))
    assert health.doubts() == [render.ABSENT, render.UNSURE, render.UNSURE, "", ""]
    assert replace(health, emptiness=np.full((1, 5), 0.6, np.float32)).doubts() == [render.ABSENT] * 4 + [""]


def test_times_are_the_best_of_several_runs(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the runs before an answer and the answer itself, the smallest time counts, also for the next image."""
    query = contest([tiny.backbone("vit")], ["itsm", "legrad"])
    spent = iter([(9.0, 5.0), (3.0, 2.0), (4.0, 3.0), (2.0, 6.0), (7.0, 1.0)])
    own = query.queries["vit"].answer

    def answer(self: Any, *given: Any, **more: Any) -> Any:
        forward, method = next(spent)
        timed = {"forward": forward, "method": method}
        return {name: replace(one, seconds=timed) for name, one in own(*given, **more).items()}

    monkeypatch.setattr("eclip.explanation.query.Query.answer", answer)
    first = query.answer(open_image(image), "a.png")
    assert first.costs == {("vit", "itsm"): 2.0, ("vit", "legrad"): 2.0}
    assert query.answer(open_image(image), "a.png").costs["vit", "itsm"] == 1.5


def test_notebooks_show_the_picture() -> None:
    import io

    answer = by_hand({"itsm": [[[0, 1]]]})
    assert same(Image.open(io.BytesIO(answer._repr_png_())), answer.picture())


def test_what_is_saved_is_what_was_found(image: Path, tmp_path: Path) -> None:
    names = ("a b", "a/b", "timm abs_attn")  # the first two are one name where only letters count
    families = ("vit", "siglip", "timm abs_attn")
    backbones = [
        eclip.wrap(tiny.model(family), tokenizer=tiny._tokenizer(), mean=tiny.MEAN, std=tiny.STD, name=name)
        for family, name in zip(families, names, strict=True)
    ]
    answer = public(image, TEXTS, methods=["itsm", "rollout"], models=backbones)
    assert answer.save(tmp_path, scale="row") == tmp_path
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["schema"], manifest["texts"], manifest["failures"]) == ("eclip.compare/1", TEXTS, [])
    assert manifest["provenance"]["scale"] == "row" and manifest["provenance"]["command"] is None, (
        "these models have no name to load"
    )
    [entry] = manifest["images"]
    assert entry["files"] == {"image": str(image.resolve()), "picture": "a.compare.png", "npz": "a.npz"}
    assert (entry["source"], entry["width"], entry["height"]) == (str(image), 40, 30)
    assert [(gap["model"], gap["method"]) for gap in entry["not_applicable"]] == [("timm abs_attn", "rollout")]
    with np.load(tmp_path / "a.npz") as arrays:
        assert [line["array"] for line in entry["maps"]] == [
            "a-b/itsm",
            "a-b/rollout",
            "a-b.2/itsm",
            "a-b.2/rollout",
            "timm-abs_attn/itsm",
        ]
        for line in entry["maps"]:
            found = answer.explanations[line["model"], line["method"]]
            assert np.array_equal(arrays[line["array"]], found.maps[0])
            assert np.array_equal(arrays[line["array"].partition("/")[0] + "/scores"], found.scores[0])
            assert line["scores"] == pytest.approx(dict(zip(TEXTS, found.scores[0].tolist(), strict=True)), abs=1e-6)
            assert line["cost"] == pytest.approx(answer.costs[line["model"], line["method"]], abs=1e-4)
    with Image.open(tmp_path / "a.compare.png") as picture:
        assert same(picture, answer.picture("row"))


def test_an_image_from_memory_is_saved_with_its_comparison(tmp_path: Path) -> None:
    memory = Image.new("RGB", (40, 30), (10, 200, 30))
    public(memory, TEXTS, methods="itsm", models=tiny.backbone("vit")).save(tmp_path, ["json"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image-0.image.png", "manifest.json"]
    with Image.open(tmp_path / "image-0.image.png") as copy:
        assert same(copy, memory)
    with pytest.raises(OptionError, match="formats must be among png, npz, json, pdf, svg, got gif"):
        by_hand({"itsm": [[[0, 1]]]}).save(tmp_path, ["gif"])


def test_drawing_on_the_image_of_a_comparison_changes_no_picture() -> None:
    compared = by_hand({"itsm": [[[0, 1], [2, 4]]]})
    [answer] = compared.explanations.values()
    before = compared.picture().tobytes(), answer.overlay().tobytes()
    compared.image.paste((255, 0, 0), (0, 0, *compared.image.size))
    assert (compared.picture().tobytes(), answer.overlay().tobytes()) == before


def test_a_scale_is_checked_whatever_is_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="scale must be one of map, row, got 'image'"):
        by_hand({"itsm": [[[0, 1]]]}).save(tmp_path / "new", ["json"], scale="image")
    assert not (tmp_path / "new").exists()


@pytest.mark.long
def test_mini_has_a_map_of_every_method_that_is_applicable() -> None:
    """On the image of a dog, methods that localize find it where it is: in the middle."""
    dog = Path(__file__).parents[1] / "docs" / "images" / "dog.jpg"
    every = public(dog, ["a dog", "grass"], methods=FAST)
    assert list(every.not_applicable) == [("mini", "rollout")]
    assert set(every.explanations) == {("mini", name) for name in FAST if name != "rollout"}
    assert every.provenance["command"].startswith(
        f"eclip compare {dog} -t 'a dog' -t grass --models mini --methods itsm,rclip"
    )
    for name in ("maskclip", "sclip", "gem", "surgery", "gradcam"):
        heat = every.explanations["mini", name].heatmap()
        height, width = heat.shape
        middle = heat[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4].mean()
        assert middle > heat.mean() + 0.1, name
