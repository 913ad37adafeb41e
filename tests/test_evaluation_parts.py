"""Confidence intervals against a plain bootstrap, the stored parts of a run, and the baselines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eclip.errors import ResultError
from eclip.evaluation.baselines import BASELINES, centre, random
from eclip.evaluation.bootstrap import Weights, number
from eclip.evaluation.store import BatchResult, ResultStore, open_run


def test_sums_count_an_image_as_often_as_its_weight() -> None:
    groups = np.array([7, 3, 7])
    weights = Weights(groups, replicates=5)
    assert weights.groups.tolist() == [3, 7]
    three, seven = weights.counts.T.astype(int)
    sums = weights.sums(np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]))
    assert sums[:, 0].tolist() == (seven * 5 + three * 2).tolist(), "both pairs of image 7 go together"
    assert sums[:, 1].tolist() == (10 * (seven * 5 + three * 2)).tolist()
    assert weights.sums(np.array([[2.0]]), np.array([1]))[:, 0].tolist() == (three * 2).tolist()


def test_class_ratios_divide_sums_and_leave_out_classes_that_a_replicate_lacks() -> None:
    weights = Weights(np.array([0, 1, 2, 3]), replicates=50)
    under, over = np.array([[1.0], [3.0], [2.0], [5.0]]), np.array([[2.0], [4.0], [8.0], [5.0]])
    found = weights.class_ratios(under, over, np.array([7, 7, 2, 9]))[:, 0]
    lacking = 0
    for counts, ratio in zip(weights.counts.astype(float), found, strict=True):
        above, below = counts * under[:, 0], counts * over[:, 0]
        known = [above[own].sum() / below[own].sum() for own in ([0, 1], [2], [3]) if below[own].sum() > 0]
        assert ratio == pytest.approx(np.mean(known) if known else np.nan, nan_ok=True)
        lacking += len(known) < 3
    assert 0 < lacking < 50, "both cases occur"


def test_weights_of_an_image_depend_on_its_place_alone() -> None:
    few, many = Weights(np.array([5, 900])), Weights(np.arange(1000))
    assert (few.counts == many.counts[:, [5, 900]]).all()
    assert (many.counts[:, 0] != many.counts[:, 1]).any()


def test_the_interval_is_that_of_a_bootstrap_by_choice() -> None:
    generator = np.random.default_rng(5)
    values = generator.gamma(2.0, size=400)
    weights = Weights(np.arange(400))
    ours = number(values.mean(), weights.sums(values[:, None])[:, 0] / weights.sums(np.ones((400, 1)))[:, 0])
    plain = np.percentile([generator.choice(values, 400).mean() for _ in range(4000)], (2.5, 97.5))
    spread = values.std() / 20  # of the mean of 400
    assert abs(ours.low - plain[0]) < 0.25 * spread and abs(ours.high - plain[1]) < 0.25 * spread
    assert ours.value == values.mean() and ours.low < ours.value < ours.high


def test_replicates_without_the_number_are_left_out_and_none_is_unknown() -> None:
    assert number(1.0, np.array([np.nan, 2.0, np.nan])).plain() == {"value": 1.0, "low": 2.0, "high": 2.0}
    assert number(np.nan, np.array([np.nan])).plain() == {"value": None, "low": None, "high": None}


OURS = {"schema": "eclip.eval/1"}


def test_parts_come_back_as_they_were_and_missing_ones_are_named(tmp_path: Path) -> None:
    parts = ResultStore(tmp_path, "hf:org/a model", "abc")
    assert parts.missing() == [0, 1, 2]
    one = BatchResult(
        {"means": np.array([[0.25, -1.0]])}, {"forward": 0.5}, 4, {"rollout": "no blocks"}, [("a", "broken")]
    )
    parts.write(1, one)
    assert ResultStore(tmp_path, "hf:org/a model", "abc").missing() == [0, 1, 2], "what failed is tried again"
    parts.write(1, replace(one, failures=[]))
    assert ResultStore(tmp_path, "hf:org/a model", "abc").missing() == [0, 2]
    assert ResultStore(tmp_path, "hf:org/a model", "aBc").missing() == [0, 1, 2], "its files are others now"
    parts.write(1, one)
    assert ResultStore(tmp_path, "other", "abc").missing() == [0, 1, 2]
    for number_ in (0, 2):
        parts.write(number_, BatchResult({}))
    back = list(parts)[1]
    assert back.arrays["means"].tolist() == [[0.25, -1.0]] and back.arrays["means"].dtype == np.float64
    assert (back.seconds, back.images, back.not_applicable, back.failures) == (
        one.seconds,
        4,
        one.not_applicable,
        one.failures,
    )


def test_a_broken_part_says_what_to_do(tmp_path: Path) -> None:
    parts = ResultStore(tmp_path, "m", "a")
    parts.write(0, BatchResult({"a": np.arange(9)}))
    file = next(tmp_path.rglob("*.npz"))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ResultError, match=r"000000\.npz cannot be read .* remove it"):
        list(parts)


def test_a_run_goes_on_with_the_same_question_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    open_run(folder, {**OURS, "methods": ["itsm"], "batch_size": 4})
    ResultStore(folder, "m", "a").write(0, BatchResult({}))
    open_run(folder, {**OURS, "methods": ["itsm"], "batch_size": 4})
    assert ResultStore(folder, "m", "a").missing() == []
    with pytest.raises(ResultError, match=r"batch_size was 4, now 8\): use another folder .* \(--overwrite\)"):
        open_run(folder, {**OURS, "methods": ["itsm"], "batch_size": 8})
    assert ResultStore(folder, "m", "a").missing() == [], "nothing is lost by asking"
    open_run(folder, {**OURS, "methods": ["itsm"], "batch_size": 8}, overwrite=True)
    assert ResultStore(folder, "m", "a").missing() == [0]
    assert json.loads((folder / "question.json").read_text())["batch_size"] == 8


def test_parts_of_a_run_begin_it_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(*_: object) -> None:
        monkeypatch.undo()
        open_run(tmp_path, {**OURS, "every": 1})
        ResultStore(tmp_path, "m", "a").write(0, BatchResult({}))

    monkeypatch.setattr("eclip.evaluation.store.check_no_other", meanwhile)
    open_run(tmp_path, {**OURS, "every": 1})
    assert ResultStore(tmp_path, "m", "a").missing() == []


def test_what_differs_between_questions_is_told_as_deep_as_it_goes(tmp_path: Path) -> None:
    open_run(tmp_path, {**OURS, "methods": {"itsm": {}, "legrad": {"depth": 4}}, "data": {"every": 1, "split": "val"}})
    with pytest.raises(ResultError) as told:
        other = {"methods": {"legrad": {"depth": 2}, "rise": {}}, "data": {"every": 1, "split": "train"}}
        open_run(tmp_path, OURS | other)
    wanted = "methods.itsm was {}, now absent; methods.legrad.depth was 4, now 2; methods.rise was absent, now {}; "
    assert f'({wanted}data.split was "val", now "train")' in str(told.value)
    with pytest.raises(ResultError, match=r"4, now 5; .*; and 1 more\)"):
        open_run(tmp_path, {**OURS, "methods": {"legrad": {"depth": 5}}, "data": {}, "batch_size": 1})


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", '{"q": "what is CLIP?"}'])
def test_a_question_of_others_is_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "question.json").write_text(text)
    (tmp_path / "results.csv").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ResultError, match=r"contains question.json, results.csv, not written by eclip"):
            open_run(tmp_path, {**OURS, "every": 1}, overwrite=overwrite)
    assert (tmp_path / "question.json").read_text() == text and (tmp_path / "results.csv").read_text() == "mine"


def test_a_stopped_overwrite_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    open_run(folder, {**OURS, "every": 1})
    ResultStore(folder, "m", "a").write(0, BatchResult({}))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", stop)
        open_run(folder, {**OURS, "every": 2}, overwrite=True)
    open_run(folder, {**OURS, "every": 2})
    assert ResultStore(folder, "m", "a").missing() == [0]
    (tmp_path / "elsewhere").mkdir()
    (folder / "parts").symlink_to(tmp_path / "elsewhere")
    open_run(folder, {**OURS, "every": 3}, overwrite=True)
    assert not (folder / "parts").exists() and (tmp_path / "elsewhere").is_dir()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        open_run(tmp_path / "file", OURS)


def test_baselines_know_nothing_but_place_and_seed() -> None:
    assert sorted(BASELINES) == ["centre", "ones", "random"]
    heat = centre((3, 4), (0,))
    # a cell of 3 x 4 lies 1/3 and 1/8 + k/4 from the middle: exp(-r^2 / (2 * 0.25^2))
    assert heat[1, 1] == pytest.approx(np.exp(-8 * 0.125**2)) and heat[0, 0] == pytest.approx(
        np.exp(-8 * (1 / 9 + 0.375**2))
    )
    assert (random((3, 4), (5, 1)) == random((3, 4), (5, 1))).all()
    assert (random((3, 4), (5, 1)) != random((3, 4), (5, 2))).any()
