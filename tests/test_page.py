"""The page in a real browser: headless Chromium, driven by Playwright, against a real server with `mini`."""

# ruff: noqa: E402  # what is not installed is found out before it is imported

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [web]")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium (Debian: apt-get install chromium)", allow_module_level=True)

from PIL import Image
from safetensors.torch import save_file

import eclip
import tiny
from eclip import heatmap
from eclip.web.settings import Limits, Settings
from serving import Served, served

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "src" / "eclip" / "web" / "examples"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(Settings(limits=Limits(file_bytes=4 << 20))) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield one
        one.close()


@pytest.fixture
def page(browser: Any, server: Served) -> Iterator[Any]:
    """A new page; at the end, nothing may have been logged as an error."""
    context = context_of(browser, viewport={"width": 1280, "height": 900}, accept_downloads=True)
    yield from opened(context, server.address)


def opened(context: Any, address: str) -> Iterator[Any]:
    one, said = context.new_page(), list[str]()
    one.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    one.on("pageerror", lambda error: said.append(str(error)))
    one.said = said
    one.goto(address)
    one.wait_for_selector("body.ready")
    yield one
    context.close()
    assert not said


def context_of(browser: Any, **options: Any) -> Any:
    """A new window; machines under load take their time."""
    context = browser.new_context(**options)
    context.set_default_timeout(60_000)
    return context


def look_at(page: Any, name: str, *, texts: bool = True) -> None:
    """Choose an example and wait for the answer."""
    page.click(f'#gallery button[title^="{ALT[name]}"]' if not page.query_selector("body.has-image") else
               f'#strip button[title^="{ALT[name]}"]')  # fmt: skip
    shown = "alt => document.getElementById('canvas').ariaLabel.startsWith(alt)"
    page.wait_for_function(shown, arg=ALT[name])
    if texts:
        answered(page)


def answered(page: Any) -> None:
    try:
        page.wait_for_function("""() => {
          const scores = [...document.querySelectorAll('#chips .score')]
          if (document.getElementById('panel').getAttribute('aria-busy') === 'true') return false
          return scores.length && scores.every(one => /\\d/.test(one.textContent))
        }""")
    except sync_api.TimeoutError:  # what the page says instead
        raise AssertionError(page.inner_text("body") + getattr(page, "url", "")) from None
    settled(page)


