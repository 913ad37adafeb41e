"""Atomic writes, the cache folder, and the hash of weights."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import IO

import pytest
import torch

from eclip import files
from eclip.errors import ResultError
from eclip.files import cache_folder, hash_weights, replace_file


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    replace_file(path, b"first")
    assert path.read_bytes() == b"first" and path.stat().st_mode & 0o777 == 0o644
    before = os.umask(0o077)
    replace_file(path, b"private")
    os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    replace_file(path, lambda file: file.writelines([b"sec", b"ond"]))
    assert path.read_bytes() == b"second"

    def broken(file: IO[bytes]) -> None:
        file.write(b"thi")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        replace_file(path, broken)
    assert path.read_bytes() == b"second" and [*path.parent.iterdir()] == [path]
    with pytest.raises(ResultError, match=r"b\.bin' cannot be written: "):
        replace_file(path / "b.bin", b"below a file")


def test_what_windows_lacks_is_asked_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.peak_mib() > 10
    monkeypatch.setattr(files, "resource", None)
    assert files.peak_mib() is None
    source = Path(files.__file__).parent
    unix = re.compile(r"^\s*import (resource|fcntl)\b", re.MULTILINE)
    assert [path.name for path in source.rglob("*.py") if unix.search(path.read_text(encoding="utf-8"))] == ["files.py"]


def test_the_cache_lies_where_the_machine_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("texts") == tmp_path / "eclip" / "texts"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder("texts") == Path.home() / ".cache" / "eclip" / "texts"


def test_weights_are_hashed_with_their_names_and_all_their_bits() -> None:
    weights = {"a": torch.tensor([[1.0, -0.0]]).T, "b": torch.tensor([1.5], dtype=torch.bfloat16)}
    wanted = hashlib.sha256(b"before" + b"a" + weights["a"].numpy().tobytes() + b"b" + bytes([0xC0, 0x3F]))
    assert hash_weights(weights.items(), before=b"before").hexdigest() == wanted.hexdigest()
    weights["a"] = torch.tensor([[1.0], [0.0]])
    assert hash_weights(weights.items(), before=b"before").hexdigest() != wanted.hexdigest()
