"""Figures for print: what is on them, that letters stay letters, and that nothing of matplotlib's state changes."""

from __future__ import annotations

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

import eclip
import tiny
from eclip.errors import OptionError
from eclip.explanation.explanation import Explanation
from eclip.explanation.health import Health
from eclip.render.colormaps import COLORMAPS, LEVELS, oklab, table
from eclip.render.figure import POINTS, WIDTHS, Cell, Line, _wrapped, figure
from eclip.results.marks import is_ours
from test_cli import run
from test_explanation import _by_hand

TEXTS = ["a dog", "grass, and a very long text that has to be broken and cut", "猫 & <b>"]


@pytest.fixture(scope="module")
def answer() -> Explanation:
    images = [Image.effect_noise((60, 40), 60).convert("RGB"), Image.effect_noise((30, 50), 60).convert("RGB")]
    backbone = tiny.kept("vit")
    found = eclip.explain(images, TEXTS, model=backbone, method="gem", health=False)
    numbers = {name: np.full((2, 3), 0.9, np.float32) for name in ("sensitivity", "polarity", "presence")}
    numbers |= {name: np.zeros((2, 3), np.float32) for name in ("artefacts", "emptiness")}
    numbers["presence"][0] = (0.1, 0.7, 0.99)
    return replace(found, health=Health(**numbers, texts=tuple(TEXTS), notes=()))


def written(page: Any) -> list[str]:
    return [text.get_text() for text in page.texts]


def test_every_image_has_its_panels_and_words(answer: Explanation) -> None:
    page = answer.figure()
    assert page.get_figwidth() == WIDTHS["double"]
    assert len(page.axes) == 2 * 4 + 1, "an image and three maps each, and the bar"
    words = written(page)
    assert words.count("a dog") == 2 and f"score {answer.scores[1, 0]:.3f}" in words
    assert sum(word.startswith("grass, and") for word in words) == 2
    assert " ".join(words).count("probably not in the image") == 1 and " ".join(words).count("may not be in the") == 1
    assert "gem on vit. The line encloses the mask of each map." in words and {"0", "1"} <= set(words)
    some = answer.figure(1, ["a dog", 2], width=3, columns=2)
    assert (len(some.axes), some.get_figwidth()) == (4, 3) and "猫 & <b>" in written(some)
    inside = [axes.get_position() for axes in page.axes]
    assert all(0 <= one.x0 < one.x1 <= 1 and 0 <= one.y0 < one.y1 <= 1 for one in inside)
    boxes = sorted((round(one.y0, 3), one.x0, one.x1) for one in inside[:-1])
    for (row, _, end), (other, start, _) in pairwise(boxes):
        assert row != other or end < start, "panels do not overlap"


def test_panels_show_the_map_and_its_outline(answer: Explanation) -> None:
    page = answer.figure(0, 2, dpi=100)
    image, shown = (axes.images[0].get_array() for axes in page.axes[:2])
    assert np.array_equal(np.asarray(image).shape, np.asarray(shown).shape)
    gray = np.asarray(Image.fromarray(np.asarray(image)).convert("L"), float)
    color = np.asarray(shown, float)
    apart = np.ptp(color, axis=2)  # colors where there is evidence, grays where there is none
    heat = eclip.heatmap.resize(torch.from_numpy(answer.heatmap(0, 2)), gray.shape).numpy()
    assert apart[heat > 0.8].mean() > 60 > 8 > apart[heat < 0.1].mean()
    [outline] = page.axes[1].collections
    assert not page.axes[0].collections
    whole = answer.heatmap(0, 2)
    line = np.concatenate([path.vertices for path in outline.get_paths()])
    col, row = (line * (whole.shape[1] / gray.shape[1]) - 0.5).T
    there = whole[row.round().astype(int).clip(0, 39), col.round().astype(int).clip(0, 59)]
    assert len(line) > 20 and np.abs(there - answer.level(0, 2)).max() < 0.1, "the line encloses the mask"
    faint = answer.figure(0, 0, dpi=100).axes[1].images[0].get_array()
    clear = replace(answer, health=None).figure(0, 0, dpi=100).axes[1].images[0].get_array()
    assert np.ptp(np.asarray(faint, float), axis=2).mean() < 0.6 * np.ptp(np.asarray(clear, float), axis=2).mean()


def test_letters_stay_letters_and_no_state_of_matplotlib_changes(answer: Explanation, tmp_path: Path) -> None:
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    page = answer.figure(0, [0, 1], theme="dark", width="single")
    for name in ("a.pdf", "a.svg", "a.png"):
        page.savefig(tmp_path / name)
    assert dict(matplotlib.rcParams) == before and matplotlib.get_backend() == backend
    pdf, svg = (tmp_path / "a.pdf").read_bytes(), (tmp_path / "a.svg").read_text()
    assert b"/Type3" not in pdf and b"/CIDFontType2" in pdf
    assert ">a dog</text>" in svg and svg.count("<image") == 4
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.width == round(300 * WIDTHS["single"]) and drawn.getpixel((2, 2))[:3] == (20, 20, 24)


