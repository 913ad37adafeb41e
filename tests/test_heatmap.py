import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from eclip import heatmap
from eclip.errors import EclipError, OptionError

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="the golden arrays live beside the repository, in ../shared"
)
POINT_SETS = [
    f"{model}__{size}_class{text}"
    for model, sizes in {
        "tiny_vit": ("native", "square96"),
        "tiny_vit12": ("native", "square96"),
        "tiny_rn": ("native_released_vv", "native_normed_scale8", "square192_released_vv", "square192_normed_scale8"),
    }.items()
    for size in sizes
    for text in (0, 1)
]


def test_normalize_is_min_max_of_each_map_alone():
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[-4.0, 0.0], [0.0, -2.0]]])
    expected = torch.tensor([[[0.0, 0.5], [0.25, 1.0]], [[0.0, 1.0], [1.0, 0.5]]])
    assert torch.equal(heatmap.normalize(maps), expected)


def test_normalize_alters_no_value_however_small_the_range():
    assert heatmap.normalize(torch.tensor([[0.0, 1e-20, 2e-20]])).tolist() == [[0.0, 0.5, 1.0]]


def test_flat_is_relative_to_the_values_that_were_subtracted():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.rand(2, 7, 7, generator=generator)
    noise = (ours + 1) - theirs - (ours - theirs) - 1  # what float32 leaves of a difference that is zero
    assert 0 < noise.abs().max() < 1e-6
    assert heatmap.flat(noise, 1.0) and not heatmap.flat(noise), "alone it looks like a map"
    for smallest in (1e-5, 5e-10, 1e-30):  # gradients are that small in half precision, and all there is
        assert not heatmap.flat(smallest * ours)
        assert heatmap.normalize(smallest * ours).amax() == 1
    assert heatmap.flat(0.3 + 1e-8 * ours) and heatmap.flat(-300 + 1e-5 * ours)
    assert heatmap.flat(torch.stack([ours, noise, 0 * ours]), 1.0).tolist() == [False, True, True]


def test_constant_map_with_rounding_normalizes_to_zeros_and_has_no_mask_box_or_point():
    noisy = 0.3 + 3e-8 * torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
    assert noisy.unique().numel() > 1
    heat = heatmap.resize(heatmap.normalize(noisy), (28, 28)).numpy()
    assert not heat.any()
    assert len(heatmap.boxes(heat >= heatmap.otsu(heat))) == 0
    assert len(heatmap.points(noisy, (28, 28))[0]) == 0


@pytest.mark.parametrize("value", [0.0, -3.0, 7.1])
def test_flat_map_normalizes_to_zeros(value):
    assert torch.equal(heatmap.normalize(torch.full((2, 3), value)), torch.zeros(2, 3))


def test_signed_keeps_zero_and_signs():
    assert heatmap.signed(torch.tensor([[[-4.0, 0.0, 2.0]], [[0.0, 0.0, 0.0]]])).tolist() == [
        [[-1.0, 0.0, 0.5]],
        [[0.0, 0.0, 0.0]],
    ]


@pytest.mark.parametrize("function", [heatmap.normalize, heatmap.signed])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused_and_counted(function, bad):
    with pytest.raises(EclipError, match="2 of 6 map values are NaN or infinite"):
        function(torch.tensor([[1.0, bad, 2.0], [bad, 0.0, 1.0]]))


def test_map_without_cells_is_refused():
    with pytest.raises(EclipError, match="at least one cell"):
        heatmap.normalize(torch.zeros(2, 0, 3))


def test_resize_does_not_align_corners():
    # two cells to four pixels: pixel centers lie at -1/4, 1/4, 3/4, 5/4 cells, so 0, 1/4, 3/4, 1
    assert heatmap.resize(torch.tensor([[0.0, 1.0]]), (1, 4)).tolist() == [[0.0, 0.25, 0.75, 1.0]]


def test_resize_takes_any_leading_axes_and_gives_float32():
    maps = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    resized = heatmap.resize(maps, (9, 7))
    assert (resized.shape, resized.dtype) == ((2, 3, 9, 7), torch.float32)
    assert torch.equal(resized[1, 2], heatmap.resize(maps[1, 2], (9, 7)))


@pytest.mark.parametrize("value", [0.3, 0.7, 0.9])
def test_resize_stays_in_the_range_of_its_map(value):
    # interpolation alone rounds some pixels of a flat map to a neighboring float
    assert heatmap.resize(torch.full((7, 7), value), (500, 333)).unique().tolist() == [torch.tensor(value).item()]


def test_resize_refuses_an_empty_size():
    with pytest.raises(OptionError, match=r"\(0, 4\)"):
        heatmap.resize(torch.zeros(2, 2), (0, 4))


def test_otsu_cuts_the_middle_of_a_gap():
    # 0.2 lies in bin 51, 0.8 in bin 204: every edge from 52/256 to 204/256 parts them, the middle is 1/2
    assert heatmap.otsu(np.array([[0.2, 0.2, 0.8]], dtype=np.float32)) == 0.5


