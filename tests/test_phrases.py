"""Images with phrases and boxes: each data set on a miniature in its published layout, broken files, and the pack."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eclip.datasets import dataset
from eclip.datasets.phrases import Phrase, Phrased, PhraseSet, fitted
from eclip.errors import DataError, ImageError, LayoutError

DATA = Path(__file__).parents[2] / "shared" / "data"


def image(path: Path, width: int = 40, height: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 30)).save(path, "jpeg")


def phrases_of(name: str, root: Path, split: str | None = None) -> PhraseSet:
    found = dataset(name).read(root, split)
    assert isinstance(found, PhraseSet)
    assert pickle.loads(pickle.dumps(found)) == found  # it travels between processes
    return found


def thing(*names: str, box: tuple[int, int, int, int] | None = None) -> str:
    named = "".join(f"<name>{name}</name>" for name in names)
    if box is None:
        return f"<object>{named}<scene>1</scene><nobndbox>0</nobndbox></object>"
    ends = "".join(f"<{key}>{end}</{key}>" for key, end in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object>{named}<bndbox>{ends}</bndbox></object>"


def entities(root: Path) -> Path:
    """Two images of Flickr30k Entities: one with two captions, one whose only phrase is a scene."""
    base = root / "flickr30k_entities"
    for folder in ("Sentences", "Annotations"):
        (base / folder).mkdir(parents=True)
    (base / "test.txt").write_text("1001\n1002\n")
    (base / "Sentences" / "1001.txt").write_text(
        "[/EN#7/people Two men] in [/EN#8/clothing red hats] see [/EN#0/notvisual it] .\n"
        " [/EN#9/vehicles/scene A train] passes [/EN#10/scene a field] .\n"
    )
    objects = [
        thing("7", box=(1, 1, 10, 10)),
        thing("7", box=(21, 11, 40, 20)),
        thing("8", "9", box=(11, 6, 20, 10)),
        thing("10"),
    ]
    sizes = "<size><width>40</width><height>20</height><depth>3</depth></size>"
    (base / "Annotations" / "1001.xml").write_text(f"<annotation>{sizes}{''.join(objects)}</annotation>")
    (base / "Sentences" / "1002.txt").write_text("[/EN#10/scene A field] .\n")
    (base / "Annotations" / "1002.xml").write_text(f"<annotation>{sizes}{thing('10')}</annotation>")
    for name in ("1001", "1002"):
        image(root / "flickr30k-images" / f"{name}.jpg")
    return base


def test_flickr30k_entities_gives_phrases_with_all_boxes_of_their_chain(tmp_path: Path) -> None:
    base = entities(tmp_path)
    for root in (tmp_path, base):
        found = phrases_of("flickr30k_entities", root)
        [item] = found.items
        assert found.name == "flickr30k_entities test" and item.name == "1001" and item.open().size == (40, 20)
        first, second = "Two men in red hats see it .", "A train passes a field ."
        box = (10 / 40, 5 / 20, 20 / 40, 10 / 20)  # pixels count from 1, the last one included
        assert item.phrases == (
            Phrase("Two men", ((0, 0, 10 / 40, 10 / 20), (20 / 40, 10 / 20, 1, 1)), ("people",), first, 0),
            Phrase("red hats", (box,), ("clothing",), first, 11),
            Phrase("A train", (box,), ("vehicles", "scene"), second, 0),
        )
        assert all(one.caption[one.start :].startswith(one.text) for one in item.phrases)
        assert found.bad == [("1002", "none of its phrases has a box.")]


def test_a_broken_annotation_is_named_and_left_out(tmp_path: Path) -> None:
    base = entities(tmp_path)
    (base / "Annotations" / "1001.xml").write_text("<annotation><size>")
    with pytest.raises(LayoutError, match=r"no image of flickr30k_entities.*1001.xml is not an annotation"):
        dataset("flickr30k_entities").read(tmp_path)
    verified = dataset("flickr30k_entities").verify(tmp_path)
    assert "1001.xml is not an annotation" in verified.problems[0]


def test_missing_images_and_folders_are_named(tmp_path: Path) -> None:
    base = entities(tmp_path)
    (tmp_path / "flickr30k-images" / "1001.jpg").unlink()
    with pytest.raises(LayoutError, match=r"1001.jpg: no such file; it should be the image of '1001'"):
        dataset("flickr30k_entities").read(tmp_path)
    assert any("1001.jpg: no such file" in one for one in dataset("flickr30k_entities").verify(tmp_path).problems)
    image(tmp_path / "flickr30k-images" / "1001.jpg")
    os.rename(base / "Annotations", base / "annotations.unpacked")
    with pytest.raises(LayoutError, match=r"Annotations: no such file or folder. Expected layout"):
        dataset("flickr30k_entities").read(tmp_path)


def referring(root: Path, folder: str, by: str, refs: list[dict[str, Any]], protocol: int = 2) -> Path:
    base = root / folder
    base.mkdir(parents=True, exist_ok=True)
    (base / f"refs({by}).p").write_bytes(pickle.dumps(refs, protocol=protocol))
    whole = {
        "images": [{"id": 5, "file_name": "COCO_train2014_000000000005.jpg", "width": 40, "height": 20}],
        "annotations": [
            {"id": 50, "image_id": 5, "category_id": 1, "bbox": [4.0, 5.0, 8.0, 10.0]},
            {"id": 51, "image_id": 5, "category_id": 17, "bbox": [30.0, 0.0, 20.0, 10.0]},  # beyond the right edge
            {"id": 52, "image_id": 5, "category_id": 17, "bbox": [50.0, 0.0, 5.0, 5.0]},
        ],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 17, "name": "cat", "supercategory": "animal"},
        ],
    }
    (base / "instances.json").write_text(json.dumps(whole))
    image(root / "images" / "mscoco" / "images" / "train2014" / "COCO_train2014_000000000005.jpg")
    return base


def said(split: str, thing: int, *texts: str) -> dict[str, Any]:
    sentences = [{"sent": text, "raw": text.upper(), "tokens": text.split(), "sent_id": 1} for text in texts]
    return {"split": split, "image_id": 5, "ann_id": thing, "category_id": 1, "sentences": sentences}


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize(("name", "folder"), [("refcoco", "refcoco"), ("refcoco_plus", "refcoco+")])
def test_refcoco_gives_every_expression_with_the_box_of_its_object(
    tmp_path: Path, name: str, folder: str, protocol: int
) -> None:
    refs = [
        said("val", 50, "left man", "the man"),
        said("val", 51, "cat"),
        said("testA", 50, "man"),
        said("val", 52, "?"),
    ]
    referring(tmp_path, folder, "unc", refs, protocol)
    found = phrases_of(name, tmp_path)
    [item] = found.items
    person, cat = (4 / 40, 5 / 20, 12 / 40, 15 / 20), (30 / 40, 0, 1, 10 / 20)
    assert item.name == "COCO_train2014_000000000005" and item.open().size == (40, 20)
    assert [(one.text, one.boxes, one.types) for one in item.phrases] == [
        ("left man", (person,), ("person",)),
        ("the man", (person,), ("person",)),
        ("cat", (cat,), ("animal",)),
    ]
    assert found.bad == [("image 5, object 52", "its box [50.0, 0.0, 5.0, 5.0] is outside of the image.")]
    assert [one.text for one in phrases_of(name, tmp_path, "testA").items[0].phrases] == ["man"]


def test_refcocog_has_two_splits(tmp_path: Path) -> None:
    referring(tmp_path, "refcocog", "umd", [said("val", 50, "umd's")])
    referring(tmp_path, "refcocog", "google", [said("val", 50, "google's")])
    for split, text in (("val", "umd's"), ("google-val", "google's")):
        assert [one.text for one in phrases_of("refcocog", tmp_path, split).items[0].phrases] == [text]


class Runs:
    """What an attacker puts into a pickle."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_list_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    base = referring(tmp_path, "refcoco", "unc", [])
    (base / "refs(unc).p").write_bytes(pickle.dumps([Runs(mark)]))
    with pytest.raises(DataError, match="could run code"):
        dataset("refcoco").read(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([{"split": "val"}]), pickle.dumps(7)])
