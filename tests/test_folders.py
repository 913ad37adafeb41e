"""One run per folder: the same run replaces its results; other runs are refused, and nothing is mixed."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

import eclip
from eclip.errors import ResultError
from eclip.explanation.explanation import Explanation
from eclip.render.html import render
from eclip.results.earlier import Earlier
from eclip.results.marks import is_ours
from test_cli import run

ASKED: dict[str, tuple[str, ...]] = {
    "explain": ("-t", "a dog", "--method", "itsm"),
    "compare": ("-t", "a dog", "--methods", "itsm"),
    "segment": ("-c", "dog", "-c", "grass", "--template", "none"),
    "words": ("-t", "a dog"),
    "concepts": ("--count", "1"),
}


@pytest.fixture(scope="module")
def ask(tiny_name: str, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A command on images, whose results go to a folder."""
    folder = tmp_path_factory.mktemp("asked")
    np.save(folder / "mean.npy", np.full(24, 0.05, np.float32))
    (folder / "words.txt").write_text("dog\ngrass\nsea\n")

    def asked(command: str, out: Path, *more: object, of: str | Path = "a.png") -> Result:
        own: tuple[object, ...] = ASKED[command]
        if command == "concepts":
            own = (*own, "--image-mean", folder / "mean.npy", "--vocabulary", folder / "words.txt", "--l1", 0.01)
        model = "--models" if command == "compare" else "--model"
        return run(command, images / of, *own, *more, model, tiny_name, "-o", out)

    return asked


def _state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _listed(folder: Path) -> set[str]:
    """What the manifest lists, itself included."""
    before = Earlier.read(folder)
    assert before is not None
    return before.files


@pytest.mark.parametrize("first", ASKED)
def test_another_command_is_refused_or_replaces_all_if_asked(ask: Any, tmp_path: Path, first: str) -> None:
    assert ask(first, tmp_path / "first").exit_code == 0
    before = _state(tmp_path / "first")
    for second in ASKED.keys() - {first}:
        done = ask(second, tmp_path / "first")
        assert done.exit_code == 1 and done.stdout == ""
        assert done.stderr == (
            f"error: the folder '{tmp_path / 'first'}' contains results of `eclip {first}`, which would mix with "
            f"those of `eclip {second}`: choose another folder, or replace them with --overwrite (Python: "
            "overwrite=True).\n"
        )
        assert _state(tmp_path / "first") == before
    shutil.copytree(tmp_path / "first", tmp_path / "both")
    other = "segment" if first == "explain" else "explain"
    done = ask(other, tmp_path / "both", "--overwrite")
    assert done.exit_code == 0, done.output
    assert "replacing the results of an earlier run" in done.stderr
    assert json.loads((tmp_path / "both" / "manifest.json").read_text())["schema"] == f"eclip.{other}/1"
    assert set(_state(tmp_path / "both")) == _listed(tmp_path / "both"), "nothing of the first is left"


@pytest.mark.parametrize("command", ASKED)
def test_the_same_again_replaces_itself_without_a_word(ask: Any, tmp_path: Path, command: str) -> None:
    first = ask(command, tmp_path)
    before = _state(tmp_path)
    again = ask(command, tmp_path)
    assert (again.exit_code, again.stderr) == (first.exit_code, first.stderr) == (0, first.stderr)
    assert set(_state(tmp_path)) == set(before) == _listed(tmp_path)


def test_another_question_about_the_same_images_replaces_the_first_and_says_so(ask: Any, tmp_path: Path) -> None:
    ask("explain", tmp_path, "-t", "grass")
    assert (tmp_path / "a.1-grass.png").is_file()
    done = ask("explain", tmp_path)
    assert done.exit_code == 0, done.output
    assert f"1 explained in {tmp_path}, replacing the results of an earlier run\n" in done.stderr
    assert not (tmp_path / "a.1-grass.png").exists() and set(_state(tmp_path)) == _listed(tmp_path)
    fewer = ask("explain", tmp_path, "--format", "png")
    assert fewer.exit_code == 0 and set(_state(tmp_path)) == {"a.png", "a.0-a-dog.png"}, "no manifest of another run"
    assert ask("explain", tmp_path, "--format", "png").exit_code == 0, "files of ours, though no manifest lists them"


def test_results_of_other_images_are_not_lost(ask: Any, images: Path, tmp_path: Path) -> None:
    ask("explain", tmp_path, of="")
    before = _state(tmp_path)
    done = ask("explain", tmp_path)
    assert done.exit_code == 1
    assert (
        f"contains results of other images ({images / 'b.jpg'}), which the new manifest would no longer list"
        in done.stderr
    )
    missing = ask("explain", tmp_path, of="nothing.jpg")
    assert missing.exit_code == 1 and "no such file" in missing.stderr
    assert _state(tmp_path) == before, "also after a path that names nothing"
    assert ask("explain", tmp_path, "--overwrite").exit_code == 0
    assert Explanation.load(tmp_path).sources == (str(images / "a.png"),)
    assert set(_state(tmp_path)) == _listed(tmp_path)
    assert ask("explain", tmp_path, of="").exit_code == 0, "more images than before"


