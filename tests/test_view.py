"""View: three settings as one object that checks itself and encodes."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import eclip
from eclip.backbones.view import View
from eclip.errors import OptionError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_size": True}, "image_size must be a whole number of pixels, got True"),
        ({"resize": "crop"}, "resize must be one of squash, keep, got 'crop'"),
        ({"positions": "nearest"}, "positions must be one of bicubic_aa, bicubic, .* got 'nearest'"),
    ],
)
def test_a_view_checks_itself(given: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        View(**given)  # type: ignore[arg-type]


def test_a_view_is_a_value() -> None:
    view = View(np.int64(64), "keep")
    assert type(view.image_size) is int
    assert view == View(64, "keep", "bicubic_aa") == pickle.loads(pickle.dumps(view)) and hash(view)
    assert view.settings == {"image_size": 64, "resize": "keep", "positions": "bicubic_aa"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.resize = "squash"  # type: ignore[misc]


def test_a_view_encodes_as_encode_does() -> None:
    backbone = eclip.load("mini")
    images = [Image.new("RGB", (90, 60), color) for color in ("red", "blue")]
    view = View(16 * backbone.patch_size, "keep", "bilinear")
    view.check(backbone)
    made = view.encode(backbone, images, keep=1)
    pixels = torch.stack([backbone.preprocess(image, 16 * backbone.patch_size, "keep") for image in images])
    wanted = eclip.encode(backbone, pixels, 1, "bilinear")
    assert torch.equal(view.pixels(backbone, images), pixels)
    assert torch.equal(made.feature, wanted.feature) and torch.equal(made.tokens, wanted.tokens)
    assert made.grid == view.grid(backbone, images[0]) == wanted.grid and made.positions == "bilinear"
    assert len(made.inputs) == 1
    with pytest.raises(OptionError, match="image_size must be a multiple of the patch size"):
        View(backbone.patch_size + 1).check(backbone)
