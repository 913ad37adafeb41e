"""The gallery: one file that needs nothing else, harmless for any name, and the same pictures as overlays."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import eclip
import tiny
from eclip.explanation.explanation import Explanation
from eclip.explanation.folder import ExplanationWriter
from eclip.explanation.gallery.gallery import DOUBTS, MOST_CELLS, SIDE
from eclip.explanation.rows import Selection
from eclip.heatmap import normalize, signed
from eclip.render.colormaps import LEVELS, blend
from eclip.render.overlay import ALPHA, DIM
from eclip.results.marks import is_ours
from test_cli import explain

ODD = ("<script>alert('a')</script>", "\"' onerror=x", "狗 🐕 & </li>")


@pytest.fixture(scope="module")
def answer(images: Path) -> Explanation:
    found = eclip.explain([images / "a.png", images / "b.jpg"], ODD, model=tiny.kept("vit"), method="maskclip")
    assert found.health is not None
    presence = np.array([[0.95, 0.7, 0.2], [0.0, 0.9, 0.6]], np.float32)
    health = replace(found.health, presence=presence, emptiness=np.zeros_like(presence))
    return replace(found, health=health, sources=('a/<img src=x onerror="y">.png', "caf\udce9.jpg"))


class Page(HTMLParser):
    """All tags with their attributes, and the content of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "script"
        self.scripts += [""] * self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data

    def of(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _gallery(answer: Explanation, folder: Path, max_side: int | None = None, **kept: Any) -> Page:
    with ExplanationWriter(folder, ["html"], selection=Selection(**kept), max_side=max_side) as writer:
        writer.add(answer)
    return Page((folder / "gallery.html").read_text(encoding="utf-8"))


def test_odd_names_are_harmless_and_shown(answer: Explanation, tmp_path: Path) -> None:
    page = _gallery(answer, tmp_path)
    assert is_ours(tmp_path / "gallery.html")
    assert len(page.of("script")) == 3, "the colors, the labels, the script"
    assert not [one for _, own in page.tags for one in own if one.startswith("on")]
    assert [one["data-label"] for one in page.of("li")] == list(ODD) * 2
    assert [one["alt"] for one in page.of("img")] == ['<img src=x onerror="y">.png', "caf\\udce9.jpg"]
    assert next(one["title"] for one in page.of("h2") if "title" in one) == answer.sources[0]


def test_it_asks_for_nothing_outside(answer: Explanation, tmp_path: Path) -> None:
    page = _gallery(answer, tmp_path)
    for _, own in page.tags:
        for name in {"src", "href", "action", "data"} & own.keys():
            assert str(own[name]).startswith("data:image/jpeg;base64,")
    text = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert not re.findall(r"https?:|@import|url\(|fetch\(|XMLHttp|WebSocket", re.sub(r"base64,[\w+/=]+", "", text))


def test_maps_colors_and_labels_are_those_of_our_pictures(answer: Explanation, tmp_path: Path) -> None:
    page = _gallery(answer, tmp_path)
    assert tuple(DIM) == DOUBTS
    styles = json.loads(page.scripts[0])["styles"]
    for style, dim in zip(styles, DIM.values(), strict=True):
        with Image.open(io.BytesIO(base64.b64decode(style["table"]))) as table:
            assert np.array_equal(np.asarray(table), blend(answer.signed, ALPHA * dim))
    for place, own in enumerate(page.of("li")):
        image, text = divmod(place, 3)
        stored = np.frombuffer(base64.b64decode(own["data-map"]), np.uint8)
        stored = stored.reshape(int(own["data-rows"]), int(own["data-cols"])).astype(float)
        heat = normalize(answer._map(image, text)).numpy()
        shown = signed(answer._map(image, text)).numpy() if answer.signed else heat
        values = stored / (LEVELS - 1) * 2 - 1 if answer.signed else stored / (LEVELS - 1)
        assert np.abs(values - shown).max() <= 1 / (LEVELS - 1)
        level = float(own["data-edge"]) / (LEVELS - 1)
        level = (level * 2 - 1 - shown.min()) / (shown.max() - shown.min()) if answer.signed else level
        assert level == pytest.approx(answer.level(image, text), abs=1e-3)
        assert DOUBTS[int(own["data-doubt"])] == answer.doubt(image, text)
        assert float(own["data-score"]) == pytest.approx(float(answer.scores[image, text]), abs=1e-6)


@pytest.mark.long
def test_an_image_is_there_once_and_small(answer: Explanation, tmp_path: Path) -> None:
    picture = Image.effect_noise((1500, 1000), 90).convert("RGB")
    maps = np.random.default_rng(0).normal(size=(2, 3, 200, 90)).astype(np.float32)
    big = replace(answer, images=(picture, picture), sizes=(picture.size,) * 2, maps=maps, flat=None)
    for side, wanted in ((None, SIDE), (300, 300)):
        page = _gallery(big, tmp_path / str(side), side)
        assert len(page.of("img")) == 2
        with Image.open(io.BytesIO(base64.b64decode(page.of("img")[0]["src"].partition(",")[2]))) as jpeg:
            assert jpeg.format == "JPEG" and max(jpeg.size) == wanted
    assert {(one["data-rows"], one["data-cols"]) for one in page.of("li")} == {(str(MOST_CELLS),) * 2}


def test_what_is_left_out_is_not_in_the_file(answer: Explanation, tmp_path: Path) -> None:
    page = _gallery(answer, tmp_path / "a", min_presence=0.9, sort="score")
    assert [one["data-label"] for one in page.of("li")] == [ODD[0], ODD[1]]
    assert [one["value"] for one in page.of("option") if "selected" in one] == ["score"]
    page = _gallery(answer, tmp_path / "b", min_presence=0.95)
    assert len(page.of("img")) == 1, "an image without texts is left out"


def test_without_presence_there_is_no_slider(answer: Explanation, tmp_path: Path) -> None:
    plain = replace(answer, health=None)
    page = _gallery(plain, tmp_path)
    assert not [one for one in page.of("input") if one.get("type") == "range"]
    assert {one["data-presence"] for one in page.of("li")} == {""}


def test_the_command_writes_a_gallery_next_to_its_table(tiny_name: str, images: Path, tmp_path: Path) -> None:
    words = ("-t", "a dog", "--format", "html,csv,json", "--max-side", 256)
    for _ in range(2):
        done = explain(images, *words, model=tiny_name, out=tmp_path)
        assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {"gallery.html", "table.csv", "manifest.json"}
    assert f"{tmp_path / 'gallery.html'}\n" in done.stderr
