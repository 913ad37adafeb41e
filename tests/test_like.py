"""Examples in place of texts: what they look for, what results say of them, and what is refused."""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import eclip
import tiny
from eclip import cli
from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import unit
from eclip.backbones.image_mean import known_mean
from eclip.errors import EclipError, ImageError, OptionError, ResultError, ShapeError, TextError
from eclip.texts.like import Like, read_like
from eclip.texts.reference import reference_features


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return eclip.load("mini")


@pytest.fixture(scope="module")
def vit() -> Backbone:
    return tiny.kept("vit")


def _image(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "mugs"
    place.mkdir()
    for seed in (1, 2):
        _image(seed).save(place / f"{seed}.png")
    return place


def _feature(backbone: Backbone, image: Image.Image) -> torch.Tensor:
    return unit(eclip.encode(backbone, backbone.preprocess(image)[None], 0).feature)


def _maps(backbone: Backbone, asked: Any, method: str = "maskclip", **more: Any) -> np.ndarray:
    return eclip.explain(_image(9), asked, model=backbone, method=method, health=False, **more).maps


def test_an_image_looks_for_its_feature(vit: Backbone) -> None:
    one, other = _image(1), _image(2)
    wanted = _feature(vit, one)
    np.testing.assert_array_equal(_maps(vit, eclip.like(one)), _maps(vit, wanted))
    both = unit((wanted + _feature(vit, other)) / 2)
    np.testing.assert_allclose(_maps(vit, eclip.like(one, other)), _maps(vit, both), atol=1e-6)


def test_a_region_is_the_crop(vit: Backbone, folder: Path) -> None:
    box, file = (3, 4, 20, 25), folder / "1.png"
    wanted = _maps(vit, _feature(vit, _image(1).crop(box)))
    for asked in (eclip.like(file, box=box), eclip.like(f"{file}:3,4,20,25"), eclip.like(_image(1), box=box)):
        np.testing.assert_array_equal(_maps(vit, asked), wanted)


def test_a_folder_is_the_mean_of_its_images(vit: Backbone, folder: Path) -> None:
    features = torch.cat([_feature(vit, _image(seed)) for seed in (1, 2)])
    wanted = unit(features.mean(dim=0, keepdim=True))
    np.testing.assert_allclose(_maps(vit, eclip.like(folder)), _maps(vit, wanted), atol=1e-6)
    assert eclip.like(folder).name == "like mugs/"


def test_sums_and_differences(vit: Backbone) -> None:
    text = eclip.encode_texts(vit, ["grass", "a dog"])
    image = _feature(vit, _image(1))
    twice: Any = sum([eclip.like(_image(1)), eclip.like(_image(1))])
    cases = {
        "image 0 + grass - a dog": (eclip.like(_image(1)) + "grass" - "a dog", image + text[:1] - text[1:]),
        "grass - image 0": ("grass" - eclip.like(_image(1)), text[:1] - image),
        "grass + image 0": ("grass" + eclip.like(_image(1)), text[:1] + image),
        "image 0 + image 0": (twice, image),
        "0.5 image 0 + grass": (0.5 * eclip.like(_image(1)) + "grass", 0.5 * image + text[:1]),
    }
    for name, (asked, wanted) in cases.items():
        assert asked.name == f"like {name}"
        np.testing.assert_allclose(_maps(vit, asked), _maps(vit, unit(wanted)), atol=1e-5)


def test_templates_are_for_the_texts_of_a_sum(vit: Backbone) -> None:
    text = eclip.encode_texts(vit, ["grass"], "a photo of {}")
    wanted = unit(_feature(vit, _image(1)) + text)
    found = _maps(vit, eclip.like(_image(1)) + "grass", templates="a photo of {}")
    np.testing.assert_allclose(found, _maps(vit, wanted), atol=1e-5)


@pytest.mark.parametrize("kind", ["tensor", "array", "swapped", "reversed", "read-only", "file"])
def test_a_vector_is_used_as_it_is(vit: Backbone, tmp_path: Path, kind: str) -> None:
    vector = torch.randn(vit.feature_size, generator=torch.Generator().manual_seed(3)) * 7
    np.save(tmp_path / "bark.npy", vector.numpy())
    given: Any = {"tensor": vector, "file": tmp_path / "bark.npy"}.get(kind, vector.numpy().copy())
    if kind == "swapped":
        given = given.astype(">f4")
    elif kind == "reversed":
        given = given[::-1].copy()[::-1]
    elif kind == "read-only":
        given.flags.writeable = False
    np.testing.assert_array_equal(_maps(vit, eclip.like(given)), _maps(vit, vector[None]))
    np.save(tmp_path / "bark.npy", vector.numpy().astype(">f4"))
    np.testing.assert_array_equal(_maps(vit, eclip.like(tmp_path / "bark.npy")), _maps(vit, vector[None]))


def test_files_that_hold_no_vector_say_what_they_hold(tmp_path: Path) -> None:
    with (tmp_path / "several.npy").open("wb") as file:
        np.savez(file, one=np.ones(24))
    whole = (tmp_path / "several.npy").read_bytes()
    for name, content in (("cut", whole[:100]), ("empty", b""), ("other", b"a dog"), ("header", b"\x93NUMPY\x01\x00")):
        (tmp_path / f"{name}.npy").write_bytes(content)
    np.save(tmp_path / "names.npy", np.array(["a", "dog"]))
    np.save(tmp_path / "counts.npy", np.ones(24, np.int64))
    np.save(tmp_path / "table.npy", np.ones((2, 24)))
    for name, words in (
        ("several", "it is an archive of several arrays"),
        ("cut", "cannot read the vector"),
        ("empty", "cannot read the vector"),
        ("other", "cannot read the vector"),
        ("header", "cannot read the vector"),
        ("names", "must hold floating-point numbers, got <U3"),
        ("counts", "must hold floating-point numbers, got int64"),
        ("table", r"must be one vector, \(feature,\), got shape \(2, 24\)"),
    ):
        with pytest.raises(EclipError, match=words):
            eclip.like(tmp_path / f"{name}.npy")


def test_the_gap_is_closed_where_the_mean_is_known(mini: Backbone, vit: Backbone, tmp_path: Path) -> None:
    mean = known_mean(mini)
    assert mean is not None and known_mean(vit) is None
    words = reference_features(mini)[1].mean(dim=0)
    wanted = unit(_feature(mini, _image(1)) - mean + words)
    found = eclip.explain(_image(9), eclip.like(_image(1)), method="maskclip", health=False)
    np.testing.assert_allclose(found.maps, _maps(mini, wanted), atol=1e-6)
    assert found.provenance["examples"]["like image 0"]["gap"] == "closed"
    open_one = eclip.explain(_image(9), eclip.like(_image(1)), model=vit, method="maskclip", health=False)
    assert open_one.provenance["examples"]["like image 0"]["gap"] == "kept"
    own = torch.linspace(-0.2, 0.2, vit.feature_size)
    np.save(tmp_path / "mean.npy", own.numpy())
    moved = unit(_feature(vit, _image(1)) - own + reference_features(vit)[1].mean(dim=0))
    for given in (own, tmp_path / "mean.npy"):
        np.testing.assert_allclose(_maps(vit, eclip.like(_image(1), image_mean=given)), _maps(vit, moved), atol=1e-6)
    vector = eclip.explain(_image(9), eclip.like(own), model=vit, method="maskclip", health=False)
    assert vector.provenance["examples"]["like vector"]["gap"] is None


def test_texts_beside_an_example_stay_what_they_are(mini: Backbone) -> None:
    alone = eclip.explain(_image(9), ["a dog", "grass"], method="maskclip")
    mixed = eclip.explain(_image(9), ["a dog", eclip.like(_image(1)), "grass"], method="maskclip")
    assert mixed.texts == ("a dog", "like image 0", "grass")
    np.testing.assert_array_equal(mixed.maps[:, [0, 2]], alone.maps)
    assert mixed.health is not None and alone.health is not None
    for name in ("presence", "polarity", "sensitivity"):
        own = getattr(mixed.health, name)
        np.testing.assert_array_equal(own[:, [0, 2]], getattr(alone.health, name))
        assert np.isnan(own[0, 1]) == (name != "sensitivity")
    assert any("examples" in note for note in mixed.health.notes)
    assert alone.provenance["level"] != "otsu" and mixed.provenance["level"] == "otsu"


def test_versus_may_name_an_example(vit: Backbone) -> None:
    example = eclip.like(_image(1), name="this")
    found = _maps(vit, ["grass", example], versus="this")
    wanted = _maps(vit, "grass") - _maps(vit, _feature(vit, _image(1)))
    np.testing.assert_allclose(found[:, :1], wanted, atol=1e-5)
    assert not found[:, 1].any()


@pytest.mark.long
def test_segments_and_comparisons_take_examples(mini: Backbone) -> None:
    classes = {"left": eclip.like(_image(1)), "right": ["grass", eclip.like(_image(2), name="other")]}
    found = eclip.segment(_image(9), classes, health=True)
    assert found.classes == ("background", "left", "right") and found.provenance["command"] is None
    assert found.presence is not None and np.isnan(found.presence[0]).all()
    compared = eclip.compare(_image(9), ["grass", eclip.like(_image(1))], methods="maskclip")
    assert compared.texts == ("grass", "like image 0") and compared.provenance["command"] is None
    own = compared.provenance["models"]["mini"]["examples"]["like image 0"]
    assert own["gap"] == "closed" and len(own["sha256"]) == 16
    assert compared.provenance["examples"] == {"like image 0": {"like": None, "image_mean": None}}


def test_streams_take_examples_and_know_them_by_content(folder: Path, tmp_path: Path, tiny_name: str) -> None:
    file = folder / "1.png"
    asked = ["grass", eclip.like(file)]
    [*found] = eclip.explain_stream(folder, asked, model=tiny_name, method="maskclip", health=False)
    assert [one.texts for one in found] == [("grass", "like 1.png")] * 2
    settings: dict[str, Any] = {"model": tiny_name, "method": "maskclip", "health": False}
    out = tmp_path / "out"
    assert eclip.explain_dataset(folder / "2.png", asked, out, **settings).images == 1
    assert eclip.explain_dataset(folder / "2.png", asked, out, **settings).images == 1
    _image(5).save(file)
    with pytest.raises(ResultError, match="different settings"):
        eclip.explain_dataset(folder / "2.png", asked, out, **settings)


def test_examples_pickle_and_copy(vit: Backbone, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    asked = eclip.like("1.png") - "grass"
    wanted = _maps(vit, asked)
    monkeypatch.chdir(folder.parent)  # paths are those of where `like` was called
    for one in (asked, pickle.loads(pickle.dumps(asked)), copy.deepcopy(asked)):
        np.testing.assert_array_equal(_maps(vit, one), wanted)


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda: eclip.like(), OptionError, "needs an example"),
        (lambda: eclip.like("nowhere.jpg"), ImageError, "no such file"),
        (lambda: eclip.like("grass"), ImageError, "text:grass"),
        (lambda: eclip.like(_image(1), box=(1, 2, 3)), OptionError, "four whole numbers"),
        (lambda: eclip.like(_image(1), box=(0.9, 0.9, 5.9, 5.9)), OptionError, "whole number of pixels"),  # type: ignore[arg-type]
        (lambda: eclip.like(_image(1), box="1,2,3,4"), OptionError, "four whole numbers"),
        (lambda: eclip.like(_image(1), box=5), OptionError, "four whole numbers"),  # type: ignore[arg-type]
        (lambda: eclip.like(torch.ones(24), box=(0, 0, 1, 1)), OptionError, "of a whole image"),
        (lambda: eclip.like(42), OptionError, "got int"),  # type: ignore[arg-type]
        (lambda: eclip.like(None), OptionError, "got NoneType"),  # type: ignore[arg-type]
        (lambda: eclip.like([1, 2]), OptionError, "got list"),  # type: ignore[arg-type]
        (lambda: eclip.like(_image(1)) * float("nan"), OptionError, "finite"),
        (lambda: eclip.like(_image(1), _image(2), box=(0, 0, 1, 1)), OptionError, "single image"),
        (
            lambda: eclip.like(_image(1), image_mean="a") + eclip.like(_image(2), image_mean="b"),
            OptionError,
            "different",
        ),
        (lambda: eclip.like(_image(1), name=5), OptionError, "a string that is not empty, or None, got 5"),  # type: ignore[arg-type]
        (lambda: eclip.like(_image(1), name="  "), OptionError, "got '  '"),
        (lambda: eclip.like(np.array(["a", "b"])), OptionError, "floating-point numbers, got <U1"),
        (lambda: 1 + eclip.like(_image(1)), TypeError, "unsupported operand"),
        (lambda: eclip.like(eclip.like(_image(1))), OptionError, r"with \+"),  # type: ignore[arg-type]
        (lambda: eclip.like(torch.zeros(24)), TextError, "no direction"),
        (lambda: eclip.like(torch.ones(1, 24)), ShapeError, "features or a gray image"),
        (lambda: eclip.like(_image(1)) + "other.jpg", OptionError, "looks like a file"),
        (lambda: eclip.like(_image(1)) + " ", TextError, "empty"),
        (lambda: read_like("text:"), OptionError, "empty part"),
        (lambda: read_like("text:grass + "), OptionError, "empty part"),
    ],
)
def test_what_is_refused(make: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        make()


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        (
            lambda: eclip.like(_image(1), box=(0, 0, 99, 9)),
            OptionError,
            "0:0,0,99,9 is not inside the image, which has 40 x 30",
        ),
        (lambda: eclip.like(_image(1), box=(9, 0, 9, 9)), OptionError, "not inside"),
        (lambda: eclip.like(torch.ones(5)), ShapeError, "24 values"),
        (lambda: eclip.like(_image(1)) - eclip.like(_image(1)), TextError, "cancel"),
        (lambda: eclip.like(_image(1), image_mean=np.full(32, 0.01)), ShapeError, "has 32 values, but features"),
        (lambda: eclip.like(_image(1), image_mean=np.full(1, 0.1)), ShapeError, "has 1 values"),
        (lambda: [eclip.like(_image(1)), eclip.like(_image(2))], OptionError, "two queries have the name"),
        (lambda: ["grass", eclip.like(_image(2), name="grass")], OptionError, "two queries have the name"),
        (lambda: [eclip.like(_image(1)), 3], TextError, "must be a string"),
    ],
)
def test_what_does_not_fit_is_refused(vit: Backbone, asked: Any, kind: type[EclipError], said: str) -> None:
    with pytest.raises(kind, match=said):
        _maps(vit, asked())


