"""Relevance of words: which tokens belong to which word, and each method, recomputed another way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import eclip
import tiny
from eclip import render
from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import cosine, unit
from eclip.backbones.text_tower import run_text_block, text_attention
from eclip.backbones.view import View
from eclip.errors import (
    EclipError,
    EqualTextsWarning,
    NotApplicableError,
    OptionError,
    TextCutWarning,
    TextError,
    UnknownNameError,
)
from eclip.render import words as words_module
from eclip.words import WORD_METHODS
from eclip.words.interactions import PairQuery
from eclip.words.query import WordQuery
from eclip.words.relevance import relevance
from eclip.words.tokens import content, read
from test_backbones import _assert_same, _state

TEXTS = ["a husky running in snow", "two cats, asleep"]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny.backbone("vit", torch.float64)


@pytest.fixture(scope="module")
def image(backbone: Backbone) -> torch.Tensor:
    return unit(eclip.encode(backbone, tiny.pixels(backbone)).feature)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a husky running in snow.", [("a", 1), ("husky", 1), ("running", 1), ("in", 1), ("snow", 1), (".", 1)]),
        ("A T-shirt,  and a dog's ball...", "A:1 T-shirt:3 ,:1 and:1 a:1 dog's:2 ball:1 ...:1"),
        ("what?! two", "what:1 ?!:1 two:1"),
        ("don\u2019t", "don\u2019t:2"),
        ("\u72d7\u5728\u8dd1 dogs", "\u72d7\u5728\u8dd1:8 dogs:1"),  # one run of bytes to this tokenizer
        ("!!", "!!:1"),
    ],
)
def test_tokens_are_found_in_words(text: str, words: str | list[tuple[str, int]]) -> None:
    if isinstance(words, str):
        words = [(word, int(count)) for word, count in (pair.rsplit(":", 1) for pair in words.split(" "))]
    reading = read(tiny.backbone("vit"), [text])
    assert [(word.letters, word.last - word.first) for word in reading.words[0]] == words
    place = 1
    for word in reading.words[0]:
        assert word.first == place
        assert text[word.start : word.stop].endswith(word.letters[-1])
        place = word.last
    assert reading.ids[0, place] == 49407  # the end follows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"a dog" on snow', '":0 a:1 dog:1 ":0 on:1 snow:1'),
        ("(a dog)", "(:0 a:1 dog:1 ):0"),
        ("...", "...:0"),
    ],
)
def test_signs_that_a_tokenizer_drops_have_no_tokens(text: str, words: str) -> None:
    """As open_clip's tokenizer of SigLIP does."""
    tokenizer = open_clip.SimpleTokenizer(clean="canonicalize")
    backbone = eclip.wrap(tiny.model("vit"), mean=tiny.MEAN, std=tiny.STD, tokenizer=tokenizer)
    found = read(backbone, [text]).words[0]
    assert " ".join(f"{word.letters}:{word.last - word.first}" for word in found) == words


def test_no_word_is_without_letters(backbone: Backbone) -> None:
    """Of control characters, Python's strip and the pattern of words disagree on what is a space."""
    for text, words in {"a \x1c": ["a", "\x1c"], " a \x1e b  c ": ["a", "\x1e", "b", "c"]}.items():
        found = read(backbone, [text]).words[0]
        assert [word.letters for word in found] == words
        assert [text[word.start : word.stop] for word in found] == words


def test_words_in_scripts_with_marks_stay_whole(backbone: Backbone) -> None:
    text = "\u0939\u093f\u0928\u094d\u0926\u0940 e\u0301te\u0301 \u0645\u064f\u062d\u0645\u064e\u0651\u062f 3.14"
    assert [word.letters for word in read(backbone, [text]).words[0]] == text.split()


@pytest.mark.long
def test_view_reaches_the_model(backbone: Backbone) -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for view in ({"image_size": 48}, {"image_size": 48, "positions": "bilinear"}, {"resize": "keep"}):
        found = eclip.explain_words(image, TEXTS, model=backbone, **view)  # type: ignore[arg-type]
        plain = eclip.explain(image, TEXTS, model=backbone, method="itsm", **view)  # type: ignore[call-overload]
        np.testing.assert_allclose(found.scores, plain.scores, rtol=0, atol=1e-6)


def test_many_texts_take_turns(backbone: Backbone, image: torch.Tensor) -> None:
    texts = [f"a dog and {number} cats" for number in range(18)]
    reading = read(backbone, texts)
    together = WORD_METHODS["gradeclip"](reading, image)
    alone = WORD_METHODS["gradeclip"](read(backbone, texts[17:]), image)
    torch.testing.assert_close(together[:, 17:], alone, rtol=1e-5, atol=1e-7)


