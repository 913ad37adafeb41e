"""What the paper's neighbors need: gaze, absent names, defects, how features lie, and two more losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import roc_auc_score

import eclip
import tiny
from eclip.backbones.blocks import cosine
from eclip.datasets.anomalies import read_anomalies
from eclip.datasets.pair import PairSet
from eclip.datasets.phrases import Phrase, Phrased, PhraseSet
from eclip.errors import DataError, EclipError, LayoutError, OptionError, ShapeError
from eclip.evaluation.protocols import Protocol
from eclip.evaluation.recognize import geometry
from eclip.evaluation.rules import Absent, Gaze
from eclip.metrics.segmentation import confusion
from eclip.metrics.steps import pixel_order
from eclip.training.loss import MIXED, mixed, separated
from eclip.training.schedule import steps_of


def _image(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def osie(tmp_path: Path) -> Path:
    """Five images in the layout of the pack: three people, whose first fixation is in a corner."""
    root = tmp_path / "osie"
    (root / "images").mkdir(parents=True)
    random, rows = np.random.default_rng(0), []
    for seed in range(5):
        _image(seed).save(root / "images" / f"{seed}.png")
        people = [[[0.0, 0.0, 200], *([*place, 200] for place in random.random((4, 2)).tolist())] for _ in range(3)]
        rows.append(json.dumps({"name": f"{seed}.png", "fixations": people}))
    (root / "fixations.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return root


few = pytest.mark.filterwarnings("ignore:.* as published:eclip.errors.DataWarning")


@few
def test_gaze_is_scored_by_the_text_of_the_rules(osie: Path, tmp_path: Path) -> None:
    backbone = tiny.kept("vit")
    settings: dict[str, Any] = {"root": osie, "methods": "maskclip", "models": backbone}
    done = eclip.evaluate("osie", out=tmp_path / "a", protocol="gaze-v1", **settings)
    rows = {row["method"]: row for row in done.results["rows"]}
    assert set(rows) == {"maskclip", "ones", "centre", "random", "bound"}
    text = eclip.PROTOCOLS["gaze-v1"].rules.text
    found = []
    for seed in range(5):
        people = json.loads((osie / "fixations.jsonl").read_text(encoding="utf-8").splitlines()[seed])["fixations"]
        points = np.array([place[:2] for one in people for place in one[1:]])
        heat = eclip.explain(_image(seed), text, model=backbone, method="maskclip", health=False).heatmap()
        found.append(eclip.METRICS["nss"](heat, points))
    assert rows["maskclip"]["numbers"]["nss"]["value"] == pytest.approx(np.mean(found), abs=1e-5)
    assert rows["ones"]["numbers"]["shuffled_auc"]["value"] == pytest.approx(0.5)
    assert rows["bound"]["numbers"]["nss"]["value"] > max(
        rows[name]["numbers"]["nss"]["value"] for name in ("centre", "random")
    )
    assert rows["maskclip"]["numbers"]["over_control"]["low"] is not None
    other = Protocol("gaze-dog", "a dog", None, "squash", "none", Gaze(text="a dog", sigma=0.03, others=2))
    again = eclip.evaluate("osie", out=tmp_path / "b", protocol=other, **settings)
    assert again.results["rows"][0]["numbers"]["nss"] != rows["maskclip"]["numbers"]["nss"]


@few
def test_the_negatives_are_fixations_of_other_images(osie: Path, tmp_path: Path) -> None:
    """With all other images as negatives, by hand."""
    backbone, rules = tiny.kept("vit"), Gaze(text="a dog", sigma=0.03, others=4)
    every = Protocol("all-others", "all", None, "squash", "none", rules)
    done = eclip.evaluate("osie", root=osie, out=tmp_path, methods="maskclip", models=backbone, protocol=every)
    read = [
        json.loads(line)["fixations"] for line in (osie / "fixations.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    points = [np.array([place[:2] for one in people for place in one[1:]]) for people in read]
    found = []
    for seed in range(5):
        heat = eclip.explain(_image(seed), "a dog", model=backbone, method="maskclip", health=False).heatmap()
        others = np.concatenate([own for place, own in enumerate(points) if place != seed])
        found.append(eclip.METRICS["shuffled_auc"](heat, points[seed], others))
    assert done.results["rows"][0]["numbers"]["shuffled_auc"]["value"] == pytest.approx(np.mean(found), abs=1e-5)


@few
def test_a_single_image_with_gaze_has_no_shuffled_auc(osie: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"methods": "maskclip", "models": tiny.kept("vit"), "protocol": "gaze-v1", "limit": 1}
    found = eclip.evaluate("osie", root=osie, out=tmp_path / "out", **asked)
    assert {row["numbers"]["shuffled_auc"]["value"] for row in found.results["rows"]} == {None}


@few
def test_points_of_labels_are_not_gaze(osie: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="points-v1"):
        item = Phrased("a", osie / "images" / "0.png", (Phrase("a dog", (), yes=((0.5, 0.5),)),))
        eclip.evaluate(PhraseSet("mine", [item], []), out=tmp_path, methods="maskclip", protocol="gaze-v1")
    with pytest.raises(OptionError, match="gaze-v1"):
        eclip.evaluate("osie", root=osie, out=tmp_path, methods="maskclip", protocol="points-v1")


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Twelve images, each with one or two of four classes."""
    root = tmp_path / "masks"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for seed in range(12):
        _image(seed).save(root / "images" / f"{seed}.png")
        mask = np.zeros((30, 40), np.uint8)
        mask[:20, :20] = 1 + seed % 4
        mask[25:, 30:] = 1 + (seed // 4) % 4
        mask[0, 39] = 4  # a pixel, too little to be shown, but not absent
        Image.fromarray(mask).save(root / "masks" / f"{seed}.png")
    (root / "classes.txt").write_text("0\tbackground\n1\tdog\n2\tcat\n3\tgrass\n4\tsky", encoding="utf-8")
    return root


def test_images_with_undecided_classes_alone_are_left_out(masks: Path, tmp_path: Path) -> None:
    """Of an image whose only class covers a few pixels, nothing can be asked."""
    mask = np.zeros((30, 40), np.uint8)
    mask[0, :4] = (1, 2, 3, 4)
    wanted = {}
    for name in ("before", "after"):
        done = eclip.evaluate("folder", root=masks, out=tmp_path / name, models=tiny.kept("vit"), protocol="absent-v1")
        wanted[name] = {row["method"]: row["numbers"] for row in done.results["rows"] if row["method"] != "random"}
        _image(99).save(masks / "images" / "99.png")
        Image.fromarray(mask).save(masks / "masks" / "99.png")
    for rule, numbers in wanted["before"].items():
        for key, one in numbers.items():
            assert wanted["after"][rule][key]["value"] == pytest.approx(one["value"], nan_ok=True), (rule, key)


def test_data_in_which_nothing_is_absent_are_refused(masks: Path, tmp_path: Path) -> None:
    for file in (masks / "masks").iterdir():
        Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40) % 4 + 1).save(file)
    with pytest.raises(DataError, match="every image of masks shows every class: use data with more classes"):
        eclip.evaluate("folder", root=masks, out=tmp_path / "out", models=tiny.kept("vit"), protocol="absent-v1")


