"""The tasks "words" and "contrast": their numbers against plain loops, their baselines, data that do not fit."""

from __future__ import annotations

import csv
import html
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

import eclip
import tiny
from eclip.cli import app
from eclip.datasets import dataset
from eclip.datasets.pair import Pair, PairSet
from eclip.errors import DataError, LayoutError, OptionError, TextCutWarning, UnknownNameError
from eclip.evaluation.contrast import changed
from eclip.evaluation.evaluate import evaluate
from eclip.evaluation.evaluation import Evaluation
from eclip.evaluation.rules import Contrast, Words
from eclip.images import Place
from eclip.words import WORD_METHODS

DATA = Path(__file__).parents[2] / "shared" / "data"
SAID = (
    (("a dog, on grass", "two dogs"), "a cat, on grass", "replace_obj"),
    (("a red house",), "a big red house", "add_att"),
    (("man and dog",), "dog and man", "swap_obj"),
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    folder, items = tmp_path_factory.mktemp("pairs"), []
    for seed, (captions, negative, kind) in enumerate(SAID):
        file = folder / f"{seed}.png"
        values = np.random.default_rng(seed).integers(0, 256, (30 + seed, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(file)
        items.append(Pair(f"{seed}.png", Place(str(file), 0, file.stat().st_size), captions, "", negative, kind))
    return PairSet("three", items, None, [])


@pytest.fixture(scope="module")
def words(pairs: PairSet, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    out = tmp_path_factory.mktemp("words")
    return evaluate(pairs, out=out, models=tiny.backbone("vit"), protocol="words-v1", batch_size=2)


@pytest.fixture(scope="module")
def crepe(pairs: PairSet, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    out = tmp_path_factory.mktemp("crepe")
    return evaluate(pairs, out=out, models=tiny.backbone("vit"), protocol="crepe-v1", batch_size=2)


def rows(found: Evaluation) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in found.results["rows"]}


def numbers(found: Evaluation, method: str) -> dict[str, float]:
    return {key: one["value"] for key, one in rows(found)[method]["numbers"].items() if one["value"] is not None}


def score(pair: Pair, text: str) -> float:
    backbone = tiny.backbone("vit")
    image = F.normalize(eclip.encode(backbone, backbone.preprocess(pair.open())[None]).feature, dim=-1)
    return float(image @ eclip.encode_texts(backbone, [text])[0])


@pytest.mark.parametrize("method", WORD_METHODS)
@pytest.mark.long(every=5)
def test_words_are_deleted_and_inserted_by_their_relevance(words: Evaluation, pairs: PairSet, method: str) -> None:
    gaps, insertions, deletions = [], [], []
    for pair in pairs.items:
        text = pair.captions[0]
        answer = eclip.explain_words(pair.open(), [text], model=tiny.backbone("vit"), method=method)
        order = np.argsort(-answer.values[0][0], kind="stable").tolist()
        tokens = list(answer.words[0])  # "a", "dog", ",", "on", "grass"
        curves = []
        steps = range(len(order) + 1)
        for kept in ([order[k:] for k in steps], [order[:k] for k in steps]):
            left = [text if len(own) == len(order) else " ".join(tokens[one] for one in sorted(own)) for own in kept]
            curves.append(np.trapezoid([score(pair, one) for one in left]) / len(order))
        deletions.append(curves[0])
        insertions.append(curves[1])
        gaps.append(curves[1] - curves[0])
    found = numbers(words, method)
    assert rows(words)[method]["pairs"] == 3
    assert found["word_deletion"] == pytest.approx(np.mean(deletions), abs=2e-5)
    assert found["word_insertion"] == pytest.approx(np.mean(insertions), abs=2e-5)
    assert found["word_gap"] == pytest.approx(np.mean(gaps), abs=4e-5)


def test_orders_that_see_nothing_are_baselines(words: Evaluation, pairs: PairSet) -> None:
    assert [name for name, row in rows(words).items() if row["control"]] == ["random", "last"]
    deletions = []
    for pair in pairs.items:
        tokens = list(eclip.explain_words(pair.open(), [pair.captions[0]], model=tiny.backbone("vit")).words[0])
        left = [pair.captions[0], *(" ".join(tokens[: len(tokens) - k]) for k in range(1, len(tokens) + 1))]
        deletions.append(np.trapezoid([score(pair, one) for one in left]) / len(tokens))
    assert numbers(words, "last")["word_deletion"] == pytest.approx(np.mean(deletions), abs=2e-5)
    best = max(numbers(words, name)["word_gap"] for name in ("random", "last"))
    for method in WORD_METHODS:
        own = numbers(words, method)
        assert own["over_control"] == pytest.approx(own["word_gap"] - best, abs=2e-6)


def test_words_that_the_model_does_not_read_are_left_out(pairs: PairSet, tmp_path: Path) -> None:
    read = " ".join(["1234567"] * 9 + ["dog"] * 6)  # each digit is a token

    def found(name: str, caption: str) -> dict[str, Any]:
        some = PairSet(name, [replace(pairs.items[0], captions=(caption,))], None, [])
        asked: dict[str, Any] = {"methods": "gradeclip", "models": tiny.backbone("vit"), "protocol": "words-v1"}
        answer = evaluate(some, out=tmp_path / name, **asked)
        return {name: numbers(answer, name) for name in rows(answer)}

    with pytest.warns(TextCutWarning, match=r"reads 15 of the 18 words .* '1234567 green grass'"):
        assert found("long", f"{read} 1234567 green grass") == found("read", read)


def test_every_caption_that_the_rules_ask_for_counts(pairs: PairSet, tmp_path: Path) -> None:
    rules = replace(eclip.PROTOCOLS["words-v1"], name="both", rules=Words(captions=2))
    found = evaluate(pairs, out=tmp_path, methods="leave_one_out", models=tiny.backbone("vit"), protocol=rules)
    row = rows(found)["leave_one_out"]
    assert (row["pairs"], row["images"]) == (4, 3)
    with (tmp_path / "pairs.csv").open() as file:
        said = [row["name"] for row in csv.DictReader(file) if row["method"] == "random"]
    assert said == ["a dog, on grass", "two dogs", "a red house", "man and dog"]


def test_the_model_is_asked_which_caption_is_right(crepe: Evaluation, pairs: PairSet) -> None:
    right = [score(pair, pair.captions[0]) > score(pair, pair.negative) for pair in pairs.items]
    found = numbers(crepe, "model")
    assert found["accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
    for pair, one in zip(pairs.items, right, strict=True):
        assert found[f"accuracy_{pair.kind}"] == one
    assert rows(crepe)["model"]["kinds"] == {"add_att": 1, "replace_obj": 1, "swap_obj": 1}


@pytest.mark.parametrize("method", WORD_METHODS)
def test_the_largest_change_is_looked_for_among_all_words(crepe: Evaluation, pairs: PairSet, method: str) -> None:
    asked = {"model": tiny.backbone("vit"), "method": method}
    hits = []
    for pair in pairs.items:
        both = eclip.explain_words(pair.open(), [pair.captions[0], pair.negative], **asked)
        change, own = changed(*both.words, *(values[0] for values in both.values))
        hits.append(own[np.abs(change).argmax()])
    assert numbers(crepe, method)["found"] == pytest.approx(np.mean(hits), abs=1e-6)


def test_changes_by_hand() -> None:
    true, wrong = ["A", "dog", "on", "grass"], ["a", "big", "dog", "on", "sand"]
    change, own = changed(true, wrong, np.array([1.0, 2, 3, 4]), np.array([0.5, 7, 5, 3, 1]))
    assert change.tolist() == [0.5, -3, 0, 4, -7, -1], "a, dog, on; then grass; then big and sand"
    assert own.tolist() == [False] * 3 + [True] * 3
    change, own = changed(["man", "and", "dog"], ["dog", "and", "man"], np.ones(3), np.full(3, 0.5))
    assert own.sum() == 4 and change[~own].tolist() == [0.5]


def test_pairs_have_their_kind_and_no_number_of_others(crepe: Evaluation) -> None:
    with (crepe.folder / "pairs.csv").open() as file:
        pairs = list(csv.DictReader(file))
    assert list(pairs[0]) == ["model", "method", "image", "class", "name", "accuracy", "kind", "found"]
    assert [row["kind"] for row in pairs if row["method"] == "model"] == ["replace_obj", "add_att", "swap_obj"]
    assert all((row["found"] == "") == (row["method"] == "model") for row in pairs)


@pytest.mark.parametrize("fixture", ["words", "crepe"])
def test_the_report_reads_in_words(fixture: str, request: pytest.FixtureRequest) -> None:
    found: Evaluation = request.getfixturevalue(fixture)
    page = found.report()
    assert found.results["protocol"]["summary"] in html.unescape(page) and "over control" in page
    assert ("the most relevant first" if fixture == "words" else "one of the two captions has") in page


def test_captions_without_wrong_ones_are_refused(pairs: PairSet, tmp_path: Path) -> None:
    plain = replace(pairs, items=[replace(item, negative="", kind="") for item in pairs.items])
    with pytest.raises(OptionError, match=r"three has no wrong captions, which 'crepe-v1' needs: use sugar_crepe"):
        evaluate(plain, out=tmp_path, models=tiny.backbone("vit"), protocol="crepe-v1")
    named = replace(plain, classes=("a red house",), items=[replace(plain.items[1], captions=("a red house",))])
    with pytest.raises(OptionError, match=r"three has names of classes, but 'words-v1' needs captions"):
        evaluate(named, out=tmp_path, models=tiny.backbone("vit"), protocol="words-v1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"methods": "surgery"}, UnknownNameError, "surgery"),
        ({"methods": ["gradeclip", "nothing"]}, UnknownNameError, "nothing"),
        ({"methods": []}, OptionError, "'words-v1' scores gradeclip, chefer, leave_one_out"),
        ({"options": {"chefer": {"depth": 1}}, "methods": "gradeclip"}, OptionError, "options has chefer"),
        ({"options": {"gradeclip": {"dept": 1}}}, OptionError, "no option 'dept'"),
        ({"refine": "pamr"}, OptionError, "refine='pamr' sharpens maps, but 'words-v1' scores words"),
    ],
)
def test_what_is_no_question_of_words_is_refused(
    pairs: PairSet, tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(pairs, out=tmp_path, models=tiny.backbone("vit"), protocol="words-v1", **settings)
    assert not list(tmp_path.iterdir())


def test_methods_for_words_are_refused_for_maps(pairs: PairSet, tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        evaluate(pairs, out=tmp_path, methods=WORD_METHODS["chefer"], models=tiny.backbone("vit"))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [lambda: Words(captions=0), lambda: Words(1, "miou"), lambda: Contrast("miou")])
def test_rules_out_of_range_are_refused(wrong: Any) -> None:
    with pytest.raises(OptionError):
        wrong()


def crepe_folder(root: Path) -> None:
    kinds = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
    for number, kind in enumerate(kinds):
        row = {"filename": "1.jpg", "caption": f" a {number}", "negative_caption": f"not a {number}"}
        (root / "data").mkdir(parents=True, exist_ok=True)
        (root / "data" / f"{kind}.json").write_text(json.dumps({"0": row, "1": {**row, "filename": "2.jpg"}}))
    (root / "val2017").mkdir()
    Image.new("RGB", (40, 20)).save(root / "val2017" / "1.jpg")


def test_sugar_crepe_in_its_published_layout(tmp_path: Path) -> None:
    crepe_folder(tmp_path)
    found = dataset("sugar_crepe").read(tmp_path)
    assert isinstance(found, PairSet) and len(found.items) == 7 and len(found.bad) == 7
    first = found.items[0]
    assert (first.key, first.captions, first.negative, first.kind) == ("add_att/0", ("a 0",), "not a 0", "add_att")
    assert first.open().size == (40, 20) and set(found.image_numbers()) == {0} == set(found.group_numbers())
    assert found.bad[0] == ("add_att/1", f"{tmp_path / 'val2017' / '2.jpg'}: no such file.")
    other = dataset("sugar_crepe").read(tmp_path, "swap_obj")
    assert [item.kind for item in other.items] == ["swap_obj"]
    (tmp_path / "data" / "add_obj.json").write_text("[]")
    with pytest.raises(DataError, match=r"add_obj\.json is not in SugarCrepe's format"):
        dataset("sugar_crepe").read(tmp_path)
    (tmp_path / "data" / "add_att.json").unlink()
    with pytest.raises(LayoutError, match=r"add_att\.json: no such file"):
        dataset("sugar_crepe").read(tmp_path)


def test_the_digest_changes_with_the_wrong_caption(pairs: PairSet) -> None:
    other = replace(pairs, items=[replace(pairs.items[0], negative="else"), *pairs.items[1:]])
    plain = replace(pairs, items=[replace(item, negative="", kind="") for item in pairs.items])
    assert len({pairs.digest(), other.digest(), plain.digest()}) == 3


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data, the real packs, is not here")
def test_the_pack_has_the_captions_that_its_readme_counts() -> None:
    found = dataset("sugar_crepe_pack").read(DATA / "sugar-crepe")
    assert isinstance(found, PairSet) and len(found.items) == 1992 and not found.bad
    assert found.items[0].open().mode == "RGB" and all(item.negative and item.kind for item in found.items)


def test_the_command_line_scores_words_with_options(tmp_path: Path, tiny_name: str) -> None:
    crepe_folder(tmp_path / "crepe")
    command = [
        "eval",
        "sugar_crepe",
        "--root",
        str(tmp_path / "crepe"),
        "--models",
        tiny_name,
        "-o",
        str(tmp_path / "o"),
    ]
    (tmp_path / "crepe" / "val2017" / "2.jpg").write_bytes((tmp_path / "crepe" / "val2017" / "1.jpg").read_bytes())
    done = CliRunner().invoke(app, [*command, "--protocol", "crepe-v1", "--set", "gradeclip.depth=1"])
    assert done.exit_code == 0, done.output
    assert "found" in done.stdout and "accuracy" in done.stdout and "(last)" in done.stdout
    wrong = CliRunner().invoke(app, [*command, "--protocol", "crepe-v1", "--set", "surgery.depth=1"])
    assert wrong.exit_code == 2 and "with a method of gradeclip, chefer, leave_one_out" in wrong.stderr
