"""Shell commands that repeat a result, for its provenance: the parts they share, and `eclip eval`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eclip.backbones.catalog import BESIDE


def inputs(
    sources: Sequence[str], texts: Sequence[str] = (), provenance: Mapping[str, Any] = MappingProxyType({})
) -> list[str]:
    """Images, texts and examples as arguments of a shell command."""
    words = [f"./{source}" if source.startswith("-") else source for source in sources]
    examples = provenance.get("examples", {})
    for text in texts:
        if text in examples:
            words += [f"--like={examples[text]['like']}"]
        else:
            words += [f"--text={text}"] if text.startswith("-") else ["-t", text]
    means = dict.fromkeys(one["image_mean"] for one in examples.values() if one["image_mean"] is not None)
    return [*words, *(f"--image-mean={mean}" for mean in means)]


def options(flag: str, values: dict[str, Any]) -> list[str]:
    """Options of a method or refinement as arguments of a command."""
    return [word for key, value in values.items() for word in (flag, f"{key}={value}")]


def settings(provenance: dict[str, Any]) -> list[str]:
    """The settings that all queries share, as arguments of a command."""
    words = ["--resize", provenance["resize"], "--positions", provenance["positions"], "--device", provenance["device"]]
    words += [] if provenance["image_size"] is None else ["--image-size", str(provenance["image_size"])]
    if provenance.get("refine") is not None:
        words += ["--refine", provenance["refine"], *options("--refine-set", provenance["refine_options"])]
    words += [] if provenance.get("versus") is None else [f"--versus={provenance['versus']}"]
    templates = provenance.get("templates", ())
    for template in [templates] if isinstance(templates, str) else templates:
        words += ["--template", template]
    return words


def was_named(place: str | None) -> bool:
    """Whether a command must name the head recorded in a provenance; a model's own head needs no name."""
    return place not in (None, BESIDE)


def head(place: str | None, methods: str | Sequence[str]) -> list[str]:
    """The head as arguments of a command, if one was given and a method uses it."""
    reads = methods in ("all", "fast") or "eclip" in ([methods] if isinstance(methods, str) else methods)
    return [f"--head={place}"] if reads and was_named(place) else []


def eval_command(data: str, root: Path | str | None, provenance: dict[str, Any], head: str | None = None) -> str:
    """The shell command that repeats an evaluation of named data and models; root and head as they were given."""
    given, methods = provenance["data"], provenance["methods"]
    words = ["eclip", "eval", data, *([] if root is None else ["--root", str(root)])]
    for key, usual in (("split", None), ("every", 1), ("limit", None)):
        words += [] if given[key] == usual else [f"--{key}", str(given[key])]
    words += ["--methods", ",".join(methods), "--models", ",".join(provenance["models"])]
    words += ["--protocol", provenance["protocol"]["name"], *([] if head is None else [f"--head={head}"])]
    for method, values in methods.items():
        words += options("--set", {f"{method}.{key}": value for key, value in values.items()})
    if provenance["refine"] is not None:
        words += ["--refine", provenance["refine"], *options("--refine-set", provenance["refine_options"])]
    device = next(iter(provenance["models"].values()))["device"]
    return shlex.join([*words, "--batch-size", str(provenance["batch_size"]), "--device", device])
