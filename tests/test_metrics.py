"""Localization: by hand, by property, and against plain loops; and the pass over images with masks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import eclip
import eclip.errors
import tiny
from eclip.backbones.encoding import encode
from eclip.backbones.head import EclipHead
from eclip.datasets.masks import MaskSet, present, read_masks
from eclip.metrics.boxes import box_ious
from eclip.metrics.localization import THRESHOLDS, Localization, contrast, ious, overlaps
from eclip.training.validation import Validation

HEAT = np.array([[1.0, 0.6, 0.2], [0.4, 0.5, 0.0]])
THING = np.array([[1, 1, 0], [1, 0, 0]], dtype=bool)
VOID = np.array([[0, 1, 0], [0, 1, 0]], dtype=bool)


def pairs(count: int = 8) -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Random maps in float32, some values just on a threshold, with masks that have void."""
    random = np.random.default_rng(11)
    made = []
    for index in range(count):
        heat = random.random((5, 7))
        part = random.choice(3, (5, 7), p=[0.2, 0.7, 0.1] if index % 3 else [0.6, 0.3, 0.1])
        heat[part == 0] = np.sqrt(heat[part == 0])  # the thing is warmer
        heat[:2] = THRESHOLDS[(heat[:2] * 19).astype(int)]
        made.append((1 + index % 3, heat.astype(np.float32), part == 0, part == 1))
    return made


