"""Shell commands that repeat a result, for its record."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eclip.backbones.catalog import BESIDE


def command(sources: Sequence[str], texts: Sequence[str], provenance: dict[str, Any]) -> str:
    """The shell command that repeats an explanation; `provenance` is that of an Explanation."""
    words = [
        "eclip",
        "explain",
        *question(sources, texts),
        "--model",
        provenance["model"],
        "--method",
        provenance["method"],
    ]
    words += [
        *_head(provenance["head"], provenance["method"]),
        *settings(provenance),
        *_given("--set", provenance["options"]),
    ]
    words += ["--no-health"] if provenance["health"] is None else []
    return shlex.join(words)


def compare_command(sources: Sequence[str], texts: Sequence[str], provenance: dict[str, Any]) -> str:
    """The shell command that repeats a comparison; `provenance` is that of a Comparison's manifest."""
    methods = provenance["methods"] if isinstance(provenance["methods"], str) else ",".join(provenance["methods"])
    words = [
        "eclip",
        "compare",
        *question(sources, texts),
        "--models",
        ",".join(provenance["models"]),
        "--methods",
        methods,
    ]
    for model in provenance["models"].values():  # where one has a named head, it stands alone
        words += _head(model["head"], provenance["methods"])
    return shlex.join([*words, "--scale", provenance["scale"], *settings(provenance)])


def eval_command(data: str, root: Path | str | None, provenance: dict[str, Any], head: str | None) -> str:
    """The shell command that repeats an evaluation of named data and models.

    Args:
        data: name of the data set.
        root: where it lies, if that was told.
        provenance: the question, as its results hold it.
        head: as it was named, if it was.
    """
    asked, methods = provenance["data"], provenance["methods"]
    words = ["eclip", "eval", data, *([] if root is None else ["--root", str(root)])]
    for key, usual in (("split", None), ("every", 1), ("limit", None)):
        words += [] if asked[key] == usual else [f"--{key}", str(asked[key])]
    words += ["--methods", ",".join(methods), "--models", ",".join(provenance["models"])]
    words += ["--protocol", provenance["protocol"]["name"], *([] if head is None else [f"--head={head}"])]
    for method, options in methods.items():
        words += _given("--set", options, f"{method}.")
    words += _refined(provenance)
    device = next(iter(provenance["models"].values()))["device"]
    return shlex.join([*words, "--batch-size", str(provenance["batch_size"]), "--device", device])


def question(sources: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Images and texts as words of a shell command."""
    words = [f"./{source}" if source.startswith("-") else source for source in sources]
    for text in texts:
        words += [f"--text={text}"] if text.startswith("-") else ["-t", text]
    return words


def settings(provenance: dict[str, Any]) -> list[str]:
    """What all questions share, as words of a command."""
    words = ["--resize", provenance["resize"], "--positions", provenance["positions"], "--device", provenance["device"]]
    if provenance["image_size"] is not None:
        words += ["--image-size", str(provenance["image_size"])]
    words += _refined(provenance)
    if provenance.get("versus") is not None:
        words += [f"--versus={provenance['versus']}"]
    for template in [provenance["templates"]] if isinstance(provenance["templates"], str) else provenance["templates"]:
        words += ["--template", template]
    return words


def _refined(provenance: dict[str, Any]) -> list[str]:
    if provenance.get("refine") is None:
        return []
    return ["--refine", provenance["refine"], *_given("--refine-set", provenance["refine_options"])]


def _given(flag: str, options: dict[str, Any], owner: str = "") -> list[str]:
    return [word for key, value in options.items() for word in (flag, f"{owner}{key}={value}")]


def was_named(place: str | None) -> bool:
    """Whether a head, by its place in a result's record, is one that a command must name; that of a model need not."""
    return place not in (None, BESIDE)


def _head(place: str | None, methods: str | Sequence[str]) -> list[str]:
    """The head as words of a command, where one was named and a method reads it."""
    reads = methods in ("all", "fast") or "eclip" in ([methods] if isinstance(methods, str) else methods)
    return [f"--head={place}"] if reads and was_named(place) else []
