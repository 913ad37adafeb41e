"""Masks of 0 and 255 and similar ones: recognized or refused; and data that cannot distinguish maps."""

from __future__ import annotations

import io
import json
import tarfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tiny
from eclip.cli import app
from eclip.datasets import DATASETS
from eclip.datasets.mask_files import smooth, thing
from eclip.datasets.masks import VOID, MaskSet, read_masks
from eclip.errors import DataError, DataWarning
from eclip.evaluation.evaluate import evaluate
from eclip.evaluation.protocols import PROTOCOLS
from eclip.evaluation.rules import Faithful, Segment

SIZE = (24, 32)
ZERO = np.zeros(SIZE, np.uint8)


def shape(seed: int) -> np.ndarray:
    """A rectangle, True inside."""
    found = np.zeros(SIZE, dtype=bool)
    found[4 + seed : 14 + seed, 6 : 20 + seed] = True
    return found


def layers(*bands: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack(bands, axis=-1))


def _palette(inside: np.ndarray, first: int) -> Image.Image:
    """Black and white, with white at index `first`."""
    picture = Image.fromarray(np.where(inside, first, 1 - first).astype(np.uint8)).convert("P")
    picture.putdata(np.where(inside, first, 1 - first).ravel().tolist())
    picture.putpalette([255] * 3 + [0] * 3 if first == 0 else [0] * 3 + [255] * 3)
    return picture


FULL = np.full(SIZE, 255, np.uint8)
KINDS: dict[str, Callable[[np.ndarray], Image.Image]] = {
    "0 and 255": lambda inside: Image.fromarray(255 * inside.astype(np.uint8)),
    "one bit": lambda inside: Image.fromarray(inside),
    "16 bits": lambda inside: Image.fromarray(65535 * inside.astype(np.uint16)),
    "RGB": lambda inside: Image.fromarray(255 * inside.astype(np.uint8)).convert("RGB"),
    "opaque RGBA": lambda inside: Image.fromarray(255 * inside.astype(np.uint8)).convert("RGBA"),
    "LA": lambda inside: layers(FULL, 255 * inside.astype(np.uint8)),
    "black on nothing": lambda inside: layers(ZERO, ZERO, ZERO, 255 * inside.astype(np.uint8)),
    "cut out": lambda inside: layers(
        *np.arange(3 * 24 * 32, dtype=np.uint8).reshape(3, *SIZE), 255 * inside.astype(np.uint8)
    ),
    "white first": lambda inside: _palette(inside, 0),
    "white last": lambda inside: _palette(inside, 1),
}


def pack(folder: Path, draw: Callable[[np.ndarray], Image.Image], classes: str = "1\tdog\n", count: int = 4) -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        random = np.random.default_rng(seed)
        image = random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"images/{seed}.png")
        draw(shape(seed)).save(folder / f"masks/{seed}.png")
    (folder / "classes.txt").write_text(classes, encoding="utf-8")
    return folder


