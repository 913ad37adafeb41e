"""The health of maps: each number for maps made by hand, for every kind of tower, and for real images."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import pearsonr, percentileofscore
from typer.testing import CliRunner

import eclip
import tiny
from eclip.backbones.backbone import Backbone
from eclip.backbones.view import View
from eclip.cli import app
from eclip.explanation.checkup import Checkup, artefacts, correlation, polarity_by_hiding, share_below
from eclip.explanation.emptiness import emptiness, empty_features
from eclip.explanation.explanation import Explanation
from eclip.explanation.health import NUMBERS, SENTENCES, Health
from eclip.methods import METHODS

IMAGES = Path(__file__).parents[1] / "docs" / "images"
TEXTS = ["a dog", "a horse", "an elephant"]
FAST = [name for name, method in METHODS.items() if method.kind != "perturbation"]


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return eclip.load("mini")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.open(IMAGES / f"{name}.jpg").resize((320, 320)) for name in ("dog", "horses", "elephant")]


@pytest.fixture(scope="module")
def many(mini: Backbone, images: list[Image.Image]) -> dict[str, Explanation]:
    return eclip.explain(images, TEXTS, model=mini, method=["eclip", "surgery", "gem", "itsm", "attention", "gradcam"])


def of(*values: float) -> Health:
    """The numbers of one image and text."""
    arrays = (np.array([[value]], np.float32) for value in values)
    return Health(**dict(zip(NUMBERS, arrays, strict=True)), texts=("a zebra",))


# --- the numbers, by hand ----------------------------------------------------


def test_correlation_is_pearsons_exact_at_its_ends_and_undefined_for_flat_maps() -> None:
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    others = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    found = correlation(maps, others)
    expected = [[pearsonr(maps[i, t].flatten(), others[i, t].flatten())[0] for t in range(3)] for i in range(2)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert (correlation(maps, maps) == 1).all()
    assert (correlation(-maps, others) == -found).all(), "a map upside down has the opposite polarity, to the bit"
    assert torch.equal(correlation(maps, others[:, :1])[:, 0], found[:, 0]), "one map for all texts"
    assert correlation(torch.ones_like(maps), others).isnan().all()
    assert correlation(maps, torch.zeros_like(others)).isnan().all()


def test_presence_is_the_share_of_words_below() -> None:
    generator = torch.Generator().manual_seed(0)
    feature, text, words = (torch.randn(count, 8, generator=generator) for count in (2, 3, 40))
    text, words = (torch.nn.functional.normalize(rows, dim=-1) for rows in (text, words))
    found = share_below(3 * feature, text, words)
    unit = torch.nn.functional.normalize(feature, dim=-1)
    for image in range(2):
        for index in range(3):
            expected = percentileofscore((words @ unit[image]).numpy(), float(text[index] @ unit[image]), "strict")
            assert float(found[image, index]) == pytest.approx(expected / 100)
    assert (share_below(feature, words[:1], words[:1]) == 0).all(), "a word is not below itself"


def grid(*cells: tuple[int, int, float]) -> torch.Tensor:
    heat = torch.zeros(1, 1, 10, 10)
    for row, col, value in cells:
        heat[0, 0, row, col] = value
    return heat


def test_artefacts_are_scattered_patches_that_are_hot_for_nonsense_too() -> None:
    scattered = grid((1, 1, 2), (4, 8, 2), (8, 3, 1.5))
    noise = 0.05 * torch.rand(1, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    small = grid((4, 4, 1), (4, 5, 0.9), (5, 4, 0.8), (5, 5, 0.9))
    point = grid((4, 4, 1))
    assert float(artefacts(scattered + noise, scattered + noise)) > 0.9
    assert float(artefacts(scattered)) == 1, "without a map of nonsense, two or more count"
    assert float(artefacts(point)) == 0, "and one may be a thing as small as a patch"
    assert float(artefacts(point, scattered)) == 0
    assert float(artefacts(point, point)) == 1
    assert float(artefacts(small, small)) == float(artefacts(small)) == 0
    both = grid((0, 0, 2), (5, 5, 1), (5, 6, 1))
    assert float(artefacts(both, grid((0, 0, 1)))) == pytest.approx(4 / 6), "of energy, heat squared"
    assert float(artefacts(1e-30 * both, grid((0, 0, 1)))) == pytest.approx(4 / 6)
    assert float(artefacts(7 * both - 3, grid((0, 0, 1)))) == pytest.approx(4 / 6), "scale and offset do not matter"
    assert artefacts(torch.ones(1, 1, 10, 10)).isnan().all()
    most = torch.ones(1, 1, 5, 5)
    most[..., 0, 1] = most[..., 3, 3] = 0
    for nonsense in (None, most, torch.arange(25.0).view(1, 1, 5, 5), torch.ones(1, 1, 5, 5)):
        assert float(artefacts(most, nonsense)) == 0, "23 of 25 patches are the warmest, so no few hold the heat"
    assert float(artefacts(grid((0, 0, 1)), grid((0, 0, 1)))) == 1, "also at a corner"


# --- on models ---------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "resnet", "siglip", "vit, average pool", "timm abs_attn"])
def test_every_method_has_a_health_and_keeps_its_maps(family: str) -> None:
    backbone = tiny.backbone(family)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    names = [name for name in FAST if family not in tiny.GAPS.get(name, ())]
    asked = eclip.explain(image, TEXTS, model=backbone, method=names)
    plain = eclip.explain(image, TEXTS, model=backbone, method=names, health=False)
    for name in names:
        assert np.array_equal(asked[name].maps, plain[name].maps), f"{name}: the maps are the same, to the bit"
        assert np.array_equal(asked[name].scores, plain[name].scores)
        health = asked[name].health
        assert health is not None and plain[name].health is None
        assert len(health.notes) == (not METHODS[name].polarity) and (health.notes == () or name in health.notes[0])
        assert METHODS[name].polarity or np.isnan(health.polarity).all()
        for number in NUMBERS:
            values = getattr(health, number)
            assert values.shape == (1, 3) and values.dtype == np.float32
            lowest = -1 if number == "polarity" else 0
            assert np.all(np.isnan(values) | ((values >= lowest) & (values <= 1))), (name, number, values)
        if METHODS[name].kind == "attention":
            assert (health.sensitivity == 0).all(), f"{name} reads no text"
    assert (asked["maskclip"].health.polarity[0] > 0).any()


def test_nothing_of_the_model_changes_and_no_random_number_is_drawn() -> None:
    backbone = tiny.backbone("vit")
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    state = torch.get_rng_state()
    eclip.explain(Image.new("RGB", (32, 32), "teal"), TEXTS, model=backbone, method=["surgery", "gradcam"])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in backbone.model.state_dict().items())
    assert not any(module._forward_hooks for module in backbone.model.modules())


def test_the_text_side_is_asked_once_a_model_and_again_when_its_weights_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bare, asked = tiny.backbone("vit"), []
    backbone = replace(bare, encode_tokens=lambda ids: asked.append(len(ids)) or bare.encode_tokens(ids))
    text = bare.encode_text(TEXTS)
    first = Checkup(backbone, TEXTS, text)
    assert sum(asked) > len(first.words) == 289
    asked.clear()
    again = replace(backbone, memo={})  # as in another process
    assert torch.equal(Checkup(again, TEXTS, text).words, first.words)
    assert sum(asked) == 1, "on disk by a hash of the weights, which asks for one text"
    asked.clear()
    assert torch.equal(Checkup(backbone, TEXTS, text).words, first.words)
    assert asked == []
    with torch.no_grad():
        backbone.model.token_embedding.weight[:] += 1
    assert not torch.equal(Checkup(backbone, TEXTS, text).words, first.words)


def test_of_a_model_in_training_the_last_states_are_kept_on_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("eclip.backbones.cached.MOST_STATES", 2)
    backbone = tiny.backbone("vit")
    for _ in range(4):
        Checkup(backbone, TEXTS, backbone.encode_text(TEXTS))
        with torch.no_grad():
            backbone.model.token_embedding.weight[:] += 0.1
            backbone.model.visual.conv1.weight[:] += 0.1
    for kind in ("texts", "images"):
        assert len(list((tmp_path / "eclip" / kind / "unnamed").iterdir())) == 2, kind


@pytest.mark.long
def test_an_empty_image_holds_no_text_and_is_told_from_others(mini: Backbone, images: list[Image.Image]) -> None:
    random = np.random.default_rng(5)
    noise = Image.fromarray(random.integers(60, 200, (240, 320, 3), dtype=np.uint8))
    ramp = Image.linear_gradient("L").convert("RGB")
    empty = [Image.new("RGB", (300, 200), color) for color in ("gray", "tan", "navy")] + [noise, ramp]
    for image in empty:
        health = eclip.explain(image, [*TEXTS, "a person"], model=mini, method="itsm").health
        assert health is not None and health.absent.all() and (health.presence == 0).all()
        [line] = [line for line in health.summary() if "looks empty" in line]
        assert line.startswith("a dog, a horse, an elephant and 1 more: ")
        assert not any(SENTENCES["presence"] in line for line in health.summary()), "one reason is enough"
    for image in images:
        health = eclip.explain(image, TEXTS, model=mini, method="itsm").health
        assert health is not None and (health.emptiness < 0.3).all()


def test_emptiness_is_zero_between_empty_images_one_on_them_and_unknown_if_they_are_all_alike() -> None:
    empty = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), dim=-1)
    # cosines between them: 0.6, 0, 0.8; the median is 0.6
    found = emptiness(torch.tensor([[5.0, 0.0], [-1.0, 0.0], [0.8, 0.6]]), empty)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, (0.96 - 0.6) / 0.4]))
    alike = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2]]), dim=-1)
    assert emptiness(torch.tensor([[1.0, 0.0]]), alike).isnan().all()


def test_empty_images_are_encoded_once_a_model_and_again_when_the_image_side_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backbone, passes = tiny.backbone("vit"), []
    first = empty_features(backbone, View())
    assert first.shape == (16, 24)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(16))
    monkeypatch.setattr("eclip.explanation.emptiness.encode", lambda *_, **__: passes.append(1))
    assert empty_features(backbone, View()) is first, "in memory"
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    other = empty_features(replace(backbone, memo={}), View())
    assert torch.equal(other, first) and other is not first, "from disk"
    larger = empty_features(backbone, View(image_size=2 * backbone.image_size))
    assert not torch.allclose(larger, first), "each size has its own"
    with torch.no_grad():
        backbone.model.visual.conv1.weight[:] += 0.1
    assert not torch.allclose(empty_features(backbone, View()), first)


def test_a_long_wait_is_announced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("eclip.backbones.cached.PATIENCE", 0.0)
    backbone = tiny.backbone("vit")
    Checkup(backbone, TEXTS, backbone.encode_text(TEXTS))
    assert "encoding 16 empty images with vit, once: about" in caplog.text
    assert "encoding 293 prompts with vit, once: about" in caplog.text
    caplog.clear()
    Checkup(replace(backbone, memo={}), TEXTS, backbone.encode_text(TEXTS))
    assert caplog.text == "", "what is on disk takes no time"


def test_a_model_built_under_inference_mode_has_a_health() -> None:
    with torch.inference_mode():
        model = tiny.model("vit")
    backbone = eclip.wrap(model, tokenizer=tiny._tokenizer(), mean=tiny.MEAN, std=tiny.STD, name="frozen")
    assert next(model.parameters()).is_inference() and not backbone.weight.is_inference()
    with torch.inference_mode():
        health = eclip.explain(Image.new("RGB", (32, 32), "teal"), TEXTS, model=backbone, method="itsm").health
    plain = eclip.explain(Image.new("RGB", (32, 32), "teal"), TEXTS, model=tiny.backbone("vit"), method="itsm").health
    assert health is not None and plain is not None
    np.testing.assert_array_equal(health.presence, plain.presence)


def test_no_more_is_done_than_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bare, asked = tiny.backbone("vit"), []
    backbone = replace(bare, encode_tokens=lambda ids: asked.append(len(ids)) or bare.encode_tokens(ids))
    image = Image.new("RGB", (32, 32), "teal")
    eclip.explain(image, TEXTS, model=backbone, method="itsm", versus="a cat")
    assert sum(asked) == len(TEXTS) + 1, "of a difference no word and no nonsense is asked"
    eclip.explain(image, TEXTS, model=backbone, method="itsm")
    ranked = []
    monkeypatch.setattr(
        "eclip.explanation.checkup.share_below", lambda *given: ranked.append(given) or share_below(*given)
    )
    many = eclip.explain(image, TEXTS, model=backbone, method=["itsm", "gem", "maskclip"])
    assert len(ranked) == 1, "all methods share the presence"
    for name, one in many.items():
        alone = eclip.explain(image, TEXTS, model=backbone, method=name).health
        assert one.health is not None and alone is not None
        assert all(np.array_equal(getattr(one.health, number), getattr(alone, number)) for number in NUMBERS)


def test_what_is_cut_is_told_by_who_encodes_the_texts_not_again() -> None:
    backbone = tiny.backbone("vit")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        eclip.explain(
            Image.new("RGB", (32, 32)), "dog " * 200, model=backbone, method="itsm", templates=["a {}", "the {}"]
        )
    assert [one.category for one in told] == [eclip.errors.TextCutWarning]


def test_numbers_are_those_of_their_formulas(mini: Backbone, images: list[Image.Image]) -> None:
    encoding = eclip.encode(mini, torch.stack([mini.preprocess(image) for image in images]))
    text = eclip.encode_texts(mini, TEXTS)
    checkup = Checkup(mini, TEXTS, text)
    health = eclip.explain(images, TEXTS, model=mini, method="surgery").health
    assert health is not None
    maps = METHODS["surgery"](encoding, text)
    plain = METHODS["surgery"](encoding, torch.cat([checkup.nonsense, checkup.words]), features=False)
    held = plain[:, :1] - plain[:, 1:].mean(dim=1, keepdim=True)  # nonsense against what words share
    np.testing.assert_allclose(health.sensitivity, 1 - correlation(maps, held).abs(), atol=1e-5)
    value = METHODS["maskclip"](encoding, torch.cat([text, checkup.words]))
    upright = value[:, :3] - value[:, 3:].mean(dim=1, keepdim=True)
    np.testing.assert_allclose(health.polarity, correlation(maps, upright), atol=1e-5)
    alone = eclip.explain(images[0], "a dog", model=mini, method="surgery").health
    assert alone is not None
    reference = METHODS["surgery"](encoding.only(0), checkup.nonsense)  # both against the empty text
    expected = 1 - correlation(METHODS["surgery"](encoding.only(0), text[:1]), reference).abs()
    np.testing.assert_allclose(alone.sensitivity, expected, atol=1e-5)


def test_mini_on_real_images(many: dict[str, Explanation]) -> None:
    assert (many["attention"].health.sensitivity == 0).all()
    # what stands out in the image is a part of every map, of nonsense too (with the opposite sign, where a mean is
    # subtracted), and most of all of gem's
    for name, least in {"eclip": 0.25, "surgery": 0.1, "gem": 0.1, "gradcam": 0.6}.items():
        there = np.diag(many[name].health.sensitivity)
        assert (there > least).all(), (name, there)
        assert (np.diag(many[name].health.polarity) > 0.2).all()
        assert (many[name].health.artefacts < 0.5).all()
    presence = many["eclip"].health.presence
    assert (np.diag(presence) > 0.85).all(), "the dog, the horses, the elephant"
    assert presence[2, 0] < 0.2, "no dog beside the elephant"
    assert np.array_equal(presence, many["itsm"].health.presence)


@pytest.mark.long
def test_upside_down_a_map_has_the_opposite_polarity(mini: Backbone, images: list[Image.Image]) -> None:
    encoding = eclip.encode(mini, torch.stack([mini.preprocess(picture) for picture in images]), keep=1)
    text = eclip.encode_texts(mini, TEXTS)
    checkup, method = Checkup(mini, TEXTS, text), METHODS["surgery"]
    maps = method(encoding, text)
    up = checkup(method, encoding, maps, lambda text: method(encoding, text), {"features": True})
    down = checkup(method, encoding, -maps, lambda text: -method(encoding, text), {"features": True})
    assert np.array_equal(down.polarity, -up.polarity)
    for image in range(3):
        assert down.warnings(image, image) == [f"{TEXTS[image]}: {SENTENCES['polarity']}"]
        assert not any(SENTENCES["polarity"] in line for line in up.warnings(image, image))
    hidden = polarity_by_hiding(encoding, text, maps)
    assert (hidden.diagonal() > 0.3).all(), "hiding the hot half costs more of the score"
    torch.testing.assert_close(polarity_by_hiding(encoding, text, -maps), -hidden, rtol=0, atol=1e-3)


def test_what_is_not_asked_is_nan_without_a_warning_and_noted(mini: Backbone, images: list[Image.Image]) -> None:
    few = {"mask_count": 8, "batch_size": 8}
    perturbed = eclip.explain(images[0], "a dog", model=mini, method="rise", **few).health
    assert perturbed is not None
    assert np.isnan(perturbed.sensitivity).all() and not np.isnan(perturbed.polarity).any()
    assert len(perturbed.notes) == 1 and "rise takes many passes" in perturbed.notes[0]
    held = eclip.explain(images[0], ["a dog", "a cat"], model=mini, method="gem", versus="a cat").health
    assert held is not None
    assert all(np.isnan(getattr(held, name)).all() for name in ("sensitivity", "polarity", "presence"))
    assert held.artefacts[0, 0] < 0.5 and np.isnan(held.artefacts[0, 1]), "held against itself the map is flat"
    assert held.summary() == [f"a cat: {SENTENCES['flat']}"]
    assert "sensitivity, polarity and presence do not apply" in held.notes[0]


@pytest.mark.long
def test_of_an_ensemble_the_first_sentence_is_asked(mini: Backbone, images: list[Image.Image]) -> None:
    both = eclip.explain(images[0], TEXTS, model=mini, templates=["a photo of a {}", "a drawing of a {}"]).health
    one = eclip.explain(images[0], TEXTS, model=mini, templates=["a photo of a {}"]).health
    assert both is not None and one is not None
    assert np.array_equal(both.presence, one.presence)


def test_health_is_of_the_map_before_its_refinement(mini: Backbone, images: list[Image.Image]) -> None:
    plain = eclip.explain(images[0], TEXTS, model=mini).health
    refined = eclip.explain(images[0], TEXTS, model=mini, refine="pamr").health
    assert plain is not None and refined is not None
    assert all(np.array_equal(getattr(plain, name), getattr(refined, name)) for name in NUMBERS)


# --- what people read --------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((0.5, 0.5, 0.1, 0.9, 0.1), []),
        ((0.0, 0.5, 0.1, 0.9, 0.1), ["sensitivity"]),
        ((0.5, -0.5, 0.1, 0.9, 0.1), ["polarity"]),
        ((0.0, -0.5, 0.1, 0.9, 0.1), ["sensitivity"]),  # a map that knows no text has no side that is up
        ((0.5, 0.5, 0.6, 0.1, 0.1), ["artefacts", "presence"]),
        ((0.5, 0.5, 0.1, 0.0, 0.9), ["emptiness"]),  # which is why presence is 0
        ((np.nan, np.nan, np.nan, np.nan, np.nan), []),
    ],
)
def test_a_sentence_for_each_number_beyond_its_threshold(values: tuple[float, ...], names: list[str]) -> None:
    health = of(*values)
    assert health.absent[0, 0] == bool({"presence", "emptiness"} & set(names))
    assert health.warnings(0, 0) == health.summary() == [f"a zebra: {SENTENCES[name]}" for name in names]


def test_one_line_names_three_texts_and_counts_the_rest() -> None:
    low, high = np.zeros((1, 5), np.float32), np.ones((1, 5), np.float32)
    health = Health(high, high, low, low, low, texts=("a", "b", "c", "d", "e"))
    assert health.summary() == [f"a, b, c and 2 more: {SENTENCES['presence']}"]
    twice = replace(health, texts=("a", "b", "a", "b", "a"))
    assert twice.summary() == [f"a, b: {SENTENCES['presence']}"]


def test_saved_and_loaded_again(many: dict[str, Explanation], tmp_path: Path) -> None:
    many["attention"].save(tmp_path, ["npz", "json"])
    loaded = Explanation.load(tmp_path).health
    assert loaded is not None and loaded.texts == tuple(TEXTS) and loaded.notes == ()
    saved = many["attention"].health
    assert saved is not None
    assert all(np.array_equal(getattr(loaded, name), getattr(saved, name)) for name in NUMBERS)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    entry = manifest["images"][2]["health"]["a dog"]
    assert entry["sensitivity"] == 0 and entry["warnings"] == saved.warnings(2, 0)
    assert entry["presence"] == pytest.approx(float(saved.presence[2, 0]), abs=1e-4)
    del manifest["provenance"]["health"]  # as of a result from before there was any
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert Explanation.load(tmp_path).health is None


def test_explain_each_gives_each_image_its_own(many: dict[str, Explanation], images: list[Image.Image]) -> None:
    for index, one in enumerate(eclip.explain_each(images, TEXTS, model="mini", batch_size=2, method="eclip")):
        assert one.health is not None and one.health.presence.shape == (1, 3)
        for name in NUMBERS:
            whole = getattr(many["eclip"].health, name)[index]
            np.testing.assert_allclose(getattr(one.health, name)[0], whole, atol=1e-4)


def test_the_command_warns_on_stderr_and_its_manifest_has_the_numbers(tmp_path: Path) -> None:
    shutil.copy(IMAGES / "elephant.jpg", tmp_path)
    words = ["explain", str(tmp_path / "elephant.jpg"), "-t", "a dog", "-t", "an elephant", "--format", "npz,json"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "out")])
    assert f"  a dog: {SENTENCES['presence']}" in done.stderr.splitlines()
    assert "presence" not in done.stdout and len(done.stdout.splitlines()) == 1
    quiet = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "quiet"), "--no-health", "--json"])
    printed = json.loads(quiet.stdout)
    assert printed["images"][0]["health"] is None and printed["provenance"]["health"] is None
    assert printed["provenance"]["command"].endswith("--no-health") and SENTENCES["presence"] not in quiet.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert not manifest["provenance"]["command"].endswith("--no-health")
    numbers = manifest["images"][0]["health"]["an elephant"]
    assert numbers["presence"] > 0.9 and numbers["warnings"] == []


def test_of_many_images_the_command_says_how_many_have_warnings(tmp_path: Path) -> None:
    for number in range(6):
        shutil.copy(IMAGES / "elephant.jpg", tmp_path / f"{number}.jpg")
    words = ["explain", str(tmp_path), "--format", "json", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "-t", "a dog", "-t", "an elephant"])
    assert "6 of 6 images have health warnings; manifest.json lists them" in done.stderr.splitlines()
    assert SENTENCES["presence"] not in done.stderr and len(done.stdout.splitlines()) == 6
    fine = CliRunner().invoke(app, [*words, "-t", "an elephant"])
    assert "of health" not in fine.stderr


def test_no_text_steers_the_terminal(tmp_path: Path) -> None:
    shutil.copy(IMAGES / "elephant.jpg", tmp_path)
    words = [str(tmp_path / "elephant.jpg"), "--format", "json", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["explain", *words, "-t", "a \x1b[2Jdog"])
    assert done.exit_code == 0 and "a \ufffd[2Jdog" in done.stdout
    assert f"  a \ufffd[2Jdog: {SENTENCES['presence']}" in done.stderr.splitlines()
    words += ["--overwrite", "-c", "a \x1b[2Jdog", "-c", "grass", "--template", "none"]
    other = CliRunner().invoke(app, ["segment", *words])
    assert other.exit_code == 0 and "a \ufffd[2Jdog" in other.stdout
    assert "\x1b" not in done.output + other.output


def test_no_file_name_steers_the_terminal(tiny_name: str, tmp_path: Path) -> None:
    file, words_file = tmp_path / "a\x07b.jpg", tmp_path / "words.txt"
    shutil.copy(IMAGES / "elephant.jpg", file)
    words_file.write_text("dog\ngrass\nsky\n")
    np.save(mean := tmp_path / "mean.npy", np.full(24, 0.1, np.float32))
    for command, *words in (
        ["compare", "--methods", "maskclip", "-t", "a dog", "--format", "json"],
        ["concepts", "--count", "1", "--format", "json", "--vocabulary", str(words_file), "--image-mean", str(mean)],
        ["words", "-t", "a dog"],
    ):
        model = ["--models" if command == "compare" else "--model", tiny_name]
        done = CliRunner().invoke(app, [command, str(file), *words, *model, "-o", str(tmp_path / command)])
        assert done.exit_code == 0 and "a\ufffdb.jpg" in done.stdout and "\x07" not in done.output, command
