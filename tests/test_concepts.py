"""Concepts: both decompositions against their authors' arrays and conditions; then images, files, command line."""

from __future__ import annotations

import json
import re
import shlex
import sys
import warnings
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
from eclip import cli, render
from eclip.backbones.blocks import unit
from eclip.backbones.encoding import encode
from eclip.discovery import msae, splice
from eclip.discovery.concepts import ConceptsWriter
from eclip.errors import (
    EqualTextsWarning,
    ImageError,
    MissingExtraError,
    ModelError,
    OptionError,
    ShapeError,
    TextError,
)
from eclip.methods import METHODS
from eclip.methods.maskclip import patch_features
from eclip.texts.vocabulary import words_of

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden, the authors' arrays, is not here")
ELEPHANT = Path(__file__).parents[1] / "docs" / "images" / "elephant.jpg"
MINI_MEAN = Path(eclip.__file__).parent / "backbones" / "assets" / "mini" / "image_mean.npy"
WORDS = [
    "elephant", "man", "dog", "cat", "horse", "car", "tree", "grass", "sky", "water", "building", "wall", "chair",
    "table", "bottle", "bicycle", "boat", "bird", "cow", "sheep", "train", "bus", "airplane", "sofa", "tv",
    "person", "woman", "child", "beach", "snow", "road", "fence",
]  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vocabulary in a file, which is encoded in a second."""
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text("# a comment\n" + "\n".join(WORDS) + "\n")
    return path


@pytest.fixture(scope="module")
def found(vocabulary: Path) -> eclip.Concepts:
    return eclip.concepts(ELEPHANT, vocabulary=vocabulary)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _arrays(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(value) for key, value in arrays.items()}


def _close(ours: torch.Tensor, theirs: torch.Tensor, atol: float) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=atol)


# SpLiCE


@golden
def test_splice_is_the_authors() -> None:
    arrays = _arrays("splice")
    words = splice.dictionary(arrays["raw_concepts"])
    targets = splice.center(arrays["embeddings"], arrays["image_mean"])
    _close(words, arrays["dictionary"], 1e-5)
    _close(targets, arrays["centered"], 1e-5)
    for l1 in (0.25, 0.05):
        weights = splice.solve(targets, words, l1)
        _close(weights, arrays[f"weights_skl_lambda{l1}"], 1e-4)
        _close(weights, arrays[f"weights_admm_lambda{l1}"], 1e-3)
        rebuilt = splice.rebuild(weights, words, arrays["image_mean"])
        _close(rebuilt, arrays[f"reconstruction_skl_lambda{l1}"], 1e-4)


@pytest.mark.parametrize("l1", [0.05, 0.25, 0.6])
def test_weights_are_where_the_objective_is_least(l1: float) -> None:
    words, targets = splice.dictionary(_random(200, 48)), unit(_random(5, 48, seed=1))
    weights = splice.solve(targets, words, l1)
    assert (weights >= 0).all()
    assert (weights > 0).any()
    qkv_vjp = (targets - weights @ words) @ words.T  # half the gradient of what the sum has left to explain
    used = weights > 0
    torch.testing.assert_close(qkv_vjp[used], torch.full_like(qkv_vjp[used], l1 / 2), rtol=0, atol=1e-3)
    assert float(qkv_vjp[~used].max()) <= l1 / 2 + 1e-3, "no unused word would pay for itself"


def test_a_larger_penalty_uses_fewer_words_and_the_largest_none() -> None:
    words, targets = splice.dictionary(_random(100, 32)), unit(_random(3, 32, seed=1))
    used = [int((splice.solve(targets, words, l1) > 0).sum()) for l1 in (0.02, 0.1, 0.3, 0.6)]
    assert used == sorted(used, reverse=True)
    assert used[0] > used[-1]
    bound = 2 * float((targets @ words.T).max())
    assert (splice.solve(targets, words, bound * 1.001) == 0).all()
    assert (splice.solve(targets, words, bound * 0.98) > 0).any()


def test_a_sum_of_two_words_is_taken_apart_into_them() -> None:
    words = splice.dictionary(_random(50, 32))
    weights = splice.solve(unit(2 * words[[3]] + words[[7]]), words, 0.02)[0]
    assert weights.argsort(descending=True)[:2].tolist() == [3, 7]
    assert float(weights[[3, 7]].sum()) > 0.95 * float(weights.sum())


def test_a_word_alone_is_no_dictionary() -> None:
    with pytest.raises(ShapeError, match="at least 2 words, got 1"):
        splice.dictionary(_random(1, 8))


# MSAE


def _golden_autoencoder(cap: float, standardize: bool) -> msae.Autoencoder:
    arrays = _arrays("msae")
    weights = {name: arrays[f"weights__{name}"] for name in ("encoder", "decoder", "pre_bias", "latent_bias")}
    return msae.Autoencoder(**weights, cap=cap, standardize=standardize)


@golden
@pytest.mark.parametrize("cap", [0, 30])
@pytest.mark.parametrize("standardize", [False, True])
def test_msae_is_the_authors(cap: int, standardize: bool) -> None:
    arrays = _arrays("msae")
    autoencoder, rows = _golden_autoencoder(float(cap), standardize), arrays["input"]
    name = f"norm{int(standardize)}_cap{cap}__"
    for level, k in enumerate((4, 8, 16, 64)):
        latents = autoencoder.encode(rows, k)
        assert int((latents > 0).sum(dim=1).max()) <= k
        _close(latents, arrays[f"{name}latents"][level], 1e-3)
        _close(autoencoder.decode(latents, rows), arrays[f"{name}reconstructions"][level], 1e-3)
    latents = autoencoder.encode(rows)
    _close(latents, arrays[f"{name}latents_all"], 1e-3)
    _close(autoencoder.decode(latents, rows), arrays[f"{name}reconstruction_all"], 1e-3)


def _state(feature: int = 24, latent: int = 60) -> dict[str, torch.Tensor]:
    return {
        "encoder": _random(feature, latent),
        "decoder": _random(latent, feature, seed=1),
        "pre_bias": _random(feature, seed=2),
        "latent_bias": _random(latent, seed=3),
        "latents_activation_frequency": torch.zeros(latent, dtype=torch.int64),
    }


def test_checkpoints_of_all_layouts_are_read_alike(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state, mean = _state(), _random(24, seed=4)
    torch.save(state, tmp_path / "plain.pt")
    save_file(state, tmp_path / "plain.safetensors")
    torch.save({"model": state, "mean_center": mean, "scaling_factor": 2.0, "target_norm": 1.0}, tmp_path / "old.pt")
    config = {"activation": "TopKReLU_64", "latent_soft_cap": 30.0, "normalize": True}
    trained = {"mean_center": mean, "scaling_factor": 2.0}
    torch.save({"model_state_dict": state, "model_config": config, "preprocessing": trained}, tmp_path / "new.pth")
    rows = _random(4, 24, seed=5)
    files = ("plain.pt", "plain.safetensors", "old.pt", "new.pth")
    plain, same, old, new = (msae.load_autoencoder(tmp_path / name) for name in files)
    torch.testing.assert_close(plain.encode(rows, 8), same.encode(rows, 8), rtol=0, atol=0)
    torch.testing.assert_close(old.encode(rows, 8), plain.encode((rows - mean) * 2, 8))
    assert (new.cap, new.standardize, new.scale) == (30.0, True, 2.0)
    latents = old.encode(rows)
    torch.testing.assert_close(old.decode(latents, rows), (latents @ old.decoder + old.pre_bias) / 2 + mean)


def test_tied_weights_decode_with_the_encoder(tmp_path: Path) -> None:
    state = _state()
    del state["decoder"]
    torch.save(state, tmp_path / "tied.pt")
    assert torch.equal(msae.load_autoencoder(tmp_path / "tied.pt").decoder, state["encoder"].T)


def test_bad_checkpoints_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "bad.pt"
    with pytest.raises(ModelError, match=r"the checkpoint file .* does not exist"):
        msae.load_autoencoder(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match=r"cannot read .* as weights only \(.+\)"):
        msae.load_autoencoder(path)
    path.write_bytes(b"no weights")
    with pytest.raises(ModelError, match="as weights only"):
        msae.load_autoencoder(path)
    torch.save({"model": Path("code")}, path)  # an object, which could run code as it is read
    with pytest.raises(ModelError, match="as weights only"):
        msae.load_autoencoder(path)
    torch.save({"layer.weight": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match=r"lacks encoder, latent_bias, pre_bias; it has layer\.weight"):
        msae.load_autoencoder(path)
    torch.save({**_state(), "decoder": torch.zeros(24, 60)}, path)
    with pytest.raises(ModelError, match=r"decoder in .* must be \(60, 24\) .* got \(24, 60\)"):
        msae.load_autoencoder(path)
    torch.save({"model_state_dict": _state(), "model_config": {"activation": "JumpReLU"}}, path)
    with pytest.raises(ModelError, match="was trained with JumpReLU"):
        msae.load_autoencoder(path)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"model_config": 5}, "model_config in .* must be a dict, got int"),
        ({"preprocessing": torch.ones(2)}, "preprocessing in .* must be a dict, got Tensor"),
        ({"mean_center": "x"}, "mean_center in .* must be an array of finite numbers, got 'x'"),
        ({"scaling_factor": [1.0, 2.0]}, r"scaling_factor in .* must be one finite number, got \[1\.0, 2\.0\]"),
        ({"scaling_factor": torch.ones(2)}, r"scaling_factor in .* must be one finite number, got tensor\("),
        ({"scaling_factor": 0.0}, r"scaling_factor in .* must be above 0, got 0\.0"),
        ({"scaling_factor": float("nan")}, "scaling_factor in .* must be one finite number, got nan"),
        ({"model_config": {"latent_soft_cap": "a"}}, "latent_soft_cap in .* must be one finite number, got 'a'"),
        ({"model_config": {"normalize": "yes"}}, "normalize in .* must be one finite number, got 'yes'"),
        ({"latent_bias": torch.full((60,), torch.nan)}, "latent_bias in .* must be an array of finite numbers"),
        ({"decoder": torch.full((60, 24), torch.inf)}, "decoder in .* must be an array of finite numbers"),
        ({"pre_bias": torch.zeros(24, dtype=torch.complex64)}, "pre_bias in .* must be an array of finite numbers"),
    ],
)
def test_settings_and_arrays_of_a_checkpoint_are_looked_at(saved: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch.save({**_state(), **saved}, tmp_path / "bad.pt")
    with pytest.raises(ModelError, match=message):
        msae.load_autoencoder(tmp_path / "bad.pt")


@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize("standardize", [False, True])
def test_msae_is_its_formula(cap: float, standardize: bool) -> None:
    """The long way, number by number; the same against the authors' arrays is above."""
    state, mean, rows = _state(6, 10), _random(6, seed=4), _random(3, 6, seed=5)
    encoder, decoder, pre, bias = (state[name] for name in ("encoder", "decoder", "pre_bias", "latent_bias"))
    autoencoder = msae.Autoencoder(encoder, decoder, pre, bias, cap, standardize, mean, 2.0)
    latents, again = torch.zeros(3, 10), torch.zeros(3, 6)
    for index, row in enumerate(rows):
        x = (row - mean) * 2
        middle, spread = (x.sum() / 6, ((x - x.sum() / 6).square().sum() / 5).sqrt()) if standardize else (0.0, 1.0)
        x = (x - middle) / (spread + (1e-5 if standardize else 0))
        z = torch.stack([(x - pre) @ encoder[:, latent] + bias[latent] for latent in range(10)])
        for latent in sorted(range(10), key=lambda one: -float(z[one]))[:4]:
            value = max(float(z[latent]), 0.0)
            latents[index, latent] = cap * np.tanh(value / cap) if cap else value
        y = pre + sum(latents[index, latent] * decoder[latent] for latent in range(10))
        again[index] = (y * spread + middle) / 2 + mean
    assert (latents > 1).any() and (latents <= (cap or np.inf)).all()
    torch.testing.assert_close(autoencoder.encode(rows, 4), latents)
    torch.testing.assert_close(autoencoder.decode(latents, rows), again)


