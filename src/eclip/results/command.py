"""Shell commands that repeat a result, for its record."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eclip.backbones.catalog import BESIDE


def command(sources: Sequence[str], texts: Sequence[str], how: dict[str, Any]) -> str:
    """The shell command that repeats an explanation; `how` is that of an Explanation."""
    words = ["eclip", "explain", *question(sources, texts), "--model", how["model"], "--method", how["method"]]
    words += [*_head(how["head"], how["method"]), *settings(how), *_given("--set", how["options"])]
    words += ["--no-health"] if how["health"] is None else []
    return shlex.join(words)


def compare_command(sources: Sequence[str], texts: Sequence[str], how: dict[str, Any]) -> str:
    """The shell command that repeats a comparison; `how` is that of a Comparison's manifest."""
    methods = how["methods"] if isinstance(how["methods"], str) else ",".join(how["methods"])
    words = ["eclip", "compare", *question(sources, texts), "--models", ",".join(how["models"]), "--methods", methods]
    for model in how["models"].values():  # where one has a named head, it stands alone
        words += _head(model["head"], how["methods"])
    return shlex.join([*words, "--scale", how["scale"], *settings(how)])


def eval_command(data: str, root: Path | str | None, how: dict[str, Any], head: str | None) -> str:
    """The shell command that repeats an evaluation of named data and models.

    Args:
        data: name of the data set.
        root: where it lies, if that was told.
        how: the question, as its results hold it.
        head: as it was named, if it was.
    """
    asked, methods = how["data"], how["methods"]
    words = ["eclip", "eval", data, *([] if root is None else ["--root", str(root)])]
    for key, usual in (("split", None), ("every", 1), ("limit", None)):
        words += [] if asked[key] == usual else [f"--{key}", str(asked[key])]
    words += ["--methods", ",".join(methods), "--models", ",".join(how["models"])]
    words += ["--protocol", how["protocol"]["name"], *([] if head is None else [f"--head={head}"])]
    for method, options in methods.items():
        words += _given("--set", options, f"{method}.")
    words += _refined(how)
    device = next(iter(how["models"].values()))["device"]
    return shlex.join([*words, "--batch-size", str(how["batch_size"]), "--device", device])


def question(sources: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Photos and texts as words of a shell command."""
    words = [f"./{source}" if source.startswith("-") else source for source in sources]
    for text in texts:
        words += [f"--text={text}"] if text.startswith("-") else ["-t", text]
    return words


def settings(how: dict[str, Any]) -> list[str]:
    """What all questions share, as words of a command."""
    words = ["--resize", how["resize"], "--positions", how["positions"], "--device", how["device"]]
    if how["image_size"] is not None:
        words += ["--image-size", str(how["image_size"])]
    words += _refined(how)
    if how.get("versus") is not None:
        words += [f"--versus={how['versus']}"]
    for template in [how["templates"]] if isinstance(how["templates"], str) else how["templates"]:
        words += ["--template", template]
    return words


def _refined(how: dict[str, Any]) -> list[str]:
    if how.get("refine") is None:
        return []
    return ["--refine", how["refine"], *_given("--refine-set", how["refine_options"])]


def _given(flag: str, options: dict[str, Any], owner: str = "") -> list[str]:
    return [word for key, value in options.items() for word in (flag, f"{owner}{key}={value}")]


def was_named(place: str | None) -> bool:
    """Whether a head, by its place in a result's record, is one that a command must name; that of a model need not."""
    return place not in (None, BESIDE)


def _head(place: str | None, methods: str | Sequence[str]) -> list[str]:
    """The head as words of a command, where one was named and a method reads it."""
    reads = methods in ("all", "fast") or "eclip" in ([methods] if isinstance(methods, str) else methods)
    return [f"--head={place}"] if reads and was_named(place) else []
