"""`eclip train`, and its head in `eclip explain` and `eclip compare`."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import eclip
from eclip.backbones import head
from eclip.cli import app
from eclip.cli import train as door
from eclip.explanation.explanation import Explanation
from eclip.guides import GUIDES
from eclip.training import config, log, pooling
from eclip.training.config import TrainConfig, from_toml

ROOT = Path(__file__).parents[1]
QUICK = (
    "--train-texts",
    "captions",
    "--batch-size",
    6,
    "--epochs",
    2,
    "--lr",
    0.02,
    "--warmup",
    0,
    "--guide",
    "centre",
    "--device",
    "cpu",
)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in log.events(folder / "log.jsonl") if event["event"] == kind]


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 images with a caption each, and one without."""
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(13):
        values = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number:02d}.png")
        if number < 12:
            (folder / f"{number:02d}.txt").write_text(f"thing {number}")
    return folder


@pytest.fixture(scope="session")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    (folder / "classes.txt").write_text("1\tthing\n2\tdog\n")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / "images" / f"{number}.png")
        Image.fromarray(np.pad(np.full((8, 8), 1 + number % 2, np.uint8), 12)).save(folder / "masks" / f"{number}.png")
    return folder


class Run(NamedTuple):
    done: Result
    folder: Path


@pytest.fixture(scope="module")
def trained(tiny_name: str, pairs: Path, masks: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two epochs of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "my head"
    scored = ("--masks", masks, "--mask-count", 2, "--json")
    return Run(run("train", "--train-data", pairs, "--model", tiny_name, *QUICK, *scored, "-o", folder), folder)


# --- train -------------------------------------------------------------------


def test_the_record_is_that_of_the_log(trained: Run, tiny_name: str) -> None:
    done, folder = trained
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    steps, scores = events(folder, "step"), events(folder, "scores")
    assert (record["pairs"], record["bad"], record["epochs"], record["steps"]) == (12, 1, 2, 4)
    assert record["loss"] == {"first": steps[0]["loss"], "last": steps[3]["loss"]}
    assert [one["epoch"] for one in scores] == [0, 1, 2]
    for place, one in (("first", scores[0]), ("last", scores[2])):
        assert record["scores"][place] == {key: one[key] for key in ("epoch", "msc", "miou")}
    assert record["seconds"] > 0 and record["peak_mib"] > 10
    assert all(Path(file).exists() for file in record["files"].values())
    assert record["files"]["head"] == str(folder) and record["model"] == tiny_name


def test_one_sees_the_map_turn_and_how_to_use_the_head(trained: Run, pairs: Path, tmp_path: Path) -> None:
    done, folder = trained
    first, *epochs, bad, verdict, use = done.stderr.splitlines()
    assert first.startswith("cache: ") or epochs[0].startswith("epoch 0"), "the cache may be there already"
    wanted = [f"mSC {100 * one['msc']:.1f}  mIoU {100 * one['miou']:.1f}" for one in events(folder, "scores")]
    losses = ["", *(f"loss {events(folder, 'step')[step]['loss']:.3f}  " for step in (1, 3))]
    assert epochs[-3:] == [f"epoch {n} of 2  {losses[n]}{wanted[n]}" for n in range(3)]
    assert bad == f"skipped 1 bad pairs, listed in {folder / 'log.jsonl'}"
    before, after = (events(folder, "scores")[place] for place in (0, 2))
    changes = ", ".join(
        f"{name} {100 * before[key]:.1f} to {100 * after[key]:.1f}" for key, name in (("msc", "mSC"), ("miou", "mIoU"))
    )
    assert verdict.startswith("the maps ") and verdict.endswith(f"({changes})")
    assert use.startswith(f"saved the head in {folder}: eclip explain IMAGE ")
    command = shlex.split(use.partition("eclip explain IMAGE ")[2])
    again = run("explain", pairs / "00.png", *command, "-o", tmp_path)
    assert again.exit_code == 0, again.output
    assert Explanation.load(tmp_path).provenance["head"] == str(folder)


@pytest.mark.parametrize(
    ("msc", "miou", "said"),
    [
        ((0.1, 0.1004), (0.2, 0.2), "the maps are hardly different from before (mSC 10.0 to 10.0, mIoU 20.0 to 20.0)"),
        ((0.1, 0.2), (0.2, 0.2005), "the maps are better than before (mSC 10.0 to 20.0, mIoU 20.0 to 20.1)"),
        ((0.1, 0.1), (0.2, 0.15), "the maps are worse than before (mSC 10.0 to 10.0, mIoU 20.0 to 15.0)"),
        ((0.1, 0.2), (0.2, 0.15), "the maps gained contrast and lost overlap, so they are not simply better (mSC"),
        ((0.1, 0.0), (0.2, 0.25), "the maps gained overlap and lost contrast, so they are not simply better (mSC"),
    ],
)
def test_the_last_sentence_compares_the_maps_before_and_after(msc: Any, miou: Any, said: str) -> None:
    scores = {place: {"epoch": at, "msc": msc[at], "miou": miou[at]} for at, place in enumerate(("first", "last"))}
    assert door._verdict({"scores": scores, "loss": {"first": 2.0, "last": 1.0}}).startswith(said)
    blind = door._verdict({"scores": None, "loss": {"first": 2.0, "last": 1.0}})
    assert "the loss went from 2.000 to 1.000, which does not tell whether the maps are better: --masks DIR" in blind


def test_scores_on_other_masks_are_not_compared(
    tiny_name: str, pairs: Path, masks: Path, trained: Run, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(trained.folder, tmp_path / "out"))
    asked = ("train", "--train-data", pairs, "--model", tiny_name, *QUICK, "-o", out, "--resume", "--masks", masks)
    for epochs, said in (
        (3, "there is no score on these masks from before epoch 3 to compare with (mSC "),
        (4, " after epoch 3"),
    ):
        done = run(*asked, "--mask-count", 3, "--epochs", epochs)
        assert done.exit_code == 0, done.output
        assert said in done.stderr.splitlines()[-2]
    assert len(events(out, "scores")) == 5


def test_a_run_without_its_log_goes_on(tiny_name: str, pairs: Path, trained: Run, tmp_path: Path) -> None:
    shutil.copy(trained.folder / "checkpoint.pt", tmp_path)
    asked = ("train", "--train-data", pairs, "--model", tiny_name, *QUICK, "-o", tmp_path, "--resume", "--json")
    done = run(*asked)
    assert done.exit_code == 0 and "no step was left to do" in done.stderr, done.output
    assert json.loads(done.stdout)["loss"] == {"first": None, "last": None}
    assert (tmp_path / "eclip_head.json").is_file()
    record = json.loads(run(*asked, "--epochs", 3).stdout)
    assert (record["pairs"], record["bad"], record["epochs"], record["steps"]) == (12, 1, 3, 6)


def test_a_rank_without_the_rest_is_told(
    tiny_name: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    done = run("train", "--train-data", pairs, "--model", tiny_name, *QUICK, "-o", tmp_path / "out")
    assert done.exit_code == 1 and not isinstance(done.exception, ValueError)


def test_quiet_leaves_only_warnings(tiny_name: str, pairs: Path, tmp_path: Path) -> None:
    done = run("train", "--train-data", pairs, "--model", tiny_name, *QUICK, "-q", "-o", tmp_path / "head")
    assert done.exit_code == 0 and done.stdout == "" and (tmp_path / "head" / "eclip_head.json").is_file()
    assert not any(said in done.stderr for said in ("epoch 1 of", "cache:", "saved the head", "the loss went"))
    assert "skipped 1 bad pairs" in done.stderr


def test_an_epoch_without_masks_says_its_loss(tiny_name: str, pairs: Path, tmp_path: Path) -> None:
    done = run("train", "--train-data", pairs, "--model", tiny_name, *QUICK, "--no-cache", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    losses = [event["loss"] for event in events(tmp_path, "step")]
    assert done.stderr.splitlines()[:2] == [f"epoch {n} of 2  loss {losses[2 * n - 1]:.3f}" for n in (1, 2)]
    assert done.stdout == ""


def test_flags_win_over_the_file_and_the_file_over_defaults(tiny_name: str, pairs: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    said = f'train_data = "{pairs}"\nmodel = "{tiny_name}"\nepochs = 1\nbatch_size = 4\nlr = 0.5\nlearn_scale = true\n'
    file.write_text(
        said + 'form = "hard"\ntexts = "captions"\nguide = "centre"\nstream = true\n[guide_options]\nsigma = 0.4\n'
    )
    out = tmp_path / "out"
    flags = ("--batch-size", 3, "--form", "exclusion", "--no-learn-scale", "--cache", tmp_path / "cache")
    assert run("train", "--config", file, *flags, "-o", out).exit_code == 0
    [start] = events(out, "start")
    kept = start["config"]
    assert (kept["batch_size"], kept["form"], kept["learn_scale"]) == (3, "exclusion", False), "flags"
    assert (kept["lr"], kept["epochs"], kept["guide_options"]) == (0.5, 1, {"sigma": 0.4}), "the file"
    assert (kept["seed"], kept["wd"]) == (TrainConfig(train_data=()).seed, TrainConfig(train_data=()).wd), "defaults"
    assert not kept["stream"] and any((tmp_path / "cache").iterdir()), "--cache wins over stream = true"
    other = run("train", "--config", file, "--guide", "backbone", "--limit", 4, "-o", tmp_path / "other")
    assert other.exit_code == 0, other.output
    assert events(tmp_path / "other", "start")[0]["config"]["guide_options"] == {}, "those were of another guide"
    more = ("--guide-set", "sigma=0.3", "--limit", 4, "-o", tmp_path / "more")
    assert run("train", "--config", file, *more).exit_code == 0
    assert events(tmp_path / "more", "start")[0]["config"]["guide_options"] == {"sigma": 0.3}


def test_a_table_and_a_typed_tab(tiny_name: str, pairs: Path, tmp_path: Path) -> None:
    rows = [f"{pairs / f'{number:02d}.png'}\tthing {number}" for number in range(8)]
    (tmp_path / "table.csv").write_text("\n".join(["image\tsaid", *rows]))
    keys = ("--csv-image-key", "image", "--csv-caption-key", "said", "--csv-separator", r"\t")
    table = ("--train-data", tmp_path / "table.csv", *keys)
    done = run("train", *table, "--model", tiny_name, *QUICK, "--json", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["pairs"] == 8


def test_on_words_one_hears_of_pairs_that_have_none(tiny_name: str, pairs: Path, tmp_path: Path) -> None:
    said = ["a thing", "a dog", *["a dog and a cat"] * 9, "a cat"]
    rows = [f"{pairs / f'{number:02d}.png'}\t{text}" for number, text in enumerate(said)]
    (tmp_path / "table.tsv").write_text("\n".join(["filepath\ttitle", *rows]))
    asked = ("train", "--train-data", tmp_path / "table.tsv", "--model", tiny_name, *QUICK, "--json")
    words = ("--train-texts", "words", "--near", 0.9, "--form", "similarity_smooth")
    done = run(*asked, *words, "--learn-scale", "-o", tmp_path / "words")
    assert done.exit_code == 0, done.output
    record, [start] = json.loads(done.stdout), events(tmp_path / "words", "start")
    assert (record["pairs"], record["without_words"], record["steps"]) == (12, 1, 2)
    assert [start["config"][key] for key in ("texts", "near", "form")] == ["words", 0.9, "similarity_smooth"]
    assert "skipped 1 pairs without known words in the captions" in done.stderr.splitlines()
    plain = run(*asked, "-o", tmp_path / "plain")
    assert json.loads(plain.stdout)["without_words"] == 0 and "skipped" not in plain.stderr


def test_every_field_of_a_run_has_a_flag() -> None:
    flags = set(inspect.signature(door.train).parameters)
    assert {field.name for field in fields(TrainConfig)} - flags == {"guide_options"}, "which is --guide-set"


def test_a_process_that_does_not_lead_is_silent(
    tiny_name: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_leads", lambda: False)
    done = run("train", "--train-data", pairs, "--model", tiny_name, *QUICK, "--json", "-o", tmp_path)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "eclip_head.safetensors").is_file()


# --- a folder that holds a run, and one that was stopped -----------------------


def test_a_run_is_not_lost_by_another(trained: Run, tiny_name: str, pairs: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(trained.folder, tmp_path / "out"))
    asked = ("train", "--train-data", pairs, "--model", tiny_name, *QUICK, "-o", out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    refused = run(*asked)
    assert refused.exit_code == 2
    for way in ("already contains a run", "--resume", "--overwrite", "-o DIR"):
        assert way in refused.stderr
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    (out / "checkpoint.pt").unlink()
    assert run(*asked).exit_code == 2, "the head is there"
    assert run(*asked, "--resume").exit_code == 1, "nothing to resume"
    (foreign := tmp_path / "foreign").mkdir()
    (foreign / "checkpoint.pt").write_text("mine")
    for more in ((), ("--overwrite",), ("--overwrite", "--dry-run")):
        assert "may be yours" in run(*asked[:-1], foreign, *more).stderr
    anew = run(*asked, "--overwrite", "--seed", 1)
    assert anew.exit_code == 0, anew.output
    assert (out / "eclip_head.safetensors").read_bytes() != before["eclip_head.safetensors"]


@pytest.mark.parametrize(("number", "step", "code"), [(signal.SIGINT, 1, 130), (signal.SIGTERM, 4, 143)])
def test_a_stopped_run_goes_on(
    number: int,
    step: int,
    code: int,
    trained: Run,
    tiny_name: str,
    pairs: Path,
    masks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = door._Screen.__call__

    def stopping(screen: Any, what: str, done: int, total: int, word: str) -> None:
        own(screen, what, done, total, word)
        if (what, done) == ("training", step):
            os.kill(os.getpid(), number)

    scored = ("--masks", masks, "--mask-count", 2, "--json", "-o", tmp_path)
    asked = ("train", "--train-data", pairs, "--model", tiny_name, *QUICK, *scored)
    with monkeypatch.context() as patch:
        patch.setattr(door._Screen, "__call__", stopping)
        stopped = run(*asked)
    assert stopped.exit_code == code
    assert stopped.stderr.splitlines()[-1] == (
        f"error: stopped; the checkpoint is {tmp_path / 'checkpoint.pt'}: repeat the command with --resume to continue."
    )
    done = run(*asked, "--resume")
    assert done.exit_code == 0, done.output
    one, two = (folder / "eclip_head.safetensors" for folder in (trained.folder, tmp_path))
    assert one.read_bytes() == two.read_bytes()
    whole, parts = json.loads(trained.done.stdout), json.loads(done.stdout)
    assert all(parts[key] == whole[key] for key in ("loss", "scores", "epochs", "steps", "bad"))


def test_what_was_overwritten_is_not_resumed(
    trained: Run, tiny_name: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(screen: Any, what: str, *_: object) -> None:
        if what == "training":
            screen.loss = "loss 1.0"
            raise KeyboardInterrupt

    out = Path(shutil.copytree(trained.folder, tmp_path / "out"))
    asked = ("train", "--train-data", pairs, "--model", tiny_name, *QUICK, "-o", out)
    monkeypatch.setattr(door._Screen, "__call__", stopping)
    done = run(*asked, "--overwrite")
    assert done.exit_code == 130
    assert "stopped before the first checkpoint" in done.stderr
    again = run(*asked, "--resume")
    assert again.exit_code == 1 and "nothing to resume" in again.stderr


# --- wrong usage ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("", 2, "no training data was given: set --train-data to"),
        ("--train-data x --form sotf", 2, "form must be one of soft, hard"),
        ("--train-data x --threshold median", 2, "threshold must be one of mean, mass, got 'median'"),
        ("--train-data x --form similar", 2, "similarity_smooth, got 'similar'"),
        ("--train-data x --train-texts word", 2, "texts must be one of captions, words, got 'word'"),
        ("--train-data x --near 2", 2, "near must be a cosine, between -1 and 1, got 2.0"),
        ("--train-data x --source tokens", 2, "source must be one of value, output"),
        ("--train-data x --init zero", 2, "init must be one of model, random"),
        ("--train-data x --precision half", 2, "precision must be one of"),
        ("--train-data x --guide spectrl", 2, "Did you mean 'spectral'? `eclip guides ls` shows all 6."),
        ("--train-data x --guide-set tau", 2, "--guide-set needs KEY=VALUE, got 'tau'"),
        ("--train-data x --guide spectral --guide-set tua=1", 2, "'spectral' has no option 'tua'"),
        ("--train-data x --guide spectrl --guide-set tau=1", 2, "Did you mean 'spectral'?"),
        ("--train-data x --batch-size 0", 2, "batch_size must be at least 1, got 0"),
        ("--train-data x --model minni", 2, "unknown model 'minni'"),
        ("--train-data x --resume --overwrite", 2, "leave one of them out"),
        ("--train-data x --cache y --no-cache", 2, "leave one of them out"),
        ("--config nothing.toml", 2, "the configuration 'nothing.toml' cannot be read"),
        ("--config wrong.toml", 2, "no option 'epoch'"),
        ("--train-data x --lr big", 2, "--lr"),
        ("--train-data nowhere", 1, "nowhere: no such file or folder"),
        ("--train-data x --masks nowhere", 1, "nowhere"),
    ],
)
def test_wrong_usage(words: str, code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "wrong.toml").write_text("epoch = 3\n")
    done = run("train", *shlex.split(words))
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert done.stdout == "" and not (tmp_path / "eclip-head").exists()


def test_a_batch_too_large_is_two(tiny_name: str, pairs: Path, tmp_path: Path) -> None:
    words = ("--train-texts", "captions", "--batch-size", 256, "-o", tmp_path)
    done = run("train", "--train-data", pairs, "--model", tiny_name, *words)
    assert done.exit_code == 2
    assert "--batch-size 12" in done.stderr


def test_names_are_those_of_the_code_they_stand_for() -> None:
    assert (*pooling.FORMS, *pooling.SIMILARITIES) == config.FORMS
    assert (config.INSIDES, config.SOURCES, config.STARTS) == (pooling.INSIDES, head.SOURCES, head.STARTS)


def test_defaults_are_one_wherever_they_stand() -> None:
    run = TrainConfig(train_data=("x",))
    defaults = {
        function: {key: one.default for key, one in inspect.signature(function).parameters.items()}
        for function in (pooling.match, pooling.masked_max_pool, head.head_rows, head.EclipHead.start)
    }
    matching = defaults[pooling.match]
    assert (matching["form"], matching["threshold"], matching["guide"]) == (run.form, run.threshold, None)
    assert run.form == pooling.DEFAULT_FORM and run.guide == "none"
    pooled = defaults[pooling.masked_max_pool]
    assert pooled["form"] == pooling.PAPER_FORM == "soft" and run.form not in pooling.FORMS, "it pools without texts"
    assert (pooled["threshold"], pooled["guide"]) == (run.threshold, None)
    start = defaults[head.EclipHead.start]
    assert defaults[head.head_rows]["source"] == start["source"] == run.source == head.HeadConfig("", (), 1, 1).source
    assert all(start[key] == getattr(run, key) for key in ("init", "hidden", "text", "seed"))
    assert door.KEPT[1] == head.WEIGHTS


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.toml")), ids=lambda file: file.stem)
def test_recipes_are_ready_to_run(file: Path) -> None:
    asked = TrainConfig(**from_toml(file))
    asked.check()
    if file.stem == "eclip-mini":  # says of each choice what stands in the defaults
        assert asked == TrainConfig(train_data=asked.train_data, out=file.stem, text=True)
    else:  # the paper's, as far as it is known
        assert (asked.guide, asked.guide_options) == ("dino", {"name": "vit_small_patch16_224.dino"})
        assert (asked.form, asked.texts) == ("soft", "captions")
    assert asked.out == file.stem and not asked.learn_scale
    assert asked.source == "value", "from output tokens training finds no place, see the ablation in docs/eclip.md"


def test_guides_are_listed_from_the_dict() -> None:
    rows = json.loads(run("guides", "ls", "--json").stdout)
    assert {row["guide"]: row["what"] for row in rows} == {name: guide.summary for name, guide in GUIDES.items()}
    assert all(name in run("guides", "ls").stdout for name in GUIDES)


def test_eclip_is_a_module_that_can_be_run() -> None:
    done = subprocess.run([sys.executable, "-m", "eclip", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout == f"eclip {eclip.__version__}\n"


# --- the head in explain and compare --------------------------------------------


def test_explain_reads_the_head_and_repeats_it(trained: Run, tiny_name: str, images: Path, tmp_path: Path) -> None:
    asked = ("--method", "eclip", "--head", trained.folder, "--model", tiny_name)
    done = run("explain", images, "-t", "a dog", *asked, "-o", tmp_path / "one")
    assert done.exit_code == 0, done.output
    answer = Explanation.load(tmp_path / "one")
    backbone = eclip.load(tiny_name, head=trained.folder)
    np.testing.assert_allclose(
        answer.maps, eclip.explain([images / "a.png", images / "b.jpg"], "a dog", model=backbone, method="eclip").maps
    )
    start = eclip.explain(images / "a.png", "a dog", model=tiny_name, method="maskclip")
    assert np.abs(answer.maps[0] - start.maps[0]).max() > 0.01, "training has moved it"
    assert answer.provenance["head"] == str(trained.folder)
    command = shlex.split(answer.provenance["command"])
    assert f"--head={trained.folder}" in command
    assert run(*command[1:], "-o", tmp_path / "two").exit_code == 0
    again = Explanation.load(tmp_path / "two")
    assert np.array_equal(answer.maps, again.maps) and answer.provenance == again.provenance


def test_a_head_is_what_is_asked_with_where_no_method_is_named(
    trained: Run, tiny_name: str, images: Path, tmp_path: Path
) -> None:
    image, headed = images / "a.png", eclip.load(tiny_name, head=trained.folder)
    wanted = eclip.explain(image, "a dog", model=headed, method="eclip", versus="grass")
    asked = ("explain", image, "-t", "a dog", "--versus", "grass", "--model", tiny_name)
    done = run(*asked, "--head", trained.folder, "-o", tmp_path / "one", "--device", "cpu")
    assert done.exit_code == 0, done.output
    answer = Explanation.load(tmp_path / "one")
    assert np.array_equal(answer.maps, wanted.maps) and answer.provenance == wanted.provenance
    assert (
        "--method eclip" in answer.provenance["command"] and f"--head={trained.folder}" in answer.provenance["command"]
    )
    assert run(*asked, "-o", tmp_path / "two").exit_code == 0
    assert Explanation.load(tmp_path / "two").provenance["method"] == "surgery", "without a head"
    [each] = eclip.explain_each([image], "a dog", model=headed)
    assert each.provenance["method"] == "eclip"
    [each] = eclip.explain_each([image], "a dog", model=tiny_name, device="cpu")
    assert each.provenance["method"] == "surgery" and "--method surgery" in each.provenance["command"]


def test_a_record_says_where_the_head_is_from(trained: Run, tiny_name: str, images: Path, tmp_path: Path) -> None:
    image, asked = images / "a.png", {"texts": "a dog", "method": "eclip"}
    plain = eclip.explain(image, "a dog", model=tiny_name, method="itsm").provenance
    assert plain["head"] is None and "--head" not in plain["command"]
    named = eclip.load(tiny_name, head=trained.folder)
    provenance = eclip.explain(image, "a dog", model=named, method="itsm").provenance
    assert provenance["head"] == str(trained.folder) and "--head" not in provenance["command"], (
        "which that method does not read"
    )
    own = eclip.with_head(eclip.load(tiny_name), eclip.EclipHead.start(eclip.load(tiny_name)))
    provenance = eclip.explain(image, model=own, **asked).provenance
    assert (provenance["head"], provenance["command"]) == ("from memory", None)
    folder = Path(shutil.copytree(tiny_name.removeprefix("local-dir:"), tmp_path / "model"))
    for name in (head.WEIGHTS, head.CONFIG):
        shutil.copy(trained.folder / name, folder)
    provenance = eclip.explain(image, model=f"local-dir:{folder}", **asked).provenance
    assert provenance["head"] == "beside the model" and "--head" not in provenance["command"]
    assert run(*shlex.split(provenance["command"])[1:], "-o", tmp_path / "out").exit_code == 0


def test_compare_reads_the_head_and_repeats_it(trained: Run, tiny_name: str, images: Path, tmp_path: Path) -> None:
    asked = ("--methods", "eclip,itsm", "--head", trained.folder, "--models", tiny_name, "--format", "npz,json")
    done = run("compare", images / "a.png", "-t", "a dog", *asked, "-o", tmp_path / "one")
    assert done.exit_code == 0, done.output
    provenance = json.loads((tmp_path / "one" / "manifest.json").read_text())["provenance"]
    assert provenance["models"][tiny_name]["head"] == str(trained.folder)
    assert run(*shlex.split(provenance["command"])[1:], "-o", tmp_path / "two").exit_code == 0
    alone = eclip.explain(images / "a.png", "a dog", model=eclip.load(tiny_name, head=trained.folder), method="eclip")
    for folder in ("one", "two"):
        with np.load(tmp_path / folder / "a.npz") as arrays:
            [name] = [name for name in arrays if name.endswith("/eclip")]
            np.testing.assert_allclose(arrays[name], alone.maps[0], atol=1e-6)


def test_a_comparison_of_several_models_with_a_named_head_has_no_command(
    trained: Run, tiny_name: str, images: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_name.removeprefix("local-dir:"), tmp_path / "model"))
    models = [eclip.load(tiny_name, head=trained.folder), eclip.load(f"local-dir:{folder}")]
    found = eclip.compare(images / "a.png", "a dog", models=models, methods=["itsm", "eclip"])
    assert found.provenance["command"] is None
    assert list(found.not_applicable) == [(f"local-dir:{folder}", "eclip")]


def test_comparing_all_methods_without_a_head_lists_eclip_as_not_applicable(
    tiny_name: str, images: Path, tmp_path: Path
) -> None:
    asked = ("--methods", "all", "--models", tiny_name, "--format", "json", "--image-size", 16, "--json")
    done = run("compare", images / "a.png", "-t", "a dog", *asked, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    [image] = json.loads(done.stdout)["images"]
    [gap] = [gap for gap in image["not_applicable"] if gap["method"] == "eclip"]
    assert "has no trained head" in gap["why"] and f"eclip train --model {tiny_name}" in gap["why"]
    assert "itsm" in [one["method"] for one in image["maps"]]


def test_explain_without_a_head_says_how_to_get_one(tiny_name: str, images: Path, tmp_path: Path) -> None:
    done = run("explain", images / "a.png", "-t", "a dog", "--method", "eclip", "--model", tiny_name, "-o", tmp_path)
    assert done.exit_code == 1
    assert "'eclip' needs a head" in done.stderr and "`eclip explain --head DIR`" in done.stderr


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "there is no head at"),
        ("damaged", "cannot be read"),
        ("other", "this head was trained for"),
    ],
)
def test_a_wrong_head_is_one_message(
    fault: str, message: str, trained: Run, tiny_name: str, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "head"
    if fault != "missing":
        shutil.copytree(trained.folder, folder)
    if fault == "damaged":
        (folder / head.WEIGHTS).write_bytes((folder / head.WEIGHTS).read_bytes()[:100])
    if fault == "other":
        said = json.loads((folder / head.CONFIG).read_text())
        (folder / head.CONFIG).write_text(json.dumps({**said, "probe": [value + 1 for value in said["probe"]]}))
    for words in (("explain", "--method", "eclip", "--model"), ("compare", "--methods", "eclip", "--models")):
        asked = (images / "a.png", "-t", "a dog", "--head", folder, "-o", tmp_path / "out")
        done = run(*words, tiny_name, *asked)
        assert done.exit_code == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("explain a.jpg -t dog --method surgery --head x", "--head applies only to the method eclip"),
        ("compare a.jpg -t dog --methods itsm,legrad --head x", "--head applies only to the method eclip"),
        (
            "compare a.jpg -t dog --models mini,local-dir:. --head x",
            "--head belongs to one model, got mini, local-dir:.",
        ),
    ],
)
def test_a_head_that_nothing_reads_is_wrong_usage(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "open_clip_config.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setenv("COLUMNS", "200")
    done = run(*shlex.split(words))
    assert done.exit_code == 2, done.output
    assert message in done.stderr
