"""An entry of a registry: its file, its function, its options."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from eclip.errors import DeviceError, OptionError, UnknownNameError
from eclip.guides import GUIDES
from eclip.methods import METHODS
from eclip.metrics import METRICS
from eclip.refinements import REFINEMENTS
from eclip.registry import Entry, entry_of, one_of
from eclip.words import WORD_METHODS

REGISTRIES = (METHODS, METRICS, REFINEMENTS, GUIDES, WORD_METHODS)


@pytest.mark.parametrize("entries", REGISTRIES, ids=lambda one: type(next(iter(one.values()))).__name__)
def test_each_entry_has_its_function_in_its_file(entries: dict[str, Entry[object]]) -> None:
    for name, one in entries.items():
        assert one.name == name and one.summary.endswith(".")
        assert one.function.__name__ == name.replace("+", "_plus")
        assert one.module.__name__ == one.function.__module__ == f"{type(one).__module__}.{one.file}"
        with pytest.raises(OptionError, match=rf"{name!r} has no option 'no_such'".replace("+", r"\+")):
            one.check({"no_such": 1})


def test_options_come_back_as_pythons_own() -> None:
    assert METHODS["surgery"].check({}) == {}
    checked = METHODS["surgery"].check({"depth": np.int64(2)})
    assert checked == {"depth": 2} and type(checked["depth"]) is int


def test_no_options_are_checked_without_the_function() -> None:
    code = "import sys, eclip; [eclip.METHODS['gem'].check({}), eclip.REFINEMENTS['pamr'].check({})]"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, check=True
    )
    assert done.stdout.split() == [b"False"]


def test_entry_of_names_the_nearest() -> None:
    assert entry_of("gem", METHODS, "method", "`eclip methods ls`") is METHODS["gem"]
    with pytest.raises(UnknownNameError, match=r"unknown method 'gme'. Did you mean 'gem'\? `eclip methods ls` shows"):
        entry_of("gme", METHODS, "method", "`eclip methods ls`")


def test_one_of_says_what_there_is() -> None:
    assert one_of("b", "letter", ("a", "b")) == "b"
    with pytest.raises(OptionError, match="letter must be one of a, b, got 'c'"):
        one_of("c", "letter", ("a", "b"))
    with pytest.raises(DeviceError, match="letter must be one of a, b, got 1"):
        one_of(1, "letter", {"a": 0, "b": 0}, DeviceError)
