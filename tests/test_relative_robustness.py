"""The recipe about robustness: its attack stays in bounds, its losses hold the maps, and the model is left alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import eclip
import tiny
from eclip.backbones.backbone import Backbone

FILE = Path(__file__).parents[1] / "recipes" / "relatives" / "robustness" / "robustness.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("relative_robustness", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pool() -> Backbone:
    return tiny.kept("timm abs_attn")  # conftest.py checks that nothing of it changes


def _images(of: Backbone, count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels of colors in [0, 1], labels, and text features."""
    mean, std = (torch.tensor(one)[:, None, None] for one in (of.mean, of.std))
    colors = torch.rand(count, 3, 96, 96, generator=torch.Generator().manual_seed(3))
    return (colors - mean) / std, torch.arange(count) % 3, tiny.texts(of)


def test_the_attack_raises_the_loss_and_changes_no_color_by_more_than_its_bound(
    recipe: ModuleType, pool: Backbone
) -> None:
    pixels, labels, text = _images(pool)
    start = eclip.encode(pool, pixels[:1], keep=1)
    losses = []
    for steps in (0, 10):
        changed = recipe.pgd(start, pixels, labels, text, steps, seed=0)
        std, mean = torch.tensor(pool.std)[:, None, None], torch.tensor(pool.mean)[:, None, None]
        colors = changed * std + mean
        assert (changed - pixels).mul(std).abs().max() == pytest.approx(1 / 255, rel=0.02)
        assert colors.min() > -1e-6 and colors.max() < 1 + 1e-6
        losses.append(F.cross_entropy(recipe.logits(eclip.encode(pool, changed), text), labels))
    assert losses[1] > losses[0]


def test_maps_of_the_loss_are_those_of_maskclip_scaled_and_enlarged(recipe: ModuleType, pool: Backbone) -> None:
    pixels, labels, text = _images(pool)
    encoding = eclip.encode(pool, pixels, keep=1)
    maps = eclip.METHODS["maskclip"](encoding, text)
    found = recipe.attention(encoding, text[labels]).unflatten(1, (96, 96))
    for image, label in enumerate(labels):
        own = maps[image, label]
        torch.testing.assert_close(recipe.maps_of(encoding, text[labels])[image, 0], own, rtol=0, atol=1e-6)
        scaled = (own - own.min()) / (own.max() - own.min())
        assert found[image, 16::32, 16::32].sub(scaled).abs().max() < 0.03  # near the centers of the 3 x 3 patches
        assert 0 <= found[image].min() < 0.03 and 0.97 < found[image].max() <= 1


@pytest.mark.parametrize("family", ["timm abs_attn", "vit"])
def test_tuning_changes_a_copy_of_the_image_tower_only(recipe: ModuleType, family: str) -> None:
    first = tiny.kept(family)
    pixels, labels, text = _images(first)
    own = recipe.tuned(first, pixels, labels, text, (True, 0.08, 0.05))
    before, after = first.model.state_dict(), own.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("visual.") for name in changed)
    assert all(weight.grad is None for weight in first.model.parameters())
    assert recipe.measured(own, first, pixels, labels, text).shape == (4, len(recipe.COLUMNS))


@pytest.mark.long
def test_the_constraint_holds_the_maps(recipe: ModuleType, pool: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "RATE", 3e-3)
    pixels, labels, text = _images(pool)
    many = pixels.repeat(8, 1, 1, 1), labels.repeat(8)
    kept = []
    for weight in (0.0, 10.0):
        own = recipe.tuned(pool, *many, text, (False, 0.0, weight))
        kept.append(recipe.measured(own, pool, pixels, labels, text)[:, 4].mean())
    assert kept[0] < 0.999 and kept[1] > kept[0]


def test_the_untouched_model_keeps_its_own_maps(recipe: ModuleType, pool: Backbone) -> None:
    pixels, labels, text = _images(pool)
    found = recipe.measured(pool, pool, pixels, labels, text)
    best = (F.normalize(eclip.encode(pool, pixels).feature, dim=-1) @ text.T).argmax(dim=1)
    assert found[:, 0].tolist() == (best == labels).float().tolist()
    assert found[:, 4] == pytest.approx(np.ones(4), abs=1e-5)


def test_cells_are_percent_with_half_an_interval(recipe: ModuleType) -> None:
    assert recipe.cells(np.array([[1.0, 0.5], [1.0, 0.5]])) == "100.0 ± 0.0 | 50.0 ± 0.0"
    assert recipe.cells(np.array([[0.0], [1.0]])) == "50.0 ± 50.0"
