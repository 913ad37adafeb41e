"""Refinements: equal to their authors' arrays and to brute force, and what must hold for any map, image and tower."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import eclip
import tiny
from eclip import heatmap
from eclip.backbones.backbone import Backbone, Grid
from eclip.backbones.encoding import Encoding
from eclip.cli import app
from eclip.errors import EclipError, KeepError, NotApplicableError, OptionError, ShapeError, UnknownNameError
from eclip.explanation.explanation import Explanation
from eclip.refinements import REFINEMENTS, check_refinement
from eclip.refinements.colors import to_lab, unnormalized
from eclip.refinements.lposs import patch_features
from eclip.refinements.pamr import affinities
from eclip.refinements.propagation import balance, patch_centers, patch_weights, pixel_graph, propagate

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "lposs.npz"
golden = pytest.mark.skipif(not GOLDEN.is_file(), reason="../shared/golden, the authors' arrays, is not here")
TYPES = [torch.float32, torch.float64]


@cache
def _arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def _golden(name: str, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(_arrays()[name]).to(dtype)


def _close(ours: torch.Tensor, name: str, atol: float) -> None:
    np.testing.assert_allclose(ours.numpy(), _arrays()[name], rtol=1e-4, atol=atol)


# --- the authors' arrays -----------------------------------------------------


@golden
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("case", "grids", "k"), [("onewindow", [Grid(6, 7)], 10), ("twowindows", [Grid(5, 5), Grid(5, 5)], 12)]
)
def test_lposs_equals_its_authors_code(case: str, grids: list[Grid], k: int, dtype: torch.dtype) -> None:
    features, values = _golden(f"{case}__features", dtype), _golden(f"{case}__Y", dtype)
    windows = zip(grids, _golden(f"{case}__locations", dtype).tolist(), strict=True)  # top, bottom, left, right
    centers = torch.cat([patch_centers(grid, 16) + torch.tensor([window[0], window[2]]) for grid, window in windows])
    weights = balance(patch_weights(features, centers, k=k, gamma=3.0, sigma=0.01))
    _close(torch.eye(len(weights)) - 0.95 * weights, f"{case}__laplacian", 1e-5)

    def solved(steps: int) -> torch.Tensor:
        return propagate(values.T, lambda z: z @ weights, alpha=0.95, steps=steps).T

    _close(solved(10), f"{case}__Z_cg10", 1e-4)
    _close(solved(1000), f"{case}__Z_exact", 1e-4)


@golden
@pytest.mark.parametrize("dtype", TYPES)
def test_lposs_plus_equals_its_authors_code(dtype: torch.dtype) -> None:
    lab = to_lab(_golden("plus__image", dtype))[0] / torch.tensor([100.0, 128.0, 128.0]).to(dtype)[:, None, None]
    graph = pixel_graph(lab, radius=6, tau=0.01)
    ones = torch.eye(120, dtype=dtype)
    _close(ones - 0.95 * graph.spread(ones), "plus__laplacian", 1e-4)
    ours = propagate(_golden("plus__Y", dtype).T, graph.spread, alpha=0.95, steps=10)
    _close(ours.T, "plus__Z_cg10", 1e-3)


# --- the formulas, the long way ----------------------------------------------


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_patch_weights_and_their_solution_the_long_way() -> None:
    grid, k, gamma, sigma, alpha = Grid(3, 4), 5, 2.0, 0.02, 0.9
    features = torch.nn.functional.normalize(_random(12, 6), dim=-1).double()
    spots = [(8 * row + 4, 8 * col + 4) for row, col in itertools.product(range(3), range(4))]
    directed = torch.zeros(12, 12, dtype=torch.float64)
    for i in range(12):
        alike = sorted(range(12), key=lambda j: -float(features[i] @ features[j]))[:k]
        for j in alike:
            likeness = max(float(features[i] @ features[j]), 0) ** gamma
            directed[i, j] = likeness * math.exp(-sigma * math.dist(spots[i], spots[j]))
    weights = directed + directed.T
    weights.fill_diagonal_(0)
    ours = patch_weights(features, patch_centers(grid, 8), k=k, gamma=gamma, sigma=sigma)
    torch.testing.assert_close(ours, weights)
    degree = weights.sum(0)
    balanced = weights / (degree[:, None] * degree).sqrt()
    torch.testing.assert_close(balance(ours), balanced)
    values = _random(3, 12).double()
    solved = torch.linalg.solve(torch.eye(12).double() - alpha * balanced, values.T).T
    found = propagate(values, lambda z: z @ balanced, alpha=alpha, steps=100, tolerance=1e-12)
    torch.testing.assert_close(found, solved)
    once = propagate(values, lambda z: z @ balanced, alpha=alpha, steps=1)
    assert not torch.allclose(once, solved, rtol=0.01), "else the number of steps would have no effect"


def test_balanced_weights_have_a_known_eigenvector() -> None:
    features = torch.nn.functional.normalize(_random(2, 12, 6).abs(), dim=-1).double()
    weights = patch_weights(features, patch_centers(Grid(3, 4), 8), k=4, gamma=3.0, sigma=0.01)
    root = weights.sum(-1).sqrt()
    torch.testing.assert_close((balance(weights) @ root[..., None])[..., 0], root)
    alone = weights.clone()
    alone[:, 3], alone[:, :, 3] = 0, 0
    assert balance(alone).isfinite().all() and not balance(alone)[:, 3].any()


def test_rows_end_on_their_own_and_zeros_stay() -> None:
    weights = balance(_random(9, 9).abs() + _random(9, 9).abs().T)
    values = torch.stack([_random(9), torch.zeros(9), 1000 * _random(9, seed=1)])

    def solved(rows: torch.Tensor) -> torch.Tensor:
        return propagate(rows, lambda z: z @ weights, alpha=0.5, steps=50, tolerance=1e-3)

    together = solved(values)
    torch.testing.assert_close(together, torch.stack([solved(row[None])[0] for row in values]))
    assert not together[1].any()


@pytest.mark.parametrize(("height", "width", "radius"), [(4, 5, 2), (3, 2, 6), (1, 6, 1)])
def test_pixel_graph_the_long_way(height: int, width: int, radius: int) -> None:
    colors, tau = _random(3, height, width).double().abs(), 0.7
    pixels = list(itertools.product(range(height), range(width)))
    weights = torch.zeros(len(pixels), len(pixels), dtype=torch.float64)
    for (i, one), (j, other) in itertools.permutations(enumerate(pixels), 2):
        if max(abs(one[0] - other[0]), abs(one[1] - other[1])) <= radius:
            weights[i, j] = math.exp(-float((colors[:, *one] - colors[:, *other]).norm()) / tau)
    graph = pixel_graph(colors, radius=radius, tau=tau)
    torch.testing.assert_close(graph.spread(torch.eye(len(pixels)).double()), balance(weights))


@pytest.mark.parametrize("steps", [1, 3])
def test_pamr_the_long_way(steps: int) -> None:
    pixels, dilations = _random(3, 5, 6), (1, 3)
    values = _random(2, 5, 6, seed=1)
    around = [(d * i, d * j) for d in dilations for i in (-1, 0, 1) for j in (-1, 0, 1)]

    def at(of: torch.Tensor, row: int, col: int) -> torch.Tensor:
        return of[:, min(max(row, 0), 4), min(max(col, 0), 5)]

    expected = values
    for _ in range(steps):
        mean = torch.zeros_like(expected)
        for row, col in itertools.product(range(5), range(6)):
            std = torch.stack([at(pixels, row + i, col + j) for i, j in around]).std(dim=0)
            shifts = [shift for shift in around if shift != (0, 0)]
            apart = [
                (at(pixels, row, col) - at(pixels, row + i, col + j)).abs() / (0.1 * std + 1e-8) for i, j in shifts
            ]
            weights = (-torch.stack(apart).mean(dim=1)).softmax(dim=0)
            for weight, (i, j) in zip(weights, shifts, strict=True):
                mean[:, row, col] += weight * at(expected, row + i, col + j)
        expected = mean
    encoding = replace(_encode("vit", images=1), pixels=pixels[None])
    found = REFINEMENTS["pamr"](values[None], encoding, dilations=list(dilations), steps=steps)
    torch.testing.assert_close(found[0], expected)


def test_affinities_sum_to_one_and_do_not_see_an_affine_change_of_color() -> None:
    pixels = _random(3, 9, 7).double()
    weights = affinities(pixels, (1, 2))
    assert weights.shape == (16, 9, 7)
    torch.testing.assert_close(weights.sum(0), torch.ones(9, 7).double())
    torch.testing.assert_close(affinities(3 * pixels - 5, (1, 2)), weights, rtol=1e-5, atol=1e-8)


def test_lab_of_colors_whose_lab_is_known() -> None:
    known = {
        (1, 1, 1): (100, 0, 0),
        (0, 0, 0): (0, 0, 0),
        (1, 0, 0): (53.24, 80.09, 67.20),
        (0, 0, 1): (32.30, 79.19, -107.86),
    }
    colors = torch.tensor(list(known), dtype=torch.float64).T[None, :, None]
    expected = torch.tensor(list(known.values()), dtype=torch.float64).T[None, :, None]
    torch.testing.assert_close(to_lab(colors), expected, rtol=0, atol=0.03)


def test_colors_are_those_of_the_image() -> None:
    backbone = tiny.backbone("vit")
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    encoding = eclip.encode(backbone, backbone.preprocess(Image.fromarray(values))[None])
    expected = torch.from_numpy(values / 255).permute(2, 0, 1)[None].float()
    torch.testing.assert_close(unnormalized(encoding.pixels, backbone).clamp(0, 1), expected, rtol=0, atol=1e-5)


# --- what must hold for any map ----------------------------------------------


def _encode(family: str, images: int = 2, rows: int = 3, cols: int = 4) -> Encoding:
    backbone = _backbone(family)
    return eclip.encode(backbone, tiny.pixels(backbone, images, rows, cols), keep=1)


@cache
def _backbone(family: str) -> Backbone:
    return tiny.backbone(family)


def _maps(encoding: Encoding, texts: int = 3) -> torch.Tensor:
    return _random(len(encoding.pixels), texts, *encoding.grid, seed=3)


FEW: dict[str, dict[str, Any]] = {"lposs": {}, "lposs+": {"window": 5}, "pamr": {"dilations": [1, 2]}}
BOTH = [("lposs", {"means": False}), ("lposs+", {"window": 5, "means": False})]
every = pytest.mark.parametrize(("name", "options"), [*FEW.items(), *BOTH])


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *((family, "lposs") for family in tiny.FAMILIES),
        *itertools.product(["vit", "resnet", "siglip"], ["lposs+", "pamr"]),
    ],
)
@pytest.mark.long(every=5)
def test_every_family_on_a_grid_that_is_not_square(family: str, name: str) -> None:
    encoding = _encode(family, rows=2, cols=3)
    state = {key: value.clone() for key, value in encoding.backbone.model.state_dict().items()}
    refined = REFINEMENTS[name](_maps(encoding), encoding, **FEW[name])
    on = encoding.pixels.shape[2:] if REFINEMENTS[name].finer else encoding.grid
    assert refined.shape == (2, 3, *on)
    assert refined.dtype == torch.float32 and refined.isfinite().all() and not refined.requires_grad
    assert refined.std() > 0
    after = encoding.backbone.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in state.items())


@every
def test_scale_and_sign_carry_over(name: str, options: dict[str, Any]) -> None:
    encoding = _encode("vit")
    maps = _maps(encoding)
    refined = REFINEMENTS[name](maps, encoding, **options)
    for factor in (-1, 4096, -1 / 4096):
        torch.testing.assert_close(REFINEMENTS[name](factor * maps, encoding, **options), factor * refined)
    assert not REFINEMENTS[name](0 * maps, encoding, **options).any()


@every
def test_texts_and_images_do_not_see_each_other(name: str, options: dict[str, Any]) -> None:
    encoding = _encode("resnet")
    maps = _maps(encoding)
    refined = REFINEMENTS[name](maps, encoding, **options)
    turned = REFINEMENTS[name](maps[:, [2, 0, 1]], encoding, **options)
    torch.testing.assert_close(turned, refined[:, [2, 0, 1]])
    for image in range(2):
        alone = eclip.encode(encoding.backbone, encoding.pixels[[image]], keep=1)
        torch.testing.assert_close(
            REFINEMENTS[name](maps[[image]], alone, **options), refined[[image]], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", REFINEMENTS)
def test_a_constant_map_stays_constant(name: str) -> None:
    encoding = _encode("vit")
    refined = REFINEMENTS[name](torch.full((2, 1, *encoding.grid), -0.3), encoding, **FEW[name])
    torch.testing.assert_close(refined, torch.full_like(refined, -0.3))


@pytest.mark.parametrize("name", ["lposs", "lposs+"])
def test_means_do_not_change_which_text_is_largest(name: str) -> None:
    encoding = _encode("vit")
    means, raw = (REFINEMENTS[name](_maps(encoding), encoding, means=means) for means in (True, False))
    assert torch.equal(means.argmax(1), raw.argmax(1))
    assert not torch.allclose(means, raw)


def test_pamr_is_linear_and_stays_in_the_range() -> None:
    encoding = _encode("vit")
    one, other = _maps(encoding, 2).split(1, dim=1)
    pamr = REFINEMENTS["pamr"]
    both = pamr(one + 2 * other, encoding)
    torch.testing.assert_close(both, pamr(one, encoding) + 2 * pamr(other, encoding))
    assert both.min() >= (one + 2 * other).min() and both.max() <= (one + 2 * other).max()


def _two_halves() -> Encoding:
    """An image that is dark left of column 20 and light right of it, with some noise."""
    backbone = _backbone("vit")
    values = torch.full((1, 3, 32, 32), -1.0) + 0.05 * _random(1, 3, 32, 32)
    values[..., 20:] += 2
    return eclip.encode(backbone, values, keep=1)


@pytest.mark.parametrize("name", ["lposs+", "pamr"])
def test_an_edge_in_the_image_holds_a_map_back(name: str) -> None:
    encoding = _two_halves()
    maps = torch.tensor([1.0, 1.0, 0.5, 0.0]).expand(1, 1, 4, 4).contiguous()
    options = {"features": torch.eye(16)[None]} if name == "lposs+" else {}  # patches that are like no other
    row = REFINEMENTS[name](maps, encoding, **options)[0, 0].mean(0)
    plain = heatmap.resize(maps, (32, 32))[0, 0].mean(0)
    at_edge = float(row[19] - row[20])
    assert at_edge > 3 * float(plain[19] - plain[20]), "the step of the map has moved to that of the image"
    assert at_edge > 0.3 * float(row.max() - row.min())
    assert max(float((row[:-1] - row[1:])[column]) for column in range(31) if column != 19) < at_edge


def test_lposs_stays_within_patches_that_are_alike() -> None:
    encoding = _encode("vit", images=1)
    groups = torch.tensor([0, 0, 1, 1] * 3)
    guide = torch.eye(2)[groups][None]
    maps = torch.zeros(1, 1, 3, 4)
    maps[..., 0, 0] = 1.0
    refined = REFINEMENTS["lposs"](maps, encoding, features=guide).flatten()
    assert refined[groups == 0].min() > 0.05
    assert not refined[groups == 1].any()
    near, far = refined[1], refined[9]
    assert near > far, "distance counts"
    alone = REFINEMENTS["lposs"](maps, encoding, features=guide, alpha=0.0)
    torch.testing.assert_close(alone, maps)


def _weights_the_long_way(encoding: Encoding, image: int, k: int, gamma: float, sigma: float) -> torch.Tensor:
    """Of patches by the keys of the backbone, balanced."""
    [block], [x] = encoding.blocks[-1:], encoding.inputs
    keys = block.qkv(block.norm1(x))[1][image].transpose(0, 1).flatten(1)[encoding.prefix :].detach()
    patch = encoding.backbone.patch_size
    spots = list(itertools.product(*((side * patch for side in range(count)) for count in encoding.grid)))
    weights = torch.zeros(len(spots), len(spots))
    for i, one in enumerate(spots):
        cosines = torch.nn.functional.cosine_similarity(keys[i][None], keys)
        for j in cosines.topk(min(k, len(spots))).indices.tolist():
            weight = max(float(cosines[j]), 0) ** gamma * math.exp(-sigma * math.dist(one, spots[j]))
            weights[i, j] += weight
            weights[j, i] += weight
    weights.fill_diagonal_(0)
    degree = weights.sum(0)
    return weights / (degree[:, None] * degree).sqrt()


@pytest.mark.parametrize("options", [{}, {"k": 5, "gamma": 2.0, "sigma": 0.05, "alpha": 0.9}])
def test_lposs_the_long_way(options: dict[str, Any]) -> None:
    """The pieces together, and what they are by default: the papers' settings."""
    encoding = _encode("vit")
    maps, used = _maps(encoding), {"k": 400, "gamma": 3.0, "sigma": 0.01, "alpha": 0.95, **options}
    alpha = used.pop("alpha")
    refined = REFINEMENTS["lposs"](maps, encoding, steps=200, means=False, **options)
    for image in range(2):
        weights = _weights_the_long_way(encoding, image, **used)
        solved = torch.linalg.solve(torch.eye(12) - alpha * weights, maps[image].flatten(1).T).T
        torch.testing.assert_close(refined[image].flatten(1), solved, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"window": 5, "tau": 0.3}])
