"""Published outputs of real CLIP models against ours; with the real weights, if they are cached."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import eclip
import tiny
from eclip.backbones.backbone import Backbone, Grid
from eclip.backbones.image_mean import mean_for
from eclip.backbones.positions import resize_positions
from eclip.discovery import splice
from eclip.errors import DownloadError

ROOT = Path(__file__).parents[2] / "shared" / "data" / "real-clip"
pytestmark = pytest.mark.skipif(not (ROOT / "arrays.npz").is_file(), reason="needs ../shared/data/real-clip")


@cache
def _arrays() -> dict[str, np.ndarray]:
    with np.load(ROOT / "arrays.npz") as file:
        return dict(file)


def _real(name: str) -> torch.Tensor:
    return torch.from_numpy(_arrays()[name].astype(np.float32))


# --- SpLiCE ---------------------------------------------------------------------------------------------------------

LVIS = {
    "123_456": {"cat"},
    "208_495": {"surfboard", "diving_board"},  # a boardwalk to the sea
    "321_421": {"coconut"},
    "389_535": {"street_sign", "motor"},  # a sign: MOTEL
    "416_264": {"window_box_(for_plants)", "pinecone"},
    "456_123": {"kitten"},
    "524_316": {"heart", "clock_tower"},  # a sky between houses, in the shape of a heart
}
COCO = {"123_456": {"cat"}, "208_495": {"surfboard"}, "416_264": {"potted plant"}, "456_123": {"cat"}}


def _weights(vocabulary: str, mean: torch.Tensor | None) -> dict[str, dict[str, float]]:
    """Image -> its concepts, the heaviest first, as `eclip.concepts` finds them."""
    words, features = splice.dictionary(_real(f"vitb32_text_{vocabulary}")), _real("vitb32_images")
    targets = F.normalize(features, dim=1) if mean is None else splice.center(features, mean)
    found = {}
    for image, row in zip(_arrays()["vitb32_image_names"], splice.solve(targets, words), strict=True):
        order = row.argsort(descending=True)[: int((row > 0).sum())].tolist()
        found[str(image)] = {str(_arrays()[f"{vocabulary}_names"][word]): float(row[word]) for word in order}
    return found


def test_splice_names_real_images(tmp_path: Path) -> None:
    np.save(tmp_path / "mean.npy", _arrays()["image_mean_clip_ViT-B-32"])
    mean = mean_for(tiny.backbone("vit"), tmp_path / "mean.npy", None, {})
    found = _weights("lvis", mean)
    assert found.keys() == LVIS.keys()
    for image, wanted in LVIS.items():
        assert wanted <= set(list(found[image])[:3]), (image, found[image])
        assert len(found[image]) <= 6, "few of the 1203 words"
    for image, wanted in COCO.items():
        assert wanted <= set(list(_weights("coco", mean)[image])[:2]), image


def test_splice_needs_the_real_image_mean() -> None:
    """Without it, or with that of another model, the gap between the towers hides most of what is there."""
    for mean in (None, _real("image_mean_open_clip_ViT-B-32")):
        found = _weights("lvis", mean)
        lost = [image for image, wanted in LVIS.items() if not wanted <= set(list(found[image])[:3])]
        assert len(lost) >= 3, (mean is None, found)


def test_splice_is_the_minimum_on_real_features() -> None:
    """Along each word in use the gradient of |D'w - y|^2 + l1 sum(w) is 0, along each other one it is not below."""
    words = splice.dictionary(_real("vitb32_text_lvis")).double()
    targets = splice.center(_real("vitb32_images").double(), _real("image_mean_clip_ViT-B-32"))
    weights = splice.solve(targets, words)
    slope = 2 * (weights @ words - targets) @ words.T + splice.L1
    assert slope[weights > 0].abs().max() < 1e-4
    assert slope.min() > -1e-4


# --- positions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (16, 16), (24, 24), (10, 18), (31, 9)])
@pytest.mark.parametrize("positions", ["bicubic_aa", "bicubic", "bilinear"])
def test_real_positions_are_resized_as_open_clip_does(grid: tuple[int, int], positions: Any) -> None:
    table = _real("vitb16_positions")
    state = {"visual.positional_embedding": table.clone()}
    host = SimpleNamespace(visual=SimpleNamespace(grid_size=grid))
    mode, _, antialias = positions.partition("_")
    open_clip.model.resize_pos_embed(state, host, interpolation=mode, antialias=bool(antialias))
    ours = resize_positions(table, Grid(14, 14), Grid(*grid), positions)
    torch.testing.assert_close(ours, state["visual.positional_embedding"], rtol=0, atol=2e-6)
    assert table.abs().max() > 0.2, "far above the tolerance"


# --- the real weights, where they are -------------------------------------------------------------------------------

B32 = ("ViT-B-32/openai", "hf:openai/clip-vit-base-patch32")
B16 = ("ViT-B-16/openai", "hf:openai/clip-vit-base-patch16")
POSITIONS = ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight")


@pytest.fixture
def real(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """The model if its weights are cached; nothing is fetched."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    try:
        return eclip.load(request.param)
    except DownloadError as error:
        if "HF_HUB_OFFLINE is set" not in str(error):
            raise
        pytest.skip(f"the weights of {request.param} are not cached here")


@pytest.mark.parametrize("real", B32, indirect=True)
@pytest.mark.parametrize("vocabulary", ["coco", "lvis"])
def test_text_features_are_the_published_ones(real: Backbone, vocabulary: str) -> None:
    names, published = _arrays()[f"{vocabulary}_names"], _real(f"vitb32_text_{vocabulary}")
    plain = [place for place, name in enumerate(names) if name.replace(" ", "").isalpha()][:200]
    ours = real.encode_text([f"a {names[place]}" for place in plain])
    assert (F.cosine_similarity(ours, published[plain]) > 0.999).all()
    torch.testing.assert_close(ours.norm(dim=1), published[plain].norm(dim=1), rtol=0.01, atol=0)


@pytest.mark.parametrize("real", B32, indirect=True)
def test_image_features_are_the_published_ones(real: Backbone) -> None:
    pixels = []
    for name in _arrays()["vitb32_image_names"]:
        with Image.open(ROOT / "images" / f"{name}.jpg") as file:
            image = file.convert("RGB")
        scale = 224 / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels.append(real.preprocess(image.crop((left, top, left + 224, top + 224))))
    ours = eclip.encode(real, torch.stack(pixels), 0).feature
    assert (F.cosine_similarity(ours, _real("vitb32_images")) > 0.99).all()


@pytest.mark.parametrize("real", B16, indirect=True)
def test_positions_are_the_published_ones(real: Backbone) -> None:
    tables = [weight for key, weight in real.model.state_dict().items() if key.endswith(POSITIONS)]
    published = _real("vitb16_positions")
    [ours] = [table for table in tables if table.shape == published.shape]
    torch.testing.assert_close(ours, published, rtol=0, atol=1e-3)
