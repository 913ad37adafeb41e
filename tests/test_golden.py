"""Each method equals what its authors' own code computed on tiny random models (../shared/golden, described there).

The arrays lie beside the repository, not in it; without them these tests are skipped. `test_methods.py` recomputes the
same formulas the long way and needs nothing.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import eclip
from eclip.backbones.base import Backbone, Encoding

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden, the authors' arrays, is not here")

VITS = ["tiny-vit", "tiny-vit12"]
MODELS = [*VITS, "tiny-rn"]


@cache
def _arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        return dict(arrays)


def _golden(file: str, model: str, name: str) -> np.ndarray:
    return _arrays(file)[f"{model.replace('-', '_')}__{name}"]


@cache
def _backbone(model: str) -> Backbone:
    return eclip.load(f"local-dir:{GOLDEN / model}")


@cache
def _encode(model: str, size: str, positions: str) -> Encoding:
    kind = "rn" if model == "tiny-rn" else "vit"
    name = f"{kind}_images_native" if size == "native" else f"{kind}_image_{size}"
    return eclip.encode(_backbone(model), torch.from_numpy(_arrays("inputs")[name]), positions=positions)


def _classes() -> torch.Tensor:
    return torch.from_numpy(_arrays("inputs")["class_text_matrix"])


def _texts(model: str, name: str) -> torch.Tensor:
    ids = torch.from_numpy(_arrays("inputs")[name])
    return torch.nn.functional.normalize(_backbone(model).encode_tokens(ids), dim=-1)


def _patches(encoding: Encoding, rows: np.ndarray) -> np.ndarray:
    """The stored (image, token, text) rows without the prefix, as (image, text, row, col)."""
    return rows[:, encoding.prefix :].transpose(0, 2, 1).reshape(len(rows), -1, *encoding.grid)


def _close(ours: torch.Tensor, golden: np.ndarray, atol: float) -> None:
    np.testing.assert_allclose(ours.numpy(), golden, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("model", MODELS)
def test_plain_clip(model: str) -> None:
    encoding = _encode(model, "native", "bicubic_aa")
    _close(encoding.feature, _golden("plain_clip", model, "image_embedding_native"), 1e-4)
    _close(encoding.backbone.project(encoding.tokens), _golden("plain_clip", model, "tokens_native"), 1e-4)


@pytest.mark.parametrize("model", VITS)
@pytest.mark.parametrize("positions", ["bicubic_aa", "bicubic", "bilinear", "bicubic_plus01"])
@pytest.mark.parametrize("size", ["square96", "rect48x80"])
def test_tokens_off_the_training_grid(model: str, size: str, positions: str) -> None:
    if size == "rect48x80" and positions == "bilinear":
        pytest.skip("no published code resizes bilinearly to a grid that is not square")
    encoding = _encode(model, size, positions)
    golden = _golden("plain_clip", model, f"tokens_{size}_pos_{positions}")
    _close(encoding.backbone.project(encoding.tokens), golden, 1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_itsm_and_rclip(model: str) -> None:
    encoding = _encode(model, "native", "bicubic_aa")
    golden = _patches(encoding, _golden("itsm", model, "similarity_native"))
    _close(eclip.METHODS["itsm"](encoding, _classes()), golden, 1e-5)
    _close(eclip.METHODS["rclip"](encoding, _classes()), -golden, 1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", ["native", "square96", "rect48x80", "rect96x160"])
def test_maskclip(model: str, size: str) -> None:
    name = f"scores_{size}" if model == "tiny-rn" else f"scores_{size}_clip_quickgelu_eps1e-5"
    if f"{model.replace('-', '_')}__{name}" not in _arrays("maskclip"):
        pytest.skip("this size belongs to the other kind of tower")
    encoding = _encode(model, size, "bicubic")
    _close(eclip.METHODS["maskclip"](encoding, _classes()), _golden("maskclip", model, name), 1e-5)


@pytest.mark.parametrize(
    ("model", "size", "resnet"),
    [(model, size, "") for model in VITS for size in ("native", "square96")]
    + [("tiny-rn", size, resnet) for size in ("native", "square192") for resnet in ("released_vv", "normed_scale8")],
)
def test_surgery(model: str, size: str, resnet: str) -> None:
    options = {"resnet": resnet} if resnet else {}
    name = f"{size}_{resnet}" if resnet else size
    encoding = _encode(model, size, "bilinear")
    scores = _patches(encoding, _golden("clip_surgery", model, f"fsurgery_scores_{name}"))
    _close(eclip.METHODS["surgery"](encoding, _classes(), **options), scores, 1e-5)
    if size == "native":
        single = _patches(encoding, _golden("clip_surgery", model, f"single_text_scores_{name}"))
        empty = _texts(model, "tokens_empty")[0]
        ours = eclip.METHODS["surgery"](encoding, _texts(model, "tokens")[:1], reference=empty, **options)
        _close(ours, single, 1e-5)
