"""Many images segmented: the labels of `segment`, in shards that are the same bytes however they were made."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import eclip
import tiny
from eclip.errors import EclipError, ResultError
from eclip.stream import shards
from test_stream import Stopped, contents, members, rows, run, source

__all__ = ["source"]  # a fixture
CLASSES = ["dog, puppy", "grass", "a red car"]
GIVEN: dict[str, Any] = {"method": "maskclip", "background": "sky, wall", "templates": "none"}
SETTINGS: dict[str, Any] = {**GIVEN, "batch_size": 2, "shard_size": 4, "workers": 0, "threads": 1}
EVERYTHING = ["labels", "confidences", "masks", "boxes"]


def write(source: object, out: Path, **more: Any) -> Any:
    given = {"model": tiny.kept("vit"), **SETTINGS, "write": EVERYTHING, **more}
    return eclip.segment_dataset(source, CLASSES, out, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    write(source, folder)
    return folder


@pytest.mark.parametrize("more", [{}, {"resize": "keep"}, {"window": 16, "stride": 12, "image_size": 24}])
def test_shards_hold_what_segment_returns(source: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    good = [path for path in sorted(source.iterdir()) if path.stem not in ("03", "09")]
    given = {"model": tiny.kept("vit"), "batch_size": 2, **GIVEN, **more}
    expected = {one.sources[0]: one for one in eclip.segment_each(good, CLASSES, **given)}
    written = write(source, tmp_path, **more)
    assert (written.images, written.failures, written.missing) == (9, 2, 0)
    assert json.loads((tmp_path / "run.json").read_text())["classes"] == ["background", "dog", "grass", "a red car"]
    found = rows(tmp_path)
    assert list(dict.fromkeys(row["source"] for row in found)) == [str(path) for path in good]
    for path in good:
        own, answer = [row for row in found if row["source"] == str(path)], expected[str(path)]
        assert {row["class"]: row["area"] for row in own} == pytest.approx(answer.areas(), abs=1e-6)
        files = members(tmp_path / own[0]["shard"])
        labels = np.asarray(Image.open(io.BytesIO(files[f"{own[0]['id']}.labels.png"])))
        assert np.array_equal(labels, answer.labels[0])
        shares = np.load(io.BytesIO(files[f"{own[0]['id']}.confidences.npy"]))
        assert shares.dtype == np.float16 and np.allclose(shares, answer.confidences[0], atol=2**-10)
        for row in own:
            mask = labels == row["number"]
            assert (row["height"], row["width"]) == mask.shape
            assert answer.classes[row["number"]] == row["class"]
            assert row["confidence"] == pytest.approx(float(answer.confidences[0][mask].mean()), abs=1e-5)
            assert row["doubt"] == answer.doubts(0).get(row["class"], "")
            presence = answer.presence[0][row["number"]]  # type: ignore[index]
            assert row["presence"] == (pytest.approx(float(presence), abs=1e-4) if row["number"] else None)
            if row["number"] == 0:
                assert (row["boxes"], row["mask"]) == ([], None)
                continue
            assert row["boxes"] == answer.boxes(0)[row["class"]].tolist()
            again = np.repeat(np.arange(len(row["mask"]["counts"])) % 2 == 1, row["mask"]["counts"])
            assert np.array_equal(again.reshape(row["mask"]["size"], order="F"), mask)


@pytest.mark.parametrize("layout", ["tar", "folder"])
def test_a_run_killed_at_any_write_ends_with_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    write(source, tmp_path / "whole", layout=layout)
    kind, count, limit = shards._Tar if layout == "tar" else shards._Files, 0, 0
    put = kind.put

    def stopping(self: Any, name: str, content: bytes) -> None:
        nonlocal count
        count += 1
        put(self, name, content if count <= limit else content[: len(content) // 2])
        if count > limit:
            raise Stopped

    monkeypatch.setattr(kind, "put", stopping)
    kills = 0
    for limit in range(1, 60, 5):  # noqa: B007  # read by `stopping`
        count = 0
        try:
            write(source, tmp_path / "killed", layout=layout)
            break
        except Stopped:
            kills += 1
    assert kills > 2
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_parts_of_the_work_make_the_same_bytes(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in (1, 0):
        written = write(source, tmp_path / "parts", shard=f"{part}/2")
    assert (written.images, written.failures, written.missing) == (9, 2, 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        write(source, tmp_path / "torchrun")
    assert contents(tmp_path / "parts") == contents(tmp_path / "torchrun") == contents(whole)


def test_a_run_that_is_done_counts_its_images(source: Path, whole: Path, tmp_path: Path) -> None:
    """Images have different numbers of rows."""
    shutil.copytree(whole, tmp_path / "out")
    seen: list[Any] = []
    written = write(source, tmp_path / "out", on_progress=lambda done, total: seen.append((done, total)))
    assert (written.images, written.failures, seen[-1]) == (9, 2, (11, 11))
    assert len({len([row for row in rows(whole) if row["id"] == name]) for name in {r["id"] for r in rows(whole)}}) > 1


def test_an_index_in_parquet_has_the_same_rows(source: Path, whole: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    assert write(source, tmp_path / "out", index="parquet").images == 9
    table = pq.read_table(tmp_path / "out" / "index").to_pylist()
    for ours, theirs in zip(table, rows(whole), strict=True):
        for key, value in theirs.items():
            assert ours[key] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), key


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"classes": ["grass", "dog, puppy", "a red car"]}, 'classes was .*"dog", "grass".* now .*"grass", "dog"'),
        ({"background": "sky"}, r'provenance.background was \["sky", "wall"\], now \["sky"\]'),
        ({"prob_threshold": 0.3}, "provenance.prob_threshold was null, now 0.3"),
        ({"write": ["labels"]}, r'write was .* now \["labels"\]'),
        ({"batch_size": 4}, "batch_size was 2, now 4"),
    ],
)
def test_another_run_does_not_continue_it(
    source: Path, whole: Path, tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    given = {"classes": CLASSES, "model": tiny.kept("vit"), **SETTINGS, "write": EVERYTHING, **changed}
    with pytest.raises(ResultError, match=rf"different settings .*{told}"):
        eclip.segment_dataset(source, out=tmp_path / "out", **given)
    assert contents(tmp_path / "out") == contents(whole)


def test_maps_and_labels_do_not_mix(source: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    given = {**SETTINGS, "model": tiny.kept("vit")}
    del given["background"]
    with pytest.raises(ResultError, match='task was "segment", now "explain"'):
        eclip.explain_dataset(source, ["dog"], tmp_path / "out", **given)
    with pytest.raises(ResultError, match="holds no maps"):
        eclip.MapDataset(tmp_path / "out")
    with pytest.raises(ResultError, match=r"contains results of .*`eclip segment --write`"):
        eclip.segment(source / "01.png", CLASSES, model=tiny.kept("vit"), **GIVEN).save(tmp_path / "out")
    eclip.explain_dataset(source, ["dog"], tmp_path / "out", overwrite=True, **given)
    assert len(eclip.MapDataset(tmp_path / "out")) == 9


@pytest.mark.parametrize(
    ("classes", "wrong", "says"),
    [
        (["dog", "dog"], {}, "given twice"),
        (["dog"], {"background": ()}, "would take every pixel"),
        ("dog", {}, "must be a list"),
        (None, {}, "must be a list"),
        (["dog", "cat"], {"write": ["maps"]}, "write must be .*labels.* got 'maps'"),
        (["dog", "cat"], {"method": "gradcam"}, "gradcam"),
        (["dog", "cat"], {"window": 12}, "multiple of 8"),
        (["dog", "cat"], {"failures": []}, "has no option 'failures'"),
        (["dog", "cat"], {"depth": 3}, "has no option 'depth'"),
    ],
)
def test_bad_input_is_refused(source: Path, tmp_path: Path, classes: Any, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(EclipError, match=says):
        eclip.segment_dataset(source, classes, tmp_path / "out", **{"model": tiny.kept("vit"), **SETTINGS, **wrong})


def test_classes_come_from_a_dict_or_a_generator(source: Path, whole: Path, tmp_path: Path) -> None:
    given = {**SETTINGS, "model": tiny.kept("vit"), "write": EVERYTHING}
    eclip.segment_dataset(source, (one for one in CLASSES), tmp_path / "one", **given)
    named = {"dog": ["dog", "puppy"], "grass": "grass", "a red car": ["a red car"]}
    eclip.segment_dataset(source, named, tmp_path / "two", **given)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(whole)
    once: Any = {name: iter([words] if isinstance(words, str) else words) for name, words in named.items()}
    given["background"] = iter(["sky", "wall"])
    eclip.segment_dataset(source, once, tmp_path / "three", **given)
    assert contents(tmp_path / "three") == contents(whole)


def test_without_health_there_is_no_presence_and_overlays_are_those_of_segment(source: Path, tmp_path: Path) -> None:
    write(source / "01.png", tmp_path, write=["overlays"], layout="folder", health=False)
    assert not {"presence", "doubt", "mask", "boxes"} & rows(tmp_path)[0].keys()
    expected = eclip.segment(source / "01.png", CLASSES, model=tiny.kept("vit"), health=False, **GIVEN)
    drawn = Image.open(tmp_path / "shards" / "000000" / "000000-000000.overlay.png")
    assert np.array_equal(np.asarray(drawn), np.asarray(expected.overlay()))


@pytest.mark.long
def test_an_image_of_one_pixel_and_one_of_one_row(tmp_path: Path) -> None:
    for name, size in (("a", (1, 1)), ("b", (60, 1))):
        Image.new("L", size, 99).save(tmp_path / f"{name}.png")
    for more in ({}, {"window": 16}):
        assert write(tmp_path, tmp_path / f"out{len(more)}", **more).images == 2
    assert [(row["width"], row["height"]) for row in rows(tmp_path / "out0")][:1] == [(1, 1)]


WORDS = ("-c", "dog, puppy", "-c", "grass", "--method", "maskclip", "--template", "none", "--batch-size", 2)


def test_the_command_writes_shards_when_explain_would(
    tiny_name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("segment", source, *WORDS, "--model", tiny_name, "--workers", 0)
    done = run(*words, "-o", tmp_path / "one", "--write", "labels,masks", "--shard-size", 4)
    assert done.exit_code == 1
    said = done.stderr.splitlines()
    assert said[0] == f"9 images in {tmp_path / 'one'}: shards, index and run.json"
    assert [line.startswith("failed: ") for line in said[1:3]] == [True, True] and said[3] == "2 of 11 failed."
    direct = {"model": tiny_name, "method": "maskclip", "templates": "none", "batch_size": 2, "shard_size": 4}
    eclip.segment_dataset(source, ["dog, puppy", "grass"], tmp_path / "two", write=["labels", "masks"], **direct)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(source / "01.png", "1.png")
    words = (*WORDS, "--model", tiny_name, "-o", tmp_path / "three")
    assert run("segment", tmp_path / "a.tar", *words, "--workers", 0).exit_code == 0
    assert (tmp_path / "three" / "run.json").exists()
    for more, says in ((("--format", "png"), "--format is for"), (("--instances",), "--instances is for coco.json")):
        done = run("segment", tmp_path / "a.tar", *words, *more)
        assert (done.exit_code, says in done.stderr) == (2, True), done.stderr
    monkeypatch.setattr("eclip.cli.many.MOST_PICTURED", 1)
    both = (source / "01.png", source / "02.png", *WORDS, "--model", tiny_name)
    done = run("segment", *both, "-o", tmp_path / "four")
    assert done.stderr.startswith("more than 1 images: writing shards"), done.output
    done = run("segment", *both, "--instances", "-o", tmp_path / "five")
    assert (tmp_path / "five" / "coco.json").exists(), done.output


@pytest.mark.long
def test_a_killed_command_is_continued_by_the_same_command(tiny_folder: Path, source: Path, tmp_path: Path) -> None:
    many, model = tmp_path / "many", f"local-dir:{tiny_folder}"
    many.mkdir()
    for number in range(60):
        shutil.copy(source / f"{number % 3:02d}.png", many / f"{number:03d}.png")
    words = [sys.executable, "-m", "eclip", "segment", many, *WORDS, "--model", model, "--shard-size", 20]
    words += ["--write", "labels,boxes", "--workers", 1, "-o", tmp_path / "killed"]
    journal = tmp_path / "killed" / "shards" / "000000.tar.part"
    process = subprocess.Popen([str(word) for word in words], stderr=subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr as stderr:
        deadline = time.monotonic() + 120
        while not (journal.exists() and journal.stat().st_size > 4000):
            assert process.poll() is None and time.monotonic() < deadline, stderr.read()
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / "index" / "000002.jsonl").exists(), "it was stopped before its end"
    given: dict[str, Any] = {"model": model, "method": "maskclip", "templates": "none", "batch_size": 2}
    for name in ("killed", "whole"):
        written = eclip.segment_dataset(
            many, ["dog, puppy", "grass"], tmp_path / name, write=["labels", "boxes"], shard_size=20, **given
        )
        assert (written.images, written.missing) == (60, 0)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
