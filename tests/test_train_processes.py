"""Training in separate processes: two under torchrun equal one and close in order; a killed run resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import shapes
from eclip.backbones.head import load_head
from eclip.errors import TrainingError
from eclip.training.config import TrainConfig
from eclip.training.distributed import joined
from eclip.training.log import FILE, events
from eclip.training.run import train

pytestmark = pytest.mark.long
SCRIPT = """
import json, os, sys, time
import torch
from eclip.training.run import train
from eclip.training.config import TrainConfig

torch.set_num_threads(1)
rank, runs = int(os.environ.get("RANK", 0)), json.loads(sys.argv[1])
own = "RANK" in os.environ and len(runs) > 1
if own:
    torch.distributed.init_process_group("gloo")
    callers = torch.distributed.group.WORLD
    used = callers._get_sequence_number_for_group()

def check_closed():
    tasks = os.listdir("/proc/self/task") if sys.platform == "linux" else ()
    names = [open(f"/proc/self/task/{task}/comm").read() for task in tasks]
    assert not tasks or sum("gloo_runloop" in name for name in names) == 2 * own, names  # the caller's group has two
    assert not own or callers._get_sequence_number_for_group() == used, "nothing of ours ran in the caller's group"

for wanted in runs:
    step, number = wanted.pop("kill", (0, 0))
    whom = wanted.pop("whom", "itself")
    resume = wanted.pop("resume", False)

    def on_progress(what, done, of, word):
        if (what, done) == ("training", step):  # only the first process tells
            os.kill(os.getpid() if whom == "itself" else os.getppid(), number)
            time.sleep(0 if whom == "itself" else 1)

    try:
        train(TrainConfig(**wanted), resume=resume, on_progress=on_progress)
    except SystemExit as stopped:
        check_closed()  # while the error is there
        sys.stdout.write(f"rank {rank} stopped with {stopped.code}\\n")  # at once: two processes write here
    except KeyboardInterrupt as stopped:
        check_closed()
        sys.stdout.write(f"rank {rank} interrupted\\n")
    check_closed()
