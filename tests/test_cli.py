"""The command line: what it prints where, its exit codes, and what it does not import."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import eclip
from eclip import __version__, cli
from eclip.backbones.choices import POSITIONS, RESIZES
from eclip.backbones.preprocess import Preprocess
from eclip.cli.errors import report_errors
from eclip.explanation.comparison import ComparisonWriter
from eclip.explanation.explanation import Explanation
from eclip.methods import METHODS


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def explain(*words: object, model: str, out: Path) -> Result:
    return run("explain", *words, "--model", model, "-o", out)


def test_one_image_two_texts(tiny_name: str, images: Path, tmp_path: Path) -> None:
    done = explain(images / "a.png", "-t", "a dog", "-t", "grass", "--no-health", model=tiny_name, out=tmp_path)
    assert done.exit_code == 0, done.output
    answer = Explanation.load(tmp_path)
    first, second = answer.scores[0]
    assert done.stdout == f"{images / 'a.png'}: a dog {first:.3f}  grass {second:.3f}  -> {tmp_path / 'a.png'}\n"
    assert done.stderr == f"1 explained in {tmp_path}\nmodel: {tiny_name}\n"
    assert (tmp_path / "a.png").is_file()


def test_ctrl_c_waits_for_the_end_of_an_import(tmp_path: Path) -> None:
    slow = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
deadline = time.monotonic() + 0.3
while time.monotonic() < deadline:
    pass
whole = True
"""
    (tmp_path / "slow.py").write_text(slow)
    program = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the caller does with it
from eclip.cli.interrupts import defer_while_importing
defer_while_importing()
try:
    import slow
    for _ in range(600):  # a signal just before a system call is seen only when that ends: no long ones
        time.sleep(0.1)
except KeyboardInterrupt:  # at any time after the import; a module whose import was cut short is not listed
    print("stopped, imported", sys.modules["slow"].whole)
