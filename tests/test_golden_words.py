"""Words and pairs equal what the authors' own code computed on tiny random models, see `test_golden`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import eclip
from eclip.backbones.attention_pooling import rest
from eclip.backbones.blocks import unit
from eclip.backbones.pool import pool_tokens
from eclip.words import WORD_METHODS
from eclip.words.second_order import IntegrationPath, _path, image_path, pairs, target, text_path
from eclip.words.tokens import Reading
from test_golden import VITS, _arrays, _backbone, _close, _encode, _golden


def _reading(model: str, tokens: int) -> Reading:
    ids = torch.from_numpy(_arrays("inputs")["tokens"])[tokens : tokens + 1]
    return Reading(_backbone(model), ("",), ids, ((),))


def _shares(relevance: torch.Tensor, end: int) -> torch.Tensor:
    """As the authors print it: positive, between start and end, sum 1."""
    kept = relevance[0, 0, 1:end].clamp_min(0)
    return kept / kept.sum()


@pytest.mark.parametrize("model", VITS)
@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize(("tokens", "end"), [(1, 10), (2, 76)])
def test_words(model: str, image: int, tokens: int, end: int) -> None:
    reading = _reading(model, tokens)
    feature = unit(_encode(model, "native", "bicubic_aa").feature[[image]])
    name = f"image{image}_tokens{tokens}"
    for loosened in ("script", "notebook"):
        ours = WORD_METHODS["gradeclip"](reading, feature, heads="single", loosened=loosened)
        _close(_shares(ours, end), _golden("grad_eclip", model, f"text_{loosened}_{name}"), 1e-5)
    for blocks, depth in (("lastblock", 1), ("allblocks", 99)):
        ours = WORD_METHODS["chefer"](reading, feature, depth=depth)
        _close(_shares(ours, end), _golden("chefer", model, f"text_scores_{blocks}_{name}"), 1e-5)


def _paths(
    model: str, tokens: int, text_depth: int, image_depth: int, points: int
) -> tuple[IntegrationPath, IntegrationPath, int]:
    backbone = _backbone(model)
    kind = "rn" if model == "tiny-rn" else "vit"
    image = torch.from_numpy(_arrays("inputs")[f"{kind}_images_native"])[:1]
    encoding = eclip.encode(backbone, torch.cat([image, torch.zeros_like(image)]))
    ids = torch.from_numpy(_arrays("inputs")["tokens"])[tokens : tokens + 1]
    reference = torch.zeros_like(ids)
    reference[0, :3] = torch.tensor([510, 0, 511])
    reading = Reading(backbone, ("", ""), torch.cat([ids, reference]), ((), ()))
    with torch.no_grad():
        text = text_path(reading, text_depth, points)
        if model != "tiny-rn":
            return text, image_path(encoding, image_depth, points), int(ids.argmax())
        visual = backbone.model.visual

        def layer4(cells: torch.Tensor) -> torch.Tensor:
            return rest(encoding, 1, pool_tokens(visual.layer4(cells.transpose(1, 2).unflatten(2, (8, 8)))), "pairs")

        both = torch.cat([image, torch.zeros_like(image)])
        cells = visual.layer3(visual.layer2(visual.layer1(visual.stem(both)))).flatten(2).transpose(1, 2)
        return text, _path(layer4, cells[:1], cells[1:], points), int(ids.argmax())


@pytest.mark.parametrize(
    ("model", "name", "tokens", "depths", "points"),
    [
        ("tiny-vit", "textblock7_imageblock7_N10_tokens1", 1, (1, 1), 10),
        ("tiny-vit", "textblock7_imageblock7_N10_tokens0", 0, (1, 1), 10),
        ("tiny-vit", "textblock6_imageblock5_N4_tokens1", 1, (2, 3), 4),
        ("tiny-vit12", "textblock11_imageblock11_N10_tokens1", 1, (1, 1), 10),
        ("tiny-rn", "textblock3_imageblock4_N4_tokens1", 1, (1, 0), 4),
    ],
)
@pytest.mark.long(every=5)
def test_pairs(model: str, name: str, tokens: int, depths: tuple[int, int], points: int) -> None:
    golden = _golden("exclip", model, f"{name}__A")
    text, image, end = _paths(model, tokens, *depths, points)
    ours = pairs(text, image)
    prefix = 0 if model == "tiny-rn" else 1
    _close(ours[: end + 1, prefix:].unflatten(1, (8, 8)), golden, 1e-6)
    _close(ours.sum(), _golden("exclip", model, f"{name}__sum_all"), 1e-5)
    _close(target(text, image), _golden("exclip", model, f"{name}__completeness_target"), 1e-5)


@pytest.mark.long
def test_pairs_with_a_hundred_points_come_near_the_target() -> None:
    text, image, _ = _paths("tiny-vit", 1, 1, 1, 100)
    total = pairs(text, image).sum()
    _close(total, _golden("exclip", "tiny-vit", "textblock7_imageblock7_N100_tokens1__sum_all"), 1e-6)
    few = pairs(*_paths("tiny-vit", 1, 1, 1, 10)[:2]).sum()
    goal = target(text, image)
    assert abs(total - goal) < 0.2 * abs(few - goal) < np.inf
