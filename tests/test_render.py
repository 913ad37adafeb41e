import importlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from eclip import heatmap, render
from eclip.errors import EclipError, OptionError, ShapeError
from eclip.render import Row, Section, comparison, fonts

overlay = importlib.import_module("eclip.render.overlay")  # whose function has its name in the package
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


def test_texture_of_the_image_shows_through_the_peak():
    image = Image.fromarray(np.tile(np.array([0, 255], np.uint8)[:, None, None], (10, 20, 3)))
    picture = np.asarray(render.overlay(image, np.ones((20, 20), np.float32), signed=False, legend=False)).astype(int)
    assert (picture[1::2].sum(2) - picture[::2].sum(2)).min() > 60


@pytest.mark.parametrize("signed", [False, True])
def test_outline_runs_where_the_heat_map_is_half(signed):
    values = np.tile(np.linspace(-1 if signed else 0, 1, 401, dtype=np.float32), (5, 1))
    row = np.asarray(render.overlay(gray((401, 5), 0), values, signed=signed, legend=False, alpha=0.9))[2].min(1)
    lines = [100, 300] if signed else [200]  # where |value| is exactly 0.5
    for line in lines:
        assert row[line] > 200 and row[[line - 4, line + 4]].max() < 110
    assert (row > 200).sum() == len(lines)


def test_large_images_are_drawn_in_blocks_without_seams(monkeypatch):
    values = np.random.default_rng(0).random((200, 300)).astype(np.float32)
    whole = render.overlay(gray((300, 200)), values, signed=False)
    monkeypatch.setattr(overlay, "BLOCK_PIXELS", 300 * 7)
    assert ImageChops.difference(whole, render.overlay(gray((300, 200)), values, signed=False)).getbbox() is None


def test_grid_values_are_resized_by_heatmap():
    grid = np.random.default_rng(1).random((7, 5)).astype(np.float32)
    resized = heatmap.resize(torch.from_numpy(grid), (200, 300)).numpy()
    pictures = [render.overlay(gray((300, 200)), values, signed=False) for values in (grid, resized)]
    assert ImageChops.difference(*pictures).getbbox() is None


def test_legend_lies_below_the_image_and_leaves_it_alone():
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


def test_a_text_without_room_beside_its_score_is_above_it():
    """Else only "a photo of a..." would be left on a narrow picture; panels of a strip stay equally high."""

    def legend(text):
        picture = render.overlay(gray((200, 300)), 0 * RAMP, signed=False, text=text, score=0.287)
        return np.asarray(picture)[300:]

    short, person, sheep = legend("a dog"), legend("a photo of a person"), legend("a photo of a sheep")
    assert person.shape == sheep.shape and person.shape[0] > short.shape[0] + 13
    assert not np.array_equal(person, sheep)
    lower = -short.shape[0] + 8
    assert np.array_equal(person[lower:], sheep[lower:]), "score and bar below are the same"
    assert legend("a dog " * 500).shape[0] > person.shape[0], "two lines at most"
    assert legend("a dog " * 500).shape == legend("a dog " * 40).shape
    texts = ["a dog", "a photo of a person"]
    both = render.strip(gray((200, 300)), [0 * RAMP] * 2, signed=False, texts=texts, scores=[0.287, 0.287])
    one = render.strip(gray((200, 300)), [0 * RAMP], signed=False, texts=texts[1:], scores=[0.287])
    assert both.height == one.height


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1, 1), (240, 240)), ((1, 4000), (240, 4000)), ((4000, 1), (4000, 16)), ((20, 10), (240, 120))],
)
def test_small_images_are_made_large_enough_to_see(size, expected):
    picture = render.overlay(gray(size), np.eye(7, dtype=np.float32), signed=False, text="a dog", score=0.1)
    assert (picture.width, picture.height - expected[1]) == (expected[0], pytest.approx(31, abs=1))
    assert render.overlay(gray(size), np.eye(7, dtype=np.float32), signed=False, legend=False).size == size


