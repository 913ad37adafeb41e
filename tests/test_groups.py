"""Groups of images: intervals, held-out halves, warnings, and where groups come from."""

from __future__ import annotations

import csv
import io
import json
import math
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tiny
from eclip.cli import app
from eclip.datasets import DATASETS, PACKS
from eclip.datasets.masks import MaskSet, read_masks
from eclip.datasets.pair import PairSet
from eclip.errors import DataError, DataWarning
from eclip.evaluation.bootstrap import Weights
from eclip.evaluation.evaluate import evaluate
from eclip.evaluation.evaluation import Evaluation
from eclip.evaluation.protocols import PROTOCOLS
from eclip.evaluation.rules import Faithful

DATA = Path(__file__).parents[2] / "shared" / "data"
real = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data, the real packs, is not here")
SIZE = (24, 24)
VIDEOS = 12


def pack(folder: Path, count: int = 12, index: str | None = None) -> Path:
    """Images with a dog of another size each, some with a cat."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        random = np.random.default_rng(seed)
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(folder / f"images/{seed:02d}.png")
        mask = np.zeros(SIZE, np.uint8)
        mask[: 3 + seed, 5:], mask[20:, : 4 + seed] = 1, 2
        Image.fromarray(mask).save(folder / f"masks/{seed:02d}.png")
    (folder / "classes.txt").write_text("1\tdog\n2\tcat\n", encoding="utf-8")
    if index is not None:
        (folder / "index.tsv").write_text(index, encoding="utf-8")
    return folder


def index_of(groups: list[str]) -> str:
    return "name\tgroup\n" + "".join(f"{place:02d}\t{group}\n" for place, group in enumerate(groups))


def row(found: Evaluation, method: str = "itsm") -> dict[str, Any]:
    return next(one for one in found.results["rows"] if one["method"] == method)


def run(masks: MaskSet | PairSet, out: Path, **more: Any) -> Evaluation:
    return evaluate(masks, out=out, **{"methods": "itsm", "models": tiny.backbone("vit"), "examples": 0, **more})


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> MaskSet:
    return read_masks(pack(tmp_path_factory.mktemp("alone")))


@pytest.mark.long
def test_frames_of_a_video_are_no_more_than_one_of_it(masks: MaskSet, tmp_path: Path) -> None:
    """Each image five times over, as in a video that stands still: nothing more is known than of each once."""
    once = row(run(masks, tmp_path / "once", methods="surgery"), "surgery")["numbers"]

    def frames(group: bool) -> MaskSet:
        items = [
            replace(item, name=f"{item.name} {frame}", image=_copy(item.image, tmp_path / f"{item.name}-{frame}.png"))
            for item in masks.items
            for frame in range(5)
        ]
        return MaskSet("v", masks.classes, [replace(one, group=one.name.split()[0] if group else "") for one in items])

    runs = [run(frames(group), tmp_path / f"group {group}", methods="surgery") for group in (True, False)]
    assert [one.results["data"]["groups"] for one in runs] == [12, 60]
    video, blind = (row(one, "surgery") for one in runs)
    assert (video["images"], video["groups"], blind["images"], blind["groups"]) == (60, 12, 60, 60)
    for key in ("miou", "msc", "over_control", "class_miou", "miou_held_out", "box_iou", "average_precision"):
        if key != "over_control":  # noise is another one for each frame
            near = 5e-4 if key == "average_precision" else 2e-6  # batches of other sizes round; a rank can change
            assert video["numbers"][key] == pytest.approx(once[key], abs=near), key
        grouped, alone = (one["numbers"][key]["high"] - one["numbers"][key]["low"] for one in (video, blind))
        assert grouped > 1.5 * alone, key


def _copy(image: Any, to: Path) -> Path:
    to.write_bytes(Path(image).read_bytes())
    return to


@pytest.mark.filterwarnings("ignore::eclip.errors.DataWarning")
def test_halves_hold_whole_groups(tmp_path: Path) -> None:
    groups = list("aabbbacddcee")  # in the order in which they come: a, b, c, d, e
    found = run(read_masks(pack(tmp_path / "in", index=index_of(groups))), tmp_path / "out")
    with np.load(next((tmp_path / "out/parts").rglob("*.npz"))) as parts:
        whole = dict(parts)
    column = whole["names"].tolist().index("itsm")
    ious = whole["hits"][:, column] / whole["unions"][:, column]
    even = np.array([groups[place] in "ace" for place in whole["images"]])
    best = {half: ious[half == even].mean(axis=0).argmax() for half in (True, False)}
    wanted = (ious[even, best[False]].sum() + ious[~even, best[True]].sum()) / len(ious)
    assert row(found)["numbers"]["miou_held_out"]["value"] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.filterwarnings("ignore::eclip.errors.DataWarning")
@pytest.mark.parametrize("task", ["sanity-v1", "segment-v1", "short"])
@pytest.mark.long(every=5)
def test_every_task_draws_groups(masks: MaskSet, tmp_path: Path, task: str) -> None:
    rules = Faithful(0.01, ("mean",), 2, 1.0)
    short = replace(PROTOCOLS["faithful-v1"], name="short", rules=rules)
    asked: dict[str, Any] = {"protocol": short if task == "short" else task}
    some = replace(masks, items=masks.items[:6])
    one = replace(some, items=[replace(item, group="one video") for item in some.items])
    alone, video = (row(run(each, tmp_path / name, **asked)) for name, each in (("a", some), ("b", one)))
    assert alone["groups"] == 6 == video["images"] and video["groups"] == 1
    for key, number in video["numbers"].items():
        assert number["value"] == alone["numbers"][key]["value"] and number["low"] is None, key
        assert (alone["numbers"][key]["low"] is None) == (number["value"] is None), key


def test_captions_of_a_video_are_drawn_together(tmp_path: Path) -> None:
    folder = pack(tmp_path / "in")
    rows = [{"image": f"images/{n:02d}.png", "text": f"dog {n}", "group": n // 2} for n in range(12)]
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pairs = DATASETS["table"].read(folder)
    assert isinstance(pairs, PairSet) and pairs.group_numbers() == [n // 2 for n in range(12)]
    lacking = "\n".join(json.dumps(row | {"group": math.nan}) for row in rows)
    (folder / "lacking.jsonl").write_text(lacking, encoding="utf-8")
    assert DATASETS["table"].read(folder / "lacking.jsonl").group_numbers() == list(range(12)), "each is alone"
    with pytest.warns(DataWarning, match="12 images of table form only 6 groups"):
        found = run(pairs, tmp_path / "out", methods="fast", protocol="recognize-v1")
    assert (row(found, "model")["images"], row(found, "model")["groups"]) == (12, 6)


def test_without_groups_nothing_moves(masks: MaskSet) -> None:
    assert masks.group_numbers() == masks.image_numbers() == list(range(12))
    named = replace(masks, items=[replace(item, group=item.name) for item in masks.items])
    assert named.digest() == masks.digest(), "groups are no part of the data that was scored"
    assert (Weights(np.arange(12)).counts == Weights(np.array(named.group_numbers())).counts).all()


def test_few_groups_are_told_everywhere(tmp_path: Path) -> None:
    masks = read_masks(pack(tmp_path / "in", index=index_of(["a"] * 6 + ["b"] * 5 + [""])))
    assert masks.group_numbers() == [0] * 6 + [1] * 5 + [2]
    told = r"the 12 images of in form only 3 groups .* fewer than 10 groups, 95 % intervals are rough guesses"
    with pytest.warns(DataWarning, match=told):
        found = run(masks, tmp_path / "out")
    assert found.results["data"]["groups"] == 3
    with (tmp_path / "out/results.csv").open(encoding="utf-8") as file:
        assert {line["groups"] for line in csv.DictReader(file)} == {"3"}
    page = found.report()
    assert "The 12 images form 3 groups, such as videos" in page and "rough guesses" in page
    verified = DATASETS["folder"].verify(tmp_path / "in")
    assert verified.problems == () and "form 3 groups" in verified.notes[0]


def test_many_groups_are_no_warning(tmp_path: Path) -> None:
    groups = [str(place // 2) for place in range(20)]
    masks = read_masks(pack(tmp_path / "in", 20, index_of(groups)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(masks, tmp_path / "out")
    assert found.results["data"]["groups"] == 10 and "rough guesses" not in found.report()
    assert "The 20 images form 10 groups" in found.report()


def test_a_table_names_groups_and_keeps_an_image_in_one(tmp_path: Path) -> None:
    folder = pack(tmp_path)
    lines = ["image,text,mask,group", "images/00.png,dog,masks/00.png,a", "images/01.png,dog,masks/01.png,"]
    (folder / "table.csv").write_text("\n".join([*lines, "images/02.png,cat,masks/02.png,a"]), encoding="utf-8")
    found = DATASETS["table"].read(folder)
    assert isinstance(found, MaskSet) and found.group_numbers() == [0, 1, 0]
    (folder / "table.csv").write_text("\n".join([*lines, "images/00.png,cat,masks/02.png,b"]), encoding="utf-8")
    with pytest.raises(DataError, match=r"line 4 of .* puts images/00.png into a different group"):
        DATASETS["table"].read(folder)


def test_tars_name_groups_in_their_json(tmp_path: Path) -> None:
    folder = pack(tmp_path)
    with tarfile.open(folder / "a.tar", "w") as archive:
        for seed, group in enumerate(["x", "y", "x", None, math.nan, math.nan]):
            archive.add(folder / f"images/{seed:02d}.png", f"{seed}.png")
            archive.add(folder / f"masks/{seed:02d}.png", f"{seed}.seg.png")
            told = json.dumps({} if group is None else {"group": group}).encode()
            member = tarfile.TarInfo(f"{seed}.json")
            member.size = len(told)
            archive.addfile(member, io.BytesIO(told))
    found = DATASETS["shards"].read(folder)
    assert isinstance(found, MaskSet) and found.group_numbers() == [0, 1, 0, 2, 3, 4]


@real
@pytest.mark.parametrize(("name", "groups"), [("davis2016val", 15), ("camvid", 3), ("voc2012seg", 897)])
def test_packs_of_videos_know_them(name: str, groups: int) -> None:
    found = PACKS[name].read(DATA / name)
    assert len(set(found.group_numbers())) == groups


@real
@pytest.mark.long
def test_the_interval_of_davis_is_that_of_its_videos(tmp_path: Path) -> None:
    """Baselines alone, which need no real model: each video has five frames, which are alike."""
    davis = PACKS["davis2016val"].read(DATA / "davis2016val")
    assert isinstance(davis, MaskSet)
    davis = replace(davis, items=davis.items[:50])
    blind = replace(davis, items=[replace(item, group="") for item in davis.items])
    spans = []
    for name, data in (("videos", davis), ("frames", blind)):
        number = row(run(data, tmp_path / name), "centre")["numbers"]["miou"]
        spans.append(number["high"] - number["low"])
    assert spans[0] > 1.5 * spans[1]


def test_the_terminal_table_says_how_many_groups(tmp_path: Path, tiny_name: str) -> None:
    pack(tmp_path / "in", index=index_of(["a"] * 6 + ["b"] * 6))
    asked = ["eval", "folder", "--root", str(tmp_path / "in"), "--models", tiny_name, "--methods", "itsm"]
    done = CliRunner().invoke(app, [*asked, "--examples", "0", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0 and "12 images in 2 groups, 24 pairs" in done.stderr
    assert "warning: the 12 images of in form only 2 groups" in done.stderr
