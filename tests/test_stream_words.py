"""Words of texts for many images: the values of `explain_words`, in shards that are the same bytes however made."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

import eclip
import tiny
from eclip.errors import EclipError, ResultError
from test_stream import contents, members, rows, run, source

__all__ = ["source"]  # a fixture
TEXTS = ["a dog on grass", "two red cars, parked"]
SETTINGS: dict[str, Any] = {"batch_size": 2, "shard_size": 4, "threads": 1}


def write(source: object, out: Path, **more: Any) -> Any:
    return eclip.words_dataset(source, TEXTS, out, **{"model": tiny.kept("vit"), **SETTINGS, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    write(source, folder)
    return folder


@pytest.mark.parametrize(
    "more",
    [{}, {"resize": "keep", "positions": "bilinear"}, {"method": "chefer", "depth": 2}, {"method": "leave_one_out"}],
)
def test_rows_hold_what_explain_words_returns(source: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    good = [path for path in sorted(source.iterdir()) if path.stem not in ("03", "09")]
    written = write(source, tmp_path, **more)
    assert (written.images, written.failures, written.missing) == (9, 2, 0)
    found = rows(tmp_path)
    assert [(row["source"], row["number"]) for row in found] == [(str(path), text) for path in good for text in (0, 1)]
    for path in good:
        answer = eclip.explain_words(path, TEXTS, model=tiny.kept("vit"), **more)
        for text, row in enumerate(one for one in found if one["source"] == str(path)):
            assert row["text"] == TEXTS[text]
            assert (row["width"], row["height"]) == answer.images[0].size
            assert row["score"] == pytest.approx(float(answer.scores[0, text]), abs=2e-6)
            assert [one["word"] for one in row["words"]] == list(answer.words[text])
            for name, expected in (("value", answer.values[text][0]), ("share", answer.shares(0, text))):
                assert [one[name] for one in row["words"]] == pytest.approx(list(map(float, expected)), abs=2e-4), name
            assert (
                json.loads(members(tmp_path / row["shard"])[f"{row['id']}.json"])["texts"][text]["words"]
                == row["words"]
            )


def test_parts_of_the_work_make_the_same_bytes(source: Path, whole: Path, tmp_path: Path) -> None:
    for part in (1, 0):
        written = write(source, tmp_path / "parts", shard=f"{part}/2", workers=part)
    assert (written.images, written.failures, written.missing) == (9, 2, 0)
    assert contents(tmp_path / "parts") == contents(whole)
    (tmp_path / "parts" / "index" / "000001.jsonl").unlink()  # as after a kill before it was written
    assert write(source, tmp_path / "parts").missing == 0
    assert contents(tmp_path / "parts") == contents(whole)


def test_an_index_in_parquet_has_the_same_rows(source: Path, whole: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    assert write(source, tmp_path, index="parquet").images == 9
    for ours, theirs in zip(pq.read_table(tmp_path / "index").to_pylist(), rows(whole), strict=True):
        for one, other in zip(ours.pop("words"), theirs.pop("words"), strict=True):
            assert one["word"] == other["word"]
            assert (one["value"], one["share"]) == pytest.approx((other["value"], other["share"]), rel=1e-6)
        assert ours.pop("score") == pytest.approx(theirs.pop("score"), abs=1e-6)
        assert ours == theirs


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"method": "chefer"}, 'provenance.method was "gradeclip", now "chefer"'),
        ({"depth": 1}, "provenance.options.depth"),
        ({"image_size": 24}, "provenance.image_size was null, now 24"),
    ],
)
def test_another_run_does_not_continue_it(
    source: Path, whole: Path, tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    with pytest.raises(ResultError, match=f"different settings .*{told}"):
        write(source, tmp_path / "out", **changed)
    with pytest.raises(ResultError, match='task was "words", now "explain"'):
        eclip.explain_dataset(source, TEXTS, tmp_path / "out", model=tiny.kept("vit"), method="maskclip", **SETTINGS)
    assert contents(tmp_path / "out") == contents(whole)


def test_overwrite_deletes_nothing_before_all_is_checked(source: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    with pytest.raises(EclipError):
        write(source, tmp_path / "out", overwrite=True, depth=0)
    assert contents(tmp_path / "out") == contents(whole)
    write(source, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"head": "head.pt"}, "has no option 'head'"),
        ({"health": False}, "has no option 'health'"),
        ({"write": ["maps"]}, "has no option 'write'"),
        ({"heads": "two"}, "takes heads native or single"),
        ({"templates": "none"}, "'gradeclip' has no option 'templates'"),
        ({"method": "gem"}, "gem"),
        ({"image_size": 13}, "multiple of the patch size 8"),
    ],
)
def test_bad_input_is_refused(source: Path, tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(EclipError, match=says):
        write(source, tmp_path / "out", **wrong)


def test_the_command_writes_shards_when_it_is_asked_for_them(tiny_name: str, source: Path, tmp_path: Path) -> None:
    asked = ("-t", TEXTS[0], "--model", tiny_name, "--batch-size", 2, "--workers", 0, "--shard-size", 4)
    done = run("words", source, *asked, "-o", tmp_path / "one")
    assert done.exit_code == 1
    said = done.stderr.splitlines()
    assert said[0] == f"9 images in {tmp_path / 'one'}: shards, index and run.json"
    assert [line.startswith("failed: ") for line in said[1:3]] == [True, True] and said[3] == "2 of 11 failed."
    eclip.words_dataset(source, [TEXTS[0]], tmp_path / "two", model=tiny_name, batch_size=2, shard_size=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(source / "01.png", "1.png")
    done = run("words", tmp_path / "a.tar", "-t", "a dog", "--model", tiny_name, "-o", tmp_path / "three", "--dry-run")
    assert "command: eclip words" in done.output and "texts: 1" in done.output and not (tmp_path / "three").exists()
    done = run("words", tmp_path / "a.tar", "-t", "a dog", "--model", tiny_name, "-o", tmp_path / "three", "--pairs")
    assert (done.exit_code, "--pairs is for a page of each image" in done.stderr) == (2, True), done.stderr
    done = run("words", source / "01.png", "-t", "a dog", "--model", tiny_name, "-o", tmp_path / "four", "--dry-run")
    assert "images: 1" in done.output and not (tmp_path / "four").exists(), done.output