def test_latents_are_named_after_the_nearest_word() -> None:
    words = unit(_random(6, 24))
    autoencoder = msae.Autoencoder(words[:3].T, 3 * words[[4, 0, 5]], torch.zeros(24), torch.zeros(3))
    index, close = autoencoder.names(words)
    assert index.tolist() == [4, 0, 5]
    torch.testing.assert_close(close, torch.ones(3))


# vocabularies


def test_the_vocabulary_of_the_package() -> None:
    words = words_of(None)
    assert len(words) == len(set(words)) > 1000
    assert {"elephant", "man", "woman", "fire hydrant", "traffic light", "grass"} <= set(words)
    assert not {"doctor", "criminal", "muslim", "mexican", "monkey", "gorilla", "nude", "slut"} & set(words)
    assert {"sunglasses", "cookie", "dishwasher"} <= set(words), "as people write them"
    assert not {"sunglass", "cooky", "dish washer", "decker"} & set(words)
    assert list(words) == sorted(words)
    assert all(word == word.strip().lower() for word in words)


def test_the_license_is_that_of_the_words_source() -> None:
    assets = Path(eclip.__file__).parent / "texts"
    assert "WordNet 3.1, Copyright 2011 by Princeton" in (assets / "words.txt").read_text().replace("\n# ", " ")
    licence = (assets / "WORDNET-LICENSE.txt").read_text()
    assert "WordNet 3.1 Copyright 2011 by Princeton University.  All rights reserved." in licence
    assert "3.0" not in licence


