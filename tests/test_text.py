"""Texts: unit rows, ensembles by hand, the cache on disk, and which words a model does not read."""

from __future__ import annotations

import copy
import os
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn

import eclip
import tiny
from eclip.backbones.backbone import Backbone
from eclip.errors import OptionError, TextCutWarning, TextError, UnknownNameError
from eclip.texts.encode import LEAST_KEPT, check_texts, words_read

TOKENIZER = open_clip.SimpleTokenizer()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny.backbone("vit")


def test_rows_are_the_models_own_features_made_unit(backbone: Backbone) -> None:
    text = eclip.encode_texts(backbone, ["a dog", "grass"])
    own = backbone.model.encode_text(TOKENIZER(["a dog", "grass"]), normalize=True)
    torch.testing.assert_close(text, own.detach(), rtol=0, atol=1e-6)
    assert not text.requires_grad


def test_an_ensemble_is_the_unit_mean_of_unit_features(backbone: Backbone) -> None:
    templates = ["a {} .", "the big {}", "{} in the rain"]
    one = torch.nn.functional.normalize(backbone.encode_text([t.replace("{}", "cat") for t in templates]), dim=-1)
    expected = torch.nn.functional.normalize(one.mean(dim=0), dim=-1)
    text = eclip.encode_texts(backbone, ["dog", "cat"], templates)
    torch.testing.assert_close(text[1], expected, rtol=0, atol=1e-6)


def test_single_puts_the_text_into_its_sentence(backbone: Backbone) -> None:
    single, whole = eclip.encode_texts(backbone, ["dog"], "single"), eclip.encode_texts(backbone, ["a photo of a dog."])
    assert torch.equal(single, whole)
    assert torch.equal(eclip.encode_texts(backbone, ["{x}"], "{}"), eclip.encode_texts(backbone, ["{x}"])), (
        "braces stay"
    )


def test_more_texts_than_one_pass_holds_come_out_alike(backbone: Backbone) -> None:
    texts = [f"number {index}" for index in range(300)]
    text = eclip.encode_texts(backbone, texts)
    torch.testing.assert_close(text[[0, 299]], eclip.encode_texts(backbone, [texts[0], texts[299]]), rtol=0, atol=1e-6)


def test_emoji_and_other_scripts_are_texts(backbone: Backbone) -> None:
    text = eclip.encode_texts(backbone, ["🐕", "狗", "собака", "e\u0301"])
    assert torch.isfinite(text).all()
    assert torch.pdist(text).min() > 1e-3


# --- cache ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