def test_absent_names_are_told_by_each_rule(masks: Path, tmp_path: Path) -> None:
    backbone = tiny.kept("vit")
    done = eclip.evaluate("folder", root=masks, out=tmp_path / "out", models=backbone, protocol="absent-v1")
    rows = {row["method"]: row for row in done.results["rows"]}
    assert set(rows) == {"score", "softmax", "energy", "presence", "random"} and rows["random"]["control"]
    names = ["dog", "cat", "grass", "sky"]
    text = eclip.encode_texts(backbone, names, "a photo of a {}")
    scores, states = [], []
    for seed in range(12):
        encoding = eclip.encode(backbone, backbone.preprocess(_image(seed))[None], 0)
        scores.append(cosine(encoding.feature, text)[0].numpy())
        mask = np.asarray(Image.open(masks / "masks" / f"{seed}.png"))
        areas = [(mask == number).mean() for number in range(1, 5)]
        states.append([1 if area >= 0.01 else -1 if area else 0 for area in areas])
    cosines, state = np.array(scores, float), np.array(states)
    asked = state >= 0
    wanted = roc_auc_score(state[asked], cosines[asked])
    assert rows["score"]["numbers"]["pair_auroc"]["value"] == pytest.approx(wanted, abs=1e-5)
    shares = np.exp(40 * cosines) / np.exp(40 * cosines).sum(axis=1, keepdims=True)
    assert rows["softmax"]["numbers"]["pair_auroc"]["value"] == pytest.approx(
        roc_auc_score(state[asked], shares[asked]), abs=1e-5
    )
    assert rows["energy"]["numbers"]["pair_auroc"]["value"] is None
    kept = [[40 * own[mask] for own, mask in zip(cosines, which, strict=True)] for which in (asked, state == 0)]
    energies = [np.logaddexp.reduce(one) for part in kept for one in part]
    wanted = roc_auc_score([1] * 12 + [0] * 12, energies)
    assert rows["energy"]["numbers"]["image_auroc"]["value"] == pytest.approx(wanted, abs=1e-5)
    right = [state[i][np.where(asked[i], cosines[i], -9).argmax()] == 1 for i in range(12)]
    best = np.where(asked, cosines, -9).max(axis=1)
    wanted = eclip.METRICS["risk_coverage"](best, np.array(right))
    assert rows["score"]["numbers"]["aurc"]["value"] == pytest.approx(wanted, abs=1e-5)
    assert rows["score"]["numbers"]["pair_auroc"]["low"] < rows["score"]["numbers"]["pair_auroc"]["high"]


