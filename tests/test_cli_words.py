"""`eclip words`: what it prints, which files it writes, and its messages about bad input."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

import eclip
from eclip import cli
from eclip.words.folder import WordsWriter

TEXTS = ["-t", "a husky running", "-t", "grass"]


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["words", *(str(word) for word in words)])


def test_words_are_printed_with_their_shares(tiny_name: str, images: Path, tmp_path: Path) -> None:
    done = run(images / "a.png", *TEXTS, "-m", tiny_name, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    found = eclip.explain_words(images / "a.png", ["a husky running", "grass"], model=tiny_name)
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert f"{found.scores[0, 0]:.3f}  a husky running" in lines
    assert lines[2].split() == ["a", "husky", "running"]
    shares = [f"{round(100 * share):+d}%".replace("+0%", "0%") for share in found.shares(0, 0)]
    assert lines[3].split() == shares
    assert lines[6].split() in (["+100%"], ["-100%"])
    assert lines[-1] == f"-> {tmp_path / 'a.words.html'}"
    assert done.stderr.startswith(f"1 explained in {tmp_path}\n")


def test_a_folder_cannot_steer_the_terminal(tiny_name: str, images: Path, tmp_path: Path) -> None:
    done = run(images / "a.png", "-t", "grass", "-m", tiny_name, "-o", tmp_path / "\x1b[31mred")
    assert done.exit_code == 0, done.output
    assert f"-> {tmp_path}/\ufffd[31mred/a.words.html" in done.stdout and "\x1b[31m" not in done.stdout


def test_json_is_the_manifest_and_its_command_repeats_it(tiny_name: str, images: Path, tmp_path: Path) -> None:
    asked = [images, *TEXTS, "-m", tiny_name, "--method", "gradeclip", "--set", "loosened=none", "--json"]
    more = ["--pairs", "--points", "3", "--text-depth", "1", "--box", "0,0,20,15", "--resize", "keep"]
    first = run(*asked, *more, "-o", tmp_path / "one")
    assert first.exit_code == 0, first.output
    manifest = json.loads(first.stdout)
    assert manifest["signed"] is True
    assert manifest == json.loads((tmp_path / "one" / "manifest.json").read_text())
    again = run(*shlex.split(manifest["provenance"]["command"])[2:], "-o", tmp_path / "two", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == manifest
    entry = manifest["images"][1]["texts"][0]
    one = eclip.interactions(
        images / "b.jpg", "a husky running", model=tiny_name, points=3, text_depth=1, resize="keep"
    )
    assert entry["pairs"] == one.entry([(0, 0, 20, 15)])
    with np.load(tmp_path / "one" / "b.npz") as arrays:
        np.testing.assert_array_equal(arrays["0"], one.values)
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"a.words.html", "a.0-a-husky-running.pairs.png", "a.1-grass.pairs.png", "a.npz"} <= names


def test_the_page_holds_everything_itself(tiny_name: str, images: Path, tmp_path: Path) -> None:
    run(images / "a.png", "-t", "a <b>husky</b> </script>", "-m", tiny_name, "-o", tmp_path, "--pairs")
    page = (tmp_path / "a.words.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<b>" not in page
    assert page.count("</script>") == 3
    assert page.count('class="word"') == len(
        eclip.interactions(images / "a.png", "a <b>husky</b> </script>", model=tiny_name).words
    )
    [maps] = json.loads(re.search(r'id="pairs">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert np.shape(maps)[1:] == (4, 4)
    plain = run(images / "a.png", "-t", "a husky", "-m", tiny_name, "-o", tmp_path)
    assert plain.exit_code == 0
    assert "<script" not in (tmp_path / "a.words.html").read_text()


def test_a_text_that_is_too_long_is_told_once(tiny_name: str, images: Path, tmp_path: Path) -> None:
    done = run(images / "a.png", "-t", "word " * 80, "-m", tiny_name, "-o", tmp_path, "--pairs", "--points", "1")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("warning:") == 1
    assert "reads 75 of the 80 words" in done.stderr


def test_a_bad_image_leaves_the_others(tiny_name: str, images: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    done = run(bad, images / "a.png", *TEXTS, "-m", tiny_name, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "1 of 2 failed." in done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [image["source"] for image in manifest["images"]] == [str(images / "a.png")]
    assert manifest["failures"][0]["source"] == str(bad)


@pytest.mark.long
def test_names_that_are_no_unicode_have_a_page(tiny_name: str, images: Path, tmp_path: Path) -> None:
    odd = tmp_path / "b\udcff.png"
    odd.write_bytes((images / "a.png").read_bytes())
    words = ["words", str(odd), "-t", "a {dog}", "-m", tiny_name, "-o", str(tmp_path / "out")]
    start = "import sys; from eclip.cli import main; sys.argv[0] = 'eclip'; main()"  # with the streams of a shell
    done = subprocess.run([sys.executable, "-c", start, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.words.html"))) == 1


@pytest.mark.parametrize("words", [["--image-size", "33"], ["--set", "depth=0"], ["--set", "heads=two"]])
def test_wrong_usage_is_told_once(words: list[str], tiny_name: str, images: Path, tmp_path: Path) -> None:
    done = run(images, *TEXTS, "-m", tiny_name, "-o", tmp_path, *words)
    assert done.exit_code == 2
    assert done.stderr.count("error:") == 1


def test_ctrl_c_keeps_what_is_done(
    tiny_name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = WordsWriter.add

    def stop_after_one(writer: WordsWriter, *rest: object) -> object:
        add(writer, *rest)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(WordsWriter, "add", stop_after_one)
    done = run(images, *TEXTS, "-m", tiny_name, "-o", tmp_path)
    assert done.exit_code != 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert len(manifest["images"]) == 1
    assert str(images) in manifest["provenance"]["command"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["-t", "a dog", "--method", "gradcam"], "unknown method for words 'gradcam'"),
        (["-t", "a dog", "--set", "depth"], "--set needs KEY=VALUE, got 'depth'"),
        (["-t", "a dog", "--set", "width=3"], "'gradeclip' has no option 'width'"),
        (["-t", "a dog", "--box", "1,2,3,4"], "--box requires --pairs"),
        (["-t", "a dog", "--image-depth", "1"], "--image-depth requires --pairs"),
        (["-t", "a dog", "--text-depth", "2"], "--text-depth requires --pairs"),
        (["-t", "a dog", "--points", "10"], "--points requires --pairs"),
        (["-t", "a dog", "--pairs", "--box", "1,2,3"], "--box must be left,top,right,bottom"),
        ([], "no text was given"),
    ],
)
def test_wrong_usage(words: list[str], complaint: str, images: Path, tmp_path: Path) -> None:
    done = run(images / "a.png", *words, "-o", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert complaint in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_box_outside_one_image_fails_that_image(tiny_name: str, images: Path, tmp_path: Path) -> None:
    done = run(images / "a.png", *TEXTS, "-m", tiny_name, "-o", tmp_path, "--pairs", "--box", "0,0,50,20")
    assert done.exit_code == 1
    assert f"a box in {images / 'a.png'} must be left, top, right, bottom within 40 x 30 pixels" in done.stderr