def test_regions_are_of_whole_images(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones(24, np.float32))
    for spec in (f"{tmp_path / 'v.npy'}:0,0,3,3", f"{folder}:0,0,3,3", f"{folder / '1.png'}:1,2,3,4:5,6,7,8"):
        with pytest.raises(OptionError, match="a region is of a whole image"):
            read_like(spec)


def test_long_sums_are_read(folder: Path) -> None:
    spec = " + ".join([str(folder / "1.png"), f"text:{'a' * 300}"])
    assert read_like(spec).spec == spec
    with pytest.raises(ImageError, match="no such file"):
        read_like("b" * 300)


def test_what_would_be_read_as_a_sum_has_no_command(folder: Path) -> None:
    """Nothing is repeated as another query."""
    odd = folder / "x - y.png"
    _image(4).save(odd)
    one = eclip.like(folder / "1.png")
    assert one.spec is not None and eclip.like(odd).spec == str(odd)
    for asked in (one + "black - white", one + "cat - text:dog", one + "a + b", eclip.like(odd) + "grass"):
        assert asked.spec is None
    assert eclip.like(odd, box=(0, 0, 9, 9)).spec is None
    for asked in (one + "black-white", one + "c++", one - "+ 1"):
        assert asked.spec is not None and read_like(asked.spec).name == asked.name