def test_rules_are_checked() -> None:
    for make in (
        lambda: Gaze(text=" ", sigma=0.03, others=2),
        lambda: Gaze(text="a", sigma=0, others=2),
        lambda: Gaze(text="a", sigma=0.1, others=0),
        lambda: Gaze(text="a", sigma=0.1, others=1, headline="miou"),
        lambda: Absent(least=2, scale=1),
        lambda: Absent(least=0, scale=0),
        lambda: Absent(least=0, scale=1, headline="nss"),
    ):
        with pytest.raises(OptionError):
            make()


def test_metrics_refuse_what_cannot_be_scored() -> None:
    heat, point = np.full((4, 5), 0.5), np.array([[0.5, 0.5]])
    for name, given in (
        ("nss", (heat, np.zeros((0, 2)))),
        ("nss", (heat, point + 1)),
        ("auc_judd", (heat * 3, point)),
        ("known_auroc", (np.ones(3), np.ones(3, bool))),
        ("known_auroc", (np.array([1.0, np.nan]), np.array([True, False]))),
        ("region_overlap", ([heat], [heat > 1])),
        ("region_overlap", ([heat], [heat > 0])),
    ):
        with pytest.raises(EclipError):
            eclip.METRICS[name](*given)
    assert eclip.METRICS["nss"](heat, point) == 0 and eclip.METRICS["density_correlation"](heat, point) == 0


def test_the_gap_by_hand() -> None:
    """Two images on one axis, two texts on another: means (1, 0), (0, 1), so the gap is the root of two."""
    images, texts = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    pairs = np.arange(2)
    found = geometry(images, texts, pairs, pairs, pairs)
    assert found["modality_gap"].value == pytest.approx(2**0.5)
    assert found["alignment"].value == pytest.approx(2.0) and found["uniformity"].value == pytest.approx(0.0)
    apart = geometry(np.eye(2), np.eye(2), pairs, pairs, pairs)  # distance of images: squared 2, exp(-4)
    assert apart["uniformity"].value == pytest.approx(-4.0) and apart["alignment"].value == 0
    assert apart["modality_gap"].value == pytest.approx(0.0)


