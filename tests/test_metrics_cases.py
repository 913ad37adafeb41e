"""Every metric by hand and against an oracle, from one list; and what holds for all of METRICS."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import eclip
import eclip.errors
from eclip.metrics.boxes import box_ious
from eclip.metrics.localization import THRESHOLDS
from metric_cases import BY_HAND, ORACLES, ByHand, Oracle, labelled_box, pairs

PAIR = [name for name, metric in eclip.METRICS.items() if metric.kind == "pair"]


@pytest.mark.parametrize("case", BY_HAND, ids=lambda case: f"{case.metric}: {case.what}")
def test_by_hand(case: ByHand) -> None:
    assert case.ours() == pytest.approx(case.answer, abs=1e-12)


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: f"{oracle.metric}: {oracle.whose}")
def test_against_others(oracle: Oracle) -> None:
    differences = oracle.differences()
    assert len(differences) >= 3 and max(differences) < oracle.atol


def test_every_metric_has_an_example_and_an_oracle() -> None:
    assert {case.metric for case in BY_HAND} == set(eclip.METRICS) == {oracle.metric for oracle in ORACLES}


@pytest.mark.parametrize("name", [name for name in PAIR if name != "box_iou"])
def test_of_a_pair_void_does_not_count(name: str) -> None:
    random = np.random.default_rng(0)
    for heat, inside, outside in pairs(12):
        other = np.where(inside | outside, heat, random.random(heat.shape)).astype(np.float32)
        assert eclip.METRICS[name](other, inside, outside) == eclip.METRICS[name](heat, inside, outside)


def test_heat_on_void_connects_but_stretches_no_box() -> None:
    inside, ring = np.zeros((6, 7), dtype=bool), np.zeros((6, 7), dtype=bool)
    ring[1:5, 1:5], inside[2:4, 2:4] = True, True
    outside = ~ring
    heat = ring.astype(np.float32)  # on the thing and on the void around it
    assert eclip.METRICS["box_iou"](heat, inside, outside) == 1
    heat[2, 5:] = 1  # and on two pixels behind it: a box of 2 rows, columns 2 to 6
    assert eclip.METRICS["box_iou"](heat, inside, outside) == pytest.approx(4 / 10)
    heat[2, 4] = 0  # a gap, yet the ring touches at the corners (1, 4) and (3, 4)
    assert eclip.METRICS["box_iou"](heat, inside, outside) == pytest.approx(4 / 10)
    heat[1:4, 4] = 0  # now parted: 4 pixels of the thing, 2 behind
    assert eclip.METRICS["box_iou"](heat, inside, outside) == 1


def test_boxes_at_all_thresholds_are_those_at_each() -> None:
    """Rounding of thresholds to float32, empty masks, equal regions and the order of reading."""
    for heat, inside, outside in pairs(12):
        for kind in (np.float32, np.float64):
            at_once = box_ious(heat.astype(kind), inside, outside)
            singly = [labelled_box(heat.astype(kind), inside, outside, threshold) for threshold in THRESHOLDS]
            assert at_once == pytest.approx(singly, abs=1e-6)


@pytest.mark.parametrize("name", PAIR)
def test_of_a_pair_the_right_map_has_the_most_and_the_flipped_one_the_least(name: str) -> None:
    inside = np.zeros((6, 8), dtype=bool)
    inside[1:4, 2:5] = True
    metric, right = eclip.METRICS[name], inside.astype(np.float32)
    assert metric(right, inside, ~inside) == metric.most
    wrong = metric(1 - right, inside, ~inside)
    # of the flipped map, AP is the share of the area (the thing is found last), the boxes are 3 x 3 in 6 x 8
    assert wrong == pytest.approx({"average_precision": 9 / 48, "box_iou": 9 / 48}.get(name, metric.least))


@pytest.mark.parametrize("name", PAIR)
def test_of_a_pair_values_stay_in_range_and_bad_input_is_refused(name: str) -> None:
    metric = eclip.METRICS[name]
    for heat, inside, outside in pairs(12):
        assert metric.least <= metric(heat, inside, outside) <= metric.most
    heat, inside, outside = pairs(1)[0]
    with pytest.raises(eclip.errors.EclipError, match=r"in \[0, 1\], got nan to nan"):
        metric(heat * np.nan, inside, outside)
    with pytest.raises(eclip.errors.EclipError, match=r"in \[0, 1\], got"):
        metric(heat + 0.5, inside, outside)
    with pytest.raises(eclip.errors.EclipError, match="inside is empty"):
        metric(heat, np.zeros_like(inside), outside)


@pytest.mark.parametrize("name", PAIR)
def test_of_a_pair_nothing_outside_has_an_answer(name: str) -> None:
    heat, everywhere = pairs(1)[0][0], np.ones(pairs(1)[0][0].shape, dtype=bool)
    given = eclip.METRICS[name](heat, everywhere, ~everywhere)
    if name in ("iou", "box_iou"):
        assert 0 < given <= 1
    else:
        assert given == {"contrast": 0, "auroc": 0.5}.get(name, 1)


@pytest.mark.parametrize("name", ["average_precision", "pointing_game", "energy"])
def test_a_flat_map_has_the_share_of_the_area(name: str) -> None:
    _, inside, outside = pairs(1)[0]
    for height in (0.0, 0.25, 1.0):
        flat = np.full(inside.shape, height, dtype=np.float32)
        share = inside.sum() / (inside.sum() + outside.sum())
        assert eclip.METRICS[name](flat, inside, outside) == pytest.approx(share)
        assert eclip.METRICS["auroc"](flat, inside, outside) == 0.5


@pytest.mark.parametrize("name", ["average_precision", "auroc", "pointing_game"])
def test_only_the_order_of_the_heat_counts(name: str) -> None:
    for heat, inside, outside in pairs(12):
        coarse = np.round(heat * 500) / 500  # so far apart that rounding joins none
        assert eclip.METRICS[name](coarse, inside, outside) == eclip.METRICS[name](coarse**2 / 2, inside, outside)


def test_upside_down_contrast_changes_its_sign_and_auroc_its_side() -> None:
    for heat, inside, outside in pairs(12):
        heat = heat.astype(np.float64)
        for name, turned in (("contrast", lambda value: -value), ("auroc", lambda value: 1 - value)):
            metric = eclip.METRICS[name]
            assert metric(1 - heat, inside, outside) == pytest.approx(turned(metric(heat, inside, outside)))


def test_options_are_known_and_checked() -> None:
    heat, inside, outside = pairs(1)[0]
    assert eclip.METRICS["pointing_game"].options == {"tolerance": 0}
    with pytest.raises(eclip.errors.OptionError, match="'auroc' has no option 'tolerance'; it has none"):
        eclip.METRICS["auroc"](heat, inside, outside, tolerance=3)
    with pytest.raises(eclip.errors.OptionError, match="at least 0 pixels, got -1"):
        eclip.METRICS["pointing_game"](heat, inside, outside, tolerance=-1)


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("name", PAIR)
def test_of_a_pair_tensors_and_several_images_are_refused(name: str) -> None:
    heat, inside, outside = pairs(1)[0]
    with pytest.raises(eclip.errors.ShapeError, match=r"heat must be \(height, width\), got \(1, 21, 24\)"):
        eclip.METRICS[name](heat[None], inside[None], outside[None])
    with pytest.raises(
        eclip.errors.EclipError, match=r"NumPy arrays, but inside is a Tensor: use np.asarray\(inside\)"
    ):
        eclip.METRICS[name](heat, torch.from_numpy(inside), outside)
    with pytest.raises(eclip.errors.EclipError, match="NumPy arrays, but heat is a Tensor"):
        eclip.METRICS[name](torch.from_numpy(heat), inside, outside)


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("name", [one.name for one in eclip.METRICS.values() if one.kind == "gaze"])
def test_of_gaze_tensors_are_refused(name: str) -> None:
    points = np.array([[0.5, 0.5], [0.1, 0.9]])
    for heat in (torch.rand(5, 6), [[0.1, 0.2]]):
        with pytest.raises(eclip.errors.EclipError, match="NumPy arrays, but heat is a"):
            eclip.METRICS[name](heat, points, *[points] * (name == "shuffled_auc"))


@pytest.mark.usefixtures("shapes_unchecked")
def test_a_single_map_is_no_list_of_maps() -> None:
    heat, inside, _ = pairs(1)[0]
    with pytest.raises(eclip.errors.ShapeError, match=r"masks\[0\] must be \(height, width\), .*: pass lists"):
        eclip.METRICS["region_overlap"](heat, inside)


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("name", PAIR)
def test_of_a_pair_masks_of_another_size_are_refused(name: str) -> None:
    heat, inside, outside = pairs(1)[0]
    with pytest.raises(eclip.errors.ShapeError, match=r"masks must be \(height, width\) = \(20, 24\)"):
        eclip.METRICS[name](heat[:-1], inside, outside)


def test_ranges_and_directions_make_sense() -> None:
    assert {name for name, one in eclip.METRICS.items() if one.better == "nearer 0"} == {"rank_correlation"}
    for metric in eclip.METRICS.values():
        assert metric.better in ("higher", "lower", "nearer 0") and metric.least < metric.most
        free = metric.kind == "steps" or metric.name == "nss"
        assert math.isinf(metric.least) == free
        assert math.isinf(metric.most) == (free or metric.name == "density_divergence")