def quietly(read: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return read()


@pytest.mark.parametrize(
    "classes", ["1\tdog\n", "0\tbackground\n7\tdog\n", "dog\n", "background\ndog\n", "0\tbg\n255\tdog\n"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_an_object_on_nothing_is_the_one_class(tmp_path: Path, kind: str, classes: str) -> None:
    found = quietly(lambda: DATASETS["folder"].read(pack(tmp_path, KINDS[kind], classes)))
    [(number, name)] = found.classes.items()
    assert name == "dog"
    for seed, item in enumerate(found.items):
        assert (item.read() == number * shape(seed)).all(), "inside is the class, outside background, nothing void"


def test_what_masks_were_taken_for_is_told(tmp_path: Path) -> None:
    pack(tmp_path, KINDS["0 and 255"])
    with pytest.warns(DataWarning, match=r"binary: 255 is interpreted as 'dog' .*, 0 as background"):
        DATASETS["folder"].read(tmp_path)
    with pytest.warns(DataWarning, match="255 is interpreted as 'dog'"):
        read_masks(tmp_path)
    done = CliRunner().invoke(app, ["datasets", "verify", "folder", "--root", str(tmp_path)])
    assert done.exit_code == 0 and "255 is interpreted as 'dog'" in done.stdout


def test_void_beside_a_class_stays_void(tmp_path: Path) -> None:
    def draw(inside: np.ndarray) -> Image.Image:
        values = inside.astype(np.uint8)
        values[0] = 255
        return Image.fromarray(values if inside[4, 6] else 0 * values + 255)  # but for the first, void alone

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        items = DATASETS["folder"].read(pack(tmp_path, draw)).items
    assert (items[0].read()[0] == VOID).all() and (items[1].read() == VOID).all()
    declared = pack(tmp_path / "declared", KINDS["0 and 255"], "1\tdog\n255\tvoid\n")
    assert set(np.unique(DATASETS["folder"].read(declared).items[0].read())) == {0, VOID}


def test_masks_of_two_ways_are_read_each_as_it_is(tmp_path: Path) -> None:
    pack(tmp_path, KINDS["0 and 255"])
    Image.fromarray(shape(2).astype(np.uint8)).save(tmp_path / "masks/2.png")
    found = quietly(lambda: read_masks(tmp_path))
    assert all((item.read() == shape(seed)).all() for seed, item in enumerate(found.items))


def test_several_classes_need_more_than_0_and_255(tmp_path: Path) -> None:
    pack(tmp_path, KINDS["0 and 255"], "1\tdog\n2\tcat\n3\tcow\n4\towl\n")
    told = r"only 0 and 255, .* which of the 4 classes \(dog, cat, cow, \.\.\.\) .*: .* `table`"
    with pytest.raises(DataError, match=told):
        DATASETS["folder"].read(tmp_path)
    assert "which of the 4 classes" in DATASETS["folder"].verify(tmp_path).problems[0]
    pack(tmp_path, KINDS["one bit"], "1\tdog\n2\tcat\n", count=6)
    with pytest.warns(DataWarning, match=r"the 6 masks inspected show only 0 and 1, so all objects are 'dog'"):
        DATASETS["folder"].read(tmp_path)


@pytest.mark.parametrize(
    ("classes", "told"),
    [("1\tdog\n255\tcat\n", "names 255 'cat', but in masks 255 is void"), ("0\troad\n1\tdog\n", "names 0 'road', but")]
    + [
        (f"0\t{name}\n1\tdog\n", f"names 0 '{name}', but")
        for name in ("forest", "hedge", "mother", "avoided", "restaurant")
    ]
    + [("1\twater\n255\tforest\n", "names 255 'forest', but")],
)
def test_a_class_on_a_number_that_is_none_is_refused(tmp_path: Path, classes: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        DATASETS["folder"].read(pack(tmp_path, KINDS["0 and 255"], classes))


def test_a_mask_after_a_jpeg_or_a_blur_is_refused(tmp_path: Path) -> None:
    pack(tmp_path, KINDS["0 and 255"])
    stream = io.BytesIO()
    KINDS["0 and 255"](shape(0)).save(stream, "jpeg", quality=60)
    Image.open(stream).save(tmp_path / "masks/0.png")
    large = KINDS["0 and 255"](shape(1)).resize((320, 240)).resize(SIZE[::-1], Image.Resampling.BICUBIC)
    large.save(tmp_path / "masks/1.png")
    (tmp_path / "masks/2.png").write_bytes(stream.getvalue())
    items = quietly(lambda: DATASETS["folder"].read(tmp_path)).items
    for place, told in ((0, "nearly black and white"), (1, "nearly black and white"), (2, "2.png is a JPEG")):
        with pytest.raises(DataError, match=told):
            items[place].read()
    assert items[3].read().sum() == shape(3).sum()
    Image.open(stream).convert("RGB").save(tmp_path / "masks/rgb.png")
    Image.open(stream).convert("RGBA").save(tmp_path / "masks/rgba.png")
    disk = np.hypot(*np.mgrid[-60:60, -80:80]) < 40
    KINDS["0 and 255"](disk).save(tmp_path / "masks/webp.png", "webp", quality=80)  # its channels differ by 1
    for name in ("0", "rgb", "rgba", "webp"):
        with pytest.raises(DataError, match="threshold its pixels to 0 or 255"):
            thing(tmp_path / f"masks/{name}.png", 3)
    assert not smooth(np.array([[0, 40, 90, 200, 255]] * 30, np.uint8)), "gray values of many objects are no blur"


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_takes_the_same_masks(tmp_path: Path, kind: str) -> None:
    pack(tmp_path, KINDS[kind])
    rows = [f"images/{seed}.png,a dog,masks/{seed}.png" for seed in range(4)]
    (tmp_path / "table.csv").write_text("\n".join(["image,text,mask", *rows]), encoding="utf-8")
    items = DATASETS["table"].read(tmp_path).items
    assert all((item.read() == shape(seed)).all() for seed, item in enumerate(items))


def test_two_shapes_in_one_mask_are_refused(tmp_path: Path) -> None:
    alpha = 255 * (shape(0) | shape(3)).astype(np.uint8)
    white = 255 * shape(1).astype(np.uint8)
    layers(white, white, white, alpha).save(tmp_path / "m.png")
    with pytest.raises(DataError, match="either shape could be the object"):
        thing(tmp_path / "m.png", 1)


def test_tars_take_the_same_masks(tmp_path: Path) -> None:
    pack(tmp_path / "plain", KINDS["0 and 255"])
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for seed in range(4):
            archive.add(tmp_path / f"plain/images/{seed}.png", f"{seed}.png")
            archive.add(tmp_path / f"plain/masks/{seed}.png", f"{seed}.seg.png")
    (tmp_path / "classes.txt").write_text("1\tdog\n", encoding="utf-8")
    with pytest.warns(DataWarning, match="255 is interpreted as 'dog'"):
        items = DATASETS["shards"].read(tmp_path).items
    assert all((item.read() == shape(seed)).all() for seed, item in enumerate(items))


# Data that cannot distinguish maps


def filled(folder: Path, classes: str = "dog\ncat\n") -> MaskSet:
    """One class over all of each image, void around it: what 0 and 255 were taken for."""
    found = read_masks(pack(folder, lambda inside: Image.fromarray(np.where(inside, 0, 1).astype(np.uint8)), classes))

    def one(number: int) -> Any:
        return replace(found.items[number], decode=_Filled(number))

    return replace(found, items=tuple(one(number) for number in range(4)))


class _Filled:
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, _: object) -> np.ndarray:
        return np.where(shape(self.seed), VOID, 1).astype(np.uint16)


def test_baselines_as_good_as_the_masks_stop_an_evaluation(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"methods": "itsm", "models": tiny.backbone("vit"), "examples": 0}
    told = r"every map is right, including those of baselines\. Each image has a single class \('dog'\) in .* not void"
    with pytest.raises(DataError, match=told):
        evaluate(filled(tmp_path / "a"), out=tmp_path / "run", **asked)
    assert not (tmp_path / "run/results.json").exists()
    rules = Faithful(0.01, ("mean",), 2, 1.0)
    slow = replace(PROTOCOLS["faithful-v1"], name="short", rules=rules)
    with pytest.raises(DataError, match="cannot distinguish maps"):
        evaluate(filled(tmp_path / "b"), out=tmp_path / "faithful", protocol=slow, **asked)


def test_one_class_without_background_cannot_be_segmented(tmp_path: Path) -> None:
    masks = quietly(lambda: read_masks(pack(tmp_path / "a", KINDS["0 and 255"])))
    rules = Segment((), 40.0, None, None, None)
    asked: dict[str, Any] = {"methods": "itsm", "models": tiny.backbone("vit")}
    plain = replace(PROTOCOLS["segment-v1"], name="own", templates="none", rules=rules)
    with pytest.raises(DataError, match=r"one class and no background, .* a protocol with background"):
        evaluate(masks, out=tmp_path / "run", protocol=plain, **asked)
    behind = replace(plain, rules=replace(rules, background=("wall",)))
    rows = {row["method"]: row for row in evaluate(masks, out=tmp_path / "b", protocol=behind, **asked).results["rows"]}
    value = {name: row["numbers"]["segmentation_miou"]["value"] for name, row in rows.items()}
    assert value["bound"] > value["random"]


@pytest.mark.parametrize(
    ("value", "told"), [(0, "only background .all"), (VOID, "only background and void. If 255 marks the object")]
)
def test_images_that_show_nothing_say_why(tmp_path: Path, value: int, told: str) -> None:
    found = filled(tmp_path / "a")
    nothing = replace(found, items=tuple(replace(item, decode=_Flat(value)) for item in found.items))
    for name in ("explain-v1", "sanity-v1", "ovseg-argmax-background"):
        with pytest.raises(DataError, match=f"(shows a class on enough of its area|belongs to a class).* {told}"):
            evaluate(nothing, out=tmp_path / name, methods="itsm", models=tiny.backbone("vit"), protocol=name)


class _Flat:
    def __init__(self, value: int) -> None:
        self.value = value

    def __call__(self, _: object) -> np.ndarray:
        return np.full(SIZE, self.value, dtype=np.uint16)


def test_verify_sees_masks_that_are_worth_nothing(tmp_path: Path) -> None:
    empty = pack(tmp_path / "empty", lambda inside: Image.fromarray(ZERO))
    [problem] = DATASETS["folder"].verify(empty).problems
    assert "none of the 4 masks read shows a class, only background (0)" in problem
    full = pack(tmp_path / "full", lambda inside: Image.fromarray(ZERO + 1))
    [problem] = DATASETS["folder"].verify(full).problems
    assert "each of the 4 masks read has one class" in problem


def test_the_command_line_evaluates_masks_of_0_and_255(tmp_path: Path, tiny_name: str) -> None:
    pack(tmp_path / "mine", KINDS["0 and 255"], "dog\n")
    asked = ["eval", "folder", "--root", str(tmp_path / "mine"), "--models", tiny_name, "--methods", "itsm"]
    done = CliRunner().invoke(app, [*asked, "-o", str(tmp_path / "run"), "--json"])
    assert done.exit_code == 0 and "255 is interpreted as 'dog'" in done.stderr
    rows = {row["method"]: row["numbers"]["miou"]["value"] for row in json.loads(done.stdout)["rows"]}
    assert rows["bound"] > 0.1 + max(rows[name] for name in ("ones", "centre", "random"))