def test_recognition_reports_how_features_lie(tmp_path: Path) -> None:
    from eclip.datasets.pair import Pair, Place

    backbone, items = tiny.kept("vit"), []
    for seed in range(6):
        _image(seed).save(tmp_path / f"{seed}.png")
        place = Place(str(tmp_path / f"{seed}.png"), 0, (tmp_path / f"{seed}.png").stat().st_size)
        items.append(Pair(str(seed), place, (f"caption {seed}", f"a picture of {seed}")))
    done = eclip.evaluate(
        PairSet("mine", items, None, []), out=tmp_path / "o", models=backbone, protocol="recognize-v1"
    )
    numbers = done.results["rows"][0]["numbers"]
    pixels = torch.stack([backbone.preprocess(_image(seed)) for seed in range(6)])
    images = F.normalize(eclip.encode(backbone, pixels, 0).feature, dim=-1)
    texts = eclip.encode_texts(backbone, [caption for item in items for caption in item.captions])
    gap = (images.mean(dim=0) - texts.mean(dim=0)).norm()
    assert numbers["modality_gap"]["value"] == pytest.approx(float(gap), abs=1e-5)
    apart = (images.repeat_interleave(2, dim=0) - texts).square().sum(dim=1).mean()
    assert numbers["alignment"]["value"] == pytest.approx(float(apart), abs=1e-5)
    even = torch.pdist(images).square().mul(-2).exp().mean().log()
    assert numbers["uniformity"]["value"] == pytest.approx(float(even), abs=1e-5)
    assert numbers["modality_gap"]["low"] < numbers["modality_gap"]["high"]


def _mvtec(root: Path) -> None:
    for number, folder in enumerate(("train/good", "test/good", "test/scratch", "ground_truth/scratch")):
        (root / "screw" / folder).mkdir(parents=True)
        for seed in range(2):
            name = f"{seed:03d}_mask.png" if folder.startswith("ground") else f"{seed:03d}.png"
            picture = _image(10 * number + seed)
            if folder.startswith("ground"):
                picture = Image.fromarray(
                    np.where(np.arange(40)[None] < 5 + seed, 255, 0).repeat(30, 0).astype(np.uint8)
                )
            picture.save(root / "screw" / folder / name)