def test_lposs_plus_the_long_way(options: dict[str, Any]) -> None:
    encoding = replace(_encode("vit", images=1, rows=2, cols=2), pixels=0.3 * _random(1, 3, 16, 16, seed=5))
    maps, used = _maps(encoding), {"window": 13, "tau": 0.01, **options}
    refined = REFINEMENTS["lposs+"](maps, encoding, steps=300, means=False, **options)[0]
    coarse = REFINEMENTS["lposs"](maps, encoding, steps=300, means=False)
    seen = unnormalized(encoding.pixels, encoding.backbone).clamp(0, 1)
    colors = (to_lab(seen)[0] / torch.tensor([100.0, 128.0, 128.0])[:, None, None]).flatten(1).T
    spots = torch.tensor(list(itertools.product(range(16), range(16))))
    near = (spots[:, None] - spots).abs().amax(-1) <= used["window"] // 2
    weights = torch.exp(-(colors[:, None] - colors).norm(dim=-1) / used["tau"]) * near
    weights = balance(weights.fill_diagonal_(0))
    fine = heatmap.resize(coarse, (16, 16))[0].flatten(1)
    solved = torch.linalg.solve(torch.eye(256) - 0.95 * weights, fine.T).T
    torch.testing.assert_close(refined.flatten(1), solved, rtol=1e-3, atol=1e-4)


