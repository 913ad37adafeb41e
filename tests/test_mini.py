"""The model in the package: it loads like any other, recognizes the examples, and its maps lie on their objects."""

from __future__ import annotations

import ast
import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
NAMES = {"cat": "a cat", "dog": "a dog", "elephant": "an elephant", "horses": "a horse"}

BOXES = {  # left, top, right, bottom as shares of the image, read off by eye
    "cat": (0.23, 0.22, 0.75, 0.62),
    "dog": (0.40, 0.35, 0.78, 1.00),
    "elephant": (0.00, 0.00, 0.60, 1.00),
    "horses": (0.36, 0.38, 0.76, 0.76),
}


def test_it_fits_the_package() -> None:
    from eclip.backbones.catalog import MINI

    assert sum(path.stat().st_size for path in MINI.iterdir()) < 45 * 2**20, "MiB, with its head"


def _host() -> Any:
    """`mini` as open_clip builds it."""
    import open_clip

    from eclip.backbones.catalog import MINI

    return open_clip.create_model(f"local-dir:{MINI}", require_pretrained=True).eval()


def _noise(*shape: int) -> Any:
    import torch

    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("sides", [(448, 448), (224, 320), (300, 331)], ids=str)
@pytest.mark.long
def test_what_is_computed_faster_is_the_same(sides: tuple[int, int]) -> None:
    """Features are those of open_clip itself, also for odd sides; no norm is left, no weight asks for a gradient."""
    import torch

    import eclip

    host, pixels = _host(), _noise(1 if sides == (448, 448) else 3, 3, *sides)
    for precision, tolerance in (("float32", 2e-5), ("float64", 1e-12)):
        model = eclip.load("mini", precision=precision).model
        assert not any(isinstance(one, torch.nn.BatchNorm2d) for one in model.modules())
        assert not any(weight.requires_grad for weight in model.parameters())
        given = pixels.to(next(model.parameters()).dtype)
        with torch.no_grad():
            expected, found = host.to(given.dtype).encode_image(given), model.encode_image(given)
        assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_what_is_computed_faster_can_be_hooked_adapted_and_differentiated() -> None:
    """A hook sees the whole batch, a layer around the pool's projection is run, and gradients are the host's."""
    import torch

    import eclip

    class Doubled(torch.nn.Module):
        """Like an adapter, it offers the weight of the layer that it wraps."""

        def __init__(self, inner: torch.nn.Linear) -> None:
            super().__init__()
            self.inner, self.weight, self.bias = inner, inner.weight, inner.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.inner(x)

    host, pixels = _host(), _noise(3, 3, 224, 224)
    model = copy.deepcopy(eclip.load("mini").model)
    seen = []
    handle = model.visual.trunk.blocks[3].register_forward_hook(lambda _, __, out: seen.append(len(out)))
    with torch.no_grad():
        hooked = model.encode_image(pixels)
        handle.remove()
        torch.testing.assert_close(model.encode_image(pixels), hooked, rtol=1e-4, atol=1e-5)
    assert seen == [3]
    both = []
    for one in (host, model):
        pool = one.visual.head.pool
        pool.qkv = Doubled(pool.qkv)
        given = pixels.clone().requires_grad_()
        feature = one.encode_image(given)
        feature.sum().backward()
        both.append((feature.detach(), given.grad))
    for expected, found in zip(*both, strict=True):
        assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_the_thresholds_that_ship_are_those_that_the_page_states() -> None:
    import eclip
    from eclip.backbones.catalog import MINI

    levels = json.loads((MINI / "eclip_levels.json").read_text())["levels"]
    assert eclip.load("mini").levels == levels
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    [said] = re.findall(r"those of (`eclip`.*?)\. They ship with `mini`", page, re.DOTALL)
    parts = re.findall(r"([^()]*)\(([\d.]+)\)", said)
    assert {name: float(level) for names, level in parts for name in re.findall(r"`(\w+)`", names)} == levels


def test_what_is_said_of_the_head_is_what_it_was_trained_with() -> None:
    """In the README, `METHODS`, the model card, docs/eclip.md and the recipe; none says that it pooled by a maximum."""
    from eclip.backbones.catalog import MINI
    from eclip.methods import METHODS

    trained = json.loads((MINI / "eclip_head.json").read_text())["trained"]
    script = ast.parse((ROOT / trained["recipe"]).read_text(encoding="utf-8"))
    named = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in script.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert (named["RECIPE"], named["WEIGHTS"]) == (trained["recipe"], trained["losses"])
    calls = [node for node in ast.walk(script) if isinstance(node, ast.Call) and node.args]
    flags = {
        ast.literal_eval(call.args[0]): next((key.value for key in call.keywords if key.arg == "default"), None)
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
    }
    for key in ("epochs", "rate", "batch_size", "seed"):
        assert ast.literal_eval(flags["--" + key.replace("_", "-")]) == trained[key], key

    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/eclip.md"))
    card = (MINI / "MODEL_CARD.md").read_text(encoding="utf-8")
    for place, text in {"README.md": readme, "docs/eclip.md": page, "the model card": card}.items():
        text = " ".join(text.split())
        assert re.search(r"phrases with boxes", text) and trained["recipe"] in text, place
    assert "phrases with boxes" in METHODS["eclip"].summary
    assert f"{trained['images']['captioned']:,} images with captions" in " ".join(page.split())

    texts = [readme, page, card, METHODS["eclip"].summary, *(path.read_text() for path in (ROOT / "src").rglob("*.py"))]
    assert not [one for one in texts if re.search(r"trained\s+(with|by|through)\s+masked\s+max", one)]


def test_each_image_is_best_described_by_its_own_name() -> None:
    import eclip

    images = [IMAGES / f"{name}.jpg" for name in NAMES]
    scores = eclip.explain(images, list(NAMES.values())).scores
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert scores.argmax(axis=0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_the_map_lies_on_the_thing(name: str) -> None:
    import eclip

    heat = eclip.explain(IMAGES / f"{name}.jpg", list(NAMES.values())).heatmap(0, list(NAMES).index(name))
    height, width = heat.shape
    left, top, right, bottom = BOXES[name]
    inside = np.zeros_like(heat, dtype=bool)
    inside[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    assert inside[np.unravel_index(heat.argmax(), heat.shape)], "the peak lies on it"
    assert heat[inside].mean() - heat[~inside].mean() > 0.1