def test_long_text_is_cut_with_an_ellipsis_to_the_room():
    line, font = fonts.fit("a dog " * 500, 120.0, 14)
    assert line.startswith("a dog a dog") and line.endswith("…") and not line.endswith(" …")
    assert 100 < font.getlength(line) <= 120
    assert fonts.fit("a dog", 120.0, 14)[0] == "a dog"
    assert fonts.fit("a dog", 3.0, 14)[0] == ""


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
def test_letters_no_font_has_are_spelled(monkeypatch, caplog, text, shown):
    monkeypatch.setattr(fonts, "SYSTEM_FONTS", ("no such font.ttf",))
    for cached in (fonts.fonts, fonts._installed, fonts._warn_once):
        cached.cache_clear()
    for _ in range(2):
        assert fonts.fit(text, 1000.0, 14)[0] == shown
    said = ["no installed font draws Cjk letters, so pictures show their codes."] if "\\u" in shown else []
    assert [record.message.partition(" Install")[0] for record in caplog.records] == said, "once, and what to install"
    fonts.fonts.cache_clear()
    fonts._installed.cache_clear()


def test_wrapped_lines_fit_break_at_spaces_and_end_in_an_ellipsis():
    words = "an elephant beside a man in front of a wall"
    lines, font = fonts.wrap(words, 120, 14, 9)
    assert " ".join(lines) == words and len(lines) == 3
    assert max(font.getlength(line) for line in lines) <= 120
    assert font.getlength(f"{lines[0]} {lines[1].split()[0]}") > 120, "a line is as full as it can be"
    cut, _ = fonts.wrap(words, 120, 14, 2)
    assert cut[0] == lines[0] and cut[1].endswith("…")
    assert words.removeprefix(f"{lines[0]} ").startswith(cut[1][:-1]) and font.getlength(cut[1]) <= 120
    broken, _ = fonts.wrap("o" * 40, 120, 14, 9)
    assert "".join(broken) == "o" * 40 and max(font.getlength(line) for line in broken) <= 120
    assert fonts.wrap("", 120, 14, 2)[0] == []


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


def test_strip_begins_with_the_image_in_color():
    image = Image.new("RGB", (640, 480), (200, 30, 30))
    picture = render.strip(image, [np.eye(3, dtype=np.float32)], signed=False, texts=["a"], scores=[0.1])
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
    with pytest.raises(OptionError, match=r"use heatmap\.(normalize|signed) first"):
        render.overlay(gray((4, 4)), np.array(values, np.float32), signed=signed)


def test_alpha_outside_its_range_is_refused():
    with pytest.raises(OptionError, match=r"between 0 and 1, got 1\.5"):
        render.overlay(gray((4, 4)), np.eye(4, dtype=np.float32), signed=False, alpha=1.5)


# --- grid: a row a method, a column a text -------------------------------------

LEFT, TOP = 32 + 220 + 24, 32 + 147 + 8  # where panels of 220 x 147 begin, and the first row: below the image


def section(*rows, name="m", scores=(0.3, 0.2)):
    return Section(name, "note", None if scores is None else np.array(scores, np.float32), rows)


def row(maps, name="itsm", kind="similarity"):
    return Row(name, kind, "12 ms", np.array(maps, np.float32))


def grid(*sections, texts=("a dog", "grass"), size=(300, 200), **options):
    return render.grid(gray(size), sections, texts=texts, **options)


def drawn(values, size=(220, 147), signed=False):
    return render.overlay(gray(size), np.array(values, np.float32), signed=signed, legend=False)


def same(picture, box, expected):
    return ImageChops.difference(picture.crop(box), expected).getbbox() is None


def box(column, top, width=220, height=147):
    return LEFT + column * (width + 8), top, LEFT + column * (width + 8) + width, top + height


def test_grid_has_a_row_a_method_and_a_column_a_text():
    first, second, other = [[[0, 8]], [[3, 1]]], [[[0, 0]], [[2, 0]]], [[[1, 0]], [[0, 1]]]
    picture = grid(section(row(first), row(second, "rclip"), row(other, "legrad", "gradient")))
    image = gray((220, 147))
    assert same(picture, (32, 32, 32 + 220, 32 + 147), image)
    assert picture.width == LEFT + 470 + 32  # 2 panels take 448; the words below take 470
    assert same(picture, box(0, TOP + 8), drawn([[0, 1]])) and same(picture, box(1, TOP + 8), drawn([[1, 0]]))
    below = TOP + 8 + 147 + 8
    assert same(picture, box(0, below), drawn([[0, 0]])) and same(picture, box(1, below), drawn([[1, 0]]))
    other_kind = below + 147 + 22
    assert same(picture, box(0, other_kind), drawn([[1, 0]]))