if own:
    del callers
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(*runs: dict[str, Any], launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Train one after the other in a process of its own, or in two."""
    script = Path(runs[0]["out"]).parent / "run.py"
    script.write_text(SCRIPT)
    words = [sys.executable, "-W", "ignore", *launcher, str(script), json.dumps(runs)]
    alone = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    alone |= {"OMP_NUM_THREADS": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=alone, start_new_session=True, **pipes) as process:
        try:
            said = process.communicate(timeout=300)
            return subprocess.CompletedProcess(words, process.returncode, *said)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


JOINING = """
import sys
import torch
import torch.distributed as dist
from eclip.errors import TrainingError
from eclip.training import distributed
from eclip.training.distributed import joined

rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
before = dist.distributed_c10d._world.pg_map.copy()
used = dist.group.WORLD._get_sequence_number_for_group()
with joined("cpu") as place:
    print(place)
    weight, only_one = torch.full((2, 3), 1.0 + rank, requires_grad=True), torch.tensor(float(rank))
    distributed.begin_alike([weight, only_one])
    assert weight.tolist() == [[1.0] * 3] * 2 and only_one == 0, "as the first"
    parts = [torch.full((3,), 1.0 + rank), torch.full((2, 2), 10.0 * rank)]
    distributed.add_up(parts)
    assert [part.tolist() for part in parts] == [[3.0] * 3, [[10.0] * 2] * 2]
    assert distributed.gathered(torch.tensor([[rank]])).tolist() == [[0], [1]] and distributed.place() == (rank, 2)
    assert distributed.largest(rank + 5, "cpu") == 6 and distributed.everyones({rank: "x"}) == {0: "x", 1: "x"}
assert dist.distributed_c10d._world.pg_map == before and distributed.place() == (0, 1)
assert dist.group.WORLD._get_sequence_number_for_group() == used, "nothing of ours ran in the caller's group"
del before
try:
    with joined("cpu"):
        if rank:
            raise ValueError("of this one alone")
        distributed.wait("cpu")
except (ValueError, TrainingError) as error:
    print(error)
dist.barrier()  # the caller's group is as good as before
dist.destroy_process_group()
"""


def test_a_group_that_torchrun_did_not_make_is_used_too_and_an_error_of_one_is_told_to_all(tmp_path: Path) -> None:
    alone = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    words = [sys.executable, "-W", "ignore", "-c", JOINING, str(tmp_path / "store")]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*words, str(rank)], env=alone, **pipes) for rank in (0, 1)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    (first, told), (second, own) = (out.splitlines() for out, _ in said)
    assert (first, second) == ("(0, 2, 'cpu')", "(1, 2, 'cpu')")
    assert own == "of this one alone"
    assert told.startswith("process 0 of 2 lost contact with the others (")
    assert told.endswith("). If another process failed first, its error is the cause.")


def test_a_process_that_fails_while_others_still_connect_is_told_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen under load: the other was through, failed and closed its end before this one had connected."""

    def new_group(**_: Any) -> None:
        raise dist.DistBackendError("Gloo connectFullMesh failed with [...]\nand more")

    told = {"is_initialized": True, "get_backend_config": "cpu:gloo", "get_rank": 0, "get_world_size": 2}
    for name, value in told.items():
        monkeypatch.setattr(dist, name, lambda value=value: value)
    monkeypatch.setattr(dist, "new_group", new_group)
    lost = r"process 0 of 2 lost contact .*connectFullMesh failed with \[\.\.\.\]\)\. If"
    with pytest.raises(TrainingError, match=lost), joined("cpu"):
        raise AssertionError("it never joined")


@pytest.fixture
def config(tiny_name: str, tmp_path: Path) -> TrainConfig:
    data = shapes.write_pairs(tmp_path / "data", each=2)
    (data / "005.png").write_bytes((data / "005.png").read_bytes()[:50])
    return TrainConfig(
        train_data=(str(data),),
        out=str(tmp_path / "out"),
        model=tiny_name,
        guide="centre",
        texts="captions",
        form="soft",
        hidden=4,
        text=True,
        learn_scale=True,
        epochs=2,
        batch_size=8,
        lr=0.02,
        warmup=2,
        checkpoint_every=2,
        cache=str(tmp_path / "cache"),
        device="cpu",
    )


def log(folder: str) -> list[dict[str, Any]]:
    """Without what differs from run to run; versions are those of what a process happens to have imported."""
    apart = ("seconds", "peak_mib", "config", "versions")
    return [{key: value for key, value in event.items() if key not in apart} for event in events(Path(folder) / FILE)]


def losses(folder: str) -> list[float]:
    return [event["loss"] for event in log(folder) if event["event"] == "step"]


def test_two_processes_train_as_one(config: TrainConfig, tmp_path: Path) -> None:
    """From the cache that both fill, streamed, in parts, stopped by a signal to one of them and resumed; on words."""

    def two(out: str, **options: Any) -> dict[str, Any]:
        return {**asdict(config), "out": str(tmp_path / out), "cache": str(tmp_path / "two"), **options}

    stopped = two("stopped", accum_freq=2)
    named = str(shapes.write_named(tmp_path / "named", each=4))
    worded: dict[str, Any] = {"texts": "words", "form": "similarity_smooth", "train_data": (named,)}
    done = run(
        two("cached"),
        two("streamed", stream=True),
        two("worded", **worded),
        {**stopped, "kill": (3, signal.SIGTERM)},
        {**stopped, "resume": True},
        launcher=TWO,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"rank {rank} stopped with {128 + signal.SIGTERM}" for rank in (0, 1)]
    train(config)
    streamed = replace(config, out=str(tmp_path / "alone"), stream=True)
    train(streamed)
    words = replace(config, out=str(tmp_path / "words"), accum_freq=2, **worded)
    train(words)
    assert len(losses(words.out)) == 12 and losses(words.out)[-1] > 0.1
    assert len(losses(config.out)) == 4 and len(losses(streamed.out)) == 6, "the bad image is known before, or not"
    pairs = {"cached": config.out, "stopped": config.out, "streamed": streamed.out, "worded": words.out}
    for out, alone in pairs.items():
        folder = str(tmp_path / out)
        assert losses(folder) == pytest.approx(losses(alone), rel=1e-5)
        first, second = (load_head(head).state_dict() for head in (folder, alone))
        for key, value in first.items():
            torch.testing.assert_close(value, second[key], rtol=0, atol=1e-5)
        bad = [event for event in log(folder) if event["event"] == "bad"]
        names = [] if out == "worded" else ["005.png"]
        assert [Path(event["key"]).name for event in bad] == names, "once, whoever of them looked at it"
        assert [event["event"] for event in log(folder)][-1] == "epoch"
    scales = [torch.load(tmp_path / out / "checkpoint.pt")["state"]["pooled"]["log_scale"] for out in ("cached", "out")]
    torch.testing.assert_close(scales[0], scales[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_torchrun_that_is_stopped_stops_all_with_a_checkpoint_and_no_thread_left(
    config: TrainConfig, tmp_path: Path, number: int
) -> None:
    """The group that the run makes itself under torchrun, which passes signals on."""
    whole, stopped = (replace(config, out=str(tmp_path / out)) for out in ("whole", "stopped"))
    done = run({**asdict(stopped), "kill": (2, number), "whom": "torchrun"}, launcher=TWO)
    assert done.returncode != 0, "torchrun says that it was stopped"
    provenance = "interrupted" if number == signal.SIGINT else f"stopped with {128 + number}"
    assert sorted(done.stdout.splitlines()) == [f"rank {rank} {provenance}" for rank in (0, 1)], done.stderr
    assert "terminate called" not in done.stderr and "AssertionError" not in done.stderr
    last = log(stopped.out)[-1]
    assert (last["event"], last["signal"]) == ("stopped", signal.Signals(number).name) and last["step"] < 4
    assert torch.load(Path(stopped.out) / "checkpoint.pt")["step"] == last["step"]
    train(whole)
    train(stopped, resume=True)
    assert losses(stopped.out) == pytest.approx(losses(whole.out), rel=1e-5)


def test_killed_between_two_checkpoints_and_resumed_is_uninterrupted_to_the_bit(
    config: TrainConfig, tmp_path: Path
) -> None:
    killed = replace(config, out=str(tmp_path / "killed"))
    done = run({**asdict(killed), "kill": (3, signal.SIGKILL)})
    assert done.returncode == -signal.SIGKILL and len(losses(killed.out)) == 3, done.stderr
    assert torch.load(Path(killed.out) / "checkpoint.pt")["step"] == 2
    heads = [train(killed, resume=True).state_dict(), train(config).state_dict(), load_head(killed.out).state_dict()]
    for key, value in heads[1].items():
        assert torch.equal(heads[0][key], value) and torch.equal(heads[2][key], value)
    assert log(killed.out) == log(config.out)
