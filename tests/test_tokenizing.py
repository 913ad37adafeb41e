"""Tokenizers as users pass them: functions with any padding, return values of all kinds, and refusals."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

import eclip
import tiny
import tiny_hf
from eclip.backbones.backbone import Backbone
from eclip.errors import ModelError, OptionError, TextCutWarning, TextError
from eclip.words.tokens import read

TEXTS = ["a dog", "the photo of an elephant in front of the cat", "dog", ""]
COLORS: dict[str, Any] = {"mean": tiny.MEAN, "std": tiny.STD}
KINDS = ["CLIP", "CLIP, end told as 2", "MetaCLIP 2", "Chinese-CLIP", "AltCLIP", "SigLIP", "SigLIP 2 NaFlex"]


def _wrapped(family: str, tokenizer: Any) -> Backbone:
    return eclip.wrap(tiny_hf.model(family).double(), tokenizer=tokenizer, **COLORS)


def _longest(family: str, **options: Any) -> Callable[[list[str]], Any]:
    """As most people write it: padded to the longest text of the batch."""
    return lambda texts: tiny_hf.tokenizer(family)(texts, padding=True, return_tensors="pt", **options)["input_ids"]


# --- padding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", KINDS)
def test_a_function_that_pads_to_the_longest_gives_the_tokenizers_own_features(family: str) -> None:
    ours, expected = _wrapped(family, _longest(family)), _wrapped(family, tiny_hf.tokenizer(family))
    alone = torch.cat([ours.encode_text([text]) for text in TEXTS])
    torch.testing.assert_close(alone, expected.encode_text(TEXTS), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.encode_text(TEXTS), alone, rtol=0, atol=1e-12)
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    eclip.encode_texts(ours, TEXTS)  # and no warning of words that are cut off


def test_what_siglip_sees_of_padding_is_what_it_was_trained_with() -> None:
    """Without it the feature is another one, which nothing else would tell."""
    host, tokenizer = tiny_hf.model("SigLIP").double(), tiny_hf.tokenizer("SigLIP")
    with torch.no_grad():
        short = host.get_text_features(**tokenizer(["a dog"], return_tensors="pt", return_attention_mask=False))
    short = short if isinstance(short, torch.Tensor) else short.pooler_output
    found = _wrapped("SigLIP", _longest("SigLIP")).encode_text(["a dog"])
    assert torch.nn.functional.cosine_similarity(found, short).item() < 0.99


@pytest.fixture(scope="module")
def clip_ids() -> Callable[[list[str]], torch.Tensor]:
    """open_clip's tokenizer, padded to the longest."""
    tokenizer = open_clip.SimpleTokenizer()

    def ids(texts: list[str]) -> torch.Tensor:
        whole = tokenizer(texts)
        return whole[:, : int((whole != 0).sum(dim=1).max())]

    return ids


@pytest.mark.parametrize("family", ["vit", "siglip"])
def test_open_clips_models_read_texts_of_any_width(family: str, clip_ids: Any) -> None:
    host = tiny.model(family)
    expected = eclip.wrap(host, **COLORS).encode_text(TEXTS)
    shorter = eclip.wrap(host, tokenizer=clip_ids, **COLORS)
    wider = eclip.wrap(host, tokenizer=open_clip.SimpleTokenizer(context_length=90), **COLORS)
    for backbone in (shorter, wider):
        alone = torch.cat([backbone.encode_text([text]) for text in TEXTS])
        torch.testing.assert_close(alone, expected, rtol=0, atol=1e-6)
        assert backbone.tokenize(["a"]).shape == (1, 77)
    with pytest.raises(TextError, match=r"'dog dog .* has more tokens than the 77 .* truncation=True, max_length=77"):
        wider.encode_text(["a", "dog " * 100])