def slow(heat: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> tuple[float, list[int], list[int]]:
    """Contrast, intersections and unions, pixel by pixel."""
    inner = [float(value) for value, is_in in zip(heat.flat, inside.flat, strict=True) if is_in]
    outer = [float(value) for value, is_out in zip(heat.flat, outside.flat, strict=True) if is_out]
    hits = [sum(value >= threshold for value in inner) for threshold in THRESHOLDS]
    unions = [len(inner) + sum(value >= threshold for value in outer) for threshold in THRESHOLDS]
    return sum(inner) / len(inner) - sum(outer) / len(outer), hits, unions


def test_contrast_and_iou_by_hand() -> None:
    # inside 1.0, 0.6, 0.4, outside 0.2, 0.5, 0.0: at 0.5 two of three are found, and one is false
    assert contrast(HEAT, THING, ~THING) == pytest.approx(2 / 3 - 0.7 / 3)
    assert ious(HEAT, THING, ~THING, np.array([0.0, 0.5, 0.9])).tolist() == [3 / 6, 2 / 4, 1 / 3]


def test_void_pixels_are_neither_inside_nor_outside() -> None:
    inside, outside = THING & ~VOID, ~THING & ~VOID  # 1.0, 0.4 and 0.2, 0.0
    assert contrast(HEAT, inside, outside) == pytest.approx(0.7 - 0.1)
    assert ious(HEAT, inside, outside, np.array([0.1, 0.5])).tolist() == [2 / 3, 1 / 2]
    other = np.where(VOID, 1 - HEAT, HEAT)
    assert contrast(other, inside, outside) == contrast(HEAT, inside, outside)


def test_a_thing_that_fills_the_image_has_no_contrast() -> None:
    everywhere = np.ones_like(THING)
    assert contrast(HEAT, everywhere, ~everywhere) == contrast(1 - HEAT, everywhere, ~everywhere) == 0
    assert ious(HEAT, everywhere, ~everywhere, np.array([0.0, 0.5])).tolist() == [1, 3 / 6]


def test_heat_upside_down_has_the_opposite_contrast() -> None:
    upright, turned = Localization(), Localization()
    for number, heat, inside, outside in pairs():
        upright.add(number, heat, inside, outside)
        turned.add(number, 1 - heat, inside, outside)
    assert turned.contrasts == pytest.approx([-one for one in upright.contrasts], abs=1e-6)
    assert turned.record().msc == pytest.approx(-upright.record().msc, abs=1e-6)
    assert turned.record().class_msc == pytest.approx(-upright.record().class_msc, abs=1e-6)


def test_a_record_equals_plain_loops() -> None:
    scored, by_class = Localization(), {}
    for number, heat, inside, outside in pairs():
        scored.add(number, heat, inside, outside)
        by_class.setdefault(number, []).append(slow(heat, inside, outside))
    record = scored.record()
    everything = [one for own in by_class.values() for one in own]
    assert record.pairs == len(everything) == 8
    assert record.msc == pytest.approx(sum(one[0] for one in everything) / 8)
    means = {number: sum(one[0] for one in own) / len(own) for number, own in by_class.items()}
    assert record.class_msc == pytest.approx(sum(means.values()) / 3)

    curve = [sum(hits[i] / unions[i] for _, hits, unions in everything) / 8 for i in range(20)]
    assert record.curve == pytest.approx(curve)
    assert (record.miou, record.threshold) == (max(record.curve), THRESHOLDS[int(np.argmax(curve))])

    each = {
        number: [sum(one[1][i] for one in own) / sum(one[2][i] for one in own) for i in range(20)]
        for number, own in by_class.items()
    }
    assert record.class_curve == pytest.approx([sum(one[i] for one in each.values()) / 3 for i in range(20)])
    best = int(np.argmax(record.class_curve))
    assert record.class_threshold != record.threshold, "else this test would not tell them apart"
    assert (record.class_miou, record.class_threshold) == (record.class_curve[best], THRESHOLDS[best])
    assert {number: (one.pairs, one.msc, one.iou) for number, one in record.classes.items()} == {
        number: (len(own), pytest.approx(means[number]), pytest.approx(each[number][best]))
        for number, own in by_class.items()
    }


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(eclip.errors.EclipError, match=r"in \[0, 1\], got -0.5 to 0.5"):
        contrast(HEAT - 0.5, THING, ~THING)
    with pytest.raises(eclip.errors.EclipError, match="got nan to nan"):
        ious(np.full_like(HEAT, np.nan), THING, ~THING)
    with pytest.raises(eclip.errors.EclipError, match="inside is empty"):
        contrast(HEAT, THING & ~THING, THING)
    for thresholds in ([0.75, 0.5, 0.25], [0.5, 0.5], [0.5, np.nan], [np.nan]):
        for metric in (overlaps, ious, box_ious):
            with pytest.raises(eclip.errors.OptionError, match=r"must be strictly ascending, got \["):
                metric(HEAT, THING, ~THING, np.array(thresholds))
    with pytest.raises(eclip.errors.DataError, match="there is nothing to score"):
        Localization().record()


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> MaskSet:
    """Five images of unlike sizes: the first three show 1 and 2, the next 3 alone, the last nothing."""
    folder = tmp_path_factory.mktemp("pack")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for seed, (height, width) in enumerate([(30, 40), (40, 30), (24, 24), (33, 50), (30, 30)]):
        random = np.random.default_rng(seed)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"images/{seed}.png")
        mask = np.zeros((height, width), dtype=np.uint8)
        if seed < 3:
            mask[: height // 2], mask[height // 2 :, 7:], mask[-1] = 1, 2, 255
        mask[:] = 3 if seed == 3 else mask * (seed < 4)
        Image.fromarray(mask).save(folder / f"masks/{seed}.png")
    (folder / "classes.txt").write_text("1\tdog\n2\tcat\n3\tgrass\n")
    return read_masks(folder)


@pytest.mark.parametrize("source", ["value", "output"])
def test_a_head_is_scored_by_what_explain_shows(masks: MaskSet, source: str) -> None:
    backbone = tiny.backbone("vit")
    head = EclipHead.start(backbone, source)
    record = Validation(masks, backbone, source, batch_size=2).score(head)
    prompts = [f"a photo of a {name}" for name in ("dog", "cat", "grass")]
    wanted = Localization()
    for item in masks.items:
        mask = item.read()
        answer = eclip.explain(item.image, prompts, model=eclip.with_head(backbone, head), method="eclip")
        for number in present(mask):
            inside, outside = mask == number, (mask != number) & (mask != 65535)
            wanted.add(number, answer.heatmap(0, number - 1), inside, outside)
    assert record.classes.keys() == {1, 2, 3} and record.pairs == 7
    assert record.msc == pytest.approx(wanted.record().msc, abs=1e-5)
    assert record.class_msc == pytest.approx(wanted.record().class_msc, abs=1e-5)
    assert record.curve == pytest.approx(wanted.record().curve, abs=1e-3)


def test_images_are_encoded_once_unless_they_are_too_many(masks: MaskSet, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, passes = tiny.backbone("vit"), []
    heads = [EclipHead.start(backbone, init="random", seed=seed) for seed in (0, 1)]
    once = encode
    monkeypatch.setattr("eclip.backbones.view.encode", lambda *a: passes.append(1) or once(*a))  # type: ignore[func-returns-value]
    kept, asked = Validation(masks, backbone, "value", batch_size=2), [*heads, heads[0]]
    records = [kept.score(head) for head in asked]
    assert len(passes) == 3 and records[0] == records[2] != records[1]
    monkeypatch.setattr("eclip.training.validation.KEPT_BYTES", 3000)
    again = Validation(masks, backbone, "value", batch_size=2)
    assert [again.score(head) for head in asked] == records and len(passes) == 12


def test_validation_refuses_no_batch(masks: MaskSet) -> None:
    backbone = tiny.backbone("vit")
    with pytest.raises(eclip.errors.OptionError, match="batch_size must be at least 1, got 0"):
        Validation(masks, backbone, "value", batch_size=0).score(EclipHead.start(backbone))


def test_validation_says_when_no_image_shows_a_class(masks: MaskSet) -> None:
    nothing, backbone = MaskSet(masks.name, masks.classes, masks.items[4:]), tiny.backbone("vit")
    with pytest.raises(eclip.errors.DataError, match="there is nothing to score"):
        Validation(nothing, backbone, "value").score(EclipHead.start(backbone))