def test_mvtec_and_visa_are_read(tmp_path: Path) -> None:
    _mvtec(tmp_path / "mvtec")
    found = read_anomalies(tmp_path / "mvtec", "screw")
    assert len(found.normal) == 2 and [one.defect for one in found.test] == ["good", "good", "scratch", "scratch"]
    assert [int(one.read().sum()) for one in found.test] == [0, 0, 150, 180]
    visa = tmp_path / "visa"
    (visa / "split_csv").mkdir(parents=True)
    for name in ("Normal/0", "Normal/1", "Anomaly/0"):
        (visa / "pcb1/Data/Images" / name).parent.mkdir(parents=True, exist_ok=True)
        _image(3).save(visa / "pcb1/Data/Images" / f"{name}.JPG")
    (visa / "pcb1/Data/Masks/Anomaly").mkdir(parents=True)
    Image.fromarray((np.arange(1200).reshape(30, 40) < 7).astype(np.uint8)).save(visa / "pcb1/Data/Masks/Anomaly/0.png")
    rows = ["object,split,label,image,mask", "pcb1,train,normal,pcb1/Data/Images/Normal/0.JPG,"]
    rows += ["pcb1,test,normal,pcb1/Data/Images/Normal/1.JPG,"]
    rows += ["pcb1,test,anomaly,pcb1/Data/Images/Anomaly/0.JPG,pcb1/Data/Masks/Anomaly/0.png"]
    (visa / "split_csv" / "1cls.csv").write_text("\n".join(rows), encoding="utf-8")
    found = read_anomalies(visa, "pcb1")
    assert len(found.normal) == 1 and [int(one.read().sum()) for one in found.test] == [0, 7]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("test,anomaly,Anomaly/0.JPG,", "labeled 'anomaly', split 'test', with the mask ''"),
        ("test,normal,Anomaly/0.JPG,Masks/0.png", "labeled 'normal'"),
        ("train,anomaly,Anomaly/0.JPG,Masks/0.png", "split 'train'"),
        ("test,anomaly,Anomaly/0.JPG,Masks/none.png", "no such file; it should be the mask"),
        ("test,anomaly,Anomaly/0.JPG,Masks/0.png", "mask of '0.JPG' cannot be read"),
        ("test,anomaly,Anomaly/0.JPG,Masks/small.png", "has 4 x 3 pixels, but its image 40 x 30"),
        ("test,anomaly,Anomaly/0.JPG,Masks/black.png", "shows nothing"),
        ("test,anomaly,Anomaly/1.JPG,Masks/0.png", "lists 'Anomaly/1.JPG': no such file"),
        ("test,anomaly", "lists None: no such file"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(row: str, said: str, tmp_path: Path) -> None:
    for name in ("Normal/0.JPG", "Anomaly/0.JPG"):
        (tmp_path / name).parent.mkdir(parents=True)
        _image(3).save(tmp_path / name)
    (tmp_path / "Masks").mkdir()
    (tmp_path / "Masks" / "0.png").write_bytes(b"no mask")
    Image.new("L", (4, 3), 255).save(tmp_path / "Masks" / "small.png")
    Image.new("L", (40, 30)).save(tmp_path / "Masks" / "black.png")
    (tmp_path / "split_csv").mkdir()
    rows = ["object,split,label,image,mask", "pcb1,train,normal,Normal/0.JPG,", f"pcb1,{row}"]
    (tmp_path / "split_csv" / "1cls.csv").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_anomalies(tmp_path, "pcb1").test[0].read()
    (tmp_path / "split_csv" / "1cls.csv").write_bytes(b"object,\xff")
    with pytest.raises(DataError, match=r"1cls.csv is not UTF-8 .*: save it as UTF-8"):
        read_anomalies(tmp_path, "pcb1")


def test_masks_of_defects_are_read_by_color(tmp_path: Path) -> None:
    """A palette's dark colors count, and hidden files are no images."""
    _mvtec(tmp_path)
    values = (np.arange(1200).reshape(30, 40) < 9).astype(np.uint8)
    drawn = Image.fromarray(values).convert("P")
    drawn.putpalette([0, 0, 0, 0, 0, 1])
    drawn.save(tmp_path / "screw/ground_truth/scratch/000_mask.png")
    (tmp_path / "screw/test/good/._000.png").write_bytes(b"of a file system")
    found = read_anomalies(tmp_path, "screw").test
    assert len(found) == 4 and int(found[2].read().sum()) == 9


@pytest.mark.usefixtures("shapes_unchecked")
def test_metrics_refuse_what_they_would_misread() -> None:
    """Zeros and ones in place of booleans index items instead of choosing them."""
    heat, mask = np.linspace(0, 1, 12).reshape(3, 4), np.arange(12).reshape(3, 4) > 8
    with pytest.raises(EclipError, match=r"masks\[0\] must be boolean, got uint8"):
        eclip.METRICS["region_overlap"]([heat], [mask.astype(np.uint8)])
    for wrong in (mask.T, mask[:2], np.pad(mask, 1)):
        with pytest.raises(ShapeError, match=r"masks\[0\] must have the shape of its map"):
            eclip.METRICS["region_overlap"]([heat], [wrong])
    confidence, answers = np.array([0.1, 0.4, 0.3, 0.8]), np.array([0, 1, 0, 1])
    for given, said in (
        ((heat, mask.astype(np.uint8), ~mask), "inside must be boolean, got uint8"),
        ((heat, mask, np.ones_like(mask)), "inside and outside overlap"),
        ((heat[:0], mask[:0], ~mask[:0]), "no pixel to score"),
    ):
        for name in ("contrast", "iou", "average_precision", "auroc", "pointing_game", "energy", "box_iou"):
            with pytest.raises(EclipError, match=said):
                eclip.METRICS[name](*given)
    with pytest.raises(DataError, match=r"predicted must be whole numbers, got float64: take the argmax"):
        confusion(np.array([[0.9, 1.2]]), np.array([[0, 1]]), 2)
    for name in ("known_auroc", "false_positive_rate", "risk_coverage"):
        with pytest.raises(EclipError, match="must be boolean, got int64"):
            eclip.METRICS[name](confidence, answers)
        eclip.METRICS[name](confidence, answers == 1)
    for sigma in (-0.1, 0.0, np.nan, np.inf):
        with pytest.raises(OptionError, match="sigma must be above 0"):
            eclip.METRICS["density_correlation"](heat, np.array([[0.5, 0.5]]), sigma=sigma)


@pytest.mark.usefixtures("shapes_unchecked")
def test_metrics_read_any_numbers_alike() -> None:
    """Negated unsigned numbers wrap; truth values are no indices."""
    heat = np.array([[0, 1], [2, 255]], np.uint8)
    np.testing.assert_array_equal(pixel_order(heat, 0), [3, 2, 1, 0])
    right = np.array([False, True, True])
    ours = eclip.METRICS["risk_coverage"]
    assert ours(heat.ravel()[:3], right) == ours(heat.ravel()[:3].astype(float), right) == pytest.approx(1 / 9)
    inside = np.array([[False, False], [True, True]])
    on_off = heat > 1
    assert eclip.METRICS["box_iou"](on_off, inside, ~inside) == eclip.METRICS["box_iou"](on_off * 1.0, inside, ~inside)
    similarity = np.array([[0.1, 0.9, 0.5], [0.2, 0.8, 0.3], [0.7, 0.1, 0.4]])
    own = np.eye(3, dtype=bool)
    for given in (own, own.tolist(), torch.from_numpy(own), [[0], [1], [2]]):
        assert eclip.METRICS["recall"](similarity, given) == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="whole numbers or truth values, got float64"):
        eclip.METRICS["recall"](similarity, [[0.5], [1.0], [2.0]])
    with pytest.raises(ShapeError, match="2 truth values for 3 candidates"):
        eclip.METRICS["recall"](similarity, [[True, False]] * 3)
    with pytest.raises(DataError, match="label must be whole numbers"):
        eclip.METRICS["accuracy"](similarity, np.eye(3))