def test_weights_between_patches_are_held_for_one_image_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(features: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        seen.append(tuple(features.shape))
        return patch_weights(features, *rest, **options)

    monkeypatch.setattr("eclip.refinements.lposs.patch_weights", watched)
    encoding = _encode("vit", images=3)
    REFINEMENTS["lposs"](_maps(encoding), encoding)
    assert seen == [(12, 32)] * 3


# --- features and errors -----------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "resnet", "siglip"])
def test_features_are_those_of_the_backbone(family: str) -> None:
    encoding = _encode(family)
    prefix, patches = encoding.prefix, encoding.grid.row * encoding.grid.col
    [block], [x] = encoding.blocks[-1:], encoding.inputs
    keys = block.qkv(block.norm1(x))[1].transpose(1, 2).flatten(2)[:, prefix:]
    values = block.value(block.norm1(x)).transpose(1, 2).flatten(2)[:, prefix:]
    torch.testing.assert_close(patch_features(encoding, "keys"), keys)
    torch.testing.assert_close(patch_features(encoding, "values"), values)
    assert patch_features(encoding, "tokens").shape[:2] == (2, patches)
    maps = _maps(encoding)
    lposs = REFINEMENTS["lposs"]
    assert torch.equal(lposs(maps, encoding), lposs(maps, encoding, features=keys.detach()))
    assert not torch.allclose(lposs(maps, encoding), lposs(maps, encoding, features="tokens"))


def test_the_trunk_where_there_is_one() -> None:
    encoding = _encode("resnet")
    assert encoding.trunk is not None
    trunk = patch_features(encoding, "trunk")
    torch.testing.assert_close(trunk[1, 5], encoding.trunk[1, :, 1, 1])
    vit = _encode("vit")
    with pytest.raises(NotApplicableError, match=r"'lposs' is not applicable to vit, a native ViT: .* no CNN trunk"):
        REFINEMENTS["lposs"](_maps(vit), vit, features="trunk")


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("lposs", {"k": 0}, OptionError, "'lposs' needs k to be at least 1, got 0"),
        ("lposs", {"gamma": 0.0}, OptionError, "gamma to be above 0"),
        ("lposs", {"sigma": -1.0}, OptionError, "sigma to be at least 0"),
        ("lposs", {"alpha": 1.0}, OptionError, "alpha to be at least 0 and below 1, got 1.0"),
        ("lposs", {"alpha": math.nan}, OptionError, "alpha to be at least 0"),
        ("lposs+", {"steps": 0}, OptionError, r"'lposs\+' needs steps to be at least 1"),
        (
            "lposs",
            {"features": "queries"},
            OptionError,
            "'lposs' needs features to be a tensor or one of keys, values, tokens, trunk, got 'queries'",
        ),
        (
            "lposs+",
            {"features": torch.full((2, 12, 5), math.nan)},
            OptionError,
            "features to be finite, got NaN",
        ),
        ("lposs", {"features": torch.ones(2, 16, 5)}, ShapeError, r"= \(2, 12, any\), got \(2, 16, 5\): .* 3 x 4"),
        (
            "lposs",
            {"features": 3},
            OptionError,
            "'features' of 'lposs' must be a string or a floating-point tensor .*, got 3",
        ),
        (
            "lposs",
            {"features": torch.ones(2, 12)},
            OptionError,
            r"a floating-point tensor \(image, patch, channel\), got a Tensor \(2, 12\) of torch.float32\.$",
        ),
        (
            "lposs",
            {"features": torch.ones(2, 12, 5).int()},
            OptionError,
            r"got a Tensor \(2, 12, 5\) of torch.int32\.$",
        ),
        ("lposs+", {"features": np.ones((2, 12, 5))}, OptionError, r"got a ndarray \(2, 12, 5\) of float64\.$"),
        ("lposs", {"features": [[0.5] * 99]}, OptionError, r"got \[\[0.5, .* \.\.\.\.$"),
        ("lposs", {"gamma": math.inf}, OptionError, r"gamma to be above 0 \(1e-30 to 1e\+30\), got inf"),
        ("lposs", {"sigma": 1e31}, OptionError, r"sigma to be at least 0 \(to 1e\+30\), got 1e\+31"),
        ("lposs", {"tau": 1.0}, OptionError, "'lposs' has no option 'tau'; it has features, k,"),
        ("lposs+", {"tau": 0.0}, OptionError, "tau to be above 0"),
        ("lposs+", {"window": 4}, OptionError, "window to be odd and at least 3 pixels, got 4"),
        ("pamr", {"dilations": []}, OptionError, r"each at least 1, got \[\]"),
        ("pamr", {"dilations": [2, 0]}, OptionError, r"each at least 1, got \[2, 0\]"),
        ("pamr", {"dilations": [1.5]}, OptionError, "must be a list of whole numbers"),
        ("pamr", {"dilations": 8}, OptionError, "must be a list of whole numbers, got 8"),
        ("pamr", {"steps": 0}, OptionError, "steps to be at least 1"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], error: type[EclipError], message: str) -> None:
    encoding = _encode("vit")
    with pytest.raises(error, match=message):
        REFINEMENTS[name](_maps(encoding), encoding, **options)


