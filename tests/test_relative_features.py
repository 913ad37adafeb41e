"""The recipe about features: kurtosis, directions, pruning and concepts, by hand and against oracles."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

import tiny

FILE = Path(__file__).parents[1] / "recipes" / "relatives" / "features" / "features.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("relative_features", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kurtosis_is_one_for_two_values_and_large_for_one_outlier(recipe: ModuleType) -> None:
    outlier = np.zeros(100)
    outlier[7] = 5.0
    rows = np.stack([np.tile([1.0, -1.0], 50), outlier, np.random.default_rng(0).normal(size=100)])
    found = recipe.kurtosis(rows)
    assert found[0] == 1 and found[1] == pytest.approx(98.0101, abs=1e-3)  # (1 - 3 p + 3 p^2) / (p (1 - p)), p = 0.01
    assert found == pytest.approx(scipy.stats.kurtosis(rows, axis=1, fisher=False))


def test_activations_are_means_over_positions_and_the_unit_feature(recipe: ModuleType) -> None:
    pool = tiny.kept("timm abs_attn")
    pixels = torch.randn(10, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    found = recipe.activations(pool, pixels)
    assert next(iter(found)) == "stage 1" and list(found)[-2:] == ["last map", "feature"]
    with torch.inference_mode():
        trunk = pool.model.visual.trunk(pixels)
        feature = F.normalize(pool.model.encode_image(pixels), dim=-1)
    assert found["last map"] == pytest.approx(trunk.mean(dim=(2, 3)).numpy(), abs=1e-5)
    assert found["feature"] == pytest.approx(feature.numpy(), abs=1e-5)
    assert not any(module._forward_hooks for module in pool.model.modules())


def test_importance_is_singular_value_times_mean_projection(recipe: ModuleType) -> None:
    head = np.array([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # singular values 3 and 1, directions x and y
    directions, importance = recipe.privileged(head, np.array([[0.1, 1.0, 0.0], [-0.1, 0.6, 0.8]]))
    assert np.abs(directions) == pytest.approx(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    assert importance == pytest.approx([1 * 0.8, 3 * 0.1])


def test_pruning_takes_the_direction_out(recipe: ModuleType) -> None:
    head, labels = np.eye(3), np.array([0, 1, 2])
    features = np.array([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.1, 0.0, 0.5]])
    assert recipe.right(features, head, labels, np.zeros((0, 3))).tolist() == [True, True, True]
    assert recipe.right(features, head, labels, np.eye(3)[:1]).tolist() == [False, True, True]
    assert recipe.right(features, head, labels, np.eye(3)[1:]).tolist() == [True, False, False]


def test_least_important_directions_cost_less_than_random_ones_and_those_less_than_the_most_important(
    recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "PRUNED", (2, 6))
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 12, 300)
    head = generator.normal(size=(12, 12)) * np.geomspace(1, 0.1, 12)  # the first directions tell most
    head /= np.linalg.norm(head, axis=1, keepdims=True)
    features = head[labels] + 0.1 * generator.normal(size=(300, 12))
    found = recipe.pruned(features, head, labels)
    top, random, least = (found[kind].mean(axis=1) for kind in recipe.KINDS)
    assert found["random"].shape == (2, 300) and (top < random).all() and (random < least).all()


def test_unique_words_are_counted_once_whatever_the_sign(recipe: ModuleType) -> None:
    words = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert recipe.concepts(np.array([[1.0, 0.0], [0.0, -1.0]]), words) == (2, 1.0)
    assert recipe.concepts(np.array([[1.0, 0.0], [-0.8, 0.6]]), words) == (1, pytest.approx(0.9))


def test_an_interval_contains_the_mean(recipe: ModuleType) -> None:
    assert recipe.cell(np.full(5, 2.0)) == "2.0 (2.0 to 2.0)"
    middle, low, high = recipe.interval(np.random.default_rng(0).normal(size=400))
    assert low < middle < high and (high - low) / 2 == pytest.approx(1.96 / 20, rel=0.15)