def test_strongest_words_have_the_strongest_colors() -> None:
    row = render.terminal(["for", "against", "nothing"], np.array([0.4, -0.8, 0.0], np.float32), 80)
    assert row[1].plain.split() == ["+33%", "-67%", "0%"]
    grounds = [colors[0] for colors in words_module.colors(np.array([0.4, -0.8, 0.0], np.float32))]
    assert grounds[0][0] > grounds[0][2]  # amber
    assert grounds[1][2] > grounds[1][0]  # blue
    assert sum(grounds[1]) > sum(grounds[0]) > sum(grounds[2])
    page = render.page_words(["for", "against"], np.array([0.4, -0.8], np.float32))
    assert "background:#{:02x}{:02x}{:02x}".format(*grounds[1]) in page.split("</span>")[1]


def test_a_narrow_terminal_breaks_between_words() -> None:
    rows = render.terminal(["ab", "cd", "\x1b]0;long"], np.ones(3, np.float32), 8)
    assert [row.plain.split() for row in rows] == [["ab"], ["+33%"], ["cd"], ["+33%"], ["\ufffd]0;long"], ["+33%"]]


def test_content_lies_between_what_the_empty_text_has_too() -> None:
    assert content([9, 5, 6, 8, 0], [9, 8, 0, 0, 0]) == range(1, 3)
    assert content([5, 6, 1, 1], [1, 1, 1, 1]) == range(0, 2)  # no start; padded with the end
    assert content([9, 5, 6, 7, 8], [9, 8, 0, 0, 0]) == range(1, 4)  # full
    assert content([9, 8, 0, 0, 0], [9, 8, 0, 0, 0]) == range(5, 5)


def test_words_behind_the_end_of_the_context_have_no_tokens_and_no_relevance(backbone: Backbone) -> None:
    text = "word " * 80
    reading = read(backbone, [text.strip()])
    assert len(reading.words[0]) == 80
    assert [word.last - word.first for word in reading.words[0]] == [1] * 75 + [0] * 5
    image = torch.nn.functional.normalize(torch.ones(1, 24, dtype=torch.float64), dim=-1)
    for method in WORD_METHODS.values():
        values = reading.by_word(method(reading, image))[0]
        assert (values[0, 75:] == 0).all()
        assert (values[0, :70] != 0).any()


def test_gradeclip_is_the_slope_of_the_score_along_each_value(backbone: Backbone, image: torch.Tensor) -> None:
    """With r = 1: what the score gains when the pooled token gathers a little more of token n."""
    reading = read(backbone, TEXTS)
    ours = WORD_METHODS["gradeclip"](reading, image, depth=1, loosened="none")
    tower, place, small = reading.tower("t"), reading.place("t"), 1e-6
    x, mask = reading.entering(1, "t"), tower.mask(reading.ids)
    block = tower.blocks[-1]
    q, k, v = block.qkv(x)
    mixed = text_attention(q, k, mask) @ v
    for text, token in [(0, 2), (0, 5), (1, 1), (1, 4)]:
        both = []
        for sign in (1, -1):
            moved = mixed.clone()
            moved[text, :, place[text]] += sign * small * v[text, :, token]
            both.append(cosine(tower.pool(reading.ids, block.finish(x, block.out(moved))), image)[text])
        slope = (both[0] - both[1]) / (2 * small)
        torch.testing.assert_close(ours[:, text, token].double(), slope.detach(), rtol=1e-4, atol=1e-7)


def test_gradeclip_adds_blocks_up_and_weighs_by_similarity(backbone: Backbone, image: torch.Tensor) -> None:
    reading, method = read(backbone, TEXTS), WORD_METHODS["gradeclip"]
    plain, weighed = method(reading, image, depth=1, loosened="none"), method(reading, image, depth=1)
    factor = (weighed / plain)[0]
    torch.testing.assert_close(factor, (weighed / plain)[1], rtol=1e-3, atol=1e-4)  # it does not ask the image
    assert factor.min() >= -1e-6
    assert factor.max() == pytest.approx(1, abs=1e-4)
    assert not torch.allclose(method(reading, image, depth=2), weighed)
    torch.testing.assert_close(method(reading, image, depth=2), method(reading, image, depth=99))


