"""Sources of many images: what is listed, in which order, and what is refused; and reading in worker processes."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from decoders import misbehave
from eclip.errors import DataError, DataWarning, ImageError, OptionError
from eclip.images import Place, find_images
from eclip.stream.decoding import Decoded, Reading
from eclip.stream.sources import COLUMNS, Item, list_images


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Images and other files in folders whose order differs between names with and without extensions."""
    folder = tmp_path / "tree"
    names = ("b.png", "b/c.JPG", "b/a.png", "a b.webp", "b-1/z.png", "Z.png", "b/notes.txt", "é.png", "b/d/e.gif")
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (folder / name).write_text("no image")
        else:
            Image.new("RGB", (8 + seed, 5), (seed, 0, 0)).save(folder / name)
    return folder


def listed(*sources: object, **more: Any) -> list[str]:
    return [item.source for item in list_images([str(one) for one in sources], **more)]


def make_tar(file: Path, images: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, content in images.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def png(width: int = 4) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, 3)).save(stream, "PNG")
    return stream.getvalue()


def test_folders_are_listed_in_the_order_of_find_images(tree: Path) -> None:
    assert listed(tree) == [str(image) for image in find_images([tree])[0]]
    assert len(listed(tree)) == 8
    assert listed(tree, out=tree / "b") == [str(image) for image in find_images([tree], tree / "b")[0]]


def test_a_folder_of_results_is_left_out_also_behind_a_link(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    inside = listed(tmp_path / "link", out=tree / "b")
    assert not any("/b/" in one for one in inside), "the same folder by another name"
    assert len(inside) == 5


def test_order_does_not_depend_on_the_file_system(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, scandir = listed(tree), os.scandir

    def shuffled(folder: str) -> list[Any]:
        return random.Random(3).sample(found := list(scandir(folder)), len(found))

    monkeypatch.setattr("eclip.stream.sources.os.scandir", shuffled)
    assert listed(tree) == usual


def test_patterns_braces_and_several_sources_keep_their_order(tree: Path) -> None:
    assert listed(f"{tree}/b/*.png", tree / "Z.png") == [f"{tree}/b/a.png", f"{tree}/Z.png"]
    assert listed(f"{tree}/{{b,Z}}.png") == [f"{tree}/b.png", f"{tree}/Z.png"]
    (tree / "b/gone.png").symlink_to("nowhere.png")
    *_, last = list_images([f"{tree}/b/*.png"])
    assert last.error == f"{tree}/b/gone.png: no such file."


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", "id,image\n1,tree/b.png\n2,tree/Z.png\n"),
        ("list.tsv", "file\tlabel\ntree/b.png\tdog, cat\ntree/Z.png\tcat\n"),
        ("list.jsonl", '{"image": "tree/b.png"}\n\n"tree/Z.png"\n'),
        ("list.csv", "\ufeffimage\r\ntree/b.png\r\ntree/Z.png\r\n"),
    ],
)
def test_tables_name_images_beside_them(tree: Path, name: str, content: str) -> None:
    (tree.parent / name).write_text(content, encoding="utf-8", newline="")
    assert listed(tree.parent / name) == [f"{tree}/b.png", f"{tree}/Z.png"]


def test_the_first_known_column_of_a_table_counts(tree: Path) -> None:
    header = ",".join(reversed(COLUMNS))
    row = ",".join(["elsewhere.png"] * (len(COLUMNS) - 1) + ["tree/b.png"])
    (tree.parent / "list.csv").write_text(f"{header}\n{row}\n")
    assert listed(tree.parent / "list.csv") == [f"{tree}/b.png"]


def test_a_missing_image_of_a_table_is_an_error_of_that_image(tree: Path) -> None:
    (tree.parent / "list.csv").write_text("image\ntree/no.png\ntree/b.png\n")
    first, second = list_images([str(tree.parent / "list.csv")])
    assert first.error == f"{tree}/no.png: no such file."
    assert second.error == ""


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.csv", "name,label\nx,y\n", "no column of images: name it 'image'. Its columns are name, label"),
        ("a.jsonl", '{"image": 3}\n', "line 1: no image, got 3"),
        ("a.jsonl", "{'image'}\n", "line 1: not JSON"),
        ("a.csv", "image\n\n\n", "contains no image"),
        ("a.csv", b"image\n\xff.png\n", "cannot be read: 'utf-8' codec"),
        ("a.tar.gz", b"\x1f\x8b123", "is compressed"),
        ("a.tar", b"no tar at all", "is not a readable tar"),
    ],
)
def test_what_cannot_be_listed_is_refused(tmp_path: Path, name: str, content: str | bytes, error: str) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=error.replace("(", r"\(")):
        listed(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("nothing", "nothing: no such file or folder"),
        ("*.jpg", r"\*.jpg: no file matches"),
        ("a{0..1}.tar", "a0.tar: no such file"),
        ("{a", "{a: no such file or folder"),
        (".", r"contains no image \(.avif"),
    ],
)
def test_a_source_without_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=error):
        listed(source)


def test_tars_are_listed_in_their_order_and_damage_is_told(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "a.tar", {"x/2.png": png(2), "x/1.jpg": png(1), "x/1.json": b"{}", "x/3.seg.png": b"?"})
    found = list(list_images([str(whole)]))
    assert [item.source for item in found] == [f"{whole}/x/2.png", f"{whole}/x/1.jpg"]
    assert Image.open(io.BytesIO(found[0].place.read("x"))).width == 2
    cut = tmp_path / "b.tar"
    cut.write_bytes(whole.read_bytes()[: 1024 + 520])
    good, image, tar = list_images([str(cut)])
    assert (good.source, good.error) == (f"{cut}/x/2.png", "")
    assert image.error == f"{cut}/x/1: x/1.jpg is cut off at the end of the tar."
    assert tar.error.startswith(f"{cut}: ")
    assert tar.error.endswith("only the files before that are used.")