class _Counting:
    def __init__(self, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts, own = 0, Backbone.encode_text

        def counted(which: Backbone, texts: list[str]) -> torch.Tensor:
            self.prompts += len(texts) if len(texts) > 1 else 0  # one alone is the probe of the cache
            return own(which, texts)

        monkeypatch.setattr(Backbone, "encode_text", counted)


def test_ensembles_are_encoded_once_and_come_back_equal(
    backbone: Backbone, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = _Counting(backbone, monkeypatch)
    first = eclip.encode_texts(backbone, ["dog"], "surgery85")
    assert counting.prompts == 85
    assert torch.equal(eclip.encode_texts(backbone, ["dog"], "surgery85"), first)
    assert counting.prompts == 85
    eclip.encode_texts(backbone, ["dog"], "imagenet80")
    assert counting.prompts == 165, "other templates, another entry"
    other = tiny.backbone("vit")
    with torch.no_grad():
        next(other.model.transformer.parameters()).add_(0.1)
    assert not torch.equal(eclip.encode_texts(other, ["dog"], "surgery85"), first), "other weights, another entry"
    assert counting.prompts == 250


def test_another_activation_with_the_same_weights_is_another_entry(backbone: Backbone, cache: Path) -> None:
    model = copy.deepcopy(backbone.model)
    for block in model.transformer.resblocks:
        block.mlp.gelu = nn.GELU()
    other = eclip.wrap(model, mean=tiny.MEAN, std=tiny.STD)
    first = eclip.encode_texts(backbone, ["dog"], "surgery85")
    assert not torch.equal(eclip.encode_texts(other, ["dog"], "surgery85"), first)


@pytest.mark.long
def test_a_long_list_of_texts_is_encoded_once_and_comes_back_equal(
    backbone: Backbone, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, texts = Image.new("RGB", (32, 32), "teal"), [f"thing {number}" for number in range(LEAST_KEPT)]
    given: dict[str, Any] = {"model": backbone, "method": "maskclip", "health": False}
    monkeypatch.setattr("eclip.texts.encode.LEAST_KEPT", LEAST_KEPT + 1)
    plain = eclip.explain(image, texts, **given)
    assert not list(cache.rglob("*.npy"))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    counting = _Counting(backbone, monkeypatch)
    for _ in range(2):
        again = eclip.explain(image, texts, **given)
        assert np.array_equal(again.maps, plain.maps) and np.array_equal(again.scores, plain.scores)
    assert counting.prompts == LEAST_KEPT + 4, "and four to estimate the time"
    eclip.explain(image, texts[1:], **given)
    assert len(list(cache.rglob("*.npy"))) == 1, "a shorter list is not worth it"
    eclip.segment(image, texts, model=backbone, method="maskclip", templates=["a {}.", "the {}."])
    counting.prompts = 0
    eclip.segment(image, texts, model=backbone, method="maskclip", templates=["a {}.", "the {}."])
    assert counting.prompts == 0, "nor are the texts that presence compares"


def test_features_of_other_threads_are_others(backbone: Backbone, cache: Path) -> None:
    """They round differently, and a run is the same bits with and without a cache."""
    before = torch.get_num_threads()
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            eclip.encode_texts(backbone, ["dog"], "surgery85")
    finally:
        torch.set_num_threads(before)
    assert len(list(cache.rglob("*.npy"))) == 2


def test_nothing_of_a_hooked_model_is_kept(backbone: Backbone, cache: Path) -> None:
    block = backbone.model.transformer.resblocks[0]
    handle = block.register_forward_hook(lambda module, args, output: 1.5 * output)
    try:
        eclip.encode_texts(backbone, [f"thing {number}" for number in range(LEAST_KEPT)], keep=True)
    finally:
        handle.remove()
    assert not list(cache.rglob("*.npy"))


def test_what_was_used_longest_ago_goes_first(backbone: Backbone, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eclip.backbones.cached.MOST_BYTES", 600)
    names = {}
    for number, text in enumerate(["dog", "cat", "dog", "bird"]):  # 224 bytes each
        known = set(cache.rglob("*.npy"))
        eclip.encode_texts(backbone, [text], "surgery85")
        for file in set(cache.rglob("*.npy")) - known:
            names[text] = file
        os.utime(names[text], (number + 1, number + 1))
    assert {text: file.exists() for text, file in names.items()} == {"dog": True, "cat": False, "bird": True}
    eclip.encode_texts(backbone, ["dog"], "surgery85")
    assert names["dog"].stat().st_mtime > 9, "reading is using"


def test_a_damaged_cache_file_is_made_again(backbone: Backbone, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = eclip.encode_texts(backbone, ["dog"], "surgery85")
    [file] = cache.rglob("*.npy")
    for damaged in (b"", b"nonsense", file.read_bytes()[:-8]):
        file.write_bytes(damaged)
        assert torch.equal(eclip.encode_texts(backbone, ["dog"], "surgery85"), first)
        assert "it is computed again" in caplog.text
        caplog.clear()
    assert np.load(file).shape == (24,)


def test_no_cache_is_no_error(backbone: Backbone, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    (cache / "eclip").write_text("a file where the folder should be")
    assert eclip.encode_texts(backbone, ["dog"], "surgery85").shape == (1, 24)
    assert "not cached" in caplog.text


# --- words that are cut off -----------------------------------------------------------------------------------------

WORDS = ["a", "dog", "antidisestablishmentarianism", "dog,", "2024", "it's", "🐕", "狗狗", "(hello)", "...", "é", "Ж"]


def _read_by_counting(words: list[str]) -> int:
    """The same the long way: CLIP reads 77 tokens, two of which mark start and end."""
    used = np.cumsum([len(TOKENIZER.encode(word)) for word in words])
    return int((used <= 75).sum())


@pytest.mark.parametrize("count", [1, 20, 40, 60, 74, 75, 76, 100, 500])
def test_words_read_at_every_boundary(backbone: Backbone, count: int) -> None:
    for seed in range(4):
        words = random.Random(seed).choices(WORDS, k=count)
        assert words_read(backbone, words) == _read_by_counting(words), words


def test_words_read_by_hand(backbone: Backbone) -> None:
    assert words_read(backbone, ["dog"] * 75) == 75
    assert words_read(backbone, ["dog"] * 76) == 75
    assert words_read(backbone, [*["dog"] * 74, "dog,"]) == 74, "the last word is cut in its middle"
    assert words_read(backbone, ["狗" * 100]) == 0, "no word is read to its end"


def test_a_long_text_warns_with_the_words_that_were_cut(backbone: Backbone) -> None:
    long = " ".join(f"w{index}" for index in range(500))  # two tokens or more a word
    with pytest.warns(TextCutWarning, match=r"vit reads \d+ of the 500 words.*truncated.*: 'w.*w499'") as caught:
        eclip.encode_texts(backbone, ["a dog", long])
    assert len(caught) == 1
    read = int(str(caught[0].message).split()[2])
    assert read == _read_by_counting(long.split())
    assert f"mid-word: 'w{read} " in str(caught[0].message)


def test_the_template_counts(backbone: Backbone) -> None:
    fits = " ".join(["dog"] * 75)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eclip.encode_texts(backbone, [fits])
    with pytest.warns(TextCutWarning):
        eclip.encode_texts(backbone, [fits], "single")


# --- errors ---------------------------------------------------------------------------------------------------------


def test_errors(backbone: Backbone) -> None:
    with pytest.raises(TextError, match="no text was given"):
        eclip.encode_texts(backbone, [])
    with pytest.raises(TextError, match=r"write \['a dog'\]"):
        eclip.encode_texts(backbone, "a dog")
    with pytest.raises(UnknownNameError, match=r"unknown template set 'imagenet8'\. Did you mean 'imagenet80'"):
        eclip.encode_texts(backbone, ["a dog"], "imagenet8")
    with pytest.raises(OptionError, match=r"exactly one '\{\}'"):
        eclip.encode_texts(backbone, ["a dog"], ["a photo"])
    for texts, message in [([], "no text"), ("", "text 1 of 1 is empty"), (["a", " \t"], "text 2 of 2 is empty")]:
        with pytest.raises(TextError, match=message):
            check_texts(texts)
    with pytest.raises(TextError, match="not valid Unicode"):
        check_texts(["a \udcff dog"])
    assert check_texts("a dog") == ["a dog"]
