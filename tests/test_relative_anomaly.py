"""The recipe that finds defects from a few normal images: drawn defects, maps and scores by hand, and the whole run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import roc_auc_score

import eclip
import tiny
from eclip.datasets.anomalies import read_anomalies

PATH = Path(__file__).parents[1] / "recipes" / "relatives" / "anomaly" / "anomaly.py"
SPEC = importlib.util.spec_from_file_location("relative_anomaly", PATH)
assert SPEC is not None and SPEC.loader is not None
recipe = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(recipe)


def _scene() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((120, 90), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", recipe.KINDS)
def test_a_defect_changes_the_pixels_of_its_mask_only(kind: str) -> None:
    image = _scene().resize((224, 224))
    spoiled, mask = recipe.spoil(image, kind, np.random.default_rng(1))
    inside = np.asarray(mask) > 0
    changed = (np.asarray(spoiled) != np.asarray(image)).any(axis=-1)
    assert not changed[~inside].any() and changed[inside].mean() > 0.9
    assert 0.003 < inside.mean() < 0.06


def test_categories_are_written_as_the_reader_of_mvtec_reads_them(tmp_path: Path) -> None:
    recipe.write(tmp_path, {"thing": _scene()}, each=2)
    data = read_anomalies(tmp_path, "thing")
    assert len(data.normal) == 4 and len(data.test) == 16
    assert sorted({one.defect for one in data.test}) == ["good", "hole", "patch", "scratch", "stain"]
    assert all(one.read().any() == (one.defect != "good") for one in data.test)
    first = [np.asarray(Image.open(path), float) for path in data.normal[:2]]
    assert 1 < np.abs(first[0] - first[1]).mean() < 60  # normal images differ, but not much


def test_answers_by_hand() -> None:
    """One normal image of four patches; of the test image, three patches are among them and the last is not."""
    eye = torch.eye(6)
    values, other = eye[None, :4], torch.stack([eye[1], eye[0], eye[3], F.normalize(eye[3] + eye[5], dim=0)])[None]
    seen, prompts = F.normalize(torch.rand(1, 4, 6, generator=torch.Generator().manual_seed(3)), dim=-1), eye[4:]
    whole, color = F.normalize(torch.tensor([[1.0, 0, 0, 0, 3, 4]]), dim=-1), torch.full((1, 4, 3), 0.5)
    strange = color.clone()
    strange[0, 2] += torch.tensor([0.0, 0.3, 0.4])
    answers = recipe.answers(prompts, [values, seen, whole, color], [other, seen, whole, strange])
    found = dict(zip(recipe.NAMES, answers, strict=True))
    far = 1 - 0.5**0.5
    assert found["memory"][0][0] == pytest.approx(np.array([[0, 0], [0, far]]), abs=1e-6)
    assert found["memory"][1][0] == pytest.approx(far, abs=1e-6)
    assert found["color (control)"][0][0] == pytest.approx(np.array([[0, 0], [0.5, 0]]), abs=1e-6)
    share = 1 / (1 + np.exp(-1 / 26**0.5 / recipe.TAU))  # cosines 3 and 4 over the root of 26
    assert found["words"][1][0] == pytest.approx(share, abs=1e-5)
    assert found["words + memory"][1][0] == pytest.approx(1 / (1 / share + 1 / far), abs=1e-5)
    assert found["learned"][0].mean() < found["words"][0].mean()  # it has seen this image as normal


def test_learning_makes_normal_features_normal_and_leaves_damage_near_its_words() -> None:
    random = torch.Generator().manual_seed(0)
    prompts, center = F.normalize(torch.randn(2, 24, generator=random), dim=-1), torch.randn(24, generator=random)
    normal = F.normalize(center + 0.3 * torch.randn(30, 24, generator=random), dim=-1)
    before = prompts.clone()
    moved = recipe.learn(prompts, normal)
    assert (normal @ moved[0]).mean() > (normal @ prompts[0]).mean() + 0.2
    assert moved[1] @ prompts[1] > 0.8 and torch.equal(prompts, before)
    assert moved.norm(dim=-1).tolist() == pytest.approx([1, 1])


def test_scores_are_those_of_other_implementations() -> None:
    random = np.random.default_rng(0)
    maps, scores = random.random((8, 7, 7)).astype(np.float32), random.random(8).astype(np.float32)
    masks = np.zeros((8, recipe.SIDE, recipe.SIDE), dtype=bool)
    masks[:5, 10:20, 30:50] = True
    rows = recipe.rated(maps, scores, masks)
    assert rows.shape == (1 + recipe.DRAWS, 3)
    heat = eclip.heatmap.resize(torch.from_numpy(maps), (recipe.SIDE,) * 2).numpy()
    assert rows[0, 0] == pytest.approx(100 * roc_auc_score([1] * 5 + [0] * 3, scores))
    assert rows[0, 1] == pytest.approx(100 * roc_auc_score(masks.ravel(), heat.ravel()), abs=1e-4)
    perfect = recipe.rated(masks.astype(np.float32), masks.any(axis=(1, 2)).astype(np.float32), masks)
    assert perfect[0] == pytest.approx([100, 100, 100], abs=1e-6)


@pytest.mark.long
def test_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    _scene().save(tmp_path / "images" / "thing.jpg")
    monkeypatch.setattr(eclip, "load", lambda name: tiny.kept("vit"))
    monkeypatch.setattr(recipe, "DRAWS", 3)
    given = ["anomaly.py", "--out", str(tmp_path), "--data", str(tmp_path / "images"), "--limit", "1"]
    monkeypatch.setattr(sys, "argv", given)
    recipe.main()
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + 3 * len(recipe.NAMES) - 4 and all(row.count("|") == 6 for row in rows)
    assert [row.split("|")[2].strip() for row in rows[2:4]] == ["0", "1"]  # a random map sees no normal image
    with Image.open(tmp_path / "anomaly.jpg") as drawn:
        assert drawn.width == 1100