def test_a_command_keeps_the_order(folder: Path, tiny_name: str) -> None:
    one, settings = eclip.like(folder / "1.png"), {"model": tiny_name, "method": "maskclip"}
    assert eclip.explain(folder / "2.png", ["grass", one], **settings).provenance["command"] is not None
    assert eclip.explain(folder / "2.png", [one, "grass"], **settings).provenance["command"] is None


def test_files_of_one_name_are_told_apart_by_their_folders(vit: Backbone, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "1.png"
    _image(7).save(twin)
    both = [eclip.like(folder / "1.png"), eclip.like(twin)]
    found = eclip.explain(_image(9), both, model=vit, method="maskclip", health=False)
    assert found.texts == (f"like {folder / '1.png'}", f"like {twin}")
    for place, one in enumerate(both):
        np.testing.assert_allclose(found.maps[:, place : place + 1], _maps(vit, one), atol=1e-6)
    with pytest.raises(OptionError, match="leave one out"):
        _maps(vit, [both[0], both[0]])


def test_words_and_concepts_say_that_they_need_texts(mini: Backbone) -> None:
    with pytest.raises(TextError, match="got Like"):
        eclip.explain_words(_image(1), [eclip.like(_image(2))])  # type: ignore[list-item]


def _run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_the_command_repeats_itself(folder: Path, tmp_path: Path, tiny_name: str) -> None:
    (tmp_path / "x - y").mkdir()
    odd = tmp_path / "x - y" / "a + b.png"  # its name looks like a sum
    _image(4).save(odd)
    specs = [f"{folder / '1.png'}:1,2,20,20", f"{folder} + text:grass - {folder / '2.png'}", str(odd)]
    specs.append(f"{folder / '1.png'} + {folder / '2.png'}")
    likes = [word for spec in specs for word in ("--like", spec)]
    before, after = tmp_path / "before", tmp_path / "after"
    done = _run("explain", folder / "2.png", "-t", "a dog", *likes, "--model", tiny_name, "-o", before)
    assert done.exit_code == 0, done.output
    manifest = json.loads((before / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["texts"][1:4] == ["like 1.png:1,2,20,20", "like mugs/ + grass - 2.png", "like a + b.png"]
    several = eclip.like(folder / "1.png", folder / "2.png")
    assert several.name == manifest["texts"][4] and several.spec == specs[3]
    command = shlex.split(manifest["provenance"]["command"])
    done = _run(*command[1:], "-o", after)
    assert done.exit_code == 0, done.output
    with np.load(before / "2.npz") as one, np.load(after / "2.npz") as other:
        np.testing.assert_array_equal(one["maps"], other["maps"])
        np.testing.assert_array_equal(one["scores"], other["scores"])


def test_a_segmentation_by_example_repeats_itself(folder: Path, tmp_path: Path, tiny_name: str) -> None:
    before, after, shards = tmp_path / "before", tmp_path / "after", tmp_path / "shards"
    asked = ["--like", folder / "1.png", "--like", f"{folder / '2.png'} - text:grass", "-c", "a dog, a cat"]
    done = _run("segment", folder / "2.png", *asked, "--model", tiny_name, "-o", before)
    assert done.exit_code == 0, done.output
    manifest = json.loads((before / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["classes"] == ["background", "a dog", "like 1.png", "like 2.png - grass"]
    command = shlex.split(manifest["provenance"]["command"])
    done = _run(*command[1:], "-o", after)
    assert done.exit_code == 0, done.output
    with np.load(before / "2.npz") as one, np.load(after / "2.npz") as other:
        np.testing.assert_array_equal(one["labels"], other["labels"])
        assert len(np.unique(one["labels"])) > 1
    done = _run("segment", folder / "2.png", *asked, "--model", tiny_name, "--write", "labels", "-o", shards)
    assert done.exit_code == 0, done.output


def test_classes_of_one_file_name_are_told_apart(folder: Path, tmp_path: Path, tiny_name: str) -> None:
    (tmp_path / "other").mkdir()
    _image(7).save(tmp_path / "other" / "1.png")
    asked = ["--like", folder / "1.png", "--like", tmp_path / "other" / "1.png"]
    done = _run("segment", folder / "2.png", *asked, "--model", tiny_name, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["classes"][1:] == [f"like {folder / '1.png'}", f"like {tmp_path / 'other' / '1.png'}"]


def test_a_vector_with_a_sum_in_its_name_is_repeated(folder: Path, tmp_path: Path, tiny_name: str) -> None:
    file = tmp_path / "cup - mug.npy"
    np.save(file, np.ones(24, np.float32))
    done = _run("explain", folder / "2.png", "--like", file, "--model", tiny_name, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert f"--like={file}" in shlex.split(manifest["provenance"]["command"])
    likes = ["--like", f"{folder / '1.png'} + text:black - white"]
    done = _run("explain", folder / "2.png", *likes, "--model", tiny_name, "-o", tmp_path / "none")
    assert done.exit_code == 1 and "white: no such file" in done.stderr


def test_a_segmentation_that_no_command_repeats_has_none(tiny_name: str, folder: Path) -> None:
    one = eclip.like(folder / "1.png")
    for classes in ([one, "grass"], ["grass", [one, "sky"]], {"x": one, "grass": "grass"}, ["grass", ["sky", one]]):
        found = eclip.segment(folder / "2.png", classes, model=tiny_name)
        assert found.provenance["command"] is None
    found = eclip.segment(folder / "2.png", ["grass", "sky"], background=[one], model=tiny_name)
    assert found.provenance["command"] is None
    assert eclip.segment(folder / "2.png", ["grass", one], model=tiny_name).provenance["command"] is not None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--like", "nowhere.jpg"], 1, "no such file"),
        (["-t", "a dog", "--image-mean", "mean.npy"], 2, "--image-mean is for --like"),
        (["--like", "text:"], 2, "empty part"),
    ],
)
def test_the_command_refuses(folder: Path, tmp_path: Path, words: list[str], code: int, said: str) -> None:
    done = _run("explain", folder / "1.png", *words, "-o", tmp_path / "out")
    assert done.exit_code == code and said in done.stderr and not (tmp_path / "out").exists()


def test_only_an_example_can_be_asked(folder: Path, tmp_path: Path, tiny_name: str) -> None:
    done = _run("compare", folder / "2.png", "--like", folder / "1.png", "--models", tiny_name, "-o", tmp_path / "out")
    assert done.exit_code == 0 and "like 1.png" in (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")


def test_its_name_says_what_it_is() -> None:
    assert repr(Like(eclip.like(_image(1)).parts)) == "Like('like image 0')"


def test_the_table_of_the_recipe_has_paired_differences() -> None:
    """Scores that differ by a constant have intervals, and their difference has none."""
    spec = importlib.util.spec_from_file_location("pairs", Path(__file__).parents[1] / "recipes" / "like" / "pairs.py")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(recipe := importlib.util.module_from_spec(spec))
    scores = np.random.default_rng(0).random((20, 2))
    worth = {kind: 0.1 * place for place, kind in enumerate(recipe.KINDS)}
    found = {(method, kind): scores + more for method in recipe.METHOD_NAMES for kind, more in worth.items()}
    rows = [row.split(" | ") for row in recipe.table(found).splitlines()[2:]]
    assert len(rows) == len(recipe.KINDS) + len(recipe.DIFFERENCES)
    assert rows[-1][0] == "| *one example, minus one of another class*" and rows[-1][1] == "-40.0 ± 0.0"
    assert not rows[0][1].endswith("± 0.0")
