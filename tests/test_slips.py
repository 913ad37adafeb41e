"""What users type from memory: it works, or a message of one sentence says what to type."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import eclip
import tiny
from eclip import cli
from eclip.backbones import load
from eclip.cli import completion
from eclip.errors import ModelError, OptionError, UnknownNameError
from eclip.evaluation.protocols import PROTOCOLS
from eclip.evaluation.scored import scored_methods
from eclip.explanation.comparison import Comparison
from eclip.methods import METHODS, Method
from eclip.words import WORD_METHODS
from test_cli import run

FAST = [name for name, method in METHODS.items() if method.kind != "perturbation"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("explain a.jpg -t dog --models mini,RN50/openai", "`eclip compare --models mini,RN50/openai` shows several"),
        ("explain a.jpg -t dog --methods itsm,gem", "--method takes one method, got 'itsm,gem'. `eclip compare"),
        ("explain a.jpg -t dog --method itsm,gem", "`eclip compare --methods itsm,gem` shows several side by side."),
        ("segment a.jpg -c dog -c cat --method itsm,gem", "--method takes one method, got 'itsm,gem'"),
        ("concepts a.jpg --method itsm,gem", "--method takes one method, got 'itsm,gem'"),
        ("eval --dataset voc2012", "the data set is a positional argument, as in `eclip eval voc2012`."),
        ("explain a.jpg --texts dog", "cannot read the texts file 'dog': write -t \"a dog\", once for each text, or"),
        (
            "segment a.jpg --classes cat,dog",
            "cannot read the classes file 'cat,dog': write -c dog, once for each class",
        ),
        ("compare a.jpg --prompt dog", 'write -t "a dog", once for each text'),
        ("segment a.jpg -t dog", "There is no option -t: write -c dog, once for each class"),
        (
            "segment a.jpg --text dog",
            "write -c dog, once for each class, or --classes FILE with one class per line.",
        ),
        ("explain --image a.jpg -t dog", "images are positional arguments, as in `eclip explain dog.jpg`."),
        ("explain a.jpg -t dog --image_size 224", "There is no option --image_size: write --image-size."),
        ("explain a.jpg -t dog --batch 2", "write --batch-size."),
        ("explain a.jpg -t dog --output x", "write --out."),
        ("explain a.jpg -t dog --gpu", "write --device cpu, cuda or cuda:N."),
        ("train --data x", "write --train-data."),
        ("train --train-data x --texts word", "texts must be one of captions, words, got 'word'"),
        ("words a.jpg -t dog --template single", "There is no option --template: each word of a text has its own"),
        ("words a.jpg -t dog --templates single", 'whole sentence as the text, such as -t "a photo of a dog".'),
        ("words a.jpg --like dog.jpg", "There is no option --like: an example has no words"),
        ("concepts a.jpg --like dog.jpg", "There is no option --like: concepts are found without examples"),
        ("explain a.jpg -t dog --force", "write --overwrite."),
        ("explain a.jpg -t dog --json maybe", "maybe"),
        ("explain a.jpg -t dog --json=maybe", "does not take a value"),
        ("explain a.jpg -t dog --template image", "has {} where the text goes, such as 'image {}'"),
        ("explain a.jpg -t dog -m model.pt", "write ARCH+FILE, such as 'ViT-B-32+model.pt'"),
        ("explain a.jpg -t dog -o x.png", "'x.png' looks like a file, but results are several files in a folder"),
        ("compare a.jpg -t dog -o fig.pdf", "name a folder, such as 'fig'; it will contain the pictures as PNG files."),
        ("segment a.jpg -c dog -c cat -o out/masks.json", "name a folder, such as 'out/masks'"),
        ("words a.jpg -t dog -o page.html", "name a folder, such as 'page'"),
        ("concepts a.jpg -o a.PNG", "name a folder, such as 'a'"),
        ("train --train-data . -o head.zip", "name a folder, such as 'head'"),
        ("eval mine", "as in `eclip eval folder --root mine` (Python: \"folder\", root='mine')"),
        ("datasets verify mine", "'mine' is a folder, not the name of a data set"),
        (
            "eval yours",
            "unknown data set 'yours'. For your own images with masks, use the data set 'folder' with --root DIR",
        ),
        ("compare a.jpg -t dog --methods fast,rise", "'fast' cannot be combined with other methods, got fast, rise"),
        ("eval voc2012 --methods all,itsm", "cannot be combined with other methods"),
    ],
)
def test_one_sentence_says_what_to_write(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").touch()
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("COLUMNS", "200")
    done = run(*shlex.split(words))
    if "maybe" in message:  # no word for yes or no: a source that is not there
        assert done.exit_code == 1
    else:
        assert done.exit_code == 2, done.output
    said = " ".join(done.stderr.replace("│", " ").split())
    assert message in said
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("eclip-")) == ["a.jpg", "mine"]


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("explain {} -t dog --methods itsm --models {} --formats json --templates single", ["a photo of a {}"]),
        ("compare {} -t dog --method itsm,maskclip -m {} --format json", ["itsm", "maskclip"]),
        ("compare {} --texts {texts} --method=itsm --model={} --format=json", ["itsm"]),
    ],
)
def test_options_answer_to_the_names_that_other_commands_have(
    words: str, more: list[str], tiny_name: str, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts").write_text("dog\n")
    asked = words.replace("{texts}", str(tmp_path / "texts")).replace("{}", str(images / "a.png"), 1)
    done = run(*shlex.split(asked.replace("{}", tiny_name, 1)), "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    provenance = json.loads((tmp_path / "out" / "manifest.json").read_text())["provenance"]
    if asked.startswith("explain"):
        assert provenance["method"] == "itsm" and provenance["templates"] == "single"
    else:
        assert provenance["methods"] == more and list(provenance["models"]) == [tiny_name]


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """What the one .npz of a folder holds."""
    with np.load(next(folder.glob("*.npz"))) as held:
        return dict(held)


def test_compare_takes_options_of_each_method_and_its_command_repeats_them(
    tiny_name: str, images: Path, tmp_path: Path
) -> None:
    asked = ["compare", images / "a.png", "-t", "dog", "--methods", "legrad,gem", "-m", tiny_name]
    sets = ("--set", "legrad.depth=1", "--set", "gem.residual=false")
    assert run(*asked, *sets, "--format", "npz,json", "-o", tmp_path / "one").exit_code == 0
    provenance = json.loads((tmp_path / "one" / "manifest.json").read_text())["provenance"]
    assert provenance["options"] == {"legrad": {"depth": 1}, "gem": {"residual": False}}
    again = run(*shlex.split(provenance["command"])[1:], "--format", "npz,json", "-o", tmp_path / "two")
    assert again.exit_code == 0, again.output
    one, two = (arrays(tmp_path / name) for name in ("one", "two"))
    assert run(*asked, "--format", "npz,json", "-o", tmp_path / "plain").exit_code == 0
    plain = arrays(tmp_path / "plain")
    for key in one:
        assert np.array_equal(one[key], two[key])
    assert any(not np.array_equal(one[key], plain[key]) for key in one)
    for wrong, message in (
        ("depth=1", "METHOD.KEY=VALUE"),
        ("gem.heads=2", "no option 'heads'"),
        ("x.y=1", "got 'x.y=1'"),
    ):
        done = run(*asked, "--set", wrong, "-o", tmp_path / "bad")
        assert done.exit_code == 2 and message in done.stderr
    done = run(*asked, "--set", "itsm.depth=1", "-o", tmp_path / "bad")
    assert done.exit_code == 2 and "itsm" in done.stderr


def test_a_configuration_is_the_default_of_each_option(tiny_name: str, images: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        f"""text = ["a dog", "grass, wet"]
model = "{tiny_name}"
method = "gem"
image-size = 40
batch_size = 2
health = false
format = ["npz", "json"]
[set]
depth = 2
residual = true
"""
    )
    done = run("explain", images / "a.png", "--config", file, "-o", tmp_path / "one")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "one" / "manifest.json").read_text())
    provenance = record["provenance"]
    assert provenance["method"] == "gem" and provenance["options"] == {"depth": 2, "residual": True}
    assert record["images"][0]["health"] is None and set(record["images"][0]["scores"]) == {"a dog", "grass, wet"}
    assert provenance["image_size"] == 40 and not (tmp_path / "one" / "a.png").exists()
    done = run("explain", images / "a.png", "--config", file, "--method", "itsm", "-o", tmp_path / "x", "--set", "a=1")
    assert done.exit_code == 2 and "'itsm' has no option 'a'" in done.stderr, "a flag replaces the file's"
    file.write_text('methods = ["itsm", "legrad"]\nmodels = "mini"\nset.legrad.depth = 1\n')
    done = run(
        "compare", images / "a.png", "-t", "x", "--config", file, "-m", tiny_name, "--json", "-o", tmp_path / "c"
    )
    assert done.exit_code == 0, done.output
    provenance = json.loads(done.stdout)["provenance"]
    assert (provenance["methods"], list(provenance["models"])) == (["itsm", "legrad"], [tiny_name])
    assert provenance["options"] == {"legrad": {"depth": 1}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("methd = 'gem'", "there is no option 'methd': do you mean 'method'?"),
        ("no-health = true", "do you mean 'health'?"),
        ("images = ['a.png']", "'images' is no option: name images, or the data set, on the command line."),
        ("health = 'no'", "health must be true or false, got 'no'"),
        ("method = true", "method takes a value, got true"),
        ("text = [['a']]", "text must be a string, a number or a list of them"),
        ("method = {a = 1}", "method must be a string, a number or a list"),
        ("image-size = 40\nimage_size = 48", "--image-size is given twice"),
        ("config = 'other.toml'", "there is no option 'config'"),
        ("method = ", "cannot read the configuration"),
        ("batch-size = 0", "batch-size"),
        ("image-size = 'big'", "image-size"),
    ],
)
def test_a_wrong_configuration_is_told(content: str, message: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(content)
    done = run("explain", images / "a.png", "-t", "dog", "--config", tmp_path / "run.toml", "-o", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_quiet_prints_errors_alone(tiny_name: str, images: Path, tmp_path: Path) -> None:
    (images_here := tmp_path / "in").mkdir()
    (images_here / "a.png").write_bytes((images / "a.png").read_bytes())
    asked = ("-t", "a dog", "-m", tiny_name, "--format", "json")
    for command in ("explain", "words", "compare"):
        more = () if command == "words" else asked[-2:]
        done = run(command, images_here, *asked[:4], *more, "-q", "-o", tmp_path / command)
        assert (done.exit_code, done.output) == (0, ""), done.output
        assert (tmp_path / command / "manifest.json").is_file()
    (images_here / "bad.png").write_bytes(b"no image")
    done = run("explain", images_here, *asked, "--quiet", "--overwrite", "-o", tmp_path / "explain")
    assert done.exit_code == 1 and done.stdout == "" and "bad.png" in done.stderr
    done = run("explain", images_here / "a.png", *asked, "--quiet", "--json", "-o", tmp_path / "two")
    assert json.loads(done.stdout)["images"], "what is asked for is printed"
    done = run("explain", images_here / "a.png", *asked, "-o", tmp_path / "three")
    assert done.stdout and "1 explained in" in done.stderr, "only where it is asked for"


@pytest.mark.long
def test_verbose_says_the_model_and_what_each_stage_costs(
    tiny_name: str, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {
        "explain": ("-t", "a dog", "--method", "maskclip", "--format", "json"),
        "compare": ("-t", "a dog", "--methods", "maskclip,itsm", "--format", "json"),
        "words": ("-t", "a dog"),
        "segment": ("-c", "a dog", "-c", "grass", "--template", "single", "--format", "json"),
    }
    told = {
        "explain": [r"maskclip, 2 images: forward 0\.\d+ s, method 0\.\d+ s, health \d\.\d+ s"],
        "compare": [r"maskclip, 1 image: forward .* s, method .* s", r"itsm, 1 image: forward .* s, method .* s"],
        "words": [r"gradeclip, 2 images, 1 texts: forward and relevance \d\.\d+ s"],
        "segment": [r"naclip, 2 images: forward .* s, maps .* s"],
    }
    loaded = rf"loaded {tiny_name}: native ViT, 4 x 4 patches of 8 px, no head, on cpu in float32 in \d+\.\d s"
    for command, words in asked.items():
        monkeypatch.setattr(load, "_loaded", {})
        caplog.clear()
        done = run(command, images, "-m", tiny_name, "--device", "cpu", *words, "-v", "-o", tmp_path / command)
        assert done.exit_code == 0, done.output
        said = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
        assert re.fullmatch(loaded, said[0]), said
        assert all(any(re.fullmatch(one, line) for line in said[1:]) for one in told[command]), said
        caplog.clear()
        run(command, images, "-m", tiny_name, *words, "-o", tmp_path / command)
        assert not [record for record in caplog.records if record.levelname == "INFO"], "only where it is asked for"
    both = run("explain", images, "-m", tiny_name, *asked["explain"], "-v", "-q", "-o", tmp_path / "both")
    assert both.exit_code == 2 and "--quiet and --verbose exclude each other" in " ".join(both.stderr.split())


def test_what_a_shell_offers() -> None:
    def offered(typed: str, offers: completion.Offers) -> list[str]:
        return [name for name, about in offers(typed) if name.startswith(typed) and about]

    assert offered("ge", completion.method_names) == ["gem"]
    assert offered("itsm,g", completion.several_methods) == [f"itsm,{n}" for n in METHODS if n.startswith("g")]
    assert "fast" in offered("", completion.several_methods) and "fast" not in offered("", completion.method_names)
    assert "itsm,itsm" not in offered("itsm,", completion.several_methods)
    assert "ViT-B-16/openai" in offered("ViT-B-16/o", completion.model_names)
    assert "mini,ViT-B-16/" in offered("mini,ViT-B", completion.model_names)
    assert offered("mi", completion.model_names) == ["mini"]
    assert offered("explain-", completion.protocols) == ["explain-v1"]
    for offers in (completion.word_methods, completion.refinements, completion.data_sets, completion.templates):
        assert len(offered("", offers)) > 1


def test_a_shell_is_answered() -> None:
    done = CliRunner().invoke(
        cli.app,
        [],
        prog_name="eclip",
        env={"_ECLIP_COMPLETE": "complete_bash", "COMP_WORDS": "eclip explain a.png --method nac", "COMP_CWORD": "4"},
    )
    assert done.stdout.split() == ["naclip"]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is(name: str) -> None:
    done = run("methods", "show", name)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{name}: {METHODS[name].summary}")
    said = json.loads(run("methods", "show", name, "--json").stdout)
    assert {one["option"]: one["default"] for one in said["options"]} == json.loads(json.dumps(METHODS[name].options))
    assert all(one["what"] for one in said["options"]) and len(said["formula"]) > 30 and len(said["source"]) > 60
    assert ("hundreds" in said["cost"]) == (METHODS[name].kind == "perturbation")


def test_guides_and_refinements_say_what_they_are() -> None:
    for words in ("guides show spectral", "refinements show lposs+", "refinements show pamr"):
        done = run(*words.split())
        assert done.exit_code == 0 and "options:" in done.stdout, done.output
    done = run("methods", "show", "gme")
    assert done.exit_code == 2 and "Did you mean 'gem'" in done.stderr


@pytest.mark.parametrize(
    ("words", "as_json"),
    [
        (["--json", "true"], True),
        (["--json=true"], True),
        (["--json", "Yes"], True),
        (["--json=1"], True),
        (["--json", "false"], False),
        (["--json=False"], False),
        (["--json=0"], False),
    ],
)
def test_a_switch_with_a_word_for_yes_or_no_is_read(
    words: list[str], as_json: bool, tiny_name: str, images: Path, tmp_path: Path
) -> None:
    asked = (images / "a.png", "-t", "a dog", "--method", "itsm", "--format", "json", "-m", tiny_name, "-o", tmp_path)
    done = run("explain", *words, *asked)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("{") == as_json
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert len(manifest["images"]) == 1 and not manifest["failures"], "the word is no image"


def test_a_switch_with_two_names_takes_its_other_one(tiny_name: str, images: Path, tmp_path: Path) -> None:
    asked = ("-t", "a dog", "--method", "itsm", "--format", "json", "-m", tiny_name, "-o", tmp_path)
    for words, there in ((["--health", "no"], False), (["--no-health=off"], True), (["--health", "on"], True)):
        assert run("explain", images / "a.png", *asked, *words).exit_code == 0
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert (manifest["images"][0]["health"] is not None) == there


def test_a_file_of_such_a_name_is_an_image(
    tiny_name: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "true").write_bytes((images / "a.png").read_bytes())
    done = run("explain", "-t", "a dog", "--method", "itsm", "-m", tiny_name, "--format", "json", "--json", "true")
    assert json.loads(done.stdout)["images"][0]["source"] == "true"


def test_a_number_is_a_device_of_cuda(images: Path, tiny_name: str, tmp_path: Path) -> None:
    done = run("explain", images / "a.png", "-t", "a dog", "-m", tiny_name, "--device", "99", "-o", tmp_path)
    assert done.exit_code == 2 and "'cuda:99' is not available" in done.stderr


# --- methods -----------------------------------------------------------------


def test_methods_as_objects_are_those_of_their_names(tiny_name: str, images: Path) -> None:
    itsm, gem, image = METHODS["itsm"], METHODS["gem"], images / "a.png"
    right = eclip.explain(image, "a dog", model=tiny_name, method=["itsm", "gem"])
    both = eclip.explain(image, "a dog", model=tiny_name, method=[itsm, "gem"])
    assert list(both) == ["itsm", "gem"]
    for name, answer in both.items():
        assert np.array_equal(answer.maps, right[name].maps) and answer.provenance["method"] == name
    alone = eclip.explain(image, "a dog", model=tiny_name, method=gem, depth=2)
    assert np.array_equal(alone.maps, eclip.explain(image, "a dog", model=tiny_name, method="gem", depth=2).maps)
    assert alone.provenance["options"] == {"depth": 2}
    [one] = eclip.explain_each([image], "a dog", model=tiny_name, method=itsm)
    assert np.array_equal(one.maps, right["itsm"].maps)
    for methods in ([itsm, gem], "itsm, gem", ("itsm", gem), iter(["itsm", "gem"])):
        found = eclip.compare(image, "a dog", models=tiny_name, methods=methods)
        assert [name for _, name in found.pairs] == ["itsm", "gem"] and found.provenance["methods"] == ["itsm", "gem"]
    classes, settings = ["dog", "grass"], {"model": tiny_name, "templates": "none"}
    labels = eclip.segment(image, classes, method=itsm, **settings).labels[0]
    assert np.array_equal(labels, eclip.segment(image, classes, method="itsm", **settings).labels[0])
    mean = {"image_mean": np.full(24, 0.05, np.float32), "vocabulary": ("dog", "sea"), "l1": 0.01, "model": tiny_name}
    assert np.array_equal(
        eclip.concepts(image, method=itsm, **mean).maps, eclip.concepts(image, method="itsm", **mean).maps
    )
    words = eclip.explain_words(image, "a dog", model=tiny_name, method=WORD_METHODS["chefer"])
    assert words.provenance["method"] == "chefer"


def test_methods_that_are_none_are_told(tiny_name: str, images: Path, shapes_unchecked: Any) -> None:
    own = Method("surgery", "similarity", 6, False, summary="My own.")
    for wrong, message in (
        (own, "method must be a name in eclip.METHODS"),
        (METHODS["itsm"].function, "method must be a name in eclip.METHODS, such as 'surgery', or one of its values"),
        (7, "method must be a name"),
        ("itsm,gem", r"method must be a single name here, got 'itsm,gem': pass several as a list, \['itsm', 'gem'\]"),
    ):
        with pytest.raises(OptionError, match=message):
            eclip.explain_each([images / "a.png"], "a dog", model=tiny_name, method=wrong).__next__()
        with pytest.raises(OptionError, match=message):
            eclip.explain(images / "a.png", "a dog", model=tiny_name, method=wrong)
    with pytest.raises(OptionError, match=r"one of its values, got \['itsm', 'gem'\]"):
        next(eclip.explain_each([images / "a.png"], "a dog", model=tiny_name, method=["itsm", "gem"]))  # type: ignore
    with pytest.raises(OptionError, match="method must be a name in"):
        eclip.explain(images / "a.png", "a dog", model=tiny_name, method=["itsm", own])
    with pytest.raises(UnknownNameError, match=r"'legard'. Did you mean 'legrad'"):
        eclip.compare(images / "a.png", "a dog", models=tiny_name, methods="itsm,legard")
    with pytest.raises(OptionError, match="'fast' cannot be combined with other methods"):
        eclip.compare(images / "a.png", "a dog", models=tiny_name, methods=["fast", "rise"])


@pytest.mark.long
def test_fast_methods_compared_are_those_of_one_forward_pass(tiny_name: str, images: Path, tmp_path: Path) -> None:
    found: Comparison = eclip.compare(images / "a.png", "a dog", models=tiny_name, methods="fast", versus="a cat")
    assert [name for _, name in found.pairs] == FAST
    unable = {name for name in FAST if METHODS[name].versus is None}
    assert unable <= {name for _, name in found.not_applicable}, "listed as not applicable, as with all"
    done = run("compare", images / "a.png", "-t", "a dog", "--methods", "fast", "--models", tiny_name, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    asked = {one["method"] for one in (*manifest["images"][0]["maps"], *manifest["images"][0]["not_applicable"])}
    assert asked == set(FAST) and "--methods fast" in manifest["provenance"]["command"]
    again = run(*shlex.split(manifest["provenance"]["command"])[1:], "-o", tmp_path)
    assert again.exit_code == 0, again.output


def test_methods_to_evaluate_in_every_form() -> None:
    def chosen(form: Any) -> list[str]:
        return scored_methods(form, PROTOCOLS["explain-v1"])

    forms = ("itsm,gem", " itsm , gem", ["itsm", "gem"], ("itsm", METHODS["gem"]), iter(["itsm", "gem", "itsm"]))
    assert [chosen(form) for form in forms] == [["itsm", "gem"]] * len(forms)
    assert chosen("fast") == FAST and chosen(["all"]) == list(METHODS) == chosen("all")
    assert chosen(METHODS["gem"]) == ["gem"]
    for wrong in ([], ",", ""):
        with pytest.raises(OptionError, match="no method was given"):
            chosen(wrong)


# --- checkpoints -------------------------------------------------------------


def test_a_whole_model_in_a_file_is_told_from_its_weights(tmp_path: Path) -> None:
    model = tiny.model("vit")
    torch.save(model, tmp_path / "whole.pt")
    torch.save({"model": model}, tmp_path / "dict.pt")
    for file in ("whole.pt", "dict.pt"):
        with pytest.raises(ModelError, match=r"torch\.save\(model\.state_dict\(\), FILE\), or pass the model itself"):
            eclip.load(f"ViT-B-32+{tmp_path / file}")
    with pytest.raises(ModelError, match=r"write ARCH\+FILE, such as 'ViT-B-32\+.*whole\.pt'"):
        eclip.load(str(tmp_path / "whole.pt"))


def test_saving_to_a_name_of_a_file_makes_no_folder_of_it(tiny_name: str, images: Path, tmp_path: Path) -> None:
    answer = eclip.explain(images / "a.png", "a dog", model=tiny_name, method="itsm")
    with pytest.raises(OptionError, match=r"map\.png' looks like a file"):
        answer.save(tmp_path / "map.png")
    assert not list(tmp_path.iterdir())
    (tmp_path / "v1.zip").mkdir()  # a folder that is there is one
    assert answer.save(tmp_path / "v1.zip") == tmp_path / "v1.zip"
    assert answer.save(tmp_path / "run-1.5") == tmp_path / "run-1.5"
