"""The recipe of maps along a film: its frames and masks, flicker and scores by hand, smoothing, and the whole run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import eclip
import tiny
from eclip.datasets.packs import davis2016val
from eclip.video.explain import smoothed
from eclip.video.frames import frames_of

pytest.importorskip("av", reason="videos need PyAV")
PATH = Path(__file__).parents[1] / "recipes" / "relatives" / "actions" / "actions.py"
SPEC = importlib.util.spec_from_file_location("relative_actions", PATH)
assert SPEC is not None and SPEC.loader is not None
recipe = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(recipe)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """Two sequences of three frames of 49 x 37 pixels, in the layout of the pack; a light square moves to the right."""
    root = tmp_path / "davis2016val"
    rows = ["name\tsequence\ttext"]
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for sequence, text in (("cows", "cow"), ("scooter", "person on a scooter")):
        for frame in range(3):
            pixels, mask = np.full((37, 49, 3), 60, np.uint8), np.zeros((37, 49), np.uint8)
            rows.append(f"{sequence}_{frame}\t{sequence}\t{text}")
            mask[10:25, 5 + 10 * frame : 20 + 10 * frame], mask[0, 0] = 1, 255
            pixels[mask == 1] = 220 if sequence == "cows" else 160
            Image.fromarray(pixels).save(root / "images" / f"{sequence}_{frame}.jpg", quality=95)
            Image.fromarray(mask).save(root / "masks" / f"{sequence}_{frame}.png")
    (root / "index.tsv").write_text("\n".join(rows), encoding="utf-8")
    (root / "classes.txt").write_text("1\tobject\n", encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    explain = eclip.explain_video
    monkeypatch.setattr(
        eclip, "explain_video", lambda path, texts, **given: explain(path, texts, model=tiny.kept("vit"), **given)
    )


def test_films_have_the_frames_and_masks_of_the_sequences(pack: Path, tmp_path: Path) -> None:
    found = recipe.films(davis2016val(pack, "all"), tmp_path, None)
    assert {name: text for name, (_, text, _) in found.items()} == {"cows": "cow", "scooter": "person on a scooter"}
    path, _, masks = found["cows"]
    assert [mask.shape for mask in masks] == [(36, 48)] * 3 and set(np.unique(masks[0])) == {0, 1, 65535}
    frames = [np.asarray(frame.image, float).mean(axis=2) for frame in frames_of(path)]
    assert len(frames) == 3
    for frame, mask in zip(frames, masks, strict=True):
        assert frame[mask == 1].mean() > 190 and frame[mask == 0].mean() < 80
    assert list(recipe.films(davis2016val(pack, "all"), tmp_path, 1)) == ["cows"]


def test_maps_are_smoothed_by_sigma_in_frames(pack: Path, tmp_path: Path) -> None:
    path = recipe.films(davis2016val(pack, "all"), tmp_path, 1)["cows"][0]
    maps, scores = recipe.maps_of(path, "cow")
    plain = eclip.explain_video(path, ["a cow", "a person"], health=False)
    assert list(maps) == [*recipe.OBJECT.values(), recipe.STILL, recipe.MEAN, recipe.CENTER, recipe.OTHER]
    assert sorted(maps) == sorted(recipe.NAMES) and scores.shape == (3, 2)
    assert maps[recipe.OBJECT[0.0]] == pytest.approx(plain.maps[:, 0])
    assert maps[recipe.OTHER] == pytest.approx(plain.maps[:, 1])
    for sigma in (0.5, 2.0):
        wanted = smoothed(plain.maps, plain.times, sigma / plain.rate)[:, 0]
        assert maps[recipe.OBJECT[sigma]] == pytest.approx(wanted, abs=1e-6)
    assert maps[recipe.MEAN][2] == pytest.approx(plain.maps[:, 0].mean(axis=0), abs=1e-6)
    assert all(recipe.flicker(maps[name]) == 0 for name in (recipe.STILL, recipe.MEAN, recipe.CENTER))


def test_flicker_and_scores_by_hand() -> None:
    assert recipe.flicker(np.array([[[0.0, 1.0]], [[0.5, 1.0]], [[0.5, 0.0]]])) == pytest.approx((0.25 + 0.5) / 2)
    mask = np.zeros((8, 8), np.uint16)
    mask[:4], mask[7, 7] = 1, 65535
    right, wrong = np.repeat([[1.0], [0.0]], 2, axis=1), np.repeat([[0.0], [1.0]], 2, axis=1)
    scores = recipe.frame_scores(np.stack([right, wrong]).astype(np.float32), [mask, mask])
    assert scores.shape == (2, 21) and scores[:, 0].tolist() == [1, 0]
    assert scores[0, 11] == 1 and scores[:, 1] == pytest.approx([32 / 63] * 2)  # at 0.5, and at 0: everything
    noise = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
    expected = roc_auc_score((mask == 1)[mask != 65535], noise[0][mask != 65535])
    assert recipe.frame_scores(noise, [mask])[0, 0] == pytest.approx(expected, abs=1e-6)


def test_the_threshold_is_the_best_of_the_other_videos() -> None:
    """Video a is best at the last threshold, b and c at the first, so each gets that of the others."""
    rows = {"a": np.array([[0.5, 0.1, 0.3]]), "b": np.array([[0.6, 0.9, 0.1]]), "c": np.array([[0.7, 0.8, 0.2]])}
    assert recipe.means(rows).tolist() == [[0.5, 0.1], [0.6, 0.9], [0.7, 0.8]]
    assert recipe.interval(np.array([2.0, 2.0, 2.0])) == (2, 2, 2)


def test_the_whole_run(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["actions.py", "--data", str(pack.parent), "--out", str(tmp_path / "out")])
    recipe.main()
    rows = capsys.readouterr().out.splitlines()
    assert len([row for row in rows if row.startswith("|")]) == 2 + len(recipe.NAMES)
    assert "2 videos: AUROC" in rows[0] and "1 with people: flicker" in rows[0]
    assert rows[-1].startswith("Scores, in hundredths")
    with Image.open(tmp_path / "out" / "actions.png") as drawn:
        assert drawn.width == 1050
