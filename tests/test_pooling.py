"""Masked max pooling by hand: every form as a plain loop over numbers, thresholds, and where the gradient goes.

And `match`, which asks each text too.
"""

from __future__ import annotations

import math

import jaxtyping
import pytest
import torch

from eclip.errors import OptionError, ShapeError
from eclip.training.pooling import FORMS, SIMILARITIES, masked_max_pool, match

PLAIN = ("max", "mean")
"""Forms that the guide does not change."""


def loop(tokens: torch.Tensor, guide: list[float], inside: set[int], form: str) -> list[float]:
    """One image's pooled vector, a number at a time."""
    peak, patches = max(guide), range(len(guide))
    rows = [[float(value) for value in row] for row in tokens]
    if form.endswith("_unit"):
        rows = [[value / math.sqrt(sum(other**2 for other in row)) for value in row] for row in rows]
    pooled = []
    for channel in range(len(rows[0])):
        values = [rows[n][channel] for n in patches]
        soft = [guide[n] / peak * values[n] for n in patches]
        pooled.append(
            {
                "soft": max(soft),
                "hard": max(values[n] if n in inside else 0.0 for n in patches),
                "exclusion": max(values[n] for n in inside),
                "max": max(values),
                "masked_mean": sum(soft) / sum(guide[n] / peak for n in patches),
                "mean": sum(values) / len(values),
            }[form.removesuffix("_unit")]
        )
    return pooled


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_its_formula_a_number_at_a_time(form: str) -> None:
    tokens = torch.tensor(
        [
            [[3.0, -4.0, 1.0], [0.5, -2.0, -0.5], [-6.0, -1.0, -8.0], [7.0, 2.0, -9.0]],
            [[-1.0, -2.0, 2.0], [-3.0, -1.0, -2.0], [4.0, -5.0, 1.0], [-2.0, -2.0, -1.0]],
        ]
    )
    guide = [[4.0, 2.0, 0.0, 1.0], [0.1, 0.4, 0.1, 0.3]]  # means 1.75 and 0.225
    inside = [{0, 1}, {1, 3}]
    wanted = [loop(*image, form) for image in zip(tokens, guide, inside, strict=True)]
    got = masked_max_pool(tokens, torch.tensor(guide), form)
    torch.testing.assert_close(got, torch.tensor(wanted))
    alone = masked_max_pool(tokens[1:], torch.tensor(guide[1:]), form)
    torch.testing.assert_close(alone, got[1:], rtol=0, atol=0)


def test_a_channel_that_is_negative_on_the_thing_ends_at_zero_unless_the_rest_is_excluded() -> None:
    tokens = torch.tensor([[[-2.0], [-1.0], [-5.0], [9.0]]])
    guide = torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    pooled = {form: float(masked_max_pool(tokens, guide, form)) for form in FORMS}
    assert pooled["soft"] == 0, "a patch outside weighs 0, which is more than any value on the thing"
    assert pooled["hard"] == 0
    assert pooled["exclusion"] == -1
    assert (pooled["soft_unit"], pooled["exclusion_unit"]) == (0, -1)
    assert (pooled["max"], pooled["mean"]) == (9, 0.25)
    assert pooled["masked_mean"] == pytest.approx((-2 - 0.5) / 1.5)
    assert float(masked_max_pool(tokens, guide + 0.1, "soft")) == pytest.approx(9 * 0.1 / 1.1), "no zero, no floor"