def test_an_image_that_fails_keeps_its_earlier_results(ask: Any, tiny_name: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (20, 20), "red").save(own / f"{name}.png")
    asked = ("explain", own, *ASKED["explain"], "--model", tiny_name, "-o", tmp_path / "out")
    assert run(*asked).exit_code == 0
    before = _state(tmp_path / "out")
    (own / "b.png").write_bytes(b"")
    assert run(*asked).exit_code == 1
    after = _state(tmp_path / "out")
    assert {name: after[name] for name in before if name.startswith("b.")} == {
        name: content for name, content in before.items() if name.startswith("b.")
    }
    Image.new("RGB", (20, 20), "red").save(own / "b.png")
    assert run(*asked).exit_code == 0 and _state(tmp_path / "out").keys() == before.keys()


def test_a_folder_that_nobody_named_gives_way_to_one_beside_it(
    tiny_name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eclip-out").mkdir()
    (tmp_path / "eclip-out" / "b.txt").write_text("not by eclip, and in the way of no name in eclip-out-2")
    for image, printed in (("a.png", "eclip-out/"), ("b.jpg", "eclip-out-2/"), ("a.png", "eclip-out/")):
        done = run("explain", images / image, *ASKED["explain"], "--model", tiny_name)
        assert done.exit_code == 0 and f"-> {printed}{Path(image).stem}.png" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eclip-out", "eclip-out-2"]
    assert Explanation.load("eclip-out").sources == (str(images / "a.png"),)
    assert Explanation.load("eclip-out-2").sources == (str(images / "b.jpg"),)
    named = run("explain", images / "b.jpg", *ASKED["explain"], "--model", tiny_name, "-o", "eclip-out")
    assert named.exit_code == 1 and "contains results of other images" in named.stderr


def test_an_interrupted_repeat_keeps_what_it_did_not_reach(
    ask: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eclip.explanation.folder import ExplanationWriter

    ask("explain", tmp_path, of="")
    own = ExplanationWriter.add

    def interrupted(writer: ExplanationWriter, answer: Explanation, sam: None) -> Any:
        if writer.manifest["images"]:
            raise KeyboardInterrupt
        return own(writer, answer, sam)

    monkeypatch.setattr(ExplanationWriter, "add", interrupted)
    assert ask("explain", tmp_path, of="").exit_code == 130
    assert Explanation.load(tmp_path).sources == (str(images / "a.png"),)
    assert (tmp_path / "b.npz").is_file() and (tmp_path / "b.png").is_file()


# --- files of others ---------------------------------------------------------


def test_files_of_others_stay_and_names_of_ours_step_aside(ask: Any, tmp_path: Path) -> None:
    mine = {"a.png": b"mine", "A.txt": b"mine", "b.png": b"mine", "deep/a.png": b"mine"}
    for name, content in mine.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for more in ((), (), ("--overwrite",)):  # the same names again
        assert ask("explain", tmp_path, *more).exit_code == 0
        assert Explanation.load(tmp_path).sources[0].endswith("a.png")
        found = _state(tmp_path)
        assert {name: found[name] for name in mine} == mine
        assert set(found) - set(mine) == {"a-2.png", "a-2.npz", "a-2.0-a-dog.png", "manifest.json"}


@pytest.mark.parametrize(
    ("name", "content"),
    [("manifest.json", '{"name": "my app"}'), ("manifest.json", "[]"), ("manifest.json", "{"), ("coco.json", "{}")],
)
def test_a_manifest_of_others_is_replaced_only_if_asked(ask: Any, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    done = ask("segment", tmp_path)
    assert done.exit_code == 1 and done.stdout == ""
    assert f"{tmp_path / name} already exists and is not from a run of this kind" in done.stderr
    assert _state(tmp_path) == {name: content.encode()}
    assert ask("segment", tmp_path, "--overwrite").exit_code == 0
    assert set(_state(tmp_path)) == _listed(tmp_path)


def test_the_image_of_an_earlier_run_is_never_removed(ask: Any, tmp_path: Path) -> None:
    """A manifest's words are not trusted with more than names within its own folder."""
    outside = tmp_path / "mine.png"
    outside.write_bytes(b"mine")
    assert ask("explain", tmp_path / "out").exit_code == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    manifest["images"][0]["files"] |= {"strip": "../mine.png", "more": [str(outside)]}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    assert ask("explain", tmp_path / "out", "--overwrite", of="b.jpg").exit_code == 0
    assert outside.read_bytes() == b"mine"


def test_runs_of_train_and_eval_are_no_place_for_results(ask: Any, tmp_path: Path) -> None:
    for files, command in ((("eclip_head.json",), "eclip train"), (("question.json", "parts"), "eclip eval")):
        folder = tmp_path / command
        folder.mkdir()
        for name in files:
            (folder / name).touch()
        for more in ((), ("--overwrite",)):
            done = ask("explain", folder, *more)
            assert done.exit_code == 1
            assert done.stderr == (
                f"error: the folder '{folder}' contains results of `{command}`: choose another folder.\n"
            )
        assert {path.name for path in folder.iterdir()} == set(files)


def test_results_are_no_place_for_train_and_eval(ask: Any, tiny_name: str, tmp_path: Path) -> None:
    from eclip.evaluation.store import open_run

    ask("explain", tmp_path)
    before = _state(tmp_path)
    done = run("train", "--train-data", tmp_path, "--model", tiny_name, "-o", tmp_path)
    assert done.exit_code == 1 and "contains results of `eclip explain`" in done.stderr
    with pytest.raises(ResultError, match="contains results of `eclip explain`"):
        open_run(tmp_path, {"schema": "eclip.eval/1"})
    assert _state(tmp_path) == before


def test_a_report_replaces_no_file_but_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = str(render("eclip.evaluation.report.page", "page.html", title="run", heading=None, beside=None, runs=[]))
    made_of = importlib.import_module("eclip.evaluation.report.report")
    monkeypatch.setattr(made_of, "report", lambda folders, title: page)
    notes, made = tmp_path / "notes.html", tmp_path / "report.html"
    notes.write_text("<!doctype html>my notes")
    done = run("report", "run", "-o", notes)
    assert done.exit_code == 1 and "was not written by eclip: choose another name" in done.stderr
    assert notes.read_text().endswith("my notes")
    assert "give a file name, such as -o" in run("report", "run", "-o", tmp_path).stderr
    for _ in range(2):
        assert run("report", "run", "-o", made).exit_code == 0
    assert run("report", "run", "-o", notes, "--overwrite").exit_code == 0 and is_ours(notes)


# --- in Python ---------------------------------------------------------------


def _answers(tiny_name: str, image: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"templates": "none"}
    mean, words = np.full(24, 0.05, np.float32), ("dog", "grass", "sea")
    return {
        "explain": eclip.explain(image, "a dog", model=tiny_name, method="itsm"),
        "compare": eclip.compare(image, "a dog", models=tiny_name, methods="itsm"),
        "segment": eclip.segment(image, ["dog", "grass"], model=tiny_name, **settings),
        "concepts": eclip.concepts(image, model=tiny_name, image_mean=mean, vocabulary=words, l1=0.01),
    }


def test_saving_refuses_what_the_command_line_refuses(tiny_name: str, images: Path, tmp_path: Path) -> None:
    answers = _answers(tiny_name, images / "a.png")
    others = _answers(tiny_name, images / "b.jpg")
    for kind, answer in answers.items():
        folder = tmp_path / kind
        answer.save(folder)
        answer.save(folder)
        before = _state(folder)
        for other in [one for name, one in answers.items() if name != kind]:
            with pytest.raises(ResultError, match=rf"contains results of `eclip {kind}`.*overwrite=True"):
                other.save(folder)
        with pytest.raises(ResultError, match="contains results of other images"):
            others[kind].save(folder)
        assert _state(folder) == before
        others[kind].save(folder, overwrite=True)
        assert set(_state(folder)) == _listed(folder)
        next(one for name, one in answers.items() if name != kind).save(folder, overwrite=True)
        assert set(_state(folder)) == _listed(folder)


def test_another_image_from_memory_is_another_image(tiny_name: str, tmp_path: Path) -> None:
    """All of them are called "image 0": a loop that saves each into one folder would keep the last alone."""
    images = [Image.effect_noise((40, 30), spread).convert("RGB") for spread in (20, 80)]
    first, second = (eclip.explain(one, "a dog", model=tiny_name, method="itsm") for one in images)
    first.save(tmp_path)
    first.save(tmp_path)
    before = _state(tmp_path)
    with pytest.raises(ResultError, match=r"contains results of another image named 'image 0'.*overwrite=True"):
        second.save(tmp_path)
    assert _state(tmp_path) == before
    second.save(tmp_path, overwrite=True)
    assert np.array_equal(Explanation.load(tmp_path).maps, second.maps)
    replace(second, texts=("a cat",)).save(tmp_path)
    assert Explanation.load(tmp_path).texts == ("a cat",), "the same image, another text"


# --- two at once -------------------------------------------------------------


def _hold(folder: str, on_method: Any, end: Any) -> None:
    from eclip.explanation.folder import ExplanationWriter

    with ExplanationWriter(folder):
        on_method.set()
        end.wait(300)


@pytest.mark.long
def test_two_processes_do_not_fill_one_folder_at_once(ask: Any, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    on_method, end = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), on_method, end))
    other.start()
    try:
        assert on_method.wait(300)
        done = ask("explain", tmp_path)
        assert done.exit_code == 1
        assert done.stderr == (
            f"error: another run is writing to '{tmp_path}': wait for it to finish, or choose another folder.\n"
        )
        assert not list(tmp_path.iterdir())
        other.kill()  # the lock goes with its process, however that ends
        other.join()
        assert ask("explain", tmp_path).exit_code == 0
    finally:
        other.kill()
        other.join()
