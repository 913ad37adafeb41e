"""A training step by hand: the contrastive loss, its parts, the logit scale; learning rates and configurations."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eclip.backbones.head import EclipHead, HeadConfig
from eclip.errors import OptionError, UnknownNameError
from eclip.training.config import TrainConfig, from_toml
from eclip.training.data import Batch
from eclip.training.learner import Learner
from eclip.training.loss import contrast
from eclip.training.pooling import match
from eclip.training.schedule import rate_at

CONFIG = TrainConfig(train_data=("a.tar",), lr=0.01, wd=0.1, form="soft", texts="captions")


def unit(*shape: int, seed: int) -> torch.Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def whole_batch(pairs: int = 8, bad: tuple[int, ...] = ()) -> Batch:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(pairs, 6, 5, generator=generator).half()
    guide = torch.rand(pairs, 6, generator=generator).half()
    good = torch.tensor([place not in bad for place in range(pairs)])
    return Batch(rows, guide, unit(pairs, 4, seed=2), good)


def worded(batch: Batch) -> Batch:
    """The same with six words: image n has word n mod 6, and images 0 and 3 have the next one too."""
    number = torch.arange(len(batch.rows)) % 6
    near = torch.eye(6, dtype=torch.bool)[number]
    near[0, 1] = near[3, 4] = True
    return replace(batch, number=number, false_negatives=near)


def in_parts(batch: Batch, count: int) -> list[Batch]:
    fields = [value.chunk(count) for value in vars(batch).values() if value is not None]
    return [Batch(*part) for part in zip(*fields, strict=True)]


def learner(scale: float = 20.0, hidden: int = 3, text: bool = True, **options: Any) -> Learner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = EclipHead(HeadConfig("made up", (), channels=5, features=4, hidden=hidden, text=text))
    return Learner(head, scale, replace(CONFIG, **options))


def test_contrast_is_the_mean_cross_entropy_of_both_ways_over_the_good_pairs() -> None:
    image, text = unit(4, 3, seed=0), unit(4, 3, seed=1)
    for good in ([0, 1, 2, 3], [0, 2, 3]):
        logits = [[7 * float(image[i] @ text[j]) for j in good] for i in good]
        terms = []
        for i in range(len(good)):
            terms.append(math.log(sum(math.exp(one) for one in logits[i])) - logits[i][i])
            terms.append(math.log(sum(math.exp(row[i]) for row in logits)) - logits[i][i])
        mask = torch.tensor([place in good for place in range(4)])
        assert float(contrast(7 * image @ text.T, mask)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_what_is_set_aside_is_in_nobodys_way_and_the_diagonal_always_counts() -> None:
    logits = 7 * unit(5, 3, seed=0) @ unit(5, 3, seed=1).T
    aside = torch.rand(5, 5, generator=torch.Generator().manual_seed(2)) < 0.4
    assert 0 < aside.diagonal().sum() < 5 and not torch.equal(aside, aside.T)
    for good in (range(5), (0, 1, 3, 4)):
        terms = []
        for i in good:
            texts = [math.exp(logits[i, j]) for j in good if j == i or not aside[i, j]]
            images = [math.exp(logits[j, i]) for j in good if j == i or not aside[j, i]]
            terms += [math.log(sum(texts)) - float(logits[i, i]), math.log(sum(images)) - float(logits[i, i])]
        mask = torch.tensor([place in good for place in range(5)])
        assert float(contrast(logits, mask, aside)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)
        none = torch.eye(5, dtype=torch.bool)
        torch.testing.assert_close(contrast(logits, mask, none), contrast(logits, mask), rtol=0, atol=0)


def test_a_pair_that_has_nothing_against_it_has_no_loss_and_no_slope() -> None:
    logits = (7 * unit(3, 3, seed=0) @ unit(3, 3, seed=1).T).requires_grad_()
    all_good, aside = torch.ones(3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
    aside[1] = aside[:, 1] = True
    loss = contrast(logits, all_good, aside)
    loss.backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
    assert not logits.grad[1].any() and not logits.grad[:, 1].any() and bool(logits.grad[0].any())
    others = contrast(logits.detach()[[0, 2]][:, [0, 2]], all_good[:2])
    torch.testing.assert_close(loss.detach(), others * 2 / 3)  # the mean of three, of which one is zero
    assert float(contrast(logits.detach(), all_good, torch.ones(3, 3, dtype=torch.bool))) == 0


def test_images_are_not_contrasted_with_texts_whose_word_is_their_own() -> None:
    batch, one = worded(whole_batch()), learner(form="similarity_smooth")
    pairs = range(8)
    own = [{int(word) for word in batch.false_negatives[image].nonzero()} for image in pairs]
    aside = torch.tensor([[int(batch.number[text]) in own[image] for text in pairs] for image in pairs])
    assert aside[0].tolist() == [True, True, False, False, False, False, True, True]
    with torch.no_grad():
        logits = 20 * match(
            one.pooled.head(batch.rows.float()),
            torch.nn.functional.normalize(one.pooled.head.project_text(batch.text), dim=-1),
            batch.guide.float(),
            "similarity_smooth",
        )
    wanted = float(contrast(logits, batch.good, aside))
    assert one.step([batch], 0.01) == pytest.approx(wanted, rel=1e-5)
    assert wanted < float(contrast(logits, batch.good)) - 0.1


@pytest.mark.parametrize("words", [False, True], ids=["captions", "words"])
@pytest.mark.parametrize("form", ["soft", "exclusion", "similarity", "similarity_smooth"])
def test_parts_of_a_batch_step_as_the_whole(form: str, words: bool) -> None:
    """Also the factor: each part adds its share of the gradient, not the whole of it."""
    batch = whole_batch(bad=(2,))
    batch = worded(batch) if words else batch
    steps = [learner(form=form, learn_scale=True) for _ in range(3)]
    for _ in range(4):
        losses = [one.step(in_parts(batch, parts), 0.01) for one, parts in zip(steps, (1, 2, 4), strict=True)]
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    wanted = steps[0].pooled.state_dict()
    for one in steps[1:]:
        for key, value in one.pooled.state_dict().items():
            torch.testing.assert_close(value, wanted[key], rtol=1e-6, atol=2e-6)
    assert float(wanted["log_scale"]) != pytest.approx(math.log(20), abs=0.01), "it was trained"


@pytest.mark.parametrize("parts", [1, 2])
def test_the_factors_gradient_is_the_slope_of_the_loss(parts: int) -> None:
    batch = whole_batch()

    def loss(scale: float) -> float:
        return learner(scale).step([batch], 0.0)

    slope = (loss(20 * math.exp(0.01)) - loss(20 * math.exp(-0.01))) / 0.02
    one = learner(learn_scale=True)
    seen: list[float] = []
    one.pooled.log_scale.register_post_accumulate_grad_hook(lambda weight: seen.append(float(weight.grad)))
    one.step(in_parts(batch, parts), 0.01)
    assert seen[-1] == pytest.approx(slope, rel=1e-3)
    assert abs(slope) > 0.1


def test_the_factor_stays_the_models_own_unless_it_is_trained_and_then_below_100_or_its_own() -> None:
    batch = whole_batch()
    for scale in (20.0, 117.0):  # SigLIP's is above 100
        one = learner(scale)
        wanted = contrast(scale * one._match(batch, batch.text)[0].detach(), batch.good)
        assert one.step([batch], 0.01) == pytest.approx(float(wanted), rel=1e-5)
        assert float(one.pooled.log_scale.detach().exp()) == pytest.approx(scale)
    near = torch.nn.functional.normalize(torch.ones(4, 4) + 0.2 * torch.eye(4), dim=-1)  # hard to tell apart
    flat, good = torch.ones(4, 2).half(), torch.ones(4, dtype=torch.bool)
    right = Batch(near[:, None].expand(4, 2, 4).half(), flat, near, good)
    wrong = replace(right, text=near.flip(0))
    for scale, most in ((99.9, 100.0), (117.0, 117.0)):
        head = EclipHead(HeadConfig("made up", (), channels=4, features=4))
        torch.nn.init.eye_(head.image.weight)
        torch.nn.init.zeros_(head.image.bias)
        one = Learner(head, scale, replace(CONFIG, learn_scale=True, wd=0.0))
        one.step([right], 0.01)
        assert float(one.pooled.log_scale.detach().exp()) == pytest.approx(most)
        for _ in range(8):
            one.step([wrong], 0.01)
        assert float(one.pooled.log_scale.detach().exp()) < most - 1, "the limit does not hold it fast"


def test_bfloat16_is_near_and_keeps_the_heads_weights_whole() -> None:
    batch = whole_batch()
    losses = {}
    for precision in ("float32", "bfloat16"):
        one = learner(precision=precision)
        losses[precision] = [one.step([batch], 0.01) for _ in range(5)]
        assert {weight.dtype for weight in one.pooled.parameters()} == {torch.float32}
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            tokens, words = one.pooled.head(batch.rows.float()), one.pooled.head.project_text(batch.text)
        words = words.float() / words.float().norm(dim=1)[:, None]
        whole = 20 * match(tokens.float(), words, batch.guide.float(), "soft")
        assert one.step([batch], 0.01) == pytest.approx(float(contrast(whole, batch.good)), abs=1e-5), "of the products"
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.1)
    assert losses["float32"][-1] < losses["float32"][0] - 0.2


def test_matrices_decay_and_biases_do_not() -> None:
    one = learner(wd=0.5, hidden=0, text=False)
    batch = replace(whole_batch(pairs=1), guide=torch.ones(1, 6).half())  # one pair: the loss is zero, so is its slope
    one.pooled.head.image.bias.data.fill_(1.0)
    before = one.pooled.head.image.weight.detach().clone()
    assert one.step([batch], 0.1) == 0
    torch.testing.assert_close(one.pooled.head.image.weight.detach(), 0.95 * before)
    assert one.pooled.head.image.bias.tolist() == [1.0] * 4


def test_the_rate_rises_over_the_warm_up_and_falls_along_a_cosine() -> None:
    config = replace(CONFIG, lr=0.8, warmup=4)
    rates = [rate_at(step, 12, config) for step in range(12)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert rates[8] == pytest.approx(0.4), "half way down"
    assert rates[11] == pytest.approx(0.4 * (1 + math.cos(math.pi * 7 / 8)))
    assert rate_at(0, 5, replace(config, warmup=0)) == 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "sotf"}, "form must be one of soft, hard"),
        ({"threshold": "median"}, "threshold must be one of mean, mass, got 'median'"),
        ({"texts": "word"}, "texts must be one of captions, words, got 'word'"),
        ({"near": 1.1}, "near must be a cosine, between -1 and 1, got 1.1"),
        ({"near": math.nan}, "near must be a cosine, between -1 and 1, got nan"),
        ({"source": "rows"}, "source must be one of value, output"),
        ({"init": "zeros"}, "init must be one of model, random"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16"),
        ({"guide": "spectral", "guide_options": {"size": 3}}, "'spectral' has no option 'size'"),
        (
            {"guide": "dino", "guide_options": {"network": torch.nn.Identity()}},
            "strings and numbers, .* network=Ident",
        ),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"limit": -5}, "limit must be at least 1, got -5"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"epochs": 2.5}, "'epochs' of 'train' must be a whole number, got 2.5"),
        ({"epochs": "4"}, "'epochs' of 'train' must be a whole number, got '4'"),
        ({"near": "a"}, "'near' of 'train' must be a number, got 'a'"),
        ({"hidden": None}, "'hidden' of 'train' must be a whole number, got None"),
        ({"workers": -1}, "workers must be 0 or more, got -1"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"lr": math.inf}, "lr must be between 0 and 1, got inf"),
        ({"lr": math.nan}, "lr must be between 0 and 1, got nan"),
        ({"wd": math.nan}, "wd must be 0 or more, got nan"),
        ({"seed": 2**70}, "seed must be below 2\\*\\*64, got 1180591620717411303424"),
        ({"separator": None}, "'separator' of 'train' must be a string, got None"),
        ({"model": torch.nn.Identity()}, "'model' of 'train' must be a string, got Identity"),
        ({"stream": "no"}, "'stream' of 'train' must be true or false, got 'no'"),
        ({"guide_options": None}, "guide_options must be a dict such as {'tau': 0.2}, got None"),
        ({"train_data": Path("a.tar")}, "train_data must be a tuple of path strings, got 'a.tar'"),
        ({"train_data": ()}, "no training data was given: set --train-data to"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    CONFIG.check()
    with pytest.raises(OptionError, match=message):
        replace(CONFIG, **options).check()


def test_numbers_of_numpy_and_paths_are_recorded_as_python_has_them() -> None:
    given = {"seed": np.int64(3), "lr": np.float32(0.5), "out": Path("here"), "guide_options": {"tau": np.float32(0.5)}}
    config = replace(CONFIG, train_data=[Path("a.tar"), "b"], guide="spectral", **given)  # type: ignore[arg-type]
    config.check()
    assert config.train_data == ("a.tar", "b")
    plain = config.plain()
    assert [plain[key] for key in given] == [3, 0.5, "here", {"tau": 0.5}]


def test_one_path_is_no_tuple_of_paths() -> None:
    config = replace(CONFIG)
    object.__setattr__(config, "train_data", "pairs.tar")  # as users can, whom no types are checked for
    with pytest.raises(OptionError, match=r"train_data must be a tuple of path strings, got 'pairs.tar'"):
        config.check()


def test_an_unknown_guide_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown guide 'spectal'. Did you mean 'spectral'"):
        replace(CONFIG, guide="spectal").check()


def test_a_file_fills_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('train_data = ["a.tar", "b"]\nlr = 1e-3\nhidden = 4\n[guide_options]\ntau = 0.2\n')
    said = from_toml(file)
    assert TrainConfig(**said) == TrainConfig(train_data=("a.tar", "b"), lr=1e-3, hidden=4, guide_options={"tau": 0.2})
    file.write_text('train_data = "a.tar"', encoding="utf-8-sig")
    assert from_toml(file)["train_data"] == ("a.tar",)
    file.write_text('train_data = "~/a.tar"\nout = "~/head"\n')
    assert from_toml(file) == {
        "train_data": (str(Path.home() / "a.tar"),),
        "out": str(Path.home() / "head"),
        "guide_options": {},
    }
    for text, message in (
        ("lr = ", "cannot be read"),
        ("color = 1", "has no option 'color'"),
        ("epochs = 1.5", "option 'epochs' .* must be a whole number, got 1.5"),
        ("train_data = 3", "train_data .* must be a list of paths, got 3"),
        ("guide_options = 3", "guide_options .* must be a table, got 3"),
    ):
        file.write_text(text)
        with pytest.raises(OptionError, match=message):
            from_toml(file)
    with pytest.raises(OptionError, match=r"nowhere.*cannot be read"):
        from_toml(tmp_path / "nowhere.toml")