"""
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "stopped, imported True\n"


def test_a_second_run_leaves_the_results_of_the_first_alone(tiny_name: str, images: Path, tmp_path: Path) -> None:
    for image in images.iterdir():
        shutil.copy(image, tmp_path)
    for _ in range(2):  # the output folder lies inside the source
        done = explain(tmp_path, "-t", "a dog", model=tiny_name, out=tmp_path / "out")
        assert done.exit_code == 0, done.output
        assert len(Explanation.load(tmp_path / "out").sources) == 2
    named = explain(tmp_path / "out" / "a.png", "-t", "a dog", model=tiny_name, out=tmp_path / "out")
    assert named.exit_code == 1
    assert "is in the output folder, where results could replace it: choose another folder." in named.stderr


def test_options_reach_the_method_and_the_forward_pass(tiny_name: str, images: Path, tmp_path: Path) -> None:
    done = explain(images / "a.png", "-t", "a dog", "--set", "depth=7", model=tiny_name, out=tmp_path)
    assert done.exit_code == 0, done.output  # the tower has seven blocks, six are kept by default
    assert Explanation.load(tmp_path).provenance["options"] == {"depth": 7}


def test_folders_globs_and_a_file_of_texts(tiny_name: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\ufeffa dog\n\n  grass \n", encoding="utf-8")
    texts = ("-t", "sea", "--texts-file", tmp_path / "texts.txt")
    done = explain(images, f"{images}/*.jpg", *texts, "--format", "npz,json", model=tiny_name, out=tmp_path / "out")
    assert done.exit_code == 0, done.output
    answer = Explanation.load(tmp_path / "out")
    assert answer.sources == (str(images / "a.png"), str(images / "b.jpg")), "each once"
    assert answer.texts == ("sea", "a dog", "grass")
    assert not list((tmp_path / "out").glob("*.png"))


def test_json_is_the_manifest_and_nothing_else_is_on_stdout(tiny_name: str, images: Path, tmp_path: Path) -> None:
    done = explain(images, "nothing.jpg", "-t", "狗", "--json", model=tiny_name, out=tmp_path)
    assert done.exit_code == 1
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert list(printed) == ["schema", "texts", "signed", "provenance", "images", "failures"]
    assert list(printed["images"][0]) == ["source", "width", "height", "grid", "map", "scores", "health", "files"]
    assert printed["failures"] == [{"source": "nothing.jpg", "error": "nothing.jpg: no such file or folder."}]


def test_json_keeps_its_keys_where_nothing_was_explained(tiny_name: str, tmp_path: Path) -> None:
    done = explain("nothing.jpg", "-t", "a dog", "--json", model=tiny_name, out=tmp_path)
    assert done.exit_code == 1
    printed = json.loads(done.stdout)
    assert (printed["texts"], printed["provenance"], printed["images"]) == ([], None, [])


def test_the_command_in_the_manifest_is_of_the_whole_run(tiny_name: str, images: Path, tmp_path: Path) -> None:
    explain(images, "-t", "a dog", "--set", "depth=2", model=tiny_name, out=tmp_path / "one")
    command = json.loads((tmp_path / "one" / "manifest.json").read_text())["provenance"]["command"]
    assert command.startswith(f"eclip explain {images} -t 'a dog' --model {tiny_name}")
    done = run(*command.split(" ")[1:3], "-t", "a dog", *command.split("dog' ")[1].split(), "-o", tmp_path / "two")
    assert done.exit_code == 0, done.output
    assert np.array_equal(Explanation.load(tmp_path / "one").maps, Explanation.load(tmp_path / "two").maps)


def test_the_output_names_mini_and_openais_clip(tiny_name: str, images: Path, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(cli.loop, "DEFAULT_MODEL", tiny_name)
    done = explain(images / "a.png", "-t", "a dog", model=tiny_name, out=tmp_path)
    assert "--model ViT-B-16/openai" in done.stderr


def test_template_is_a_name_or_sentences(tiny_name: str, images: Path, tmp_path: Path) -> None:
    templates = ("--template", "a {}", "--template", "the {}")
    done = explain(images / "a.png", "-t", "a dog", *templates, model=tiny_name, out=tmp_path)
    assert done.exit_code == 0, done.output
    assert Explanation.load(tmp_path).provenance["templates"] == ["a {}", "the {}"]


def test_ctrl_c_keeps_what_is_done(tiny_name: str, images: Path, tmp_path: Path, monkeypatch: Any) -> None:
    own, calls = Preprocess.__call__, []

    def interrupted(*given: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return own(*given)

    monkeypatch.setattr(Preprocess, "__call__", interrupted)
    (tmp_path / "0.png").write_bytes(b"no picture")
    sources = (tmp_path / "0.png", images / "a.png", images / "b.jpg")
    done = explain(*sources, "-t", "a dog", "--batch-size", "1", model=tiny_name, out=tmp_path / "out")
    assert done.exit_code == 130
    assert "interrupted; everything done so far is kept." in done.stderr
    answer = Explanation.load(tmp_path / "out")
    assert answer.sources == (str(images / "a.png"),)
    [failure] = json.loads((tmp_path / "out" / "manifest.json").read_text())["failures"]
    assert failure["source"] == str(tmp_path / "0.png")


# --- compare -----------------------------------------------------------------


def compare(*words: object, models: str, out: Path) -> Result:
    return run("compare", *words, "--models", models, "-o", out)


def test_compare_makes_one_picture_per_image(tiny_name: str, images: Path, tmp_path: Path) -> None:
    done = compare(images, "-t", "a dog", "-t", "grass", "--methods", "itsm,legrad", models=tiny_name, out=tmp_path)
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"{images / 'a.png'}  -> {tmp_path / 'a.compare.png'}\n{images / 'b.jpg'}  -> {tmp_path / 'b.compare.png'}\n"
    )
    assert done.stderr == f"2 compared in {tmp_path}\nmodel: {tiny_name}\n"
    for image in ("a.png", "b.jpg"):
        answer = eclip.explain(images / image, ["a dog", "grass"], method="legrad", model=tiny_name)
        with np.load(tmp_path / f"{image[0]}.npz") as arrays:
            [scores, *maps] = sorted(arrays, key=lambda name: not name.endswith("/scores"))
            assert [name.rpartition("/")[2] for name in maps] == ["itsm", "legrad"]
            np.testing.assert_allclose(arrays[maps[1]], answer.maps[0], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(arrays[scores], answer.scores[0], atol=1e-6)
        with Image.open(tmp_path / f"{image[0]}.compare.png") as picture:
            assert picture.height > 2 * 165, "two rows"


def test_compare_goes_on_after_an_image_that_cannot_be_read(tiny_name: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no picture")
    sources = (tmp_path / "0.png", images / "a.png", "nothing.jpg")
    methods = ("--methods", "itsm", "--format", "npz,json", "--json")
    done = compare(*sources, "-t", "a dog", *methods, models=tiny_name, out=tmp_path / "out")
    assert done.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.npz", "manifest.json"]
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert list(printed) == ["schema", "texts", "provenance", "images", "failures"]
    assert [failure["source"] for failure in printed["failures"]] == ["nothing.jpg", str(tmp_path / "0.png")]
    assert [image["source"] for image in printed["images"]] == [str(images / "a.png")]
    assert "2 of 3 failed." in done.stderr


def test_the_command_of_a_comparison_repeats_it(tiny_name: str, images: Path, tmp_path: Path) -> None:
    asked = ("--versus", "a wolf", "--methods", "surgery,gradcam", "--template", "a {}", "--template", "the {}")
    more = ("--scale", "row", "--image-size", "48", "--resize", "keep", "--positions", "bilinear")
    done = compare(images, "-t", "a dog", *asked, *more, models=tiny_name, out=tmp_path / "one")
    assert done.exit_code == 0, done.output
    command = shlex.split(json.loads((tmp_path / "one" / "manifest.json").read_text())["provenance"]["command"])
    assert command[:3] == ["eclip", "compare", str(images)]
    again = run(*command[1:], "-o", tmp_path / "two")
    assert again.exit_code == 0, again.output
    for name in ("a.npz", "b.npz"):
        with np.load(tmp_path / "one" / name) as one, np.load(tmp_path / "two" / name) as two:
            assert len(one) == 3 and all(np.array_equal(one[key], two[key]) for key in one)
    one, two = (json.loads((tmp_path / name / "manifest.json").read_text())["provenance"] for name in ("one", "two"))
    assert one == two and (one["scale"], one["versus"], one["image_size"]) == ("row", "a wolf", 48)


def test_ctrl_c_keeps_the_comparisons_that_are_done(
    tiny_name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ComparisonWriter.add

    def interrupted(writer: ComparisonWriter, comparison: Any) -> Any:
        if writer.manifest["images"]:
            raise KeyboardInterrupt
        return own(writer, comparison)

    monkeypatch.setattr(ComparisonWriter, "add", interrupted)
    done = compare(images, "-t", "a dog", "--methods", "itsm", models=tiny_name, out=tmp_path)
    assert done.exit_code == 130
    assert "interrupted; everything done so far is kept." in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.compare.png", "a.npz", "manifest.json"]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [image["source"] for image in manifest["images"]] == [str(images / "a.png")]
    assert manifest["provenance"]["command"].startswith(f"eclip compare {images} "), "of the whole run"


def test_compare_refuses_a_named_method_that_cannot_explain_a_difference(
    tiny_name: str, images: Path, tmp_path: Path
) -> None:
    named = ("--methods", "itsm,attention", "--versus", "a wolf")
    done = compare(images, "-t", "a dog", *named, models=tiny_name, out=tmp_path)
    assert done.exit_code == 2
    assert "'attention' cannot explain the difference of two texts" in done.stderr


def test_explain_versus_is_the_difference(tiny_name: str, images: Path, tmp_path: Path) -> None:
    versus = ("--method", "itsm", "--versus", "a wolf")
    done = explain(images / "a.png", "-t", "a dog", *versus, model=tiny_name, out=tmp_path)
    assert done.exit_code == 0, done.output
    answer = Explanation.load(tmp_path)
    plain = eclip.explain(images / "a.png", ["a dog", "a wolf"], method="itsm", model=tiny_name)
    np.testing.assert_allclose(answer.maps[0, 0], plain.maps[0, 0] - plain.maps[0, 1], atol=1e-6)
    assert answer.signed and answer.provenance["versus"] == "a wolf"
    assert "'--versus=a wolf'" in answer.provenance["command"]


# --- wrong usage: exit code 2 ------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("explain a.jpg", "no text was given"),
        ("explain a.jpg -t ''", "a text is empty"),
        ("explain a.jpg -t ' '", "a text is empty"),
        ("explain a.jpg -t dog --texts-file nothing.txt", "cannot read the texts file 'nothing.txt'"),
        ("explain a.jpg -t dog --method=", "unknown method ''"),
        ("explain a.jpg -t dog --method surgerry", "unknown method 'surgerry'. Did you mean 'surgery'?"),
        ("explain a.jpg -t dog -m ViT-B-61/openai", "unknown model 'ViT-B-61'. Did you mean 'ViT-B-16'?"),
        ("explain a.jpg -t dog -m ViT-B-16/openia", "Did you mean 'openai'?"),
        ("explain a.jpg -t dog -m ViT-B-16", "add a tag as in ViT-B-16/openai"),
        ("explain a.jpg -t dog -m local-dir:nowhere", "no model folder 'nowhere'"),
        ("explain a.jpg -t dog --template imagenet8", "Did you mean 'imagenet80'?"),
        ("explain a.jpg -t dog --template 'an image'", "unknown template set 'an image'"),
        ("explain a.jpg -t dog --template '{} {}'", "exactly one '{}'"),
        (
            "explain a.jpg -t dog --format pgn",
            "among png, npz, json, jpg, pdf, svg, csv, html, coco, labelstudio, got pgn",
        ),
        ("explain a.jpg -t dog --set depth", "--set needs KEY=VALUE, got 'depth'"),
        ("explain a.jpg -t dog --set depth=2 --set depth=4", "--set depth is given twice: keep one of them."),
        (
            "explain a.jpg -t dog --method surgery --set depth=abc",
            "'depth' of 'surgery' must be a whole number, got 'abc'",
        ),
        ("explain a.jpg -t dog --set dept=3", "no option 'dept'"),
        ("explain a.jpg -t dog --method itsm --set depth=3", "it belongs to gem, surgery"),
        ("explain a.jpg -t dog --versus ''", "--versus is empty"),
        ("compare a.jpg", "no text was given"),
        ("compare a.jpg -t dog --methods itsm,surgerry", "unknown method 'surgerry'. Did you mean 'surgery'?"),
        ("compare a.jpg -t dog --methods ,", "--methods needs a name"),
        ("compare a.jpg -t dog --models ''", "--models needs a name"),
        ("compare a.jpg -t dog --models mini,ViT-B-61/openai", "unknown model 'ViT-B-61'. Did you mean 'ViT-B-16'?"),
        ("compare a.jpg -t dog --models mini,ViT-B-16", "add a tag as in ViT-B-16/openai"),
        ("compare a.jpg -t dog --versus ' '", "--versus is empty"),
        ("compare a.jpg -t dog --scale image", "--scale"),
        ("compare a.jpg -t dog --template imagenet8", "Did you mean 'imagenet80'?"),
        ("compare a.jpg -t dog --format pgn", "formats must be among png, npz, json, pdf, svg, got pgn"),
        ("comapre a.jpg", "Did you mean 'compare'?"),
        ("explain a.jpg -t dog --batch-size 0", "--batch-size"),
        ("explain a.jpg -t dog --image-size big", "--image-size"),
        ("explain a.jpg -t dog --image-size -3 --dry-run", "--image-size"),
        ("explain a.jpg --texts-file utf-16.txt", "'utf-16.txt': it is not UTF-8: save it as UTF-8."),
        ("explain a.jpg -t dog --config none.toml", "configuration 'none.toml': No such file or directory."),
        ("explain a.jpg -t dog --resize crop", "--resize"),
        ("explain a.jpg -t dog --positions nearest", "--positions"),
        ("explain a.jpg -t dog --metod itsm", "--method"),
        ("explian a.jpg", "Did you mean 'explain'?"),
        ("models lss", "Did you mean 'ls'?"),
        ("explain", "Missing argument"),
    ],
)
def test_wrong_usage_is_two(words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").touch()
    (tmp_path / "utf-16.txt").write_text("a dog", encoding="utf-16")
    monkeypatch.setenv("COLUMNS", "200")
    done = run(*shlex.split(words))
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "gpu"], "got 'gpu'"),
        (["--device", "mps"], "'mps' is not supported"),
        (["--device", "cuda:99"], "'cuda:99' is not available"),
        (["--image-size", "33"], "multiple of the patch size 8"),
        (["--set", "depth=0"], "depth >= 1, got 0"),
        (["--set", "resnet=other"], "got 'other'"),
    ],
)
def test_wrong_settings_of_the_model_are_two(
    tiny_name: str, images: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    done = explain(images, "-t", "a dog", *words, model=tiny_name, out=tmp_path)
    assert done.exit_code == 2, done.output
    assert message in done.stderr


def test_positions_are_those_of_encode() -> None:
    assert tuple(cli.options.Positions) == POSITIONS
    assert tuple(cli.options.Resize) == RESIZES


# --- speed -------------------------------------------------------------------

HEAVY = {"torch", "open_clip", "numpy", "PIL", "scipy", "timm", "torchvision", "huggingface_hub"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--help", 0),
        ("explain --help", 0),
        ("models ls", 0),
        ("models ls --all --json", 0),
        ("methods ls", 0),
        ("refinements ls", 0),
        ("guides ls", 0),
        ("explain a.jpg", 2),
        ("explain a.jpg -t dog --method legard", 2),
        ("explain a.jpg -t dog --model ViT-B-16/openia", 2),
        ("explain a.jpg -t dog --model minni", 2),
        ("explain a.jpg -t dog --template nne", 2),
        ("explain a.jpg -t dog --format pgn", 2),
        ("explain a.jpg -t dog --refine lpos", 2),
        ("explain a.jpg -t dog --refine lposs --format pgn", 2),
        ("compare --help", 0),
        ("compare a.jpg", 2),
        ("compare a.jpg -t dog --methods itsm,legard", 2),
        ("compare a.jpg -t dog --models mini,minni", 2),
        ("compare a.jpg -t dog --format pgn", 2),
        ("train --help", 0),
        ("train", 2),
        ("train --train-data x --form sotf", 2),
        ("train --train-data x --guide spectrl", 2),
        ("train --train-data x --source tokens --model mini", 2),
        ("train --config nothing.toml", 2),
        ("explain a.jpg -t dog --method surgery --head x", 2),
    ],
)
@pytest.mark.long(every=5)
def test_answers_at_once_without_what_is_heavy(words: str, code: int, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom eclip.cli import main\n"
        f"sys.argv = ['eclip', *{words.split()!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as stopped:\n"
        f"    heavy = {HEAVY!r} & set(sys.modules)\n"
        f"    assert stopped.code == {code}, stopped.code\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


# --- lists -------------------------------------------------------------------


def test_methods_are_listed_from_the_dict() -> None:
    rows = json.loads(run("methods", "ls", "--json").stdout)
    assert {row["method"]: row["what"] for row in rows} == {name: method.summary for name, method in METHODS.items()}
    assert [row["kind"] for row in rows] == [method.kind for method in METHODS.values()]
    assert all(name in run("methods", "ls").stdout for name in METHODS)


def test_models_are_listed() -> None:
    few = json.loads(run("models", "ls", "--json").stdout)
    assert [row["model"] for row in few][:2] == ["mini", "ViT-B-16/openai"]
    every = {row["model"]: row for row in json.loads(run("models", "ls", "--all", "--json").stdout)}
    assert "openai" in every["ViT-B-16"]["weights"].split()
    assert every["RN50"]["family"] == "CLIP ResNet"
    assert every["coca_ViT-B-32"]["family"] == "native ViT with CoCa's attentional pooler"
    assert not any(row["family"].startswith("no adapter") for row in every.values())
    assert every["Siglip2Model"]["weights"].startswith("hf:ORG/NAME")
    assert {row["model"].partition("/")[0] for row in few} <= set(every)


def test_version() -> None:
    assert run("--version").stdout == f"eclip {__version__}\n"


def test_doctor_looks_at_a_model(tiny_name: str) -> None:
    done = run("doctor", tiny_name, "--json")
    assert done.exit_code == 0, done.output
    [row] = [row for row in json.loads(done.stdout) if row["what"] == f"model {tiny_name}"]
    assert row["is"] == "works: native ViT, 4 x 4 patches of 8 px, 24 features, `eclip words` supported"
    done = run("doctor", "hf:./nowhere", "--json")
    assert done.exit_code == 1
    assert "not a transformers model folder (no config.json)" in done.stdout


def test_doctor_says_what_to_do(tiny_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from eclip.cli import doctor

    monkeypatch.setattr(doctor, "DEFAULT_MODEL", tiny_name)
    monkeypatch.setattr(doctor, "MINI", Path(tiny_name.removeprefix("local-dir:")))
    done = run("doctor", "--json")
    assert done.exit_code == 0, done.output
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert "matches torch" in rows["torchvision"]["is"]
    assert "works" in rows["model mini"]["is"]
    monkeypatch.setattr(doctor, "DEFAULT_MODEL", "local-dir:/nowhere")
    done = run("doctor", "--json")
    assert done.exit_code == 1
    [bad] = [row for row in json.loads(done.stdout) if row["next"].startswith("reinstall eclip")]
    assert "/nowhere" in bad["is"]


def test_tables_show_brackets_and_colons(capsys: pytest.CaptureFixture[str]) -> None:
    from eclip.cli import lists

    lists.print_table([{"what": "a [/b] c", "next": "pip install 'eclip[hf]' :x:"}], False)
    assert capsys.readouterr().out.splitlines()[1].split() == ["a", "[/b]", "c", "pip", "install", "'eclip[hf]'", ":x:"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (MemoryError(), "--batch-size 1"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), "smaller --image-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "--batch-size 1"),
        (RuntimeError("operator torchvision::nms does not exist"), "eclip doctor"),
        (ImportError("No module named 'timm'"), "eclip doctor"),
    ],
)
def test_faults_of_the_machine_are_one_line(
    tiny_name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr(Preprocess, "__call__", fail)
    done = explain(images, "-t", "a dog", model=tiny_name, out=tmp_path)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_other_faults_of_memory_are_bugs() -> None:
    with pytest.raises(RuntimeError, match="illegal"), report_errors():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