def _bidirectional(pad: int, words: int = 300) -> Any:
    """As SigLIP's text tower in open_clip: no causal mask, the last place is pooled, its tokenizer unknown."""
    text = {**tiny.TEXT, "context_length": 16, "vocab_size": words, "no_causal_mask": True, "pool_type": "last"}
    vision = {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "none"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        host = open_clip.CustomTextCLIP(embed_dim=32, vision_cfg=vision, text_cfg=text, init_logit_bias=-10)
    host.visual = tiny.model("siglip").visual

    def rows(texts: list[str]) -> list[list[int]]:
        return [[*(3 + ord(letter) for letter in one), 2] for one in texts]

    def longest(texts: list[str]) -> torch.Tensor:
        made = rows(texts)
        width = max(map(len, made))
        return torch.tensor([[*row, *[pad] * (width - len(row))] for row in made])

    def whole(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[*row, *[pad] * (16 - len(row))] for row in rows(texts)])

    return host.eval(), rows, longest, whole


@pytest.mark.parametrize("pad", [0, 1, 2])
def test_the_padding_of_a_function_is_seen_from_its_answers(pad: int) -> None:
    host, rows, longest, whole = _bidirectional(pad)
    expected = eclip.wrap(host, tokenizer=whole, **COLORS).encode_text(["dog", "elephants"])
    backbone = eclip.wrap(host, tokenizer=longest, **COLORS)
    for text, row in zip(["dog", "elephants"], expected, strict=True):
        torch.testing.assert_close(backbone.encode_text([text])[0], row, rtol=0, atol=1e-6)
    with pytest.raises(OptionError, match="padded to 16 tokens, but this tokenizer's padding id is unknown"):
        eclip.wrap(host, tokenizer=rows, **COLORS).encode_text(["dog"])


def test_padding_that_would_be_read_as_words_is_refused() -> None:
    left = tiny_hf._unigram(start=True)
    left.padding_side = "left"
    for family in ("AltCLIP", "SigLIP"):
        backbone = _wrapped(family, lambda texts: left(texts, padding=True, return_tensors="pt"))
        with pytest.raises(OptionError, match=r"pads on the left .* set tokenizer.padding_side = 'right'"):
            backbone.encode_text(["a dog"])
    wrong = _wrapped(
        "Chinese-CLIP",
        lambda texts: _longest("Chinese-CLIP")(texts).masked_fill_(_longest("Chinese-CLIP")(texts) == 0, 1),
    )
    with pytest.raises(ModelError, match="pads with id 1, but the model's padding is 0"):
        wrong.encode_text(["a dog"])


def test_long_texts_are_cut_by_the_tokenizer_or_refused() -> None:
    long = "dog " * 200
    cutting = _wrapped("CLIP", _longest("CLIP", truncation=True, max_length=77))
    expected = _wrapped("CLIP", tiny_hf.tokenizer("CLIP")).encode_text([long])
    torch.testing.assert_close(cutting.encode_text([long]), expected, rtol=0, atol=1e-12)
    with pytest.warns(TextCutWarning):
        eclip.encode_texts(cutting, [long])
    whole = _wrapped("CLIP", _longest("CLIP"))
    eclip.encode_texts(whole, ["dog " * 60])
    with pytest.raises(TextError, match="more tokens than the 77 that the model reads"):
        eclip.encode_texts(whole, [long])


@pytest.mark.parametrize("family", ["CLIP", "SigLIP", "AltCLIP"])
def test_words_are_found_whatever_the_padding(family: str) -> None:
    text = "the dog in front of a ball"
    ours, expected = (read(_wrapped(family, one), [text]) for one in (_longest(family), tiny_hf.tokenizer(family)))
    assert ours.words == expected.words


# --- answers --------------------------------------------------------------------------------------------------------

GOOD: dict[str, Callable[[torch.Tensor], Any]] = {
    "int32": lambda ids: ids.int(),
    "array": lambda ids: ids.numpy().astype(np.uint16),
    "lists": lambda ids: ids.tolist(),
    "tuples": lambda ids: tuple(map(tuple, ids.tolist())),
    "unlike lists": lambda ids: [[one for one in row if one] for row in ids.tolist()],
    "unlike arrays": lambda ids: [row[row != 0].numpy() for row in ids],
    "array of lists": lambda ids: np.array([[one for one in row if one] for row in ids.tolist()] + [[]], object)[:-1],
    "tensors": list,
    "dict": lambda ids: {"input_ids": ids, "attention_mask": ids != 0},
    "dict of lists": lambda ids: {"input_ids": ids.tolist()},
    "namespace": lambda ids: SimpleNamespace(input_ids=ids),
    "encodings": lambda ids: [SimpleNamespace(ids=row) for row in ids.tolist()],
    "batch encoding": lambda ids: tiny_hf.transformers.BatchEncoding({"input_ids": ids.numpy()}),
}


