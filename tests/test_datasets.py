"""Each data set on a miniature in its published layout, with label maps written by hand; broken trees; the packs."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from typer.testing import CliRunner

from eclip.cli import app
from eclip.datasets import DATASETS, PACKS, dataset
from eclip.datasets.caption_sources import read_pairs
from eclip.datasets.coco_annotations import read_annotations
from eclip.datasets.mask_files import VOID, indexed, red_green, short, thing
from eclip.datasets.masks import Lazy, Masked, MaskSet
from eclip.datasets.pair import PairSet
from eclip.errors import DataError, DataWarning, LayoutError, MissingExtraError, OptionError

DATA = Path(__file__).parents[2] / "shared" / "data"
real = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data, the real packs, is not here")
run = CliRunner().invoke


def image(path: Path, height: int = 2, width: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 30)).save(path, "jpeg")


def gray(path: Path, rows: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, dtype=np.uint8)).save(path)


def palette(path: Path, rows: list[list[int]]) -> None:
    """As VOC has them: colors that are not the numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.array(rows, dtype=np.uint8)
    picture = Image.new("P", values.shape[::-1])
    picture.putdata(values.ravel().tolist())
    picture.putpalette([(7 * i) % 256 for i in range(768)])
    picture.save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def masks_of(name: str, root: Path, split: str | None = None) -> tuple[MaskSet, dict[str, list[list[int]]]]:
    """The set, and the label map of each item."""
    found = DATASETS[name].read(root, split)
    assert isinstance(found, MaskSet)
    for item in pickle.loads(pickle.dumps(list(found.items))):  # they travel between processes
        assert item.open().size == item.read().shape[::-1] and item.read().dtype == np.uint16
    return found, {item.name: item.read().tolist() for item in found.items}


def pairs_of(name: str, root: Path, split: str | None = None) -> PairSet:
    found = dataset(name).read(root, split)
    assert isinstance(found, PairSet)
    return found


# PASCAL VOC and PASCAL Context


def voc(root: Path) -> Path:
    folder = root / "VOCdevkit" / "VOC2012"
    for name, rows in {"2007_1": [[0, 1, 255], [0, 1, 20]], "2007_2": [[5, 5, 5], [0, 0, 0]]}.items():
        image(folder / "JPEGImages" / f"{name}.jpg")
        palette(folder / "SegmentationClass" / f"{name}.png", rows)
    text(folder / "ImageSets" / "Segmentation" / "val.txt", "2007_2\n2007_1\n")
    return folder


def test_voc2012_is_read_by_index_from_any_folder_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = voc(tmp_path)
    for root in (folder, folder.parent, tmp_path):
        found, maps = masks_of("voc2012", root)
        assert list(maps.items()) == [("2007_2", [[5, 5, 5], [0, 0, 0]]), ("2007_1", [[0, 1, VOID], [0, 1, 20]])]
        assert found.name == "voc2012 val" and found.classes[20] == "tv monitor" and len(found.classes) == 20
    monkeypatch.setenv("ECLIP_DATA", str(tmp_path))
    assert len(DATASETS["voc2012"].read().items) == 2


def test_voc2012_trainaug_has_masks_and_a_list_of_its_own(tmp_path: Path) -> None:
    folder = voc(tmp_path)
    with pytest.raises(LayoutError, match="SegmentationClassAug: no such file or folder"):
        DATASETS["voc2012"].read(tmp_path, "trainaug")
    gray(folder / "SegmentationClassAug" / "2007_2.png", [[5, 5, 0], [0, 0, 255]])
    listed = "/JPEGImages/2007_2.jpg /SegmentationClassAug/2007_2.png\n"
    text(folder / "ImageSets" / "Segmentation" / "train_aug.txt", listed)
    assert masks_of("voc2012", tmp_path, "trainaug")[1] == {"2007_2": [[5, 5, 0], [0, 0, VOID]]}


def context(root: Path) -> Path:
    folder = root / "VOC2010"
    for name, ids in {"2008_1": [[2, 458, 1], [0, 459, 284]], "2008_2": [[397, 308, 3], [427, 2, 2]]}.items():
        image(folder / "JPEGImages" / f"{name}.jpg")
        (root / "trainval").mkdir(exist_ok=True)
        savemat(root / "trainval" / f"{name}.mat", {"LabelMap": np.array(ids, dtype=np.uint16)})
    text(folder / "ImageSets" / "Main" / "val.txt", "2008_1\n2008_2\n")
    return folder


def test_pascal_context_is_prepared_from_mat_files_and_read(tmp_path: Path) -> None:
    folder = context(tmp_path)
    with pytest.raises(LayoutError, match=r"SegmentationClassContext: no such.*datasets prepare"):
        DATASETS["pascal_context"].read(tmp_path)
    done: list[tuple[int, int]] = []
    DATASETS["pascal_context"].prepare(tmp_path, progress=lambda *one: done.append(one))
    assert done == [(1, 2), (2, 2)]
    found, maps = masks_of("pascal_context", tmp_path)
    assert maps == {"2008_1": [[1, 59, 0], [0, 0, 37]], "2008_2": [[50, 40, 0], [55, 1, 1]]}
    assert [found.classes[number] for number in (1, 37, 40, 50, 55, 59)] == [
        *("aeroplane", "person", "potted plant", "table", "tv monitor", "wood")
    ]
    gray(folder / "SegmentationClassContext" / "2008_1.png", [[3, 3, 3], [3, 3, 3]])
    DATASETS["pascal_context"].prepare(tmp_path)
    assert masks_of("pascal_context", tmp_path)[1]["2008_1"][0] == [3, 3, 3], "what is there is kept"


