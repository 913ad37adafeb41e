"""Options as users write them from memory: a flag with a value, the plural, another program's name.

A flag followed by a word for yes or no is accepted. For an unknown option, one sentence suggests the right one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from eclip.cli.errors import report_errors
from eclip.cli.options import FOLDER_NAMED, FORMAT_NAMED

YES, NO = ("true", "yes", "on"), ("false", "no", "off")
CALLED_OTHERWISE = {
    "--out": ("--output", "--out-dir", "--outdir", "--output-dir", "--outfile", "--save", "--to"),
    "--device": ("--gpu", "--cuda", "--cpu"),
    "--image-size": ("--size", "--resolution", "--img-size", "--imgsz"),
    "--batch-size": ("--batch", "--bs"),
    "--model": ("--backbone", "--arch", "--architecture", "--checkpoint", "--pretrained", "--weights"),
    "--models": ("--model", "--backbone", "--arch", "--checkpoint", "--pretrained", "-m"),
    "--text": ("--texts", "--prompt", "--prompts", "--label", "--labels", "--class", "-c", "--caption", "--query"),
    "--class": ("--text", "--texts", "-t", "--prompt", "--prompts", "--label", "--labels"),
    "--refine": ("--refinement", "--refinements"),
    "--train-data": ("--data", "--dataset", "--train", "--captions"),
    "--method": ("--explainer",),
    "--overwrite": ("--force", "--exist-ok", "-f"),
    "--logit-scale": ("--scale", "--temperature"),
    "--limit": ("--max-images", "--num-samples", "-n"),
}
"""Each option, and its names elsewhere; plural, singular and underscores are found without this list."""
SAME: dict[str, str | tuple[str, ...]] = {
    "--methods": "--method",
    "--method": "--methods",
    "--models": "--model",
    "--model": "--models",
    "-m": "--models",
    "--texts": ("--texts-file", "--train-texts"),
    "--classes-file": "--classes",
    "--templates": "--template",
    "--formats": "--format",
}
"""A name that a command may not have, and the option that is meant there, or those of which a command has one."""
HOW = {
    "--method": "--method NAME, one method",
    "--methods": "--methods NAME,NAME, separated by commas",
    "--model": "--model NAME, one model",
    "--models": "--models NAME,NAME, separated by commas",
    "--text": '-t "a dog", once for each text, or --texts-file FILE with one text per line',
    "--class": "-c dog, once for each class, or --classes FILE with one class per line",
    "--device": "--device cpu, cuda or cuda:N",
    "--format": "--format png,npz,json, any of them, separated by commas",
    "--template": '--template "a photo of a {}", once for each template',
}
WITHOUT = {
    ("words", "--template"): "each word of a text has its own relevance, so write the whole sentence as the text, such "
    'as -t "a photo of a dog"',
    ("words", "--like"): 'an example has no words, so write a text, such as -t "a dog", or use `eclip explain --like`',
    ("concepts", "--like"): "concepts are found without examples; `eclip explain --like` looks for them",
}
"""Options of other commands that have no meaning in a command, and what to do instead."""
SOURCES = ("--image", "--images", "--photo", "--photos", "--source", "--sources", "--input", "--file", "-i")
DATA_SETS = ("--dataset", "--data", "--data-set", "--datasets", "-d")

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""UsageError of click, or of the copy of it that newer versions of typer bring."""


class Command(TyperCommand):
    """A command that reports our errors and understands common mistakes in its options."""

    def invoke(self, ctx: Any) -> Any:
        """Like click's, but our errors become one message and an exit code."""
        with report_errors():
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Like click's, but accepts flags with a value, and suggests an option in place of an unknown one."""
        try:
            with report_errors():  # of a configuration
                rest = super().parse_args(ctx, self._switched(self._renamed(args)))
            if ctx.params.get("quiet") and ctx.params.get("verbose"):
                raise USAGE_ERROR("--quiet and --verbose exclude each other: leave one of them out.", ctx)
            for name, named in (("out", FOLDER_NAMED), ("format_", FORMAT_NAMED)):
                source = ctx.get_parameter_source(name)
                named.set(source is None or source.name != "DEFAULT")
            return rest
        except USAGE_ERROR as error:
            given = getattr(error, "option_name", None)
            if hasattr(error, "possibilities") and isinstance(given, str) and (way := self._way(given)):
                error.possibilities = None
                error.message = f"There is no option {given}: {way}."
            raise

    def _renamed(self, args: list[str]) -> list[str]:
        """The arguments with the option of this command in place of the name it has in others."""
        known = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        ways = {
            name: right
            for name, meant in SAME.items()
            for right in ((meant,) if isinstance(meant, str) else meant)
            if name not in known and right in known
        }
        read: list[str] = []
        for place, arg in enumerate(args):
            if arg == "--":
                return [*read, *args[place:]]
            name, equals, value = arg.partition("=")
            read.append(f"{ways[name]}{equals}{value}" if name in ways else arg)
        return read

    def _switched(self, args: list[str]) -> list[str]:
        """The arguments with each `--switch true` and `--switch=false` replaced by the flag or its opposite."""
        switches = {
            name: (param.secondary_opts if name in param.opts else param.opts)
            for param in self.params
            if getattr(param, "is_flag", False)
            for name in (*param.opts, *param.secondary_opts)
        }
        read: list[str] = []
        words = iter(range(len(args)))
        for place in words:
            name, equals, word = args[place].partition("=")
            if args[place] == "--":
                return [*read, *args[place:]]
            if name not in switches:
                read.append(args[place])
                continue
            if not equals and place + 1 < len(args) and _is_yes_or_no(args[place + 1]):
                word = args[next(words)]
            if word.casefold() in (*NO, "0"):
                read += switches[name][:1]
            elif word.casefold() in ("", *YES, "1") and not (equals and not word):
                read.append(name)
            else:
                read.append(args[place])
        return read

    def _way(self, given: str) -> str:
        """What to write instead of an unknown option; "" if there is no suggestion."""
        known = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        spelled = given.replace("_", "-")
        if instead := WITHOUT.get((self.name or "", spelled.removesuffix("s"))):
            return instead
        elsewhere = [name for name, others in CALLED_OTHERWISE.items() if spelled in others]
        likely = (spelled, f"{spelled}s", spelled.removesuffix("s"), *elsewhere)
        if right := next((name for name in likely if name in known), None):
            several = self.name == "explain" and right in ("--method", "--model") and spelled == f"{right}s"
            more = f"; to compare several, use `eclip compare {spelled} NAME,NAME`" if several else ""
            return f"write {HOW.get(right, right)}{more}"
        arguments = {param.name for param in self.params if param.param_type_name == "argument"}
        if spelled in SOURCES and "sources" in arguments:
            return f"images are positional arguments, as in `eclip {self.name} dog.jpg`"
        if spelled in DATA_SETS and "data" in arguments:
            return f"the data set is a positional argument, as in `eclip {self.name} voc2012`"
        return ""


def _is_yes_or_no(word: str) -> bool:
    return word.casefold() in (*YES, *NO) and not Path(word).exists()


def forgiving(app: typer.Typer) -> None:
    """Make the app's commands report our errors and understand common mistakes."""
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            forgiving(group.typer_instance)
