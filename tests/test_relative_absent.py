"""The recipe about saying no: CLIPN's losses and rules by hand, and the numbers of `absent-v1` from its own loop."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import eclip
import tiny

FILE = Path(__file__).parents[1] / "recipes" / "relatives" / "absent" / "absent.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("relative_absent", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_negations(recipe: ModuleType) -> None:
    assert recipe.negated("A dog runs .", 0) == "no dog runs"
    assert recipe.negated("Another dog", 0) == "no another dog"
    assert recipe.negated("The dog runs.", 1) == "a photo without the dog runs"


def test_the_losses_by_hand(recipe: ModuleType) -> None:
    """With p_no of image i and text j as the softmax of the two cosines, as in the paper."""
    images, yes, no = _unit(3, 6), _unit(3, 6, seed=1), _unit(3, 6, seed=2)
    own, other = [], []
    for i in range(3):
        for j in range(3):
            logits = [recipe.RULES.scale * float(images[i] @ text[j]) for text in (yes, no)]
            refusal = np.exp(logits[1]) / np.exp(logits).sum()
            (own if i == j else other).append(-np.log(1 - refusal if i == j else refusal))
    apart = 2 - (yes - no).norm(dim=-1).mean()
    wanted = (np.mean(own) + np.mean(other) + float(apart)) / 2
    assert float(recipe.opposite(images, yes, no)) == pytest.approx(wanted, abs=1e-3)


def test_a_side_starts_as_identity_and_learns(recipe: ModuleType) -> None:
    images = _unit(40, 8)
    yes = F.normalize(images[:, None] + 0.3 * _unit(40, 2, 8, seed=1), dim=-1)
    start, end = recipe.learned(images, yes, yes, 0), recipe.learned(images, yes, yes, 200)
    torch.testing.assert_close(recipe.refused(yes, start), yes)
    losses = [float(recipe.opposite(images, yes[:, 0], recipe.refused(yes[:, 0], side))) for side in (start, end)]
    assert losses[1] < 0.9 * losses[0]
    assert float(torch.linalg.vector_norm(recipe.refused(yes, end), dim=-1).sub(1).abs().max()) < 1e-5
    again = recipe.learned(images, yes, yes, 200)
    assert all(torch.equal(one, other) for one, other in zip(end, again, strict=True))


def test_the_rules_by_hand(recipe: ModuleType) -> None:
    data = {"images": _unit(4, 6), "yes": _unit(3, 6, seed=1), "no": _unit(3, 6, seed=2), "presence": torch.zeros(4, 3)}
    same = [torch.zeros(6, 16), torch.zeros(16, 6), torch.zeros(6)]
    found = recipe.rules_of(data, {"untrained": same, "plain": same})
    cosines, refusals = ((data["images"] @ data[name].T).double().numpy() for name in ("yes", "no"))
    powers = np.exp(recipe.RULES.scale * cosines)
    np.testing.assert_allclose(found["softmax"], powers / powers.sum(axis=1, keepdims=True))
    refused = np.exp(recipe.RULES.scale * refusals) / (powers + np.exp(recipe.RULES.scale * refusals))
    np.testing.assert_allclose(found["competing, untrained"], 1 - refused, atol=1e-5)
    np.testing.assert_allclose(found["agreeing, untrained"], (1 - refused) * found["softmax"], atol=1e-5)
    np.testing.assert_allclose(found["competing, plain"], 0.5, atol=1e-5)  # yes and no are the same text


def test_the_numbers_are_those_of_the_protocol(recipe: ModuleType, tmp_path: Path) -> None:
    root, random = tmp_path / "folder", np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for seed in range(12):
        image = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "images" / f"{seed:02}.png")
        mask = np.zeros((30, 40), np.uint8)
        mask[:20, :20], mask[25:, 30:], mask[0, 39] = 1 + seed % 4, 1 + (seed // 4) % 4, 4
        Image.fromarray(mask).save(root / "masks" / f"{seed:02}.png")
    (root / "classes.txt").write_text("0\tbackground\n1\tdog\n2\tcat\n3\tgrass\n4\tsky", encoding="utf-8")
    backbone = tiny.kept("vit")
    data = recipe.tested(backbone, root, 1)
    lines = recipe.scored(recipe.rules_of(data, {}), data["shown"].numpy())
    done = eclip.evaluate("folder", root=root, out=tmp_path / "out", models=backbone, protocol="absent-v1")
    rows = {row["method"]: row["numbers"] for row in done.results["rows"]}
    for name in ("score", "softmax", "presence"):
        wanted = [rows[name][key]["value"] for key in ("pair_auroc", "pair_fpr95")]
        assert lines[name][0, :2] == pytest.approx(wanted, abs=1e-5)
        assert lines[name][1, 0] <= lines[name][0, 0] <= lines[name][2, 0]
    best = max(lines[name][0, 0] for name in ("score", "softmax", "presence"))
    assert lines["random"][0, 2] == pytest.approx(lines["random"][0, 0] - best)
    recipe.chart({"one": lines, "other": lines}, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.width > 800


def test_a_second_run_measures_anew(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also into the folder of a run on other data or weights."""
    same, seeds = [torch.zeros(6, 16), torch.zeros(16, 6), torch.zeros(6)], iter(range(10))

    def tested(*given: object) -> dict[str, torch.Tensor]:
        found = {"images": _unit(6, 6, seed=next(seeds)), "yes": _unit(3, 6, seed=20), "no": _unit(3, 6, seed=21)}
        return found | {"presence": torch.zeros(6, 3), "shown": torch.eye(3, dtype=torch.long).repeat(2, 1)}

    replaced = {"tested": tested, "taught": lambda *given: [_unit(2, 6)] * 3, "learned": lambda *given: same}
    for name, value in {**replaced, "REPLICATES": 2, "chart": lambda *given: None}.items():
        monkeypatch.setattr(recipe, name, value)
    monkeypatch.setattr("sys.argv", ["absent.py", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    told = []
    for _ in range(2):
        recipe.main()
        told.append(capsys.readouterr().out)
    assert told[0] != told[1] and not list((tmp_path / "out").iterdir())


def test_captions_are_read_and_negated(recipe: ModuleType, tmp_path: Path) -> None:
    for name in ("flickr8k", "coco-captions"):
        (tmp_path / name).mkdir()
        with tarfile.open(tmp_path / name / "train-000.tar", "w") as tar:
            for key in ("000000", "000001"):
                buffer = io.BytesIO()
                Image.new("RGB", (32, 32), (int(key) * 90, 80, 10)).save(buffer, "JPEG")
                for ending, content in (("jpg", buffer.getvalue()), ("txt", b"a dog\na cat\na cow")):
                    info = tarfile.TarInfo(f"{key}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    backbone = tiny.kept("vit")
    images, yes, no = recipe.taught(backbone, tmp_path, 1)
    assert images.shape == (2, 24) and yes.shape == no.shape == (2, 2, 24)
    torch.testing.assert_close(yes[0], eclip.encode_texts(backbone, ["a dog", "a cat"]))
    torch.testing.assert_close(no[1], eclip.encode_texts(backbone, ["no dog", "a photo without a cat"]))