def settled(page: Any) -> None:
    """Two frames later, everything is drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


ALT = {one["name"]: one["alt"] for one in json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))}


def pixels(page: Any) -> np.ndarray:
    data = page.evaluate("document.getElementById('canvas').toDataURL('image/png')").partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), np.int64)


def large(name: str, tmp_path: Path) -> Path:
    """An example as a file that is shown in its own size."""
    file = tmp_path / f"{Path(name).stem}.png"
    image = Image.open(EXAMPLES / name).convert("RGB")
    image.resize((680, round(680 * image.height / image.width)), Image.Resampling.BICUBIC).save(file)
    return file


@pytest.mark.long
def test_the_main_path_by_mouse(page: Any) -> None:
    look_at(page, "elephant.jpg")
    chips = page.locator("#chips li")
    assert [one.split("\n")[0] for one in chips.all_inner_texts()] == ["an elephant", "a man", "a dog"]
    assert "probably not there" in chips.nth(2).inner_text() and "not there" not in chips.nth(0).inner_text()
    page.wait_for_selector("#concept-chips button")
    assert page.locator("#concept-chips button").first.inner_text().startswith("+ ")
    page.fill("#text", "a wall")
    page.click("#text-form button")
    answered(page)
    assert chips.count() == 4 and chips.nth(3).locator("[aria-pressed=true]").count() == 1
    first = pixels(page)
    chips.nth(0).locator(".chip").click()
    settled(page)
    assert (pixels(page) != first).mean() > 0.3
    page.click('[aria-label="Remove a wall"]')
    answered(page)
    assert chips.count() == 3
    page.locator("#concept-chips button").first.click()
    answered(page)
    assert chips.count() == 4


@pytest.mark.parametrize(("method", "versus"), [("eclip", None), ("gem", None), ("gradcam", "a man")])
@pytest.mark.long
def test_the_canvas_is_the_overlay(page: Any, tmp_path: Path, method: str, versus: str | None) -> None:
    file = large("elephant.jpg", tmp_path)
    page.set_input_files("#file", file)
    page.wait_for_selector("body.has-image")
    page.select_option("#method", method)
    for text in ("an elephant", "a man", "a dog"):
        page.fill("#text", text)
        page.press("#text", "Enter")
    answered(page)
    if versus is not None:
        page.select_option("#versus", versus)
        page.wait_for_selector("#chips :text('an elephant, not a man')")
        answered(page)
    r = eclip.explain(file, ["an elephant", "a man", "a dog"], method=method, versus=versus)
    for number in (0, 2):
        page.locator("#chips .chip").nth(number).click()
        settled(page)
        expected = np.asarray(r.overlay(0, number, legend=False), np.int64)
        close(pixels(page), expected)
    page.evaluate("""() => { for (const [id, value] of [['threshold', 0.3], ['alpha', 0.5]]) {
      const slider = document.getElementById(id); slider.value = value; slider.dispatchEvent(new Event('input')) } }""")
    settled(page)
    expected = np.asarray(r.overlay(0, 2, legend=False, threshold=0.3, alpha=0.5), np.int64)
    close(pixels(page), expected)


def close(shown: np.ndarray, expected: np.ndarray) -> None:
    """Within 2 levels; without fused multiply-add, one value in ten thousand may round to the next color."""
    off = np.abs(shown - expected).max(axis=2)
    assert (off > 2).mean() < 1e-4 and off.max() <= 4


@pytest.mark.long
def test_masks_and_boxes_are_those_of_the_library(page: Any, tmp_path: Path) -> None:
    script = """([values, width, height, level]) => import('/static/regions.js')
      .then(({boxes}) => boxes(Float32Array.from(values), width, height, level))"""
    rng = np.random.default_rng(0)
    for side, level in ((1, 0.5), (5, 0.5), (23, 0.6), (40, 0.45)):
        noise = rng.random((side, side + 3), dtype=np.float32)
        found = page.evaluate(script, [noise.ravel().tolist(), side + 3, side, level])
        assert found == heatmap.boxes(noise >= np.float32(level), min_area=None).tolist()
    file = large("street.jpg", tmp_path)
    page.set_input_files("#file", file)
    page.fill("#text", "a taxi")
    page.press("#text", "Enter")
    answered(page)
    page.check("#mask")
    settled(page)
    mask = eclip.explain(file, "a taxi").mask()
    image = np.asarray(Image.open(file), np.int64)
    shown = (pixels(page) == image).all(axis=2)
    assert (shown & mask).sum() > 0.9 * mask.sum() and (shown & ~mask).sum() < 0.02 * mask.size


@pytest.mark.long
def test_by_keyboard_alone(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#gallery') !== null"):
            break
    page.keyboard.press("Enter")
    answered(page)
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("a forest")
    page.keyboard.press("Enter")
    answered(page)
    page.focus("#canvas")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#readout").startswith("row 1, column 1 · value ")
    for _ in range(30):
        page.keyboard.press("ArrowDown")
    assert page.inner_text("#readout").startswith("row 13, column 1 ")
    page.focus("#tab-map")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-words" and page.is_visible("#view-words")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.id") == "tab-export" and page.is_visible("#command")


@pytest.mark.long
def test_the_value_under_the_pointer(page: Any, tmp_path: Path) -> None:
    look_at(page, "cat.jpg")
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 7.5 / 14, box["y"] + box["height"] * 5.5 / 14)
    r = eclip.explain(EXAMPLES / "cat.jpg", ["a cat", "a keyboard", "a horse"])
    heat = heatmap.normalize(eclip.explain(EXAMPLES / "cat.jpg", "a cat").torch().maps[0, 0])[5, 7]
    row, value, shown = page.inner_text("#readout").split(" · ")
    assert row == "row 5, column 7"
    assert float(value.split()[1]) == pytest.approx(float(r.maps[0, 0, 5, 7]), rel=2e-3)
    assert float(shown.split()[1]) == pytest.approx(float(heat), abs=0.006)


@pytest.mark.long
def test_words_and_patches_are_linked_without_asking_again(page: Any) -> None:
    look_at(page, "elephant.jpg")
    sentence = "a man standing next to an elephant"
    page.fill("#text", sentence)
    page.press("#text", "Enter")
    answered(page)
    page.click("#tab-words")
    page.wait_for_selector("#sentence")
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url))
    own = eclip.interactions(EXAMPLES / "elephant.jpg", sentence)
    words = page.locator("#sentence button")
    assert words.all_inner_texts() == list(own.words)
    seen = []
    for number in (1, 6):
        words.nth(number).hover()
        settled(page)
        said = float(re.findall(r"add (\S+) to", page.inner_text("#words-now"))[0])
        assert said == pytest.approx(float(own.values[number].sum()), rel=1e-3)
        seen.append(pixels(page))
    assert (seen[0] != seen[1]).mean() > 0.02
    row, col = (int(place) for place in np.unravel_index(own.values[1].argmax(), own.values[1].shape))
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * (col + 0.5) / 14, box["y"] + box["height"] * (row + 0.5) / 14)
    settled(page)
    titles = [float(words.nth(number).get_attribute("title")) for number in range(len(own.words))]
    np.testing.assert_allclose(titles, own.values[:, row, col], rtol=2e-3, atol=1e-7)
    assert not asked
    page.mouse.click(box["x"] + box["width"] * (col + 0.5) / 14, box["y"] + box["height"] * (row + 0.5) / 14)
    page.wait_for_selector("#words-now:has-text('How similar')")
    assert [url.rsplit("/", 1)[1] for url in asked] == ["similarity"]


@pytest.mark.long
def test_compare_and_choose_a_method(page: Any) -> None:
    look_at(page, "horses.jpg")
    page.click("#tab-compare")
    for box in page.locator("#compare-methods input").all():
        box.set_checked(box.get_attribute("value") in ("itsm", "gem", "rollout"))
    page.click("#compare-run")
    page.wait_for_selector(".grid")
    rows = page.locator(".grid tbody tr").all_inner_texts()
    assert [re.split(r"\s", row.strip())[0] for row in rows] == ["itsm", "gem", "rollout"]
    assert all(re.search(r"\d\.\d\d\u00d7", row) or "not applicable" in row for row in rows)
    settled(page)
    color = """() => [...document.querySelectorAll('.grid tbody tr:nth-child(2) canvas')].map(canvas => {
      const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
      return data.reduce((sum, value, at) => sum + (at % 4 ? 0 : Math.abs(value - data[at + 2])), 0) / data.length })"""
    own = page.evaluate(color)
    page.select_option("#compare-scale", "row")
    settled(page)
    shared = page.evaluate(color)
    assert shared[0] > 0.8 * own[0] and shared[2] < 0.7 * own[2], (
        own,
        shared,
    )  # the absent bicycle, on the scale of the horse
    page.click('[aria-label="Show gem for the sea"]')
    answered(page)
    assert page.input_value("#method") == "gem"
    assert page.locator("#chips [aria-pressed=true]").inner_text().startswith("the sea")
    page.click("#tab-map")
    page.select_option("#versus", "the sea")
    answered(page)
    page.click("#tab-compare")
    page.click("#compare-choice summary")
    page.check("#compare-methods input[value=attention]")
    page.click("#compare-run")
    page.wait_for_selector(".grid")
    rows = page.locator(".grid tbody tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["itsm", "gem", "attention", "rollout"]
    assert all("not applicable: it cannot explain the difference" in row for row in rows[2:])


@pytest.mark.long
def test_layers_classes_and_a_mask(page: Any, tmp_path: Path) -> None:
    look_at(page, "elephant.jpg")
    page.click("#tab-layers")
    page.wait_for_selector("#layers-said:has-text('one layer')")
    before = pixels(page)
    page.select_option("#layer-what", "layers")
    page.wait_for_selector("#layers-said:has-text('add')")
    settled(page)
    assert (pixels(page) != before).any()
    said = float(re.findall(r"patches add (\S+) to", page.inner_text("#layers-said"))[0])
    r = eclip.explain(EXAMPLES / "elephant.jpg", "an elephant", method="decompose", centered=False)
    assert said == pytest.approx(float(r.maps.sum()), abs=2e-4)
    page.click("#tab-segment")
    assert page.input_value("#classes").split("\n") == ["an elephant", "a man", "a dog"]
    page.fill("#classes", "elephant\nman\nwall")
    page.click("#segment-form .primary")
    page.wait_for_selector("#segment table")
    s = eclip.segment(EXAMPLES / "elephant.jpg", ["elephant", "man", "wall"])
    for name, share in s.areas().items():
        assert f"{100 * share:.0f} %" in page.locator(f"#segment tr:has-text('{name}')").inner_text()
    with page.expect_download() as download:
        page.click("#segment-coco")
    assert json.loads(Path(download.value.path()).read_text())["annotations"] == s.to_coco()["annotations"]
    inside = np.zeros((244, 384), np.uint8)
    inside[:, :200] = 255
    Image.fromarray(inside).save(tmp_path / "mask.png")
    page.click("#tab-truth")
    page.set_input_files("#mask-file", tmp_path / "mask.png")
    page.wait_for_selector("#truth table")
    heat = eclip.explain(EXAMPLES / "elephant.jpg", ["an elephant"]).heatmap()
    expected = eclip.METRICS["contrast"](heat, inside > 0, inside == 0)
    assert f"{expected:.3f}" in page.inner_text("#truth tr:has-text('mSC')")
    shown = page.locator("#truth tr:has-text('threshold shown') td")
    assert shown.all_inner_texts() == page.locator("#truth tr:has-text('usual threshold') td").all_inner_texts()
    page.click("#tab-map")
    page.evaluate("""() => { const slider = document.getElementById('threshold')
      slider.value = 0.64; slider.dispatchEvent(new Event('input')) }""")
    page.click("#tab-truth")
    page.wait_for_selector("#truth td:has-text('threshold 0.641')")  # 164/256
    expected = eclip.METRICS["iou"](heat, inside > 0, inside == 0, threshold=164 / 256)
    assert shown.nth(0).inner_text() == f"{expected:.3f}"


def hold(page: Any, what: str) -> None:
    """Keep back the next answers from an address until `released`."""
    page.evaluate(
        """what => {
      const own = window.fetch
      window.held = []
      window.fetch = async (...given) => {
        const answer = await own(...given)
        if (String(given[0]).endsWith(what)) await new Promise(done => window.held.push(done))
        return answer
      }
      window.released = () => { window.fetch = own; window.held.forEach(done => done()) } }""",
        what,
    )


def released(page: Any) -> None:
    page.evaluate("() => { window.released(); return new Promise(done => setTimeout(done, 100)) }")
    settled(page)


def arrived(page: Any) -> None:
    page.wait_for_function("() => window.held.length > 0")


@pytest.mark.long
def test_late_answers_are_not_drawn_over_what_is_shown_by_then(page: Any) -> None:
    look_at(page, "horses.jpg")
    page.click("#tab-compare")
    for box in page.locator("#compare-methods input").all():
        box.set_checked(box.get_attribute("value") == "itsm")
    hold(page, "compare")
    page.click("#compare-run")
    arrived(page)
    look_at(page, "elephant.jpg")
    released(page)
    assert not page.locator(".grid").count() and "press Compare" in page.inner_text("#compare")
    for tab, address, start in (("layers", "attention", None), ("segment", "segment", "#segment-form .primary")):
        hold(page, address)
        page.click(f"#tab-{tab}")
        if start:
            page.click(start)
        arrived(page)
        page.click("#tab-map")
        settled(page)
        before = pixels(page)
        released(page)
        np.testing.assert_array_equal(pixels(page), before, err_msg=tab)
    page.click("#tab-layers")
    page.select_option("#layer-what", "layers")
    page.wait_for_selector("#layers-said:has-text('“an elephant”')")
    settled(page)
    shares = pixels(page)
    hold(page, "layers")
    page.locator("#chips .chip").nth(1).click()
    arrived(page)
    page.locator("#chips .chip").nth(0).click()  # whose answer is there already
    released(page)
    np.testing.assert_array_equal(pixels(page), shares, err_msg="another text")
    assert "“an elephant”" in page.inner_text("#layers-said")
    page.click("#tab-segment")  # and it is there all the same
    page.wait_for_selector("#segment table")
    settled(page)
    classes = pixels(page)
    assert (classes != before).any()
    for number in (2, 1, 0):  # the picture is of the classes, whatever the texts
        page.locator("#chips .remove").nth(number).click()
        settled(page)
        np.testing.assert_array_equal(pixels(page), classes)
    page.fill("#classes", "a cat\na dog")  # not assigned: files are of what is shown
    with page.expect_download() as download:
        page.click("#segment-coco")
    names = [one["name"] for one in json.loads(Path(download.value.path()).read_text())["categories"]]
    assert names == ["an elephant", "a man", "a dog"]
    look_at(page, "horses.jpg")
    assert not page.is_visible("#segment-downloads")


@pytest.mark.long
def test_the_focus_stays_on_a_chip(page: Any) -> None:
    look_at(page, "elephant.jpg")
    page.locator("#chips .chip").nth(1).focus()
    page.keyboard.press("Enter")
    settled(page)
    assert page.evaluate("document.activeElement.innerText").startswith("a man")


@pytest.mark.long
def test_colors_of_the_map_are_not_those_of_words(page: Any) -> None:
    look_at(page, "elephant.jpg")
    page.click("#tab-layers")
    page.wait_for_selector("#layers-said:has-text('one layer')")
    page.select_option("#layer-what", "layers")
    page.wait_for_selector("#layers-said:has-text('amber')")
    settled(page)
    wanted = pixels(page)
    page.click("#tab-map")
    page.select_option("#colors", "sequential")
    page.check("#mask")
    settled(page)
    masked = pixels(page)
    page.click("#tab-layers")
    settled(page)
    np.testing.assert_array_equal(pixels(page), wanted)
    page.click("#tab-map")
    settled(page)
    np.testing.assert_array_equal(pixels(page), masked)


@pytest.mark.long
def test_a_link_to_what_is_not_here_is_told(browser: Any, server: Served) -> None:
    for page in opened(context_of(browser), f"{server.address}/#image=example-elephant&model=none&text=a+dog"):
        page.wait_for_selector("#toast:not([hidden])")
        assert "The link asks for the model “none”, which this server" in page.inner_text("#toast")


@pytest.mark.long
def test_health_in_plain_words(page: Any) -> None:
    look_at(page, "elephant.jpg")
    assert "No check raised a doubt" in page.inner_text("#health")
    page.locator("#chips .chip").nth(2).click()
    assert "A map says where, not whether" in page.inner_text("#health")
    page.select_option("#method", "attention")
    page.wait_for_selector("#health:has-text('barely changes')")
    page.click("#health summary")
    assert "Follows the text" in page.inner_text("#health table")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"no image", "not a readable image"),
        ("half.jpg", None, "damaged"),
        ("huge.png", bytes(5 << 20), "larger than 4 MiB"),
        ("empty.png", b"", "empty"),
    ],
)
@pytest.mark.long
def test_wrong_files_are_told(
    browser: Any, server: Served, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    data = (EXAMPLES / "cat.jpg").read_bytes()[:9000] if content is None else content
    (tmp_path / name).write_bytes(data)
    context = context_of(browser)
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector("body.ready")
    page.set_input_files("#file", tmp_path / name)
    page.wait_for_selector("#image-error .error")
    assert words in page.inner_text("#image-error") and page.is_visible("#gallery")
    context.close()


@pytest.mark.long
def test_drop_and_paste(page: Any) -> None:
    for event, field in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """async ([event, field]) => {
              const blob = await (await fetch('/api/v1/images/example-cat')).blob(), data = new DataTransfer()
              data.items.add(new File([blob], `${event}.png`, {type: 'image/png'}))
              const sent = new Event(event, {bubbles: true, cancelable: true})
              Object.defineProperty(sent, field, {value: data})
              document.body.dispatchEvent(sent)
            }""",
            [event, field],
        )
        page.wait_for_selector(f"#image-name:has-text('{event}.png')")
    left = page.evaluate(
        """() => {
          const data = new DataTransfer(), sent = new Event('paste', {bubbles: true, cancelable: true})
          data.items.add(new File(['no image'], 'cell.png', {type: 'image/png'}))
          data.items.add('a cat', 'text/plain')
          Object.defineProperty(sent, 'clipboardData', {value: data})
          return document.getElementById('text').dispatchEvent(sent)
        }"""
    )
    assert left, "text with a picture of it, as office programs copy it, belongs into the field"


@pytest.mark.long
def test_the_last_of_two_files_is_shown(page: Any, tmp_path: Path) -> None:
    hold(page, "images")
    page.set_input_files("#file", large("cat.jpg", tmp_path))
    arrived(page)
    page.evaluate("() => { window.first = window.held.pop() }")
    page.set_input_files("#file", large("horses.jpg", tmp_path))
    arrived(page)
    released(page)
    page.wait_for_selector("#image-name:has-text('horses.png')")
    page.evaluate("() => { window.first(); return new Promise(done => setTimeout(done, 300)) }")
    assert "horses.png" in page.inner_text("#image-name")


@pytest.mark.long
def test_files_are_named_in_any_script(page: Any) -> None:
    look_at(page, "cat.jpg")
    page.fill("#text", "猫")
    page.press("#text", "Enter")
    answered(page)
    page.click("#tab-export")
    with page.expect_download() as download:
        page.click("#export-png")
    assert download.value.suggested_filename == "cat-猫.png"


@pytest.mark.long
def test_thumbnails_come_back_with_the_server(browser: Any, server: Served) -> None:
    context = context_of(browser)
    context.route("**/*thumbnail=true", lambda route: route.abort())
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector("body.ready")
    context.unroute("**/*thumbnail=true")
    page.wait_for_selector("#away", state="hidden")
    page.wait_for_function("() => [...document.querySelectorAll('#gallery img, #strip img')].every(one => one.src)")
    context.close()


@pytest.mark.long
def test_files_of_what_is_shown(page: Any, browser: Any, tmp_path: Path) -> None:
    look_at(page, "cat.jpg")
    page.locator("#chips .chip").nth(1).click()
    page.click("#tab-export")
    kept = {}
    for kind in ("png", "npz", "json", "html"):
        with page.expect_download() as download:
            page.click(f"#export-{kind}")
        kept[kind] = Path(download.value.path()).read_bytes()
    r = eclip.explain(EXAMPLES / "cat.jpg", ["a cat", "a keyboard", "a horse"])
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(kept["png"]))), np.asarray(r.overlay(0, "a keyboard"))
    )
    np.testing.assert_allclose(np.load(io.BytesIO(kept["npz"]))["maps"], r.maps[0], atol=1e-6)
    assert json.loads(kept["json"])["texts"] == list(r.texts)
    python = page.inner_text("#python")
    scope: dict[str, Any] = {}
    exec(
        python.replace("'cat.jpg'", repr(str(EXAMPLES / "cat.jpg"))).replace("overlay.png", str(tmp_path / "o.png")),
        scope,
    )
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "o.png")), np.asarray(r.overlay(0, "a keyboard")))
    assert scope["mask"].shape == r.sizes[0][::-1]
    shown = pixels(page)
    (tmp_path / "own.html").write_bytes(kept["html"])
    alone = context_of(browser, offline=True)
    for other in opened_file(alone, tmp_path / "own.html"):
        assert (np.abs(pixels(other) - shown) <= 2).all()
        other.locator("#chips button").nth(0).click()
        settled(other)
        assert (pixels(other) != shown).any()
        assert "a cat" in other.inner_text("#chips") and "eclip explain" in other.inner_text("#command")


def opened_file(context: Any, file: Path) -> Iterator[Any]:
    one, said = context.new_page(), list[str]()
    one.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    one.on("pageerror", lambda error: said.append(str(error)))
    one.goto(file.as_uri())
    one.wait_for_selector("#chips button[aria-pressed=true]")
    settled(one)
    yield one
    context.close()
    assert not said


@pytest.mark.long
def test_a_link_restores_what_was_shown(page: Any, browser: Any, server: Served) -> None:
    look_at(page, "street.jpg")
    page.select_option("#method", "gem")
    answered(page)
    page.locator("#chips .chip").nth(1).click()
    page.evaluate("""() => { const slider = document.getElementById('threshold')
      slider.value = 0.4; slider.dispatchEvent(new Event('input')) }""")
    settled(page)
    page.wait_for_url("**threshold=0.4**")
    address, shown = page.url, pixels(page)
    assert "image=example-street" in address and "method=gem" in address and "threshold=0.4" in address
    context = context_of(browser, viewport={"width": 1280, "height": 900})
    other = context.new_page()
    other.goto(address)
    answered(other)
    np.testing.assert_array_equal(pixels(other), shown)
    context.close()


def ask_after_forgetting(page: Any, server: Served) -> None:
    """Add a second text, after the server has forgotten what was uploaded."""
    for held in [one for one in server.state.store._held.values() if not one.stays]:
        server.state.store.forget(held.id)
    page.fill("#text", "a keyboard")
    page.press("#text", "Enter")
    answered(page)
    assert page.locator("#chips li").count() == 2 and not page.query_selector("#text-error .error")


@pytest.mark.long
def test_a_forgotten_image_is_sent_again(page: Any, server: Served, tmp_path: Path) -> None:
    page.set_input_files("#file", large("cat.jpg", tmp_path))
    page.fill("#text", "a cat")
    page.press("#text", "Enter")
    answered(page)
    ask_after_forgetting(page, server)
    page.said.clear()  # the browser logs the 404


@pytest.mark.long
def test_the_server_goes_away_and_comes_back(browser: Any, tiny_name: str) -> None:
    settings = Settings(models=(tiny_name,))
    with served(settings) as first:
        port = int(first.address.rsplit(":", 1)[1])
        context = context_of(browser)
        page = context.new_page()
        page.goto(first.address)
        page.wait_for_selector("body.ready")
        look_at(page, "cat.jpg")
    page.fill("#text", "a keyboard on the floor")
    page.press("#text", "Enter")
    page.wait_for_selector("#away:not([hidden])")
    assert "does not answer" in page.inner_text("#text-error")
    with served(settings, port=port):
        page.wait_for_selector("#away", state="hidden")
        answered(page)
        assert page.locator("#chips li").count() == 4
        context.close()


@pytest.mark.long
def test_a_model_without_attention_has_words_but_no_pairs(browser: Any, tmp_path: Path) -> None:
    vision = {"image_size": 96, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"}
    model = tiny.model("convnext")
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": tiny.TEXT}, "preprocess_cfg": {}}
    folder = tmp_path / ("a folder with a long name " * 6)
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    with served(Settings(models=(f"local-dir:{folder}",))) as one:
        context = context_of(browser)
        page = context.new_page()
        page.goto(one.address)
        page.wait_for_selector("body.ready")
        look_at(page, "cat.jpg")
        page.click("#tab-words")
        page.wait_for_selector("#words .bars")
        assert "cannot be linked" in page.inner_text("#words") and "cat" in page.inner_text("#words .bars")
        sent = list[str]()
        page.on("request", lambda request: sent.append(request.url))
        page.click("#canvas")  # patches have no sentence to be pinned beside
        settled(page)
        assert not any("similarity" in one for one in sent)
        page.click("#tab-layers")
        page.wait_for_selector("#layers-said .error")
        assert "no block" in page.inner_text("#layers-said") or "attention of a block" in page.inner_text(
            "#layers-said"
        )
        page.select_option("#method", "attention")
        page.wait_for_selector("#text-error .error")
        page.select_option("#method", "itsm")
        answered(page)
        assert not page.query_selector("#text-error .error") and page.is_hidden("#concepts")
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.long
def test_nothing_serious_is_inaccessible(browser: Any, server: Served, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    context = context_of(browser, viewport={"width": 1280, "height": 900}, color_scheme=scheme, bypass_csp=True)
    for page in opened(context, server.address):
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        serious(axe, page)
        look_at(page, "elephant.jpg")
        page.locator("#chips .chip").nth(2).click()
        for tab in ("map", "layers", "segment", "truth", "export"):
            page.click(f"#tab-{tab}")
            settled(page)
            serious(axe, page)


def serious(axe: Any, page: Any) -> None:
    found = axe.Axe().run(page).response["violations"]
    bad = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]
    assert not [one for one, whole in zip(bad, found, strict=True) if whole["impact"] in ("serious", "critical")], bad


@pytest.mark.long
def test_colors_can_be_switched_and_stay(page: Any) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    page.click("#theme")
    assert page.evaluate(background) != before
    page.reload()
    page.wait_for_selector("body.ready")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.long
def test_a_phone_has_room_for_everything(browser: Any, server: Served) -> None:
    context = context_of(browser, viewport={"width": 390, "height": 844}, has_touch=True)
    for page in opened(context, server.address):
        wide = "document.documentElement.scrollWidth"
        assert page.evaluate(wide) <= 390
        look_at(page, "pizza.jpg")
        page.fill("#text", "x" * 300)
        page.press("#text", "Enter")
        answered(page)
        for tab in ("map", "words", "compare", "layers", "segment", "truth", "export"):
            page.click(f"#tab-{tab}")
            settled(page)
            assert page.evaluate(wide) <= 390, tab


@pytest.mark.long
def test_the_layout_does_not_jump(page: Any) -> None:
    """Moving over the image and between texts moves nothing else."""
    page.evaluate("""() => { window.shifts = []; new PerformanceObserver(list => {
      for (const one of list.getEntries()) if (!one.hadRecentInput) window.shifts.push(one.value)
    }).observe({type: 'layout-shift', buffered: false}) }""")
    look_at(page, "desk.jpg")
    page.evaluate("window.shifts.length = 0")
    box = page.locator("#canvas").bounding_box()
    for part in (0.2, 0.5, 0.8):
        page.mouse.move(box["x"] + part * box["width"], box["y"] + part * box["height"])
        settled(page)
    page.mouse.move(5, 5)
    settled(page)
    assert sum(page.evaluate("window.shifts")) < 0.01


def test_the_api_page_lists_every_address(browser: Any, server: Served) -> None:
    context = context_of(browser)
    one = context.new_page()
    sent = list[dict[str, str]]()
    one.on("request", lambda request: sent.append(request.headers))
    one.goto(f"{server.address}/docs")
    one.wait_for_selector("#addresses summary")
    shown = one.locator("#addresses summary").all_inner_texts()
    described = server.client.get("/openapi.json").json()["paths"]
    assert sorted(shown) == sorted(f"{way.upper()} {path}" for path, ways in described.items() for way in ways)
    assert sent and not any("authorization" in one for one in sent)
    context.close()


def test_a_part_of_one_image_is_found_in_another(page: Any, server: Served, tmp_path: Path) -> None:
    look_at(page, "elephant.jpg")
    page.click("#example")
    box = page.locator("#picker").bounding_box()
    corners = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in ((0.25, 0.2), (0.75, 0.9))]
    page.mouse.move(*corners[0])
    page.mouse.down()
    page.mouse.move(*corners[1], steps=4)
    assert page.locator("#region").is_visible()
    page.mouse.up()
    answered(page)
    chip = page.locator("#chips li").last
    assert chip.locator("[aria-pressed=true]").count() == 1 and "like elephant.jpg" in chip.inner_text()
    colors = "one => [...one.getContext('2d').getImageData(0, 0, one.width, one.height).data]"
    assert np.std(chip.locator("canvas").evaluate(colors)) > 20
    name = chip.locator(".chip").get_attribute("title")
    region = [int(side) for side in name.rpartition(":")[2].split(",")]
    with Image.open(EXAMPLES / "elephant.jpg") as image:
        width, height = image.size
    np.testing.assert_allclose(region, [0.25 * width, 0.2 * height, 0.75 * width, 0.9 * height], atol=2)
    look_at(page, "street.jpg", texts=False)
    answered(page)
    assert page.locator("#chips canvas").count() == 1 and "whether an example is in the image" in page.inner_text(
        "#health"
    )
    page.click("#tab-words")
    assert "has no words" in page.inner_text("#words")
    page.click("#tab-export")
    texts = [
        one for one in page.evaluate("[...document.querySelectorAll('#versus option')].map(one => one.value)") if one
    ]
    assert texts[-1] == name and f"--like={name.removeprefix('like ')}" in page.inner_text("#command")
    r = eclip.explain(EXAMPLES / "street.jpg", [*texts[:-1], eclip.like(f"{EXAMPLES}/elephant.jpg", box=region)])
    score = page.locator("#chips li").last.locator(".score").inner_text()
    assert float(score) == pytest.approx(float(r.scores[0, -1]), abs=6e-4)
    page.wait_for_url("**image=example-street**")
    assert "like" not in page.url


def test_an_image_sent_for_an_example_is_sent_again(page: Any, server: Served, tmp_path: Path) -> None:
    page.set_input_files("#file", large("cat.jpg", tmp_path))
    page.wait_for_selector("body.has-image")
    page.click("#example")
    page.keyboard.press("Enter")
    answered(page)
    look_at(page, "street.jpg", texts=False)
    answered(page)
    ask_after_forgetting(page, server)
    page.click("#example")
    page.keyboard.press("Escape")
    assert page.locator("#picker").is_hidden() and page.locator("#example").get_attribute("aria-pressed") == "false"
    page.said.clear()  # the browser logs the 404
