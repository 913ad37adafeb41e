"""Many images: the same maps as `explain`, shards that are the same bytes however they were made, and no image lost."""

from __future__ import annotations

import errno
import gc
import hashlib
import http.server
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import open_clip
import pytest
import torch
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import eclip
import tiny
from eclip import cli, files
from eclip.backbones.backbone import Backbone
from eclip.errors import (
    DataError,
    EclipError,
    ImageError,
    MissingExtraError,
    NotApplicableError,
    OptionError,
    ResultError,
    UnknownNameError,
)
from eclip.heatmap import normalize, resize
from eclip.results.share import own_device, shard_of
from eclip.stream import shards
from eclip.stream.plan import Plan
from eclip.stream.records import scale_of
from eclip.stream.sources import list_images

TEXTS = ["a dog", "grass"]
SETTINGS: dict[str, Any] = {"method": "maskclip", "batch_size": 2, "shard_size": 4, "workers": 0, "threads": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven images of different shapes, two of which cannot be read, the fourth and the tenth."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(11):
        width, height = (40, 30) if number % 3 else (30, 50)
        values = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number:02d}.png")
    (folder / "03.png").write_bytes(b"no image")
    (folder / "09.png").write_bytes((folder / "08.png").read_bytes()[:200])
    return folder


def write(source: object, out: Path, **more: Any) -> Any:
    given = {"model": tiny.kept("vit"), **SETTINGS, "write": ["maps", "masks", "boxes", "points"], **more}
    return eclip.explain_dataset(source, TEXTS, out, **given)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, str]:
    """The hash of each file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(folder: Path) -> list[dict[str, Any]]:
    parts = sorted((folder / "index").glob("*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    write(source, folder)
    return folder


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as opened:
        return {one.name: opened.extractfile(one).read() for one in opened}  # type: ignore[union-attr]


def test_shards_hold_what_explain_returns(source: Path, whole: Path) -> None:
    good = [path for path in sorted(source.iterdir()) if path.stem not in ("03", "09")]
    expected = list(eclip.explain_each(good, TEXTS, model=tiny.kept("vit"), method="maskclip", batch_size=2))
    found = rows(whole)
    assert [row["source"] for row in found] == [str(path) for path in good for _ in TEXTS]
    for row in found:
        answer, text = expected[[str(path) for path in good].index(row["source"])], row["number"]
        assert row["text"] == TEXTS[text]
        assert (row["width"], row["height"]) == answer.sizes[0]
        assert row["score"] == pytest.approx(float(answer.scores[0, text]), abs=1e-6)
        assert row["boxes"] == answer.boxes(0, text).tolist()
        assert row["doubt"] == answer.doubt(0, text)
        assert row["presence"] == pytest.approx(float(answer.health.presence[0, text]), abs=1e-4)  # type: ignore[union-attr]
        places, labels = answer.points(0, text)
        assert row["points"] == np.column_stack([places, labels]).tolist()
        mask = np.repeat(np.arange(len(row["mask"]["counts"])) % 2 == 1, row["mask"]["counts"])
        assert np.array_equal(mask.reshape(row["mask"]["size"], order="F"), answer.mask(0, text))
        files = members(whole / row["shard"])
        maps = np.load(io.BytesIO(files[f"{row['id']}.maps.npy"]))
        assert maps.dtype == np.float16
        assert np.allclose(maps[text].astype(np.float32) * row["scale"], answer.maps[0, text], rtol=2**-10, atol=1e-7)


def test_failures_are_listed_once_with_their_reason(source: Path, whole: Path) -> None:
    lines = [
        json.loads(line) for one in sorted((whole / "failures").iterdir()) for line in one.read_text().splitlines()
    ]
    assert [line["source"] for line in lines] == [str(source / "03.png"), str(source / "09.png")]
    assert "not a readable image" in lines[0]["error"]
    assert "damaged" in lines[1]["error"]
    assert [line["id"] for line in lines] == ["000000-000003", "000002-000001"]
    assert not {line["id"] for line in lines} & {row["id"] for row in rows(whole)}


def test_the_tars_are_webdatasets_with_a_sample_for_each_image(whole: Path) -> None:
    names = [name for tar in sorted((whole / "shards").iterdir()) for name in members(tar)]
    samples = dict.fromkeys(name.partition(".")[0] for name in names)
    assert len(samples) == 9
    assert names == [f"{sample}.{ending}" for sample in samples for ending in ("maps.npy", "json")]


class Stopped(BaseException):
    """As a kill, from inside."""


@pytest.mark.parametrize("layout", ["tar", "folder"])
def test_a_run_killed_at_any_write_ends_with_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """After each file, and in the middle of it; also between the last steps of a shard."""
    write(source, tmp_path / "whole", layout=layout)
    kind = shards._Tar if layout == "tar" else shards._Files
    count, limit = 0, 0
    put, finish, replace = kind.put, kind.finish, os.replace

    def step() -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise Stopped

    def stopping_put(self: Any, name: str, content: bytes) -> None:
        nonlocal count
        count += 1
        if count > limit:
            put(self, name, content[: len(content) // 2])
            if layout == "tar":  # a header that promises more than follows
                self.stream.flush()
                self.stream.truncate(self.stream.tell() - 512)
            raise Stopped
        put(self, name, content)

    def stopping_finish(self: Any) -> None:
        step()
        finish(self)
        step()

    def stopping_replace(before: Any, after: Any) -> None:
        step()
        replace(before, after)

    monkeypatch.setattr(kind, "put", stopping_put)
    monkeypatch.setattr(kind, "finish", stopping_finish)
    monkeypatch.setattr(shards.os, "replace", stopping_replace)
    monkeypatch.setattr("eclip.files.os.replace", replace)
    kills = 0
    for limit in range(1, 40, 2):  # noqa: B007  # read by `step`
        count = 0
        try:
            write(source, tmp_path / "killed", layout=layout)
            break
        except Stopped:
            kills += 1
    assert kills > 3, "progress was made between kills, and there were several"
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_journal_cut_at_any_byte_is_continued(source: Path, whole: Path, tmp_path: Path) -> None:
    tar = (whole / "shards" / "000000.tar").read_bytes()
    for end in (0, 100, 511, 512, 700, 2049, 4000, len(tar) - 1025, len(tar) - 1):
        out = tmp_path / str(end)
        shutil.copytree(whole, out)
        (out / "index" / "000000.jsonl").unlink()
        (out / "shards" / "000000.tar").unlink()
        (out / "shards" / "000000.tar.part").write_bytes(tar[:end])
        write(source, out)
        assert contents(out) == contents(whole), end


def test_what_a_process_left_that_was_killed_in_the_middle_of_a_replacement_is_gone(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL leaves the new content beside the file that it should replace, as nothing cleans up."""
    drafts: list[Path] = []
    replace = files.replace_file

    def noted(path: Path, content: Any, part: Path | None = None) -> None:
        if path.parent.name == "failures":
            assert part is not None, "whose name is known to the next process"
            drafts.append(part)
        replace(path, content, part)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "replace_file", noted)
        write(source, tmp_path / "first")
    assert len(drafts) > 3
    for draft in set(drafts):
        out = tmp_path / draft.name
        shutil.copytree(whole, out)
        (out / "index" / f"{draft.name.partition('.')[0]}.jsonl").unlink()  # its shard is unfinished again
        (out / "failures" / draft.name).write_text("half of a li")
        write(source, out)
        assert contents(out) == contents(whole), draft


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_of_the_work_make_the_same_bytes(source: Path, whole: Path, tmp_path: Path, parts: int) -> None:
    for part in reversed(range(parts)):
        written = write(source, tmp_path / "out", shard=f"{part}/{parts}")
    assert (written.images, written.failures, written.missing) == (9, 2, 0)
    assert contents(tmp_path / "out") == contents(whole)


