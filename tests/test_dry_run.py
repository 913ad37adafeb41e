"""--dry-run: the numbers are those of the run, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from test_cli import run
from test_cli_train import QUICK, pairs  # noqa: F401  # a fixture
from test_evaluate import eval_command, folder, masks  # noqa: F401  # fixtures


def dry(*words: object) -> dict[str, Any]:
    """What a command says in --json, checked to be what it says in lines."""
    done = run(*words, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    assert told.pop("schema") == "eclip.dry-run/1" and told.pop("failures") == []
    lines = run(*words, "--dry-run").stdout.splitlines()
    assert lines[0] == "dry run, nothing is written:" and len(lines) == 1 + len(told)
    for line, (name, value) in zip(lines[1:], told.items(), strict=True):
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        assert line == f"  {name.replace('_', ' ')}: {'not known in advance' if value is None else shown}"
    return told


def test_explain_and_segment_of_pictures(tiny_name: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("-m", tiny_name, "--batch-size", 1, "-o", out, "--format", "json,csv")
    told = dry("explain", images, *asked, "-t", "a dog", "-t", "grass", "--method", "itsm", "-t", "sky")
    assert told == {
        "command": "eclip explain",
        "model": tiny_name,
        "method": "itsm",
        "device": "auto",
        "texts": 3,
        "images": 2,
        "batch_size": 1,
        "batches": 2,
        "formats": ["json", "csv"],
        "out": str(out),
    }
    told = dry("segment", images, *asked[:-2], "-c", "a dog", "-c", "grass")
    assert (told["command"], told["classes"], told["images"], told["batches"]) == ("eclip segment", 2, 2, 2)
    assert not out.exists()


def test_what_the_run_would_refuse_is_refused(tiny_name: str, images: Path, tmp_path: Path) -> None:
    asked = ("-m", tiny_name, "-t", "a dog", "--dry-run", "-o", tmp_path / "out")
    lost = run("explain", images, tmp_path / "none.png", *asked)
    assert lost.exit_code == 1 and "images: 2" in lost.stdout and "none.png" in lost.stderr
    lost = run("explain", tmp_path / "none.tar", *asked, "--json")
    assert lost.exit_code == 1 and "none.tar" in json.loads(lost.stdout)["failures"][0]["error"]
    wrong = run("explain", images, *asked, "--write", "maps", "--shard-size", 4, "--batch-size", 3)
    assert wrong.exit_code == 2 and "shard_size must be a multiple of batch_size" in wrong.stderr
    assert run("explain", images, *asked, "--write", "map").exit_code == 2
    for words in (("--timeout", 0), ("--timeout", "nan"), ("--concurrency", 3), ("--ray-address", "auto")):
        wrong = run("explain", images, *asked, *words)
        assert wrong.exit_code == 2 and words[0].strip("-") in wrong.stderr
    assert run("explain", images, *asked, "--format", "pgn").exit_code == 2
    (tmp_path / "out").mkdir()
    for name in ("question.json", "parts"):
        (tmp_path / "out" / name).touch()
    other = run("explain", images, *asked)
    assert other.exit_code == 1 and "contains results of `eclip eval`" in other.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["parts", "question.json"]


@pytest.mark.parametrize(
    ("command", "words"), [("explain", ("-t", "a dog", "--method", "itsm")), ("segment", ("-c", "a dog", "-c", "sky"))]
)
def test_shards(command: str, words: tuple[str, ...], tiny_name: str, images: Path, tmp_path: Path) -> None:
    out, write = tmp_path / "out", "boxes,masks"
    asked = (command, *[images / "a.png"] * 3, *[images / "b.jpg"] * 2, "-m", tiny_name, *words, "--write", write)
    asked += ("--shard-size", 2, "--batch-size", 2, "--workers", 0, "-o", out)
    told = dry(*asked)
    assert (told["images"], told["batches"], told["shards"], told["write"]) == (5, 3, 3, ["boxes", "masks"])
    assert "continues" not in told and not out.exists()
    assert dry(*asked, "--shard", "1/2")["shards_of_this_part"] == 1
    done = run(*asked, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["images"] == told["images"]
    assert len(list((out / "shards").iterdir())) == told["shards"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert dry(*asked)["continues"] and {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_tars_at_urls_are_not_read(tiny_name: str, tmp_path: Path) -> None:
    asked = ("explain", "memory://none/{0..2}.tar", "-m", tiny_name, "-t", "a dog", "-o", tmp_path / "out")
    told = dry(*asked)
    assert (told["images"], told["tars_at_urls"], told["batches"], told["shards"]) == (None, 3, None, 3)


def test_eval(folder: Path, tiny_name: str, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out"
    asked = eval_command(folder, tiny_name, out)
    told = dry(*asked, "--every", 2)
    assert (told["methods"], told["models"], told["protocol"]) == (["itsm", "surgery"], [tiny_name], "explain-v1")
    assert not out.exists()
    done = run(*asked, "--every", 2, "--json")
    results = json.loads(done.stdout)
    assert told["images"] == results["data"]["images"]
    assert told["batches_per_model"] == len(list((out / "parts").rglob("*.npz")))
    assert dry(*asked)["continues"] and dry(*asked)["images"] > told["images"]
    assert dry(*asked, "--batch-size", 3, "--shard", "1/2")["batches_of_this_part"] == 1
    assert "shard must be I/N" in run(*asked, "--shard", "2/2", "--dry-run").stderr
    lost = run("eval", "folder", "--root", tmp_path / "none", "--dry-run")
    assert lost.exit_code == 1 and "no such folder" in lost.stderr


@pytest.mark.parametrize("more", [(), ("--limit", 7)])
def test_train(more: tuple[object, ...], pairs: Path, tiny_name: str, tmp_path: Path) -> None:  # noqa: F811
    asked = ("train", "--train-data", pairs, "--model", tiny_name, *QUICK, *more, "-o", tmp_path / "head")
    told = dry(*asked)
    assert not (tmp_path / "head").exists()
    record = json.loads(run(*asked, "--json").stdout)
    assert (told["pairs"], told["steps"], told["epochs"]) == (record["pairs"], record["steps"], record["epochs"])
    large = run(*asked[:-2], "--batch-size", 256, "-o", tmp_path / "other", "--dry-run")
    assert large.exit_code == 2 and "batch_size=256 exceeds the number of pairs" in large.stderr
    refused = run(*asked, "--dry-run")
    assert refused.exit_code == 2 and "already contains a run" in refused.stderr