def test_rc_params_of_the_user_change_no_figure_and_stay_as_they_are(answer: Explanation) -> None:
    def saved() -> np.ndarray:
        answer.figure(0, [0, 1], dpi=60).savefig(buffer := io.BytesIO(), format="png")
        return np.asarray(Image.open(buffer))

    usual = saved()
    own: dict[str, Any] = {"image.origin": "lower", "text.usetex": True, "figure.autolayout": True}
    own |= {"savefig.bbox": "tight", "savefig.facecolor": "red", "savefig.transparent": True}
    with matplotlib.rc_context(own):
        before = dict(matplotlib.rcParams)
        assert np.array_equal(saved(), usual)
        pages = [answer.figure(0, 0, dpi=60) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda page: page.savefig(io.BytesIO(), format="svg"), 4 * pages))
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", COLORMAPS)
def test_lightness_rises_evenly(name: str) -> None:
    lightness = oklab(table(False, name))[:, 0]
    steps = np.diff(lightness)
    assert len(steps) == LEVELS - 1 and steps.min() > -1e-3 and lightness[-1] - lightness[0] > 0.4
    assert steps.max() < 6 * steps.mean(), "no step that would look like an edge"


def test_signed_maps_diverge_whatever_the_colormap() -> None:
    signed = _by_hand([[-1, 0], [0, 3]], (32, 32), signed=True)
    own, other = (signed.figure(colormap=name, dpi=60).axes[1].images[0].get_array() for name in ("eclip", "viridis"))
    assert np.array_equal(own, other)
    assert {"-1", "+1"} <= set(written(signed.figure()))
    plain = _by_hand([[-1, 0], [0, 3]], (32, 32))
    own, other = (plain.figure(colormap=name, dpi=60).axes[1].images[0].get_array() for name in ("eclip", "viridis"))
    assert not np.array_equal(own, other)


def test_control_characters_leave_an_svg_readable() -> None:
    cell = Cell(Image.new("RGB", (32, 32)), title="a \x1b[1mdog\0")
    figure([Line([cell])], width=1, dpi=30).savefig(buffer := io.BytesIO(), format="svg")
    assert "dog" in "".join(ElementTree.fromstring(buffer.getvalue()).itertext())


@pytest.mark.parametrize("text", ["猫" * 40, "supercalifragilisticexpialidocious" * 2, "dogs and " * 20])
@pytest.mark.parametrize("most", [1, 2])
def test_lines_fit_and_long_words_are_cut_and_not_dropped(text: str, most: int) -> None:
    lines = _wrapped(text, 1.0, POINTS, most)
    assert len(lines) == most and lines[-1].endswith("…") and len(lines[-1]) > 4
    assert all(len(line) * POINTS * (1 if "猫" in line else 0.5) <= 72 for line in lines)


def test_a_flat_map_has_no_outline() -> None:
    assert not _by_hand([[1, 1], [1, 1]], (32, 32)).figure(dpi=60).axes[1].collections


def test_comparisons_have_a_column_for_each_method(images: Path) -> None:
    found = eclip.compare(images / "a.png", TEXTS[:2], models=tiny.kept("vit"), methods="itsm,surgery,rollout")
    page = found.figure(dpi=60)
    words = written(page)
    assert [words.count(name) for name in ("itsm", "surgery", "rollout")] == [1, 1, 1]
    assert len(page.axes) == 1 + 2 * 3 + 2, "the image once, two texts of three methods, two bars"
    assert any(word.startswith("vit. The line") for word in words)
    assert len(found.figure(0, ["itsm"], dpi=np.int64(60)).axes) == 3
    refined = eclip.compare(images / "a.png", "x", models=tiny.kept("vit"), methods="itsm", refine="pamr")
    assert any(word.startswith("vit, refined by pamr. The line") for word in written(refined.figure(dpi=60)))
    with pytest.raises(OptionError, match="no map of gem: it has itsm, surgery, rollout"):
        found.figure(methods=["gem"])
    none = eclip.compare(images / "a.png", "x", models=tiny.kept("resnet"), methods="rollout")
    with pytest.raises(OptionError, match="no method of this comparison is applicable"):
        none.figure()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"width": "wide"}, "width must be 'single', 'double' or 1 to 40 inches, got 'wide'"),
        ({"width": 0.5}, "1 to 40 inches, got 0.5"),
        ({"width": True}, "1 to 40 inches"),
        ({"theme": "sepia"}, "theme must be one of light, dark"),
        ({"colormap": "jet"}, "colormap must be one of eclip, cividis"),
        ({"dpi": 10}, "dpi must be a whole number from 30 to 1200, got 10"),
        ({"dpi": 72.5}, "dpi must be a whole number"),
        ({"width": None}, "width must be 'single', 'double' or 1 to 40 inches, got None"),
        ({"colour": "x"}, "a figure has no 'colour': its style is width, theme, colormap, dpi"),
        ({"columns": 0}, "columns must be a whole number or None, at least 1"),
        ({"width": 1.5, "columns": 4}, "has no room for 2 rows of 4 panels: choose fewer images"),
        ({"texts": "a cat"}, "a cat"),
        ({"images": []}, "a figure needs an image and a text"),
        ({"images": 7}, "7"),
    ],
)
def test_what_cannot_be_drawn_is_told(asked: dict[str, Any], message: str, answer: Explanation) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        answer.figure(**asked)