def test_a_mat_without_a_label_map_is_named(tmp_path: Path) -> None:
    context(tmp_path)
    savemat(tmp_path / "trainval" / "2008_2.mat", {"LabelMap": np.array([[460]], dtype=np.uint16)})
    with pytest.raises(DataError, match=r"2008_2.mat: LabelMap must be .* 0 to 459"):
        DATASETS["pascal_context"].prepare(tmp_path)
    (tmp_path / "trainval" / "2008_2.mat").write_bytes(b"MATLAB")
    with pytest.raises(DataError, match=r"2008_2.mat has no readable LabelMap"):
        DATASETS["pascal_context"].prepare(tmp_path)
    assert not list(tmp_path.rglob(".*")), "no half-written file is left"


# COCO


def square(top: int, left: int, bottom: int, right: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def coco(root: Path, split: str = "val2017") -> Path:
    """An image of 4 x 6 with a large object, a small one on it and a crowd; one of 2 x 3 without any."""
    image(root / split / "000000000139.jpg", 4, 6)
    image(root / split / "000000000009.jpg")
    crowd = {"size": [4, 6], "counts": [12, 12]}  # columns 3 to 5, column by column
    objects = [
        {"id": 1, "image_id": 139, "category_id": 3, "iscrowd": 0, "area": 2, "segmentation": square(1, 1, 2, 3)},
        {"id": 2, "image_id": 139, "category_id": 90, "iscrowd": 0, "area": 12, "segmentation": square(0, 0, 3, 4)},
        {"id": 3, "image_id": 139, "category_id": 3, "iscrowd": 1, "area": 12, "segmentation": crowd},
    ]
    images = [
        {"id": 139, "file_name": "000000000139.jpg", "height": 4, "width": 6},
        {"id": 9, "file_name": "000000000009.jpg", "height": 2, "width": 3},
    ]
    names = {90: "toothbrush", 1: "person", 3: "car"}
    whole = {
        "info": {"description": "Größe: a } and a ] in text", "year": 2017},
        "licenses": [],
        "images": images,
        "annotations": objects,
        "categories": [{"id": number, "name": name} for number, name in names.items()],
    }
    text(root / "annotations" / f"instances_{split}.json", json.dumps(whole, ensure_ascii=False, indent=1))
    return root


HAND = [[3, 3, 3, 3, VOID, VOID], [3, 2, 2, 3, VOID, VOID], [3, 3, 3, 3, VOID, VOID], [0, 0, 0, VOID, VOID, VOID]]
"""COCO's ids 1, 3, 90 are 1, 2, 3; the small object lies on the large one, the crowd under both."""


@pytest.mark.parametrize("folder", ["val2017", "images/val2017"])
def test_coco2017_paints_objects_from_large_to_small_and_numbers_sparse_ids(tmp_path: Path, folder: str) -> None:
    coco(tmp_path)
    if folder != "val2017":
        (tmp_path / "images").mkdir()
        (tmp_path / "val2017").rename(tmp_path / folder)
    DATASETS["coco2017"].prepare(tmp_path)
    found, maps = masks_of("coco2017", tmp_path)
    assert found.classes == {1: "person", 2: "car", 3: "toothbrush"}
    assert maps == {"000000000009": [[0, 0, 0], [0, 0, 0]], "000000000139": HAND}
    assert isinstance(found.items, Lazy)


@pytest.mark.parametrize("name", ["coco2017", "coco2017_stuff"])
def test_coco_is_read_once_it_is_prepared(tmp_path: Path, name: str) -> None:
    coco(tmp_path)
    with pytest.raises(LayoutError, match=rf"images.json: no such file.*`eclip datasets prepare {name}` makes"):
        DATASETS[name].read(tmp_path)


def test_a_preparation_goes_on_and_is_done_once(tmp_path: Path) -> None:
    file = coco(tmp_path) / "annotations" / "instances_val2017.json"
    part = tmp_path / "eclip_masks" / f"val2017.{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.part"
    gray(part / "000000000009.png", [[1, 1, 1], [1, 1, 1]])  # of a run that was stopped: kept
    done: list[tuple[int, int]] = []
    DATASETS["coco2017"].prepare(tmp_path, None, lambda *one: done.append(one))
    assert done == [(1, 2), (2, 2)] and not part.exists()
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    found, maps = masks_of("coco2017", tmp_path)
    assert found.classes == {1: "person", 2: "car", 3: "toothbrush"}
    assert maps == {"000000000009": [[1, 1, 1], [1, 1, 1]], "000000000139": HAND}
    assert DATASETS["coco2017"].prepare(tmp_path) == tmp_path / "eclip_masks" / "val2017", "again is nothing to do"


def test_run_lengths_are_read_packed_and_unpacked(tmp_path: Path) -> None:
    from pycocotools import mask as tools

    file = coco(tmp_path) / "annotations" / "instances_val2017.json"
    whole = json.loads(file.read_text())
    inside = np.zeros((4, 6), dtype=np.uint8, order="F")
    inside[1:3, 2] = 1
    packed = tools.encode(inside)
    whole["annotations"][1]["segmentation"] = {"size": [4, 6], "counts": packed["counts"].decode()}
    whole["annotations"][0]["segmentation"] = {"size": [4, 6], "counts": [0, 1, 23]}
    file.write_text(json.dumps(whole))
    DATASETS["coco2017"].prepare(tmp_path)
    mask = DATASETS["coco2017"].read(tmp_path).items[1].read()
    wanted = np.array([[0, 0, 0, VOID, VOID, VOID]] * 4)
    wanted[1:3, 2], wanted[0, 0] = 3, 2
    assert mask.tolist() == wanted.tolist()


def test_coco2017_stuff_reads_train_ids(tmp_path: Path) -> None:
    image(tmp_path / "images" / "val2017" / "000000000139.jpg")
    gray(tmp_path / "annotations" / "val2017" / "000000000139_labelTrainIds.png", [[0, 79, 80], [170, 255, 255]])
    found, maps = masks_of("coco2017_stuff", tmp_path)
    assert maps == {"000000000139": [[1, 80, 81], [171, VOID, VOID]]}
    names = [found.classes[number] for number in (1, 12, 80, 81, 171)]
    assert names == ["person", "stop sign", "toothbrush", "banner", "wood"]
    assert len(found.classes) == len(set(found.classes.values())) == 171


def test_coco2017_stuff_paints_things_on_pixel_maps(tmp_path: Path) -> None:
    coco(tmp_path)
    palette(tmp_path / "stuff_val2017_pixelmaps" / "000000000009.png", [[92, 182, 0], [183, 183, 124]])
    palette(tmp_path / "stuff_val2017_pixelmaps" / "000000000139.png", [[183] * 6] * 3 + [[157] * 6])
    DATASETS["coco2017_stuff"].prepare(tmp_path)
    _, maps = masks_of("coco2017_stuff", tmp_path)
    assert maps["000000000009"] == [[81, 171, VOID], [VOID, VOID, 113]]
    brush, car, sky = 80, 3, 146
    top = [brush] * 4 + [VOID] * 2
    assert maps["000000000139"] == [top, [brush, car, car, brush, VOID, VOID], top, [sky] * 3 + [VOID] * 3]


@pytest.mark.parametrize("number", [91, 500, 0])
def test_coco2017_stuff_refuses_a_category_that_coco_does_not_have(tmp_path: Path, number: int) -> None:
    file = coco(tmp_path) / "annotations" / "instances_val2017.json"
    whole = json.loads(file.read_text(encoding="utf-8"))
    (tmp_path / "stuff_val2017_pixelmaps").mkdir()
    whole["categories"].append({"id": number, "name": "zeppelin"})
    file.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(DataError, match=f"category {number} of .* is 'zeppelin'"):
        DATASETS["coco2017_stuff"].prepare(tmp_path)


@pytest.mark.parametrize("part", ["images", "categories"])
def test_coco_refuses_ids_of_several_types(tmp_path: Path, part: str) -> None:
    file = coco(tmp_path) / "annotations" / "instances_val2017.json"
    whole = json.loads(file.read_text(encoding="utf-8"))
    whole[part].append(whole[part][0] | {"id": "7"})
    file.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(DataError, match="is not in COCO's format"):
        DATASETS["coco2017"].prepare(tmp_path)


def test_records_of_one_file_and_names_of_one_map_are_refused(tmp_path: Path) -> None:
    """The objects of the second record would be lost, or those of the second file."""
    root = coco(tmp_path)
    file = root / "annotations" / "instances_val2017.json"
    whole = json.loads(file.read_text(encoding="utf-8"))
    first = whole["images"][0]
    whole["images"].append(first | {"id": 7})
    file.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(DataError, match=r"000000000139\.jpg is listed twice, as images 139 and 7"):
        DATASETS["coco2017"].prepare(tmp_path)
    names = ("b/x.jpg", "x.jpg", "b_x.jpg.jpg")
    whole["images"][-1:] = [first | {"id": 107 + at, "file_name": name} for at, name in enumerate(names)]
    file.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(DataError, match="would have one label map"):
        DATASETS["coco2017"].prepare(tmp_path)


def test_outlines_need_pycocotools_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco(tmp_path)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'eclip\[data\]'"):
        DATASETS["coco2017"].prepare(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [{"id": 1', "truncated"),
        ('{"images": 3} [', "truncated or not JSON: Extra data"),
        ('{"images": []}', "must list images and categories"),
        ("[1]", "must be a JSON object, got a list"),
        ('{"images": [{"id": 1}]}', "not in COCO's format"),
        ('{"annotations": [{"image_id": 7}], "images": [{"id": 1, "file_name": "a", "height": 1, "width": 1}], '
         '"categories": [{"id": 1, "name": "a"}]}', "an annotation of image 7, which it does not list"),
    ],
)  # fmt: skip
def test_annotations_that_are_not_of_cocos_form(tmp_path: Path, content: str, message: str) -> None:
    text(tmp_path / "a.json", content)
    with pytest.raises(DataError, match=message):
        read_annotations(tmp_path / "a.json")


# ImageNet-S and ADE20K


def imagenet_s(root: Path) -> Path:
    from timm.data import ImageNetInfo

    folder = root / "ImageNetS50"
    for number, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names()[:50], 1):
        name = f"{wnid}/ILSVRC2012_val_{number:08d}"
        image(folder / "validation" / f"{name}.JPEG")
        values = np.array([[0, number, number], [1000, 0, 1]])
        mask = np.stack([values % 256, values // 256, 0 * values], axis=-1).astype(np.uint8)
        (folder / "validation-segmentation" / wnid).mkdir(parents=True)
        Image.fromarray(mask).save(folder / "validation-segmentation" / f"{name}.png")
    return folder


def test_imagenet_s_numbers_are_red_and_green_and_sorted_folders(tmp_path: Path) -> None:
    folder = imagenet_s(tmp_path)
    found, maps = masks_of("imagenet_s50", tmp_path)
    assert [rows[0][1] for rows in maps.values()] == list(range(1, 51))
    assert maps["n01440764/ILSVRC2012_val_00000001"] == [[0, 1, 1], [VOID, 0, 1]]
    assert (found.classes[1], found.classes[2]) == ("tench", "goldfish")
    text(
        folder / "classes.txt", "".join(f"{path.name}\ta {path.name}, thing\n" for path in sorted(folder.glob("v*/*")))
    )
    assert masks_of("imagenet_s50", folder)[0].classes[1] == "a n01440764"
    shutil.rmtree(folder / "validation-segmentation" / "n01440764")
    with pytest.raises(DataError, match=r"has 49 class folders instead of 50\. .* class numbers are positions"):
        DATASETS["imagenet_s50"].read(folder)


def test_the_names_of_imagenet_s919_are_all_different() -> None:
    from eclip.datasets.imagenet_s import _names

    merged = {"n04356056", "n04493381", "n03642806", "n04008634", "n03887697"}
    names = [name for wnid, name in _names(Path("/none")).items() if wnid not in merged]
    assert len(names) == len(set(names)) == 995
    assert len(set(_names(Path("/none")).values())) < 1000, "of all 1,000 they are not"


def test_ade20k_has_no_background(tmp_path: Path) -> None:
    folder = tmp_path / "ADEChallengeData2016"
    rows = [f"{n}\t0.1\t10\t2\t0\tthing {n}, synonym {n}" for n in range(1, 151)]
    text(folder / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "\n".join(rows))
    image(folder / "images" / "validation" / "ADE_val_00000001.jpg")
    gray(folder / "annotations" / "validation" / "ADE_val_00000001.png", [[0, 1, 2], [150, 0, 9]])
    found, maps = masks_of("ade20k", tmp_path)
    assert maps == {"ADE_val_00000001": [[VOID, 1, 2], [150, VOID, 9]]}
    assert found.classes[150] == "thing 150" and len(found.classes) == 150


# One's own


def plain(root: Path, classes: str, rows: list[list[int]]) -> Path:
    image(root / "images" / "a.jpg")
    gray(root / "masks" / "a.png", rows)
    text(root / "classes.txt", classes)
    return root


def test_folder_reads_both_forms_of_classes(tmp_path: Path) -> None:
    numbered = plain(tmp_path / "numbered", "0\tbackground\n7\tdog\n255\tvoid\n", [[0, 7, 255], [0, 0, 0]])
    found, maps = masks_of("folder", numbered)
    assert (found.name, found.classes, maps["a"][0]) == ("numbered", {7: "dog"}, [0, 7, VOID])
    ground = plain(tmp_path / "ground", "background, wall\ndog, puppy\ncat\n", [[0, 1, 2], [255, 0, 0]])
    found, maps = masks_of("folder", ground)
    assert (found.classes, maps["a"]) == ({1: "dog", 2: "cat"}, [[0, 1, 2], [VOID, 0, 0]])
    none = plain(tmp_path / "none", "road\ncar, van\n", [[0, 1, 0], [255, 0, 0]])
    found, maps = masks_of("folder", none)
    assert (found.classes, maps["a"]) == ({1: "road", 2: "car"}, [[1, 2, 1], [VOID, 1, 1]])
    digest = DATASETS["folder"].read(none).digest()
    assert DATASETS["folder"].read(plain(none, "1\troad\n2\tcar\n", [[0, 1, 0], [255, 0, 0]])).digest() != digest
    plain(none, "road\ncar, van\n", [[0, 2, 0], [255, 0, 0]])
    with pytest.raises(DataError, match=r"a.png shows \[2\], but valid values are 0, 1, 255"):
        DATASETS["folder"].read(none).items[0].read()


def test_words_for_the_background_are_no_class(tmp_path: Path) -> None:
    """SCLIP's cls_voc21.txt begins with such words, and not with "background"."""
    folder = plain(tmp_path, "sky, wall, tree\naeroplane\n", [[0, 1, 0], [0, 0, 0]])
    with pytest.raises(DataError, match=r"line 1 .* 'sky, wall, tree': .* write \"background, \" before them"):
        DATASETS["folder"].read(folder)
    text(folder / "classes.txt", "background, sky, wall, tree\naeroplane\n")
    found, maps = masks_of("folder", folder)
    assert found.classes == {1: "aeroplane"} and maps["a"][0] == [0, 1, 0]


def test_images_without_a_mask_are_told(tmp_path: Path) -> None:
    folder = plain(tmp_path, "1\tdog\n", [[0, 1, 0], [0, 0, 0]])
    for name in "bcde":
        image(folder / "images" / f"{name}.jpg")
    with pytest.warns(DataWarning, match=r"4 of 5 images in .*images have no mask .* left out: b, c, d, \.\.\.\."):
        assert len(DATASETS["folder"].read(folder).items) == 1
    [problem] = DATASETS["folder"].verify(folder).problems
    assert problem.startswith("4 of 5 images")
    (folder / "masks" / "b.png").write_bytes((folder / "masks" / "a.png").read_bytes())
    for name in "bcde":
        (folder / "images" / f"{name}.jpg").unlink()
    [orphan] = DATASETS["folder"].verify(folder).problems
    assert orphan.endswith(
        f"b.jpg: no such file; it should be the image of 'b', whose mask is {folder / 'masks' / 'b.png'}."
    )


def test_a_table_counts_an_image_once(tmp_path: Path) -> None:
    for name in "ab":
        image(tmp_path / f"{name}.jpg")
    gray(tmp_path / "m.png", [[0, 1, 0], [0, 0, 0]])
    rows = ["b.jpg,dog,m.png", "a.jpg,dog,m.png", "b.jpg,cat,m.png"]
    text(tmp_path / "table.csv", "\n".join(["image,text,mask", *rows]))
    assert masks_of("table", tmp_path)[0].image_numbers() == [0, 1, 0]


def test_a_thing_is_what_is_not_black_whatever_the_mode(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    white = Image.fromarray(np.array([[0, 255, 255, 255]], dtype=np.uint8)).convert("RGB")
    quantized = white.quantize(2)
    assert np.array(quantized).tolist() == [[1, 0, 0, 0]], "Pillow puts white first"
    quantized.save(file)
    assert thing(file, 7).tolist() == [[0, 7, 7, 7]]
    quantized.save(file, transparency=b"\x00\x00")
    assert thing(file, 7).tolist() == [[0, 7, 7, 7]], "transparency does not count"
    for mode in ("1", "L", "RGB", "RGBA", "LA"):
        white.convert(mode).save(file)
        assert thing(file, 7).tolist() == [[0, 7, 7, 7]]
    white.convert("CMYK").save(tmp_path / "mask.tif")
    assert thing(tmp_path / "mask.tif", 7).tolist() == [[0, 7, 7, 7]]


def test_a_jpeg_is_no_mask(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    Image.new("L", (3, 2)).save(tmp_path / "mask.png", "jpeg")  # what is in the file counts, not its name
    text(tmp_path / "table.csv", "image,text,mask\na.jpg,a dog,mask.png\n")
    item = DATASETS["table"].read(tmp_path).items[0]
    assert isinstance(item, Masked)
    with pytest.raises(DataError, match=r"mask\.png is a JPEG, whose compression .* save the mask as PNG"):
        item.read()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_table_makes_a_class_of_each_text(tmp_path: Path, kind: str) -> None:
    image(tmp_path / "p" / "a.jpg")
    Image.fromarray(np.array([[0, 9, 255], [0, 0, 1]], dtype=np.uint8)).save(tmp_path / "dog.png")
    colors = np.zeros((2, 3, 4), dtype=np.uint8)
    colors[..., 3], colors[1, 2] = 255, (0, 1, 0, 255)
    Image.fromarray(colors).save(tmp_path / "cat.png")
    rows = [("p/a.jpg", "the dog, left", "dog.png"), ("p/a.jpg", "a cat", "cat.png")]
    if kind == "csv":
        quoted = "".join(f'{image},"{said}",{mask}\n' for image, said, mask in rows)
        text(tmp_path / "table.csv", "image,text,mask\n" + quoted)
    else:
        keys = ("image", "text", "mask")
        text(tmp_path / "table.jsonl", "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows))
    for root in (tmp_path, tmp_path / f"table.{kind}"):
        found, maps = masks_of("table", root)
        assert found.classes == {1: "a cat", 2: "the dog, left"}
        assert maps == {"p/a.jpg [the dog, left]": [[0, 2, 2], [0, 0, 2]], "p/a.jpg [a cat]": [[0, 0, 0], [0, 0, 1]]}


def test_table_without_masks_has_images_with_texts(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    text(tmp_path / "mine.csv", "image,text\na.jpg,one\ngone.jpg,two\na.jpg,three\n")
    found = pairs_of("table", tmp_path / "mine.csv")
    assert [(Path(one.key).name, one.captions) for one in found.items] == [("a.jpg", ("one", "three"))]
    assert found.bad == [(str(tmp_path / "gone.jpg"), "no such file.")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,text,mask\na.jpg,one,m.png\na.jpg,two,\n", "line 3 of .* has no mask, but other lines do"),
        ("image,text,mask\na.jpg,one,m.png\na.jpg,one,n.png\n", "lines 2 and 3 .*: merge their masks"),
        ("image,text,mask\na.jpg,one,m.png\nx/../a.jpg,one,n.png\n", "lines 2 and 3 .* both have a.jpg"),
        ("photo,text\na.jpg,one\n", "the columns 'photo', 'text', but needs image and text, separated by commas"),
        ("image;text\na.jpg;one\n", "has the columns 'image;text', but needs image and text, separated by commas"),
        ("image,text\na.jpg,a dog, lying\n", "line 2 of .* has 3 columns, but the header has 2: a text with ',' needs"),
        ("image,text\na.jpg,  \n", "line 2 of .* must have the texts image and text"),
        ("image,text\n", "has no row"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    text(tmp_path / "table.csv", content)
    with pytest.raises(DataError, match=message):
        DATASETS["table"].read(tmp_path)


def png(rows: list[list[int]], kind: type = np.uint8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.array(rows, dtype=kind)).save(stream, "png")
    return stream.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_shards_hold_masks_in_tars_and_classes_beside_or_inside(tmp_path: Path) -> None:
    image(tmp_path / "one.jpg")
    data = (tmp_path / "one.jpg").read_bytes()
    first = {"000.jpg": data, "000.seg.png": png([[0, 1, 255], [2, 0, 0]]), "000.txt": b"a dog"}
    second = {"001.jpg": data, "001.seg.png": png([[0, 300, 65535], [255, 0, 0]], np.uint16)}
    named = {"classes": {"1": "dog", "2": "cat", "255": "owl", "300": "road"}}
    tar(tmp_path / "a-0.tar", {**first, "000.json": json.dumps(named).encode()})
    tar(tmp_path / "a-1.tar", second)
    found, maps = masks_of("shards", tmp_path)
    assert found.classes == {1: "dog", 2: "cat", 255: "owl", 300: "road"}
    assert maps == {"a-0/000": [[0, 1, VOID], [2, 0, 0]], "a-1/001": [[0, 300, VOID], [255, 0, 0]]}
    pairs, _ = read_pairs([str(tmp_path / "a-0.tar")])
    assert [one.captions for one in pairs] == [("a dog",)], "training passes the masks over"
    text(tmp_path / "classes.txt", "1\tpuppy\n2\tcat\n255\towl\n300\troad\n")
    assert masks_of("shards", tmp_path)[0].classes[1] == "puppy"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"0.jpg": b"x"}, "the key '0' has no mask, 0.seg.png"),
        ({"0.seg.png": b"x"}, "the key '0' has no image"),
        (
            {"f.001.jpg": b"x", "f.001.seg.png": b"x"},
            r"f.001.jpg, f.001.seg.png: a key ends at the first dot, .*: rename",
        ),
        ({"0.jpg": b"x", "0.seg.png": b"x"}, "classes.txt is missing, and no KEY.json names classes"),
        ({"0.jpg": b"x", "0.seg.png": b"x", "0.json": b'{"classes": ["dog"]}'}, r"must be .*classes"),
        ({"0.jpg": b"x", "0.seg.png": b"x", "0.json": b'{"classes": {"0": "dog"}}'}, "names class 0"),
    ],
)
def test_shards_that_cannot_be_used(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=message):
        DATASETS["shards"].read(tmp_path)


def test_a_mask_cut_off_in_a_tar_is_named(tmp_path: Path) -> None:
    image(tmp_path / "one.jpg")
    tar(tmp_path / "a.tar", {"0.jpg": (tmp_path / "one.jpg").read_bytes(), "0.seg.png": b"x" * 5000})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: whole.index(b"xxx") + 100])
    text(tmp_path / "classes.txt", "1\tdog\n")
    with pytest.raises(DataError, match=r"0.seg.png is cut off at the end of the tar"):
        DATASETS["shards"].read(tmp_path)


# Captions and names


def test_flickr8k_as_published(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        image(tmp_path / "Flicker8k_Dataset" / f"{name}.jpg")
    token = "a.jpg#0\tA dog .\na.jpg#1\tIt runs .\nb.jpg#0\tA cat .\nd.jpg#0\tGone .\nx.jpg.1#0\tBroken .\nno tab\n"
    text(tmp_path / "Flickr8k_text" / "Flickr8k.token.txt", token)
    text(tmp_path / "Flickr8k_text" / "Flickr_8k.testImages.txt", "d.jpg\nb.jpg\na.jpg\nc.jpg\n")
    found = pairs_of("flickr8k", tmp_path)
    captions = [(Path(one.key).name, one.captions) for one in found.items]
    assert captions == [("b.jpg", ("A cat .",)), ("a.jpg", ("A dog .", "It runs ."))]
    assert [(Path(key).name, why) for key, why in found.bad] == [
        ("Flickr8k.token.txt, line 6", "expected an image, a tab and a caption."),
        *(("d.jpg", "no such file."), ("c.jpg", "listed in the split, but without a caption.")),
    ]
    assert found.items[0].open().size == (3, 2) and found.classes is None


def karpathy(path: Path, *rows: tuple[str, str, list[str]], folder: str | None = None) -> None:
    images = [{"filename": name, "split": split, "sentences": [{"raw": s} for s in said]} for name, split, said in rows]
    text(path, json.dumps({"images": [one | ({"filepath": folder} if folder else {}) for one in images]}))


def test_karpathys_splits_of_coco_and_flickr30k(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / "coco" / "images" / "val2014" / f"{name}.jpg")
        image(tmp_path / "flickr" / "flickr30k_images" / f"{name}.jpg")
    rows = [("a.jpg", "test", list("123456")), ("b.jpg", "val", ["x"]), ("c.jpg", "test", ["y"])]
    karpathy(tmp_path / "coco" / "dataset_coco.json", *rows, folder="val2014")
    found = pairs_of("coco_karpathy", tmp_path / "coco")
    assert [one.captions for one in found.items] == [tuple("12345")], "the first five"
    assert [why for _, why in found.bad] == ["no such file."]
    karpathy(tmp_path / "flickr" / "dataset_flickr30k.json", *rows[:2])
    assert [one.captions for one in pairs_of("flickr30k", tmp_path / "flickr", "val").items] == [("x",)]
    assert len(pairs_of("flickr30k", tmp_path / "flickr", "all").items) == 2
    text(tmp_path / "coco" / "dataset_coco.json", '{"images": [{"split": "test"}]}')
    with pytest.raises(DataError, match="not in Karpathy's format"):
        DATASETS["coco_karpathy"].read(tmp_path / "coco")


def test_flickr30k_without_splits_is_all_of_it(tmp_path: Path) -> None:
    image(tmp_path / "flickr30k_images" / "1.jpg")
    rows = '1.jpg| 0| A man .\n1.jpg| 1| A "big" man .\n1.jpg| 4   A dog .\n'  # a line as one of Kaggle's is
    text(tmp_path / "results.csv", f"image_name| comment_number| comment\n{rows}")
    found = pairs_of("flickr30k", tmp_path, "all")
    assert [one.captions for one in found.items] == [("A man .", 'A "big" man .')]
    assert len(found.bad) == 1 and found.bad[0][0].endswith("results.csv, line 4")
    with pytest.raises(LayoutError, match=r"dataset_flickr30k.json: no such file, and results.csv has only the split"):
        DATASETS["flickr30k"].read(tmp_path)


def test_names_are_among_the_classes_or_left_out(tmp_path: Path) -> None:
    image(tmp_path / "one.jpg")
    data = (tmp_path / "one.jpg").read_bytes()
    tar(tmp_path / "test-000.tar", {"0.jpg": data, "0.txt": b"face", "1.jpg": data, "1.txt": b"moon"})
    text(tmp_path / "classes.txt", "Faces\tface\t60\nLeopards\tleopard\t60\n")
    found = pairs_of("caltech101", tmp_path)
    assert found.classes == ("face", "leopard") and [one.captions for one in found.items] == [("face",)]
    assert found.bad == [("test-000.tar/1", "'moon' is not one of the 2 names.")]


def test_names_of_imagenet_stay_when_images_are_missing(tmp_path: Path) -> None:
    image(tmp_path / "one.jpg")
    data = (tmp_path / "one.jpg").read_bytes()
    tar(tmp_path / "all-000.tar", {"0.jpg": data, "0.txt": b"St. Bernard", "2.jpg": data, "2.txt": b"crane"})
    with pytest.raises(LayoutError, match=r"index.tsv: no such file.*KEY.txt, index.tsv"):
        PACKS["imagenet1k_one_each"].read(tmp_path)
    sources = ("n01_St._Bernard.JPEG", "n02_great_white_shark.JPEG", "n03_crane.JPEG", "n04_crane.JPEG")
    rows = "".join(f"all\tall-{place:03}.tar\t{place}\t{source}\t9\n" for place, source in enumerate(sources))
    text(tmp_path / "index.tsv", f"split\tshard\tkey\tsource_name\tbytes\n{rows}")
    found = pairs_of("imagenet1k_one_each", tmp_path)
    assert found.classes == ("St. Bernard", "great white shark", "crane")
    assert [one.captions for one in found.items] == [("St. Bernard",), ("crane",)]


@real
def test_names_of_imagenet_are_those_of_its_images() -> None:
    found = pairs_of("imagenet1k_one_each", DATA / "imagenet1k-one-each")
    assert found.classes == tuple(dict.fromkeys(one.captions[0] for one in found.items)) and not found.bad
    assert len(found.items) == 1000 and len(found.classes) == 998


# Sets, roots and errors


def test_items_are_made_when_asked_for(tmp_path: Path) -> None:
    made: list[int] = []

    def make(number: int) -> Masked:
        made.append(number)
        return Masked(str(number), tmp_path / "a", tmp_path / "b", frozenset({1}))

    items = Lazy(range(118_287), make)
    assert len(items) == 118_287 and not made
    assert items[-1].name == "118286" and [one.name for one in items[10:30:10]] == ["10", "20"]
    assert made == [118_286, 10, 20]


def test_digest_follows_names_sizes_and_classes(tmp_path: Path) -> None:
    folder = voc(tmp_path)
    seen = [DATASETS["voc2012"].read(tmp_path).digest()]
    assert len(seen[0]) == 16 and DATASETS["voc2012"].read(folder).digest() == seen[0]
    (folder / "JPEGImages" / "2007_1.jpg").write_bytes((folder / "JPEGImages" / "2007_1.jpg").read_bytes() + b"0")
    seen.append(DATASETS["voc2012"].read(tmp_path).digest())
    text(folder / "ImageSets" / "Segmentation" / "val.txt", "2007_1\n2007_2\n")
    seen.append(DATASETS["voc2012"].read(tmp_path).digest())
    masks = DATASETS["voc2012"].read(tmp_path)
    assert isinstance(masks, MaskSet)
    seen.append(MaskSet(masks.name, {**masks.classes, 1: "plane"}, masks.items).digest())
    assert len(set(seen)) == 4
    pairs = PairSet("one", [], ("a",), [])
    assert len({pairs.digest(), PairSet("one", [], ("b",), []).digest(), PairSet("one", [], None, []).digest()}) == 3


def test_a_wrong_root_says_what_is_missing_and_what_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ECLIP_DATA", raising=False)
    with pytest.raises(
        OptionError, match=r"the location of voc2012 is unknown.*\$ECLIP_DATA to the folder that contains VOCdevkit/"
    ):
        DATASETS["voc2012"].read()
    with pytest.raises(OptionError, match="table is for your own data"):
        DATASETS["table"].read()
    with pytest.raises(
        LayoutError, match=r"nowhere: no such folder\. Expected layout of ade20k: ADEChallengeData2016/"
    ):
        DATASETS["ade20k"].read(tmp_path / "nowhere")
    shutil.rmtree(voc(tmp_path) / "JPEGImages")
    with pytest.raises(
        LayoutError, match=r"VOC2012/JPEGImages: no such file or folder\. Expected layout of voc2012: VOC"
    ):
        DATASETS["voc2012"].read(tmp_path)
    text(tmp_path / "table.csv", "image,text\ngone.jpg,a dog\n")
    with pytest.raises(LayoutError, match=r"has no image of table, split 'all'\. .*gone.jpg: no such file"):
        DATASETS["table"].read(tmp_path)
    with pytest.raises(OptionError, match="has the splits val, train, trainval, trainaug; got 'test'"):
        DATASETS["voc2012"].read(tmp_path, "test")
    with pytest.raises(OptionError, match="voc2012 needs no preparation"):
        DATASETS["voc2012"].prepare(tmp_path)


def test_decoders_refuse_what_they_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    Image.fromarray(np.array([[[151, 3, 0], [232, 3, 0]]], dtype=np.uint8)).save(file)
    assert red_green(file, 1000).tolist() == [[919, VOID]], "1000 is 232 + 3 * 256"
    Image.fromarray(np.full((2, 2, 3), 9, dtype=np.uint8)).save(file)
    with pytest.raises(DataError, match="a blue channel of 0"):
        red_green(file, 1000)
    Image.fromarray(np.full((2, 2), 255, dtype=np.uint8)).save(file)
    assert indexed(file).tolist() == [[VOID, VOID]] * 2 and thing(file, 65534).tolist() == [[65534, 65534]] * 2
    assert short([1, 2, 3, 5, 7, 8]) == "1 to 3, 5, 7, 8"


# Verify, and the command line


def test_verify_finds_a_whole_tree_whole(tmp_path: Path) -> None:
    voc(tmp_path)
    found = DATASETS["voc2012"].verify(tmp_path)
    assert (found.found, found.expected, found.decoded) == (2, (1449,), 2)
    assert found.problems == (
        "voc2012, split 'val': 2 images are complete, but 1,449 are published. Download the missing files again.",
    )
    plain(tmp_path / "mine", "1\tdog\n", [[0, 1, 1], [0, 0, 0]])
    assert DATASETS["folder"].verify(tmp_path / "mine").problems == ()


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing image": (
        lambda at: (at / "JPEGImages/2007_1.jpg").unlink(),
        "2007_1.jpg: no such file; it should be",
    ),
    "missing mask": (
        lambda at: (at / "SegmentationClass/2007_1.png").unlink(),
        "2007_1.png: no such file; it should be",
    ),
    "empty": (lambda at: (at / "SegmentationClass/2007_1.png").write_bytes(b""), "2007_1.png is empty (0 bytes)"),
    "number": (
        lambda at: palette(at / "SegmentationClass/2007_1.png", [[21] * 3] * 2),
        "shows [21], but the named",
    ),
    "size": (
        lambda at: palette(at / "SegmentationClass/2007_1.png", [[1] * 2] * 2),
        "has 2 x 2 pixels, but its image",
    ),
    "mask cut": (lambda at: cut(at / "SegmentationClass/2007_1.png"), "the mask of '2007_1' cannot be read"),
    "image cut": (lambda at: cut(at / "JPEGImages/2007_1.jpg"), "2007_1.jpg is damaged"),
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("what", SPOILED)
def test_verify_names_what_is_broken_and_goes_on(tmp_path: Path, what: str) -> None:
    spoil, message = SPOILED[what]
    folder = voc(tmp_path)
    spoil(folder)
    problems = DATASETS["voc2012"].verify(tmp_path).problems
    assert len(problems) == 2 and message in problems[0] and "1,449 are published" in problems[1]
    if "missing" in what or what == "empty":
        with pytest.raises(LayoutError, match=r"2007_1.*datasets verify voc2012"):
            DATASETS["voc2012"].read(tmp_path)


def test_verify_reads_a_sample_or_all(tmp_path: Path) -> None:
    for number in range(50):
        image(tmp_path / "images" / f"{number:02d}.jpg")
        gray(tmp_path / "masks" / f"{number:02d}.png", [[0, 0, 9 if number == 1 else 1]] * 2)
    text(tmp_path / "classes.txt", "1\tdog\n")
    some, every = (DATASETS["folder"].verify(tmp_path, every=whether) for whether in (False, True))
    assert (some.found, some.decoded, some.problems) == (50, 20, ())
    assert every.decoded == 50 and len(every.problems) == 1 and "01.png shows [9]" in every.problems[0]


def test_verify_tells_a_wrong_root_as_a_problem(tmp_path: Path) -> None:
    found = DATASETS["coco2017"].verify(tmp_path)
    assert found.found == 0 and len(found.problems) == 1 and "val2017: no such file or folder" in found.problems[0]


def test_the_command_line_lists_verifies_and_prepares(tmp_path: Path) -> None:
    listed = run(app, ["datasets", "ls", "--json"])
    assert {row["name"]: row["kind"] for row in json.loads(listed.stdout)} == {
        name: one.kind for name, one in DATASETS.items()
    }
    assert not DATASETS.keys() & PACKS.keys() and "(pack)" not in listed.stdout, "what nobody else has is on no list"
    coco(tmp_path)
    wrong = run(app, ["datasets", "verify", "coco2017", "--root", str(tmp_path), "--json"])
    assert wrong.exit_code == 1 and "datasets prepare" in json.loads(wrong.stdout)["problems"][0]
    made = run(app, ["datasets", "prepare", "coco2017", "--root", str(tmp_path)])
    assert made.exit_code == 0 and (tmp_path / "eclip_masks" / "val2017" / "000000000139.png").is_file()
    plain(tmp_path / "mine", "1\tdog\n", [[0, 1, 1], [0, 0, 0]])
    right = run(app, ["datasets", "verify", "folder", "--root", str(tmp_path / "mine"), "--all"])
    assert right.exit_code == 0 and right.stdout == "folder, split all: 1 images, 1 of them read\n"
    unknown = run(app, ["datasets", "verify", "voc2013"])
    assert unknown.exit_code == 2 and "Did you mean 'voc2012'?" in unknown.output
    nothing = run(app, ["datasets", "prepare", "voc2012"])
    assert nothing.exit_code == 0 and "needs no preparation" in nothing.stdout


def test_a_stopped_preparation_goes_on(tmp_path: Path) -> None:
    def stop(done: int, count: int) -> None:
        raise KeyboardInterrupt

    coco(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        DATASETS["coco2017"].prepare(tmp_path, None, stop)
    [part] = (tmp_path / "eclip_masks").glob("val2017.*.part")
    [first] = part.iterdir()
    written = first.stat().st_mtime_ns
    DATASETS["coco2017"].prepare(tmp_path)
    assert (tmp_path / "eclip_masks" / "val2017" / first.name).stat().st_mtime_ns == written
    assert masks_of("coco2017", tmp_path)[1]["000000000139"] == HAND


def test_a_stopped_preparation_of_other_annotations_starts_again(tmp_path: Path) -> None:
    def stop(done: int, count: int) -> None:
        raise KeyboardInterrupt

    file = coco(tmp_path) / "annotations" / "instances_val2017.json"
    whole = json.loads(file.read_text())
    whole["annotations"], right = [], whole["annotations"]
    file.write_text(json.dumps(whole))
    with pytest.raises(KeyboardInterrupt):
        DATASETS["coco2017"].prepare(tmp_path, None, lambda done, count: stop(done, count) if done == count else None)
    file.write_text(json.dumps({**whole, "annotations": right}))
    DATASETS["coco2017"].prepare(tmp_path)
    assert masks_of("coco2017", tmp_path)[1]["000000000139"] == HAND
    assert [one.name for one in (tmp_path / "eclip_masks").iterdir()] == ["val2017"]


# The packs


@real
@pytest.mark.parametrize(
    ("name", "split"),
    [(name, split) for name, one in PACKS.items() for split in one.splits],
)
@pytest.mark.long
def test_the_packs_are_whole(name: str, split: str) -> None:
    found = dataset(name).verify(DATA / PACKS[name].folder, split)
    assert found.problems == () and found.found in found.expected != ()


@real
def test_what_the_packs_call_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECLIP_DATA", str(DATA))
    found = {name: dataset(name).read() for name in ("voc2012seg", "coco80seg", "camvid", "davis2016val", "caltech101")}
    assert {name: len(one.classes or ()) for name, one in found.items()} == {
        **{"voc2012seg": 20, "coco80seg": 80, "camvid": 11, "davis2016val": 14, "caltech101": 100}
    }
    davis = found["davis2016val"]
    assert isinstance(davis, MaskSet) and isinstance(davis.classes, dict)
    assert list(davis.classes.values()) == sorted(davis.classes.values())
    swan = davis.items[0]
    numbers = set(np.unique(swan.read()).tolist()) - {0, VOID}
    assert (swan.name, [davis.classes[number] for number in numbers]) == ("blackswan_00005", ["black swan"])
    assert len(DATASETS["flickr8k"].read(split="test").items) == 1000
