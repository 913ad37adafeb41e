"""The task "ground": its numbers against `explain` phrase by phrase, its types, its table, bad data."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

import eclip
import tiny
from eclip.backbones.encoding import encode
from eclip.datasets.phrases import Box, Phrase, Phrased, PhraseSet
from eclip.errors import DataError, OptionError
from eclip.evaluation.evaluate import evaluate
from eclip.evaluation.evaluation import Evaluation
from eclip.evaluation.ground import covered
from eclip.evaluation.protocols import PROTOCOLS
from eclip.evaluation.rules import Ground
from eclip.methods import METHODS
from eclip.metrics.boxes import best_iou

ASKED = ("itsm", "surgery", "attention", "gradcam", "decompose", "occlusion")
LEFT, RIGHT, TOP = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.25)
PHRASES = (
    (Phrase("a dog", (LEFT,), ("animals",), "a dog near a house", 0), Phrase("a house", (RIGHT,), ("scene",))),
    (Phrase("a dog", (TOP, RIGHT), ("animals",)), Phrase("it", (TOP,)), Phrase("a dog", (TOP, RIGHT), ("animals",))),
    (Phrase("a bus", (LEFT,), ("vehicles", "scene")),),
)


@pytest.fixture(scope="module")
def phrases(tmp_path_factory: pytest.TempPathFactory) -> PhraseSet:
    folder, items = tmp_path_factory.mktemp("phrases"), []
    for seed, own in enumerate(PHRASES):
        values = np.random.default_rng(seed).integers(0, 256, (30 + seed, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{seed}.png")
        items.append(Phrased(str(seed), folder / f"{seed}.png", own))
    return PhraseSet("three", items, [])


@pytest.fixture(scope="module")
def found(phrases: PhraseSet, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    out = tmp_path_factory.mktemp("run")
    return evaluate(
        phrases, out=out, methods=ASKED, models=tiny.backbone("vit"), protocol="pointing-v1", batch_size=2
    )  # two batches


def rows(found: Evaluation) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in found.results["rows"]}


def value(found: Evaluation, method: str, number: str) -> float | None:
    return rows(found)[method]["numbers"][number]["value"]


@pytest.mark.parametrize("method", ASKED)
@pytest.mark.long(every=5)
def test_numbers_are_those_of_explain_with_each_phrase_alone(
    found: Evaluation, phrases: PhraseSet, method: str
) -> None:
    hits, shares, recalled, types = [], [], [], []
    for item in phrases.items:
        for phrase in item.phrases:
            answer = eclip.explain(item.image, [phrase.text], model=tiny.backbone("vit"), method=method)
            heat = answer.heatmap(0, 0)
            height, width = heat.shape
            inside = np.zeros(heat.shape, dtype=bool)
            for left, top, right, bottom in phrase.boxes:
                inside[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
            hits.append(inside[heat == heat.max()].mean())
            shares.append(heat[inside].sum() / heat.sum())
            truth = torch.tensor(phrase.boxes) * torch.tensor([width, height, width, height])
            first = torch.from_numpy(answer.boxes(0, 0)[:1].astype(np.float32))
            recalled.append(bool((box_iou(first, truth) >= 0.5).any()))
            types.append(phrase.types)
    row = rows(found)[method]
    assert (row["pairs"], row["images"], row["types"]) == (6, 3, {"animals": 3, "scene": 2, "vehicles": 1})
    for key, one in (("pointing", hits), ("energy", shares), ("box_recall", recalled)):
        assert value(found, method, key) == pytest.approx(np.mean(one), abs=1e-5), key
    for kind in ("animals", "scene", "vehicles"):
        own = [hit for hit, kinds in zip(hits, types, strict=True) if kind in kinds]
        assert value(found, method, f"pointing_{kind}") == pytest.approx(np.mean(own), abs=1e-5)


def test_the_set_shows_every_way_a_phrase_can_go(found: Evaluation) -> None:
    """Otherwise the comparison above would show little."""
    numbers = {value(found, method, "pointing") for method in ASKED}
    boxes = {value(found, method, "box_recall") for method in ASKED}
    assert len(numbers) > 2 and len(boxes) > 1


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("eclip", "rise", "gscorecam")])
def test_compares_texts_says_whose_maps_depend_on_the_other_texts(method: str) -> None:
    backbone = tiny.backbone("vit")
    encoding, text = encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone)
    together = METHODS[method](encoding, text)
    alone = torch.cat([METHODS[method](encoding, one) for one in text.split(1)], dim=1)
    equal = torch.allclose(together, alone, atol=1e-6 * float(together.abs().max()), rtol=1e-4)
    assert METHODS[method].compares_texts is not equal


def test_baselines_and_differences_from_the_best_of_them(found: Evaluation, phrases: PhraseSet) -> None:
    assert [name for name, row in rows(found).items() if row["control"]] == ["ones", "centre", "random", "bound"]
    areas = [covered(phrase.boxes, item.open().size[::-1]).mean() for item in phrases.items for phrase in item.phrases]
    assert value(found, "ones", "pointing") == pytest.approx(np.mean(areas), abs=1e-6)
    assert value(found, "ones", "energy") == pytest.approx(np.mean(areas), abs=1e-6)
    assert value(found, "bound", "pointing") == 1
    best = max(value(found, name, "pointing") or 0 for name in ("ones", "centre", "random"))
    for method in ASKED:
        over = (value(found, method, "pointing") or 0) - best
        assert value(found, method, "over_control") == pytest.approx(over, abs=2e-6)
    assert "over_control" not in rows(found)["centre"]["numbers"]


def test_the_table_of_pairs_has_the_phrase_and_its_types(found: Evaluation) -> None:
    with (found.folder / "pairs.csv").open() as file:
        pairs = [row for row in csv.DictReader(file) if row["method"] == "itsm"]
    assert [(row["image"], row["class"], row["name"], row["types"]) for row in pairs] == [
        ("0", "0", "a dog", "animals"),
        ("0", "1", "a house", "scene"),
        ("1", "0", "a dog", "animals"),
        ("1", "1", "it", ""),
        ("1", "2", "a dog", "animals"),
        ("2", "0", "a bus", "vehicles scene"),
    ]
    assert np.mean([float(row["pointing"]) for row in pairs]) == pytest.approx(
        value(found, "itsm", "pointing"), abs=1e-5
    )


def test_it_resumes_and_is_checked_against_its_own_numbers(found: Evaluation, phrases: PhraseSet) -> None:
    next((found.folder / "parts").rglob("000001.npz")).unlink()
    again = evaluate(
        phrases,
        out=found.folder,
        methods=ASKED,
        models=tiny.backbone("vit"),
        protocol="pointing-v1",
        batch_size=2,
        expected=found.folder / "results.json",
    )
    assert json.dumps(again.results["rows"]) == json.dumps(found.results["rows"])
    assert again.check(found.folder / "results.json") == []


def test_an_image_that_cannot_be_read_is_named(phrases: PhraseSet, tmp_path: Path) -> None:
    broken = replace(phrases.items[0], name="broken", image=tmp_path / "broken.png")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    model = tiny.backbone("vit")
    many = replace(phrases, items=[replace(phrases.items[1], name=str(one)) for one in range(20)] + [broken])
    found = evaluate(many, out=tmp_path / "run", methods="itsm", models=model, protocol="pointing-v1")
    assert [one["source"] for one in found.results["failures"]] == ["broken"] and rows(found)["itsm"]["images"] == 20


def test_boxes_that_cover_everything_cannot_tell_maps_apart(phrases: PhraseSet, tmp_path: Path) -> None:
    whole = (Phrase("all of it", ((0.0, 0.0, 1.0, 1.0),)),)
    filled = replace(phrases, items=[replace(item, phrases=whole) for item in phrases.items])
    with pytest.raises(DataError, match="cover the whole image"):
        evaluate(filled, out=tmp_path, methods="itsm", models=tiny.backbone("vit"), protocol="pointing-v1")


def test_a_protocol_for_masks_is_refused_with_the_one_that_fits(phrases: PhraseSet, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"has phrases and boxes: use the protocol pointing-v1"):
        evaluate(phrases, out=tmp_path, methods="itsm", models=tiny.backbone("vit"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"iou": 0.0}, {"iou": 1.5}, {"iou": 0.5, "headline": "miou"}])
def test_rules_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Ground(**wrong)


def test_the_report_reads_in_words(found: Evaluation) -> None:
    page = found.report()
    assert "How often the maximum of a phrase" in page and "one with an IoU of at least 0.5" in page
    assert PROTOCOLS["pointing-v1"].summary in page and "Pointing for the phrases of the type vehicles alone." in page


@pytest.mark.parametrize(
    ("boxes", "wanted"),
    [
        (((0.0, 0.0, 0.5, 0.5),), [[1, 1, 0, 0], [0, 0, 0, 0]]),
        (((0.5, 0.0, 1.0, 1.0), (0.0, 0.5, 0.25, 1.0)), [[0, 0, 1, 1], [1, 0, 1, 1]]),
        (((0.26, 0.5, 0.3, 0.51),), [[0, 0, 0, 0], [0, 1, 0, 0]]),  # thinner than a pixel
        (((0.99, 0.99, 1.0, 1.0),), [[0, 0, 0, 0], [0, 0, 0, 1]]),  # at the edge
    ],
)
def test_boxes_as_pixels(boxes: tuple[Box, ...], wanted: list[list[int]]) -> None:
    assert covered(boxes, (2, 4)).astype(int).tolist() == wanted


def test_best_iou_against_torchvision() -> None:
    random = np.random.default_rng(0)
    low, wide = random.random((20, 2)), random.random((20, 2)) * 0.5 + 0.01
    boxes = np.concatenate([low, low + wide], axis=1)
    wanted = box_iou(torch.from_numpy(boxes[:1]), torch.from_numpy(boxes[1:])).max()
    assert best_iou(boxes[0], boxes[1:]) == pytest.approx(float(wanted))
