"""Fixtures for all tests, and what holds in each of their processes.

No `import eclip` up here: jaxtyping's hook must see it first.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.testing

import shape_checks

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: workers share the cores, and tiny models need no more
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # shells start background processes like this; tests send the signal to themselves and to their children
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_command_line() -> Any:
    """typer's runner builds all commands of an app anew for each call; here they are built once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Any:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # one for all workers
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "lean"), prepend=os.pathsep)  # for children alone
        yield


FIRST = (
    "test_stream.py",
    "test_doc_blocks.py",
    "test_notebooks.py",
    "test_train_processes.py",
    "test_page.py",
    "test_hub.py",
    "test_evaluate.py",
    "test_methods.py",
    "test_doors.py",
    "test_health.py",
)
"""Files that take long: at the end, one worker would run them while the others wait."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all", action="store_true", help="run the tests marked `long` too; files that are named always run whole"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Files and tests that are named run whole. Workers get the arguments as they were given."""
    if config.args_source is config.ArgsSource.ARGS:
        config.option.all = True
    if config.option.all:
        shape_checks.install()


def pytest_report_header(config: pytest.Config) -> str:
    return "long tests: " + ("all of them" if config.option.all else "left out (--all or `make test-all` runs them)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out long tests unless all are asked for, and put the files of `FIRST` first, in their order.

    Of a test with `long(every=N)`, which has many similar cases, every Nth case always runs.
    """
    if not config.option.all:
        cases = Counter[tuple[Path, str]]()
        out = [
            item for item in items if (mark := item.get_closest_marker("long")) and not _is_sample(item, mark, cases)
        ]
        gone = set(map(id, out))
        items[:] = [item for item in items if id(item) not in gone]
        config.hook.pytest_deselected(items=out)
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


def _is_sample(item: pytest.Item, mark: pytest.Mark, cases: Counter[tuple[Path, str]]) -> bool:
    if "every" not in mark.kwargs:
        return False
    number = cases[case := (item.path, item.name.partition("[")[0])]
    cases[case] += 1
    return bool(number % mark.kwargs["every"] == 0)


NOWHERE = 9
"""A port of this machine where nobody listens: the proxy of all processes that tests start."""


@pytest.fixture(scope="session")
def _outside() -> Any:
    """Attempts of this process to reach another machine, all refused; its children get a proxy that refuses them."""
    tried: list[str] = []
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(host: object, port: object) -> None:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in (None, "", "localhost", "::1", socket.gethostname()) and not str(name).startswith("127."):
            tried.append(f"{name}:{port}")
        elif port == NOWHERE:
            tried.append("another machine, by the proxy")
        else:
            return
        raise OSError(f"tests stay on this machine, and something asked for {tried[-1]}")

    def checked(method: Any) -> Any:
        def connecting(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                check(address[0], address[1])
            return method(self, address)

        return connecting

    def looking_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        check(host, port)
        return look_up(host, port, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            patch.setenv(name, f"http://127.0.0.1:{NOWHERE}")
            patch.setenv(name.lower(), f"http://127.0.0.1:{NOWHERE}")
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "localhost,127.0.0.1,::1")
        patch.setattr(socket.socket, "connect", checked(connect))
        patch.setattr(socket.socket, "connect_ex", checked(connect_ex))
        patch.setattr(socket, "getaddrinfo", looking_up)
        yield tried


@pytest.fixture(autouse=True)
def _stays_here(_outside: list[str]) -> Any:
    """No test reaches another machine, not even if the attempt is caught and becomes an error message."""
    yield
    tried = list(_outside)
    _outside.clear()
    assert not tried, f"the test asked for {tried}"


@pytest.fixture(scope="session", autouse=True)
def _shared_models_are_only_read() -> Any:
    yield
    if tiny := sys.modules.get("tiny"):
        assert not (names := tiny.changed()), f"a test changed a model that others read: {names}"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT with random weights in a model folder of open_clip, for `local-dir:`."""
    from safetensors.torch import save_file

    import tiny

    folder = tmp_path_factory.mktemp("tiny")
    config = {
        "model_cfg": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": tiny.VIT, "text_cfg": tiny.TEXT},
        "preprocess_cfg": {"mean": tiny.MEAN, "std": tiny.STD, "interpolation": "bicubic"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(tiny.model("vit").state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_name(tiny_folder: Path) -> str:
    return f"local-dir:{tiny_folder}"


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small images, a.png and b.jpg."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(("a.png", "b.jpg")):
        values = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / name)
    return folder


@pytest.fixture
def shapes_unchecked() -> Any:
    """As for users: without jaxtyping and beartype, which would refuse wrong shapes before eclip does."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
