"""A model that changes under a question: what was computed before is never mixed with it, or served for it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eclip
import tiny
from eclip.backbones.head import EclipHead
from eclip.backbones.image_mean import known_mean
from eclip.backbones.view import View
from eclip.errors import ModelError, ResultError, StaleEncodingError
from eclip.guides import GUIDES, Seen
from eclip.methods.surgery import empty_text
from eclip.texts.encode import encode_texts
from eclip.words.interactions import PairQuery
from eclip.words.query import WordQuery
from eclip.words.relevance import relevance


def _image(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def _wrapped() -> eclip.Backbone:
    return eclip.wrap(tiny.model("vit"), mean=tiny.MEAN, std=tiny.STD)


def test_another_hook_at_the_same_address_is_another_model() -> None:
    """Python gives the id of a hook that is gone to the next one."""
    backbone = _wrapped()
    block = backbone.model.transformer.resblocks[0]
    for factor in (1.5, -1.0, 3.0, 0.2):

        def scaled(module: Any, given: Any, output: torch.Tensor, by: float = factor) -> torch.Tensor:
            return output * by

        handle = block.register_forward_hook(scaled)
        found = empty_text(backbone)
        expected = empty_text(eclip.wrap(backbone.model, mean=tiny.MEAN, std=tiny.STD))
        handle.remove()
        del scaled, handle
        torch.testing.assert_close(found, expected, msg=f"factor {factor}")


def test_training_mode_is_no_change() -> None:
    backbone = _wrapped()
    mlp = backbone.model.visual.transformer.resblocks[3].mlp
    mlp.c_fc = _Own(mlp.c_fc)
    backbone.model.train()
    encoding = eclip.encode(backbone, tiny.pixels(backbone), keep=None)
    eclip.encode(backbone, tiny.pixels(backbone, seed=1), keep=0)
    assert eclip.METHODS["legrad"](encoding, tiny.texts(backbone)).isfinite().all()
    assert torch.equal(copy.deepcopy(encoding).tokens, encoding.tokens)


class _Own(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def test_texts_of_before_do_not_meet_images_of_after() -> None:
    backbone = _wrapped()
    asked: dict[str, Any] = {"model": backbone, "method": "itsm", "batch_size": 1}
    each = eclip.explain_each([_image(seed) for seed in range(3)], ["a dog"], **asked)
    next(each)
    with torch.no_grad():
        backbone.model.text_projection.mul_(-1)
    with pytest.raises(StaleEncodingError, match="text side"):
        list(each)
    given = torch.ones(1, backbone.feature_size)
    each = eclip.explain_each([_image(0), _image(1)], given, **asked)
    next(each)
    with torch.no_grad():
        backbone.model.text_projection.mul_(-1)
    assert len(list(each)) == 1, "features do not depend on the text side"


def test_classes_of_before_do_not_meet_images_of_after() -> None:
    backbone = _wrapped()
    asked: dict[str, Any] = {"model": backbone, "templates": "none", "batch_size": 1}
    for more in ({}, {"window": 16, "image_size": 32}, {"health": False}):
        each = eclip.segment_each([_image(0), _image(1)], ["a dog", "grass"], **asked, **more)
        next(each)
        with torch.no_grad():
            backbone.model.text_projection.mul_(-1)
        with pytest.raises(StaleEncodingError, match="text side"):
            next(each)


def test_words_of_before_do_not_meet_images_of_after() -> None:
    query = WordQuery(["a dog"], model=_wrapped(), view=View())
    pairs = PairQuery(query, points=1)
    with torch.no_grad():
        query.backbone.model.text_projection.mul_(-1)
    with pytest.raises(StaleEncodingError, match="text side"):
        relevance(query, [("x", _image())], "leave_one_out", {})
    with pytest.raises(StaleEncodingError, match="text side"):
        pairs.answer(_image(), "x")


@pytest.mark.parametrize("ask", [eclip.explain, eclip.explain_words, eclip.segment, eclip.interactions])
def test_text_features_that_overflow_are_told(ask: Any) -> None:
    backbone = _wrapped()
    with torch.no_grad():
        backbone.model.text_projection.fill_(torch.inf)
    texts = {eclip.segment: ["a dog", "grass"]}.get(ask, "a dog")
    with pytest.raises(ModelError, match=r"a text feature of .* contains NaN or infinity: float16 may overflow"):
        ask(_image(), texts, model=backbone, **({"method": "leave_one_out"} if ask is eclip.explain_words else {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_refinements_and_guides_refuse_a_stale_encoding(dtype: torch.dtype) -> None:
    backbone = tiny.backbone("vit", dtype)
    image = _image()
    encoding = eclip.encode(backbone, backbone.preprocess(image)[None].to(dtype), None)
    maps = eclip.METHODS["maskclip"](encoding, eclip.encode_texts(backbone, ["a dog"]))
    eclip.REFINEMENTS["lposs"](maps, encoding, k=4)
    with torch.no_grad():
        backbone.model.visual.transformer.resblocks[-1].attn.in_proj_weight.mul_(-3)
    with pytest.raises(StaleEncodingError):
        eclip.REFINEMENTS["lposs"](maps, encoding, k=4)
    with pytest.raises(StaleEncodingError):
        GUIDES["backbone"](Seen([image], ["a"], encoding))


def test_the_callers_autocast_changes_no_score_and_no_emptiness() -> None:
    backbone, image, texts = tiny.kept("vit"), _image(), ["a dog", "grass"]
    plain = eclip.explain(image, texts, model=backbone, method="itsm")
    words = eclip.explain_words(image, texts, model=backbone)
    pairs = eclip.interactions(image, "a dog on grass", model=backbone, points=2)
    with torch.autocast("cpu", torch.bfloat16):
        again = eclip.explain(image, texts, model=backbone, method="itsm")
        np.testing.assert_array_equal(again.scores, plain.scores)
        assert plain.health is not None and again.health is not None
        np.testing.assert_array_equal(again.health.emptiness, plain.health.emptiness)
        np.testing.assert_array_equal(eclip.explain_words(image, texts, model=backbone).scores, words.scores)
        found = eclip.interactions(image, "a dog on grass", model=backbone, points=2)
    np.testing.assert_array_equal(found.values, pairs.values)
    assert (found.total, found.goal, found.score) == (pairs.total, pairs.goal, pairs.score)


def test_scores_of_methods_are_apart() -> None:
    found = eclip.explain(_image(), ["a dog"], model=tiny.kept("vit"), method=["itsm", "maskclip"])
    found["itsm"].scores[0, 0] = 7
    assert found["maskclip"].scores[0, 0] != 7


def test_tokenizers_that_differ_only_elsewhere_share_no_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, own = tiny.model("vit"), tiny.backbone("vit").tokenize
    named: dict[str, Any] = {"mean": tiny.MEAN, "std": tiny.STD}
    one = eclip.wrap(model, tokenizer=own, **named)
    other = eclip.wrap(model, tokenizer=lambda texts: own([text.replace("Hund", "dog") for text in texts]), **named)
    both = ["a {}", "the {}"]
    encode_texts(one, ["Hund"], both)
    torch.testing.assert_close(encode_texts(other, ["Hund"], both), encode_texts(other, ["dog"], both))


def test_a_text_side_with_an_empty_parameter() -> None:
    backbone = _wrapped()
    backbone.model.transformer.register_parameter("extra", torch.nn.Parameter(torch.empty(0)))
    eclip.explain(_image(), "a dog", model=backbone, method="surgery", health=False)


def test_features_have_no_measured_threshold() -> None:
    mini = eclip.load("mini")
    assert eclip.explain(_image(), "a dog", model=mini, method="eclip").provenance["level"] != "otsu"
    given = torch.ones(1, mini.feature_size)
    assert eclip.explain(_image(), given, model=mini, method="eclip").provenance["level"] == "otsu"


def test_mini_with_another_head_has_its_image_mean(tmp_path: Path) -> None:
    mini = eclip.load("mini")
    EclipHead.start(mini, "value", init="random").save(tmp_path)
    for other in (eclip.with_head(mini, mini.head), eclip.load("mini", head=str(tmp_path))):
        torch.testing.assert_close(known_mean(other), known_mean(mini))
    assert known_mean(eclip.wrap(tiny.model("vit"), mean=tiny.MEAN, std=tiny.STD, name="mini")) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: told["texts"].pop(0),
        lambda told: told.update(texts="ab"),
        lambda told: told.update(texts=["grass", "a dog"]),
        lambda told: told.update(provenance=[]),
    ],
    ids=["one less", "a string", "another order", "no provenance"],
)
def test_a_manifest_that_was_edited_is_refused(spoil: Any, tmp_path: Path) -> None:
    eclip.explain(_image(), ["a dog", "grass"], model=tiny.kept("vit"), method="itsm").save(tmp_path)
    file = tmp_path / "manifest.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    spoil(told)
    file.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(ResultError):
        eclip.Explanation.load(tmp_path)


def test_an_image_of_another_size_is_not_drawn_under_an_old_map(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    _image().save(file)
    eclip.explain(file, "a dog", model=tiny.kept("vit"), method="itsm").save(tmp_path / "out")
    loaded = eclip.Explanation.load(tmp_path / "out")
    loaded.overlay(0, 0)
    _image(1, (200, 30)).save(file)
    with pytest.raises(ResultError, match="has 200 x 30 pixels by now, and had 40 x 30"):
        eclip.Explanation.load(tmp_path / "out").overlay(0, 0)