@pytest.mark.parametrize("form", FORMS)
def test_the_scale_of_the_guide_does_not_matter_and_a_flat_one_wants_every_patch(form: str) -> None:
    tokens = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    guide = torch.rand(2, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(masked_max_pool(tokens, 64 * guide, form), masked_max_pool(tokens, guide, form))
    for flat in (0.1, 1.0, 7.0):  # the mean of five times 0.1 is rounded
        for threshold in ("mean", "mass"):
            same = masked_max_pool(tokens, torch.full((2, 5), flat), form, threshold)
            torch.testing.assert_close(same, masked_max_pool(tokens, None, form, threshold))
    whole = masked_max_pool(tokens, None, form)
    free = {"soft": "max", "hard": "max", "exclusion": "max", "exclusion_unit": "soft_unit", "masked_mean": "mean"}
    torch.testing.assert_close(whole, masked_max_pool(tokens, None, free.get(form, form)))
    if form in PLAIN:
        torch.testing.assert_close(masked_max_pool(tokens, guide, form), whole, rtol=0, atol=0)
    else:
        assert not torch.allclose(masked_max_pool(tokens, guide, form), whole)


def inside(guide: list[float], threshold: str) -> set[int]:
    """Which patches are inside, seen through a token that is high at one patch alone."""
    tokens = -torch.eye(len(guide))[None]  # channel c is -1 at patch c, 0 elsewhere
    pooled = masked_max_pool(tokens, torch.tensor([guide]), "exclusion", threshold)[0]
    alone = {channel for channel, value in enumerate(pooled.tolist()) if value == -1}  # the only patch inside
    if alone:
        return alone
    probe = torch.eye(len(guide))[None]
    pooled = masked_max_pool(probe, torch.tensor([guide]), "exclusion", threshold)[0]
    return {channel for channel, value in enumerate(pooled.tolist()) if value == 1}


def test_mean_is_above_the_mean_and_mass_is_the_fewest_patches_with_sixty_percent() -> None:
    guide = [1.0, 5.0, 0.0, 4.0]  # mean 2.5; sum 10: 5 is half of it, 5 + 4 are more than 0.6
    assert inside(guide, "mean") == {1, 3}
    assert inside(guide, "mass") == {1, 3}
    guide = [7.0, 1.0, 1.0, 1.0]  # mean 2.5; 7 of 10 are enough
    assert inside(guide, "mean") == inside(guide, "mass") == {0}
    guide = [3.0, 2.6, 2.4, 2.0]  # mean 2.5; sum 10: 5.6 are too few, 8 are enough
    assert inside(guide, "mean") == {0, 1}
    assert inside(guide, "mass") == {0, 1, 2}
    assert inside([0.0, 0.0, 2.0], "mass") == inside([0.0, 0.0, 2.0], "mean") == {2}


def test_a_guide_that_is_all_but_flat_never_leaves_no_patch_inside() -> None:
    for patches in (3, 100, 1023):
        guide = torch.ones(1, patches)
        guide[0, 1] = 1 - 2**-24  # the mean is rounded to 1
        pooled = masked_max_pool(torch.ones(1, patches, 1), guide, "exclusion")
        assert pooled.tolist() == [[1.0]]


@pytest.mark.parametrize("form", ["soft", "hard", "exclusion", "max"])
def test_the_gradient_goes_to_the_largest_patch_of_each_channel_alone(form: str) -> None:
    tokens = torch.tensor([[[1.0, -3.0], [2.0, -1.0], [9.0, 8.0], [0.5, -2.0]]], requires_grad=True)
    guide = torch.tensor([[1.0, 0.75, 0.0, 0.25]])  # mean 0.5: patches 0 and 1 are inside
    masked_max_pool(tokens, guide, form).backward(torch.tensor([[10.0, 100.0]]))
    wanted = {
        "soft": [[0, 0], [7.5, 0], [0, 0], [0, 0]],  # 1, 1.5, 0, 0.125; the other channel rests on the floor
        "hard": [[0, 0], [10, 0], [0, 0], [0, 0]],
        "exclusion": [[0, 0], [10, 100], [0, 0], [0, 0]],
        "max": [[0, 0], [0, 0], [10, 100], [0, 0]],
    }[form]
    assert tokens.grad is not None
    assert tokens.grad[0].tolist() == wanted


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form: str) -> None:
    tokens = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    guide = torch.rand(2, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: masked_max_pool(x, guide, form, "mass"), (tokens,))


# --- with texts ---


