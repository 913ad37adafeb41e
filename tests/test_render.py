import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from eclip import heatmap, render
from eclip.errors import OptionError, ShapeError

RAMP = np.tile(np.linspace(0, 1, 300, dtype=np.float32), (200, 1))


def gray(size, level=140):
    return Image.new("RGB", size, (level,) * 3)


def oklab(rgb):
    """Straight from Ottosson's post, color by color, as a second opinion on the matrices of render."""
    out = []
    for color in np.asarray(rgb, dtype=float).reshape(-1, 3):
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color)
        long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
        medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
        short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
        out.append(
            (
                0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
                1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
                0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
            )
        )
    return np.array(out)


def test_oklab_of_white_and_gray_is_neutral():
    assert oklab([[1, 1, 1]])[0] == pytest.approx([1, 0, 0], abs=1e-6)


def test_sequential_lightness_is_linear_and_steps_are_even():
    lab = oklab(render.sequential())
    np.testing.assert_allclose(lab[:, 0], np.linspace(0.22, 0.92, 255), atol=1e-5)  # also proves it is inside sRGB
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps.mean(), rtol=2e-3)


def test_diverging_lightness_is_linear_and_symmetric_around_a_neutral_zero():
    lab = oklab(render.diverging())
    np.testing.assert_allclose(lab[127:, 0], np.linspace(0.25, 0.80, 128), atol=1e-5)
    np.testing.assert_allclose(lab[:, 0], lab[::-1, 0], atol=1e-5)
    assert np.hypot(*lab[127, 1:]) < 1e-4
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.01)
    assert lab[0, 2] < -0.05 and lab[-1, 2] > 0.05  # negative is blue, positive is amber


def test_color_follows_the_evidence_and_gray_stays_where_there_is_none():
    picture = np.asarray(render.overlay(gray((300, 200)), RAMP, signed=False, legend=False)).astype(int)
    assert picture.shape == (200, 300, 3)
    chroma = (picture.max(2) - picture.min(2))[100]
    assert (chroma[:36] == 0).all()  # up to 0.12 of the peak: no color
    assert (picture[:, 0] < 140).all() and (picture[:, 0] > 110).all()  # slightly dimmed
    assert chroma[80] < chroma[120] < chroma[250]
    peak = picture[100, 299]
    assert peak[0] > peak[1] > peak[2]  # gold


def test_zero_opacity_shows_no_color():
    picture = np.asarray(render.overlay(gray((300, 200)), RAMP, signed=False, legend=False, alpha=0.0))
    assert (picture == picture[0, 0]).all() and len(set(picture[0, 0].tolist())) == 1


def test_signed_is_blue_below_zero_amber_above_and_gray_at_zero():
    values = np.array([[-1.0, 0.0, 1.0]], dtype=np.float32)
    below, zero, above = (
        np.asarray(render.overlay(gray((3, 1)), values, signed=True, legend=False))[0].astype(int).tolist()
    )
    assert below[2] > below[1] > below[0]
    assert len(set(zero)) == 1
    assert above[0] > above[1] > above[2]


def test_texture_of_the_photo_shows_through_the_peak():
    photo = Image.fromarray(np.tile(np.array([0, 255], np.uint8)[:, None, None], (10, 20, 3)))
    picture = np.asarray(render.overlay(photo, np.ones((20, 20), np.float32), signed=False, legend=False)).astype(int)
    assert (picture[1::2].sum(2) - picture[::2].sum(2)).min() > 60


@pytest.mark.parametrize("signed", [False, True])
def test_outline_runs_where_the_heat_map_is_half(signed):
    values = np.tile(np.linspace(-1 if signed else 0, 1, 401, dtype=np.float32), (5, 1))
    row = np.asarray(render.overlay(gray((401, 5), 0), values, signed=signed, legend=False, alpha=0.9))[2].min(1)
    lines = [100, 300] if signed else [200]  # where |value| is exactly 0.5
    for line in lines:
        assert row[line] > 200 and row[[line - 4, line + 4]].max() < 110
    assert (row > 200).sum() == len(lines)


def test_large_photos_are_drawn_in_blocks_without_seams(monkeypatch):
    values = np.random.default_rng(0).random((200, 300)).astype(np.float32)
    whole = render.overlay(gray((300, 200)), values, signed=False)
    monkeypatch.setattr(render, "BLOCK_PIXELS", 300 * 7)
    assert ImageChops.difference(whole, render.overlay(gray((300, 200)), values, signed=False)).getbbox() is None


def test_grid_values_are_resized_by_heatmap():
    grid = np.random.default_rng(1).random((7, 5)).astype(np.float32)
    resized = heatmap.resize(torch.from_numpy(grid), (200, 300)).numpy()
    pictures = [render.overlay(gray((300, 200)), values, signed=False) for values in (grid, resized)]
    assert ImageChops.difference(*pictures).getbbox() is None