def test_an_image_whose_key_ends_early_is_told_and_other_parts_of_a_sample_are_not(tmp_path: Path) -> None:
    names = {"2024.05.01.png": png(), "z.jpg": png(), "z.depth.png": png(), "y.depth.png": png(), "y.png": png()}
    found = list(list_images([str(make_tar(tmp_path / "a.tar", names))]))
    assert [(Path(item.source).name, bool(item.error)) for item in found] == [
        ("2024.05.01.png", True),
        ("z.jpg", False),
        ("y.png", False),
    ]
    assert "a key ends at the first dot: rename the image" in found[0].error


def test_a_link_to_a_folder_is_left_out_with_a_warning(tree: Path) -> None:
    before = listed(tree)
    (tree / "round").symlink_to(tree)
    for found in (lambda: listed(tree), lambda: [str(image) for image in find_images([tree])[0]]):
        with pytest.warns(DataWarning, match=r"round is a link to a folder and is left out: name it"):
            assert found() == before


def test_a_folder_in_a_table_is_no_image(tree: Path) -> None:
    (tree / "t.csv").write_text("image\nb\n")
    [item] = list_images([str(tree / "t.csv")])
    assert item.error == f"{tree / 'b'} is a folder, not an image."


def test_our_own_results_are_not_sources(tmp_path: Path) -> None:
    (tmp_path / "shards" / "000000").mkdir(parents=True)
    for name in ("a.png", "shards/000000/x.0.png"):
        (tmp_path / name).write_bytes(png())
    assert listed(tmp_path, out=tmp_path) == [f"{tmp_path}/a.png"]
    assert listed(f"{tmp_path}/**/*.png", out=tmp_path) == [f"{tmp_path}/a.png"]
    with pytest.raises(DataError, match="no source was given"):
        listed()


def test_a_name_that_no_file_can_have_is_an_error_of_that_image(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"image": "a\\u0000b.png"}\n')
    [item] = list_images([str(tmp_path / "a.jsonl")])
    assert "cannot be read (embedded null byte)" in item.error
    (tmp_path / "b.csv").write_text("image\n" + "x" * 200_000 + "\n")
    with pytest.raises(DataError, match=r"b\.csv cannot be read: field larger than field limit"):
        listed(tmp_path / "b.csv")


def test_urls_are_opened_by_fsspec(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image\ntree/b.png\n")
    [item] = list_images([f"file://{tmp_path}/list.csv"])
    assert item == Item(f"file://{tree}/b.png", Place(f"file://{tree}/b.png"))
    assert item.place.read("x") == (tree / "b.png").read_bytes()
    with pytest.raises(ImageError, match="x: no such file"):
        Place(f"file://{tree}/no.png").read("x")
    with pytest.raises(OptionError, match=r"s3://bucket/a\.png cannot be read: .*s3fs"):
        Place("s3://bucket/a.png").read("x")


def test_one_missing_scheme_is_told_while_listing() -> None:
    with pytest.raises((DataError, OptionError), match=r"nowhere://a\.csv cannot be read"):
        listed("nowhere://a.csv")


def test_workers_do_not_import_torch() -> None:
    script = "import sys, eclip.stream.decoding; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def read(names: list[str], *, workers: int, timeout: float = 30, ahead: int = 3) -> list[Any]:
    items = [Item(name, Place(name)) for name in names]
    with Reading(misbehave, workers, timeout) as reading:  # type: ignore[arg-type]
        return [result for _, result in reading(items, ahead)]


@pytest.mark.long
def test_a_crash_or_a_hang_costs_one_image() -> None:
    names = ["a", "crash", "ccc", "hang", "eeeee", "exit", "ggggggg", "odd"]
    found = read(names, workers=1, timeout=2)
    assert [int(one.pixels.max()) for one in found if isinstance(one, Decoded)] == [1, 3, 5, 7]
    errors = [str(one) for one in found if isinstance(one, ImageError)]
    assert errors == [
        "crash crashed its decoder (exit code -11); it is skipped.",
        "hang was not decoded within 2 s; it is skipped.",
        "exit crashed its decoder (exit code 3); it is skipped.",
        "odd cannot be read (RuntimeError: no such codec).",
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_come_in_order_and_few_are_ahead(workers: int) -> None:
    asked = []

    def items() -> Any:
        for name in ("a", "bb", "ccc", "dddd", "eeeee"):
            asked.append(name)
            yield Item(name, Place(name))

    with Reading(misbehave, workers) as reading:  # type: ignore[arg-type]
        results = reading(items(), 2)
        first = next(results)
        assert asked == ["a", "bb", "ccc"], "one more than it may read ahead"
        rest = [one for one in results]
    assert [int(one.pixels.max()) for _, one in [first, *rest] if isinstance(one, Decoded)] == [1, 2, 3, 4, 5]


def test_an_image_whose_listing_failed_is_not_read() -> None:
    with Reading(misbehave, 0) as reading:  # type: ignore[arg-type]
        [(_, result)] = reading([Item("crash", Place("crash"), "known to be bad")], 2)
    assert str(result) == "known to be bad"