@pytest.mark.parametrize("value", [0.1, 0.37, 0.7])
def test_a_flat_map_has_no_fixations_above_its_mean(value: float) -> None:
    flat, points = np.full((333, 447), value), np.array([[0.2, 0.3], [0.5, 0.9]])
    assert eclip.METRICS["nss"](flat, points) == 0 == eclip.METRICS["density_correlation"](flat, points)


def test_what_is_missing_of_a_category_is_said(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="neither"):
        read_anomalies(tmp_path, "screw")
    _mvtec(tmp_path)
    with pytest.raises(OptionError, match="categories screw; got 'nut'"):
        read_anomalies(tmp_path, "nut")
    (tmp_path / "screw/ground_truth/scratch/001_mask.png").unlink()
    with pytest.raises(LayoutError, match="should be the mask of"):
        read_anomalies(tmp_path, "screw")


def _tokens(pairs: int, patches: int = 3, size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(pairs, patches, size, generator=generator, dtype=torch.float64)
    return tokens, F.normalize(torch.randn(pairs, size, generator=generator, dtype=torch.float64), dim=-1)


def test_patches_of_a_mix_by_hand() -> None:
    tokens, text = _tokens(10)
    good = torch.ones(10, dtype=torch.bool)
    good[1] = False  # so the mixes are 0 2 3 4 and 5 6 7 8, and 9 is left out
    found = []
    for mix in ([0, 2, 3, 4], [5, 6, 7, 8]):
        for own in mix:
            for patch in tokens[own]:
                logits = [7.0 * float(F.normalize(patch, dim=0) @ text[other]) for other in mix]
                found.append(np.log(np.exp(logits).sum()) - logits[mix.index(own)])
    assert float(mixed(tokens, text, good, 7.0)) == pytest.approx(np.mean(found))
    alone = torch.tensor([True, *[False] * 9])
    for loss in (mixed(tokens, text, alone, 7.0), separated(tokens[:, 0], text, alone, 7.0)):
        assert float(loss) == 0
    assert MIXED == 4 and float(mixed(tokens[:3], text[:3], good[:3], 7.0)) == 0


def test_separation_of_images_by_hand() -> None:
    tokens, text = _tokens(5)
    images, good = F.normalize(tokens.mean(dim=1), dim=-1), torch.tensor([True, True, False, True, True])
    kept, found = [0, 1, 3, 4], []
    for own in kept:
        logits = [3.0 * float(images[own] @ images[other]) * (1 - float(text[own] @ text[other])) for other in kept]
        logits[kept.index(own)] = 3.0  # itself: cosine 1, not weighted
        found.append(np.log(np.exp(logits).sum()) - 3.0)
    assert float(separated(images, text, good, 3.0)) == pytest.approx(np.mean(found))
    same = text[:1].expand(5, -1)  # images of one text are not pushed apart
    images = images.clone().requires_grad_()
    apart = images + 0.1 * tokens[:, 0]
    slope = torch.autograd.grad(
        separated(F.normalize(apart, dim=-1), same, torch.ones(5, dtype=torch.bool), 3.0), images
    )[0]
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-6, rtol=0)


