"""The recipe that trains a segmenter on free label maps: its filters, what it learns, mIoU and differences by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eclip
import tiny
from eclip.metrics.segmentation import confusion

PATH = Path(__file__).parents[1] / "recipes" / "relatives" / "free-masks" / "free_masks.py"
SPEC = importlib.util.spec_from_file_location("relative_free_masks", PATH)
assert SPEC is not None and SPEC.loader is not None
recipe = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(recipe)

SIDE = recipe.SIDE


def _found() -> eclip.Segmentation:
    """Left half airplane (1), right half bicycle (2), which is not in the image; less sure the higher up."""
    labels, confidence = np.ones((2 * SIDE, 2 * SIDE), np.uint8), np.ones((2 * SIDE, 2 * SIDE), np.float32)
    labels[:, SIDE:] = 2
    confidence *= np.linspace(0.1, 1, 2 * SIDE, dtype=np.float32)[:, None]
    presence = np.full(len(recipe.NAMES) + 1, 1.0, np.float32)
    presence[0], presence[2] = np.nan, 0.1
    image = Image.new("RGB", (2 * SIDE, 2 * SIDE))
    classes = ("background", *recipe.NAMES)
    return eclip.Segmentation((labels,), (confidence,), classes, ("image 0",), {}, (image,), (presence,))


def test_filters_ignore_what_is_unsure_or_absent() -> None:
    """Of 56 rows, 30 % are the first 17; every second row is kept, the 2nd to the 16th of these."""
    half, few, dropped = SIDE // 2, 8, recipe.IGNORED
    plain = recipe.lesson(_found(), False, False)
    assert plain.shape == (SIDE, SIDE) and plain[:, :half].unique().tolist() == [1] and (plain[:, half:] == 2).all()
    sure = recipe.lesson(_found(), True, False)
    assert (sure[:few] == dropped).all() and torch.equal(sure[few:], plain[few:])
    there = recipe.lesson(_found(), False, True)
    assert (there[:, half:] == 0).all() and torch.equal(there[:, :half], plain[:, :half])
    both = recipe.lesson(_found(), True, True)
    assert (both[:few] == dropped).all() and torch.equal(both[few:], there[few:])
    kept = recipe.present(_found())
    assert (kept[:, :SIDE] == 1).all() and (kept[:, SIDE:] == 0).all()


def test_the_trunk_is_that_of_the_model() -> None:
    backbone = tiny.kept("timm abs_attn")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    found = recipe.trunk(backbone, [image, image])
    own = eclip.encode(backbone, backbone.preprocess(image)[None], keep=0).trunk
    assert own is not None and found.shape == (2, *own.shape[1:])
    assert found[1].norm(dim=0).flatten().tolist() == pytest.approx([own.shape[1] ** 0.5] * own[0, 0].numel(), rel=1e-4)
    assert torch.nn.functional.cosine_similarity(found[:1], own, dim=1).min() > 0.9999


def test_a_student_learns_the_labels_but_not_the_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features tell the class by their sign; a quarter of the labels is wrong but ignored."""
    monkeypatch.setattr(recipe, "EPOCHS", 12)
    random = torch.Generator().manual_seed(0)
    left = torch.rand((16, 1, 14, 14), generator=random) < 0.5
    left = left[..., :1].expand(-1, -1, -1, 14)  # whole rows
    features = torch.where(left, 1.0, -1.0) * torch.ones(1, 8, 1, 1)
    labels = torch.where(left[:, 0], 3, 5).repeat_interleave(2, 1).repeat_interleave(2, 2)
    wrong = labels.clone()
    wrong[:, :, :7] = recipe.IGNORED
    model = recipe.train(features, wrong)
    got = np.stack([recipe.predict(model, features[i : i + 1], (28, 28)) for i in range(16)])
    assert (got == labels.numpy()).mean() > 0.9
    assert torch.equal(model[0].weight, recipe.train(features, wrong)[0].weight)  # the same again


def test_miou_and_its_draws() -> None:
    truth = np.array([[0, 0, 1, 1]])
    counts = np.stack([confusion(np.array([one]), truth, 2) for one in ([0, 0, 1, 1], [0, 1, 1, 1])])
    values = recipe.mious(counts)
    assert len(values) == 1 + recipe.DRAWS
    assert values[0] == pytest.approx(100 * (3 / 4 + 4 / 5) / 2)
    ends = 100 * (1 / 2 + 2 / 3) / 2  # only the second image
    assert values.max() == pytest.approx(100) and values.min() == pytest.approx(ends)
    assert recipe.said(values - values) == "0.0 (0.0 to 0.0)"


def test_teacher_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "NAMES", ["dog", "cat"])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    found = recipe.teach(tiny.kept("vit"), [image])
    assert found[0].classes == ("background", "dog", "cat") and found[0].presence is not None
    recipe.picture(found, [np.zeros((40, 50), np.uint8)], tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as drawn:
        assert drawn.width == 900
