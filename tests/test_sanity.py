"""The task "sanity" by hand: opposite signs do not cancel, and a flat map is no good answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from eclip.datasets.masks import read_masks
from eclip.evaluation.evaluate import evaluate
from eclip.evaluation.query import EvaluationQuery
from eclip.evaluation.report.numbers import sign
from eclip.evaluation.report.table import labels, ranked
from eclip.evaluation.report.text import verdicts

RAMP = torch.arange(16.0).view(4, 4)
FLAT = torch.ones(4, 4)
SWAPPED = RAMP.flatten()[[1, 0, *range(2, 16)]].view(4, 4)  # two neighbors in rank: 1 - 6 * 2 / (16 * 255)
NEAR = 1 - 12 / 4080
# of each image: dog, cat (which it does not show), two texts of nonsense, and the dog by the model of shuffled weights
MAPS = [
    (RAMP, RAMP, RAMP, RAMP, -RAMP),
    (RAMP, -RAMP, -RAMP, -RAMP, RAMP),
    (FLAT, RAMP, RAMP, RAMP, RAMP),
    (RAMP, RAMP, FLAT, SWAPPED, RAMP),
]


def test_sizes_do_not_cancel_and_flat_maps_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("images", "masks"):
        (tmp_path / "pack" / part).mkdir(parents=True)
    for place in range(4):
        values = np.random.default_rng(place).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"pack/images/{place}.png")
        Image.fromarray(np.ones((24, 24), dtype=np.uint8)).save(tmp_path / f"pack/masks/{place}.png")
    (tmp_path / "pack/classes.txt").write_text("1\tdog\n2\tcat\n")

    def maps(self: EvaluationQuery, _: str, shown: list[list[int]], **__: Any) -> list[torch.Tensor]:
        strange = self.backbone.name.endswith("shuffled")
        rows = [[4] if strange else own for own in shown]
        return [torch.stack([MAPS[image][row] for row in own]) for image, own in enumerate(rows)]

    monkeypatch.setattr(EvaluationQuery, "maps", maps)
    backbone = tiny.backbone("vit")
    assert backbone.native == (4, 4)
    found = evaluate(read_masks(tmp_path / "pack"), out=tmp_path / "run", methods="itsm", models=backbone,
                     protocol="sanity-v1")  # fmt: skip
    [row] = found.results["rows"]
    values = {key: one["value"] for key, one in row["numbers"].items()}
    assert values == {
        "nonsense_size": pytest.approx((1 + 1 + NEAR) / 3, abs=1e-6),
        "other_class_size": 1,
        "random_weights_size": 1,
        "nonsense": pytest.approx((1 - 1 + NEAR) / 3, abs=1e-6),
        "other_class": pytest.approx(1 / 3, abs=1e-6),
        "random_weights": pytest.approx(1 / 3, abs=1e-6),
    }
    assert row["pairs"] == 4 and row["flat"] == 2, "the dog of one image, one text of nonsense of another"
    said = {mark: names for mark, names, _ in verdicts(found.results, labels(found.results), ranked(found.results))}
    assert said["≈"] == ["itsm (2 of 4 pairs)"] and "itsm" in said["▼"]


def test_the_smaller_size_is_first_whatever_the_signed_mean() -> None:
    def one(name: str, size: float | None, signed: float | None, flat: int = 0) -> dict[str, Any]:
        own = {"nonsense_size": size, "random_weights_size": size, "nonsense": signed, "random_weights": signed}
        numbers = {key: {"value": value, "low": value, "high": value} for key, value in own.items()}
        return {"model": "m", "method": name, "control": False, "pairs": 7, "flat": flat, "numbers": numbers}

    rows = [one("flips", 0.95, 0.0), one("listens", 0.3, 0.3), one("flat", None, None, 7)]
    results = {"protocol": {"task": "sanity", "rules": {}}, "rows": rows}
    assert ranked(results) == [1, 0, 2]
    said = [(mark, names) for mark, names, _ in verdicts(results, labels(results), ranked(results))]
    assert said == [("★", ["listens"]), ("▼", ["flips"]), ("▼", ["flips"]), ("≈", ["flat (7 of 7 pairs)"])]
    assert sign("nonsense_size") == -1 and sign("nonsense") == 0, "no method is told to be best by a mean that cancels"