def test_bad_vocabularies_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"words\.txt' cannot be read: No such file"):
        words_of(tmp_path / "words.txt")
    (tmp_path / "words.txt").write_text("# only this\n\ndog  # a comment\ndog\n")
    with pytest.raises(OptionError, match="must hold at least 2 different words, got 1"):
        words_of(tmp_path / "words.txt")
    with pytest.raises(OptionError, match="must hold at least 2 different words, got 0"):
        words_of([])
    with pytest.raises(TextError, match="text 2 of 2 is empty"):
        words_of(["dog", " "])
    (tmp_path / "words.txt").write_text("a dog\n a cat # here\n")
    assert words_of(tmp_path / "words.txt") == ("a dog", "a cat")
    (tmp_path / "words.txt").write_text("C# book\n#9\n \t# C\na cat\t#here # twice\n")
    assert words_of(tmp_path / "words.txt") == ("C# book", "a cat")
    with pytest.raises(OptionError, match="cannot be read: embedded null"):
        words_of("v\0.txt")
    (tmp_path / "words.txt").write_bytes(b"caf\xe9\nbar")
    with pytest.raises(OptionError, match="cannot be read: it is not UTF-8"):
        words_of(tmp_path / "words.txt")


# images


def test_mini_sees_an_elephant_and_a_man_and_where(found: eclip.Concepts) -> None:
    assert found.names[0] == "elephant"
    assert "man" in found.names
    assert (found.weights > 0).all()
    assert list(found.weights) == sorted(found.weights, reverse=True)
    assert 0.4 < found.cosine < 1 and 0.4 < found.beyond_mean < 1
    elephant, man = (found.maps[found.names.index(name)] for name in ("elephant", "man"))
    (y, x), (_, left) = (
        (np.array(np.unravel_index(one.argmax(), one.shape)) + 0.5) / one.shape for one in (man, elephant)
    )
    assert 0.2 < y < 0.6 and 0.45 < x < 0.85, "his head: right of the middle, above it"
    assert left < 0.5, "its head: on the left"


