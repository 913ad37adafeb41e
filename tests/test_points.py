"""Labels with points: Open Images' layout on a miniature, broken files, and the protocol "points-v1"."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from eclip.datasets import dataset
from eclip.datasets.phrases import Phrase, PhraseSet
from eclip.errors import DataError, DataWarning, LayoutError

HEADER = "ImageId,X,Y,Label,EstimatedYesNo,Source,YesVotes,NoVotes,UnsureVotes,TextLabel"
ROWS = (
    "00a1,0.25,0.5,/m/dog,yes,ih,1,0,0,",
    "00b2,0.1,0.1,/m/cat,yes,cr,5,1,0,",
    "00a1,0.75,0.5,/m/dog,no,ih,0,1,0,",
    "00a1,0.5,0.125,/m/dog,yes,ih,1,0,0,",
    "00a1,0.5,0.5,/m/dog,unsure,ih,0,0,1,",
    "00a1,1.0,0.0,/m/sky,yes,cr,3,0,0,",
    "00a1,0.0,1.0,/m/car,no,ih,0,1,0,",  # no point of the image is known to be on a car
    "00c3,0.5,0.5,/m/car,no,ih,0,1,0,",  # nothing is known to be in this image
)
NAMES = 'LabelName,DisplayName\n/m/dog,Dog\n/m/cat,Cat\n/m/sky,"Sky, cloud"\n/m/car,Car\n'
DOG = Phrase("Dog", (), ("/m/dog",), yes=((0.25, 0.5), (0.5, 0.125)), no=((0.75, 0.5),))
SKY = Phrase("Sky, cloud", (), ("/m/sky",), yes=((1.0, 0.0),))
CAT = Phrase("Cat", (), ("/m/cat",), yes=((0.1, 0.1),))


def published(root: Path, *, rows: tuple[str, ...] = ROWS, header: str = HEADER, names: str = NAMES) -> Path:
    """The split validation, with three images."""
    (root / "validation").mkdir(parents=True, exist_ok=True)
    (root / "oidv7-val-annotations-point-labels.csv").write_text("\n".join((header, *rows)) + "\n")
    (root / "oidv7-class-descriptions.csv").write_text(names)
    for name in ("00a1", "00b2", "00c3"):
        Image.new("RGB", (40, 20), (90, 120, 30)).save(root / "validation" / f"{name}.jpg")
    return root


def points_of(root: Path, split: str | None = None) -> PhraseSet:
    found = dataset("openimages_points").read(root, split)
    assert isinstance(found, PhraseSet)
    assert pickle.loads(pickle.dumps(found)) == found  # it travels between processes
    return found


def test_labels_have_the_points_on_them_and_those_off_them(tmp_path: Path) -> None:
    found = points_of(published(tmp_path))
    assert found.name == "openimages_points validation" and found.bad == []
    assert [(item.name, item.phrases) for item in found.items] == [("00a1", (DOG, SKY)), ("00b2", (CAT,))]
    assert found.items[0].open().size == (40, 20)
    verified = dataset("openimages_points").verify(tmp_path, every=True)
    assert (verified.found, verified.decoded, verified.problems) == (2, 2, ())


def test_other_places_of_the_same_files(tmp_path: Path) -> None:
    wanted = points_of(published(tmp_path / "published")).items
    root = published(tmp_path / "moved")
    (root / "annotations").mkdir()
    for file in root.glob("*.csv"):
        file.rename(root / "annotations" / file.name)
    (root / "images").mkdir()
    (root / "validation").rename(root / "images" / "validation")
    assert [item.phrases for item in points_of(root).items] == [item.phrases for item in wanted]
    (root / "annotations" / "oidv7-val-annotations-point-labels.csv").rename(
        root / "annotations" / "oidv7-test-annotations-point-labels.csv"
    )
    (root / "images" / "validation").rename(root / "images" / "test")
    assert points_of(root, "test").items[0].image == root / "images" / "test" / "00a1.jpg"


def test_fiftyones_folders_may_hold_a_part_of_the_images(tmp_path: Path) -> None:
    root = published(tmp_path)
    for old, new in (
        ("oidv7-val-annotations-point-labels.csv", "labels/points.csv"),
        ("oidv7-class-descriptions.csv", "metadata/point_classes.csv"),
        ("validation", "data"),
    ):
        (root / "v7" / "validation" / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / "v7" / "validation" / new)
    (root / "v7" / "validation" / "data" / "00a1.jpg").unlink()
    for folder in (root / "v7", root / "v7" / "validation"):
        assert [(item.name, item.phrases) for item in points_of(folder).items] == [("00b2", (CAT,))]


def test_a_list_of_names_without_a_header_is_read_whole(tmp_path: Path) -> None:
    assert points_of(published(tmp_path, names=NAMES.partition("\n")[2])).items[0].phrases == (DOG, SKY)


def test_points_outside_of_the_image_are_left_out_and_counted(tmp_path: Path) -> None:
    published(tmp_path, rows=(*ROWS, "00b2,1.01,0.5,/m/cat,no,ih,0,1,0,", "00b2,0.5,-0.1,/m/cat,yes,ih,0,1,0,"))
    with pytest.warns(DataWarning, match=r"^2 points of .* the first is in line 10\.$"):
        assert points_of(tmp_path).items[1].phrases == (CAT,)


@pytest.mark.parametrize(
    ("last", "shown"),
    [
        ("00b2,0.1,left,/m/cat,yes,ih,1,0,0,", "left"),
        ("00b2,0.1,0.1,/m/cat,maybe,ih,1,0,0,", "maybe"),
        ("00b2,0.1,0.1,/m/c", "00b2,0.1,0.1,/m/c"),  # the file ends early
    ],
)
def test_a_row_in_another_format_is_named(tmp_path: Path, last: str, shown: str) -> None:
    with pytest.raises(DataError, match=rf"^line 10 of .*point-labels\.csv must have .*{shown}.*again\.$"):
        dataset("openimages_points").read(published(tmp_path, rows=(*ROWS, last)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda root: published(root, header="ImageID,Source,LabelName"), DataError, "no column ImageId, X, Y, Label"),
        (lambda root: (root / "oidv7-val-annotations-point-labels.csv").write_text(""), DataError, "no column ImageId"),
        (lambda root: published(root, names="/m/dog,Dog\n"), DataError, r"no name for /m/sky, a label of 00a1 in .*V7"),
        (lambda root: published(root, names="/m/dog\n"), DataError, "line 1 of .* must be a label such as"),
        (lambda root: published(root, names="id,name\nn02084071,dog\n"), DataError, "line 2 of .*n02084071"),
        (
            lambda root: (root / "oidv7-class-descriptions.csv").write_bytes(b"/m/dog,Caf\xe9\n"),
            DataError,
            "not a table of Open Images in UTF-8",
        ),
        (lambda root: published(root, rows=ROWS[-1:]), LayoutError, "no image of openimages_points"),
        (
            lambda root: (root / "oidv7-class-descriptions.csv").unlink(),
            LayoutError,
            r"oidv7-class-descriptions\.csv: no such file or folder\. Expected layout of openimages_points",
        ),
        (
            lambda root: (root / "validation").rename(root / "pictures"),
            LayoutError,
            r"validation: no such file or folder \(nor images/validation",
        ),
        (
            lambda root: (root / "validation" / "00b2.jpg").unlink(),
            LayoutError,
            r"00b2\.jpg: no such file; it should be the image of '00b2'",
        ),
    ],
)
def test_missing_and_broken_files_are_named(
    tmp_path: Path, change: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    change(published(tmp_path))
    with pytest.raises(error, match=message):
        dataset("openimages_points").read(tmp_path)


def test_the_digest_changes_with_points_and_their_answers(tmp_path: Path) -> None:
    whole = points_of(published(tmp_path)).digest()
    moved = points_of(published(tmp_path, rows=("00a1,0.26,0.5,/m/dog,yes,ih,1,0,0,", *ROWS[1:]))).digest()
    turned = points_of(published(tmp_path, rows=(*ROWS[:2], ROWS[2].replace("no", "yes"), *ROWS[3:]))).digest()
    assert len({whole, moved, turned}) == 3 and points_of(published(tmp_path)).digest() == whole