def test_otsu_maximizes_the_variance_between_classes():
    generator = np.random.default_rng(3)
    heat = np.concatenate([generator.normal(0.3, 0.08, 600), generator.normal(0.65, 0.1, 300)]).clip(0, 1)
    bins = np.floor(heat.clip(max=0.999) * 256) + 0.5

    def variance(edge):
        low, high = bins[heat < edge], bins[heat >= edge]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0

    threshold = heatmap.otsu(heat[None])
    best = max(variance(edge / 256) for edge in range(1, 256))
    assert variance(threshold) == pytest.approx(best, rel=1e-12)
    assert 0.4 < threshold < 0.55


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_otsu_of_a_flat_heat_map_leaves_the_mask_empty(value):
    heat = np.full((4, 5), value, dtype=np.float32)
    assert not (heat >= heatmap.otsu(heat)).any()


@pytest.mark.parametrize("bad", [-0.1, 1.5, np.nan])
def test_otsu_refuses_what_is_no_heat_map(bad):
    with pytest.raises(EclipError, match="normalize first"):
        heatmap.otsu(np.array([[0.5, bad]]))


def test_boxes_largest_first_corners_connect():
    mask = np.array(
        [
            [1, 0, 0, 0, 0],
            [0, 0, 0, 1, 0],
            [0, 0, 1, 0, 0],
            [0, 0, 1, 0, 0],
        ],
        dtype=bool,
    )
    assert heatmap.boxes(mask).tolist() == [[2, 1, 4, 4], [0, 0, 1, 1]]
    assert heatmap.boxes(mask, min_area=0.1).tolist() == [[2, 1, 4, 4]]  # 3 of 20 pixels stay, 1 of 20 does not
    assert heatmap.boxes(mask, min_area=0.05).tolist() == [[2, 1, 4, 4], [0, 0, 1, 1]]
    speckled = np.zeros((30, 30), dtype=bool)
    speckled[:10, :10] = speckled[20:25, 20:22] = speckled[15, :9] = True  # 100, 10 and 9 pixels
    assert heatmap.boxes(speckled, min_area=None).tolist() == [[0, 0, 10, 10], [20, 20, 22, 25]], "a tenth counts"
    assert heatmap.boxes(np.zeros((3, 3), dtype=bool), min_area=None).shape == (0, 4)
    for least in (-0.1, 1.5, float("nan")):
        with pytest.raises(OptionError, match=f"min_area must be None or a share of the image, 0 to 1, got {least}"):
            heatmap.boxes(mask, min_area=least)


def test_boxes_rank_by_pixels_not_by_box_and_ties_in_reading_order():
    ring_like = np.array([[1, 1, 1, 0, 1, 1], [0, 0, 1, 0, 1, 1], [0, 0, 1, 0, 1, 1]], dtype=bool)  # 5 and 6 pixels
    assert heatmap.boxes(ring_like).tolist() == [[4, 0, 6, 3], [0, 0, 3, 3]]
    assert heatmap.boxes(np.array([[1, 0, 1]], dtype=bool)).tolist() == [[0, 0, 1, 1], [2, 0, 3, 1]]


def test_boxes_of_an_empty_mask():
    assert heatmap.boxes(np.zeros((3, 3), dtype=bool)).shape == (0, 4)


def test_points_by_hand_on_a_non_square_grid():
    # 4x8 of 2x2 squares halves to 2x4: [[0, 10, 2, 9], [1, 5, 3, 4]]; at least 0.8 of the range: 10 and 9, so m = 2
    halved = torch.tensor([[0.0, 10.0, 2.0, 9.0], [1.0, 5.0, 3.0, 4.0]])
    scores = halved.repeat_interleave(2, 0).repeat_interleave(2, 1)
    coordinates, labels = heatmap.points(scores, (60, 100))
    # cells are 25 wide and 30 high; truncated centers; ascending by score: 9, 10, then 0, 1
    assert coordinates.tolist() == [[87, 15], [37, 15], [12, 15], [12, 45]]
    assert labels.tolist() == [1, 1, 0, 0]
    strongest, _ = heatmap.points(scores, (60, 100), k=1)
    assert strongest.tolist() == [[37, 15], [12, 15]]
    wider, _ = heatmap.points(scores, (60, 100), threshold=0.0)
    assert len(wider) == 8  # all eight cells pass, half of them at most are positives


@pytest.mark.parametrize("shape", [(1, 8), (8, 1)])
def test_points_of_a_single_row_or_column(shape):
    scores = torch.tensor([0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 8.0, 8.0]).reshape(shape)
    coordinates, labels = heatmap.points(scores, (80, 80))
    ends = [[70, 40], [10, 40]] if shape[0] == 1 else [[40, 70], [40, 10]]
    assert coordinates.tolist() == ends
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize("scores", [torch.full((6, 6), 0.3), torch.tensor([[5.0]]), torch.eye(2)])
def test_points_of_a_flat_map_or_a_single_halved_cell_are_none(scores):
    coordinates, labels = heatmap.points(scores, (10, 10), threshold=0.0)
    assert (coordinates.shape, labels.shape) == ((0, 2), (0,))