def test_concepts_are_the_formula_and_the_main_path(found: eclip.Concepts) -> None:
    backbone = eclip.load("mini")
    mean = torch.from_numpy(np.load(MINI_MEAN))
    encoding = encode(backbone, backbone.preprocess(Image.open(ELEPHANT))[None], keep=1)
    text = eclip.encode_texts(backbone, WORDS)
    row = torch.nn.functional.normalize(encoding.feature, dim=1)
    target = torch.nn.functional.normalize(row - mean, dim=1)
    weights = splice.solve(target, splice.dictionary(text))[0]
    best = [WORDS.index(name) for name in found.names]
    np.testing.assert_allclose(found.weights, weights[best].numpy(), atol=1e-5)
    assert found.used == int((weights > 0).sum())
    assert found.available == len(WORDS)
    np.testing.assert_allclose(found.maps, METHODS["maskclip"](encoding, text[best])[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(found.explanation.scores[0], (row @ text[best].T)[0].numpy(), atol=1e-5)


@pytest.mark.parametrize(("precision", "model"), [("float64", "timm abs_attn"), ("bfloat16", "mini")])
@pytest.mark.long
def test_models_of_other_precisions_are_asked_alike(
    precision: str, model: str, vocabulary: Path, tmp_path: Path, found: eclip.Concepts
) -> None:
    """Both with the mean given as a file; `mini` also with that which it brings."""
    if model == "mini":
        backbone, means = eclip.load("mini", precision=precision), [None, MINI_MEAN]
    else:  # float64 is slow, and a tiny model shows as much
        backbone, means = tiny.kept(model, torch.float64), [tmp_path / "mean.npy"]
        np.save(tmp_path / "mean.npy", np.full(24, 0.1, np.float32))
        found = eclip.concepts(ELEPHANT, model=tiny.kept(model), vocabulary=vocabulary, image_mean=means[0])
    for mean in means:
        one = eclip.concepts(ELEPHANT, model=backbone, vocabulary=vocabulary, image_mean=mean)
        assert one.names[:2] == found.names[:2]
        np.testing.assert_allclose(one.weights[:2], found.weights[:2], atol=0.01)
        assert one.weights.dtype == one.explanation.scores.dtype == np.float32
        assert one.provenance["command"] is None, "the name alone gives float32"
    one.save(tmp_path)
    width = eclip.encode(backbone, backbone.blank(), keep=0).feature.shape[1]
    torch.save(_state(feature=width), tmp_path / "sae.pt")
    latents = eclip.concepts(ELEPHANT, model=backbone, vocabulary=vocabulary, msae=tmp_path / "sae.pt", latents=12)
    assert latents.maps.shape[1:] == found.maps.shape[1:] and 0 < latents.maps.shape[0] <= 12
    assert -1 <= latents.cosine <= 1


def test_count_penalty_and_method_are_obeyed(vocabulary: Path, found: eclip.Concepts) -> None:
    few = eclip.concepts(ELEPHANT, vocabulary=vocabulary, count=2, method="surgery", depth=3)
    assert few.names == found.names[:2]
    assert few.explanation.signed
    assert few.provenance["options"] == {"depth": 3}
    none = eclip.concepts(ELEPHANT, vocabulary=vocabulary, l1=2.5)
    assert (none.names, none.used, none.maps.shape[0]) == ((), 0, 0)
    assert none.picture().width < found.picture().width, "the image alone"


def test_an_option_that_is_a_tensor_is_noted_and_names_no_command(vocabulary: Path, tmp_path: Path) -> None:
    reference = _random(256)
    one = eclip.concepts(ELEPHANT, vocabulary=vocabulary, count=2, method="surgery", reference=reference)
    one.save(tmp_path)
    provenance = json.loads((tmp_path / "manifest.json").read_text())["provenance"]
    assert provenance["options"] == {"reference": reference.tolist()}
    assert provenance["command"] is None
    plain = eclip.concepts(ELEPHANT, vocabulary=vocabulary, count=2, method="surgery")
    assert not np.allclose(one.maps, plain.maps), "the method got it"
    assert plain.provenance["command"] is not None


@pytest.mark.long
def test_templates_are_those_of_the_vocabulary(found: eclip.Concepts) -> None:
    sentences = ["a photo of a {}.", "a drawing of a {}."]
    one = eclip.concepts(ELEPHANT, vocabulary=WORDS, templates=sentences)
    backbone, mean = eclip.load("mini"), torch.from_numpy(np.load(MINI_MEAN))
    text = eclip.encode_texts(backbone, WORDS, sentences)
    feature = encode(backbone, backbone.preprocess(Image.open(ELEPHANT))[None], 0).feature
    weights = splice.solve(splice.center(feature, mean), splice.dictionary(text))[0]
    np.testing.assert_allclose(one.weights, weights[[WORDS.index(name) for name in one.names]].numpy(), atol=1e-5)
    assert not np.allclose(one.weights[:2], found.weights[:2], atol=1e-3)


def test_cosines_are_the_long_way(found: eclip.Concepts) -> None:
    backbone, mean = eclip.load("mini"), torch.from_numpy(np.load(MINI_MEAN))
    assert found.used <= len(found.names), "all that are in use are named"
    words = eclip.encode_texts(backbone, WORDS)
    words = words - words.mean(dim=0)
    rows = [words[WORDS.index(name)] / words[WORDS.index(name)].norm() for name in found.names]
    made = sum(float(weight) * row for weight, row in zip(found.weights, rows, strict=True))
    made = made / made.norm()
    feature = encode(backbone, backbone.preprocess(Image.open(ELEPHANT))[None], 0).feature[0]
    feature = feature / feature.norm()
    beyond = (feature - mean) / (feature - mean).norm()
    assert found.beyond_mean == pytest.approx(float(made @ beyond), abs=1e-4)
    assert found.cosine == pytest.approx(float((made + mean) @ feature / (made + mean).norm()), abs=1e-4)


def test_the_picture_fades_what_weighs_less(found: eclip.Concepts, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def strip(image: Image.Image, panels: Any, **rest: Any) -> Image.Image:
        drawn.update(rest, peaks=[float(panel.max()) for panel in panels], edges=list(rest["edges"]))
        return image

    monkeypatch.setattr(render, "strip", strip)
    found.picture()
    assert drawn["peaks"] == [1.0] * len(found.names) and len(drawn["edges"]) == len(found.names)
    np.testing.assert_allclose(drawn["alphas"], 0.425 * (1 + np.sqrt(found.weights / found.weights[0])), rtol=1e-5)
    assert "maskclip on mini" in drawn["notes"][0]
    assert drawn["what"] == "weight", "the number is no cosine"
    flat, common = np.zeros((4, 4)), {"signed": False, "text": "dog", "score": 0.5}
    plain, named = (render.overlay(Image.open(ELEPHANT), flat, **common, **what) for what in ({}, {"what": "weight"}))
    assert plain.tobytes() != named.tobytes(), "the word is drawn"
    np.testing.assert_allclose(drawn["scores"], found.weights)


def test_words_that_the_model_cannot_tell_apart_are_named(found: eclip.Concepts) -> None:
    with pytest.warns(EqualTextsWarning, match="mini cannot tell these texts apart: 'elephant' and 'Elephant'"):
        eclip.concepts(ELEPHANT, vocabulary=[*WORDS, "Elephant"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", EqualTextsWarning)
        assert eclip.concepts(ELEPHANT, vocabulary=WORDS).names == found.names


def test_many_images_are_each_as_alone(tiny_name: str, images: Path) -> None:
    files = sorted(images.iterdir())
    mean = torch.full((24,), 0.05)
    settings: dict[str, Any] = {"model": tiny_name, "vocabulary": WORDS[:9], "image_mean": mean, "l1": 0.05}
    both = eclip.concepts(files, **settings)
    assert [one.source for one in both] == [str(file) for file in files]
    for file, one in zip(files, both, strict=True):
        alone = eclip.concepts(file, **settings)
        assert alone.names == one.names
        np.testing.assert_allclose(alone.maps, one.maps, atol=1e-5)
        np.testing.assert_allclose(alone.weights, one.weights, atol=1e-5)
    failures: list[tuple[str, str]] = []
    kept = list(eclip.concepts_each([files[0], "no.jpg"], failures=failures, batch_size=1, **settings))
    assert len(kept) == 1 and failures[0][0] == "no.jpg"


def test_latents_of_an_autoencoder_have_maps_of_their_own(tiny_name: str, images: Path, tmp_path: Path) -> None:
    torch.save(_state(), tmp_path / "sae.pt")
    settings: dict[str, Any] = {"model": tiny_name, "vocabulary": WORDS[:9], "msae": tmp_path / "sae.pt", "latents": 6}
    one = eclip.concepts(images / "a.png", count=4, **settings)
    backbone, autoencoder = eclip.load(tiny_name), msae.load_autoencoder(tmp_path / "sae.pt")
    encoding = encode(backbone, backbone.preprocess(Image.open(images / "a.png"))[None], keep=1)
    latents = autoencoder.encode(encoding.feature, 6)
    best = latents[0].argsort(descending=True)[:4]
    np.testing.assert_allclose(one.weights, latents[0, best].numpy(), rtol=1e-4)
    nearest = autoencoder.names(eclip.encode_texts(backbone, WORDS[:9]))[0]
    assert one.names == tuple(f"{WORDS[nearest[latent]]} (latent {latent})" for latent in best.tolist())
    rows = autoencoder.encode(patch_features(encoding))[0, :, best].T.unflatten(1, encoding.grid)
    np.testing.assert_allclose(one.maps, rows.numpy(), atol=1e-4)
    assert (one.beyond_mean, one.available, one.provenance["method"]) == (None, 60, "msae")
    torch.save(_state(feature=16), tmp_path / "other.pt")
    with pytest.raises(ShapeError, match="takes features of width 16, got 24"):
        eclip.concepts(images / "a.png", **{**settings, "msae": tmp_path / "other.pt"})
    with pytest.raises(OptionError, match=r"latents must be at most 60, as many as .*sae\.pt has, got 61"):
        eclip.concepts(images / "a.png", **{**settings, "latents": 61})
    full = eclip.concepts(images / "a.png", **{**settings, "latents": None})
    assert full.provenance["latents"] == 60 and full.used > 6
    with pytest.raises(OptionError, match="msae cannot be combined with l1"):
        eclip.concepts(images / "a.png", l1=0.1, **settings)
    with pytest.raises(OptionError, match="msae cannot be combined with l1"):
        eclip.concepts(images / "a.png", l1=splice.L1, **settings)


@pytest.mark.parametrize("kind", ["splice", "msae"])
def test_a_callers_autocast_changes_nothing(kind: str, tiny_name: str, images: Path, tmp_path: Path) -> None:
    torch.save(_state(), tmp_path / "sae.pt")
    settings: dict[str, Any] = {"model": tiny_name, "vocabulary": WORDS[:9]}
    settings |= {"image_mean": torch.full((24,), 0.05), "l1": 0.05} if kind == "splice" else {"latents": 6}
    settings |= {"msae": tmp_path / "sae.pt"} if kind == "msae" else {}
    plain = eclip.concepts(images / "a.png", **settings)
    with torch.autocast("cpu", torch.bfloat16):
        cast = eclip.concepts(images / "a.png", **settings)
    assert (cast.names, cast.cosine, cast.beyond_mean) == (plain.names, plain.cosine, plain.beyond_mean)
    np.testing.assert_array_equal(cast.weights, plain.weights)
    np.testing.assert_array_equal(cast.maps, plain.maps)


# the image mean


def test_the_image_mean_is_the_mean_of_unit_features(tiny_name: str, images: Path, tmp_path: Path) -> None:
    files = sorted(images.iterdir())
    mean = eclip.image_mean(files, tiny_name)
    backbone = eclip.load(tiny_name)
    rows = [encode(backbone, backbone.preprocess(Image.open(file))[None], keep=0).feature[0] for file in files]
    torch.testing.assert_close(mean, sum(row / row.norm() for row in rows) / 2)
    np.save(tmp_path / "mean.npy", mean.numpy())
    given = {"image_mean": mean}, {"image_mean": tmp_path / "mean.npy"}, {"mean_from": images}
    found = [eclip.concepts(files[0], model=tiny_name, vocabulary=WORDS[:9], l1=0.05, **one) for one in given]
    for one in found[1:]:
        np.testing.assert_allclose(one.weights, found[0].weights, atol=1e-5)
    assert found[0].provenance["command"] is None, "a mean in memory cannot be named in a command"
    with pytest.raises(ImageError, match="at least 2 images, preferably hundreds, got 1"):
        eclip.image_mean(files[:1], tiny_name)


def test_the_image_mean_sees_images_as_it_is_asked_to(tiny_name: str, images: Path) -> None:
    files, backbone = sorted(images.iterdir()), eclip.load(tiny_name)
    view: dict[str, Any] = {"image_size": 48, "resize": "keep", "positions": "bilinear"}
    rows = []
    for file in files:
        pixels = backbone.preprocess(Image.open(file), 48, "keep")[None]
        rows.append(encode(backbone, pixels, 0, "bilinear").feature[0])
    mean = eclip.image_mean(files, backbone, **view)
    torch.testing.assert_close(mean, sum(row / row.norm() for row in rows) / 2)
    for plain in ({"image_size": None}, {"resize": "squash"}, {"positions": "bicubic_aa"}):
        assert not torch.allclose(mean, eclip.image_mean(files, backbone, **{**view, **plain}), atol=1e-6)
    asked: dict[str, Any] = {"model": backbone, "vocabulary": WORDS[:9], "l1": 0.05, **view}
    given, taken = (eclip.concepts(files[0], **asked, **way) for way in ({"image_mean": mean}, {"mean_from": images}))
    np.testing.assert_allclose(given.weights, taken.weights, rtol=1e-6)


def test_without_a_good_mean_there_is_an_error_and_no_zero(tiny_name: str, images: Path, tmp_path: Path) -> None:
    def ask(**settings: Any) -> None:
        eclip.concepts(images / "a.png", model=tiny_name, vocabulary=WORDS[:3], **settings)

    with pytest.raises(OptionError, match=r"has no image mean.*--mean-from.*--image-mean"):
        ask()
    with pytest.raises(OptionError, match="both set the image mean"):
        ask(image_mean=torch.ones(24), mean_from=images)
    with pytest.raises(OptionError, match="norm must be above 0 and at most 1, got norm 49"):
        ask(image_mean=torch.full((24,), 10.0))
    with pytest.raises(OptionError, match="norm must be above 0"):
        ask(image_mean=torch.zeros(24))
    with pytest.raises(ShapeError, match=r"must be \(24,\) for .*, got \(7,\)"):
        ask(image_mean=torch.full((7,), 0.1))
    with pytest.raises(ShapeError, match=r"must be \(feature,\), got an array of shape \(24, 2\)"):
        ask(image_mean=torch.full((24, 2), 0.01))
    for given, kind in ((np.full(24, 0.1j), "complex128 numbers"), (torch.ones(24, dtype=torch.int64), "torch.int64")):
        with pytest.raises(OptionError, match=f"must be an array of floating-point numbers.*got .*{kind}"):
            ask(image_mean=given)
    np.save(tmp_path / "mean.npy", np.array(["a"] * 24))
    with pytest.raises(OptionError, match=r"must be an array of floating-point numbers.*got <U1 numbers"):
        ask(image_mean=tmp_path / "mean.npy")
    np.savez(tmp_path / "mean.npz", np.full(24, 0.1))
    with pytest.raises(OptionError, match=r"mean\.npz' as a \.npy file: it is an archive of several arrays"):
        ask(image_mean=tmp_path / "mean.npz")
    (tmp_path / "mean.npy").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(OptionError, match=r"cannot read the image mean .*mean\.npy' as a \.npy file"):
        ask(image_mean=tmp_path / "mean.npy")
    (tmp_path / "mean.npy").write_text("no array")
    with pytest.raises(OptionError, match=r"cannot read the image mean .*mean\.npy' as a \.npy file"):
        ask(image_mean=tmp_path / "mean.npy")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l1": 0.0}, r"l1 must be a number above 0, such as 0\.25, got 0\.0"),
        ({"l1": float("nan")}, "l1 must be a number above 0"),
        ({"count": 0}, "count must be a whole number, at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
        ({"count": True}, "count must be a whole number, at least 1, got True"),
        ({"latents": 10}, "latents=10 requires msae"),
        ({"failures": []}, "concepts raises at the first failure; eclip.concepts_each collects failures"),
        ({"depth": 3}, "'maskclip' has no option 'depth'"),
        ({"method": "maskclap"}, "Did you mean 'maskclip'"),
    ],
)
def test_bad_settings_say_what_is_right(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(eclip.EclipError, match=message):
        eclip.concepts(ELEPHANT, **settings)


WRONG_TYPES = {
    'concepts("a.png", count=2.5)': "count must be a whole number, at least 1, got 2.5",
    'concepts("a.png", latents=1.5, msae="a.pt")': "latents must be a whole number, at least 1, got 1.5",
    'concepts("a.png", l1="much")': "l1 must be a number above 0, such as 0.25, got much",
    'concepts("a.png", vocabulary=5)': "vocabulary must be a file of words or a list of them, got 5",
    'concepts("a.png", image_mean=["a"])': "the image mean must be an array of floating-point numbers or the path of",
    'concepts("a.png", mean_from=5)': "mean_from must be the path of a folder of images, got 5",
    'concepts("a.png", msae=5)': "msae must be the path of a checkpoint, got 5",
    'image_mean(["a.png"], 5)': "model must be a name or a Backbone, got int",
    "concepts([])": "no image was given; pass at least one",
}


@pytest.mark.parametrize(("asked", "message"), WRONG_TYPES.items())
def test_what_is_of_a_wrong_type_is_no_traceback(asked: str, message: str, shapes_unchecked: None) -> None:
    with pytest.raises(eclip.EclipError, match=re.escape(message)):
        eval(f"eclip.{asked}")


# the house


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtraError, match=r"needs the package scikit-learn: pip install 'eclip\[concepts\]'"):
        eclip.concepts(ELEPHANT)


def test_scikit_learn_is_imported_inside_one_function_alone() -> None:
    importing = {}
    for path in Path(eclip.__file__).parent.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        if found := [line for line in lines if re.match(r"\s*(from|import) sklearn", line)]:
            importing[path.name] = found
    assert importing == {"splice.py": ["        from sklearn.linear_model import Lasso"]}


def test_the_model_is_the_same_bits_afterwards(vocabulary: Path) -> None:
    backbone = eclip.load("mini")
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    modes = [module.training for module in backbone.model.modules()]
    random = torch.random.get_rng_state()
    eclip.concepts(ELEPHANT, vocabulary=vocabulary, model=backbone)
    assert all(torch.equal(value, before[key]) for key, value in backbone.model.state_dict().items())
    assert modes == [module.training for module in backbone.model.modules()]
    assert torch.equal(random, torch.random.get_rng_state())
    assert not any(module._forward_hooks for module in backbone.model.modules())


def test_a_vocabulary_is_encoded_once(vocabulary: Path, monkeypatch: pytest.MonkeyPatch, found: eclip.Concepts) -> None:
    backbone = eclip.load("mini")
    asked: list[int] = []
    whole = type(backbone).encode_text

    def counted(self: Any, texts: Any) -> Any:
        asked.append(len(texts))
        return whole(self, texts)

    monkeypatch.setattr(type(backbone), "encode_text", counted)
    again = eclip.encode_texts(backbone, WORDS, keep=True)
    assert len(WORDS) not in asked, "they lie on disk"
    torch.testing.assert_close(again, eclip.encode_texts(backbone, WORDS))
    assert len(WORDS) in asked


# files and shell


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_save_writes_a_picture_arrays_and_a_manifest(found: eclip.Concepts, tmp_path: Path) -> None:
    found.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    [entry] = manifest["images"]
    assert manifest["schema"] == "eclip.concepts/1"
    assert list(entry["concepts"]) == list(found.names)
    assert entry["concepts"]["elephant"] == round(float(found.weights[0]), 6)
    with np.load(tmp_path / entry["files"]["npz"]) as arrays:
        np.testing.assert_array_equal(arrays["maps"], found.maps)
        np.testing.assert_array_equal(arrays["weights"], found.weights)
    assert (tmp_path / entry["files"]["picture"]).read_bytes() == found._repr_png_()


def test_the_shell_prints_bars_and_the_command_repeats_them(vocabulary: Path, tmp_path: Path) -> None:
    done = run("concepts", ELEPHANT, "--vocabulary", vocabulary, "--count", 3, "-o", tmp_path / "one")
    assert done.exit_code == 0, done.output
    first, top, *_, last = done.stdout.splitlines()
    assert first == f"{ELEPHANT}  -> {tmp_path / 'one' / 'elephant.concepts.png'}"
    assert top.split()[0] == "elephant" and top.endswith("█" * 24)
    assert f"of {len(WORDS)} concepts reconstruct the feature: cosine 0." in last
    command = json.loads((tmp_path / "one" / "manifest.json").read_text())["provenance"]["command"]
    again = run(*shlex.split(command)[1:], "-o", tmp_path / "two", "--json")
    assert again.exit_code == 0, again.output
    manifest = json.loads(again.stdout)
    assert manifest == json.loads((tmp_path / "one" / "manifest.json").read_text())
    asked = (
        ELEPHANT,
        "--vocabulary",
        vocabulary,
        "--count",
        3,
        "--mean-from",
        tmp_path / "in",
        "-o",
        tmp_path / "three",
    )
    (tmp_path / "in").mkdir()
    for factor in (8, 9):
        Image.open(ELEPHANT).reduce(factor).save(tmp_path / "in" / f"{factor}.png")
    assert "saved the mean of 2 images" in run("concepts", *asked).stderr
    quiet = run("concepts", *asked, "--quiet", "--overwrite")
    assert (quiet.exit_code, quiet.output) == (0, "") and (tmp_path / "three" / "manifest.json").is_file()


def test_the_shell_takes_and_keeps_a_mean(tiny_name: str, images: Path, vocabulary: Path, tmp_path: Path) -> None:
    common = ("--model", tiny_name, "--vocabulary", vocabulary, "--l1", 0.05, "-o", tmp_path / "out")
    done = run("concepts", images / "a.png", "--mean-from", images, *common)
    assert done.exit_code == 0, done.output
    kept = tmp_path / "out" / "image_mean.npy"
    assert f"saved the mean of 2 images; to reuse it: --image-mean {kept}" in done.stderr
    again = run("concepts", images / "a.png", "--image-mean", kept, *common)
    assert again.stdout == done.stdout
    missing = run("concepts", images / "a.png", *common)
    assert missing.exit_code == 2 and "has no image mean" in missing.stderr


def test_a_run_without_results_leaves_the_earlier_mean(
    tiny_name: str, images: Path, vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    for shade in (10, 200):
        Image.new("RGB", (40, 30), (shade, 0, 90)).save(other / f"{shade}.png")
    asked = ("concepts", images / "a.png", "--model", tiny_name, "--vocabulary", vocabulary, "--l1", 0.05, "-o", out)
    assert run(*asked, "--mean-from", images).exit_code == 0
    manifest, mean = (out / "manifest.json").read_text(), (out / "image_mean.npy").read_bytes()
    provenance = json.loads(manifest)["provenance"]
    assert provenance["image_mean"] == str(out / "image_mean.npy")
    assert f"--image-mean={out / 'image_mean.npy'}" in provenance["command"]

    def stop(self: ConceptsWriter, concepts: eclip.Concepts) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ConceptsWriter, "add", stop)
        stopped = run(*asked, "--mean-from", other)
    assert stopped.exit_code == 130 and "saved the mean" not in stopped.output
    assert ((out / "manifest.json").read_text(), (out / "image_mean.npy").read_bytes()) == (manifest, mean)
    assert run(*asked, "--mean-from", other).exit_code == 0
    assert (out / "image_mean.npy").read_bytes() != mean


def test_a_stop_keeps_what_is_done(
    tiny_name: str, images: Path, vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "mean.npy", np.full(24, 0.05, np.float32))
    add = ConceptsWriter.add

    def stop_at_the_second(self: ConceptsWriter, concepts: eclip.Concepts) -> Any:
        if self.manifest["images"]:
            raise KeyboardInterrupt
        return add(self, concepts)

    monkeypatch.setattr(ConceptsWriter, "add", stop_at_the_second)
    out = ("--image-mean", tmp_path / "mean.npy", "-o", tmp_path / "out")
    done = run("concepts", images, "--model", tiny_name, "--vocabulary", vocabulary, *out)
    assert done.exit_code == 130
    assert len(json.loads((tmp_path / "out" / "manifest.json").read_text())["images"]) == 1


def test_what_is_asked_is_checked_before_a_folder_is_encoded(
    tiny_name: str, images: Path, vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*words: object) -> Result:
        out = ("--mean-from", images, "--model", tiny_name, "-o", tmp_path / "out")
        return run("concepts", images / "a.png", *out, *words)

    for words, message in {
        ("--l1", "-1"): "l1 must be a number above 0",
        ("--vocabulary", tmp_path / "no.txt"): "cannot be read: No such file",
        ("--latents", "3"): "--latents requires --msae",
        ("--method", "surgery", "--set", "depth=deep"): "option 'depth'",
    }.items():
        done = ask(*words)
        assert (done.exit_code, message in done.stderr) == (2, True), done.output
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    assert "eclip[concepts]" in ask("--vocabulary", vocabulary).stderr
    assert not (tmp_path / "out" / "image_mean.npy").exists(), "nothing was encoded for nothing"
    refused = run("concepts", images / "a.png", "--msae", "a.pt", "--l1", "0.25", "-o", tmp_path / "out")
    assert refused.exit_code == 2 and "--l1 does not apply to --msae" in refused.stderr


def test_the_command_keeps_every_choice(tiny_name: str, images: Path, vocabulary: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"model": tiny_name, "vocabulary": vocabulary, "image_size": 48}
    provenance = eclip.concepts(
        images / "a.png", mean_from=images, l1=0.05, method="surgery", depth=3, **common
    ).provenance
    for part in (f"--mean-from={images}", "--set depth=3", "--image-size 48", "--l1=0.05", "--method surgery"):
        assert part in provenance["command"]
    assert provenance["pixels"] == [48, 48]
    torch.save(_state(), tmp_path / "sae.pt")
    asked = ("--model", tiny_name, "--vocabulary", vocabulary, "--msae", tmp_path / "sae.pt", "--latents", 3)
    done = run("concepts", images / "a.png", *asked, "--image-size", 48, "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    manifest = json.loads(done.stdout)
    assert manifest["images"][0]["grid"] == [6, 6]
    assert manifest["images"][0]["used"] == 3
    assert "--latents=3" in manifest["provenance"]["command"] and "--image-size 48" in manifest["provenance"]["command"]
