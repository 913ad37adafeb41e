"""Pairs from tars, tables and folders: all of them, in a fixed order; unusable input is named."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eclip.datasets.caption_sources import Pair, Place, digest, read_pairs
from eclip.errors import DataError, ImageError, OptionError

DATA = Path(__file__).parents[2] / "shared" / "data"


def _image(seed: int, kind: str = "png") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(stream, kind)
    return stream.getvalue()


def _tar(path: Path, members: list[tuple[str, bytes | str]], form: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _shard(path: Path, first: int = 0) -> Path:
    members: list[tuple[str, bytes | str]] = []
    for n in range(first, first + 3):
        members += [(f"{n:06}.jpg", _image(n, "jpeg")), (f"{n:06}.txt", f"a photo {n}\n\n photo {n} it is \r\n")]
    return _tar(path, members)


def _files(folder: Path, contents: dict[str, bytes | str]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def _read(*sources: Any, **options: Any) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    pairs, bad = read_pairs([str(source) for source in sources], **options)
    assert len({pair.key for pair in pairs}) == len(pairs)
    return {pair.key: pair.captions for pair in pairs}, dict(bad)


def _pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_tars_in_braces_and_patterns_give_one_fixed_order(tmp_path: Path) -> None:
    for n in (2, 0, 1):
        _shard(tmp_path / f"train-00{n}.tar", 3 * n)
    pairs, bad = read_pairs([f"{tmp_path}/train-{{000..002}}.tar"])
    assert bad == []
    assert [pair.key for pair in pairs] == [f"train-00{n // 3}.tar/{n:06}" for n in range(9)]
    assert pairs[4].captions == ("a photo 4", "photo 4 it is")
    assert read_pairs([f"{tmp_path}/train-*.tar"]) == (pairs, [])
    assert read_pairs([f"{tmp_path}/train-001.tar", f"{tmp_path}/*.tar"])[0] == pairs[3:6] + pairs[:3] + pairs[6:]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_read_out_of_order_are_those_of_tarfile(tmp_path: Path, form: int) -> None:
    names = [f"folder-{'x' * 90}/{'ö' * 40}{n}" if form else f"{n}" for n in range(5)]  # longer than one header holds
    members = [
        (f"{name}{end}", _image(n) if end == ".png" else name)
        for n, name in enumerate(names)
        for end in (".png", ".txt")
    ]
    path = _tar(tmp_path / "a.tar", members, form)
    pairs, bad = read_pairs([str(path)])
    assert bad == []
    with tarfile.open(path) as tar:
        for pair, name in reversed(list(zip(pairs, names, strict=True))):
            member = tar.extractfile(f"{name}.png")
            assert member is not None
            assert pair.key == f"a.tar/{name}"
            assert pickle.loads(pickle.dumps(pair)).open().tobytes() == _pixels(member.read())


def test_members_pair_by_webdataset_rule(tmp_path: Path) -> None:
    path = _tar(
        tmp_path / "odd.tar",
        [
            ("./v1.0/a.JPG", _image(0, "jpeg")),  # a dot in the folder does not end the key
            ("b.txt", "\ufeffb"),  # before its image, and with a byte order mark
            ("b.seg.png", _image(1)),  # not the image of b
            ("v1.0/a.txt", "a"),
            ("b.png", _image(2)),
            ("c.json", json.dumps({"caption": "of c", "url": "..."})),
            ("c.webp", _image(3, "webp")),
            ("d.png", _image(4)),
            ("d.json", json.dumps({"captions": ["d", "", "of d"]})),
            ("e.json", json.dumps({"caption": "not taken"})),
            ("e.txt", "of e"),
            ("e.png", _image(5)),
            ("._e.png", b"of another system"),
            *[("caf\udce9.png", _image(6)), ("caf\udce9.txt", "its name is not UTF-8")],
            ("README", "no member of a pair"),
        ],
    )
    captions, bad = _read(path)
    assert captions == {
        "odd.tar/v1.0/a": ("a",),
        "odd.tar/b": ("b",),
        "odd.tar/c": ("of c",),
        "odd.tar/d": ("d", "of d"),
        "odd.tar/e": ("of e",),
        "odd.tar/caf\ufffd": ("its name is not UTF-8",),
    }
    assert bad == {"odd.tar/d": "d.json contains an empty caption."}
    pairs = {pair.key: pair for pair in read_pairs([str(path)])[0]}
    assert pairs["odd.tar/b"].open().tobytes() == _pixels(_image(2))


def test_what_gives_no_pair_is_named(tmp_path: Path) -> None:
    path = _tar(
        tmp_path / "bad.tar",
        [
            *[("good.png", _image(0)), ("good.txt", "good"), ("good.jpg", _image(1)), ("good.txt", "again")],
            ("alone.png", _image(1)),
            ("words.txt", "no image"),
            *[("blank.png", _image(2)), ("blank.txt", " \n\t\n")],
            *[("zero.png", b""), ("zero.txt", "zero")],
            *[("latin.png", _image(3)), ("latin.txt", "caf\u00e9".encode("latin-1"))],
            *[("cut.png", _image(4)), ("cut.json", '{"caption":')],
            *[("list.png", _image(5)), ("list.json", "[1]")],
            *[("half.png", _image(5)), ("half.json", '{"caption": "a \\ud800 dog"}')],
            *[("two.dots.png", _image(6)), ("two.dots.txt", "two dots")],
        ],
    )
    with tarfile.open(path, "a") as tar:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("holes.png", b"S")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "good.png"
            tar.addfile(info)
    captions, bad = _read(path)
    assert captions == {"bad.tar/good": ("good",)}
    said = {
        "good": "good.txt is left out because good.txt has the same key",
        "alone": "no caption",
        "words": "words.txt has no image",
        "blank": "blank.txt contains no caption",
        "zero": "zero.png is empty (0 bytes)",
        "latin": "latin.txt is not UTF-8",
        "cut": "cut.json is not valid JSON",
        "list": 'list.json must have "caption"',
        "half": "half.json contains a caption that is not valid Unicode",
        "two": "two.dots.png: a key ends at the first dot",
        "link": "link.png is a link",
        "hard": "hard.png is a link",
        "holes": "holes.png is a link or sparse",
    }
    assert {key.removeprefix("bad.tar/") for key in bad} == set(said)
    for key, why in said.items():
        assert why in bad[f"bad.tar/{key}"]
    assert ("bad.tar/good", "good.jpg is left out because good.png has the same key.") in read_pairs([str(path)])[1]


def test_a_tar_that_breaks_off_gives_what_comes_before_and_says_so(tmp_path: Path) -> None:
    path = _shard(tmp_path / "whole.tar")
    data = path.read_bytes()
    whole, _ = read_pairs([str(path)])
    third = whole[2].place.offset  # of the third image, whose header is the block before
    for name, content, count, why in [
        ("member", data[: third + 10], 2, "cut short or damaged"),
        ("header", data[: third - 100], 2, f"no header at byte {third - 512:,}"),
        ("boundary", data[: third - 512], 2, f"ends at byte {third - 512:,} without an end-of-archive marker"),
        ("garbage", data[: third - 512] + b"\7" * 512 + data[third:], 2, f"no header at byte {third - 512:,}"),
        ("joined", data + data, 3, "data follow its end"),
    ]:
        (tmp_path / f"{name}.tar").write_bytes(content)
        captions, bad = _read(tmp_path / f"{name}.tar")
        assert list(captions.values()) == [pair.captions for pair in whole[:count]], name
        assert why in bad.pop(f"{name}.tar"), name
        expected = {"member.tar/000002": "000002.jpg is cut off at the end of the tar."} if name == "member" else {}
        assert bad == expected, name


def test_broken_images_raise_when_opened_and_are_named_by_key(tmp_path: Path) -> None:
    members = [("a.jpg", _image(0, "jpeg")[:200]), ("a.txt", "cut"), ("b.jpg", b"no image"), ("b.txt", "text")]
    path = _tar(tmp_path / "x.tar", [*members, ("c.jpg", _image(1, "jpeg")), ("c.txt", "whole")])
    (cut, text, whole), bad = read_pairs([str(path)])
    assert bad == []
    with pytest.raises(ImageError, match=r"^x\.tar/a is damaged"):
        cut.open()
    with pytest.raises(ImageError, match=r"^x\.tar/b is not a readable image .*8 bytes"):
        text.open()
    assert whole.open().size == (8, 6)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ImageError, match=r"^x\.tar/c: .* has become shorter since"):
        whole.open()
    path.unlink()
    with pytest.raises(ImageError, match=r"^x\.tar/c: .* can no longer be read: No such file"):
        whole.open()


def test_open_clips_csv(tmp_path: Path) -> None:
    rows = 'filepath\ttitle\nimg/a.png\ta cat\n./img/b.png\t"a ""big"" dog"\nimg/a.png\tthe cat\n'
    rows += (
        "img/no.png\tgone\nimg/zero.png\tzero\nimg/b.png\t \nimg\ta folder\nhttps://x.org/y.png\tfar\n\tnobody\none\n"
    )
    folder = _files(tmp_path, {"img/a.png": _image(0), "img/b.png": _image(1), "img/zero.png": b"", "d/t.tsv": ""})
    _files(folder, {"t.tsv": rows})
    captions, bad = _read(folder / "t.tsv")
    a, b = f"{folder}/img/a.png", f"{folder}/img/b.png"
    assert list(captions.items()) == [(a, ("a cat", "the cat")), (b, ('a "big" dog',))]
    assert bad == {
        f"{folder}/img/no.png": "no such file.",
        f"{folder}/img/zero.png": "empty (0 bytes).",
        b: f"an empty caption in line 7 of {folder}/t.tsv.",
        f"{folder}/img": "a folder, not an image.",
        f"{folder}/https:/x.org/y.png": "a URL, not a file: download it first.",
        f"{folder}/t.tsv, line 10": "the image is missing.",
        f"{folder}/t.tsv, line 11": "1 columns, but the header has 2: a caption with '\\t' needs quotes.",
    }
    _files(folder, {"d/u.csv": f"n;text;path\n1;eins;{a}\n2;zwei;../img/b.png\n"})
    captions, bad = _read(folder / "d/u.csv", image_key="path", caption_key="text", separator=";")
    assert (captions, bad) == ({a: ("eins",), b: ("zwei",)}, {})


def test_published_lists_in_a_folder(tmp_path: Path) -> None:
    images: dict[str, bytes | str] = {"Images/1.jpg": _image(1, "jpeg"), "Images/2.jpg": _image(2, "jpeg")}
    one, two = (f"{tmp_path}/{{}}/Images/{n}.jpg" for n in (1, 2))
    for name, table, text in [
        ("flickr8k", "captions.txt", 'image,caption\n1.jpg,a dog\n1.jpg,"a dog, wet"\n2.jpg,a cat\n'),
        ("flickr30k", "captions.txt", "1.jpg#0\ta dog\n1.jpg#1\ta dog, wet\r\n2.jpg#0\ta cat"),
        ("pack", "captions.tsv", "Images/1.jpg\ta dog\nImages/1.jpg\ta dog, wet\n\nImages/2.jpg\ta cat\n"),
        ("openclip", "captions.csv", "filepath\ttitle\nImages/1.jpg\ta dog\n1.jpg\ta dog, wet\n2.jpg\ta cat\n"),
    ]:
        _files(tmp_path / name, {**images, table: text, "masks/1.png": _image(3), "Images/3.jpg": _image(4, "jpeg")})
        captions, bad = _read(tmp_path / name)
        assert captions == {one.format(name): ("a dog", "a dog, wet"), two.format(name): ("a cat",)}, name
        assert bad == {
            f"{tmp_path}/{name}/Images/3.jpg": "no caption.",
            f"{tmp_path}/{name}/masks": "1 image, none with a caption.",
        }
    _files(tmp_path / "pack", {"more/2.jpg": _image(5, "jpeg"), "captions.tsv": '1.jpg\t"one\n2.jpg\ttwo\nno tab\n'})
    captions, bad = _read(tmp_path / "pack")
    assert captions == {one.format("pack"): ('"one',)}, "quotes are letters where nothing is quoted"
    assert bad[f"{tmp_path}/pack/2.jpg"] == "no such file.", "two folders have it"
    assert bad[f"{tmp_path}/pack/captions.tsv, line 3"] == "expected an image, a tab and a caption."


def test_a_folder_with_captions_beside_images(tmp_path: Path) -> None:
    contents: dict[str, bytes | str] = {
        "my.image.jpg": _image(0, "jpeg"),
        "my.image.txt": "two dots\nand two lines",
        "deep/er/a.PNG": _image(1),
        "deep/er/a.txt": "a",
        "deep/er/b.png": _image(2),
        "deep/c.txt": "no image",
        "masks/1.png": _image(3),
        "masks/2.png": _image(3),
        ".cache/1.png": _image(3),
        "notes.md": "not looked at",
    }
    folder = _files(tmp_path / "f", contents)
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    captions, bad = _read(f"{folder}/")
    assert list(captions.items()) == [
        (f"{folder}/deep/er/a.PNG", ("a",)),
        (f"{folder}/my.image.jpg", ("two dots", "and two lines")),
    ]
    assert bad == {
        f"{folder}/dangling.jpg": "cannot be read: No such file or directory.",
        f"{folder}/deep/c.txt": "c.txt has no image beside it.",
        f"{folder}/deep/er/b.png": "no caption.",
        f"{folder}/masks": "2 images, none with a caption.",
    }
    pairs, _ = read_pairs([str(folder)])
    assert pairs[0].open().tobytes() == _pixels(_image(1))


def test_one_key_in_two_sources_is_told_apart(tmp_path: Path) -> None:
    _shard(tmp_path / "a/x/train.tar")
    _shard(tmp_path / "b/x/train.tar")
    _shard(tmp_path / "b/y/train.tar")
    tars = [f"{tmp_path}/a/x/train.tar", f"{tmp_path}/b/{{x,y}}/train.tar"]
    assert list(_read(*tars)[0])[::3] == ["a/x/train.tar/000000", "b/x/train.tar/000000", "y/train.tar/000000"]
    _files(tmp_path, {"p.png": _image(0), "p.txt": "beside", "one.tsv": "p.png\tone\n", "two.tsv": "p.png\ttwo\n"})
    captions, _ = _read(tmp_path / "one.tsv", tmp_path / "two.tsv")
    assert captions == {f"{tmp_path}/p.png": ("one",), f"{tmp_path}/two.tsv:{tmp_path}/p.png": ("two",)}


def test_digest_names_the_pairs_wherever_they_lie(tmp_path: Path) -> None:
    contents: dict[str, bytes | str] = {"a.png": _image(0), "b.png": _image(1), "captions.tsv": "a.png\ta\nb.png\tb\n"}
    here, there = _files(tmp_path / "here", contents), _files(tmp_path / "there/deep", contents)
    pairs, again = read_pairs([str(here)])[0], read_pairs([str(there)])[0]
    assert digest(pairs) == digest(again)
    a, b = pairs
    larger = Pair(a.key, a.place._replace(size=a.place.size + 1), a.captions)
    others = [[b, a], [a], [larger, b], [Pair(a.key, a.place, ("a", "b")), b], [Pair(b.key, a.place, a.captions), b]]
    assert digest([Pair("x.tar/1", Place("x.tar", 512, 7), ("a cat", "ein Kätzchen"))]) == "038892897a656b9d", (
        "caches would be lost"
    )
    assert len({digest(pairs), *map(digest, others)}) == len(others) + 1


def test_wrong_sources_say_what_is_wrong_and_what_there_is(tmp_path: Path) -> None:
    shard = _shard(tmp_path / "train-000.tar")
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as tar:
        tar.add(shard, "a.txt")
    (tmp_path / "renamed.tar").write_bytes((tmp_path / "packed.tar.gz").read_bytes())
    _files(
        tmp_path, {"text.tar": "no tar" * 200, "none.tar": "", "a.npy": "", "tars/x.tar": "", "images/a.png": _image(0)}
    )
    _files(tmp_path, {"two/a.png": _image(0), "two/captions.txt": "", "two/captions.csv": ""})
    _files(tmp_path, {"bad.csv": 'image,caption\na.png,"one" more\n', "head.csv": "filepath,title\na.png,b\n"})
    _files(
        tmp_path,
        {"latin.tsv": b"a.png\tcaf\xe9\n", "header.tsv": "filepath\ttitle\n", "gone.tsv": "a.png\ta\nb.png\tb\n"},
    )
    _tar(tmp_path / "hollow.tar", [])
    for source, words in {
        "missing.tar": "no such file or folder",
        "train-{000..002}.tar": r"train-001.tar \(one of 3 from .*\): no such file",
        "train-{000.tar": "an unclosed brace",
        "*.webp": "no file matches",
        "packed.tar.gz": r"packed.tar.gz is compressed.* decompress it",
        "renamed.tar": "renamed.tar is compressed",
        "text.tar": "is not a readable tar",
        "none.tar": "is not a readable tar: empty file",
        "hollow.tar": "no usable image-caption pair. hollow.tar: it contains no image and no caption. Pairs come from",
        "a.npy": "is not a source of image-caption pairs. Pairs come from WebDataset tars",
        "tars": r"contains no image. It has tars: give .*tars/\*.tar",
        "images": "no usable image-caption pair.*images: 1 image, none with a caption",
        "two": "captions.txt and captions.csv: give one",
        "bad.csv": "line 2.*must be enclosed in quotes",
        "head.csv": "begins with 'filepath,title'. Expected a header with.*'filepath' and 'title', separated by '.t'",
        "latin.tsv": "is not UTF-8.*byte 0xe9",
        "header.tsv": "header.tsv: it contains no image and no caption",
        "gone.tsv": r"no usable image-caption pair. .*a.png \(and 1 more\): no such file",
    }.items():
        with pytest.raises(DataError, match=words):
            read_pairs([f"{tmp_path}/{source}"])
    with pytest.raises(DataError, match=r"a URL.*download it first"):
        read_pairs(["https://example.org/train-{000..005}.tar"])
    with pytest.raises(DataError, match=r"no source .* was given. Pairs come from"):
        read_pairs([])
    with pytest.raises(OptionError, match=r"one character.*got '\\\\t'"):
        read_pairs([str(shard)], separator="\\t")
    captions, bad = _read(f"{tmp_path}/{{train-000,hollow}}.tar")
    assert (len(captions), bad) == (3, {"hollow.tar": "it contains no image and no caption."})


@pytest.mark.skipif(not (DATA / "flickr8k").is_dir(), reason="the pack flickr8k is not beside the repository")
@pytest.mark.long
def test_flickr8k_is_complete() -> None:
    import random

    for name, count in (("train-{000..005}", 6091), ("val-*", 1000), ("test-000", 1000)):
        pairs, bad = read_pairs([f"{DATA}/flickr8k/{name}.tar"])
        assert (len(pairs), bad) == (count, [])
        assert {len(pair.captions) for pair in pairs} == {5}
        for pair in random.Random(0).sample(pairs, 10):
            tar, _, key = pair.key.partition("/")
            with tarfile.open(DATA / "flickr8k" / tar) as opened:
                image, text = (opened.extractfile(f"{key}{end}") for end in (".jpg", ".txt"))
                assert image is not None and text is not None
                assert pair.open().tobytes() == _pixels(image.read())
                assert "\n".join(pair.captions) == text.read().decode().strip()


@pytest.mark.skipif(not (DATA / "coco80seg").is_dir(), reason="the pack coco80seg is not beside the repository")
def test_coco80seg_has_captions_for_200_of_its_images() -> None:
    pairs, bad = read_pairs([f"{DATA}/coco80seg"])
    assert (len(pairs), sum(len(pair.captions) for pair in pairs)) == (200, 1000)
    assert len(bad) == 159
    assert bad[-1] == (f"{DATA}/coco80seg/masks", "358 images, none with a caption.")