def test_no_pixel_of_a_small_image_is_on_and_off_the_object():
    scores = torch.arange(64.0).reshape(8, 8)
    assert len(heatmap.points(scores, (1, 1), threshold=0.0)[0]) == 0, "its one pixel would be both"
    coordinates, labels = heatmap.points(scores, (3, 1), threshold=0.0)
    assert {*map(tuple, coordinates[labels == 1].tolist())} == {(0, 2)}, "the middle row has cells of both"
    assert {*map(tuple, coordinates[labels == 0].tolist())} == {(0, 0)}


def test_points_refuse_a_k_that_is_no_count(shapes_unchecked):
    for k in (-1, 2.5, float("nan"), "5", []):
        with pytest.raises(OptionError, match=re.escape(f"whole number k >= 0 or None, got {k!r}")):
            heatmap.points(torch.eye(4), (8, 8), k=k)


def held(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name) as arrays:
        return dict(arrays)


@needs_golden
@pytest.mark.parametrize("name", POINT_SETS)
def test_points_equal_clip_surgery(name):
    arrays = held("clip_surgery.npz")
    model, rest = name.split("__")
    size, text = rest.rsplit("_class", 1)
    scores = torch.from_numpy(arrays[f"{model}__fsurgery_scores_{size}"][0, 1:, int(text)])
    side = int(len(scores) ** 0.5)
    pixels = side * (32 if model == "tiny_rn" else 8)
    coordinates, labels = heatmap.points(scores.reshape(side, side), (pixels, pixels))
    np.testing.assert_array_equal(coordinates, arrays[f"{model}__points_{rest}"])
    np.testing.assert_array_equal(labels, arrays[f"{model}__point_labels_{rest}"])


@needs_golden
@pytest.mark.parametrize("model", ["tiny_vit", "tiny_vit12", "tiny_rn"])
def test_normalize_then_resize_equals_clip_surgery(model):
    arrays = held("itsm.npz")
    similarity = torch.from_numpy(arrays[f"{model}__similarity_native"])[:, 1:].mT  # image text token
    side = int(similarity.shape[-1] ** 0.5)
    grid = heatmap.normalize(similarity.unflatten(2, (side, side)))
    tokens = grid.flatten(2).mT  # image token text
    np.testing.assert_allclose(tokens, arrays[f"{model}__map_native_grid"], rtol=1e-4, atol=1e-5)
    expected = arrays[f"{model}__map_native_class0and1"]
    resized = heatmap.resize(grid[:, :2], expected.shape[1:3]).permute(0, 2, 3, 1)  # image height width text
    np.testing.assert_allclose(resized, expected, rtol=1e-4, atol=1e-5)


def _antialiased(cells: int, wanted: int, kernel: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(wanted, cells) in float64: each row the kernel around its own center, as wide as a cell that gets coarser."""
    ratio = cells / wanted
    centers = (np.arange(wanted)[:, None] + 0.5) * ratio
    weights = kernel((np.arange(cells) + 0.5 - centers) / max(ratio, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


def _triangle(x: np.ndarray) -> np.ndarray:
    return (1 - np.abs(x)).clip(0)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((2.5 - 0.5 * x) * x - 4) * x + 2, 0))


THIN = [((7, 7), (14, 1)), ((7, 7), (1, 14)), ((5, 9), (3, 1)), ((7, 1), (4, 1)), ((9, 1), (1, 9)), ((1, 9), (9, 1))]
WIDE = [((7, 7), (1, 1)), ((7, 7), (14, 5)), ((12, 8), (30, 2))]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("cells", "size"), THIN + WIDE)
def test_antialiased_maps_equal_a_matrix_for_rows_and_one_for_columns(cells, size, mode):
    maps = torch.randn(2, 3, *cells, generator=torch.Generator().manual_seed(0))
    kernel = {"bilinear": _triangle, "bicubic": _cubic}[mode]
    down, across = (_antialiased(cells[axis], size[axis], kernel) for axis in (0, 1))
    expected = down @ maps.double().numpy() @ across.T
    for laid in (maps, maps.contiguous(memory_format=torch.channels_last), maps.mT.contiguous().mT):
        found = heatmap.interpolate(laid, size, mode=mode, antialias=True)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=3e-6)
    if size[1] > 1:
        plain = torch.nn.functional.interpolate(maps, size, mode=mode, antialias=True, align_corners=False)
        assert torch.equal(heatmap.interpolate(maps, size, mode=mode, antialias=True), plain), "the same bits elsewhere"