def test_options_at_the_ends_of_their_ranges_give_numbers() -> None:
    encoding = _encode("vit")
    maps = _maps(encoding)
    for options in ({"gamma": 1e30}, {"gamma": 1e-30}, {"sigma": 1e30}, {"alpha": 0.0}, {"k": 10**30}):
        assert REFINEMENTS["lposs"](maps, encoding, **options).isfinite().all(), options
    for tau in (1e-30, 1e30):
        assert REFINEMENTS["lposs+"](maps, encoding, tau=tau, window=3).isfinite().all(), tau


def test_maps_that_do_not_fit() -> None:
    encoding = _encode("vit")
    with pytest.raises(ShapeError, match=r"of the 2 encoded images, got \(1, 3, 3, 4\)"):
        REFINEMENTS["pamr"](_maps(encoding)[:1], encoding)
    with pytest.raises(ShapeError, match=r"patch grid \(3, 4\), got \(4, 3\)"):
        REFINEMENTS["lposs"](_maps(encoding).transpose(2, 3), encoding)
    bare = eclip.encode(encoding.backbone, encoding.pixels, keep=0)
    with pytest.raises(KeepError, match="'lposs' reruns the last 1 of 7 blocks"):
        REFINEMENTS["lposs"](_maps(bare), bare)
    assert REFINEMENTS["lposs"](_maps(bare), bare, features="tokens").isfinite().all(), "tokens need no block"


