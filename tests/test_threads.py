"""Several threads share a model, or models that share parts: each map equals that of a single thread."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

import eclip
import tiny
from eclip.backbones import eval_no_grad as room
from eclip.backbones.eval_no_grad import eval_no_grad
from eclip.errors import ModelError

THREADS = 8
METHODS = ("surgery", "gradcam", "legrad", "maskclip")


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns every ten microseconds, so that what can go wrong between two steps does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def _with_dropout() -> eclip.Backbone:
    """In training mode, but for the image side's first child, as an owner might have frozen it."""
    backbone = tiny.backbone("vit")
    for block in backbone.model.visual.transformer.resblocks:
        block.mlp.add_module("drop", nn.Dropout(0.5))
    backbone.model.train()
    backbone.model.visual.conv1.eval()
    return backbone


def _modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def _maps(backbone: eclip.Backbone, pixels: torch.Tensor, text: torch.Tensor) -> list[torch.Tensor]:
    encoding = eclip.encode(backbone, pixels)
    return [eclip.METHODS[name](encoding, text) for name in METHODS]


@pytest.mark.long
def test_maps_of_eight_threads_equal_one_threads_and_the_flags_come_back(hasty: None) -> None:
    backbone = _with_dropout()
    pixels, text, before = tiny.pixels(backbone), tiny.texts(backbone), _modes(backbone.model)
    expected = _maps(backbone, pixels, text)
    start = threading.Barrier(THREADS)

    def work(_: int) -> list[list[torch.Tensor]]:
        start.wait()
        return [_maps(backbone, pixels, text) for _ in range(10)]

    with ThreadPoolExecutor(THREADS) as pool:
        found = [maps for each in pool.map(work, range(THREADS)) for maps in each]
    assert len(found) == 10 * THREADS
    for maps in found:
        for ours, one in zip(maps, expected, strict=True):
            assert torch.equal(ours, one)
    assert _modes(backbone.model) == before
    assert not room._held, "nobody is left inside"


def test_the_last_one_out_restores_the_flags_and_nobody_before() -> None:
    model = _with_dropout().model
    before = _modes(model)
    second = eval_no_grad(model)
    with ThreadPoolExecutor(1) as other:  # gradients are off in a thread of its own
        with eval_no_grad(model):
            other.submit(second.__enter__).result()
        assert not any(_modes(model)), "the second is still inside"
        with eval_no_grad(model), eval_no_grad(model):
            assert not any(_modes(model))
        assert not any(_modes(model))
        other.submit(second.__exit__, None, None, None).result()
    assert _modes(model) == before
    assert torch.is_grad_enabled()


def test_a_part_that_two_models_share_stays_at_rest_until_both_are_out() -> None:
    model = _with_dropout().model
    other = nn.Sequential(model.visual, nn.Dropout(0.5)).train()
    model.visual.conv1.eval()
    with eval_no_grad(other):
        with eval_no_grad(model):
            pass
        assert not any(_modes(model.visual))
        assert model.training, "the model itself is out"
    assert model.visual.training and other.training
    assert not model.visual.conv1.training


def test_flags_come_back_after_an_error_and_after_an_abandoned_generator() -> None:
    model = _with_dropout().model
    before = _modes(model)
    with pytest.raises(RuntimeError, match="inside"), eval_no_grad(model):
        raise RuntimeError("inside")
    assert _modes(model) == before

    def parts() -> Iterator[int]:
        with eval_no_grad(model):
            yield 1
            yield 2

    abandoned = parts()
    assert next(abandoned) == 1
    assert not any(_modes(model))
    abandoned.close()
    assert _modes(model) == before


def test_train_called_in_the_middle_is_kept_and_told() -> None:
    backbone = _with_dropout()
    model = backbone.model.eval()
    outer = eval_no_grad(model)
    outer.__enter__()
    model.train()  # as another thread might
    with eval_no_grad(model):
        assert not any(_modes(model)), "who comes later is safe"
    with pytest.raises(ModelError, match=r"put into training mode while eclip ran it.*copy\.deepcopy"):
        outer.__exit__(None, None, None)
    assert all(_modes(model)), "its owner's wish"
    assert not room._held


def test_a_model_that_was_run_can_be_collected() -> None:
    backbone: Any = _with_dropout()
    eclip.encode(backbone, tiny.pixels(backbone))
    gone = weakref.ref(backbone.model)
    del backbone
    gc.collect()
    assert gone() is None
