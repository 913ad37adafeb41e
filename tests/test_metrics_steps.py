"""Insertion and deletion: curves known in closed form, a model that looks at one patch, fills, order, batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import eclip
import eclip.errors
import tiny
from eclip.backbones.blocks import cosine
from eclip.metrics.fills import FILLS, fill
from eclip.metrics.steps import Curve, area, pixel_order, random_order

INSERTION, DELETION = eclip.METRICS["insertion"], eclip.METRICS["deletion"]
BLACK, WHITE = torch.tensor([-2.0, -1.0, 0.0]), torch.tensor([2.0, 1.0, 0.5])


def mean_of_patch(pixels: torch.Tensor) -> torch.Tensor:
    """A model that looks only at the upper left 2 x 2 pixels of the image."""
    return pixels[:, :, :2, :2].mean((1, 2, 3))


def test_a_model_that_looks_at_one_patch() -> None:
    """On 4 x 4 pixels, 16 steps: the score rises in 4 steps of 1/4 and stays, or stays 0 and rises in the last 4."""
    image, nothing = torch.ones(3, 4, 4), torch.zeros(3, 4, 4)
    right = np.zeros((4, 4))
    right[:2, :2] = 1
    climb, high = [0, 0.25, 0.5, 0.75, 1], [1.0] * 12
    found = INSERTION(mean_of_patch, image, right, nothing, steps=16)
    assert found.shares == pytest.approx(np.arange(17) / 16)
    assert found.scores == pytest.approx(climb + high)
    assert area(found) == pytest.approx(1 - 4 / 16 / 2)
    lost = DELETION(mean_of_patch, image, right, nothing, steps=16)
    assert lost.scores == pytest.approx([1 - one for one in climb + high])
    assert area(lost) == pytest.approx(4 / 16 / 2)
    assert area(INSERTION(mean_of_patch, image, 1 - right, nothing, steps=16)) == pytest.approx(4 / 16 / 2)
    assert area(DELETION(mean_of_patch, image, 1 - right, nothing, steps=16)) == pytest.approx(1 - 4 / 16 / 2)


def test_a_linear_model_has_the_curve_of_its_sorted_products() -> None:
    """Score = sum of w x: heat = w x is the best order, its running sum the curve; insertion and deletion add up."""
    generator = torch.Generator().manual_seed(1)
    image, weight = torch.rand(2, 3, 6, 5, generator=generator).double()
    products = (image * weight).sum(0).numpy()
    black = torch.zeros_like(image)

    def score(pixels: torch.Tensor) -> torch.Tensor:
        return (pixels * weight).sum((1, 2, 3))

    best = INSERTION(score, image, products, black, steps=30)
    running = np.concatenate([[0], np.sort(products.ravel())[::-1].cumsum()])
    assert best.scores == pytest.approx(running)
    for seed in range(5):
        other = np.random.default_rng(seed).random((6, 5))
        inserted, deleted = (one(score, image, other, black, steps=30) for one in (INSERTION, DELETION))
        assert inserted.scores + deleted.scores == pytest.approx(np.full(31, running[-1]))
        assert area(inserted) < area(best)
    flat = [area(INSERTION(score, image, np.ones((6, 5)), black, steps=30, seed=seed)) for seed in range(200)]
    # a random order has the straight line in the mean
    assert np.mean(flat) == pytest.approx(running[-1] / 2, rel=0.01)


def test_part_of_the_pixels_and_uneven_steps() -> None:
    image, nothing = torch.ones(3, 2, 3), torch.zeros(3, 2, 3)
    heat = np.arange(6.0).reshape(2, 3)

    def score(pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, 0].mean((1, 2))

    half = INSERTION(score, image, heat, nothing, steps=3, up_to=0.5)
    assert half.shares == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6]) and half.scores == pytest.approx(half.shares)
    assert area(half) == pytest.approx(0.25), "the mean height from 0 to 0.5, not half of it"
    # 6 pixels in 4 steps are 0, 1.5, 3, 4.5 and 6, whole pixels: shares are those of the pixels that did change
    uneven = INSERTION(score, image, heat, nothing, steps=4)
    assert uneven.shares == pytest.approx([0, 2 / 6, 3 / 6, 4 / 6, 1]) and area(uneven) == pytest.approx(0.5)
    assert area(INSERTION(score, image, heat, nothing, steps=20)) == pytest.approx(0.5), "more steps than pixels"


def test_the_area_is_that_of_trapezoids_over_the_shares() -> None:
    # (0.25 * (0 + 1) / 2 + 0.75 * (1 + 3) / 2) = 0.125 + 1.5; of the second score a constant
    curve = Curve(np.array([0, 0.25, 1]), np.array([[0.0, 2], [1, 2], [3, 2]]))
    assert area(curve) == pytest.approx([1.625, 2])


def test_one_forward_serves_many_scores_and_batches_change_nothing() -> None:
    backbone = tiny.backbone("vit")
    pixels, text = tiny.pixels(backbone)[0], tiny.texts(backbone)
    heat = np.random.default_rng(0).random(pixels.shape[1:])
    seen = []

    def score(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        scores = cosine(eclip.encode(backbone, batch).feature, text)
        return torch.cat([scores, (scores.argmax(1) == 0).float()[:, None]], dim=1)

    black = fill("zero", pixels, black=BLACK, white=WHITE)
    whole = DELETION(score, pixels, heat, black, steps=6, batch_size=7)
    parts = DELETION(score, pixels, heat, black, steps=6, batch_size=3)
    assert seen == [7, 3, 3, 1]
    assert whole.scores.shape == (7, len(text) + 1) and parts.scores == pytest.approx(whole.scores, abs=1e-6)
    clean = cosine(eclip.encode(backbone, pixels[None]).feature, text)[0]
    assert whole.scores[0, :-1] == pytest.approx(clean.numpy(), abs=1e-6)
    back = INSERTION(score, pixels, heat, black, steps=6)
    assert back.scores[-1] == pytest.approx(whole.scores[0], abs=1e-6)
    assert back.scores[0] == pytest.approx(whole.scores[-1], abs=1e-6)


def test_pixels_of_equal_heat_come_in_an_order_of_the_seed() -> None:
    flat = np.zeros((4, 5))
    assert pixel_order(flat, 3).tolist() == random_order((4, 5), 3).tolist() != random_order((4, 5), 4).tolist()
    assert sorted(random_order((4, 5), 3)) == list(range(20))
    steps = np.round(np.random.default_rng(0).random((4, 5)) * 3)
    order = pixel_order(steps, 3)
    assert (np.diff(steps.ravel()[order]) <= 0).all()
    drawn = random_order((4, 5), 3).tolist()
    for value in np.unique(steps):
        tied = [pixel for pixel in order if steps.flat[pixel] == value]
        assert tied == sorted(tied, key=drawn.index)


def test_fills() -> None:
    pixels = torch.rand(3, 12, 10, generator=torch.Generator().manual_seed(0))
    fills = {name: fill(name, pixels, black=BLACK, white=WHITE, sigma=2.0) for name in FILLS}
    assert {one.shape for one in fills.values()} == {pixels.shape}
    assert fills["zero"][:, 3, 4].tolist() == BLACK.tolist()
    assert fills["mean"][:, 0, 0] == pytest.approx(pixels.mean((1, 2)))
    assert (fills["noise"].amin((1, 2)) >= BLACK).all() and (fills["noise"].amax((1, 2)) <= WHITE).all()
    assert fills["noise"].mean((1, 2)) == pytest.approx(((BLACK + WHITE) / 2).numpy(), abs=0.3)
    assert fills["noise"].equal(fill("noise", pixels, black=BLACK, white=WHITE))
    assert not fills["noise"].equal(fill("noise", pixels, black=BLACK, white=WHITE, seed=1))
    assert fills["blur"].mean((1, 2)) == pytest.approx(pixels.mean((1, 2)).numpy(), abs=1e-5), "reflected at the edges"
    assert fills["blur"].std() < pixels.std() / 2


def test_the_blur_is_a_gaussian() -> None:
    point = torch.zeros(3, 31, 31)
    point[1, 15, 15] = 1
    blurred = fill("blur", point.requires_grad_(), black=BLACK, white=WHITE, sigma=3.0)
    assert not blurred[[0, 2]].any(), "channels do not mix"
    # the density of the normal distribution at its middle, and at one sigma below that times exp(-1/2)
    assert blurred[1, 15, 15].item() == pytest.approx(1 / (2 * np.pi * 9), rel=1e-3)
    assert (blurred[1, 18, 15] / blurred[1, 15, 15]).item() == pytest.approx(np.exp(-0.5), rel=1e-4)


@pytest.mark.usefixtures("shapes_unchecked")
def test_what_cannot_be_walked_is_refused() -> None:
    image, heat = torch.ones(3, 2, 2), np.ones((2, 2))
    for options, message in (
        ({"steps": 0}, "steps and batch_size must be at least 1, got 0 and 32"),
        ({"batch_size": 0}, "got 50 and 0"),
        ({"up_to": 0.0}, r"up_to must be in \(0, 1\], got 0.0"),
        ({"up_to": 1.5}, r"in \(0, 1\], got 1.5"),
        ({"up_to": 0.1}, "up_to=0.1 is less than one of the 4 pixels: use at least 0.25"),
    ):
        with pytest.raises(eclip.errors.OptionError, match=message):
            INSERTION(mean_of_patch, image, heat, image, **options)
    with pytest.raises(eclip.errors.ShapeError, match=r"got \(3, 2, 2\), \(3, 2, 2\) and \(1, 2\): use heatmap.resize"):
        DELETION(mean_of_patch, image, heat[:1], image)
    with pytest.raises(eclip.errors.EclipError, match="NaN or infinite"):
        DELETION(mean_of_patch, image, heat * np.nan, image)
    with pytest.raises(eclip.errors.ShapeError, match=r"one row for each of 32 images, got \(\)"):
        DELETION(torch.sum, image, heat, image)
    with pytest.raises(eclip.errors.UnknownNameError, match=r"unknown fill 'blurr'\. Did you mean 'blur'"):
        fill("blurr", image, black=BLACK, white=WHITE)
    with pytest.raises(eclip.errors.OptionError, match="sigma must be greater than 0 pixels, got 0"):
        fill("blur", image, black=BLACK, white=WHITE, sigma=0.0)