# --- explain, compare and the command line -----------------------------------

TEXTS = ["a dog", "grass"]


@pytest.fixture(scope="module")
def backbone(tiny_name: str) -> Backbone:
    return eclip.load(tiny_name)


@pytest.mark.parametrize("name", REFINEMENTS)
def test_explain_refines_what_the_method_gives(name: str, backbone: Backbone, images: Path, tmp_path: Path) -> None:
    answer = eclip.explain(images / "a.png", TEXTS, model=backbone, method="itsm", refine=name)  # itsm keeps no block
    plain = eclip.explain(images / "a.png", TEXTS, model=backbone, method="itsm")
    encoding = eclip.encode(backbone, backbone.preprocess(answer.image())[None], keep=1)
    maps = REFINEMENTS[name](torch.from_numpy(plain.maps), encoding)
    np.testing.assert_allclose(answer.maps, maps.numpy(), rtol=1e-5, atol=1e-7)
    assert np.array_equal(answer.scores, plain.scores)
    assert (answer.provenance["refine"], answer.provenance["refine_options"]) == (name, {})
    assert (plain.provenance["refine"], plain.provenance["grid"]) == (None, [4, 4])
    assert set(answer.seconds) == {"forward", "method", "refine", "health"}
    assert answer.heatmap(0, 1).shape == (30, 40)
    assert sorted(set(answer.points(k=2)[1])) == [0, 1]
    assert repr(answer).endswith(
        f" {answer.maps.shape[2]} x {answer.maps.shape[3]} maps, itsm on {backbone.name}, refined by {name})"
    )
    answer.save(tmp_path)
    [entry] = json.loads((tmp_path / "manifest.json").read_text())["images"]
    assert (entry["grid"], entry["map"]) == (answer.provenance["grid"], list(answer.maps.shape[2:]))
    again = Explanation.load(tmp_path)
    assert np.array_equal(again.maps, answer.maps)
    assert again.provenance == json.loads(json.dumps(answer.provenance))