@pytest.mark.parametrize("kind", GOOD)
def test_answers_that_can_be_read_are_read(kind: str, clip_ids: Any) -> None:
    host = tiny.model("vit")
    expected = eclip.wrap(host, **COLORS).encode_text(TEXTS)
    backbone = eclip.wrap(host, tokenizer=lambda texts: GOOD[kind](clip_ids(texts)), **COLORS)
    torch.testing.assert_close(backbone.encode_text(TEXTS), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(backbone.encode_text(TEXTS[:1]), expected[:1], rtol=0, atol=1e-6)
    ids = backbone.tokenize(TEXTS)
    assert (ids.dtype, ids.device.type, tuple(ids.shape)) == (torch.int64, "cpu", (4, 77))


BAD: dict[str, tuple[Callable[[torch.Tensor], Any], type[Exception], str]] = {
    "none": (lambda ids: None, OptionError, "got None"),
    "text": (lambda ids: "ids", OptionError, "got str"),
    "strings": (lambda ids: [["a", "dog"]] * len(ids), OptionError, "got list"),
    "floats": (lambda ids: ids.float(), OptionError, r"got values of torch\.float32"),
    "float lists": (lambda ids: ids.double().tolist(), OptionError, "got list of float64"),
    "float array": (lambda ids: ids.double().numpy(), OptionError, "got ndarray of float64"),
    "booleans": (lambda ids: ids != 0, OptionError, r"got values of torch\.bool"),
    "one row": (lambda ids: ids[0], OptionError, r"ids of shape \(\d+,\)"),
    "one list": (lambda ids: ids[0].tolist(), OptionError, "a list of token ids of one text alone"),
    "too few": (lambda ids: ids[:-1], OptionError, r"ids of shape \(\d, \d+\)"),
    "too many": (lambda ids: torch.cat([ids, ids]), OptionError, r"ids of shape \(\d, \d+\)"),
    "empty": (lambda ids: ids[:, :0], OptionError, r"ids of shape \(\d, 0\)"),
    "empty list": (lambda ids: [], OptionError, r"ids of shape \(0, 0\)"),
    "no axes": (lambda ids: 7, OptionError, r"ids of shape \(\)"),
    "an axis more": (lambda ids: ids[:, None], OptionError, r"ids of shape \(\d, 1, \d+\)"),
    "rows of rows": (lambda ids: [[row] for row in ids.tolist()], OptionError, "rows of rows"),
    "other dict": (lambda ids: {"tokens": ids}, OptionError, r"a dict without 'input_ids', but with \['tokens'\]"),
    "negative": (lambda ids: ids.masked_fill(ids == 0, -100), ModelError, "negative token id -100"),
    "too large": (lambda ids: ids + 49408, ModelError, r"but the model's ids are below (49408|100)\b"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("count", [1, 3])
def test_answers_that_cannot_be_read_are_named(kind: str, count: int, clip_ids: Any) -> None:
    answer, error, message = BAD[kind]
    for host in (tiny.model("vit"), tiny_hf.model("CLIP")):
        backbone = eclip.wrap(host, tokenizer=lambda texts: answer(clip_ids(texts)), **COLORS)
        with pytest.raises(error, match=message):
            backbone.encode_text(TEXTS[:count])


@pytest.mark.parametrize("given", ["openai/clip-vit-base-patch32", 3, ["a"]])
def test_a_tokenizer_that_is_no_function_is_refused_at_once(given: Any) -> None:
    for host in (tiny.model("vit"), tiny_hf.model("CLIP")):
        with pytest.raises(OptionError, match="tokenizer must be a function from a list of texts"):
            eclip.wrap(host, tokenizer=given, **COLORS)


def test_an_error_of_the_function_stays_its_own() -> None:
    def broken(texts: list[str]) -> torch.Tensor:
        raise ZeroDivisionError("of the user")

    with pytest.raises(ZeroDivisionError, match="of the user"):
        eclip.wrap(tiny.model("vit"), tokenizer=broken, **COLORS).encode_text(["a"])


def test_a_tokenizer_of_transformers_serves_a_model_of_open_clip() -> None:
    host, tokenizer = tiny.model("vit"), tiny_hf.tokenizer("CLIP")
    backbone = eclip.wrap(host, tokenizer=tokenizer, **COLORS)
    ids = tokenizer(TEXTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")["input_ids"]
    assert torch.equal(backbone.tokenize(TEXTS), ids)


def test_tokenizers_travel_to_other_processes_without_the_model() -> None:
    for backbone in (eclip.wrap(tiny.model("vit"), **COLORS), tiny_hf.backbone("SigLIP"), tiny_hf.backbone("CLIP")):
        sent = pickle.dumps(backbone.tokenize)
        assert torch.equal(pickle.loads(sent)(TEXTS), backbone.tokenize(TEXTS))


# --- upper and lower case -------------------------------------------------------------------------------------------


def _gemma(lower: bool | None) -> Any:
    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyzADÉé"]
    return tiny_hf.transformers.GemmaTokenizer(
        vocab={letter: place for place, letter in enumerate(letters)},
        merges=[],
        padding_side="right",
        model_max_length=64,
        add_bos_token=False,
        add_eos_token=True,
        **({} if lower is None else {"do_lower_case": lower}),
    )


@pytest.mark.parametrize("lower", [True, False, None])
def test_fixed_size_siglip2_follows_do_lower_case(lower: bool | None, tmp_path: Path) -> None:
    """Its class of tokenizer, Gemma's, keeps the setting and does not act on it; Siglip2Tokenizer does."""
    given = _gemma(lower)
    plain = given(["A Dog É", "a dog é"], padding="max_length", max_length=64, return_tensors="pt")["input_ids"]
    assert not torch.equal(plain[0], plain[1])
    expected = plain[[1, 1]] if lower else plain
    tiny_hf.model("SigLIP").save_pretrained(tmp_path)
    given.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "do_normalize": True})
    )
    processor = SimpleNamespace(
        tokenizer=given, image_processor=tiny_hf.transformers.CLIPImageProcessor(image_mean=[0.5] * 3)
    )
    for backbone in (
        eclip.load(f"hf:{tmp_path}"),
        eclip.wrap(tiny_hf.model("SigLIP"), tokenizer=given, **COLORS),
        eclip.wrap(tiny_hf.model("SigLIP"), processor=processor),
    ):
        assert torch.equal(backbone.tokenize(["A Dog É", "a dog é"]), expected)
    shutil.rmtree(tmp_path)


def test_tokenizers_that_lower_by_themselves_are_left_alone() -> None:
    given = tiny_hf.tokenizer("Chinese-CLIP")
    given.init_kwargs["do_lower_case"] = True
    backbone = _wrapped("Chinese-CLIP", given)
    expected = given(["A DOG"], padding="max_length", max_length=60, return_tensors="pt")["input_ids"]
    assert torch.equal(backbone.tokenize(["A DOG"]), expected)
    del given.init_kwargs["do_lower_case"]


@pytest.mark.parametrize("options", [{"clean": "canonicalize"}, {"clean": "whitespace"}, {"clean": "lower"}, {}])
def test_a_folder_of_open_clip_cleans_texts_as_its_configuration_says(
    options: dict[str, Any], tiny_folder: Path, tmp_path: Path
) -> None:
    for kind in ("simple", "transformers"):
        folder = Path(shutil.copytree(tiny_folder, tmp_path / f"{kind}"))
        config = json.loads((folder / "open_clip_config.json").read_text())
        text = config["model_cfg"]["text_cfg"]
        text["tokenizer_kwargs"] = options
        if kind == "transformers":
            text["hf_tokenizer_name"] = "somewhere/else"
            tiny_hf.tokenizer("AltCLIP").save_pretrained(folder)
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        texts = ["A  Dog!", "a dog", "two_cats,  &amp; a DOG"]
        expected = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
        assert torch.equal(eclip.load(f"local-dir:{folder}").tokenize(texts), expected)
        assert bool((expected[0] == expected[1]).all()) == (options.get("clean") == "canonicalize")