def test_legend_lies_below_the_photo_and_leaves_it_alone():
    with_legend = render.overlay(gray((300, 200)), RAMP, signed=False, text="a dog", score=0.287)
    bare = render.overlay(gray((300, 200)), RAMP, signed=False, legend=False)
    assert with_legend.width == 300 and 225 <= with_legend.height <= 240
    assert ImageChops.difference(with_legend.crop((0, 0, 300, 200)), bare).getbbox() is None


@pytest.mark.parametrize("change", [{"text": "a cat"}, {"score": 0.286}, {"signed": True}])
def test_legend_shows_text_score_and_kind(change):
    def legend(**options):
        given = {"text": "a dog", "score": 0.287, "signed": False} | options
        return render.overlay(gray((300, 200)), 0 * RAMP, **given).crop((0, 200, 300, 240))

    assert ImageChops.difference(legend(), legend(**change)).getbbox() is not None


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1, 1), (240, 240)), ((1, 4000), (240, 4000)), ((4000, 1), (4000, 16)), ((20, 10), (240, 120))],
)
def test_small_photos_are_made_large_enough_to_see(size, expected):
    picture = render.overlay(gray(size), np.eye(7, dtype=np.float32), signed=False, text="a dog", score=0.1)
    assert (picture.width, picture.height - expected[1]) == (expected[0], pytest.approx(31, abs=1))
    assert render.overlay(gray(size), np.eye(7, dtype=np.float32), signed=False, legend=False).size == size


def test_long_text_is_cut_with_an_ellipsis_to_the_room():
    line, font = render._fit("a dog " * 500, 120.0, 14)
    assert line.startswith("a dog a dog") and line.endswith("…") and not line.endswith(" …")
    assert 100 < font.getlength(line) <= 120
    assert render._fit("a dog", 120.0, 14)[0] == "a dog"
    assert render._fit("a dog", 3.0, 14)[0] == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("le café", "le cafe"),
        ("🐶 and e\u0301", "(dog face) and e"),
        ("犬", r"\u72ac"),
        ("a\n b\t", "a b"),
        ("a \U0001f469\u200d\U0001f467", "a (woman)(girl)"),
        ("", ""),
    ],
)
def test_letters_no_font_has_are_spelled(monkeypatch, text, shown):
    monkeypatch.setattr(render, "SYSTEM_FONTS", ("no such font.ttf",))
    render._fonts.cache_clear()
    assert render._fit(text, 1000.0, 14)[0] == shown
    render._fonts.cache_clear()


def test_lone_surrogates_and_other_scripts_draw():
    for text in ("\ud800", "дом", "שלום", "犬がいる", "\x00\x07"):
        assert render.overlay(gray((300, 200)), RAMP, signed=False, text=text).width == 300


def strip_of(count, taken=None):
    def panels():
        for i in range(count):
            if taken is not None:
                taken.append(i)
            yield np.eye(3, dtype=np.float32)

    texts, scores = [f"text {i}" for i in range(count)], [0.1] * count
    return render.strip(gray((640, 480)), panels(), signed=False, texts=texts, scores=scores)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 2, 1), (5, 6, 1), (6, 4, 2), (23, 6, 4)])
def test_strip_wraps_into_even_rows(count, columns, rows):
    assert strip_of(count).size == (columns * 330 + 10, rows * 281 + 10)  # panels of 320 x (240 + 31), gaps of 10


def test_strip_begins_with_the_photo_in_color():
    photo = Image.new("RGB", (640, 480), (200, 30, 30))
    picture = render.strip(photo, [np.eye(3, dtype=np.float32)], signed=False, texts=["a"], scores=[0.1])
    assert picture.getpixel((10, 10)) == picture.getpixel((329, 249)) == (200, 30, 30)
    assert len(set(picture.getpixel((340 + 319, 10)))) == 1  # no evidence in that corner: gray


def test_strip_of_a_thousand_texts_draws_few_and_says_how_many_more():
    taken = []
    picture = strip_of(1000, taken)
    assert taken == list(range(22)) and picture.size == (6 * 330 + 10, 4 * 281 + 10)
    last = picture.width - 330, picture.height - 291, picture.width, picture.height
    assert np.asarray(picture.crop(last)).max() > 100  # "+ 978 more" is written where the last panel would be
    assert ImageChops.difference(picture.crop(last), strip_of(25).crop(last)).getbbox() is not None  # "+ 3 more"


def test_strip_refuses_texts_without_scores():
    with pytest.raises(ShapeError, match="2 texts and 1 scores"):
        render.strip(gray((9, 9)), [], signed=False, texts=["a", "b"], scores=[0.1])


@pytest.mark.parametrize(("values", "signed"), [([[0.0, 1.2]], False), ([[-0.1, 1.0]], False), ([[np.nan, 0]], True)])
def test_values_outside_their_range_are_refused(values, signed):
    with pytest.raises(OptionError, match=r"heatmap\.(normalize|signed) makes them"):
        render.overlay(gray((4, 4)), np.array(values, np.float32), signed=signed)


def test_alpha_outside_its_range_is_refused():
    with pytest.raises(OptionError, match=r"between 0 and 1, got 1\.5"):
        render.overlay(gray((4, 4)), np.eye(4, dtype=np.float32), signed=False, alpha=1.5)
