"""The recipe about sound: what it hears, that its vectors are queries, and that noise turns them away from the text."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import eclip
import tiny

FILE = Path(__file__).parents[1] / "recipes" / "relatives" / "sound" / "sound.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("relative_sound", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _text(numbers: range, width: int) -> dict[int, np.ndarray]:
    rows = np.random.default_rng(0).normal(size=(len(numbers), width))
    return dict(zip(numbers, rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=True))


def test_a_tone_is_heard_in_its_band(recipe: ModuleType) -> None:
    tone = np.sin(2 * np.pi * 400 * np.arange(8000) / 8000)  # frequency 20 of frames of 400 samples, which last 1/20 s
    bands = recipe.heard(tone)[: len(recipe.BANDS)]
    assert recipe.BANDS[bands.argmax()] <= 20 < [*recipe.BANDS, 201][bands.argmax() + 1]
    assert recipe.heard(tone)[len(recipe.BANDS) + bands.argmax()] == pytest.approx(0, abs=1e-6)  # steady


@pytest.mark.parametrize("decibels, power", [(60, 1.0), (0, 2.0), (-10, 11.0)])
def test_noise_has_the_power_that_decibels_say(recipe: ModuleType, decibels: float, power: float) -> None:
    sound = recipe.clip(3, decibels, np.random.default_rng(0))
    assert sound.shape == (8000,) and (sound**2).mean() == pytest.approx(power, rel=0.1)


def test_vectors_of_clear_sounds_are_near_the_text_and_noise_turns_them_away(recipe: ModuleType) -> None:
    text = _text(range(1, 9), 24)
    encoder = recipe.fitted(text, np.random.default_rng(1))
    generator = np.random.default_rng(2)
    cosines = []
    for number in text:
        vectors = recipe.queries(number, 9 - number, encoder, generator)
        assert next(iter(vectors)) == "its tone, +30 dB" and list(vectors)[-1].endswith("(control)")
        assert all(np.linalg.norm(one) == pytest.approx(1) for one in vectors.values())
        near = {name: max(text, key=lambda key, one=one: one @ text[key]) for name, one in vectors.items()}
        assert near["its tone, +30 dB"] == number and list(near.values())[-1] == 9 - number
        cosines.append([one @ text[number] for one in vectors.values()])
    means = np.mean(cosines, axis=0)
    assert means[0] > 0.9 and means[0] > means[2] > means[5] > means[6]


def test_pairs_are_images_that_show_a_class_in_a_fair_size(recipe: ModuleType) -> None:
    masks = [np.zeros((10, 10), np.uint16) for _ in range(4)]
    masks[0][:1, :4] = 1  # 4 %, too small
    masks[1][:3] = 1
    masks[2][:3], masks[2][5:8] = 1, 2
    masks[3][:8] = 2  # too large
    items = tuple(SimpleNamespace(name=str(place), read=lambda mask=mask: mask) for place, mask in enumerate(masks))
    assert [(item.name, number) for item, number in recipe.pairs(items, [1, 2], 1)] == [("1", 1), ("2", 2)]
    assert [(item.name, number) for item, number in recipe.pairs(items, [1, 2], 2)] == [("1", 1), ("2", 1), ("2", 2)]


def test_a_vector_from_a_file_asks_as_its_values_do(recipe: ModuleType, tmp_path: Path) -> None:
    vit = tiny.kept("vit")
    text = _text(range(1, 14), 24)
    encoder = recipe.fitted(text, np.random.default_rng(1))
    page = recipe.picture(tmp_path, encoder, text, vit)
    titles = [axes.get_title() for axes in page.axes]
    assert len(titles) == 8 and titles[1].startswith("tone of dogs, +30 dB") and "chairs" in titles[-1]
    vector = np.load(tmp_path / "dog.npy")
    found = eclip.explain(recipe.PHOTO, eclip.like(tmp_path / "dog.npy"), method="gem", model=vit, health=False)
    given = torch.from_numpy(vector).float()[None]
    same = eclip.explain(recipe.PHOTO, given, method="gem", model=vit, health=False)
    assert found.maps == pytest.approx(same.maps, abs=1e-6)
    assert f"{found.scores[0, 0]:.2f}" in titles[1]


def test_the_table_has_means_and_half_intervals(recipe: ModuleType) -> None:
    found = {"a": [(0.0, 1.0, 2.0, 3.0, 4.0)] * 3, "b": [(10.0,) * 5, (20.0,) * 5]}
    head, _, one, other = recipe.table(found).splitlines()
    assert head.count("|") == 7 and one == "| a | 0.0 ± 0.0 | 1.0 ± 0.0 | 2.0 ± 0.0 | 3.0 ± 0.0 | 4.0 ± 0.0 |"
    assert other == "| b |" + " 15.0 ± 5.0 |" * 5
