"""Word-patch pairs: shares of the path equal a plain integral of the Jacobian, for every kind of tower."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eclip
import tiny
from eclip.backbones.attention_pooling import rest
from eclip.backbones.encoding import Encoding
from eclip.backbones.text_tower import run_text_block
from eclip.errors import OptionError, TextError
from eclip.words.second_order import image_path, text_path
from eclip.words.tokens import Reading, read
from test_text_towers import IDS, KINDS, text_model

FAMILIES = list(tiny.FAMILIES)


def _encoding(family: str, depth: int) -> Encoding:
    backbone = tiny.backbone(family)
    size = [backbone.native.row * backbone.patch_size, backbone.native.col * backbone.patch_size]
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    return eclip.encode(backbone, torch.cat([pixels, torch.zeros_like(pixels)]), depth)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.long(every=5)
def test_image_shares_equal_the_integrated_jacobian(family: str, depth: int) -> None:
    encoding = _encoding(family, depth)
    backbone, points = encoding.backbone, 3
    tail = encoding.tail(depth if backbone.latent is None else depth - 1, "pairs")
    start = tail[0][1] if tail else encoding.tokens
    pool = bool(tail) and not tail[0][0].residual
    start = start[:, 1:] if pool else start

    def through(x: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) if pool else x
        return rest(encoding, len(tail), whole, "pairs")[0]

    step = start[:1] - start[1:]
    wanted = torch.zeros(())
    for at in (1 / 3, 2 / 3, 1):
        jacobian = torch.autograd.functional.jacobian(through, start[1:] + at * step)  # feature 1 token channel
        wanted = wanted + (jacobian[:, 0] * step[0]).sum(dim=-1).T / points
    path = image_path(encoding, depth, points)
    torch.testing.assert_close(path.shares, wanted.detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(path.feature, encoding.feature[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.long(every=5)
def test_text_shares_equal_the_integrated_jacobian(kind: str, depth: int) -> None:
    model = text_model(kind)
    backbone = eclip.wrap(model, mean=tiny.MEAN, std=tiny.STD, tokenizer=lambda texts: IDS)
    reading = Reading(backbone, ("", ""), IDS, ((), ()))
    tower, ids, points = reading.tower("t"), IDS[:1], 3
    start, mask = reading.entering(depth, "t"), reading.tower("t").mask(ids)

    def through(x: torch.Tensor) -> torch.Tensor:
        for block in tower.blocks[-depth:]:
            x = run_text_block(block, x, mask)
        return tower.pool(ids, x)[0]

    step = start[:1] - start[1:]
    wanted = torch.zeros((), dtype=torch.float64)
    for at in (1 / 3, 2 / 3, 1):
        jacobian = torch.autograd.functional.jacobian(through, start[1:] + at * step)
        wanted = wanted + (jacobian[:, 0] * step[0]).sum(dim=-1).T / points
    path = text_path(reading, depth, points)
    torch.testing.assert_close(path.shares, wanted.detach(), rtol=1e-6, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(path.feature, model.encode_text(ids)[0], rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def found() -> eclip.Interactions:
    return eclip.interactions(IMAGE, "two cats and two dogs", model=tiny.backbone("vit"))


IMAGE = np.random.default_rng(3).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.mark.long
def test_more_points_come_nearer_to_the_goal() -> None:
    backbone = tiny.backbone("vit")
    errors = []
    for points in (1, 4, 16, 64):
        one = eclip.interactions(IMAGE, "two cats", model=backbone, points=points, image_depth=2)
        errors.append(abs(one.total - one.goal))
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 8 * errors[3] > 0


def test_the_score_is_the_models(found: eclip.Interactions) -> None:
    plain = eclip.explain(IMAGE, "two cats and two dogs", model=tiny.backbone("vit"), method="itsm")
    assert found.score == pytest.approx(plain.scores[0, 0], abs=1e-5)


def test_which_patch_for_this_word(found: eclip.Interactions) -> None:
    assert found.words == ("two", "cats", "and", "two", "dogs")
    assert found.find("two") == [0, 3]
    assert found.find("TWO dogs") == [3, 4]
    assert found.find(-1) == [4]
    np.testing.assert_allclose(found.map("two dogs"), found.values[3] + found.values[4], rtol=1e-6)
    np.testing.assert_array_equal(found.map(1), found.values[1])
    heat = found.heatmap("cats")
    assert heat.shape == (60, 80)
    assert np.sign(heat[7, 9]) == np.sign(found.values[1, 0, 0])  # the middle of the first of 4 x 4 patches
    for missing in ("cat", "two and", "", 5):
        with pytest.raises(TextError, match=r"is not in|there is no"):
            found.map(missing)
    with pytest.raises(TextError, match=r"there is no word 1\.9"):
        found.find(1.9)


def test_which_word_for_this_patch(found: eclip.Interactions, shapes_unchecked: None) -> None:
    whole = found.in_box((0, 0, 80, 60))
    np.testing.assert_allclose(whole, found.values.sum(axis=(1, 2)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.in_box((20, 15, 40, 30)), found.values[:, 1, 1], rtol=1e-5, atol=1e-7)
    half = 0.5 * found.values[:, 1, 1] + found.values[:, 1, 2]
    np.testing.assert_allclose(found.in_box((30, 15, 60, 30)), half, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found.in_box(np.array([0, 0, 80, 60])), whole)
    best = found.best_words()
    assert found.values[best[2, 3], 2, 3] == found.values[:, 2, 3].max()
    outside: list[Any] = [(0, 0, 81, 60), (5, 5, 5, 10), (-1, 0, 5, 5), (0, 0, float("nan"), 5)]
    no_box: list[Any] = [(0, 0, 5), np.array([[0, 0, 5, 5]]), [[0, 0, 5, 5]], ["a", "b", "c", "d"], [None, 0, 1, 1]]
    for box in [*outside, *no_box, np.array(3.0), np.array([[0], [0], [5], [5]]), (0, 0, 10**400, 5), 5, None]:
        for take in (found.in_box, lambda box: found.picture([box]), lambda box: found.entry([box])):
            with pytest.raises(OptionError, match="must be left, top, right, bottom within 80 x 60 pixels"):
                take(box)


def test_entry_points_at_the_strongest_patch(found: eclip.Interactions) -> None:
    entry = found.entry([(0, 0, 20, 15)])
    row, col = entry["words"][1]["patch"]
    assert found.values[1, row, col] == found.values[1].max()
    assert entry["words"][1]["point"] == [20 * col + 10, 15 * row + 7.5]
    listed = entry["boxes"][0]["words"]
    assert [one["word"] for one in listed] == list(found.words)  # a word that comes again stands there again
    np.testing.assert_allclose([one["value"] for one in listed], found.values[:, 0, 0], rtol=1e-4)


def test_picture_shows_a_map_a_word_and_a_part_a_box(found: eclip.Interactions) -> None:
    plain, boxed = found.picture(), found.picture([(0, 0, 40, 30)])
    assert boxed.height > plain.height
    assert boxed.width == plain.width
    np.testing.assert_array_equal(np.asarray(plain), np.asarray(boxed)[: plain.height])
    part = np.asarray(boxed)[plain.height :, 10:106]
    assert np.unique(part.reshape(-1, 3), axis=0).shape[0] > 500  # the image is noise


@pytest.mark.parametrize("setting", ["image_depth", "text_depth", "points"])
def test_numbers_are_at_least_one(setting: str) -> None:
    with pytest.raises(OptionError, match=f"{setting} must be a whole number, at least 1, got 0"):
        eclip.interactions(IMAGE, "a cat", model=tiny.backbone("vit"), **{setting: 0})


@pytest.mark.parametrize(
    ("family", "view"),
    [("vit, not square", {}), ("vit", {"image_size": 48, "positions": "bilinear", "resize": "keep"})],
)
def test_the_whole_equals_the_integral_from_image_and_text(family: str, view: dict[str, Any]) -> None:
    """From the image's pixels and the text's letters, all by Jacobians, with the reference spelled out."""
    backbone, text, points = tiny.backbone(family, torch.float64), "two cats and dogs", 2
    found = eclip.interactions(IMAGE, text, model=backbone, points=points, **view)
    pixels = backbone.preprocess(Image.fromarray(IMAGE), view.get("image_size"), view.get("resize", "squash"))
    both = torch.stack([pixels, torch.zeros_like(pixels)])
    encoding = eclip.encode(backbone, both, 1, view.get("positions", "bicubic_aa"))
    ids = backbone.tokenize([text])
    nothing = torch.zeros_like(ids)
    nothing[0, 0], nothing[0, 2] = 49406, 49407  # start, token 0, end
    tower = backbone.text_tower
    assert tower is not None

    def image(x: torch.Tensor) -> torch.Tensor:
        return rest(encoding, 1, x, "pairs")[0]

    def words(x: torch.Tensor) -> torch.Tensor:
        for block in tower.blocks:
            x = run_text_block(block, x, tower.mask(ids))
        return tower.pool(ids, x)[0]

    shares, lengths = [], []
    for through, x, start in (
        (words, tower.embed(ids), tower.embed(nothing)),
        (image, encoding.inputs[0][:1], encoding.inputs[0][1:]),
    ):
        total = torch.zeros((), dtype=torch.float64)
        for number in range(1, points + 1):
            jacobian = torch.autograd.functional.jacobian(through, (start + number / points * (x - start)).detach())
            total = total + (jacobian[:, 0] * (x - start)[0]).sum(dim=-1).T / points  # token feature
        shares.append(total.detach())
        lengths.append(through(x).detach().norm())
    matrix = shares[0] @ shares[1].T / lengths[0] / lengths[1]
    wanted = matrix[1:5, 1:].unflatten(1, encoding.grid)
    assert encoding.grid.row != encoding.grid.col
    np.testing.assert_allclose(found.values, wanted.numpy(), rtol=1e-4, atol=1e-9)
    assert found.total == pytest.approx(float(matrix.sum()), rel=1e-4)


def test_which_patch_for_chinese_repeats_and_signs() -> None:
    words = ("一只", "狗", "two", "two", "two", ",", "T", ".", "V", ".")
    values = np.arange(40, dtype=np.float32).reshape(10, 2, 2)
    text = "一只狗 two two  two, T.V."
    one = eclip.Interactions(values, words, text, 0.0, 0.0, 0.0, "a.png", Image.new("RGB", (4, 4)), {})
    assert one.find("只狗"[1:]) == [1]
    assert one.find("一只狗") == [0, 1]
    assert one.find("two two") == [2, 3, 4]  # each counts once, though it begins twice
    assert one.find("two, t.v.") == [4, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(one.map(one.best_words()[1, 1]), values[9])


@pytest.mark.parametrize(
    ("text", "phrase", "words"),
    [
        ("take a part of it apart", "apart", [5]),
        ("take a part of it apart", "a part", [1, 2]),
        ("take apart", "a part", None),
        ("a T-shirt, and A  dog's ball", "t-shirt,", [1, 2]),
        ("a T-shirt, and A  dog's ball", "a dog's", [4, 5]),
        ("a T-shirt , and", "t-shirt,", [1, 2]),
        ("a t - shirt", "t-shirt", None),
        ("a dog,cat", "dog, cat", [1, 2, 3]),
    ],
)
def test_a_phrase_is_matched_word_by_word(text: str, phrase: str, words: list[int] | None) -> None:
    found = tuple(word.letters for word in read(tiny.backbone("vit"), [text]).words[0])
    values = np.zeros((len(found), 2, 2), np.float32)
    one = eclip.Interactions(values, found, text, 0.0, 0.0, 0.0, "a.png", Image.new("RGB", (4, 4)), {})
    if words is None:
        with pytest.raises(TextError, match="is not in"):
            one.find(phrase)
    else:
        assert one.find(phrase) == words


def test_the_benchmark_draws_words_and_resamples_images() -> None:
    spec = importlib.util.spec_from_file_location("pairs", Path(__file__).parents[1] / "benchmarks" / "pairs.py")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(benchmark := importlib.util.module_from_spec(spec))
    words = [word for word in ("A", "little", "dog", "on", "the", "snow", ".") if benchmark.is_content(word)]
    assert words == ["little", "dog", "snow"]
    apart, together = np.arange(40), np.repeat([0, 1], 20)  # of two images, one has all the hits
    scores = np.repeat([[-1.0, 0.0], [1.0, 1.0]], 20, axis=0)
    missing = np.concatenate([scores, [[np.nan, np.nan]]])
    assert benchmark.line(missing, np.append(together, 1)) == benchmark.line(scores, together)
    assert "AUC 0.500 [0.000, 1.000]" in benchmark.line(scores, together)
    assert "higher inside 50.0% [35.0%, 65.0%]" in benchmark.line(scores, apart)
