"""Whatever is wrong with the input, the rest is processed, each error is one line, and there is no traceback."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import eclip
from eclip.errors import OptionError
from eclip.explanation.explanation import Explanation
from test_cli import explain
from test_images import broken_files


def _lines(done: Result) -> list[str]:
    assert not isinstance(done.exception, Exception) or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    return done.stderr.splitlines()


def test_bad_images_in_a_folder_are_named_and_the_rest_is_done(tiny_name: str, images: Path, tmp_path: Path) -> None:
    bad = broken_files(tmp_path)
    done = explain(images, tmp_path, "-t", "a dog", "--batch-size", 2, model=tiny_name, out=tmp_path / "out")
    assert done.exit_code == 1
    assert Explanation.load(tmp_path / "out").sources == (str(images / "a.png"), str(images / "b.jpg"))
    lines = _lines(done)
    assert f"2 explained in {tmp_path / 'out'}" in lines[:2], "before it at most what health has to say"
    assert lines[-1] == f"{len(bad)} of {len(bad) + 2} failed."
    for name, message in bad.items():
        [line] = [line for line in lines if str(tmp_path / name) in line]
        assert line.startswith("failed: ")
        assert message in line


def test_a_folder_without_images(tiny_name: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    sources = (tmp_path / "hollow", images / "a.png", f"{tmp_path}/*.gif")
    done = explain(*sources, "-t", "a dog", model=tiny_name, out=tmp_path / "out")
    assert done.exit_code == 1
    lines = _lines(done)
    assert any("hollow: no image in this folder" in line for line in lines)
    assert any("*.gif: no file matches" in line for line in lines)
    assert Explanation.load(tmp_path / "out").sources == (str(images / "a.png"),)


def test_a_thousand_texts_are_bounded(tiny_name: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(f"thing number {index}" for index in range(1000)))
    texts = ("--texts-file", tmp_path / "texts.txt")
    started = time.monotonic()
    done = explain(images / "a.png", *texts, model=tiny_name, out=tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert time.monotonic() - started < 30
    assert Explanation.load(tmp_path / "out").maps.shape == (1, 1000, 4, 4)
    assert len(list((tmp_path / "out").glob("*.png"))) == 21
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.count("thing number") == 20


def test_five_hundred_words_warn_once(tiny_name: str, images: Path, tmp_path: Path) -> None:
    long = " ".join(f"w{index}" for index in range(500))
    done = explain(images, "-t", long, "-t", "a 🐕 狗", "--batch-size", 1, model=tiny_name, out=tmp_path)
    assert done.exit_code == 0, done.output
    [warning] = [line for line in _lines(done) if line.startswith("warning: ")]
    assert "of the 500 words" in warning
    assert "w499" in warning


@pytest.mark.parametrize("out", ["{file}", "{file}/deep", "/proc/eclip"])
def test_a_folder_that_cannot_be_written(tiny_name: str, images: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    folder = Path(out.format(file=tmp_path / "file"))
    done = explain(images, "-t", "a dog", model=tiny_name, out=folder)
    assert done.exit_code == 1
    [line] = _lines(done)
    assert line.startswith(f"error: the folder '{folder}' cannot be written: ")


def test_a_full_disk_keeps_what_is_whole(tiny_name: str, images: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the arrays fit, the picture does not."""
    out = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        done = explain(images, "-t", "a dog", model=tiny_name, out=out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.exit_code == 1
    [line] = _lines(done)
    assert line == f"error: '{out / 'a.png'}' cannot be written: File too large. 0 images were finished before."
    assert [path.name for path in out.iterdir()] == ["a.npz"], "no part of a file is left"


@pytest.mark.long
def test_file_names_that_are_no_unicode(images: Path, tiny_name: str, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"odd-\xff.png")
    odd.write_bytes((images / "a.png").read_bytes())
    answer = eclip.explain(odd, "a dog", model=tiny_name)
    answer.save(tmp_path / "out")
    assert Explanation.load(tmp_path / "out").sources == (str(odd),)
    assert Explanation.load(tmp_path / "out").image().size == (40, 30)

    command = [sys.executable, "-c", "from eclip.cli import main; main()", "explain", f"{odd}.missing", "-t", "a dog"]
    done = subprocess.run([*command, "--json"], capture_output=True, cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.stdout)["failures"][0]["source"] == f"{odd}.missing"
    assert b"no such file" in done.stderr


def test_a_text_that_is_no_unicode(tiny_name: str, images: Path, tmp_path: Path) -> None:
    done = explain(images, "-t", "a \udcff dog", model=tiny_name, out=tmp_path)
    assert done.exit_code == 2
    assert "not valid Unicode" in _lines(done)[0]


@pytest.mark.parametrize("content", [None, "{"])
def test_a_model_that_is_broken_is_one(images: Path, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "open_clip_config.json").write_text(content)
        (tmp_path / "open_clip_model.safetensors").touch()
    done = explain(images, "-t", "a dog", model=f"local-dir:{tmp_path}", out=tmp_path / "out")
    assert done.exit_code == 1
    [line] = _lines(done)
    assert line.startswith("error: ")
    assert str(tmp_path) in line


@pytest.mark.parametrize(
    ("command", "asked", "message"),
    [
        (
            eclip.evaluate,
            ("voc2012seg", {"out": "run", "every": 1.5}),
            "option 'every.* must be a whole number, got 1.5",
        ),
        (
            eclip.evaluate,
            ("voc2012seg", {"out": "run", "batch_size": "4"}),
            "option 'batch_size.* a whole number, got '4'",
        ),
        (
            eclip.segment,
            ("dog.jpg", {"classes": ["dog"], "window": "224"}),
            "option 'window.* number or none, got '224'",
        ),
        (
            eclip.segment,
            ("dog.jpg", {"classes": ["dog"], "prob_threshold": "a"}),
            "option 'prob_.* number or none, got 'a'",
        ),
        (eclip.train, ("run.toml", {}), r"config must be of type TrainConfig, as eclip.TrainConfig\(.*, got str"),
        (eclip.encode_texts, (None, {"texts": ["a"]}), "backbone must be of type Backbone, as eclip.load .* NoneType"),
    ],
)
def test_arguments_of_another_type_are_told(
    command: Any, asked: Any, message: str, shapes_unchecked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, options = asked
    with pytest.raises(OptionError, match=f"^{message}"):
        command(first, **options)
    assert not list(tmp_path.iterdir())