def some(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TOKENS = some(3, 5, 4, seed=5)
TEXT = torch.nn.functional.normalize(some(6, 4, seed=6), dim=-1)
GUIDE = torch.tensor([[4, 2, 0, 1, 0], [0, 0, 3, 0, 0], [0.1, 0.2, 0.3, 0.2, 0.1]], dtype=torch.float64)


@pytest.mark.parametrize("threshold", ["mean", "mass"])
@pytest.mark.parametrize("form", FORMS)
def test_matching_a_pooled_vector_is_its_cosine_with_each_text(form: str, threshold: str) -> None:
    pooled = masked_max_pool(TOKENS, GUIDE, form, threshold)
    wanted = torch.nn.functional.normalize(pooled, dim=-1) @ TEXT.T
    torch.testing.assert_close(match(TOKENS, TEXT, GUIDE, form, threshold), wanted)


def matched(form: str, guide: list[float], rows: list[list[float]], text: list[float]) -> float:
    """One image and one text, a number at a time."""
    cosines = []
    for row in rows:
        length = math.sqrt(sum(value**2 for value in row))
        cosines.append(sum(value * word for value, word in zip(row, text, strict=True)) / length)
    if form == "similarity":
        return max(weight / max(guide) * cosine for weight, cosine in zip(guide, cosines, strict=True))
    terms = sum(weight * math.exp(20 * cosine) for weight, cosine in zip(guide, cosines, strict=True))
    return math.log(terms / sum(guide)) / 20


@pytest.mark.parametrize("form", SIMILARITIES)
def test_matching_patches_is_its_formula_a_number_at_a_time(form: str) -> None:
    images = list(zip(GUIDE.tolist(), TOKENS.tolist(), strict=True))
    wanted = [[matched(form, *image, text) for text in TEXT.tolist()] for image in images]
    torch.testing.assert_close(match(TOKENS, TEXT, GUIDE, form), torch.tensor(wanted, dtype=torch.float64))
    torch.testing.assert_close(match(TOKENS, TEXT, 64 * GUIDE, form), match(TOKENS, TEXT, GUIDE, form))
    free = [[matched(form, [1.0] * 5, rows, text) for text in TEXT.tolist()] for rows in TOKENS.tolist()]
    torch.testing.assert_close(match(TOKENS, TEXT, None, form), torch.tensor(free, dtype=torch.float64))


def test_a_smooth_maximum_without_a_guide_lies_between_the_mean_and_the_largest() -> None:
    cosines = torch.nn.functional.normalize(TOKENS, dim=-1) @ TEXT.T
    smooth = match(TOKENS, TEXT, None, "similarity_smooth")
    assert bool((smooth < cosines.amax(dim=1)).all() & (smooth > cosines.mean(dim=1)).all())
    assert bool((smooth >= cosines.amax(dim=1) - math.log(5) / 20).all()), "off by the share of one patch at most"


@pytest.mark.parametrize("form", SIMILARITIES)
def test_patches_that_are_masked_out_have_no_say_and_no_gradient(form: str) -> None:
    tokens = TOKENS.clone().requires_grad_()
    found = match(tokens, TEXT, GUIDE, form)
    found.sum().backward()
    assert tokens.grad is not None and bool(tokens.grad.isfinite().all())
    assert not tokens.grad[GUIDE == 0].any() and bool(tokens.grad[1, 2].any())
    if form == "similarity":
        return  # where the cosine is below zero on all the thing, what is outside weighs 0, which is more
    changed = torch.where((GUIDE == 0)[:, :, None], 9 * TEXT[0], TOKENS)
    torch.testing.assert_close(match(changed, TEXT, GUIDE, form), found.detach())
    weights = torch.softmax(20 * (torch.nn.functional.normalize(TOKENS[0], dim=-1) @ TEXT[0]) + GUIDE[0].log(), dim=0)
    [slope] = torch.autograd.grad(match(tokens, TEXT, GUIDE, form)[0, 0], tokens)
    directions = torch.nn.functional.normalize(TOKENS[0], dim=-1)
    across = TEXT[0] - (directions @ TEXT[0])[:, None] * directions
    torch.testing.assert_close(slope[0], weights[:, None] * across / TOKENS[0].norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("form", SIMILARITIES)
def test_gradcheck_of_a_match(form: str) -> None:
    tokens, text = TOKENS.clone().requires_grad_(), TEXT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *both: match(*both, GUIDE, form), (tokens, text))


def test_a_match_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for form in SIMILARITIES:
        with pytest.raises(OptionError, match=rf"form must be one of soft, .*mean, got '{form}' .*see `match`"):
            masked_max_pool(TOKENS, form=form)
    with pytest.raises(OptionError, match=r"one of soft, .*mean, similarity, similarity_smooth, got 'similar'\.$"):
        match(TOKENS, TEXT, form="similar")
    for form in ("soft", *SIMILARITIES):
        with pytest.raises(OptionError, match="threshold must be one of mean, mass, got 'median'"):
            match(TOKENS, TEXT, form=form, threshold="median")
        with pytest.raises(ShapeError, match="positive somewhere"):
            match(TOKENS, TEXT, torch.zeros(3, 5), form)


def test_errors_say_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    tokens = torch.ones(2, 3, 4)
    with pytest.raises(OptionError, match=r"form must be one of soft, .*mean, got 'sotf'"):
        masked_max_pool(tokens, form="sotf")
    with pytest.raises(OptionError, match=r"threshold must be one of mean, mass, got 'median'"):
        masked_max_pool(tokens, threshold="median")
    with pytest.raises(ShapeError, match=r"guide must be \(image, patch\) = \(2, 3\), got \(2, 4\)"):
        masked_max_pool(tokens, torch.ones(2, 4))
    for wrong in ([0.0, 0.0, 0.0], [1.0, -0.1, 0.0], [1.0, math.nan, 0.0], [1.0, math.inf, 0.0]):
        with pytest.raises(ShapeError, match="finite, nonnegative everywhere and positive somewhere"):
            masked_max_pool(tokens, torch.tensor([[1.0, 0.0, 0.0], wrong]))
