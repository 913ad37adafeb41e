"""Images with pixel masks, read from miniature packs that each test may break; and the real packs, if present."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eclip.errors
from eclip.datasets.masks import VOC_NAMES, VOID, present, read_masks

DATA = Path(__file__).parents[2] / "shared" / "data"
real = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data, the real packs, is not here")


def write_mask(path: Path, values: np.ndarray) -> None:
    """A palette picture whose colors are not its numbers."""
    picture = Image.fromarray(values).convert("P")
    picture.putdata(values.ravel().tolist())
    picture.putpalette([255 - i // 3 for i in range(768)])
    picture.save(path)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """Four images of 40 x 30: a, c, d with halves of class 1 and 2, b of background alone, a with a void row."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for seed, name in enumerate("abcd"):
        image = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.{'png' if name == 'b' else 'jpg'}")
        values = np.zeros((30, 40), dtype=np.uint8)
        if name != "b":
            values[:, :20], values[:, 20:35] = 1, 2
        if name == "a":
            values[0] = 255
        write_mask(tmp_path / "masks" / f"{name}.png", values)
    (tmp_path / "classes.txt").write_text("0\tbackground\n1\tdog\n2\tdining table\n255\tvoid (ignore)\n")
    (tmp_path / "index.tsv").write_text("name\torigin\nd\tval\na\ttrain\nc\tval\nb\tval\n")
    return tmp_path


def test_masks_hold_numbers_and_not_colors(pack: Path) -> None:
    masks = read_masks(pack)
    assert masks.classes == {1: "dog", 2: "dining table"}
    item = masks.items[1]
    assert item.name == "a" and item.open().mode == "RGB"
    assert item.read()[:2, [0, 25, 39]].tolist() == [[VOID, VOID, VOID], [1, 2, 0]]
    assert item.read().shape == item.open().size[::-1] == (30, 40)


def test_images_come_in_the_order_of_the_index_and_where_every_and_first_choose(pack: Path) -> None:
    def names(**options: object) -> str:
        return "".join(item.name for item in read_masks(pack, **options).items)

    assert names() == "dacb"
    assert names(where={"origin": "val"}) == "dcb"
    assert names(where={"origin": "val"}, every=2) == "db"
    assert names(every=2, first=1) == "ab"
    (pack / "index.tsv").unlink()
    assert names() == "abcd"


