"""Rules of evaluation: their ranges, the built-in protocols, and that every rule has an effect on the maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eclip
import tiny
from eclip.backbones import native
from eclip.backbones.backbone import DEFAULT_POSITIONS, Grid
from eclip.backbones.encoding import encode
from eclip.datasets.caption_sources import read_pairs
from eclip.datasets.masks import VOID, MaskSet, present, read_masks
from eclip.datasets.pair import PairSet
from eclip.errors import OptionError
from eclip.evaluation.evaluate import evaluate
from eclip.evaluation.evaluation import Evaluation
from eclip.evaluation.protocols import PROTOCOLS, Protocol, protocol_of
from eclip.evaluation.query import EvaluationQuery
from eclip.evaluation.report.text import rules as told
from eclip.evaluation.rules import HEADLINES, Faithful, Localize, Recognize, Sanity, Segment
from eclip.metrics.localization import contrast

LOCALIZE: dict[str, Any] = {"least": 0.01, "thresholds": (0.0, 0.5), "headline": "miou"}
SEGMENT: dict[str, Any] = {"background": (), "scale": 40.0, "prob_threshold": None, "window": None, "stride": None}
FAITHFUL: dict[str, Any] = {"least": 0.01, "fills": ("zero",), "steps": 2, "share": 1.0}
SANITY: dict[str, Any] = {"least": 0.01, "nonsense": ("qzxv",)}
RECOGNIZE: dict[str, Any] = {"at": (1,), "captions": 5}
PROTOCOL: dict[str, Any] = {
    "name": "own",
    "summary": "s",
    "image_size": None,
    "resize": "squash",
    "templates": "a {}",
    "rules": Localize(**LOCALIZE),
}


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> MaskSet:
    """Two images of 32 x 48 pixels: a dog above a cat."""
    folder = tmp_path_factory.mktemp("pack")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for seed in range(2):
        random = np.random.default_rng(seed)
        Image.fromarray(random.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(folder / f"images/{seed}.png")
        mask = np.zeros((32, 48), dtype=np.uint8)
        mask[:10], mask[20:, 9:] = 1, 2
        Image.fromarray(mask).save(folder / f"masks/{seed}.png")
    (folder / "classes.txt").write_text("1\tdog\n2\tcat\n3\tgrass\n")
    return read_masks(folder)


def number(found: Evaluation, method: str, key: str) -> float:
    [row] = [row for row in found.results["rows"] if row["method"] == method]
    value: float = row["numbers"][key]["value"]
    return value


@pytest.mark.parametrize(
    ("kind", "right", "wrong", "message"),
    [
        (Localize, LOCALIZE, {"least": 1.5}, r"least must be a share of the image's area, 0 to 1, got 1\.5"),
        (Localize, LOCALIZE, {"least": float("nan")}, "least must be .* got nan"),
        (
            Localize,
            LOCALIZE,
            {"thresholds": (0.75, 0.5, 0.25)},
            r"each above the one before.* got \(0\.75, 0\.5, 0\.25",
        ),
        (Localize, LOCALIZE, {"thresholds": (0.5, 0.5)}, "thresholds must be"),
        (Localize, LOCALIZE, {"thresholds": ()}, r"thresholds must be .* at least one, got \(\)"),
        (Localize, LOCALIZE, {"thresholds": (0.5, 1.5)}, "thresholds must be numbers from 0 to 1"),
        (Localize, LOCALIZE, {"headline": "mIoU"}, "headline must be one of miou, .* got 'mIoU'"),
        (Segment, SEGMENT, {"background": ("sky", " ")}, "background must be a tuple of words, none of them empty"),
        (Segment, SEGMENT, {"scale": 0.0}, r"scale must be above 0 and finite, such as 40, got 0\.0"),
        (Segment, SEGMENT, {"scale": float("inf")}, "scale must be above 0 and finite"),
        (Segment, SEGMENT, {"prob_threshold": 1.1}, r"prob_threshold must be None or a share, 0 to 1, got 1\.1"),
        (Segment, SEGMENT, {"area_threshold": -0.1}, r"area_threshold must be None or a share, 0 to 1, got -0\.1"),
        (Segment, SEGMENT, {"window": 0}, "window must be at least 1, got 0"),
        (
            Segment,
            SEGMENT,
            {"window": 16, "stride": 17},
            "stride must be between 1 and window=16, so that no pixel is skipped, got 17",
        ),
        (Segment, SEGMENT, {"stride": 8}, "stride=8 requires window; set window too"),
        (Faithful, FAITHFUL, {"least": -0.1}, "least must be"),
        (
            Faithful,
            FAITHFUL,
            {"fills": ("zero", "black")},
            r"fills must be a tuple of zero, .* got \('zero', 'black'\)",
        ),
        (Faithful, FAITHFUL, {"fills": ()}, "fills must be .* at least one"),
        (Faithful, FAITHFUL, {"steps": 0}, "steps must be a whole number, at least 1, got 0"),
        (Faithful, FAITHFUL, {"share": 0.0}, r"share must be .* above 0 and at most 1, got 0\.0"),
        (Faithful, FAITHFUL, {"share": 1.5}, "share must be"),
        (Sanity, SANITY, {"least": 2.0}, "least must be"),
        (Sanity, SANITY, {"nonsense": ()}, r"nonsense must be .* at least one, got \(\)"),
        (Sanity, SANITY, {"nonsense": ("",)}, "nonsense must be .* none of them empty"),
        (Recognize, RECOGNIZE, {"at": ()}, r"at must be whole numbers, .* got \(\)"),
        (Recognize, RECOGNIZE, {"at": (1, 0)}, "at must be whole numbers"),
        (Recognize, RECOGNIZE, {"captions": 0}, "captions must be a whole number, at least 1, got 0"),
        (
            Protocol,
            PROTOCOL,
            {"image_size": 0},
            "image_size must be None or a whole number of pixels, at least 1, got 0",
        ),
        (Protocol, PROTOCOL, {"resize": "crop"}, "resize must be one of squash, keep, got 'crop'"),
        (Protocol, PROTOCOL, {"positions": "nearest"}, "positions must be one of bicubic_aa, .* got 'nearest'"),
    ],
)
def test_rules_outside_their_range_are_refused_when_they_are_made(
    kind: Callable[..., Any], right: dict[str, Any], wrong: dict[str, Any], message: str
) -> None:
    kind(**right)
    with pytest.raises(OptionError, match=message):
        kind(**{**right, **wrong})


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize(
    ("kind", "right", "wrong"), [(Faithful, FAITHFUL, {"fills": "zero"}), (Segment, SEGMENT, {"background": "sky"})]
)
def test_one_word_is_no_tuple_of_words(kind: Callable[..., Any], right: dict[str, Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="must be a tuple"):
        kind(**{**right, **wrong})


def test_the_name_of_ours_with_other_rules_is_refused(masks: MaskSet, tmp_path: Path) -> None:
    ours = PROTOCOLS["explain-v1"]
    assert protocol_of("explain-v1") is ours and protocol_of(replace(ours, summary="mine")).summary == "mine"
    other = replace(ours, rules=replace(ours.rules, least=0.5), positions="bilinear")
    with pytest.raises(OptionError, match=r"explain-v1 is a built-in protocol, .* differs in positions, rules"):
        evaluate(masks, out=tmp_path / "run", methods="itsm", models=tiny.backbone("vit"), protocol=other)
    assert not (tmp_path / "run").exists()
    assert protocol_of(replace(other, name="mine-v1")).name == "mine-v1"
    for wrong in (ours.rules, None):
        with pytest.raises(OptionError, match=rf"a Protocol of your own, got {type(wrong).__name__}"):
            protocol_of(wrong)  # type: ignore[arg-type]


def test_headlines_are_numbers_that_every_row_has_and_that_know_a_better(masks: MaskSet, tmp_path: Path) -> None:
    found = evaluate(masks, out=tmp_path, methods="itsm", models=tiny.backbone("vit"))
    keys = {row["method"]: set(row["numbers"]) for row in found.results["rows"]}
    assert keys["ones"] - {"flipped_miou"} == keys["itsm"] - {"flipped_miou", "over_control"} == set(HEADLINES)


def test_positions_are_those_of_the_authors_and_are_told() -> None:
    assert {name: one.positions for name, one in PROTOCOLS.items() if one.positions != DEFAULT_POSITIONS} == {
        "surgery-explain": "bilinear",
        "ovseg-argmax": "bicubic_plus01",
        "ovseg-argmax-background": "bicubic_plus01",
        "gradeclip-faithfulness": "bicubic",
    }
    for one in PROTOCOLS.values():
        assert one.plain()["positions"] == one.positions
        assert ("Positions", f"resized by {one.positions!r}") in told(one.plain())


def test_other_positions_are_other_maps_off_the_training_grid_alone(masks: MaskSet, tmp_path: Path) -> None:
    backbone, prompts = tiny.backbone("vit"), ["a dog", "a cat", "a grass"]
    size = backbone.native.row * backbone.patch_size

    def msc(positions: str, side: int) -> float:
        protocol = Protocol(**{**PROTOCOL, "image_size": side}, positions=positions)
        out = tmp_path / f"{positions}-{side}"
        found = evaluate(masks, out=out, methods="maskclip", models=backbone, protocol=protocol, examples=0)
        assert found.results["protocol"]["positions"] == positions
        return number(found, "maskclip", "msc")

    def by_hand(positions: str, side: int) -> float:
        contrasts = []
        for item in masks.items:
            asked: dict[str, Any] = {"image_size": side, "positions": positions, "method": "maskclip"}
            answer, mask = eclip.explain(item.image, prompts, model=backbone, **asked), item.read()
            for one in present(mask):
                contrasts.append(contrast(answer.heatmap(0, one - 1), mask == one, (mask != one) & (mask != VOID)))
        return float(np.mean(contrasts))

    for positions in ("bicubic_aa", "bilinear"):
        assert msc(positions, 2 * size) == pytest.approx(by_hand(positions, 2 * size), abs=1e-5)
    assert abs(msc("bicubic_aa", 2 * size) - msc("bilinear", 2 * size)) > 1e-4
    assert msc("bicubic_aa", size) == msc("bilinear", size)


@pytest.mark.parametrize("task", ["localize", "segment", "windows", "faithful", "sanity", "recognize"])
def test_positions_reach_every_forward_pass_of_every_task(
    masks: MaskSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    backbone = tiny.backbone("vit")
    size = 2 * backbone.native.row * backbone.patch_size
    rules = {
        "localize": Localize(**LOCALIZE),
        "segment": Segment(**SEGMENT),
        "windows": Segment(**{**SEGMENT, "window": size}),
        "faithful": Faithful(**FAITHFUL),
        "sanity": Sanity(**SANITY),
        "recognize": Recognize(**RECOGNIZE),
    }[task]
    data: MaskSet | PairSet = masks
    if task == "recognize":
        for seed, item in enumerate(masks.items):
            item.open().save(tmp_path / f"{seed}.png")
            (tmp_path / f"{seed}.txt").write_text(f"image {seed}")
        pairs, bad = read_pairs([str(tmp_path)])
        data = PairSet("own", pairs, None, bad)
    heard: list[str] = []
    real = native.resize_positions

    def spy(table: torch.Tensor, own: Grid, grid: Grid, positions: str) -> torch.Tensor:
        heard.extend([positions] if grid != own else [])
        return real(table, own, grid, positions)

    monkeypatch.setattr(native, "resize_positions", spy)
    side = None if task == "windows" else size
    protocol = Protocol(**{**PROTOCOL, "image_size": side, "rules": rules}, positions="bilinear")
    evaluate(data, out=tmp_path / "run", methods="itsm", models=backbone, protocol=protocol)
    assert set(heard) == {"bilinear"}


@pytest.mark.parametrize(
    ("window", "refine", "passes"),
    [(None, None, [2]), (None, "pamr", [1, 1]), (16, None, [16, 14]), (16, "pamr", [15, 15])],
)
def test_images_and_windows_share_passes_unless_their_maps_lie_on_pixels(
    masks: MaskSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int | None, refine: str, passes: list[int]
) -> None:
    seen: list[int] = []
    monkeypatch.setattr("eclip.evaluation.segment.encode", lambda b, p, *a: seen.append(len(p)) or encode(b, p, *a))  # type: ignore[func-returns-value]
    rules = Segment(**{**SEGMENT, "window": window})
    protocol = Protocol(**{**PROTOCOL, "rules": rules, "image_size": None if window is None else 32})
    backbone = tiny.backbone("vit")
    found = [
        evaluate(masks, out=tmp_path / f"{size}", methods="itsm", models=backbone, protocol=protocol, refine=refine,
                 batch_size=size)
        for size in (2, 1)
    ]  # fmt: skip
    assert seen[: len(passes)] == passes
    rows = [[row["numbers"] for row in one.results["rows"]] for one in found]
    assert rows[0] == [{key: pytest.approx(number, abs=1e-4) for key, number in row.items()} for row in rows[1]]


def test_a_class_of_a_small_region_becomes_background(
    masks: MaskSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 32 rows sky has 16, the cat 15 and the dog one: 1 of 16 that are no background, less than a tenth."""
    mask = np.zeros((32, 48), dtype=np.uint8)
    mask[17:] = 2  # the dog's one row is background in truth, the cat's 15 are the cat
    (tmp_path / "pack/masks").mkdir(parents=True)
    (tmp_path / "pack/images").mkdir()
    masks.items[0].open().save(tmp_path / "pack/images/0.png")
    Image.fromarray(mask).save(tmp_path / "pack/masks/0.png")
    (tmp_path / "pack/classes.txt").write_text("1\tdog\n2\tcat\n")
    maps = torch.zeros(3, 32, 48)  # sky, dog, cat
    maps[0] = 0.5
    maps[1, 16], maps[2, 17:] = 1, 1
    monkeypatch.setattr(EvaluationQuery, "maps", lambda *_, **__: [maps])
    one = read_masks(tmp_path / "pack")

    def accuracy(least: float | None) -> float:
        rules = Segment(**{**SEGMENT, "background": ("sky",), "area_threshold": least})
        protocol = Protocol(**{**PROTOCOL, "rules": rules})
        found = evaluate(one, out=tmp_path / f"{least}", methods="itsm", models=tiny.backbone("vit"), protocol=protocol)
        return number(found, "itsm", "pixel_accuracy")

    assert accuracy(None) == accuracy(0.06) == pytest.approx(31 / 32)
    assert accuracy(0.1) == 1


def test_sclips_rules_of_voc_with_background() -> None:
    rules = PROTOCOLS["ovseg-argmax-background"].rules
    assert isinstance(rules, Segment)
    assert (rules.scale, rules.prob_threshold, rules.area_threshold) == (65, 0.1, 0.1)
    assert ("Least area", "10 % of non-background pixels; smaller classes are removed") in told(
        PROTOCOLS["ovseg-argmax-background"].plain()
    )
