"""Confusion, ranking, rank correlation and the bound of the grid: what the list of cases does not cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import eclip
import eclip.errors
from eclip import heatmap
from eclip.metrics.bound import grid_bound
from eclip.metrics.ranking import ranks
from eclip.metrics.segmentation import class_ious, confusion
from metric_cases import CALLED, SIMILARITY, THING, TRUTH, labels

M = eclip.METRICS


def test_confusion_by_hand() -> None:
    # true 0: one called 0, one 1; true 1: both called 1; true 2: called 0; the pixel that is void is called 2
    counts = confusion(CALLED, TRUTH, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert class_ious(counts) == pytest.approx([1 / 3, 2 / 3, 0, np.nan], nan_ok=True)
    assert class_ious(counts, ignore_background=True) == pytest.approx([np.nan, 1, 0, np.nan], nan_ok=True)


def test_confusions_of_images_add_up() -> None:
    called, truth = (np.stack(side) for side in zip(*labels(), strict=True))
    each = sum(confusion(*image, 7) for image in labels())
    assert (each == confusion(called, truth, 7)).all()
    assert confusion(called, np.full_like(truth, 9), 7, void=9).sum() == 0


@pytest.mark.usefixtures("shapes_unchecked")
def test_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(eclip.errors.DataError, match="truth must be 0 to 1 outside void 255, got 0 to 2"):
        confusion(CALLED, TRUTH, 2)
    with pytest.raises(eclip.errors.DataError, match="predicted must be 0 to 2 outside void 255, got -1 to 0"):
        confusion(CALLED.clip(max=0) - (CALLED == 1), TRUTH, 3)
    with pytest.raises(eclip.errors.ShapeError, match=r"shape of truth, \(2, 3\), got \(1, 3\)"):
        confusion(CALLED[:1], TRUTH, 4)
    with pytest.raises(eclip.errors.OptionError, match="classes must be at least 1, got 0"):
        confusion(CALLED, TRUTH, 0)
    with pytest.raises(eclip.errors.OptionError, match=r"void 255 is one of the 300 classes: .* such as -1"):
        confusion(CALLED, TRUTH, 300)
    nothing = confusion(CALLED, np.full_like(TRUTH, 255), 4)
    for name in ("segmentation_miou", "pixel_accuracy"):
        with pytest.raises(eclip.errors.DataError, match="there is nothing to score"):
            M[name](nothing)
    with pytest.raises(eclip.errors.DataError, match="void or background"):
        M["segmentation_miou"](confusion(TRUTH * 0, TRUTH * 0, 2), ignore_background=True)


@pytest.mark.usefixtures("shapes_unchecked")
def test_labels_may_be_a_list() -> None:
    assert M["accuracy"](np.eye(3), [0, 1, 0]) == pytest.approx(2 / 3)


def test_ties_count_against_us() -> None:
    # own 0.9 alone; own 0.3 behind 0.9; own 0.5 behind two equals
    assert ranks(SIMILARITY, [[0], [1], [2]]).tolist() == [1, 2, 3]
    assert ranks(SIMILARITY, [[0], [1], [0, 2]]).tolist() == [1, 2, 2], "equals that are own do not stand in the way"
    same = np.full((4, 6), 0.25)
    own = [[0], [1], [2], [5]]
    assert [M["recall"](same, own, k=k) for k in (1, 5, 6)] == [0, 0, 1]


def test_a_list_of_lists_and_a_matrix_say_the_same() -> None:
    random = np.random.default_rng(2)
    similarity, own = random.random((7, 5)).round(1), random.random((7, 5)) < 0.4
    own[:, 1] = True
    assert ranks(similarity, own).tolist() == ranks(similarity, [np.flatnonzero(row).tolist() for row in own]).tolist()
    by_k = [M["recall"](similarity, own, k=k) for k in range(1, 6)]
    assert by_k == sorted(by_k) and by_k[-1] == 1


@pytest.mark.usefixtures("shapes_unchecked")
def test_what_cannot_be_ranked_is_refused() -> None:
    for own, error, message in (
        ([[0], [], [1]], eclip.errors.DataError, "query 1 has no matching candidate"),
        ([[0], [3], [1]], eclip.errors.DataError, r"candidates of query 1 must be 0 to 2, got \[3\]"),
        ([[0], [-1], [1]], eclip.errors.DataError, r"candidates of query 1 must be 0 to 2, got \[-1\]"),
        ([[0], [-1, 1], [1]], eclip.errors.DataError, r"candidates of query 1 must be 0 to 2, got \[-1, 1\]"),
        ([[0], [1]], eclip.errors.ShapeError, "a list for each of 3 queries, or .* got 2 lists"),
        (np.ones((3, 2), dtype=bool), eclip.errors.ShapeError, r"or \(3, 3\), got \(3, 2\)"),
    ):
        with pytest.raises(error, match=message):
            M["recall"](SIMILARITY, own)
    with pytest.raises(eclip.errors.EclipError, match="query 0 has similarities that are NaN"):
        M["accuracy"](SIMILARITY * np.nan, np.array([0, 1, 2]))
    for k in (0, 4):
        with pytest.raises(
            eclip.errors.OptionError, match=f"k must be between 1 and the number of candidates, 3, got {k}"
        ):
            M["recall"](SIMILARITY, [[0], [1], [2]], k=k)
    with pytest.raises(eclip.errors.DataError, match=r"nothing to rank: similarity has shape \(0, 3\)"):
        M["accuracy"](SIMILARITY[:0], np.array([], dtype=int))


def test_rank_correlation_of_flat_and_monotone_maps() -> None:
    heat = np.random.default_rng(0).random((4, 5))
    metric = M["rank_correlation"]
    assert metric(heat, np.exp(3 * heat)) == pytest.approx(1) and metric(heat, -heat) == pytest.approx(-1)
    for flat in (
        metric(heat, np.zeros((4, 5))),
        metric(np.ones((4, 5)), heat),
        metric(np.ones((4, 5)), np.ones((4, 5))),
    ):
        assert np.isnan(flat), "0 would be the best answer there is"
    with pytest.raises(eclip.errors.EclipError, match="NaN or infinite"):
        metric(heat, heat * np.nan)


def test_the_bound_by_hand() -> None:
    # columns 0 and half of 1, half of 1 and 2: cells of 1.5 pixels; rows one pixel each
    # row 0: (1 + 0.5) / 1.5, 0.5 / 1.5; row 1: 1 / 1.5, 0
    assert grid_bound(THING, ~THING, (2, 2)) == pytest.approx(np.array([[1, 1 / 3], [2 / 3, 0]]))
    # without the middle column: row 0: 1 / 1, 0 / 1; row 1: 1 / 1, 0 / 1
    void = np.array([[False, True, False]] * 2)
    assert grid_bound(THING & ~void, ~THING & ~void, (2, 2)).tolist() == [[1, 0], [1, 0]]
    assert grid_bound(THING & void & ~void, void, (2, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]
    with pytest.raises(eclip.errors.OptionError, match=r"grid must be \(row, col\) of at least 1 each, got \(0, 3\)"):
        grid_bound(THING, ~THING, (0, 3))


def test_the_bound_is_the_mask_where_the_grid_is_as_fine_and_keeps_its_area() -> None:
    random = np.random.default_rng(3)
    inside = random.random((13, 17)) < 0.3
    assert (grid_bound(inside, ~inside, (13, 17)) == inside).all()
    for grid in ((1, 1), (4, 5), (7, 7), (20, 30)):
        assert grid_bound(inside, ~inside, grid).mean() == pytest.approx(inside.mean())
    other = torch.from_numpy(inside[:12, :16].astype(float))
    means = heatmap.mean_over_cells(other, (3, 4)).numpy()
    assert grid_bound(inside[:12, :16], ~inside[:12, :16], (3, 4)) == pytest.approx(means)


def test_the_bound_is_above_a_coarser_one() -> None:
    rows, cols = np.mgrid[:60, :80]
    inside = (rows - 28) ** 2 + (cols - 45) ** 2 < 18**2
    scores = []
    for grid in ((3, 4), (6, 8), (12, 16), (60, 80)):
        heat = heatmap.resize(torch.from_numpy(grid_bound(inside, ~inside, grid)), inside.shape).numpy()
        scores.append([M[name](heat, inside, ~inside) for name in ("iou", "average_precision", "contrast")])
    assert (np.diff(scores, axis=0) > 0).all() and scores[-1] == [1, 1, 1]