def test_processes_of_torchrun_share_the_work(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, missing in ((1, 2), (0, 0)):
        monkeypatch.setenv("RANK", str(rank))
        assert write(source, tmp_path / "out").missing == missing
    assert contents(tmp_path / "out") == contents(whole)
    with pytest.raises(OptionError, match="leave --shard out"):
        write(source, tmp_path / "other", shard="0/2")


def test_each_process_of_torchrun_takes_the_gpu_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [own_device(one) for one in ("auto", "cuda", "cpu", "cuda:1")] == ["cuda:3", "cuda:3", "cpu", "cuda:1"]
    assert own_device(None) is None, "the CPU"
    monkeypatch.delenv("LOCAL_RANK")
    assert own_device("auto") == "auto"


@pytest.mark.parametrize("given", ["2/2", "1", "a/b", "-1/2", "1/", "0/0"])
def test_a_part_that_does_not_exist_is_refused(given: str) -> None:
    with pytest.raises(OptionError, match=r"shard must be I/N"):
        shard_of(given)


def test_workers_change_nothing(source: Path, whole: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == contents(whole)


def test_a_run_that_is_done_is_left_as_it_is(source: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    seen: list[Any] = []
    written = write(source, tmp_path / "out", on_progress=lambda done, total: seen.append((done, total)))
    assert (written.images, written.failures, written.missing) == (9, 2, 0)
    assert seen[-1] == (11, 11)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_a_source_in_tars_gives_the_same_results(source: Path, whole: Path, tmp_path: Path) -> None:
    files = sorted(source.iterdir())
    for number, some in enumerate((files[:5], files[5:])):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for file in some:
                tar.add(file, file.name)
    write(f"{tmp_path}/{{0..1}}.tar", tmp_path / "out")
    ours, theirs = rows(tmp_path / "out"), rows(whole)
    assert [Path(row.pop("source")).name for row in ours] == [Path(row.pop("source")).name for row in theirs]
    assert ours == theirs, "shards are cut where they would be without tars"


def test_tars_at_urls_are_fetched_when_their_turn_comes(source: Path, whole: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for file in sorted(source.iterdir()):
            tar.add(file, file.name)
    written = write(f"file://{tmp_path}/a.tar", tmp_path / "out")
    assert (written.images, written.failures, written.missing) == (9, 2, 0)
    same = ("score", "boxes", "mask", "points", "presence", "text")
    assert [[row[key] for key in same] for row in rows(tmp_path / "out")] == [
        [row[key] for key in same] for row in rows(whole)
    ]
    streamed = eclip.explain_stream(
        [f"file://{tmp_path}/a.tar"] * 2, TEXTS, model=tiny.kept("vit"), method="maskclip", failures=(bad := [])
    )
    assert [Path(one.sources[0]).name for one in streamed] == [f"{n:02d}.png" for n in range(11) if n not in (3, 9)] * 2
    assert len(bad) == 4
    assert write([f"file://{tmp_path}/gone.tar", source / "01.png"], tmp_path / "gone").failures == 1
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    [(_, why)] = write(f"file://{tmp_path}/empty.tar", tmp_path / "empty").failed()
    assert why.endswith("empty.tar contains no image.")
    (tmp_path / "page.tar").write_text("<html>Not found</html>" * 99)
    written = write([f"file://{tmp_path}/page.tar", f"file://{tmp_path}/a.tar"], tmp_path / "page")
    assert (written.images, written.failures) == (9, 3) and "page.tar" in next(written.failed())[1]
    with pytest.raises(DataError, match="to continue a run on shards, run the same command again, without --overwrite"):
        write("unknown://a/b.tar", tmp_path / "unknown")


def test_the_stream_yields_what_explain_returns(source: Path) -> None:
    failures: list[tuple[str, str]] = []
    given: dict[str, Any] = {"model": tiny.kept("vit"), "method": "gem", "resize": "keep", "batch_size": 4}
    found = list(eclip.explain_stream(source, TEXTS, failures=failures, workers=1, **given))
    assert [Path(one).name for one, _ in failures] == ["03.png", "09.png"]
    expected = list(eclip.explain_each([one.sources[0] for one in found], TEXTS, **given))
    assert len(found) == 9
    assert len({one.maps.shape for one in found}) == 2, "two grids in one batch"
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one.maps, other.maps, atol=1e-6)
        assert (one.sources, one.sizes, one.provenance) == (other.sources, other.sizes, other.provenance)
        assert np.array_equal(np.asarray(one.image()), np.asarray(other.image()))


def test_without_a_list_for_failures_the_stream_raises(source: Path) -> None:
    with pytest.raises(ImageError, match=r"03\.png is not a readable image"):
        list(eclip.explain_stream(source, TEXTS, model=tiny.kept("vit"), method="maskclip"))


def test_images_can_be_read_again_instead_of_kept(source: Path) -> None:
    [one] = eclip.explain_stream(source / "01.png", TEXTS, model=tiny.kept("vit"), images=False)
    assert not isinstance(one.images[0], Image.Image)
    assert np.array_equal(np.asarray(one.image()), np.asarray(Image.open(source / "01.png")))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"write": ["maps"]}, r'write was \["maps", "masks", "boxes", "points"\], now \["maps"\]'),
        ({"method": "gem"}, 'method was "maskclip", now "gem"'),
        ({"batch_size": 4}, "batch_size was 2, now 4"),
        ({"model": "weights"}, "provenance.weights was"),
        ({"model": "colors"}, r"provenance.mean was .*provenance.std was"),
        ({"model": "tokenizer"}, "provenance.tokens was"),
        ({"model": "activation"}, "provenance.modules was"),
        ({"model": "quantized"}, "provenance.weights was"),
        ({"health": False}, r"provenance.health was \[\], now null"),
        ({"threads": 2}, "threads was 1, now 2"),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_another_run_does_not_continue_it(
    source: Path, whole: Path, tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    if "model" in changed:
        changed = {"model": _changed(changed["model"])}
    shutil.copytree(whole, tmp_path / "out")
    with pytest.raises(ResultError, match=rf"different settings .*{told}"):
        write(source, tmp_path / "out", **changed)
    assert contents(tmp_path / "out") == contents(whole)
    write(source, tmp_path / "out", overwrite=True, **changed)
    assert contents(tmp_path / "out") != contents(whole)


def _changed(what: str) -> Backbone:
    """A model that shares its name with that of `whole`, and all but what is named here."""
    model, own = tiny.model("vit", seed=5 if what == "weights" else 0), {"mean": tiny.MEAN, "std": tiny.STD}
    if what == "colors":
        own = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    if what == "tokenizer":
        own["tokenizer"] = lambda texts: open_clip.tokenize(texts).flip(1)
    if what == "activation":
        model.visual.transformer.resblocks[0].mlp.gelu = torch.nn.GELU()  # type: ignore[union-attr]
    if what == "quantized":
        torch.ao.quantization.quantize_dynamic(model.visual, {torch.nn.Linear}, inplace=True)  # type: ignore[arg-type]
    return eclip.wrap(model, **own, name="vit")


def test_another_adapter_does_not_continue_a_run(source: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["c_fc"], r=2, init_lora_weights=False)
    model = peft.get_peft_model(tiny.model("vit"), config, adapter_name="first")
    model.add_adapter("second", config)
    colors = {"mean": tiny.MEAN, "std": tiny.STD}
    write(source / "00.png", tmp_path, model=eclip.wrap(model, **colors))
    before = contents(tmp_path)
    write(source / "00.png", tmp_path, model=eclip.wrap(model.eval(), **colors))
    model.set_adapter("second")
    with pytest.raises(ResultError, match=r"provenance\.modules was"):
        write(source / "00.png", tmp_path, model=eclip.wrap(model, **colors))
    assert contents(tmp_path) == before


def test_a_source_that_changed_is_told(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    write(copy, tmp_path / "out")
    before = contents(tmp_path / "out")
    shutil.copy(source / "01.png", copy / "04b.png")
    with pytest.raises(ResultError, match=r"image 5 was .*05\.png \([\d,]+ bytes\), now it is .*04b\.png"):
        write(copy, tmp_path / "out")
    (copy / "04b.png").unlink()
    (copy / "10.png").unlink()
    with pytest.raises(ResultError, match=r"image 10 was .*10\.png .*, now it is absent"):
        write(copy, tmp_path / "out")
    shutil.copy(source / "10.png", copy / "10.png")
    shutil.copy(source / "01.png", copy / "99.png")
    with pytest.raises(ResultError, match=r"image 11 was absent, now it is .*99\.png"):
        write(copy, tmp_path / "out")
    (copy / "99.png").unlink()
    write(copy, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_a_full_disk_loses_nothing(source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = shards._Tar.put
    calls = 0

    def full(self: Any, name: str, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(self, name, content)

    monkeypatch.setattr(shards._Tar, "put", full)
    with pytest.raises(
        ResultError, match=r"cannot be written: No space left on device\. What is there is kept: run the"
    ):
        write(source, tmp_path / "out")
    assert (tmp_path / "out" / "index" / "000000.jsonl").exists()
    write(source, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


def test_two_runs_do_not_write_at_once(source: Path, whole: Path, tmp_path: Path) -> None:
    out, errors = tmp_path / "out", []

    def again(done: int, _: int | None) -> None:
        if done == 2:
            for shard in (None, "1/2"):
                with pytest.raises(ResultError, match="another run is writing") as caught:
                    write(source, out, shard=shard)
                errors.append(caught)

    write(source, out, on_progress=again)
    assert len(errors) == 2
    assert contents(out) == contents(whole)


def test_the_same_part_twice_at_once_is_refused(source: Path, whole: Path, tmp_path: Path) -> None:
    errors = []

    def again(done: int, _: int | None) -> None:
        if done == 2:
            with pytest.raises(ResultError, match=r"another run is writing to .*000000\.tar\.part") as caught:
                write(source, tmp_path / "out", shard="0/2")
            errors.append(caught)

    write(source, tmp_path / "out", shard="0/2", on_progress=again)
    write(source, tmp_path / "out", shard="1/2")
    assert len(errors) == 1
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.parametrize("held", ["manifest", "shards"])
def test_a_folder_of_others_is_left_alone(source: Path, tmp_path: Path, held: str) -> None:
    if held == "manifest":
        eclip.explain(source / "01.png", "a dog", model=tiny.kept("vit")).save(tmp_path)
    else:
        (tmp_path / "shards").mkdir()
        (tmp_path / "shards" / "mine.tar").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ResultError, match=r"`eclip explain`|contains shards, not written by eclip"):
        write(source, tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["images.jsonl", "run.json", "index"])
def test_files_of_others_are_not_deleted_by_overwrite(source: Path, tmp_path: Path, name: str) -> None:
    if name == "index":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text('{"image": "a.png"}\n')
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine.tar").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ResultError, match="not written by eclip: choose another folder"):
        write(source, tmp_path, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("write_all", [eclip.explain_dataset, eclip.segment_dataset, eclip.words_dataset])
def test_seconds_of_each_batch_are_logged(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, write_all: Any
) -> None:
    caplog.set_level("INFO", "eclip")
    more = {"method": "gradeclip"} if write_all is eclip.words_dataset else {"method": "maskclip", "health": False}
    write_all([source / "01.png", source / "02.png"], ["dog", "cat"], tmp_path, model=tiny.kept("vit"), **more)
    [line] = [one for one in caplog.messages if "forward" in one]
    assert line.startswith(f"{more['method']}, 2 images")


def test_overwrite_deletes_nothing_before_all_is_checked(source: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    before = contents(tmp_path / "out")
    late = {"method": "chefer", "depth": 0}  # told by the method itself, once it has an image
    for wrong in ({"method": "nothing"}, {"engine": "spark"}, {"model": "nothing"}, {"shard": "0/2"}, late):
        with pytest.raises(EclipError):
            write(source, tmp_path / "out", overwrite=True, **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no such file or folder"):
        write(tmp_path / "nothing", tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before


def test_results_of_other_images_are_not_served_after_an_overwrite_that_failed(tmp_path: Path) -> None:
    """The new listing counts only once everything was checked and the old results are gone."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for name, size in (("a", (40, 30)), ("b", (40, 30))):
        Image.new("RGB", size, "red").save(source / f"{name}.png")
    write(source, out)
    before = contents(out)
    Image.new("RGB", (50, 20), "blue").save(source / "b.png")
    with pytest.raises(EclipError):
        write(source, out, overwrite=True, method="nothing")
    assert contents(out) == before
    with pytest.raises(ResultError, match="the images have changed"):
        write(source, out)
    write(source, out, overwrite=True)
    assert {row["width"] for row in rows(out) if row["source"].endswith("b.png")} == {50}
    assert write(source, out).images == 2 and "images.jsonl.new" not in contents(out)


def test_what_cannot_be_deleted_is_told(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    before = contents(tmp_path / "out")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("eclip.stream.job.shutil.rmtree", refuse)
    with pytest.raises(ResultError, match="index cannot be deleted: Permission denied"):
        write(source, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # aiohttp's open sessions
def test_a_stream_lists_a_missing_tar_among_the_failures(source: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    asked = [f"file://{tmp_path}/missing.tar", f"file://{tmp_path}/empty.tar", str(source / "01.png")]
    failures: list[tuple[str, str]] = []
    [one] = eclip.explain_stream(asked, TEXTS, model=tiny.kept("vit"), method="maskclip", failures=failures)
    assert one.sources == (asked[2],)
    assert [why for _, why in failures] == [f"{asked[0]}: no such file.", f"{asked[1]} contains no image."]


def test_a_part_of_the_index_without_rows_has_all_columns(source: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    first = [source / "03.png", source / "09.png"]
    write([*first, source / "01.png"], tmp_path / "out", index="parquet", shard_size=2)
    parts = [pq.read_table(tmp_path / "out" / "index" / f"00000{part}.parquet") for part in (0, 1)]
    assert parts[0].schema == parts[1].schema
    assert [len(part) for part in parts] == [0, 2]
    assert "mask" in parts[0].schema.names


def test_a_shard_that_another_process_has_just_finished_is_left_to_it(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    usual = shards.Shard.__init__

    def late(self: Any, *given: Any) -> None:
        usual(self, *given)
        self.was_done = False

    monkeypatch.setattr("eclip.stream.shards.Shard.__init__", late)
    finished = {file: file.stat().st_ino for file in (tmp_path / "out" / "index").iterdir()}
    write(source, tmp_path / "out")
    assert finished == {file: file.stat().st_ino for file in (tmp_path / "out" / "index").iterdir()}, "not done again"
    assert contents(tmp_path / "out") == contents(whole)


def test_pictures_do_not_go_into_a_folder_of_shards(source: Path, whole: Path) -> None:
    with pytest.raises(ResultError, match="contains results of `eclip explain --write`"):
        eclip.explain(source / "01.png", "a dog", model=tiny.kept("vit")).save(whole)


def test_the_model_and_the_threads_are_as_before(source: Path, tmp_path: Path) -> None:
    model, state = tiny.kept("vit"), torch.get_rng_state()
    write(source, tmp_path / "one", model=model)
    with pytest.raises(ResultError):
        write(source, tmp_path / "one", model=model, method="gem")
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.get_rng_state(), state)
    write(source, tmp_path / "two", threads=2)
    assert torch.get_num_threads() == 1
    assert json.loads((tmp_path / "two" / "run.json").read_text())["threads"] == 2
    write(source, tmp_path / "two", threads=None)  # continues with the threads of the run
    write(source, tmp_path / "two", threads=None, overwrite=True)  # and begins anew with torch's own
    assert json.loads((tmp_path / "two" / "run.json").read_text())["threads"] == 1


def test_overlays_are_those_of_explain(source: Path, tmp_path: Path) -> None:
    write(source / "01.png", tmp_path / "out", write=["overlays"], layout="folder")
    one = eclip.explain(source / "01.png", TEXTS, model=tiny.kept("vit"), method="maskclip")
    for text in range(len(TEXTS)):
        drawn = Image.open(tmp_path / "out" / "shards" / "000000" / f"000000-000000.{text}.png")
        assert np.array_equal(np.asarray(drawn), np.asarray(one.overlay(0, text)))


def test_an_index_in_parquet_has_the_same_rows(source: Path, whole: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    write(source, tmp_path / "out", index="parquet")
    table = pq.read_table(tmp_path / "out" / "index").to_pylist()
    for row in table:
        row["mask"] = dict(row["mask"])
    for ours, theirs in zip(table, rows(whole), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert value == (pytest.approx(theirs[key], abs=1e-6) if isinstance(value, float) else theirs[key]), key


def test_without_pyarrow_parquet_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'eclip\[parquet\]'"):
        write(source, tmp_path / "out", index="parquet")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"write": ["maps", "mask"]}, "write must be .* got 'mask'"),
        ({"layout": "zip"}, "layout must be"),
        ({"index": "csv"}, "index must be one of jsonl, parquet"),
        ({"shard_size": 3}, "shard_size must be a multiple of batch_size"),
        ({"workers": -1}, "workers must be"),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"timeout": None}, "timeout must be a positive number of seconds, got None"),
        ({"shard": (0, 4)}, r"shard must be I/N .* got \(0, 4\)"),
        ({"write": "maps"}, r"write must be a list, such as \['maps'\], got 'maps'"),
        ({"write": None}, "write must be a list"),
        ({"model": torch.nn.Linear(2, 2)}, r"got Linear: convert it with eclip\.wrap"),
        ({"concurrency": 0, "engine": "ray", "model": "mini"}, "concurrency must be a whole number, at least 1"),
        ({"engine": "spark"}, "engine must be"),
        ({"engine": "ray"}, "pass its name, not a Backbone"),
        ({"concurrency": 2}, r"--concurrency belongs to the engine 'ray': add --engine ray \(Python: engine='ray'\)"),
        ({"depth": 3}, "has no option 'depth'"),
    ],
)
def test_bad_options_are_refused(source: Path, tmp_path: Path, wrong: dict[str, Any], error: str) -> None:
    with pytest.raises(EclipError, match=error):
        write(source, tmp_path / "out", **wrong)


@pytest.mark.parametrize("given", [Image.new("RGB", (8, 8)), [np.zeros((8, 8, 3), np.uint8)]])
def test_images_in_memory_are_no_source(given: Any, tmp_path: Path) -> None:
    for ask in (lambda: write(given, tmp_path), lambda: next(eclip.explain_stream(given, "a dog"))):
        with pytest.raises(OptionError, match=r"must be paths or URLs, got \w+; .*eclip\.explain_each"):
            ask()


def test_a_run_that_was_refused_does_not_block_its_folder(source: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    copy.mkdir()
    shutil.copy(source / "00.png", copy)
    with pytest.raises(EclipError):
        write(copy, out, method="nothing")
    shutil.copy(source / "01.png", copy)
    assert write(copy, out).images == 2


def test_other_processes_find_the_images_of_relative_paths(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing is that of a run without Ray, which can therefore be continued with it."""
    monkeypatch.chdir(source.parent)
    plan = Plan.make(list_images([source.name]), tmp_path, 4)
    plan.root = os.getcwd()
    monkeypatch.chdir(tmp_path)
    with pickle.loads(pickle.dumps(plan)).items(plan.pieces[1]) as items:
        one = next(items)
    assert one.source == f"{source.name}/04.png" and Path(one.place.file) == source / "04.png"


@pytest.mark.parametrize("largest", [0.3, 1.0, 1e-7, 3e5, 0.0])
def test_maps_outside_of_float16_are_scaled_exactly(largest: float) -> None:
    values = (np.random.default_rng(0).random((4, 4)) * largest).astype(np.float32)
    scale = scale_of(values)
    stored = (values / np.float32(scale)).astype(np.float16)
    assert np.isfinite(stored).all()
    assert np.allclose(stored.astype(np.float32) * scale, values, rtol=2**-10, atol=largest * 1e-6)
    assert scale == 1.0 or largest in (1e-7, 3e5)
    assert np.log2(scale) % 1 == 0


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


WORDS = ("-t", "a dog", "-t", "grass", "--method", "maskclip", "--batch-size", 2, "--shard-size", 4, "--workers", 0)


def test_the_command_writes_shards(tiny_name: str, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("explain", source, *WORDS, "--model", tiny_name, "-o", out, "--write", "maps,masks,boxes,points")
    assert done.exit_code == 1
    said = done.stderr.splitlines()
    assert said[0] == f"9 images in {out}: shards, index and run.json"
    assert said[1].startswith(f"failed: {source / '03.png'} is not a readable image")
    assert said[3] == "2 of 11 failed."
    again = run(
        "explain", source, *WORDS, "--model", tiny_name, "-o", out, "--write", "maps,masks,boxes,points", "--json"
    )
    told = json.loads(again.stdout)
    assert told["schema"] == "eclip.stream/1"
    assert (told["images"], told["missing_shards"], len(told["failures"])) == (9, 0, 2)
    quiet = run(
        "explain", source, *WORDS, "--model", tiny_name, "-o", out, "--write", "maps,masks,boxes,points", "--quiet"
    )
    assert quiet.exit_code == 1 and quiet.stdout == "" and quiet.stderr.splitlines() == said[1:], "only what failed"


@pytest.mark.long
def test_a_tar_or_many_images_become_shards_without_asking(
    tiny_name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(source / "01.png", "1.png")
    tail = ("-t", "a dog", "--model", tiny_name, "--no-health")
    assert run("explain", tmp_path / "a.tar", *tail, "-o", tmp_path / "one").exit_code == 0
    assert (tmp_path / "one" / "run.json").exists()
    monkeypatch.setattr("eclip.cli.many.MOST_PICTURED", 1)
    done = run("explain", source / "01.png", source / "02.png", *tail, "-q", "-o", tmp_path / "quiet")
    assert (done.exit_code, done.output) == (0, "")
    done = run("explain", source / "01.png", source / "02.png", *tail, "-o", tmp_path / "two")
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("more than 1 images: writing shards with an index; --format png,json writes pictures")
    assert len(rows(tmp_path / "two")) == 2
    named = ("--format", "png,npz,json")  # the default, but asked for
    done = run("explain", source / "01.png", source / "02.png", *tail, *named, "-o", tmp_path / "named")
    assert (tmp_path / "named" / "manifest.json").exists(), done.output
    pictures = ("--format", "png,json")
    done = run("explain", source / "01.png", source / "02.png", *tail, *pictures, "-o", tmp_path / "three")
    assert (tmp_path / "three" / "manifest.json").exists(), done.output
    done = run("explain", tmp_path / "a.tar", *tail, *pictures, "-o", tmp_path / "four")
    assert done.exit_code == 2
    assert "--format is for pictures of each image, not for shards" in done.stderr


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.long
def test_a_killed_command_is_continued_by_the_same_command(
    tiny_folder: Path, source: Path, tmp_path: Path, end: signal.Signals
) -> None:
    """Real signals; Ctrl-C comes twice, to all processes, as from a terminal. No process is left behind."""
    many = tmp_path / "many"
    many.mkdir()
    for number in range(120):
        shutil.copy(source / f"{number % 3:02d}.png", many / f"{number:03d}.png")
    model = f"local-dir:{tiny_folder}"
    words = [
        sys.executable,
        "-m",
        "eclip",
        "explain",
        str(many),
        "-t",
        "a dog",
        "--write",
        "maps,boxes",
        "--workers",
        "1",
    ]
    words += ["--method", "maskclip", "--batch-size", "2", "--shard-size", "40", "--model", model]
    journal = tmp_path / "killed" / "shards" / "000000.tar.part"
    process = subprocess.Popen([*words, "-o", str(tmp_path / "killed")], stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.stat().st_size > 3000):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr and process.stderr.read()
        time.sleep(0.005)
    if end == signal.SIGKILL:
        process.send_signal(end)
    for _ in range(2 if end == signal.SIGINT else 0):
        os.killpg(process.pid, end)
        time.sleep(0.1)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    process.stderr.close()
    code = process.wait()
    if end == signal.SIGINT:
        assert (code, "run the same command again to continue" in said) == (130, True), said
        assert "Traceback" not in said
    assert not (tmp_path / "killed" / "index" / "000002.jsonl").exists(), "it was stopped before its end"
    alone = time.monotonic() + 20
    while _of_session(process.pid):
        assert time.monotonic() < alone, "a worker process outlives the main one"
        time.sleep(0.05)
    given: dict[str, Any] = {"model": model, "method": "maskclip", "batch_size": 2, "shard_size": 40}
    for name in ("killed", "whole"):
        eclip.explain_dataset(many, ["a dog"], tmp_path / name, workers=0, **given)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def _of_session(leader: int) -> list[str]:
    """Processes of a session that are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = re.sub(r"\(.*\)", "x", stat.read_text()).split()
        except OSError:
            continue
        if int(fields[5]) == leader and fields[2] not in "ZX":
            found.append(stat.parent.name)
    return found


@pytest.mark.parametrize("layout", ["tar", "folder"])
def test_written_maps_are_a_data_set_of_torch(source: Path, tmp_path: Path, layout: str) -> None:
    write(source, tmp_path / "out", layout=layout, write=["maps"], method="gradcam")
    data = eclip.MapDataset(tmp_path / "out")
    expected = list(eclip.explain_stream(source, TEXTS, failures=[], model=tiny.kept("vit"), method="gradcam"))
    assert len(data) == len(expected) == 9
    loaded = list(torch.utils.data.DataLoader(data, batch_size=None))
    for item, one in zip(loaded, expected, strict=True):
        assert (item["source"], (item["width"], item["height"]), item["texts"]) == (*one.sources, one.sizes[0], TEXTS)
        assert torch.allclose(item["scores"], torch.from_numpy(one.scores[0]), atol=1e-6)
        largest = float(np.abs(one.maps).max())
        assert np.allclose(item["maps"].numpy(), one.maps[0], rtol=2**-10, atol=largest * 1e-3)
        assert item["maps"].dtype == torch.float32
    assert data[-1]["id"] == "000002-000002"
    with pytest.raises(ResultError, match="holds no maps"):
        eclip.MapDataset(source)


class Plain(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """HTTP by urllib for URLs "plain://", because fsspec's own needs aiohttp; its errors name their status."""

    protocol = "plain"

    def _open(self, path: str, *_: Any, **__: Any) -> io.BytesIO:
        with urllib.request.urlopen(f"http://{self._strip_protocol(path)}", timeout=5) as answer:
            return io.BytesIO(answer.read())


@pytest.fixture(params=["plain", "http"])
def served(
    request: pytest.FixtureRequest, source: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, list[str]]]:
    """The URL of a server of the images, and what it was asked, except for HEAD.

    The first directory of a path says how many requests fail before one is served, and how: "2x503", "9x404", "2xcut".
    """
    if request.param == "http":
        pytest.importorskip("aiohttp")
    fsspec.register_implementation("plain", Plain, clobber=True)
    monkeypatch.setattr("eclip.files.PAUSES", (0.01, 0.02, 0.03))
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(404, b"")

        def do_GET(self) -> None:
            asked.append(self.path)
            count, _, how = self.path.split("/")[1].partition("x")
            data = (source / Path(self.path).name).read_bytes()
            if asked.count(self.path) > int(count):
                self._answer(200, data)
            elif how == "cut":
                self._answer(200, data, len(data) // 2)
            else:
                self._answer(int(how), b"")

        def _answer(self, status: int, data: bytes, end: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:end])

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"{request.param}://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()
        gc.collect()  # aiohttp's open sessions warn when they go, which must not be in another test


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # aiohttp's open sessions
def test_errors_of_a_network_that_pass_are_not_final(
    served: tuple[str, list[str]], source: Path, tmp_path: Path
) -> None:
    url, asked = served
    paths = [f"/{how}/{name}.png" for how, name in (("2x503", "01"), ("2xcut", "02"), ("9x500", "04"), ("9x404", "05"))]
    (tmp_path / "urls.jsonl").write_text("\n".join(json.dumps(url + path) for path in paths))
    written = write(tmp_path / "urls.jsonl", tmp_path / "out")
    assert (written.images, written.failures) == (2, 2)
    assert [Path(row["source"]).name for row in rows(tmp_path / "out")] == ["01.png"] * 2 + ["02.png"] * 2
    (_, busy), (_, gone) = written.failed()
    assert "even when tried again" in busy and "500" in busy
    assert "tried again" not in gone and ("no such file" in gone or "Not Found" in gone)
    assert (asked.count(paths[2]), asked.count(paths[3])) == (4, 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # aiohttp's open sessions
def test_a_tar_whose_server_is_busy_is_not_a_missing_one(
    served: tuple[str, list[str]], source: Path, tmp_path: Path
) -> None:
    url, _ = served
    with tarfile.open(source / "a.tar", "w") as tar:
        tar.add(source / "01.png", "01.png")
    try:
        assert write(f"{url}/2x503/a.tar", tmp_path / "one").images == 1
        with pytest.raises(DataError, match=r"cannot be downloaded .*503.*run the same command again"):
            write(f"{url}/9x503/a.tar", tmp_path / "two")
    finally:
        (source / "a.tar").unlink()


@pytest.mark.parametrize(
    "error",
    [
        UnknownNameError("method", "nothing", ["gem"], "`eclip methods ls`"),
        NotApplicableError("gem", "model", "CNN", "it has no attention"),
        MissingExtraError("the engine 'ray'", "ray", "ray"),
    ],
)
def test_errors_reach_other_processes_as_they_are(error: EclipError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


RAY = """
import os, signal, sys, threading, time, eclip
from pathlib import Path
from ray.data import DataContext

def kill_one():
    import psutil
    while True:
        for one in psutil.Process().children(recursive=True):
            if any(Path(sys.argv[3]).glob("shards/*.part")) and "MapWorker" in " ".join(one.cmdline()):
                os.kill(one.pid, signal.SIGKILL)
                print("killed", flush=True)
                return
        time.sleep(0.01)

if __name__ == "__main__":
    threading.Thread(target=kill_one, daemon=True).start()
    settings = dict(method="maskclip", batch_size=2, shard_size=4, workers=0, threads=1)
    done = eclip.explain_dataset(
        sys.argv[2], ["a dog", "grass"], sys.argv[3], model=sys.argv[1], engine="ray",
        write=["maps", "masks", "boxes", "points"], **settings
    )
    print(done.images, done.failures, done.missing)
    print("as before", "RAY_USAGE_STATS_ENABLED" not in os.environ, DataContext.get_current().enable_progress_bars)
    for method in ("nothing", "gem"):
        try:
            again = dict(settings, method=method)
            done = eclip.explain_dataset(
                sys.argv[2], "a dog", sys.argv[4], model=sys.argv[1], engine="ray", overwrite=True, **again
            )
            print("anew", done.images)
        except eclip.EclipError as error:
            print("kept", len(list(Path(sys.argv[4]).glob("index/*"))), error)
"""


@pytest.mark.long
def test_ray_makes_the_same_bytes_although_one_of_its_processes_dies(
    tiny_name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(source.parent)
    source = Path(source.name)
    write(source, tmp_path / "whole", model=tiny_name)
    (tmp_path / "job.py").write_text(RAY)
    write(source, tmp_path / "old", model=tiny_name)
    words = [sys.executable, str(tmp_path / "job.py"), tiny_name, str(source), str(tmp_path / "ray")]
    words.append(str(tmp_path / "old"))
    done = subprocess.run(words, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr[-3000:]
    said = set(done.stdout.split("\n"))  # Ray prints lines of its own
    refused = "kept 3 unknown method 'nothing'. `eclip methods ls` shows all"
    assert {"killed", "9 2 0", "anew 9", "as before True True"} <= said and any(
        line.startswith(refused) for line in said
    ), done.stdout
    assert json.loads((tmp_path / "old" / "run.json").read_text())["provenance"]["method"] == "gem"
    assert contents(tmp_path / "ray") == contents(tmp_path / "whole")


def test_a_map_of_the_stream_marks_what_its_mask_says(source: Path) -> None:
    [one] = eclip.explain_stream(source / "01.png", "a dog", model=tiny.kept("vit"), method="maskclip")
    heat = resize(normalize(torch.from_numpy(one.maps[0, 0])), one.sizes[0][::-1]).numpy()
    assert np.array_equal(one.mask(0, 0), heat >= one.level(0, 0))