def test_grid_lays_models_below_one_another_with_their_own_scores():
    one = section(row([[[0, 1]], [[0, 1]]]))
    two = grid(one, one)
    assert two.width == grid(one).width
    other = section(row([[[0, 1]], [[0, 1]]]), scores=(0.3, 0.1))
    second = (0, TOP + 8 + 147, two.width, two.height)
    assert same(two, (0, 0, two.width, second[1]), grid(one, other).crop((0, 0, two.width, second[1])))
    assert not same(two, second, grid(one, other).crop(second))
    assert two.height - grid(one).height == 32 + 32 + 17 + 11 + 20 + 17 + 8 + 8 + 147  # no image in the second header


def test_grid_scale_is_of_each_map_or_of_the_row():
    rows = section(row([[[0, 2]], [[1, 8]]]))
    of_map, of_row = grid(rows), grid(rows, scale="row")
    assert same(of_map, box(0, TOP + 8), drawn([[0, 1]])) and same(of_map, box(1, TOP + 8), drawn([[0, 1]]))
    assert same(of_row, box(0, TOP + 8), drawn([[0, 0.25]])) and same(of_row, box(1, TOP + 8), drawn([[0.125, 1]]))
    with pytest.raises(OptionError, match=r"map, row, got 'all'"):
        grid(rows, scale="all")


def test_grid_versus_is_blue_for_the_other_text_and_says_so():
    rows = section(row([[[-4, 2]], [[0, 8]]]))
    picture = grid(rows, versus="a wolf")
    top = TOP + 8  # words above the panels, "not a wolf" among them, are still lower than the image
    assert same(picture, box(0, top), drawn([[-1, 0.5]], signed=True))
    left, right = (picture.getpixel((x, top + 70)) for x in (LEFT + 5, LEFT + 228 + 215))
    assert left[2] > left[0] and right[0] > right[2]
    assert ImageChops.difference(picture, grid(rows, versus="a cat")).getbbox() is not None


def test_grid_shows_over_the_row_why_a_method_is_not_applicable():
    rows = row([[[0, 1]], [[1, 0]]]), Row("rollout", "similarity", gap="it has no depth")
    picture = grid(section(*rows))
    top = TOP + 8 + 147 + 8
    for x in (LEFT + 8, LEFT + 224, picture.width - 32 - 8):
        assert picture.getpixel((x, top + 8)) == comparison.QUIET, "one quiet cell over all columns"
    assert picture.getpixel((picture.width - 30, top + 8)) == comparison.BACKGROUND
    assert np.asarray(picture.crop((LEFT, top, picture.width - 32, top + 66))).max() > 100, (
        "the reason is written there"
    )
    assert np.asarray(picture.crop((32, top, LEFT, top + 66))).max() > 100, "and the name beside it"
    alone = grid(section(rows[1], scores=None))
    assert alone.height < picture.height


def test_grid_shows_the_twenty_texts_that_score_best():
    maps = np.zeros((25, 1, 2), np.float32)
    maps[24, 0, 1] = 1  # the map of the text that scores best
    rows = section(Row("itsm", "similarity", "", maps), scores=np.linspace(-0.1, 0.3, 25))
    picture = grid(rows, texts=[f"text {index}" for index in range(25)])
    left = 32 + 176 + 24
    assert picture.width == left + 20 * 168 - 8 + 32
    size = (160, 107)
    top = 32 + 107 + 8 + 8
    assert same(picture, (left, top, left + 160, top + 107), drawn([[0, 1]], size))
    assert same(picture, (left + 168, top, left + 328, top + 107), drawn([[0, 0]], size))


@pytest.mark.parametrize(("size", "panel"), [((1, 4000), (16, 220)), ((4000, 1), (220, 16)), ((3, 3), (220, 220))])
def test_grid_of_images_of_any_shape(size, panel):
    picture = grid(section(row([[[0, 1]], [[1, 0]]])), size=size)
    left = 32 + max(176, panel[0]) + 24
    header = max(panel[1], 97)
    top = 32 + header + 16
    assert same(picture, (left, top, left + panel[0], top + panel[1]), drawn([[0, 1]], panel))
    second = left + max(panel[0], 112) + 8
    assert same(picture, (second, top, second + panel[0], top + panel[1]), drawn([[1, 0]], panel))
    assert picture.width < 900 and picture.height < 700


def test_grid_refuses_values_that_are_no_numbers():
    with pytest.raises(EclipError, match="NaN or infinite"):
        grid(section(row([[[np.nan, 1]], [[0, 1]]])))