def test_a_list_in_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    base = referring(tmp_path, "refcoco", "unc", [])
    (base / "refs(unc).p").write_bytes(content)
    with pytest.raises(DataError, match="refcoco"):
        dataset("refcoco").read(tmp_path)


def test_boxes_are_cut_to_the_image() -> None:
    assert fitted(-5, 2, 10, 30, 20, 20) == (0, 0.1, 0.5, 1)
    assert fitted(20, 0, 25, 5, 20, 20) is None and fitted(3, 4, 3, 9, 20, 20) is None


def test_the_digest_changes_with_phrases_and_boxes_but_not_with_the_folder(tmp_path: Path) -> None:
    image(tmp_path / "a" / "1.jpg")
    image(tmp_path / "b" / "1.jpg")

    def digest(folder: str, text: str = "a dog", edge: float = 0.5) -> str:
        phrase = Phrase(text, ((0.0, 0.0, edge, 1.0),))
        return PhraseSet("own", [Phrased("1", tmp_path / folder / "1.jpg", (phrase,))], []).digest()

    assert digest("a") == digest("b")
    assert len({digest("a"), digest("a", "a cat"), digest("a", edge=0.6)}) == 3
    with pytest.raises(DataError, match=r"c/1.jpg: no such file"):
        digest("c")
    with pytest.raises(ImageError):
        Phrased("1", tmp_path / "c" / "1.jpg", ()).open()


def test_an_image_whose_name_file_names_here_cannot_hold_is_missing(tmp_path: Path) -> None:
    why = Phrased("1", tmp_path / "\ud800.jpg", ()).missing()
    assert "the image of '1', has a name" in why and "PYTHONUTF8=1" in why


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data, the real packs, is not here")
def test_the_pack_has_the_phrases_that_its_readme_counts() -> None:
    found = phrases_of("flickr8k_entities", DATA / "flickr8k-entities")
    assert found.name == "flickr8k_entities test" and not found.bad
    assert (len(found.items), sum(len(item.phrases) for item in found.items)) == (500, 6473)
    assert all(one.caption[one.start :].startswith(one.text) for item in found.items for one in item.phrases)
    assert all(0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1
               for item in found.items for one in item.phrases for box in one.boxes)  # fmt: skip
    assert found.items[0].open().size == (192, 192)