@pytest.mark.parametrize("option", ["mix", "separate"])
def test_training_with_another_loss(option: str, tmp_path: Path, tiny_name: str) -> None:
    rows = ["filepath\ttitle"]
    for seed in range(16):
        _image(seed).save(tmp_path / f"{seed}.png")
        rows.append(f"{tmp_path / f'{seed}.png'}\t{['a dog', 'a cat', 'grass', 'the sky'][seed % 4]} {seed}")
    (tmp_path / "data.tsv").write_text("\n".join(rows), encoding="utf-8")
    heads, losses = {}, {}
    for weight in (0.0, 0.5):
        settings: dict[str, Any] = {"texts": "captions", "epochs": 2, "batch_size": 8, "warmup": 0, "workers": 0}
        settings |= {
            "model": tiny_name,
            "device": "cpu",
            "cache": str(tmp_path / "cache"),
            "form": "soft",
            option: weight,
        }
        out = tmp_path / f"{option}-{weight}"
        eclip.train(eclip.TrainConfig(train_data=(str(tmp_path / "data.tsv"),), out=str(out), **settings))
        heads[weight] = eclip.load(tiny_name, head=str(out)).head.image.weight
        log = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        losses[weight] = next(one["loss"] for one in log if one["event"] == "step")
    assert not torch.equal(heads[0.0], heads[0.5])
    assert losses[0.5] > losses[0.0]  # the same start, and one more term above zero


def test_a_mix_needs_four_pairs() -> None:
    config = eclip.TrainConfig(train_data=("x",), mix=0.5, accum_freq=8)
    with pytest.raises(OptionError, match="mix needs 4 pairs in each part, but batch_size=16 has 2 in each of 8"):
        steps_of(100, 100, 16, 1, config, worded=False)
    assert steps_of(100, 100, 32, 1, config, worded=False) == 3


def test_weights_below_zero_are_refused() -> None:
    for option in ("mix", "separate"):
        with pytest.raises(OptionError, match=f"{option} must be 0 or more"):
            eclip.TrainConfig(train_data=("x",), **{option: -1.0}).check()