def test_a_mask_lies_on_the_upright_image(pack: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6  # the camera was turned by a quarter
    Image.new("RGB", (30, 40)).save(pack / "images" / "c.jpg", exif=tags)
    item = read_masks(pack).items[2]
    assert item.open().size == (40, 30) and item.read().shape == (30, 40)
    write_mask(pack / "masks" / "c.png", np.zeros((40, 30), dtype=np.uint8))  # of the pixels as they are stored
    with pytest.raises(eclip.errors.DataError, match=r"EXIF orientation 6, .*exif_transpose"):
        item.read()


@pytest.mark.parametrize(("turn", "size"), [(3, (40, 30)), (6, (30, 30))])
def test_nobody_knows_on_which_side_of_a_turn_a_mask_was_drawn(pack: Path, turn: int, size: tuple[int, int]) -> None:
    tags = Image.Exif()
    tags[0x0112] = turn
    Image.new("RGB", size).save(pack / "images" / "c.jpg", exif=tags)
    write_mask(pack / "masks" / "c.png", np.zeros(size[::-1], dtype=np.uint8))
    with pytest.raises(eclip.errors.DataError, match=f"EXIF orientation {turn}, and .* may have been drawn"):
        read_masks(pack).items[2].read()
    tags[0x0112] = 1
    Image.new("RGB", size).save(pack / "images" / "c.jpg", exif=tags)
    assert read_masks(pack).items[2].read().shape == size[::-1]


def test_digest_sees_every_change_of_what_is_scored(pack: Path) -> None:
    seen = [read_masks(pack).digest(), read_masks(pack, first=1).digest()]
    seen.append(read_masks(pack, classes={1: "puppy", 2: "dining table"}).digest())
    write_mask(pack / "masks" / "d.png", np.arange(1200, dtype=np.uint8).reshape(30, 40))
    seen.append(read_masks(pack).digest())
    Image.new("RGB", (40, 30)).save(pack / "images" / "a.jpg")
    seen.append(read_masks(pack).digest())
    assert len(set(seen)) == len(seen)
    (pack / "index.tsv").write_text("name\torigin\na\ttrain\nd\tval\nc\tval\nb\tval\n")
    seen.append(read_masks(pack).digest())
    assert len(set(seen)) == len(seen)
    assert read_masks(pack.rename(pack.parent / "moved")).digest() == seen[-1], "but not where it lies"


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no masks": (lambda pack: (pack / "masks").rename(pack / "labels"), "masks: no such folder"),
    "no classes": (lambda pack: (pack / "classes.txt").unlink(), "classes.txt is required"),
    "classes empty": (lambda pack: (pack / "classes.txt").write_text(""), "classes.txt is empty"),
    "classes of void": (lambda pack: (pack / "classes.txt").write_text("255\tvoid"), "names no class"),
    "classes by space": (
        lambda pack: (pack / "classes.txt").write_text("1 dog"),
        "line 1 of .*a tab and a name.*'1 dog'",
    ),
    "classes half numbered": (
        lambda pack: (pack / "classes.txt").write_text("background\n8-ball\ncue"),
        "line 2 of .* begins with a number but has no tab, '8-ball': number all lines",
    ),
    "classes too many": (lambda pack: (pack / "classes.txt").write_text("65536\tdog"), "0 to 65535"),
    "no image": (
        lambda pack: (pack / "images" / "c.jpg").unlink(),
        "c.jpg: no such file; it should be the image of 'c', whose mask is .*c.png",
    ),
    "two images": (lambda pack: (pack / "images" / "c.png").touch(), "c.jpg and c.png, whose names are the same"),
    "no mask": (lambda pack: (pack / "masks" / "c.png").unlink(), "c.png: no such file; it should be the mask of 'c'"),
    "index without names": (lambda pack: (pack / "index.tsv").write_text("image\na\n"), "no column name; it has image"),
    "index twice": (
        lambda pack: (pack / "index.tsv").write_text("name\torigin\na\tval\nb\tval\na\tval\n"),
        "index.tsv lists images more than once: a. Each has one row",
    ),
    "index ragged": (
        lambda pack: (pack / "index.tsv").write_text("name\torigin\na\n"),
        "line 2 of .* 2 columns, got 1",
    ),
    "index no text": (
        lambda pack: (pack / "index.tsv").write_bytes(b"\xff"),
        "index.tsv is required but cannot be",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_pack_says_what_is_wrong(pack: Path, what: str) -> None:
    spoil, message = BROKEN[what]
    spoil(pack)
    with pytest.raises(eclip.errors.DataError, match=message):
        read_masks(pack)


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "size": (lambda mask: Image.new("L", (39, 30)).save(mask), "39 x 30 pixels, but its image 40 x 30"),
    "colors": (lambda mask: Image.new("RGB", (40, 30)).save(mask), "palette or gray image .* got RGB"),
    "16 bits": (lambda mask: Image.new("I;16", (40, 30), 300).save(mask), r"shows \[300\]"),
    "number": (
        lambda mask: Image.new("L", (40, 30), 7).save(mask),
        r"shows \[7\], but the named classes are 1, 2",
    ),
    "damage": (lambda mask: mask.write_bytes(mask.read_bytes()[:60]), "mask of 'd' cannot be read"),
    "gone": (lambda mask: mask.unlink(), "mask of 'd' cannot be read: .*no such file"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_mask_is_found_when_it_is_read(pack: Path, what: str) -> None:
    spoil, message = SPOILED[what]
    item = read_masks(pack).items[0]
    spoil(item.mask)
    with pytest.raises(eclip.errors.DataError, match=message):
        item.read()


def test_questions_that_no_pack_can_answer(pack: Path) -> None:
    with pytest.raises(eclip.errors.DataError, match="no column split; it has name, origin"):
        read_masks(pack, where={"split": "val"})
    with pytest.raises(eclip.errors.DataError, match=r"0 images with {'origin': 'test'}"):
        read_masks(pack, where={"origin": "test"})
    with pytest.raises(eclip.errors.DataError, match=r"4 images .* from first=9"):
        read_masks(pack, first=9)
    with pytest.raises(eclip.errors.OptionError, match="every must be at least 1"):
        read_masks(pack, every=0)
    with pytest.raises(eclip.errors.OptionError, match="1 to 65534"):
        read_masks(pack, classes={0: "background"})


def test_present_counts_void_and_background_in_no_class() -> None:
    mask = np.zeros((20, 20), dtype=np.uint16)
    mask[:, 10:] = VOID  # 200 pixels are left
    mask[0, :2] = 919  # 2 of 200, just 1 %
    mask[1, 0] = 65534
    assert present(mask) == [919]
    assert present(mask, least=0.005) == [919, 65534]
    assert present(np.full((2, 2), VOID, dtype=np.uint16), least=0.0) == []


@real
def test_the_real_pack_shows_what_its_index_says() -> None:
    masks = read_masks(DATA / "voc2012seg", where={"origin": "voc2012_val"})
    assert len(masks.items) == 318
    rows = (line.split("\t") for line in (DATA / "voc2012seg" / "index.tsv").read_text().splitlines())
    shown = {name: classes.split(",") for name, _, classes in rows}
    for item in masks.items[::40]:
        numbers = set(np.unique(item.read()).tolist()) - {0, VOID}
        assert {masks.classes[number] for number in numbers} == set(shown[item.name])
    assert [VOC_NAMES[number] == name for number, name in masks.classes.items()].count(False) == 4


@real
@pytest.mark.parametrize("name", ["coco80seg", "camvid", "davis2016val"])
def test_the_other_real_packs_are_of_the_same_layout(name: str) -> None:
    masks = read_masks(DATA / name, every=15)
    assert all(set(np.unique(item.read()).tolist()) - {0, VOID} for item in masks.items)


@pytest.mark.parametrize("end", [".JPG", ".jpeg", ".PNG", ".tif", ".TIFF", ".bmp", ".webp", ".gif", ".jfif"])
def test_images_and_masks_of_all_kinds_that_are_read_are_found(pack: Path, end: str) -> None:
    kind = {".jpg": "jpeg", ".jpeg": "jpeg", ".jfif": "jpeg", ".tif": "tiff", ".tiff": "tiff"}.get(end.lower(), end[1:])
    (pack / "images/c.jpg").unlink()
    Image.new("RGB", (40, 30)).save(pack / f"images/c{end}", kind.lower())
    if end in (".PNG", ".tif", ".TIFF", ".bmp"):
        with Image.open(pack / "masks/c.png") as mask:
            mask.save(pack / f"masks/c{end}", kind.lower())
        (pack / "masks/c.png").unlink()
    for _ in range(2):  # with the index, and without
        [item] = [one for one in read_masks(pack).items if one.name == "c"]
        assert item.image.name == f"c{end}" and set(np.unique(item.read()).tolist()) == {0, 1, 2}
        (pack / "index.tsv").unlink(missing_ok=True)


def test_given_names_keep_the_values_of_a_list_without_numbers(pack: Path) -> None:
    (pack / "classes.txt").write_text("road\ndog\ntable\n")
    plain, named = read_masks(pack), read_masks(pack, classes={1: "street", 2: "puppy", 3: "desk"})
    assert [item.read().tolist() for item in plain.items] == [item.read().tolist() for item in named.items]


def test_what_systems_and_editors_leave_does_not_matter(pack: Path) -> None:
    for name in ("images/._c.jpg", "masks/._c.png"):
        (pack / name).write_bytes(b"of macOS")
    names = [item.name for item in read_masks(pack).items]
    for name in ("classes.txt", "index.tsv"):
        with (pack / name).open("a") as file:
            file.write("\n\n")
    assert [item.name for item in read_masks(pack).items] == names
    (pack / "index.tsv").unlink()
    assert [item.name for item in read_masks(pack).items] == sorted(names)


def test_images_in_folders_need_an_index(pack: Path) -> None:
    (pack / "index.tsv").unlink()
    (pack / "images/sub").mkdir()
    shutil.copy(pack / "images/c.jpg", pack / "images/sub/1.jpg")
    told = r"1 image in folders below .*images: sub/1, left out. List them in an index.tsv"
    with pytest.warns(eclip.errors.DataWarning, match=told):
        assert len(read_masks(pack).items) == 4


def test_files_of_no_kind_that_is_read_are_counted_and_told(pack: Path) -> None:
    for name in ("c.HEIC", "d.dng", "other.heic", ".DS_Store", "Thumbs.db"):
        (pack / "images" / name).write_bytes(b"0")
    (pack / "images/c.jpg").unlink()
    for _ in range(2):
        told = r"3 files in .*images with an unsupported format: c.HEIC, d.dng, other.heic, .* with the masks of 1"
        with pytest.warns(eclip.errors.DataWarning, match=told):
            assert sorted(item.name for item in read_masks(pack).items) == ["a", "b", "d"]
        (pack / "index.tsv").unlink(missing_ok=True)
    [problem] = eclip.DATASETS["folder"].verify(pack).problems
    assert "c.HEIC" in problem


@pytest.mark.parametrize(
    ("folder", "more", "told"),
    [
        ("images", "c.JPEG", "c.JPEG and c.jpg, whose names"),
        ("masks", "c.tif", "c.png and c.tif, whose names"),
    ],
)
def test_two_files_of_one_name_are_refused(pack: Path, folder: str, more: str, told: str) -> None:
    for _ in range(2):
        (pack / folder / more).write_bytes(b"0")
        with pytest.raises(eclip.errors.DataError, match=told):
            read_masks(pack)
        (pack / "index.tsv").unlink(missing_ok=True)


def test_names_of_the_index_may_have_their_ending(pack: Path) -> None:
    (pack / "index.tsv").write_text("name\nd.jpg\nb.png\n", encoding="utf-8")
    assert [(item.name, item.image.name) for item in read_masks(pack).items] == [("d", "d.jpg"), ("b", "b.png")]