def test_mean_over_cells_is_the_mean() -> None:
    maps = _random(2, 3, 6, 8)
    found = heatmap.mean_over_cells(maps, (3, 2))
    torch.testing.assert_close(found, maps.reshape(2, 3, 3, 2, 2, 4).mean((3, 5)))
    torch.testing.assert_close(heatmap.mean_over_cells(maps[0, 0], (3, 2)), found[0, 0])
    assert torch.equal(heatmap.mean_over_cells(maps, (6, 8)), maps)


def test_points_of_a_map_on_pixels_lie_in_patches_of_their_own() -> None:
    maps = np.zeros((1, 1, 64, 64), np.float32)
    maps[..., :32, :32] = 1 + 0.1 * np.random.default_rng(0).random((32, 32))
    provenance = {"method": "itsm", "model": "none", "refine": "pamr", "grid": [8, 8]}
    image = Image.new("RGB", (64, 64))
    answer = Explanation(
        maps, np.zeros((1, 1), np.float32), ("a",), ("image 0",), ((64, 64),), False, provenance, (image,)
    )
    points, labels = answer.points(k=4)
    inside = points[labels == 1]
    assert len({(x // 16, y // 16) for x, y in inside.tolist()}) == 4, "not four neighbors in one spot"
    assert inside.max() < 32


@pytest.mark.parametrize(
    ("name", "options"), [("lposs", {"k": 5, "features": "values"}), ("pamr", {"dilations": (1, 2), "steps": 3})]
)
def test_the_command_repeats_refined_maps(
    name: str, options: dict[str, Any], backbone: Backbone, images: Path, tmp_path: Path
) -> None:
    answer = eclip.explain(images / "b.jpg", TEXTS, model=backbone, refine=name, refine_options=options)
    done = CliRunner().invoke(app, [*shlex.split(answer.provenance["command"])[1:], "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    again = Explanation.load(tmp_path)
    assert np.array_equal(again.maps, answer.maps)
    assert again.provenance == json.loads(json.dumps(answer.provenance))
    plain = eclip.explain(images / "b.jpg", TEXTS, model=backbone, refine=name)
    assert not np.array_equal(plain.maps, answer.maps), "the options matter"


def test_explain_each_refines_alike(backbone: Backbone, images: Path) -> None:
    files = sorted(images.iterdir())
    settings: dict[str, Any] = {"model": backbone, "method": "gradcam", "refine": "lposs", "refine_options": {"k": 6}}
    together = eclip.explain(files, TEXTS, **settings)
    for index, one in enumerate(eclip.explain_each(files, TEXTS, **settings)):
        np.testing.assert_allclose(one.maps[0], together.maps[index], rtol=1e-4, atol=1e-6)
        assert one.provenance["refine"] == "lposs"


def test_a_guide_is_no_part_of_a_command(backbone: Backbone, images: Path, tmp_path: Path) -> None:
    guide = {"features": _random(1, 16, 8)}
    answer = eclip.explain(images / "a.png", TEXTS, model=backbone, refine="lposs", refine_options=guide)
    assert answer.provenance["command"] is None
    assert answer.provenance["refine_options"] == {"features": "a tensor of (1, 16, 8)"}
    answer.save(tmp_path)


def test_difference_of_two_texts_is_refined_as_one_map(backbone: Backbone, images: Path) -> None:
    settings: dict[str, Any] = {"model": backbone, "method": "maskclip", "refine": "pamr"}
    apart = eclip.explain(images / "a.png", "a dog", versus="grass", **settings).maps[:, 0]
    dog, grass = eclip.explain(images / "a.png", TEXTS, **settings).maps[0]
    np.testing.assert_allclose(apart[0], dog - grass, atol=1e-6)


def test_compare_refines_every_map(backbone: Backbone, images: Path, tmp_path: Path) -> None:
    found = eclip.compare(
        images / "a.png", TEXTS, methods=["itsm", "gem"], models=backbone, refine="pamr", refine_options={"steps": 2}
    )
    alone = eclip.explain(
        images / "a.png", TEXTS, model=backbone, method="gem", refine="pamr", refine_options={"steps": 2}
    )
    np.testing.assert_allclose(found.explanations[backbone.name, "gem"].maps, alone.maps, rtol=1e-4, atol=1e-6)
    seconds = found.explanations[backbone.name, "gem"].seconds
    spent = sum(seconds[part] for part in ("forward", "method", "refine"))  # without the presence
    assert found.costs[backbone.name, "gem"] == pytest.approx(spent / seconds["forward"])
    assert "--refine pamr --refine-set steps=2" in found.provenance["command"]
    done = CliRunner().invoke(app, [*shlex.split(found.provenance["command"])[1:], "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    [entry] = json.loads((tmp_path / "manifest.json").read_text())["images"]
    assert [(one["grid"], one["map"]) for one in entry["maps"]] == [([4, 4], [32, 32])] * 2
    assert all("refine" in one["seconds"] for one in entry["maps"])


def test_the_command_line_lists_and_refuses(tiny_name: str, images: Path, tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, list(words))
        return done.exit_code, done.output

    rows = json.loads(run("refinements", "ls", "--json")[1])
    assert [row["refinement"] for row in rows] == list(REFINEMENTS)
    assert [row["maps"] for row in rows] == ["patches", "pixels", "pixels"]
    question = ("explain", str(images / "a.png"), "-t", "a dog", "--model", tiny_name, "-o", str(tmp_path / "out"))
    for words, said in [
        (("--refine", "lpos"), "unknown refinement 'lpos'. Did you mean 'lposs'? `eclip refinements ls`"),
        (("--refine", "lposs", "--refine-set", "k"), "--refine-set needs KEY=VALUE, got 'k'"),
        (("--refine", "lposs", "--refine-set", "tau=1"), "'lposs' has no option 'tau'"),
        (("--refine", "lposs", "--refine-set", "k=0"), "'lposs' needs k to be at least 1, got 0"),
        (("--refine-set", "k=3"), "refine_options k require refine"),
    ]:
        code, output = run(*question, *words)
        assert code == 2, output
        assert said in " ".join(output.split())
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnknownNameError, match="unknown refinement 'crf'"):
        eclip.explain(images / "a.png", "a dog", model=tiny_name, refine="crf")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (["lposs"], None, r"refine must be the name of one refinement, such as 'lposs', got \['lposs'\]"),
        (5, None, "the name of one refinement, such as 'lposs', got 5"),
        ("lposs", [1], r"refine_options must be a dict such as {'k': 50}, got \[1\]"),
        (None, [1], "refine_options must be a dict"),
    ],
)
def test_a_refinement_of_another_type_is_refused(name: Any, options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_refinement(name, options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lposs", {"k": 0}, "'lposs' needs k to be at least 1, got 0"),
        ("lposs+", {"window": 4}, "window to be odd"),
        ("pamr", {"dilations": []}, "at least one dilation"),
    ],
)
def test_ranges_are_checked_before_anything_runs(
    name: str, options: dict[str, Any], message: str, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eclip.explanation.query.encode", lambda *_: pytest.fail("an image was encoded"))
    image, settings = Image.new("RGB", (32, 32)), {"refine": name, "refine_options": options}
    with pytest.raises(OptionError, match=message):
        eclip.explain(image, "a dog", model=backbone, **settings)
    with pytest.raises(OptionError, match=message):
        eclip.compare(image, "a dog", models=backbone, **settings)


def test_a_refinement_that_is_not_applicable_is_an_error_and_not_that_of_a_method(images: Path) -> None:
    settings: dict[str, Any] = {"refine": "lposs", "refine_options": {"features": "trunk"}}
    vit, not_applicable = _backbone("vit"), dict[str, str]()
    with pytest.raises(NotApplicableError, match=r"'lposs' is not applicable to vit, .*: it has no CNN trunk"):
        eclip.compare(images / "a.png", TEXTS, methods=["itsm", "maskclip"], models=vit, **settings)
    with pytest.raises(NotApplicableError, match="'lposs' is not applicable"):
        eclip.explain(images / "a.png", TEXTS, method=["itsm"], model=vit, not_applicable=not_applicable, **settings)
    assert not not_applicable