@pytest.mark.parametrize("depth", [1, 2])
def test_chefer_is_attention_times_its_positive_gradient(backbone: Backbone, image: torch.Tensor, depth: int) -> None:
    reading = read(backbone, TEXTS[:1])
    tower, mask = reading.tower("t"), reading.tower("t").mask(reading.ids)
    x, attns = reading.entering(depth, "t").requires_grad_(), []
    for block in tower.blocks[-depth:]:
        q, k, v = block.qkv(x)
        attns.append(text_attention(q, k, mask))
        x = block.finish(x, block.out(attns[-1] @ v))
    logit = backbone.logit_scale * cosine(tower.pool(reading.ids, x), image[:1]).sum()
    relevance = torch.eye(x.shape[1], dtype=torch.float64)
    for attn, grad in zip(attns, torch.autograd.grad(logit, attns), strict=True):
        relevance = relevance + (grad * attn.detach()).clamp_min(0).mean(dim=1)[0] @ relevance
    place = int(reading.place("t"))
    wanted = relevance[place].clone()
    wanted[place] -= 1
    ours = WORD_METHODS["chefer"](reading, image[:1], depth=depth)[0, 0].double()
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)


def test_leave_one_out_is_what_the_score_loses(backbone: Backbone, image: torch.Tensor) -> None:
    reading = read(backbone, ["two cats, asleep"])
    [values] = reading.by_word(WORD_METHODS["leave_one_out"](reading, image))
    full = cosine(backbone.encode_text(["two cats, asleep"]), image)
    for word, without in enumerate(["cats, asleep", "two , asleep", "two cats asleep", "two cats,"]):
        lost = (full - cosine(backbone.encode_text([without]), image))[0]
        torch.testing.assert_close(values[:, word].double(), lost.detach(), rtol=1e-4, atol=1e-6)


def test_words_that_are_not_read_take_no_part_when_one_is_left_out(backbone: Backbone, image: torch.Tensor) -> None:
    text, method = " ".join(["dog", "cat", "bird"] * 25), WORD_METHODS["leave_one_out"]
    reading, alone = read(backbone, [text + " zebra" * 30]), read(backbone, [text])
    [values], [wanted] = reading.by_word(method(reading, image)), alone.by_word(method(alone, image))
    assert values.shape[1] == 105 and wanted.abs().min() > 0
    torch.testing.assert_close(values[:, :75], wanted, rtol=0, atol=1e-9)
    assert (values[:, 75:] == 0).all()