def test_many_methods_are_drawn_below_each_other() -> None:
    compared = eclip.compare(
        Image.new("RGB", (40, 30), "red"), ["a dog", "grass"], models=tiny.kept("vit"), methods="fast"
    )
    count = len(compared.explanations)
    page = compared.figure(dpi=40)
    drawn = [axis for axis in page.axes if axis.images]
    assert count > 11 and len(drawn) >= 2 * count + 1  # and the image; the color bar may be one more
    with pytest.raises(OptionError, match="has no room"):
        compared.figure(width=1.2)


def test_odd_images_have_figures(tmp_path: Path) -> None:
    for size in ((1, 1), (400, 3), (3, 400)):
        cell = Cell(Image.new("RGB", size), np.array([[0.0, 1.0]], np.float32), heat=np.array([[0.0, 1.0]], np.float32))
        page = figure([Line([cell, None, cell], "text")], dpi=40)
        page.savefig(tmp_path / "odd.png")
        assert len(page.axes) == 3 and page.get_figheight() < 8


@pytest.mark.long
def test_the_command_line_writes_figures(tiny_name: str, images: Path, tmp_path: Path) -> None:
    asked = [images / "a.png", "-t", "a dog", "-t", "grass", "--format", "pdf,svg,json"]
    style = ["--theme", "dark", "--width", "3", "--dpi", "60", "--colormap", "magma", "--columns", "2"]
    done = run("explain", *asked, *style, "-m", tiny_name, "-o", tmp_path / "one")
    assert done.exit_code == 0, done.output
    files = json.loads((tmp_path / "one" / "manifest.json").read_text())["images"][0]["files"]
    assert {files["pdf"], files["svg"]} == {"a.figure.pdf", "a.figure.svg"}
    svg = (tmp_path / "one" / "a.figure.svg").read_text()
    assert 'width="216pt"' in svg and "#141418" in svg and svg.count("<image") == 4
    assert is_ours(tmp_path / "one" / "a.figure.pdf") and is_ours(tmp_path / "one" / "a.figure.svg")
    assert run("explain", *asked, *style, "-m", tiny_name, "-o", tmp_path / "two").exit_code == 0
    for name in ("a.figure.pdf", "a.figure.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), "the same bytes"
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "a.figure.pdf").write_bytes(b"%PDF of somebody else")
    assert run("explain", *asked, "-m", tiny_name, "-o", tmp_path / "three").exit_code == 0
    assert (tmp_path / "three" / "a.figure.pdf").read_bytes() == b"%PDF of somebody else"
    assert (tmp_path / "three" / "a-2.figure.pdf").is_file()
    more = ("--methods", "itsm,gem", "-m", tiny_name, "--dpi", "60", "--width", "single")
    done = run("compare", *asked, *more, "-o", tmp_path / "four")
    assert done.exit_code == 0, done.output
    assert 'width="234pt"' in (tmp_path / "four" / "a.figure.svg").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--theme dark", "--theme is for figures: add --format pdf or --format svg"),
        ("--format pdf --width wide", "width must be 'single', 'double' or 1 to 40 inches, got 'wide'"),
        ("--format pdf --width 0.2", "1 to 40 inches, got 0.2"),
        ("--format svg --colormap jet", "colormap must be one of eclip, cividis"),
        ("--format pdf,eps", "formats must be among png, npz, json"),
    ],
)
def test_wrong_styles_are_told_before_the_model_is_loaded(
    words: str, message: str, images: Path, tmp_path: Path
) -> None:
    done = run("explain", images / "a.png", "-t", "x", "-o", tmp_path / "out", *words.split())
    assert done.exit_code == 2 and message in " ".join(done.stderr.split()), done.output
    assert not (tmp_path / "out").exists()


def test_a_figure_breaks_into_rows_that_fit(answer: Explanation) -> None:
    assert len({round(axes.get_position().y0, 2) for axes in answer.figure(0).axes[:-1]}) == 1
    assert len({round(axes.get_position().y0, 2) for axes in answer.figure(0, width="single").axes[:-1]}) == 2
