"""What users type from memory: it works, or a message of one sentence says what to type."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eclip
import tiny
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
        (
            "explain a.jpg -t dog --methods surgery",
            "There is no option --methods: write --method NAME, one method; to compare several, use `eclip "
            "compare --methods NAME,NAME`.",
        ),
        (
            "explain a.jpg -t dog --models mini",
            "write --model NAME, one model; to compare several, use `eclip compare",
        ),
        ("explain a.jpg -t dog --method itsm,gem", "`eclip compare --methods itsm,gem` shows several side by side."),
        ("segment a.jpg -c dog -c cat --method itsm,gem", "--method takes one method, got 'itsm,gem'"),
        ("concepts a.jpg --method itsm,gem", "--method takes one method, got 'itsm,gem'"),
        ("segment a.jpg -c dog --methods itsm", "There is no option --methods: write --method NAME, one method."),
        ("concepts a.jpg --models mini", "write --model NAME, one model."),
        ("words a.jpg -t dog --methods chefer", "write --method NAME, one method."),
        ("compare a.jpg -t dog --method itsm", "write --methods NAME,NAME, separated by commas."),
        ("compare a.jpg -t dog -m mini", "There is no option -m: write --models NAME,NAME, separated by commas."),
        ("eval voc2012 --method itsm", "write --methods NAME,NAME, separated by commas."),
        ("eval voc2012 --model mini", "write --models NAME,NAME, separated by commas."),
        ("eval --dataset voc2012", "the data set is a positional argument, as in `eclip eval voc2012`."),
        (
            "explain a.jpg --texts dog",
            'write -t "a dog", once for each text, or --texts-file FILE',
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
        ("explain a.jpg -t dog --formats png", "write --format png,npz,json"),
        ("explain a.jpg -t dog --templates single", 'write --template "a photo of a {}"'),
        ("explain a.jpg -t dog --gpu", "write --device cpu, cuda or cuda:N."),
        ("train --data x", "write --train-data."),
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