@pytest.mark.parametrize("name", WORD_METHODS)
def test_texts_and_images_do_not_mix(backbone: Backbone, image: torch.Tensor, name: str) -> None:
    method = WORD_METHODS[name]
    together = method(read(backbone, TEXTS), image)
    for number, text in enumerate(TEXTS):
        for one in range(len(image)):
            alone = method(read(backbone, [text]), image[[one]])
            torch.testing.assert_close(together[one, number], alone[0, 0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_model_changes(training: bool) -> None:
    backbone = tiny.backbone("vit")
    backbone.model.train(training)
    try:
        before, random = _state(backbone.model), torch.get_rng_state()
        image = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        for name in WORD_METHODS:
            eclip.explain_words(image, TEXTS, model=backbone, method=name)
        eclip.interactions(image, TEXTS[0], model=backbone)
        with pytest.raises(OptionError):
            eclip.explain_words(image, TEXTS, model=backbone, depth=0)
        _assert_same(backbone.model, before, random)
    finally:
        backbone.model.eval()


def test_in_inference_mode_too(backbone: Backbone) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    plain = eclip.explain_words(image, TEXTS, model=backbone)
    with torch.inference_mode():
        again = eclip.explain_words(image, TEXTS, model=backbone)
        eclip.interactions(image, TEXTS[0], model=backbone)
    np.testing.assert_array_equal(plain.values[0], again.values[0])


def test_a_tower_nobody_has_read_can_still_leave_words_out() -> None:
    backbone, image = replace(tiny.backbone("vit"), text_tower=None), np.zeros((32, 32, 3), np.uint8)
    for method in ("gradeclip", "chefer"):
        with pytest.raises(NotApplicableError, match="'leave_one_out' works with any"):
            eclip.explain_words(image, TEXTS, model=backbone, method=method)
    with pytest.raises(NotApplicableError, match="text tower"):
        eclip.interactions(image, TEXTS[0], model=backbone)
    found = eclip.explain_words(image, TEXTS, model=backbone, method="leave_one_out")
    assert np.abs(found.values[0]).max() > 0


def test_what_comes_out(backbone: Backbone) -> None:
    images = [np.full((20, 30, 3), level, np.uint8) for level in (20, 200)]
    found = eclip.explain_words(images, TEXTS, model=backbone)
    explained = eclip.explain(images, TEXTS, model=backbone, method="itsm")
    np.testing.assert_allclose(found.scores, explained.scores, rtol=0, atol=1e-6)
    assert found.words == (("a", "husky", "running", "in", "snow"), ("two", "cats", ",", "asleep"))
    for image in range(2):
        for text in range(2):
            shares = found.shares(image, text)
            assert np.abs(shares).sum() == pytest.approx(1)
            assert (np.sign(shares) == np.sign(found.values[text][image])).all()
    [first, second] = found.entries(1)
    assert [word["word"] for word in second["words"]] == list(found.words[1])
    assert first["words"][1]["value"] == pytest.approx(found.values[0][1, 1], rel=1e-5)
    assert found.html(0).count('class="word"') == 9
    mixed = eclip.explain_words(
        [np.zeros((20, 60, 3), np.uint8), np.zeros((60, 20, 3), np.uint8)], TEXTS, model=backbone, resize="keep"
    )
    assert mixed.scores.shape == (2, 2)


def test_a_long_text_warns_and_its_lost_words_have_nothing(backbone: Backbone) -> None:
    with pytest.warns(TextCutWarning):
        found = eclip.explain_words(np.zeros((32, 32, 3), np.uint8), "word " * 80, model=backbone)
    assert (found.values[0][0, 75:] == 0).all()


@pytest.mark.parametrize(
    ("settings", "kind", "match"),
    [
        ({"method": "gradclip"}, UnknownNameError, "Did you mean 'gradeclip'"),
        ({"method": "chefer", "heads": "native"}, OptionError, "'chefer' has no option 'heads'; it has depth"),
        ({"method": "chefer", "depth": 0}, OptionError, "depth >= 1, got 0"),
        ({"heads": "two"}, OptionError, "native or single"),
        ({"depth": 1.5}, OptionError, "a whole number"),
        ({"texts": []}, TextError, "no text"),
    ],
)
def test_bad_input(backbone: Backbone, settings: dict[str, object], kind: type[EclipError], match: str) -> None:
    settings = {"texts": TEXTS, **settings}
    with pytest.raises(kind, match=match):
        eclip.explain_words(np.zeros((32, 32, 3), np.uint8), model=backbone, **settings)  # type: ignore[arg-type]


def test_texts_that_the_model_cannot_tell_apart_are_named(backbone: Backbone) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    with pytest.warns(EqualTextsWarning, match="cannot tell these texts apart: 'a dog' and 'A  Dog'"):
        found = eclip.explain_words(image, ["a dog", "a cat", "A  Dog"], model=backbone)
    assert found.scores[0, 0] == found.scores[0, 2] != found.scores[0, 1]
    np.testing.assert_allclose(found.values[0], found.values[2], rtol=1e-5)
    assert found.words[2] == ("A", "Dog")


def test_relevance_and_pairs_share_one_query_of_several_texts(backbone: Backbone) -> None:
    image, view = Image.new("RGB", (40, 30), "gray"), View(resize="keep")
    query = WordQuery(TEXTS, model=backbone, view=view)
    pairs = PairQuery(query, text_depth=1, points=2).answer(image, "x")
    both = relevance(query, [("x", image), ("y", image.resize((30, 40)))], "chefer", {"depth": 2})
    asked = {"method": "chefer", "depth": 2, **view.settings}
    words = eclip.explain_words([image, image.resize((30, 40))], TEXTS, model=backbone, **asked)
    for text, one in enumerate(pairs):
        alone = eclip.interactions(image, TEXTS[text], model=backbone, text_depth=1, points=2, resize="keep")
        np.testing.assert_allclose(one.values, alone.values, rtol=1e-6, atol=1e-9)
        assert (one.words, one.text, one.provenance) == (alone.words, TEXTS[text], alone.provenance)
        assert np.array_equal(both.values[text], words.values[text])
    assert (
        np.array_equal(both.scores, words.scores) and both.provenance == words.provenance and both.sources == ("x", "y")
    )


def test_entering_is_what_the_blocks_before_give(backbone: Backbone) -> None:
    reading = read(backbone, TEXTS)
    tower = reading.tower("t")
    x = tower.embed(reading.ids)
    torch.testing.assert_close(reading.entering(99, "t"), x)
    for block in tower.blocks[:-1]:
        x = run_text_block(block, x, tower.mask(reading.ids))
    torch.testing.assert_close(reading.entering(1, "t"), x)
