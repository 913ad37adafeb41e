"""Fixtures for all tests. No `import eclip` up here: jaxtyping's hook must see it first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT with random weights in a model folder of open_clip, for `local-dir:`."""
    from safetensors.torch import save_file

    import tiny

    folder = tmp_path_factory.mktemp("tiny")
    config = {
        "model_cfg": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": tiny.VIT, "text_cfg": tiny.TEXT},
        "preprocess_cfg": {"mean": tiny.MEAN, "std": tiny.STD, "interpolation": "bicubic"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(tiny.model("vit").state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_name(tiny_folder: Path) -> str:
    return f"local-dir:{tiny_folder}"


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small photos, a.png and b.jpg."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for seed, name in enumerate(("a.png", "b.jpg")):
        values = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / name)
    return folder


@pytest.fixture
def shapes_unchecked() -> Any:
    """As a user has it: jaxtyping and beartype, which refuse wrong shapes before we do, look away."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
